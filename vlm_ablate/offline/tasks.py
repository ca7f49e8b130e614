"""The tasks that pictures are composed for, and what each is made of."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

from vlm_ablate.offline import (
    clip_art,
    cutouts,
    documents,
    facts,
    forms,
    knowledge,
    map_questions,
    pages,
    pictures,
    reading,
    scenes,
    stamps,
    tables,
)
from vlm_ablate.offline.debian import catalogue
from vlm_ablate.offline.debian.catalogue import Collection
from vlm_ablate.offline.item import Item
from vlm_ablate.offline.pictures import Split
from vlm_ablate.offline.wide import wide
from vlm_ablate.provenance import AssetRecord

Material = Callable[[], list[AssetRecord]]
Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Task:
    """How the items of a task are made: a pure function of split, number and side in pixels."""

    name: str
    make: Callable[[Split, int, int], Item]
    summary: str
    """One line for people."""
    material: tuple[Material, ...] = ()
    """Of pip packages: each gives the provenance of one kind, or raises AssetMissing."""
    collections: tuple[Collection, ...] = ()
    """Of Debian packages."""
    version: int = 1
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
        catalogue.require(*self.collections)
        fetched = [record for name in self.collections for record in catalogue.licence_records(name)]
        return [record for material in self.material for record in material()] + fetched

    @property
    def fingerprint(self) -> str:
        """Hash of the checksums of the material, the generator's version, and what draws."""
        body = [self.name, self.version, [record.to_dict() for record in self.licence_records()], _drawn_with()]
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _drawn_with() -> dict[str, str]:
    """Versions of the libraries whose pixels may differ from one to the next."""
    found = {}
    for package in ("pillow", "resvg-py", "pypdfium2"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


_DRAWINGS, _FACTS, _TABLES = pictures.licence_records, facts.licence_records, tables.licence_records

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("vqa", scenes.vqa, "questions on scenes of up to four drawings", (_DRAWINGS,), version=2),
        Task("knowledge", knowledge.knowledge, "flags, and questions about their countries", (_DRAWINGS, _FACTS),
             version=2),
        Task("reading", reading.reading, "signs, handwritten numbers, charts and tables",
             (_DRAWINGS, _TABLES, pictures.digit_records), version=2),
        Task("captions", scenes.caption, "captions of scenes of one or two drawings", (_DRAWINGS,), version=2),
        Task("pages", pages.pages, "fact sheets of countries, twice as tall as wide", (_FACTS,), version=2),
        Task("receipts", forms.receipts, "pages of things and their prices", (_DRAWINGS,)),
        Task("timetables", forms.timetables, "pages of hours and what is then", (_DRAWINGS,)),
        Task("cards", forms.cards, "pages of four fields in a frame", (_DRAWINGS,)),
        Task("lists", forms.lists, "pages of two words one below the other", (_DRAWINGS,)),
        Task("numerals", forms.numerals, "numbers in the digits of the Arabic script"),
        Task("wide_vqa", wide(scenes.vqa), "as vqa, half as wide again", (_DRAWINGS,)),
        Task("wide_knowledge", wide(knowledge.knowledge), "as knowledge, half as wide again", (_DRAWINGS, _FACTS)),
        Task("wide_reading", wide(reading.reading), "as reading, half as wide again",
             (_DRAWINGS, _TABLES, pictures.digit_records)),
        Task("wide_captions", wide(scenes.caption), "as captions, half as wide again", (_DRAWINGS,)),
        Task("cutouts", cutouts.cutouts, "questions on scenes of photos, clip art and drawings", (_DRAWINGS,),
             ("stamps", "clip_art"), version=3),
        Task("stamps", stamps.stamps, "a photo or drawing and a sentence on it", collections=("stamps",)),
        Task("clip_art", clip_art.clip_art, "a piece of clip art and its title", collections=("clip_art",), version=4),
        Task("maps", map_questions.maps, "maps with coloured regions: names, capitals, places, sizes",
             collections=("maps",), version=3),
        Task("capitals", map_questions.capitals, "maps with one region coloured and named: what is its capital?",
             collections=("maps",), version=3),
        Task("documents", documents.documents, "a part of a real page, and questions on what stands there",
             collections=("documents",), version=2),
    )
}


def licence_records(tasks: Mapping[Name, float]) -> list[AssetRecord]:
    """Provenance of the material of the tasks whose share is not zero, each once.

    Raises:
        AssetMissing: a part of it is not on this machine.
    """
    used = [TASKS[name] for name in tasks if tasks[name]]
    catalogue.require(*dict.fromkeys(c for task in used for c in task.collections))  # all that is missing at once
    found = [record for task in used for record in task.licence_records()]
    return list({str(record.to_dict()): record for record in found}.values())


def share_out(tasks: Mapping[Name, float], count: int, rng: random.Random) -> list[Name]:
    """The task of each of `count` places, drawn by the shares; one task alone takes them all."""
    return [rng.choices(list(tasks), list(tasks.values()))[0] for _ in range(count)]
