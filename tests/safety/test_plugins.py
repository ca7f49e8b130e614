"""A folder of another maker names code to run: nothing of it is imported unless the user says so."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from vlm_ablate import registry, trust
from vlm_ablate.checkpoints.own import read_description
from vlm_ablate.errors import ConfigError, ModelError
from vlm_ablate.models.pretrained import OWN_DESCRIPTION
from vlm_ablate.registry import load_plugins
from vlm_ablate.trust import ALLOW_PLUGINS, load_plugins_of


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that leaves a mark when it is imported; the mark."""
    mark = tmp_path / "ran"
    (tmp_path / "evil_parts.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(ALLOW_PLUGINS, raising=False)
    yield mark
    sys.modules.pop("evil_parts", None)
    registry._loaded.discard("evil_parts")


def foreign(folder: Path, **changes: Any) -> Path:
    """A checkpoint folder as somebody else may send it."""
    body = {"format": 1, "model": {}, "image": {}, "prompt": "plain", "plugins": [], "run": None, **changes}
    folder.mkdir(exist_ok=True)
    (folder / OWN_DESCRIPTION).write_text(json.dumps(body))
    return folder


def test_plugins_of_a_folder_are_not_imported_unless_the_user_says_so(
    evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign(tmp_path / "sent", plugins=["evil_parts"])
    with pytest.raises(ModelError, match=r"(?s)would run the plug-in 'evil_parts'.*--allow-plugins"):
        read_description(folder)
    assert not evil.exists() and "evil_parts" not in sys.modules
    monkeypatch.setenv(ALLOW_PLUGINS, "1")
    with pytest.raises(ModelError, match="cannot be read"):  # of the empty model; the plug-in has run
        read_description(folder)
    assert evil.exists()


def test_a_folder_may_not_switch_on_a_checkpoints_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_PLUGINS, raising=False)
    folder = foreign(tmp_path / "sent", model={"language": {"name": "hf", "id": "language", "trust_remote_code": True}})
    with pytest.raises(ModelError, match=r"would run code of the checkpoint \(language\.trust_remote_code: true\)"):
        read_description(folder)


def test_plugins_that_the_user_loaded_or_installed_are_no_question(
    evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_plugins(["evil_parts"])
    load_plugins_of(tmp_path, ["evil_parts"], {})
    sys.modules.pop("evil_parts")
    registry._loaded.discard("evil_parts")
    evil.unlink()
    installed = EntryPoint("evil", "evil_parts", registry.PLUGIN_GROUP)
    monkeypatch.setattr(trust, "entry_points", lambda group: [installed])
    load_plugins_of(tmp_path, ["evil_parts"], {})
    assert evil.exists()


@pytest.mark.parametrize(
    "changes",
    [{"plugins": "evil_parts"}, {"plugins": [3]}, {"plugins": None}, {"prompt": 3}, {"run": []}, {"format": 9},
     {"model": None}, {"model": []}, {"image": "x"}],
)  # fmt: skip
def test_a_description_of_another_kind_is_one_error_that_names_the_folder(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match="sent"):
        read_description(foreign(tmp_path / "sent", **changes))


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 5000, "\x00", '{"format": 1'])
def test_a_description_that_is_no_mapping_is_one_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / OWN_DESCRIPTION).write_text(text)
    with pytest.raises(ModelError, match=OWN_DESCRIPTION):
        read_description(tmp_path)


@pytest.mark.parametrize("name", ["..", "", ".", ".x", "x..y", "a b", "/tmp/x", "x.py:", 3, None])
def test_what_is_no_module_is_one_problem(name: Any) -> None:
    with pytest.raises(ConfigError, match="is not the name of a module"):
        load_plugins([name])


@pytest.mark.parametrize("body", ["raise SystemExit(3)", "1/0", "def", "import no_such_module_anywhere"])
def test_a_plugin_that_cannot_be_imported_is_one_problem_whatever_it_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    (tmp_path / "bad_parts.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="cannot import 'bad_parts'"):
        load_plugins(["bad_parts"])


@pytest.mark.parametrize("where", ["beside", "working directory"])
def test_a_module_is_found_beside_the_file_that_names_it_or_where_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "near_parts.py").write_text("FOUND = True\n")
    (tmp_path / "json.py").write_text("raise SystemExit('the standard library has one')\n")
    if where == "beside":
        load_plugins(["near_parts"], beside=tmp_path)
    else:
        monkeypatch.chdir(tmp_path)
        load_plugins(["near_parts"])
    assert sys.modules.pop("near_parts").FOUND
    registry._loaded.discard("near_parts")
    load_plugins(["json"], beside=tmp_path)  # what is installed comes first


def test_a_module_that_is_nowhere_is_one_problem_that_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"(?s)no far_parts.py is in {tmp_path} or "):
        load_plugins(["far_parts"], beside=tmp_path)


def test_two_files_that_have_a_module_of_one_name_beside_them_do_not_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same_parts.py").write_text(f"WHOSE = {name!r}\n")
    try:
        for _ in range(2):
            load_plugins(["same_parts"], beside=tmp_path / "one")
        with pytest.raises(ConfigError, match="give one of them another name"):
            load_plugins(["same_parts"], beside=tmp_path / "two")
        assert sys.modules["same_parts"].WHOSE == "one"
    finally:
        sys.modules.pop("same_parts", None)
        registry._loaded.discard("same_parts")
