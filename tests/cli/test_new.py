"""`new`: what it writes is valid as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlm_ablate.cli.app import app
from vlm_ablate.config.expand import load_experiment


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["new", *words])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    ("words", "arms"),
    [
        ((), ["latents_8", "latents_4"]),
        (("--factor", "model.connector.depth", "--values", "1,2,3"), ["depth_1", "depth_2", "depth_3"]),
        (("--factor", "stages.pretrain.vision", "--values", "frozen,lora"), ["vision_frozen", "vision_lora"]),
        (("--base", "idefics2/t12_depth"), ["latents_8", "latents_4"]),
    ],
)
def test_what_it_writes_is_valid_and_its_arms_differ_in_the_factor_alone(
    words: tuple[str, ...], arms: list[str]
) -> None:
    command("mine/first", *words)
    loaded = load_experiment("first.yaml", scale="laptop")
    assert list(loaded.arms) == arms and not loaded.warnings
    assert [list(claim.arms) for claim in loaded.experiment.table.claims] == [[arms[0], arms[-1]]]


def test_it_names_what_is_not_known_and_overwrites_nothing() -> None:
    assert "model.connector.latent" in command("first", "--factor", "model.connector.latent", code=2)
    assert "unknown experiment file" in command("first", "--base", "no/such", code=2)
    assert "--values" in command("first", "--factor", "model.connector.projection", code=1)
    assert not Path("first.yaml").exists()
    assert "does not name each value once" in command("first", "--values", "64,64", code=2)
    assert "does not name each value once" in command("first", "--values", ",", code=2)
    assert "first.yaml arms" in command("first", "--values", "64,many", code=2), "not of a file that is gone"
    command("first")
    assert "is there already" in command("first", code=1)
