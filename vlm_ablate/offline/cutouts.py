"""Scenes of photos, clip art and drawings, so that a name has many faces; what is there, where, and what kind?"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from vlm_ablate.offline.canvas import COLOURS
from vlm_ablate.offline.debian import clip_art, stamps
from vlm_ablate.offline.debian.catalogue import folders
from vlm_ablate.offline.debian.drawing import Drawing
from vlm_ablate.offline.item import Item, item_rng
from vlm_ablate.offline.kinds import is_plural, kind_of, plain_name, with_article
from vlm_ablate.offline.pictures import Picture, Split, things
from vlm_ablate.offline.scenes import NUMBERS, PLACES, Scene, draw_scene

_MET = 0.75
"""Share of the pictures of tune and report whose names have another picture in train: known names, new faces."""

# Most living things have eyes and hands, so none can be said to be absent.
_NEVER_ABSENT = frozenset({"body part"})
_WORN = frozenset({"hat", "piece of clothing", "shoe", "eyewear", "jewellery"})


@dataclass(frozen=True)
class Cutout:
    """A picture of any collection whose name and kind are known."""

    picture: Picture | Drawing
    name: str
    """The plain one: 'hat' of a brown hat."""
    kind: str
    grounds: tuple[str, ...]
    """The colours on which it can be seen."""

    def raster(self, size: int) -> np.ndarray:
        """The picture as uint8 RGBA of shape (size, size, 4)."""
        return self.picture.raster(size)


def cutouts_of(split: Split) -> tuple[Cutout, ...]:
    """The pictures of a split from which scenes are made.

    Raises:
        AssetMissing: stamps or clip art were not fetched, or a package of the `offline` extra is not installed.
    """
    return _of_split(folders("stamps")[0], folders("clip_art")[0], split)


@lru_cache(maxsize=12)
def _of_split(stamp_folder: Path, clip_art_folder: Path, split: Split) -> tuple[Cutout, ...]:
    del stamp_folder, clip_art_folder                # only to tell homes apart
    files: tuple[Drawing, ...] = (*stamps.stamps(split), *clip_art.clip_art(split))
    drawn = [Cutout(p, plain_name(p.name) or p.name, p.kind, p.look.grounds) for p in files if p.name and p.kind]
    emoji = [Cutout(p, p.name, kind, tuple(COLOURS)) for p in things(split) if (kind := kind_of(p.name))]
    return (*drawn, *emoji)


def met_in_train(split: Split) -> tuple[Cutout, ...]:
    """The pictures of a split whose names pictures of the train split have too; all where there are none."""
    return _met(cutouts_of(split), cutouts_of("train"))


@lru_cache(maxsize=12)
def _met(pool: tuple[Cutout, ...], train: tuple[Cutout, ...]) -> tuple[Cutout, ...]:
    names = {p.name for p in train}
    return tuple(p for p in pool if p.name in names) or pool


def cutouts(split: Split, index: int, size: int) -> Item:
    """A scene of one to four pictures and an open-ended question about it.

    To what something is, the whole name of its picture ('brown hat') is a second reference.

    Raises:
        AssetMissing: stamps or clip art were not fetched, or a package of the `offline` extra is not installed.
    """
    rng = item_rng("cutouts", split, index)
    pool = cutouts_of(split)
    scene = sample_scene(rng, pool, pool if split == "train" else met_in_train(split))
    canvas = draw_scene(scene, rng, size)
    question, answer = ask(scene, rng, pool)
    full = [p.picture.name for place, p in _cutouts(scene) if question == f"What is at the {place}?"]
    told = [f"{p.name} ({p.kind}) {place}" for place, p in _cutouts(scene)]
    description = ", ".join([*told, f"ground {scene.ground}"])
    return Item(f"cutouts/{split}/{index}", canvas.pixels(), question, answer,
                tuple(dict.fromkeys((answer, *full))), description,
                tuple(canvas.regions))


def sample_scene(rng: random.Random, pool: tuple[Cutout, ...], met: tuple[Cutout, ...]) -> Scene:
    """One to four pictures, in one scene of four with one name only, on a ground on which all can be seen.

    Most are of `met`, a part of the pool.
    """
    count = rng.randint(1, 4)
    places = sorted(rng.sample(range(4), count))
    first = rng.choice(met if rng.random() < _MET else pool)
    alike = [p for p in pool if p.name == first.name] if count > 1 and rng.random() < 0.25 else []
    chosen, grounds = [first], first.grounds
    while len(chosen) < count:
        other = rng.choice(alike or (met if rng.random() < _MET else pool))
        shared = tuple(ground for ground in grounds if ground in other.grounds)
        if shared or alike:
            chosen.append(other if shared else first)
            grounds = shared or grounds
    return Scene(rng.choice(grounds), tuple((PLACES[i], p) for i, p in zip(places, chosen, strict=True)))


def ask(scene: Scene, rng: random.Random, pool: tuple[Cutout, ...]) -> tuple[str, str]:
    """A question and its answer: what (35 %), what kind, ground colour, how many, where (12-15 % each), is there.

    Where and whether something is are asked only if no other thing of the scene is of that kind, so that a duck is
    not also the bird that was meant; else how many there are.
    """
    placed = _cutouts(scene)
    names, kinds = [p.name for _, p in placed], [p.kind for _, p in placed]
    form = rng.choices(("what", "kind", "colour", "count", "where", "is"), (35, 15, 13, 12, 15, 10))[0]
    place, picture = rng.choice(placed)
    if form == "what":
        return f"What is at the {place}?", picture.name
    if form == "kind" and picture.kind not in picture.name.split():
        return f"What kind of thing is at the {place}?", picture.kind
    if form == "colour":
        return "What colour is the ground?", scene.ground
    if form == "where" and kinds.count(picture.kind) == 1:
        return f"Where {'are' if is_plural(picture.name) else 'is'} the {picture.name}?", place
    if form == "is":
        if rng.random() < 0.5:
            return _is_there(picture.name), "yes"
        return _is_there(_absent(rng, names, kinds, pool)), "no"
    return "How many things are there?", NUMBERS[len(placed) - 1]


def _cutouts(scene: Scene) -> list[tuple[str, Cutout]]:
    return [(place, picture) for place, picture in scene.placed if isinstance(picture, Cutout)]


def _absent(rng: random.Random, names: list[str], kinds: list[str], pool: tuple[Cutout, ...]) -> str:
    """A name of another kind than all that is there, and without a word of theirs."""
    words = {word for text in (*names, *kinds) for word in text.split()}
    barred = _NEVER_ABSENT.union(kinds, _WORN if "person" in kinds else ())
    while True:
        other = rng.choice(pool)
        if other.kind not in barred and not words & {*other.name.split(), *other.kind.split()}:
            return other.name


def _is_there(name: str) -> str:
    return f"Are there {name}?" if is_plural(name) else f"Is there {with_article(name)}?"
