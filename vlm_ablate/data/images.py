"""From a picture to encoder views: the resize and split rules of the papers, without torchvision.

The rules are those of transformers' Idefics2 and Idefics3 image processors (the PIL ones): same sizes, same
filters, same order, so pixel values are equal bit for bit unless `ImageConfig.fast` is set. How many views an image
gives and how large they are is known from its size alone.
"""

from __future__ import annotations

import math
from typing import TypeGuard

import numpy as np
from PIL import Image

from vlm_ablate.config.data import ImageConfig
from vlm_ablate.data.sample import ImageRef
from vlm_ablate.errors import DataError

Size = tuple[int, int]
"""(height, width) in pixels."""

MAX_SIDE = 4096
"""Upper bound on a side before tiling (transformers' Idefics3)."""

FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Pillow's, by the names that an `ImageConfig` has for them."""


def views_of_size(width: int, height: int, config: ImageConfig) -> list[Size]:
    """(height, width) of each view that an image of that size gives, in reading order.

    Raises:
        DataError: an image too small to be cut into crops.
    """
    if config.split == "tiles":
        rows, cols = tile_grid(width, height, config)
        return [(config.tile, config.tile)] * (rows * cols + 1)
    if config.split == "crops":
        return [_whole_size(box[2] - box[0], box[3] - box[1], config) for box in _crop_boxes(width, height)]
    return [_whole_size(width, height, config)]


def tile_grid(width: int, height: int, config: ImageConfig) -> tuple[int, int]:
    """(rows, columns) of tiles, the downscaled original not counted; (0, 0) when the image is not cut."""
    if config.split != "tiles":
        return 0, 0
    tall, wide = _tiled_size(width, height, config)
    return (0, 0) if tall <= config.tile and wide <= config.tile else (tall // config.tile, wide // config.tile)


def views(image: Image.Image, config: ImageConfig, size: tuple[int, int] | None = None) -> list[np.ndarray]:
    """The views of an RGB image, each uint8 (height, width, 3): crops or tiles row by row, the whole one last.

    `size` (width, height) is the image's size before a draft decode, which the rules refer to.
    """
    if size is not None and image.size != size and config.split == "crops":
        raise DataError("a draft decode cannot be cut into crops")
    width, height = size or image.size
    if config.split == "tiles":
        return _tiles(image, (width, height), config)
    if config.split == "crops":
        return [_whole(image.crop(box), config) for box in _crop_boxes(width, height)]
    return [_pixels(_resized(image, _whole_size(width, height, config), config))]


def load_views(ref: ImageRef, config: ImageConfig) -> tuple[list[np.ndarray], list[Size]]:
    """Decode a picture and cut it into views; with `fast`, a JPEG is decoded no larger than needed.

    Raises:
        DataError: the picture cannot be used; the message names it.
    """
    source = ref.source
    if config.split == "none" and _is_rgb_array(source):
        height, width = source.shape[:2]
        if views_of_size(width, height, config) == [(height, width)]:
            return [source], [(height, width)]  # composed pictures often have the right size: nothing to do
    if not config.fast or config.split == "crops":
        image = ref.load()
        return views(image, config), views_of_size(*image.size, config)
    width, height = ref.size()
    tall, wide = _tiled_size(width, height, config) if config.split == "tiles" else _whole_size(width, height, config)
    # Twice the target leaves the filter enough to work with.
    image = ref.load(draft=(2 * wide, 2 * tall))
    return views(image, config, (width, height)), views_of_size(width, height, config)


def _is_rgb_array(source: object) -> TypeGuard[np.ndarray]:
    return (
        isinstance(source, np.ndarray) and source.dtype == np.uint8 and source.shape[2:] == (3,) and source.size > 0
    )


def _whole(image: Image.Image, config: ImageConfig) -> np.ndarray:
    return _pixels(_resized(image, _whole_size(*image.size, config), config))


def _whole_size(width: int, height: int, config: ImageConfig) -> Size:
    """Idefics2: longest side at most `size`, then each side at least `shortest`; aspect ratio kept in between."""
    if config.resize == "square":
        return config.size, config.size
    ratio = width / height
    if width >= height and width > config.size:
        width, height = config.size, int(config.size / ratio)
    elif height > width and height > config.size:
        width, height = int(config.size * ratio), config.size
    least = config.shortest or 1
    return max(height, least), max(width, least)


def _crop_boxes(width: int, height: int) -> list[tuple[int, int, int, int]]:
    if width < 2 or height < 2:
        raise DataError(f"an image of {width}x{height} px cannot be cut into four crops")
    x, y = width // 2, height // 2
    return [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height), (0, 0, width, height)]


def _longest_side_size(width: int, height: int, longest: int) -> Size:
    """Idefics3: the longest side becomes `longest` (also upwards), the other even and at least 1, none above 4096."""
    ratio = width / height
    if width >= height:
        width, height = longest, int(longest / ratio)
        height += height % 2
    else:
        width, height = int(longest * ratio), longest
        width += width % 2
    width, height = max(width, 1), max(height, 1)
    ratio = width / height
    if width >= height and width > MAX_SIDE:
        width, height = MAX_SIDE, int(MAX_SIDE / ratio)
    elif height > width and height > MAX_SIDE:
        width, height = int(MAX_SIDE * ratio), MAX_SIDE
    return max(height, 1), max(width, 1)


def _tiled_size(width: int, height: int, config: ImageConfig) -> Size:
    """Idefics3: both sides rounded up to multiples of the tile, the longer one first."""
    tall, wide = _longest_side_size(width, height, config.size)
    ratio, tile = wide / tall, config.tile
    if wide >= tall:
        wide = math.ceil(wide / tile) * tile
        tall = math.ceil(int(wide / ratio) / tile) * tile
    else:
        tall = math.ceil(tall / tile) * tile
        wide = math.ceil(int(tall * ratio) / tile) * tile
    return max(tall, tile), max(wide, tile)


def _tiles(image: Image.Image, size: tuple[int, int], config: ImageConfig) -> list[np.ndarray]:
    tile = config.tile
    image = _resized(image, _longest_side_size(*size, config.size), config)
    image = _resized(image, _tiled_size(*size, config), config)
    if image.width <= tile and image.height <= tile:
        return [_pixels(image)]
    pixels = _pixels(image)
    cut = [
        pixels[y : y + tile, x : x + tile] for y in range(0, image.height, tile) for x in range(0, image.width, tile)
    ]
    return [*cut, _pixels(_resized(image, (tile, tile), config))]


def _pixels(image: Image.Image) -> np.ndarray:
    """(height, width, 3) uint8, read-only. Pillow keeps RGB in four bytes; packing them takes ten times longer."""
    return np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8).reshape(image.height, image.width, 4)[..., :3]


def _resized(image: Image.Image, size: Size, config: ImageConfig) -> Image.Image:
    if (image.height, image.width) == size:
        return image
    return image.resize((size[1], size[0]), filter_of(config), reducing_gap=2.0 if config.fast else None)


def filter_of(config: ImageConfig) -> Image.Resampling:
    """The filter that images are resized with; "auto" is what transformers uses."""
    name = config.resample
    if name == "auto":
        name = "lanczos" if config.split == "tiles" else "bicubic" if config.resize == "square" else "bilinear"
    return FILTERS[name]
