"""Folders of runs that are not whole, or come from elsewhere: one error that names the file, and no code is run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training.squares import make_spec, save_parts

from tests.command import call
from vlm_ablate.errors import StorageError
from vlm_ablate.home import Home
from vlm_ablate.runs.folder import ScoreFolder, StageFolder, run_folder
from vlm_ablate.runs.outcome import note_attempt
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.trust import ALLOW_PLUGINS


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    folder = tmp_path_factory.mktemp("parts")
    save_parts(folder)
    return make_spec(folder, arm="mine")


@pytest.fixture
def home(spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home in which a run was asked for."""
    monkeypatch.delenv(ALLOW_PLUGINS, raising=False)
    home = Home(tmp_path / "home")
    note_attempt(spec, home, "running")
    return home


@pytest.fixture
def sent(spec: RunSpec, home: Home, tmp_path: Path) -> Callable[[str | dict[str, Any]], Path]:
    """A folder of a run as somebody else may send it: the text of its `run.json`, or changes to its parts."""

    def make(said: str | dict[str, Any]) -> Path:
        body = run_folder(home, spec.id).read() or {}
        folder = tmp_path / "sent"
        folder.mkdir()
        text = said if isinstance(said, str) else json.dumps(body | {"spec": body["spec"] | said})
        (folder / "run.json").write_text(text, encoding="latin-1")
        return folder

    return make


@pytest.mark.parametrize("said", [
    "", "[]", "{}", "3", "\xff\xfe", "[" * 5000, '{"spec": 3}', '{"spec": {}, "id": "x", "stages": ["x"]}',
    {"seed": "x"}, {"config": None}, {"config": {}}, {"config": {"model": 3}}, {"seeds": None}, {"plugins": "x"},
    {"plugins": [".."]}, {"plugins": [3]}, {"arm": None}, {"no such": 1},
])  # fmt: skip
def test_a_broken_folder_of_a_run_is_one_error_that_names_its_file(
    home: Home, sent: Callable[[str | dict[str, Any]], Path], said: str | dict[str, Any], tmp_path: Path
) -> None:
    folder = sent(said)
    for command in (["export", folder, tmp_path / "out"], ["explain", folder], ["generate", folder, "what?"]):
        result = call(*command, "--home", home.root)
        assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit)
        assert "run.json" in result.stderr and "a fault of" not in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()


def test_plugins_of_a_run_from_elsewhere_are_not_imported_unless_the_user_says_so(
    home: Home, sent: Callable[[str | dict[str, Any]], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_run_parts.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = sent({"plugins": ["evil_run_parts"]})
    result = call("export", folder, tmp_path / "out", "--home", home.root)
    assert result.exit_code == 1 and "would run the plug-in 'evil_run_parts'" in result.stderr
    assert "--allow-plugins" in result.stderr and not (tmp_path / "ran").exists()
    monkeypatch.setenv(ALLOW_PLUGINS, "0")  # put back afterwards, whatever the command sets
    result = call("export", folder, tmp_path / "out", "--home", home.root, "--allow-plugins")
    assert (tmp_path / "ran").exists() and "has not ended yet" in result.stderr
    sys.modules.pop("evil_run_parts")


def test_a_run_of_the_home_needs_no_leave(home: Home, tmp_path: Path) -> None:
    (folder,) = home.runs.iterdir()
    for name in ("mine seed 0", folder.name, str(folder)):
        assert "has not ended yet" in call("export", name, tmp_path / "out", "--home", home.root).stderr


def test_a_broken_run_does_not_hide_the_others(home: Home, tmp_path: Path) -> None:
    for name, text in (("broken", "{"), ("empty", "{}"), ("other", '{"spec": {}, "id": 3, "stages": []}')):
        (home.runs / name).mkdir()
        (home.runs / name / "run.json").write_text(text)
    (home.runs / "a file").write_text("")
    assert "has not ended yet" in call("export", "mine seed 0", tmp_path / "out", "--home", home.root).stderr


@pytest.mark.parametrize("text", ["{}", "[]", "", '{"status": 3}', "[" * 5000])
def test_how_a_stage_or_score_ended_is_said_or_the_file_is_named(tmp_path: Path, text: str) -> None:
    for folder, name in ((StageFolder(tmp_path), "outcome.json"), (ScoreFolder(tmp_path), "score.json")):
        (tmp_path / name).write_text(text)
        with pytest.raises(StorageError, match=name):
            folder.outcome()
