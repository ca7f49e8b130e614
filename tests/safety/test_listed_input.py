"""Inputs that once ended in a traceback, hung or were taken: each has a message of its own and the right status."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlm_ablate.cli.app import app
from vlm_ablate.cli.console import arm_list, seed_list
from vlm_ablate.errors import VlmAblateError

_T03 = str(Path(__file__).parents[2] / "experiments/idefics2/t03_architecture.yaml")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("run", _T03, "--seeds", "0-99999999999"), 2, "'0-99999999999' is no seed"),
        (("run", _T03, "--seeds", "0-5000"), 2, "--seeds 0-5000: more than 1,000 seeds"),
        (("table", _T03, "--home", "a" * 5000), 1, "the name is too long"),
        (("data", "fetch", "--list", "--home", "a" * 300), 1, "the name is too long"),
        (("table", _T03, "--home", "{tmp}", "--tracking-uri", "http://[::1"), 1, "cannot be read: Invalid IPv6 URL"),
        (("table", _T03, "--home", "{tmp}", "--tracking-uri", "http://h:99999"), 1, "Port out of range"),
        (("plan", _T03, "--text-tokens", "99999999999999999"), 2, "Input should be less than or equal to"),
        (("plan", _T03, "--image", "99999999x99999999"), 2, "not a size in pixels"),
        (("plan", _T03, "--mfu", "nan"), 2, "Invalid value for '--mfu'"),
        (("parity", "x", "--tolerance", "inf"), 2, "inf is not a finite number"),
        (("ui", "--port", "70000"), 2, "Input should be less than or equal to"),
        (("list", "--plugin", ".."), 2, "'..' is not the name of a module"),
        (("schema", "--plugin", ""), 2, "'' is not the name of a module"),
        (("data", "build-docmatix", "{tmp}", "-o", "{tmp}/out", "--temperature", "nan"), 1, "temperature must be"),
        (("export", "{tmp}", "{tmp}/out", "--home", "{tmp}"), 2, "unknown run"),
        (("report", "--out", "{tmp}/out", "--home", "{tmp}", "--scale", "\udcff"), 2, "'\\udcff' is no line of text"),
        (("new", "a\nb"), 2, "NAME 'a\\nb' is no line of text"),
    ],
)  # fmt: skip
def test_it_is_refused_with_its_own_message(
    arguments: tuple[str, ...], status: int, message: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, [a.replace("{tmp}", str(tmp_path)) for a in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == status and isinstance(result.exception, SystemExit)
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output and "a fault of" not in result.stderr


@pytest.mark.parametrize("text", ["4294967296", "-1", "1-", "0-x", "9" * 5000, "٣", "1.5", "3-1"])
def test_what_is_no_seed_of_a_random_generator_is_refused(text: str) -> None:
    with pytest.raises(VlmAblateError, match="is no seed"):
        seed_list(text)
    assert seed_list("4294967295") == [4294967295]


@pytest.mark.parametrize("text", ["a\nb", "a" * 200_000])
def test_names_of_arms_that_are_no_line_of_names_are_refused(text: str) -> None:
    with pytest.raises(VlmAblateError, match=r"--arms .* cannot be read"):
        arm_list(text)
