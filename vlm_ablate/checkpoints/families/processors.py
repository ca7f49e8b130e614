"""The image processors of Idefics2 and Idefics3 as image configurations of ours: expressed in full, or refused."""

from __future__ import annotations

from typing import Any

from vlm_ablate.config.data import MAX_TILES, ImageConfig
from vlm_ablate.data.images import FILTERS
from vlm_ablate.errors import ModelError

FILTER_NAMES = {int(number): name for name, number in FILTERS.items()}
"""Pillow's numbers of its filters -> their names here."""
_STEPS = ("do_resize", "do_rescale", "do_normalize")


def whole_images(said: dict[str, Any]) -> ImageConfig:
    """What an `Idefics2ImageProcessor` does: whole images, or four crops and the whole.

    Raises:
        ModelError: it does what no `ImageConfig` says.
    """
    who, size = "Idefics2's image processor", _size(said)
    how = resampling(said, who) | {"split": "crops" if said.get("do_image_splitting") else "none"}
    if "longest_edge" in size:
        return ImageConfig(resize="native", size=size["longest_edge"], shortest=size.get("shortest_edge"), **how)
    if size.get("height") and size.get("height") == size.get("width"):
        return ImageConfig(size=size["height"], **how)
    raise _inexpressible(who, "size", said.get("size"))


def tiled_images(said: dict[str, Any], side: int) -> ImageConfig:
    """What an `Idefics3ImageProcessor` does: tiles and the small original.

    Args:
        said: of the processor.
        side: of a tile in pixels, where it does not say.

    Raises:
        ModelError: it does what no `ImageConfig` says.
    """
    who, size = "Idefics3's image processor", _size(said)
    how = resampling(said, who)
    if said.get("do_image_splitting", True) is not True:
        raise _inexpressible(who, "do_image_splitting", said["do_image_splitting"])
    if set(size) != {"longest_edge"}:
        raise _inexpressible(who, "size", said.get("size"))
    tile, longest = (said.get("max_image_size") or {}).get("longest_edge", side), size["longest_edge"]
    if longest > MAX_TILES * tile:
        raise ModelError(
            f"{who} has longest_edge: {longest}, more than {MAX_TILES} tiles of {tile} px along a side",
            hint="set longest_edge to what you want in its processor_config.json, or else preprocessor_config.json",
        )
    return ImageConfig(split="tiles", tile=tile, size=longest, **how)


def _size(said: dict[str, Any]) -> dict[str, int]:
    size = said.get("size") or {}
    return {name: value for name, value in size.items() if value is not None} if isinstance(size, dict) else {}


def resampling(said: dict[str, Any], who: str) -> dict[str, Any]:
    """The `resample` of a processor every step of which is one of ours.

    Args:
        said: of the processor; empty where there is none.
        who: it is, for the message.

    Raises:
        ModelError: it leaves a step out, or does one otherwise.
    """
    for step in _STEPS:
        if said.get(step, True) is not True:
            raise _inexpressible(who, step, said[step])
    scale, number = said.get("rescale_factor", 1 / 255), said.get("resample")
    if not isinstance(scale, int | float) or abs(scale * 255 - 1) > 1e-6:
        raise _inexpressible(who, "rescale_factor", scale)
    if number is None:
        return {"resample": "auto"}
    if number not in FILTER_NAMES:
        raise _inexpressible(who, "resample", number)
    return {"resample": FILTER_NAMES[number]}


def _inexpressible(who: str, field: str, value: object) -> ModelError:
    return ModelError(
        f"{who} has {field}: {value!r}, which no data.image expresses",
        hint="its images would be read as something else than what the checkpoint was trained on",
    )
