"""A data set of the hub that has several subsets: one of them, or all, as the card in its repository lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlm_ablate.data.sources.configs import CauldronConfig, PairsConfig
from vlm_ablate.data.sources.rows import load_hub
from vlm_ablate.errors import DataError

SIZES = {"docvqa": 30, "vqav2": 90}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of a repository as the hub has it: a folder a subset, and a card."""
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    configs, infos = "", ""
    for name, size in SIZES.items():
        (tmp_path / "hub" / name).mkdir(parents=True)
        turn = {"assistant": "yes", "source": name}
        rows = [{"images": [b"x"], "texts": [{"user": f"{name} {i}", **turn}]} for i in range(size)]
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / "hub" / name / "train-00000.parquet")
        configs += f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n"
        infos += f"- config_name: {name}\n  splits:\n  - name: train\n    num_examples: {size}\n    num_bytes: 9\n"
    (tmp_path / "hub" / "README.md").write_text(f"---\nconfigs:\n{configs}dataset_info:\n{infos}---\n")
    return tmp_path / "hub"


def questions(data: Any) -> list[str]:
    return [row["texts"][0]["user"] for row in data]


EVERY = [f"{name} {i}" for name, size in SIZES.items() for i in range(size)]


def test_the_cauldron_without_a_subset_is_all_of_them(repository: Path) -> None:
    assert questions(load_hub(CauldronConfig(id=str(repository)))) == EVERY
    assert questions(load_hub(CauldronConfig(id=str(repository), subset="docvqa"))) == EVERY[:30]


def test_a_stream_of_all_subsets_is_mixed_by_their_sizes_and_has_each_row_once(repository: Path) -> None:
    stream = load_hub(CauldronConfig(id=str(repository), streaming=True))
    asked = questions(stream)
    assert sorted(asked) == sorted(EVERY) and stream.info.splits["train"].num_examples == 120
    assert 5 <= sum(text.startswith("docvqa") for text in asked[:40]) <= 16
    assert questions(stream.skip(50)) == asked[50:]


def test_a_stream_whose_subsets_tell_no_size_asks_for_one(repository: Path) -> None:
    card = repository / "README.md"
    card.write_text(card.read_text().partition("dataset_info")[0] + "---\n")
    with pytest.raises(DataError, match="how large its subsets are") as caught:
        load_hub(CauldronConfig(id=str(repository), streaming=True))
    assert "subset" in caught.value.hint


def test_other_data_sets_must_name_one(repository: Path) -> None:
    with pytest.raises(DataError, match=r"several subsets: .docvqa., .vqav2"):
        load_hub(PairsConfig(id=str(repository)))
