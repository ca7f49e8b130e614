"""Scenes: up to four drawings on a coloured ground; questions of what, where, how many and which colour; captions."""

from __future__ import annotations

import random
from dataclasses import dataclass

from vlm_ablate.offline.canvas import COLOURS, Canvas, grid_square
from vlm_ablate.offline.item import Item, item_rng
from vlm_ablate.offline.pictures import Drawable, Split, things

PLACES = ("top left", "top right", "bottom left", "bottom right")
NUMBERS = ("one", "two", "three", "four")


@dataclass(frozen=True)
class Scene:
    """What a picture shows: a ground colour and things in places."""

    ground: str
    placed: tuple[tuple[str, Drawable], ...]

    def describe(self) -> str:
        """The scene in words, e.g. 'cat top left, drum bottom right, ground red'."""
        return ", ".join([*(f"{p.name} {place}" for place, p in self.placed), f"ground {self.ground}"])


def sample_scene(rng: random.Random, split: Split | None, *, least: int = 1, most: int = 4) -> Scene:
    """A random scene of pictures of one split (or of all)."""
    pool = things(split)
    count = rng.randint(least, most)
    places = sorted(rng.sample(range(4), count))
    chosen = [rng.choice(pool)] * count if count > 1 and rng.random() < 0.25 else rng.sample(pool, count)
    return Scene(rng.choice(list(COLOURS)), tuple((PLACES[i], p) for i, p in zip(places, chosen, strict=True)))


def draw_scene(scene: Scene, rng: random.Random, size: int) -> Canvas:
    """Draw it on a square of `size` pixels, each thing somewhere in its quarter."""
    canvas = Canvas(size, size, COLOURS[scene.ground], rng)
    half = size // 2
    for place, picture in scene.placed:
        box = (half if "right" in place else 0, half if "bottom" in place else 0, half, half)
        canvas.paste(picture, *grid_square(rng, box, (0.75, 1.0)))
    return canvas


def vqa(split: Split, index: int, size: int) -> Item:
    """An open-ended question about a scene."""
    rng = item_rng("vqa", split, index)
    scene = sample_scene(rng, split)
    canvas = draw_scene(scene, rng, size)
    question, answer = ask_scene(scene, rng, split)
    return Item(f"vqa/{split}/{index}", canvas.pixels(), question, answer, (answer,), scene.describe(),
                tuple(canvas.regions))


def ask_scene(scene: Scene, rng: random.Random, split: Split | None) -> tuple[str, str]:
    """A question and its answer: what is there (40 %), ground colour, how many, where (15-18 % each), is there."""
    names = [p.name for _, p in scene.placed]
    unique = [(place, p.name) for place, p in scene.placed if names.count(p.name) == 1]
    kind = rng.choices(("what", "colour", "count", "where", "is"), (40, 18, 17, 15, 10))[0]
    if kind == "what":
        place, picture = rng.choice(scene.placed)
        return f"What is at the {place}?", picture.name
    if kind == "where" and unique:
        place, name = rng.choice(unique)
        return f"Where is the {name}?", place
    if kind == "is":
        if rng.random() < 0.5:
            return f"Is there a {rng.choice(names)}?", "yes"
        other = rng.choice([p.name for p in things(split) if p.name not in names])
        return f"Is there a {other}?", "no"
    if kind == "colour":
        return "What colour is the ground?", scene.ground
    return "How many things are there?", NUMBERS[len(names) - 1]


def caption(split: Split, index: int, size: int) -> Item:
    """A scene of one or two things; the answer tells all of it, the references are five people's captions."""
    rng = item_rng("caption", split, index)
    scene = sample_scene(rng, split, most=2)
    canvas = draw_scene(scene, rng, size)
    return Item(f"caption/{split}/{index}", canvas.pixels(), "", wordings(scene)[0], references(scene),
                scene.describe(), tuple(canvas.regions))


def wordings(scene: Scene) -> tuple[str, str, str]:
    """Three captions that tell all of a scene of one or two things."""
    ground = f"on {scene.ground} ground"
    names = [p.name for _, p in scene.placed]
    a, b = names[0], names[-1]
    if len(names) == 1:
        return f"a {a} {ground}", f"one {a} {ground}", f"a picture of a {a} {ground}"
    if a == b:
        return (f"a {a} and another {a} {ground}", f"one {a} and another {ground}",
                f"a picture of a {a} and another {a} {ground}")
    return f"a {a} and a {b} {ground}", f"a {b} and a {a} {ground}", f"a picture of a {a} and a {b} {ground}"


def references(scene: Scene) -> tuple[str, ...]:
    """Five captions of a scene of one or two things. As people do, each tells another part in other words."""
    place, first = scene.placed[0]
    a, b, g = first.name, scene.placed[-1][1].name, scene.ground
    if len(scene.placed) == 1:
        return (f"{g} ground and a {a}", f"there is only one {a} here", f"some {g} paper showing one single thing",
                f"the {place} holds a {a}", f"everything is {g} except for this {a}")
    both = f"two of the same {a}" if a == b else f"the {b} together with the {a}"
    return (f"{g} ground, a {a}, a {b}", f"{both}", f"some {g} paper showing a pair of things",
            f"the {place} holds a {a}", f"everything is {g} except for this {b}")
