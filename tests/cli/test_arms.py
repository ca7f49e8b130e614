"""--arms, --seeds and --set mean the same to every command that takes an experiment."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from training.squares import EXECUTION, STAGE, save_parts

from tests.command import call
from vlm_ablate.home import Home
from vlm_ablate.tracking.read import read_records

pytestmark = pytest.mark.usefixtures("in_repository")
T03 = "experiments/idefics2/t03_architecture.yaml"
GATED = ("--set", "model.connector.projection=gated_mlp")
HINT = (
    "hint: --arms restricts a setting to the arms that it fits: "
    "--arms ar_perceiver_frozen,cross_attention_frozen,cross_attention_lora,ar_perceiver_lora,ar_perceiver_full"
)
COMMANDS = (("run",), ("plan",), ("table",), ("data", "show"), ("data", "stats"), ("validate",))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_setting_that_fits_some_arms_names_the_others_and_the_way_out(command: tuple[str, ...]) -> None:
    result = call(*command, T03, *GATED)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "does not fit ar_linear_frozen: unknown key; known here: name, bias, tokens" in result.stderr
    assert HINT in result.stderr.splitlines()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_arm_that_does_not_exist(command: tuple[str, ...]) -> None:
    result = call(*command, T03, "--arms", "ar_percever_lora", *GATED)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "unknown arm 'ar_percever_lora'" in result.stderr and "did you mean 'ar_perceiver_lora'" in result.stderr


@pytest.mark.parametrize("command", ["run", "plan", "table"])
@pytest.mark.parametrize("option", ["--arms", "--seeds"])
def test_a_list_of_nothing_is_refused(command: str, option: str, tmp_path: Path) -> None:
    result = call(command, T03, option, "")
    assert result.exit_code == 2
    assert f"{option} '' names nothing" in result.stderr


def test_plan_and_validate_of_named_arms() -> None:
    result = call("plan", T03, "--arms", "ar_perceiver_lora", "--seeds", "0,1", *GATED)
    assert result.exit_code == 0, result.output
    assert "1 of 6 arms x seeds 0, 1 = 2 runs" in result.stdout
    assert "set by hand: model.connector.projection=gated_mlp" in result.stdout
    assert "ar_linear_frozen" not in result.output, "neither in tables nor in warnings"
    result = call("validate", T03, "--arms", "ar_perceiver_lora", *GATED)
    assert result.exit_code == 0, result.output
    assert "1 of 6 arms at paper, workstation, laptop" in result.stdout


def test_data_of_the_named_arm(tmp_path: Path, offline_material: object) -> None:
    words = (T03, "--arms", "ar_perceiver_lora", "--seeds", "0", "--set", "model.connector.latents=3")
    result = call("data", "show", *words, "-n", "1", "--draw", tmp_path / "seen.png")
    assert result.exit_code == 0, result.output
    assert "<image>×3" in result.stdout


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two arms of two steps on squares: without settings both run, but only one takes `latents`."""
    save_parts(tmp_path)
    perceiver = {"name": "perceiver", "latents": 2, "depth": 1, "heads": 2, "head_dim": 8, "kv_heads": 1}
    experiment = {
        "name": "tests/arms",
        "title": "Arms",
        "plugins": ["training.squares"],
        "seeds": [0, 1],
        "model": {
            "vision": {"name": "siglip-native", "id": str(tmp_path / "vision")},
            "language": {"name": "hf", "id": str(tmp_path / "lm")},
            "connector": "linear",
            "architecture": "autoregressive",
        },
        "data": {"mixture": {"one": {"source": "squares"}}, "image": {"size": 16}, "sequence_length": 64},
        "stages": {"train": STAGE | {"steps": 2}},
        "evaluation": {"benchmarks": {"colour": {"benchmark": "squares"}}, "shots": 1, "blind": False},
        "execution": EXECUTION,
        "arms": {"straight": {"label": "Linear"}, "pooled": {"set": {"model.connector": perceiver}}},
        "table": {"claims": [{"text": "Pooling helps", "better": "pooled", "worse": "straight"}]},
    }
    file = tmp_path / "arms.yaml"
    file.write_text(yaml.safe_dump(experiment, sort_keys=False))
    return file


def test_what_was_run_is_tabled_by_the_same_words(file: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    words = [file, "--scale", "paper", "--arms", "pooled", "--seeds", "0", "--set", "model.connector.latents=3"]
    place = ["--home", home.root]
    summary = home.root / "tables" / "tests/arms" / "paper" / "table.md"

    result = call("run", *words, *place)
    assert result.exit_code == 0, result.output
    assert not summary.exists(), "some arms with settings are not the experiment's table"
    (told,) = re.findall(r"^the table: vlm-ablate (.*)$", result.stdout, re.MULTILINE)
    assert shlex.split(told) == ["table", *map(str, [*words[:5], *words[7:], *place])]
    text = call("table", *words, *place).stdout
    assert re.search(r"^\| pooled \| [\d.]+", text, re.MULTILINE) and "not run" not in text
    assert "**Set by hand:** model.connector.latents=3." in text
    assert "**Arms left out:** Linear." in text and "| Linear |" not in text
    assert "Pooling helps" not in text, "a claim about an arm that is left out"
    assert "| pooled | not run |" in call("table", *words[:5], *place).stdout, "without the setting it was not"

    # Without settings the experiment's table holds what was run of it, whichever arms one command named.
    result = call("run", file, "--scale", "paper", "--arms", "straight", "--seeds", "0", *place)
    assert result.exit_code == 0, result.output
    (told,) = re.findall(r"^the table: vlm-ablate (.*)$", result.stdout, re.MULTILINE)
    assert "--arms" not in told
    text = summary.read_text()
    assert text.startswith(call(*shlex.split(told)).stdout[:200])
    assert "| Linear |" in text and "| pooled | " in text and "Pooling helps" in text
    assert "**Left out:** 1 run in another configuration" in text
    assert {(r.arm, r.seed, r.status) for r in read_records(home.tracking_uri, "tests/arms")} == {
        ("pooled", 0, "finished"), ("straight", 0, "finished")
    }  # fmt: skip


def test_the_table_of_some_seeds_is_about_those(file: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    words = [file, "--scale", "paper", "--arms", "straight", "--home", home.root]
    assert call("run", *words).exit_code == 0
    text = call("table", *words, "--seeds", "1").stdout
    assert "1 seed, so there is no interval" in text
    assert "Left out" not in text and "not run" not in text, "other seeds were not asked for"
    assert "mean over 2 seeds" in call("table", *words).stdout
