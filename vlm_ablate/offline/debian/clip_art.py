"""The Open Clip Art Library: SVG drawings whose title, keywords and description stand in RDF inside the file.

Most of its titles name a series ('SVG Road Signs') or come in another language; those are left out, and so is what lies
several times in it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import yaml

from vlm_ablate.events import preparing
from vlm_ablate.offline.debian.catalogue import folders
from vlm_ablate.offline.debian.clip_titles import clean_description, clean_flag, clean_other_flag, clean_title
from vlm_ablate.offline.debian.drawing import Drawing, Look, look_at, pool
from vlm_ablate.offline.debian.index import Row, indexed
from vlm_ablate.offline.debian.siblings import groups
from vlm_ablate.offline.kinds import kind_of
from vlm_ablate.offline.pictures import SPLITS, Split, flag_key, split_of

_BELOW = "usr/share/openclipart/svg"
_LEFT_OUT = ("computer/", "special/gradients/", "special/examples/", "unsorted/duplicates/")
_SHARED = 3
"""Files that may share a title; one that more carry is the name of a series."""

_FLAGS = tuple(f"signs_and_symbols/flags/{part}/" for part in ("africa", "america", "asia", "europe", "oceania"))
_OTHER_FLAGS = ("signs_and_symbols/flags/historic/", "signs_and_symbols/flags/miscellany/")
_NO_THINGS = ("signs_and_symbols/", "shapes/", "unsorted/", "logos/", "special/", "geography/", "decorations/",
              # Hard to tell for what they are.
              "animals/mammals/dolphin_01", "animals/fish/dolphin_01", "food/breads_and_carbs/garlic_toast",
              "people/hide_girl", "people/elfish_girl")
# Words of a name that say how it was drawn, or what cannot be seen beside nothing else.
_NOT_SEEN = frozenset(
    "another big cartoon color crazy eris flat generic my new old perspectival plain simple small stylized three tile "
    "jonathon's bored ip".split())
_COLOURS_AND_SIDES = frozenset(
    "red blue green yellow orange purple pink black white grey gray brown violet light dark left right top bottom "
    "upper lower corner horizontal vertical".split())
_SAME = {"bass-guitar": "bass guitar", "palmtree": "palm tree", "paperbag": "paper bag", "teddybear": "teddy bear",
         "tophat": "top hat", "bike": "bicycle", "fries": "french fries"}
_LARGEST = 2_000_000
"""Bytes; a larger file takes a second or more to draw."""


@dataclass(frozen=True)
class ClipArt(Drawing):
    """A drawing, its title and what else is said of it."""

    title: str
    """ASCII, lower case, no final stop: a caption."""
    keywords: tuple[str, ...]
    description: str
    """A sentence that says more than the title, as the title is written; '' for most."""


@dataclass(frozen=True)
class Words:
    """What the RDF of a file says."""

    title: str
    description: str
    keywords: tuple[str, ...]
    creator: str


def clip_art(split: Split | None = None) -> tuple[ClipArt, ...]:
    """The drawings of a split, or all, in a mixed order.

    Raises:
        AssetMissing: the package was not fetched.
        DataError: no usable drawing is in it.
    """
    return _of_split(folders("clip_art")[0], split)


def words_of(svg: bytes) -> Words | None:
    """Title, description, keywords and creator; None where the file is broken, has no title, or declares entities.

    Entities can blow a small file up to gigabytes; files in an encoding that could hide them (UTF-16) are broken too.
    """
    if b"<!ENTITY" in svg or b"\0" in svg:
        return None
    try:
        tree = ElementTree.fromstring(svg)
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    work = next((e for e in tree.iter() if _tag(e) == "Work"), None)
    if work is None:
        return None
    parts = {_tag(e): e for e in reversed(work)}
    title, description = (_text(parts.get(tag)) for tag in ("title", "description"))
    keywords = [_text(e) for e in parts["subject"].iter() if _tag(e) == "li"] if "subject" in parts else []
    makers = [_text(e) for e in parts["creator"].iter() if _tag(e) == "title"] if "creator" in parts else []
    return Words(title, description, tuple(k for k in keywords if k), " ".join(makers)) if title else None


def _tag(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _text(element: ElementTree.Element | None) -> str:
    return " ".join((element.text or "").split()) if element is not None else ""


def _read(folder: Path) -> list[tuple[Row, Look]]:
    """The files with a title of their own that can be drawn; of several with the same content the first."""
    root, said = folder / _BELOW, {}
    for path in sorted(root.rglob("*.svg")):
        key = path.relative_to(root).as_posix()
        if not key.startswith(_LEFT_OUT) and path.stat().st_size <= _LARGEST and (words := words_of(path.read_bytes())):
            said[key] = words
    shared = Counter(words.title for words in said.values())
    found: list[tuple[Row, Look]] = []
    seen: set[str] = set()
    for done, (key, words) in enumerate(said.items()):
        preparing("looking at clip art", done + 1, len(said))
        look = look_at(root / key) if shared[words.title] <= _SHARED else None
        if look and look.digest not in seen:
            seen.add(look.digest)
            found.append(({"key": key, "title": words.title, "description": words.description,
                           "keywords": list(words.keywords), "creator": words.creator}, look))
    return found


@lru_cache(maxsize=16)
def _of_split(folder: Path, split: Split | None) -> tuple[ClipArt, ...]:
    return pool(_clip_art(folder), split, folder)


@lru_cache(maxsize=4)
def _clip_art(folder: Path) -> tuple[ClipArt, ...]:
    rows = indexed("clip_art", folder, f"{_BELOW}/**/*.svg", _read)
    rows = [{**row, "caption": caption} for row in rows if (caption := caption_of(row))]
    # What was a number apart is a series too: 'pantyhose1', 'pantyhose2', ...
    numbered = Counter(row["caption"] for row in rows if re.search(r"\d", row["title"]))
    rows = [row for row in rows if numbered[row["caption"]] <= _SHARED]
    first = groups([row["key"] for row in rows], [_marks(row) for row in rows],
                   np.stack([row["look"].thumbnail() for row in rows])) if rows else []
    stamp_of = {group: _twins()[row["key"]] for row, group in zip(rows, first, strict=True) if row["key"] in _twins()}
    flag_of = _flags(rows, first)
    split_by = [f"stamps/{stamp_of[group]}" if group in stamp_of else flag_of.get(group, f"clip_art/{group}")
                for group in first]
    return tuple(_picture(folder / _BELOW, row, group) for row, group in zip(rows, split_by, strict=True))


def _flags(rows: list[Row], first: list[str]) -> dict[str, str]:
    """Group -> OpenMoji's key of the country's flag in it; of several that look alike one of the latest split."""
    found: dict[str, str] = {}
    for row, group in zip(rows, first, strict=True):
        code = _countries().get(re.sub("^flag of (?:the )?", "", row["caption"]))
        if code and row["caption"].startswith("flag of "):
            keys = (flag_key(code), found.get(group, flag_key(code)))
            found[group] = max(keys, key=lambda key: SPLITS.index(split_of(key)))
    return found


@cache
def _countries() -> dict[str, str]:
    """Name of a country -> its code. A table, so that splits are the same without OpenMoji."""
    codes: dict[str, str] = yaml.safe_load((files("vlm_ablate") / "assets/clip_art_flags.yaml").read_text())
    return codes


@cache
def _twins() -> dict[str, str]:
    """Clip art that is a stamp too -> the stamp's group. A table, so that splits are the same without the stamps."""
    groups: dict[str, str] = yaml.safe_load((files("vlm_ablate") / "assets/clip_art_twins.yaml").read_text())
    return groups


def caption_of(row: Row) -> str:
    """The title of an index row as a caption, '' if it is none. One Italian architect drew hundreds of the files."""
    if re.search("rollandin|architett", f"{row['creator']} {row['key']}".lower()):
        return ""
    if row["key"].startswith(_FLAGS):
        return clean_flag(row["title"], " ".join([row["description"], *row["keywords"]]))
    if row["key"].startswith(_OTHER_FLAGS):
        return clean_other_flag(row["title"])
    return clean_title(row["title"])


def name_of(key: str, caption: str) -> str:
    """The caption of a drawing of a thing where it is a known name of one or two plain words; else ''."""
    name = re.sub(r"^(?:an?|the) ", "", caption)
    name = _SAME.get(name, name)
    return name if len(name.split()) <= 2 and kind_of(name) and not key.startswith(_NO_THINGS) and not (
        _NOT_SEEN & set(name.split())) else ""


def _picture(root: Path, row: Row, group: str) -> ClipArt:
    name = name_of(row["key"], row["caption"])
    return ClipArt(key=row["key"], group=group, path=root / row["key"], look=row["look"], name=name,
                   kind=kind_of(name), title=row["caption"], keywords=tuple(row["keywords"]),
                   description=clean_description(row["description"], row["caption"]))


def _marks(row: Row) -> list[str]:
    """What variants of one drawing share: the file's content; the plain title within a folder, or with a maker; within
    a folder also the title without colours and sides ('led circle red', 'upper left corner')."""
    caption, folder = row["caption"].removesuffix(" in black and white"), row["key"].rpartition("/")[0]
    title, bare = _letters(caption), _letters(" ".join(w for w in caption.split() if w not in _COLOURS_AND_SIDES))
    return [row["look"].digest, f"{folder}: {title}", f"{row['creator']}: {title}", f"{folder}: {bare or title}"]


def _letters(text: str) -> str:
    return re.sub("[^a-z]", "", text)
