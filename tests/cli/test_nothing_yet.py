"""Where nothing was run yet: every command that only reads says so in one line, and writes nothing but a cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.command import call, told

pytestmark = pytest.mark.usefixtures("in_repository", "own_home")
ROOT = Path(__file__).parents[2]
T03 = "idefics2/t03_architecture"
RECORDS = "results/idefics2/t03_architecture/laptop/records.json"
READING: dict[tuple[str, ...], tuple[int, str]] = {
    ("table", T03): (1, "error: nothing was run in HOME hint: run the experiment first: vlm-ablate run "),
    ("table", T03, "--scale", "gpu"): (1, "t03_architecture.yaml --scale gpu"),
    ("table", T03, "--format", "csv", "--out", "FOLDER/t.csv"): (1, "nothing was run in HOME"),
    ("table", T03, "--out", "FOLDER/tables"): (1, "nothing was run in HOME"),
    ("status",): (0, "nothing runs in HOME"),
    ("status", "--json"): (0, '"running": []'),
    ("status", "--hours", "0"): (0, "nothing runs in HOME"),
    ("explain", T03, "--arms", "ar_linear_frozen", "--seeds", "0"): (0, "missing"),
    ("explain", "ar_linear_frozen seed 0"): (2, "unknown run (in HOME/runs) 'ar_linear_frozen seed 0'"),
    ("export", "ar_linear_frozen", "FOLDER/model"): (2, "unknown run (in HOME/runs) 'ar_linear_frozen'"),
    ("ui",): (1, "error: no records yet: HOME/mlflow.db does not exist"),
    ("home", "migrate"): (0, "nothing of version 0.1"),
    ("home", "features"): (0, "0.0 MiB of 0 encoders"),
    ("home", "features", "--clear"): (0, "0.0 MiB removed"),
    ("home", "import", "FOLDER/none.json"): (1, "FOLDER/none.json: cannot be read as a records file"),
    ("home", "import", RECORDS, "FOLDER/none.json"): (1, "FOLDER/none.json: cannot be read as a records file"),
    ("data", "fetch", "--list", "stamps"): (0, "licence"),
    ("reproduce", "--plan", "--experiments", T03): (0, "asked for"),
    ("sweep", "show", "t03_learning_rate"): (1, "t03_learning_rate"),
    ("sweep", "apply", "t03_learning_rate", "FOLDER/tuned.yaml"): (1, "t03_learning_rate"),
}
"""Command line -> its status, and what it says."""
WRONG: dict[tuple[str, ...], str] = {
    ("run", T03, "--seeds", "0-x"): "'0-x' is no seed",
    ("run", T03, "--set", "stages.pretrain.stesp=1"): "stesp",
    ("run", T03, "--arms", ","): "--arms '' names nothing",
    ("evaluate", "some/model", "--benchmarks", ""): "--benchmarks '' names nothing",
    ("evaluate", "some/model", "--benchmarks", " , "): "--benchmarks ' , ' names nothing",
    ("reproduce", "--experiments", ""): "--experiments '' names nothing",
    ("reproduce", "--papers", ","): "--papers ',' names nothing",
    ("new", "x", "--values", ""): "--values '' does not name each value once",
    ("table", T03, "--seeds", " "): "--seeds ' ' names nothing",
    ("plan", T03, "--image", "12"): "not a size in pixels",
}
"""A question that no run answers -> what is said of it."""


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home that is meant where none is named is not there."""
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("VLM_ABLATE_STUDIES", raising=False)


def filled(text: str, folder: Path) -> str:
    return text.replace("HOME", str(folder / "home")).replace("FOLDER", str(folder))


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_command_that_reads_says_what_there_is_and_makes_nothing(words: tuple[str, ...], tmp_path: Path) -> None:
    status, expected = READING[words]
    result = call(*(filled(word, tmp_path) for word in words))
    assert result.exit_code == status, result.output
    said = " ".join(result.stdout.split()) if status == 0 else told(result)
    assert filled(expected, tmp_path) in said and "Traceback" not in result.output
    assert result.stderr.count("error: ") == (status != 0), "one message"
    assert status == 0 or result.stdout == "", "results go to stdout, messages to stderr"
    made = [path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "home" / "cache")]
    assert made in ([], [tmp_path / "home"]), "but a cache, which can be thrown away"


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_a_list_of_nothing_is_not_taken_for_all(words: tuple[str, ...], tmp_path: Path) -> None:
    result = call(*words)
    assert result.exit_code == 2 and WRONG[words] in told(result), result.output
    assert os.listdir(tmp_path) == [] and result.stdout == ""


@pytest.mark.parametrize(
    "words", [("table", T03, "--records", RECORDS, "--out"), ("new", "mine", "--out")], ids=" ".join
)
@pytest.mark.parametrize("name", ["none/such/file.{}", "file/below.{}"])
def test_where_no_file_can_be_written_the_folder_is_named(words: tuple[str, ...], name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / name.format("md" if words[0] == "table" else "yaml")
    result = call(*words, out)
    assert result.exit_code == 1 and result.stderr.startswith("error: ")
    assert str(out.parent) in told(result) and "partial" not in result.stderr
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_asked_for_as_json_is_json_and_nothing_else() -> None:
    for words in (("status", "--json"), ("schema",), ("schema", "scale")):
        result = call(*words)
        assert result.exit_code == 0 and json.loads(result.stdout) and result.stderr == ""


def test_the_run_that_a_table_lacks_is_asked_for_in_the_home_that_was_named(tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert f"t03_architecture.yaml --home {other}" in told(call("table", T03, "--home", other))
