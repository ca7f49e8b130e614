"""`prefetch`: exactly what runs read; offline it says what is here, and what is kept of a stream is that stream."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from training.squares import save_parts
from typer.testing import CliRunner, Result

from vlm_ablate.cli.app import app
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.data.sources.configs import CauldronConfig
from vlm_ablate.data.sources.kept import find_kept, keep, kept_file
from vlm_ablate.data.sources.rows import open_rows
from vlm_ablate.errors import AssetMissing, DataError, StorageError
from vlm_ablate.runs.needs import needs_of, size_on_hub

ROWS = 90


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's caches is seen, and nothing is left there."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("VLM_ABLATE_ALLOW_HUB", raising=False)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Rows in The Cauldron's schema."""
    rows = [
        {"images": [Image.new("RGB", (8, 8), (i, 0, 0))], "texts": [{"user": f"q{i}", "assistant": "a", "source": "s"}]}
        for i in range(ROWS)
    ]
    folder = tmp_path / "cauldron"
    folder.mkdir()
    table = datasets.Dataset.from_list(rows).cast_column("images", datasets.List(datasets.Image()))
    table.to_parquet(folder / "train.parquet")
    return folder


def stream_of(folder: Path) -> Any:
    return datasets.load_dataset("parquet", data_files=str(folder / "train.parquet"), split="train", streaming=True)


def asked(rows: int | None = 70, **fields: Any) -> CauldronConfig:
    return CauldronConfig(id="someone/cauldron", subset="vqav2", streaming=True, rows=rows, **fields)


def test_what_is_kept_of_a_stream_is_the_stream_without_a_network(local: Path) -> None:
    with pytest.raises(AssetMissing):
        open_rows(asked())
    seen: list[int] = []
    file = keep(asked(), stream_of(local), lambda done, total: seen.append(done))
    assert seen[-1] == 70 and find_kept(asked()) == file
    kept, whole = open_rows(asked()), open_rows(CauldronConfig(id=str(local), streaming=True, rows=70))
    assert len(kept) == 70 and kept.sequential
    assert [kept[i] for i in (0, 33, 69)] == [whole[i] for i in (0, 33, 69)]
    assert kept.fingerprint == "someone/cauldron@/train", "as of the stream itself"


def test_more_rows_serve_for_fewer_and_fewer_do_not_for_more(local: Path) -> None:
    file = keep(asked(), stream_of(local))
    assert find_kept(asked(10)) == file
    assert find_kept(asked(71)) is None and find_kept(asked(None)) is None
    assert find_kept(asked(10, split="val")) is None


def test_a_stream_that_ends_before_keeps_nothing(local: Path) -> None:
    with pytest.raises(DataError, match=f"ended after {ROWS} rows"):
        keep(asked(ROWS + 1), stream_of(local))
    assert find_kept(asked(1)) is None


def test_a_stream_that_breaks_off_leaves_nothing_and_what_another_writes_is_let_be(local: Path) -> None:
    def breaks(done: int, total: int) -> None:
        raise ConnectionResetError

    def writes_too(done: int, total: int) -> None:
        if done < total:
            keep(asked(), stream_of(local))

    with pytest.raises((ConnectionResetError, StorageError)):
        keep(asked(), stream_of(local), breaks)
    file = kept_file(asked())
    assert not any(file.parent.iterdir())
    assert len(pq.read_table(keep(asked(), stream_of(local), writes_too))) == 70
    assert list(file.parent.iterdir()) == [file]


def experiment(folder: Path, parts: Path, data: Path, source: dict[str, Any]) -> Path:
    body = {
        "name": "tests/prefetch", "title": "Needs",
        "model": {"vision": {"name": "siglip-native", "id": str(parts / "vision")},
                  "language": {"name": "hf", "id": str(parts / "lm")},
                  "connector": "linear", "architecture": "autoregressive"},
        "data": {"mixture": {"one": {"source": {"name": "cauldron", "id": str(data)}}}},
        "stages": {"train": {"steps": 1, "batch_size": 1}},
        "evaluation": {"benchmarks": {"docvqa": {"benchmark": "docvqa"}}, "shots": 0},
        "arms": {"here": {}, "away": {"set": {"data.mixture.one.source": source}}},
    }  # fmt: skip
    file = folder / "needs.yaml"
    file.write_text(yaml.safe_dump(body, sort_keys=False))
    return file


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["prefetch", *map(str, arguments), "--scale", "paper"])


def test_a_stream_and_the_whole_of_a_data_set_are_two_needs(local: Path, tmp_path: Path) -> None:
    file = experiment(tmp_path, tmp_path / "parts", local, {"id": "someone/cauldron", "streaming": True, "rows": 70})
    body = yaml.safe_load(file.read_text())
    for arm, source in {"whole": {"rows": 70}, "less": {"rows": 7}}.items():
        body["arms"][arm] = {"set": {"data.mixture.one.source": {"id": "someone/cauldron", **source}}}
    file.write_text(yaml.safe_dump(body, sort_keys=False))
    needs = needs_of({name: arm.config for name, arm in load_experiment(file, scale="paper").arms.items()})
    found = {need.what: need.arms for need in needs if need.id == "someone/cauldron"}
    assert found == {"the first 70 rows of train": ("away",), "train": ("whole", "less")}


def test_offline_it_says_what_is_here_and_what_is_missing(local: Path, tmp_path: Path) -> None:
    save_parts(tmp_path / "parts")
    file = experiment(tmp_path, tmp_path / "parts", local, {"id": "someone/cauldron", "streaming": True, "rows": 70})
    needs = needs_of({name: arm.config for name, arm in load_experiment(file, scale="paper").arms.items()})
    assert [need.kind for need in needs] == ["weights", "weights", "data", "data", "benchmark"]
    assert [need.arms for need in needs][2:4] == [("here",), ("away",)]
    told = call(file)
    assert told.exit_code == 1 and "missing: someone/cauldron" in told.stdout, told.output
    assert "HuggingFaceM4/DocumentVQA (validation)" in told.stdout
    keep(CauldronConfig(id="someone/cauldron", streaming=True, rows=70), stream_of(local))
    page = {
        "questionId": "1", "question": "Who?", "answers": ["A"], "image": Image.new("RGB", (8, 8)),
        "ucsf_document_id": "d", "ucsf_document_page_no": "1",
    }  # fmt: skip
    (tmp_path / "docvqa").mkdir()
    table = datasets.Dataset.from_list([page]).cast_column("image", datasets.Image())
    table.to_parquet(tmp_path / "docvqa" / "validation.parquet")
    told = call(file, "--check", "--set", f"evaluation.benchmarks.docvqa.benchmark.id={tmp_path / 'docvqa'}")
    assert told.exit_code == 0 and "all is here" in told.stdout, told.output


def test_weights_that_are_there_in_part_are_missing(local: Path, tmp_path: Path) -> None:
    save_parts(tmp_path / "parts")
    file = tmp_path / "parts" / "lm" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    told = call(experiment(tmp_path, tmp_path / "parts", local, {"rows": 5}), "--arms", "here")
    assert told.exit_code == 1 and "cannot be read as safetensors" in " ".join(told.output.split()), told.output


def test_of_weights_a_configuration_alone_is_not_enough(local: Path, tmp_path: Path) -> None:
    """A snapshot of the hub may hold no more than what a plan has read."""
    save_parts(tmp_path / "parts")
    (tmp_path / "parts" / "lm" / "model.safetensors").unlink()
    told = call(experiment(tmp_path, tmp_path / "parts", local, {"rows": 5}), "--arms", "here")
    assert told.exit_code == 1 and "holds no *.safetensors file" in " ".join(told.output.split()), told.output


def test_subsets_of_a_benchmark_are_needs_of_their_own(local: Path, tmp_path: Path) -> None:
    file = experiment(tmp_path, tmp_path / "parts", local, {"rows": 5})
    both = "{en: {benchmark: {name: mmbench}}, cn: {benchmark: {name: mmbench, subset: cn}}, docvqa: null}"
    loaded = load_experiment(file, scale="paper", sets=[f"evaluation.benchmarks={both}"])
    needs = needs_of({name: arm.config for name, arm in loaded.arms.items()})
    assert [need.what for need in needs if need.kind == "benchmark"] == ["en dev", "cn dev"]


def test_a_split_of_another_data_set_is_a_need_of_that_one(local: Path, tmp_path: Path, monkeypatch) -> None:
    """Its size is that of where it is read from, at no revision of the benchmark's own."""
    file = experiment(tmp_path, tmp_path / "parts", local, {"rows": 5})
    own = "{vqav2: {benchmark: {name: vqav2, revision: abc, subset: all}, shots: 4}, docvqa: null}"
    loaded = load_experiment(file, scale="paper", sets=[f"evaluation.benchmarks={own}"])
    needs = needs_of({name: arm.config for name, arm in loaded.arms.items()})
    found = {need.id: need for need in needs if need.kind == "benchmark"}
    other, theirs = "Multimodal-Fatima/VQAv2_train", "lmms-lab/VQAv2"
    assert {id: need.what for id, need in found.items()} == {theirs: "all validation at abc", other: "train[0:95]"}

    def info(_: Any, id: str, revision: str | None, files_metadata: bool) -> Any:
        size = {(theirs, "abc"): 7, (other, None): 90}[id, revision]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename="all/x.parquet", size=size)])

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    assert [size_on_hub(found[id]).bytes for id in (theirs, other)] == [7, 90]
