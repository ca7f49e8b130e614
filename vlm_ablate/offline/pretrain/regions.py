"""Composed pictures for the stand-in encoder's pretraining, with regions whose text is known."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from vlm_ablate.offline import pictures, reading, scenes
from vlm_ablate.offline.canvas import COLOURS, Canvas, Rgb, grid_square, ink_on, spaced_word
from vlm_ablate.offline.facts import ascii_fold
from vlm_ablate.offline.item import Region
from vlm_ablate.offline.pretrain.vision_recipe import VisionRecipe

IGNORE = -100
"""Index of a text that is not known."""


class TextBank:
    """All texts of regions and their indices: names, then places, then grounds."""

    def __init__(self) -> None:
        names = {ascii_fold(p.name) for p in pictures.pictures()} | set(reading.lexicon())
        names |= set("0123456789") | {f"{c} bar" for c in COLOURS}
        self.names = sorted(names)
        self.places = list(scenes.PLACES)
        self.grounds = [f"ground {c}" for c in COLOURS]
        self.index = {text: i for i, text in enumerate(self.names)}

    def name_index(self, text: str) -> int:
        """Index of a region's text, or -100 when it has none (labels of tables)."""
        return self.index.get(ascii_fold(text), IGNORE)


@dataclass
class Regions:
    """The regions of a batch: pooling weights over patches and the indices of their texts."""

    weights: Tensor
    """(regions, patches) float, rows sum to 1."""
    image: Tensor
    """(regions,) long: the picture of each."""
    name: Tensor
    """(regions,) long, -100 = none."""
    place: Tensor
    """(regions,) long, -100 = none."""
    ground: Tensor
    """(regions,) long, -100 = none."""


class PretrainPictures(IterableDataset[tuple[Tensor, Regions]]):
    """Endless batches of composed pictures (batch, 3, height, width) in [-1, 1] with their regions."""

    def __init__(self, recipe: VisionRecipe, phase: str, shares: tuple[int, ...]) -> None:
        self.recipe, self.bank, self.phase, self.shares = recipe, TextBank(), phase, shares

    def __iter__(self) -> Iterator[tuple[Tensor, Regions]]:
        rng = random.Random(f"vision/{self.phase}/{self.recipe.seed}")
        while True:
            height, width = rng.choice(self.recipe.sizes)
            kinds = rng.choices(self.recipe.kinds, self.shares, k=self.recipe.batch_size)
            made = [_compose(rng, kind, height, width) for kind in kinds]
            pixels = torch.from_numpy(np.stack([canvas.pixels() for canvas, _ in made])).permute(0, 3, 1, 2)
            yield pixels.float() / 127.5 - 1, self._regions(made, height, width)

    def _regions(self, made: list[tuple[Canvas, str]], height: int, width: int) -> Regions:
        patch, rows = self.recipe.patch, []
        for number, (canvas, ground) in enumerate(made):
            free = np.ones((height // patch, width // patch), np.float32)
            for region in canvas.regions:
                cover = _cover(region, height, width, patch)
                free *= cover < 0.02
                rows.append((cover, number, self.bank.name_index(region.text), _place(region, height, width), IGNORE))
            if ground and free.sum() >= 2:
                rows.append((free, number, IGNORE, IGNORE, self.bank.grounds.index(f"ground {ground}")))
        weights = torch.from_numpy(np.stack([r[0].reshape(-1) for r in rows]))
        numbers = torch.tensor([r[1:] for r in rows])
        return Regions(weights / weights.sum(1, keepdim=True).clamp(min=1e-6), *numbers.unbind(1))


def _compose(rng: random.Random, kind: str, height: int, width: int) -> tuple[Canvas, str]:
    """A scene, flag, sign, number, chart or table; the ground's colour if it has a name."""
    ground = rng.choice(list(COLOURS))
    if kind in ("number", "chart", "table") and height == width:
        split = rng.choice(("train", "tune"))
        return getattr(reading, kind)(rng, split, height)[0], ""
    canvas = Canvas(width, height, COLOURS[ground], rng)
    if kind == "flag":
        canvas.paste(rng.choice(pictures.flags()), *grid_square(rng, (0, 0, width, height), (0.75, 1.0)))
    elif kind == "sign":
        word = rng.choice(reading.lexicon())
        spaced_word(canvas, word, (0, 0, width, height), ink_on(COLOURS[ground]))
    else:
        _fill_cells(canvas, rng, words=kind == "mixed", ink=ink_on(COLOURS[ground]))
    return canvas, ground


def _fill_cells(canvas: Canvas, rng: random.Random, *, words: bool, ink: Rgb) -> None:
    """One to four drawings (and, in a mixed picture, words) in the quarters of the canvas."""
    width, height = canvas.size
    for cell in range(4) if rng.random() < 0.8 else rng.sample(range(4), rng.randint(1, 3)):
        x, y = (cell % 2) * (width // 2), (cell // 2) * (height // 2)
        if words and rng.random() < 0.4 and width >= 64:
            word = rng.choice([w for w in reading.lexicon() if len(w) <= 4])
            spaced_word(canvas, word, (x, y, x + width // 2, y + height // 2), ink)
            continue
        picture = rng.choice(pictures.things() if rng.random() < 0.85 else pictures.flags())
        canvas.paste(picture, *grid_square(rng, (x, y, width // 2, height // 2), (0.75, 1.0)))


def _cover(region: Region, height: int, width: int, patch: int) -> np.ndarray:
    """Share of every patch that the region's box covers, (rows, columns)."""
    x0, y0, x1, y1 = region.box
    xs = np.arange(width // patch) * patch
    ys = np.arange(height // patch) * patch
    across = np.clip(np.minimum(xs + patch, x1) - np.maximum(xs, x0), 0, patch) / patch
    down = np.clip(np.minimum(ys + patch, y1) - np.maximum(ys, y0), 0, patch) / patch
    return np.outer(down, across).astype(np.float32)


def _place(region: Region, height: int, width: int) -> int:
    """Index of the quarter that holds the region, or -100 when it reaches over the middle."""
    x0, y0, x1, y1 = region.box
    if (x1 - x0) > width * 0.55 or (y1 - y0) > height * 0.55:
        return IGNORE
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    return (2 if cy >= height / 2 else 0) + (1 if cx >= width / 2 else 0)
