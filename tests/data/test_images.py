"""Views equal those of transformers' PIL processors, and their number and size are known from the header."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PilImage
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.data.conftest import picture
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.data.images import load_views, tile_grid, views, views_of_size
from vlm_ablate.data.normalise import Normaliser
from vlm_ablate.data.sample import ImageRef
from vlm_ablate.errors import DataError

HALF = (0.5, 0.5, 0.5)
NATIVE = [(640, 480), (1024, 768), (100, 60), (1, 2000), (2000, 1), (979, 981), (380, 378), (1, 1)]
TILED = [(640, 480), (300, 900), (364, 364), (1, 2000), (2000, 1), (77, 78), (1000, 371)]


def normalised(image: PilImage.Image, config: ImageConfig) -> list[np.ndarray]:
    return [Normaliser(HALF, HALF)(view) for view in views(image, config)]


def assert_equal(ours: list[np.ndarray], theirs: dict) -> None:
    """Bit for bit inside the pixel mask; `theirs` is one image of a processor's padded output."""
    values, mask = theirs["pixel_values"][0], theirs["pixel_attention_mask"][0].astype(bool)
    assert len(values) == len(ours)
    for view, value, valid in zip(ours, values, mask, strict=True):
        height, width = view.shape[1:]
        assert valid.sum() == height * width
        np.testing.assert_array_equal(view, value[:, :height, :width])


@pytest.mark.parametrize("size", NATIVE)
@pytest.mark.parametrize("split", ["none", "crops"])
def test_native_views_equal_idefics2(size: tuple[int, int], split: str) -> None:
    if split == "crops" and min(size) < 2:
        pytest.skip("transformers fails on it; we refuse it, tested below")
    processor = Idefics2ImageProcessorPil(do_image_splitting=split == "crops", image_mean=HALF, image_std=HALF)
    config = ImageConfig(resize="native", size=980, shortest=378, split=split)
    image = picture(*size)
    assert_equal(normalised(image, config), processor([[image]], return_tensors="np"))


@pytest.mark.parametrize("size", TILED)
@pytest.mark.parametrize("longest", [364, 728, 1092])
def test_tiles_equal_idefics3(size: tuple[int, int], longest: int) -> None:
    processor = Idefics3ImageProcessorPil(
        size={"longest_edge": longest}, max_image_size={"longest_edge": 364}, return_row_col_info=True,
        image_mean=HALF, image_std=HALF,
    )
    config = ImageConfig(split="tiles", size=longest, tile=364)
    image = picture(*size)
    theirs = processor([[image]], return_tensors="np")
    assert_equal(normalised(image, config), theirs)
    assert tile_grid(*size, config) == (theirs["rows"][0][0], theirs["cols"][0][0])


@pytest.mark.parametrize(("size", "longest", "count"), [((1456, 1092), 1456, 13), ((700, 990), 1820, 21)])
def test_tiles_of_the_papers_sizes_equal_idefics3(size: tuple[int, int], longest: int, count: int) -> None:
    """364-px tiles of a photo at 4 x 364 and of a page at 5 x 364, with the processor's own defaults otherwise."""
    processor, image = Idefics3ImageProcessorPil(size={"longest_edge": longest}), picture(*size)
    ours = normalised(image, ImageConfig(split="tiles", size=longest, tile=364))
    assert len(ours) == count
    np.testing.assert_array_equal(ours, processor([[image]], return_tensors="np")["pixel_values"][0])


@pytest.mark.parametrize("longest", [364, 1456, 1820])
def test_counts_of_any_size_are_those_that_transformers_foretells(longest: int) -> None:
    processor = Idefics3ImageProcessorPil(size={"longest_edge": longest})
    config = ImageConfig(split="tiles", size=longest, tile=364)
    rng = np.random.default_rng(2)
    for width, height in (np.exp(rng.uniform(0, np.log(6000), (500, 2)))).astype(int).tolist():
        count, *grid = processor.get_number_of_image_patches(height, width)
        assert tile_grid(width, height, config) == tuple(grid)
        assert len(views_of_size(width, height, config)) == (count or 1)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((2000, 1000), (490, 980)), ((1000, 2000), (980, 490)), ((3000, 500), (378, 980)), ((500, 200), (378, 500)),
     ((100, 60), (378, 378)), ((640, 480), (480, 640))],
)  # fmt: skip
def test_native_sides_lie_between_378_and_980(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert views_of_size(*size, ImageConfig(resize="native", size=980, shortest=378)) == [expected]


def test_square_view_equals_siglip() -> None:
    image = picture(300, 200)
    theirs = SiglipImageProcessorPil(size={"height": 64, "width": 64})(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(normalised(image, ImageConfig(size=64))[0], theirs)


@pytest.mark.parametrize(
    "config",
    [
        ImageConfig(size=64),
        ImageConfig(size=64, split="crops"),
        ImageConfig(resize="native", size=98, shortest=42),
        ImageConfig(resize="native", size=98, shortest=42, split="crops"),
        ImageConfig(split="tiles", size=128, tile=32),
        ImageConfig(split="tiles", size=32, tile=32),
    ],
)
def test_sizes_are_known_before_pixels(config: ImageConfig) -> None:
    rng = np.random.default_rng(1)
    for width, height in rng.integers(2, 300, (60, 2)):
        sizes = views_of_size(int(width), int(height), config)
        assert [v.shape[:2] for v in views(picture(int(width), int(height)), config)] == sizes


def test_idefics_counts_of_the_papers() -> None:
    assert len(views_of_size(980, 980, ImageConfig(resize="native", size=980, shortest=378, split="crops"))) == 5
    assert len(views_of_size(1456, 1456, ImageConfig(split="tiles", size=1456))) == 17
    assert len(views_of_size(1820, 1820, ImageConfig(split="tiles", size=1820))) == 26


def test_crops_need_two_pixels() -> None:
    with pytest.raises(DataError, match="1x2000"):
        views_of_size(1, 2000, ImageConfig(split="crops"))


def test_fast_path_stays_close_and_keeps_sizes(tmp_path) -> None:
    path = tmp_path / "large.jpg"
    smooth = picture(80, 60).resize((1600, 1200), PilImage.Resampling.BICUBIC)
    smooth.save(path, quality=95)
    for shape in (ImageConfig(size=96), ImageConfig(resize="native", size=120, shortest=40),
                  ImageConfig(split="tiles", size=128, tile=64)):
        exact, sizes = load_views(ImageRef(path), shape)
        fast, fast_sizes = load_views(ImageRef(path), shape.model_copy(update={"fast": True}))
        assert sizes == fast_sizes == [v.shape[:2] for v in fast]
        assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(exact, fast, strict=True)) < 2.5


def test_normalising_together_or_alone_is_the_same() -> None:
    normalise = Normaliser((0.1, 0.5, 0.4), (0.2, 0.5, 0.3))
    stack = [np.asarray(picture(9, 7, seed=i)) for i in range(3)]
    np.testing.assert_array_equal(normalise.all(stack), np.stack([normalise(view) for view in stack]))


def test_normalised_values_have_the_bits_of_a_double_precision_rescale() -> None:
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    exact = (levels.astype(np.float64) * (1 / 255)).astype(np.float32)
    expected = (exact - np.float32(mean)) / np.float32(std)
    np.testing.assert_array_equal(Normaliser(mean, std)(levels), expected.transpose(2, 0, 1))


def test_an_array_of_the_right_size_is_taken_as_it_is() -> None:
    config = ImageConfig(size=20)
    for size in ((20, 20), (20, 19)):
        pixels = np.asarray(picture(*size))
        ours, sizes = load_views(ImageRef(pixels), config)
        np.testing.assert_array_equal(ours[0], views(PilImage.fromarray(pixels), config)[0])
        assert sizes == [(20, 20)]
