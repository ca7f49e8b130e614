"""Turning anything that holds a picture into an upright 8-bit RGB image, or saying clearly why not.

Conversions: EXIF orientation is applied (a broken EXIF block counts as none); transparency is laid on white; CMYK,
palette, grey and 1-bit become RGB; 16-bit grey is divided by 257; float images in [0, 1] are scaled by
255, others clipped to 0..255; of an animation the first frame counts. Refused: truncated files, pictures without
pixels, decompression bombs.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose
from PIL.PngImagePlugin import PngImageFile

from vlm_ablate.errors import DataError

MAX_PIXELS = 89_478_485
"""More pixels than this are refused before decoding (Pillow's own warning level: a quarter of a gigabyte as RGB)."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright."""
_SIDEWAYS = {5, 6, 7, 8}


def decode(source: object, label: str, draft: tuple[int, int] | None = None) -> Image.Image:
    """`source` (path, bytes, PIL image, uint8 array (H, W[, 1|3|4])) as an upright RGB image of its own.

    `draft` (width, height): a JPEG may be decoded at 1/2, 1/4 or 1/8, no smaller than this; pixels then differ
    slightly from a full decode followed by a resize.

    Raises:
        DataError: it cannot be read; the message names `label`.
    """
    if isinstance(source, np.ndarray):
        return _rgb(Image.fromarray(_checked_array(source, label)))
    try:
        with _open(source, label) as image:
            orientation = _orientation(image)
            if draft and image.format == "JPEG":
                image.draft("RGB", (draft[1], draft[0]) if orientation in _SIDEWAYS else draft)
            _scale_transparent_grey(image)
            image.load()
            if orientation in _UPRIGHT:
                image = image.transpose(_UPRIGHT[orientation])
            return _rgb(image)
    except DataError:
        raise
    except Exception as error:  # Pillow's plug-ins raise OSError, SyntaxError, ValueError, struct.error and more
        raise DataError(f"image {label} cannot be decoded: {error}") from error


def header_size(source: object, label: str) -> tuple[int, int]:
    """(width, height) after EXIF rotation, from the header alone.

    Raises:
        DataError: as `decode`, as far as the header shows it.
    """
    if isinstance(source, np.ndarray):
        height, width = _checked_array(source, label).shape[:2]
        return width, height
    if isinstance(source, Image.Image):
        return _upright_size(_checked_size(source, label))
    with _open(source, label) as image:
        return _upright_size(image)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 when there is no EXIF block or it cannot be read. Decodes no pixels, unlike Pillow for a PNG."""
    if image.format == "TIFF":
        return 1  # Pillow turns them itself, and their size is that of the upright picture
    try:
        if isinstance(image, PngImageFile) and "exif" not in image.info and image.fp:
            image.info |= _late_exif(image.fp)
        return int(Image.Image.getexif(image).get(_ORIENTATION, 1))
    except Exception:  # SyntaxError, struct.error and more
        return 1


def _scale_transparent_grey(image: Image.Image) -> None:
    """Of a PNG of two or four bits Pillow widens the pixels to eight, but not the grey that is transparent."""
    clear, tile = image.info.get("transparency"), getattr(image, "tile", None)
    bits = {"L;2": 2, "L;4": 4}.get(tile[0].args) if tile and isinstance(image, PngImageFile) else None
    if bits and isinstance(clear, int):
        most = 2**bits - 1
        image.info["transparency"] = (clear & most) * 255 // most


def _late_exif(file: IO[bytes]) -> dict[str | tuple[int, int], bytes]:
    """A PNG's EXIF block, also behind the pixels, where Pillow only finds it after decoding them."""
    place = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return {"exif": b"Exif\0\0" + file.read(length)}
            file.seek(length + 4, io.SEEK_CUR)
        return {}
    finally:
        file.seek(place)


def _open(source: object, label: str) -> Image.Image:
    if isinstance(source, Image.Image):
        # A copy, because the caller closes what it is given.
        return _checked_size(source, label).copy()
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else Path(str(source)))
    except FileNotFoundError:
        raise DataError(f"image {label} does not exist") from None
    except UnidentifiedImageError:
        raise DataError(f"{label} is not an image in a known format") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"image {label} is refused: {error}") from None
    except Exception as error:
        raise DataError(f"image {label} cannot be opened: {error}") from error
    return _checked_size(image, label)


def _checked_size(image: Image.Image, label: str) -> Image.Image:
    width, height = image.size
    if width < 1 or height < 1:
        raise DataError(f"image {label} has no pixels ({width}x{height})")
    if width * height > MAX_PIXELS:
        raise DataError(f"image {label} is refused: {width}x{height} is above {MAX_PIXELS} pixels")
    return image


def _checked_array(array: np.ndarray, label: str) -> np.ndarray:
    if array.dtype != np.uint8:
        raise DataError(f"image {label} is an array of {array.dtype}, not uint8")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise DataError(f"image {label} has shape {array.shape}, not (height, width, 3)")
    if 0 in array.shape:
        raise DataError(f"image {label} has no pixels ({array.shape[1]}x{array.shape[0]})")
    return array


def _rgb(image: Image.Image) -> Image.Image:
    clear = image.info.get("transparency")
    if image.mode == "RGB" and clear is None:
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        divisor = 257 if image.mode != "I" or values.max() > 255 else 1
        grey = (values.clip(0, 65535) // divisor).clip(0, 255)
        grey[values == clear] = 255
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        factor = 255.0 if values.min() >= 0 and values.max() <= 1 else 1.0
        return Image.fromarray((values * factor).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in clear)  # of 16 bits, where Pillow keeps 8
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or clear is not None:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")
