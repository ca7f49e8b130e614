"""Which demonstrations stand before which item: random or fixed, with their own seed, or nearest by image features
(RICES)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.evaluation import Demonstrations
from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.benchmarks.base import Benchmark, BenchmarkItem
from vlm_ablate.evaluation.prompts import draw_fixed, draw_nearest, draw_pool, draw_random

if TYPE_CHECKING:
    from torch import Tensor

    from vlm_ablate.data.sample import ImageRef
    from vlm_ablate.models.vision.base import VisionEncoder


def described(config: Demonstrations, shots: int, encoder: str) -> str:
    """How demonstrations are chosen, as score records say it: "random" also where there are none.

    Args:
        encoder: name of the one by whose features the nearest are found.
    """
    selection = config.selection if shots else "random"
    return f"nearest:{encoder}" if selection == "nearest" else selection


class Demonstrator:
    """Draws the demonstrations of items from the benchmark's train split.

    "random" depends on benchmark, item and seed alone; "fixed" gives all items the same ones. "nearest" ranks the pool
    by the cosine of pooled features of the given encoder (first image of each item; the query's own pictures are left
    out), so arms with different encoders may see different ones; the record's `demonstrations` names the encoder.
    """

    def __init__(
        self, benchmark: Benchmark, shots: int, config: Demonstrations, vision: VisionEncoder, image: ImageConfig
    ) -> None:
        self._name, self._shots, self._config = benchmark.config.name, shots, config
        self._vision, self._image = vision, image
        self._train: Sequence[BenchmarkItem] = benchmark.items("train") if shots else ()
        self._pool = draw_pool(self._name, len(self._train), config.pool, config.seed)
        self._features: Tensor | None = None
        if shots and not self._pool:
            told = f"benchmark {self._name!r} has no train split to draw demonstrations from"
            raise DataError(told, hint="set evaluation.shots to 0")

    @property
    def description(self) -> str:
        """What a score record says about them."""
        encoder = getattr(getattr(self._vision, "config", None), "name", type(self._vision).__name__)
        return described(self._config, self._shots, encoder)

    def draw(self, items: Sequence[BenchmarkItem]) -> list[list[BenchmarkItem]]:
        """The demonstrations of each item, in the order in which they stand in the prompt.

        Raises:
            DataError: the train split has too few different pictures.
        """
        if not self._shots or self._config.selection != "nearest":
            draw = draw_fixed if self._config.selection == "fixed" else draw_random
            return [draw(self._name, i, self._train, self._pool, self._shots, self._config.seed) for i in items]
        from vlm_ablate.evaluation.features import pooled_features, rank_by_similarity

        if self._features is None:
            pool = [self._image_of(self._train[p]) for p in self._pool]
            self._features = pooled_features(self._vision, pool, self._image)
        queries = pooled_features(self._vision, [self._image_of(item) for item in items], self._image)
        ranking = rank_by_similarity(queries, self._features).tolist()
        return [
            draw_nearest(self._name, item, self._train, [self._pool[p] for p in order], self._shots)
            for item, order in zip(items, ranking, strict=True)
        ]

    def _image_of(self, item: BenchmarkItem) -> ImageRef:
        if not item.images:
            message = f"benchmark {self._name!r}: item {item.id!r} has no image to be ranked by"
            raise DataError(message, hint="set evaluation.demonstrations.selection to random")
        return item.images[0]
