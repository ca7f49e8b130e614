"""The tasks that pictures are composed for, and what each is made of."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vlm_ablate.data.offline import facts, knowledge, pages, pictures, reading, scenes, tables
from vlm_ablate.data.offline.assets import AssetRecord
from vlm_ablate.data.offline.item import Item
from vlm_ablate.data.offline.pictures import Split

Material = Callable[[], list[AssetRecord]]


@dataclass(frozen=True)
class Task:
    """How the items of a task are made: a pure function of split, number and side in pixels."""

    name: str
    make: Callable[[Split, int, int], Item]
    material: tuple[Material, ...]
    """Each gives the provenance of one kind of material, or raises AssetMissing."""
    version: int = 2
    """Raise when items change, so that old stores are not taken for new ones."""

    def __call__(self, split: Split, index: int, side: int) -> Item:
        """Item number `index` of a split, drawn at `side` pixels.

        Raises:
            AssetMissing: its material is not on this machine.
        """
        return self.make(split, index, side)

    def licence_records(self) -> list[AssetRecord]:
        """Provenance of everything that its pictures are made of.

        Raises:
            AssetMissing: a part of it is not on this machine.
        """
        return [record for material in self.material for record in material()]

    @property
    def fingerprint(self) -> str:
        """Hash of the checksums of the material and of the generator's version."""
        body = [self.name, self.version, [record.to_dict() for record in self.licence_records()]]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("vqa", scenes.vqa, (pictures.licence_records,)),
        Task("knowledge", knowledge.knowledge, (pictures.licence_records, facts.licence_records)),
        Task("reading", reading.reading,
             (pictures.licence_records, tables.licence_records, pictures.digit_records)),
        Task("captions", scenes.caption, (pictures.licence_records,)),
        Task("pages", pages.pages, (facts.licence_records,)),
    )
}


def licence_records(tasks: Mapping[str, float]) -> list[AssetRecord]:
    """Provenance of the material of the tasks whose share is not zero, each once.

    Raises:
        AssetMissing: a part of it is not on this machine.
    """
    found = [record for name in tasks if tasks[name] for record in TASKS[name].licence_records()]
    return list({str(record.to_dict()): record for record in found}.values())


def share_out(tasks: Mapping[str, float], count: int, rng: random.Random) -> list[str]:
    """The task of each of `count` places, drawn by the shares; one task alone takes them all."""
    return [rng.choices(list(tasks), list(tasks.values()))[0] for _ in range(count)]
