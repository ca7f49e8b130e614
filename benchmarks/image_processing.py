"""Splitting an image into tiles: our views against transformers' Idefics3 processor (PIL), one process, one thread.

    OMP_NUM_THREADS=1 python benchmarks/image_processing.py

Checks that all pixels are equal, then prints the median process time of each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from PIL import Image
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from vlm_ablate.config.data import ImageConfig
from vlm_ablate.data.images import views
from vlm_ablate.data.normalise import Normaliser

SIZES = [(1456, 1456), (1456, 1092), (1024, 768)]
REPEATS = 15


def median_ms(work: Callable[[], object]) -> float:
    """Median process time of `work` in milliseconds, after one call that is not counted."""
    work()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times) * 1e3


def main() -> None:
    """Print one line for each image size."""
    half = (0.5, 0.5, 0.5)
    processor, normalise = Idefics3ImageProcessorPil(), Normaliser(half, half)
    config = ImageConfig(split="tiles", size=1456, tile=364)
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        small = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)

        def theirs(image: Image.Image = image) -> np.ndarray:
            return processor([[image]], return_tensors="np")["pixel_values"][0]

        def ours(image: Image.Image = image) -> np.ndarray:
            return normalise.all(views(image, config))

        np.testing.assert_array_equal(ours(), theirs())
        a, b = median_ms(theirs), median_ms(ours)
        print(f"{width}x{height}: transformers {a:6.1f} ms, ours {b:6.1f} ms, {a / b:.2f} times as fast, pixels equal")


if __name__ == "__main__":
    main()
