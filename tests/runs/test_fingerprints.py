"""What files decide: a digest follows contents and names, and nothing else."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.specs import make_spec
from vlm_ablate.data.sources.configs import CauldronConfig
from vlm_ablate.data.sources.files import files_of, local_roots
from vlm_ablate.errors import AssetMissing
from vlm_ablate.evaluation.benchmarks.configs import VqaV2Config
from vlm_ablate.home import Home, files_below
from vlm_ablate.models import connectors as rooms
from vlm_ablate.models.connectors.configs import LinearConfig
from vlm_ablate.models.language.configs import HubLanguageConfig
from vlm_ablate.registry import connectors
from vlm_ablate.runs.fingerprints import (
    MISSING,
    agree,
    code_fingerprint,
    files_digest,
    id_fingerprint,
    part_fingerprint,
)
from vlm_ablate.runs.spec import RunSpec


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(2**21))
    return folder


def test_the_same_files_elsewhere_and_touched_have_the_same_digest(folder: Path, tmp_path: Path) -> None:
    before = id_fingerprint(str(folder))
    os.utime(folder / "model.safetensors", (1, 1))
    assert id_fingerprint(str(folder)) == before
    folder.rename(tmp_path / "elsewhere")
    assert id_fingerprint(str(tmp_path / "elsewhere")) == before


def test_weights_changed_in_place_have_another_digest(folder: Path) -> None:
    before = id_fingerprint(str(folder))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert id_fingerprint(str(folder)) != before


def test_a_data_card_decides_nothing(folder: Path) -> None:
    before = id_fingerprint(str(folder))
    (folder / "README.md").write_text("about")
    assert id_fingerprint(str(folder)) == before


def test_records_bring_the_pictures_beside_them(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"image": "a.png"}\n')
    (folder / "a.png").write_bytes(b"one")
    before = id_fingerprint(str(folder / "rows.jsonl"))
    (folder / "a.png").write_bytes(b"two")
    assert id_fingerprint(str(folder / "rows.jsonl")) != before


@pytest.mark.parametrize("id", ["*/rows.jsonl", "**/rows.jsonl", "par*"])
def test_a_pattern_stands_for_the_files_that_a_source_of_that_id_reads(folder: Path, id: str) -> None:
    for part in ("part1", "part2"):
        (folder / part).mkdir()
        (folder / part / "rows.jsonl").write_text('{"image": "a.png"}\n')
    assert len(files_of(local_roots(str(folder / id), None))) == 2
    (folder / "a.png").write_bytes(b"one")
    before = id_fingerprint(str(folder / id))
    (folder / "a.png").write_bytes(b"two")
    pictured = id_fingerprint(str(folder / id))
    (folder / "part2" / "rows.jsonl").write_text('{"image": "b.png"}\n')
    assert len({before, pictured, id_fingerprint(str(folder / id))}) == 3


@pytest.mark.parametrize("id", ["rows.jsonl", "rows*.jsonl", "**/*.jsonl", "*", ""])
def test_what_runs_write_beside_the_data_decides_nothing(folder: Path, id: str) -> None:
    (folder / "rows.jsonl").write_text('{"image": "a.png"}\n')
    (folder / "a.png").write_bytes(b"one")
    before = id_fingerprint(str(folder / id))
    home = Home(folder / "outputs").prepare(minimum_free=0)
    for name in ("runs/a/artifacts/examples.png", "runs/a/stop", "stages/b/log.jsonl", "mlflow.db"):
        (home.root / name).parent.mkdir(parents=True, exist_ok=True)
        (home.root / name).write_bytes(b"of a run")
    (folder / ".lease-1").write_text("hidden")
    assert id_fingerprint(str(folder / id)) == before
    (folder / "a.png").write_bytes(b"two")
    assert id_fingerprint(str(folder / id)) != before


def test_what_lies_beside_a_list_of_records_and_is_no_picture_is_none_of_its_own(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"image": "a.png"}\n')
    before = id_fingerprint(str(folder / "rows.jsonl"))
    for name in ("ablation.yaml", "notes.txt", "other.jsonl", "prepare.py"):
        (folder / name).write_text(name)
    assert id_fingerprint(str(folder / "rows.jsonl")) == before
    (folder / "pictures").mkdir()
    (folder / "pictures" / "b.JPG").write_bytes(b"new")
    assert id_fingerprint(str(folder / "rows.jsonl")) != before


def test_what_is_not_here_agrees_with_anything(tmp_path: Path) -> None:
    assert part_fingerprint(HubLanguageConfig(id=str(tmp_path / "nowhere"))) == MISSING
    assert agree({"weights": MISSING}, {"weights": "abc"}) and agree({"weights": "abc"}, {})
    assert not agree({"weights": "abc"}, {"weights": "abd"})
    with pytest.raises(AssetMissing):
        files_digest([])


def test_a_part_that_reads_nothing_has_no_digest() -> None:
    assert part_fingerprint(LinearConfig()) == "none"


@pytest.mark.parametrize("room", ["", "vlm_ablate.models.connectors."], ids=["beside", "in a room"])
def test_the_source_of_a_plug_in_decides_and_ours_does_not(
    room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "from typing import Literal\n"
        "from vlm_ablate.config.base import ComponentConfig\n"
        "from vlm_ablate.registry import connectors\n"
        "class Config(ComponentConfig):\n    name: Literal['print-test'] = 'print-test'\n"
        "@connectors.register('print-test', Config)\nclass Part:\n    pass\n"
    )
    (tmp_path / "plug_in_of_print_test.py").write_text(source)
    if room:
        monkeypatch.setattr("vlm_ablate.models.connectors.__path__", [*rooms.__path__, str(tmp_path)])
    else:
        monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module(f"{room}plug_in_of_print_test")
    try:
        before = code_fingerprint(connectors, "print-test")
        assert before
        (tmp_path / "plug_in_of_print_test.py").write_text(source + "# changed\n")
        assert code_fingerprint(connectors, "print-test") != before
        assert code_fingerprint(connectors, "linear") is None
    finally:
        del connectors._entries["print-test"], sys.modules[f"{room}plug_in_of_print_test"]


def test_what_lies_behind_a_linked_folder_counts_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    disk, data = tmp_path / "disk", tmp_path / "data"
    disk.mkdir()
    data.mkdir()
    (data / "rows.jsonl").write_text('{"image": "images/a.png"}\n')
    (disk / "a.png").write_bytes(b"one")
    (data / "images").symlink_to(disk)
    (disk / "back").symlink_to(data)
    (data / "again").symlink_to(disk)
    before = {name: id_fingerprint(str(data / name)) for name in ("", "rows.jsonl")}
    assert [file.name for file in files_below(data)] == ["a.png", "rows.jsonl"]
    (disk / "a.png").write_bytes(b"another")
    assert all(id_fingerprint(str(data / name)) != digest for name, digest in before.items())


def hub(monkeypatch: pytest.MonkeyPatch, cache: Path, **commits: str) -> None:
    """A hub cache in which data sets and models (`datasets--ID`, `models--ID`) stand at a commit."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    for repository, commit in commits.items():
        (cache / repository / "refs").mkdir(parents=True, exist_ok=True)
        (cache / repository / "refs" / "main").write_text(commit)


def test_a_model_and_a_data_set_of_one_id_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, tmp_path, **{"models--me--x": "a" * 40, "datasets--me--x": "b" * 40})
    assert part_fingerprint(HubLanguageConfig(id="me/x")) == f"commit {'a' * 16}"
    for part in (CauldronConfig(id="me/x"), VqaV2Config(id="me/x")):
        assert part_fingerprint(part) == f"commit {'b' * 16}"


@pytest.mark.parametrize("asked", [{"split": "tune", "shots": 0}, {"shots": 4}, {"shots": 0}])
def test_a_data_set_that_a_benchmark_takes_a_split_from_decides_the_scores_that_read_it(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = make_spec().to_dict()
    body["config"]["evaluation"]["benchmarks"] = {"vqa": {"benchmark": "vqav2", **asked}}
    (*_, key) = RunSpec.from_dict(body).score_keys
    found = []
    for commit in ("b", "c"):
        moved = {"datasets--lmms-lab--VQAv2": "a" * 40, "datasets--Multimodal-Fatima--VQAv2_train": commit * 40}
        hub(monkeypatch, tmp_path, **moved)
        found.append(key.fingerprints())
    assert agree(*found) == (asked == {"shots": 0})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lmms-lab" / "VQAv2").mkdir(parents=True)
    (*_, local) = RunSpec.from_dict(body).score_keys
    assert [*local.parts] == ["benchmark"], "a local copy holds its splits itself"
