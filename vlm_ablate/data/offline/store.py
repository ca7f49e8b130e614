"""Generated items kept on disk, so that arms, seeds and processes share one rendering.

A store is a folder of `images.npy` (items, height, width, 3) uint8, memory-mapped, and `items.jsonl`. It is made once
under a lock and named by everything that decides its content.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from vlm_ablate.data.offline import facts, knowledge, pages, pictures, reading, scenes, tables
from vlm_ablate.data.offline.assets import AssetRecord
from vlm_ablate.data.offline.item import Item
from vlm_ablate.data.offline.pictures import Split
from vlm_ablate.home import Home, storage_errors

GENERATOR_VERSION = 2
"""Raise when any task's items change, so that old stores are not taken for new ones."""

TASKS: dict[str, Callable[[Split, int, int], Item]] = {
    "vqa": scenes.vqa,
    "knowledge": knowledge.knowledge,
    "reading": reading.reading,
    "captions": scenes.caption,
    "pages": pages.pages,
}


@dataclass(frozen=True)
class ItemStore:
    """Items of one task and split: `images[i]` belongs to `rows[i]` (id, question, answer, references, description)."""

    images: np.ndarray
    rows: list[dict]
    fingerprint: str


def licence_records() -> list[AssetRecord]:
    """Provenance of everything that composed pictures are made of."""
    digits = AssetRecord("handwritten digits", "scikit-learn", "load_digits", "BSD-3-Clause",
                         "UCI Optical Recognition of Handwritten Digits, as shipped by scikit-learn", "")
    return [*pictures.licence_records(), *facts.licence_records(), *tables.licence_records(), digits]


@cache
def material_fingerprint() -> str:
    """Hash of the checksums of all material and of the generator's version."""
    body = [record.to_dict() for record in licence_records()] + [GENERATOR_VERSION]
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


@cache
def item_store(task: str, split: Split, count: int, side: int) -> ItemStore:
    """The first `count` items of a task and split at `side` pixels; generated on first use (2 ms an item).

    Raises:
        AssetMissing: a package of the `offline` extra is not installed.
        StorageError: the cache folder cannot be written.
    """
    name = hashlib.sha256(f"{material_fingerprint()}/{task}/{split}/{count}/{side}".encode()).hexdigest()[:16]
    root = Home.default().cache / "offline"
    folder = root / f"{task}-{split}-{count}-{side}px-{name}"
    with storage_errors("write", folder):
        root.mkdir(parents=True, exist_ok=True)
        with (root / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "items.jsonl").exists():
                _write(folder, task, split, count, side)
    rows = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    return ItemStore(np.load(folder / "images.npy", mmap_mode="r"), rows, name)


def _write(folder: Path, task: str, split: Split, count: int, side: int) -> None:
    """Generate and write; the item list comes last, so that a killed writer leaves no complete-looking store."""
    folder.mkdir(exist_ok=True)
    items = [TASKS[task](split, i, side) for i in range(count)]
    np.save(folder / "images.npy", np.stack([item.image for item in items]))
    lines = [
        json.dumps({"id": i.id, "question": i.question, "answer": i.answer, "references": i.references,
                    "description": i.description})
        for i in items
    ]
    partial = folder / "items.jsonl.partial"
    partial.write_text("\n".join(lines) + "\n")
    partial.rename(folder / "items.jsonl")
