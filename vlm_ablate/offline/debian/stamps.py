"""Tux Paint's stamps: photos and drawings, each with a sentence for children.

`stamps/animals/birds/owl.png` has its sentence on the first line of `owl.txt`; translations follow. Pictures without a
text are the mirrored forms of others (`tugboat_mirror.png`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from vlm_ablate.events import preparing
from vlm_ablate.offline.debian.catalogue import folders
from vlm_ablate.offline.debian.drawing import Drawing, Look, look_at, pool
from vlm_ablate.offline.debian.index import Row, indexed
from vlm_ablate.offline.debian.siblings import groups
from vlm_ablate.offline.debian.words import LONGEST, as_caption, first_sentence, plain
from vlm_ablate.offline.kinds import kind_of, kinds
from vlm_ablate.offline.pictures import Split

_BELOW = "usr/share/tuxpaint/stamps"

# Words of sentences that talk to the child or explain a use instead of saying what is to be seen.
_TALKS = re.compile(
    r"\b(?:you|your|we|means|this|stands? for|eat|say|enter|remember|because|another|wining|is used|carry|carries|"
    r"is said|is traditional|is traditionally|is eaten|is a traditional|is a symbol|important|lets|last saw|excited|"
    r"mad|sad|boom|it's|put|ahead|mascot|alien)\b", re.IGNORECASE)

# 'An electric guitar.' 'A pair of glasses.' 'Some cherries.'
_NAME = re.compile(r"(?:a pair of|an?|the|some) ((?:[a-z]+(?:['-]+[a-z]+)* ){0,2}[a-z]+(?:['-]+[a-z]+)*)")
_NO_NAME = re.compile(
    r"\b(?:of|in|with|for|and|from|by|at|on|inside|playing|making|dancing|eating|its|our|very|small|big|large|huge|"
    r"letter|sign|happy|singing|couple|colorful|lit|ripe|modern|old)\b")

# Folder -> kind, where all that lies in it is of one kind; else the name decides.
_KINDS = {
    "animals/birds": "bird", "animals/mammals": "mammal", "animals/marsupials": "mammal", "food/fruit": "fruit",
    "food/vegetables": "vegetable", "food/nuts": "nut", "clothes/hats": "hat", "hobbies/music": "musical instrument",
    "plants/flowers": "flower", "plants/trees": "tree", "plants/mushrooms": "mushroom", "space/planets": "planet",
    "town/flags": "flag", "vehicles/ship": "boat", "symbols/money": "coin", "town/houses": "building",
}
_KIND_BY_NAME_ONLY = re.compile(r"spider|moon|_sun|pinecone|holly|symbols|tent|tepee|cave|city|farm|penguin_with")


@dataclass(frozen=True)
class Stamp(Drawing):
    """A stamp and its sentence."""

    sentence: str
    """ASCII, one sentence of at most 20 words."""
    cartoon: bool
    """Whether it lies in a folder of cartoons; about half of the others are photos."""

    @property
    def caption(self) -> str:
        """The sentence in lower case, without its final stop."""
        return as_caption(self.sentence)


def stamps(split: Split | None = None) -> tuple[Stamp, ...]:
    """The stamps of a split, or all, in a mixed order.

    Raises:
        AssetMissing: the package was not fetched.
        DataError: no usable stamp is in it.
    """
    return _of_split(folders("stamps")[0], split)


@lru_cache(maxsize=16)
def _of_split(folder: Path, split: Split | None) -> tuple[Stamp, ...]:
    return pool(_stamps(folder), split, folder)


@lru_cache(maxsize=4)
def _stamps(folder: Path) -> tuple[Stamp, ...]:
    rows = indexed("stamps", folder, f"{_BELOW}/**/*.*", _read)
    rows = [{**row, "sentence": said} for row in rows if (said := sentence_of(row["text"]))]
    keys = [row["key"] for row in rows]
    marks = [_marks(row) for row in rows]
    first = groups(keys, marks, np.stack([row["look"].thumbnail() for row in rows])) if rows else []
    return tuple(_stamp(folder / _BELOW, row, group) for row, group in zip(rows, first, strict=True))


def _read(folder: Path) -> list[tuple[Row, Look]]:
    """All pictures with a text beside them that can be drawn."""
    root, found = folder / _BELOW, []
    paths = sorted(p for p in root.rglob("*") if p.suffix in (".png", ".svg"))
    for done, path in enumerate(paths):
        preparing("looking at stamps", done + 1, len(paths))
        text = path.with_suffix(".txt")
        if not text.exists() or (path.suffix == ".svg" and path.with_suffix(".png").exists()):
            continue
        lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
        if lines and (look := look_at(path)):
            found.append(({"key": path.relative_to(root).as_posix(), "text": lines[0]}, look))
    return found


def _stamp(root: Path, row: Row, group: str) -> Stamp:
    name = name_of(row["sentence"]) if not row["key"].startswith("symbols/alphabets") else ""
    return Stamp(key=row["key"], group=f"stamps/{group}", path=root / row["key"], look=row["look"], name=name,
                 kind=_kind(row["key"], name), sentence=row["sentence"], cartoon="/cartoon/" in row["key"])


def sentence_of(text: str) -> str:
    """The sentence that says what is to be seen; '' where the text is empty, long, or says something else."""
    sentence = first_sentence(plain(text))
    sentence = sentence[1:-1] if re.fullmatch(r'"[^"]*"', sentence) else sentence
    if not re.search(r"[A-Za-z]{2}", sentence) or len(sentence.split()) > LONGEST or _TALKS.search(sentence):
        return ""
    return sentence[0].upper() + sentence[1:] + "."


def name_of(sentence: str) -> str:
    """The name in 'A/An/The/Some NAME.', of at most three words; '' where the sentence says more than a name."""
    said = sentence.rstrip(".").lower()
    match = _NAME.fullmatch(said)
    name = match[1].replace("t shirt", "t-shirt") if match else said if said in kinds() else ""
    return "" if _NO_NAME.search(name) else name


def _kind(key: str, name: str) -> str:
    if kind := kind_of(name):
        return kind
    if _KIND_BY_NAME_ONLY.search(key):
        return ""
    return next((kind for folder, kind in _KINDS.items() if key.startswith(f"{folder}/")), "")


def _marks(row: Row) -> list[str]:
    """What variants of one picture share: the file's content; folder and stem (`lion`, `lion-2`); folder and text."""
    folder, _, file = row["key"].rpartition("/")
    # Among the symbols a number or a letter is what is shown.
    tail = r"$" if folder.startswith("symbols") else r"[-_]?(?:\d+|left|right|silo|stand)?$"
    stem = re.sub(tail, "", file.rpartition(".")[0])
    return [row["look"].digest, f"{folder}/{stem}", f"{folder}: {row['sentence']}"]
