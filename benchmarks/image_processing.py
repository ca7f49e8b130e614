"""Splitting an image into tiles: our views against transformers' Idefics3 processor (PIL), one process, one thread.

    OMP_NUM_THREADS=1 python benchmarks/image_processing.py

Checks that all pixels are equal, then times both in turn, a few calls each after one that is not counted (so that
neither pays for the memory that the other has just given back), and prints the median process time of a call and the
median and the range of the ratios of neighbours in time. About a minute on a busy machine.
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

CASES = [((1456, 1456), 1456), ((1456, 1092), 1456), ((1024, 768), 1456), ((1820, 1287), 1820)]
"""(width, height) of an image, and the longest side before tiling: sizes as they are, enlarged, and a page."""
ROUNDS, CALLS = 9, 3


def milliseconds(work: Callable[[], object]) -> float:
    """Process time of a call of `work`, the first one not counted."""
    work()
    start = time.process_time()
    for _ in range(CALLS):
        work()
    return (time.process_time() - start) * 1e3 / CALLS


def photo(width: int, height: int) -> Image.Image:
    """Smooth random colours."""
    small = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def compare(size: tuple[int, int], longest: int) -> str:
    """One line of the result."""
    half, image = (0.5, 0.5, 0.5), photo(*size)
    processor, normalise = Idefics3ImageProcessorPil(size={"longest_edge": longest}), Normaliser(half, half)
    config = ImageConfig(split="tiles", size=longest, tile=364)

    def theirs() -> np.ndarray:
        return processor([[image]], return_tensors="np")["pixel_values"][0]

    def ours() -> np.ndarray:
        return normalise.all(views(image, config))

    np.testing.assert_array_equal(ours(), theirs())
    times = [(milliseconds(theirs), milliseconds(ours)) for _ in range(ROUNDS)]
    ratios = sorted(a / b for a, b in times)
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    return (
        f"{size[0]}x{size[1]} at {longest}: transformers {a:6.1f} ms, ours {b:6.1f} ms, "
        f"{statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f}), pixels equal"
    )


def main() -> None:
    """Print one line for each case."""
    for size, longest in CASES:
        print(compare(size, longest))


if __name__ == "__main__":
    main()
