"""Pictures in unusual forms: the documented conversion, or an error that names the picture."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage
from PIL import ImageOps

from tests.data.conftest import picture
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.data.images import load_views
from vlm_ablate.data.sample import ImageRef
from vlm_ablate.errors import DataError


def encoded(image: PilImage.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(source: object) -> np.ndarray:
    image = ImageRef(source).load()
    assert image.mode == "RGB"
    return np.asarray(image)


def test_exif_rotation_is_applied_to_pixels_and_size() -> None:
    image = PilImage.new("RGB", (40, 20), "red")
    image.paste((0, 0, 255), (0, 0, 10, 20))
    exif = PilImage.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    data = encoded(image, "PNG", exif=exif)
    assert ImageRef(data).size() == (20, 40)
    turned = pixels(data)
    assert turned.shape == (40, 20, 3)
    assert tuple(turned[2, 10]) == (0, 0, 255) and tuple(turned[35, 10]) == (255, 0, 0)


def turned_by(orientation: int) -> PilImage.Exif:
    exif = PilImage.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_as_pillow_turns_it(kind: str, orientation: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(picture(7, 5), kind, exif=turned_by(orientation), **options)
    upright = ImageOps.exif_transpose(PilImage.open(io.BytesIO(data)))
    np.testing.assert_array_equal(pixels(data), np.asarray(upright))
    assert ImageRef(data).size() == upright.size


def test_exif_behind_the_pixels_of_a_png_counts() -> None:
    data = encoded(picture(7, 5), exif=turned_by(6))
    at = data.index(b"eXIf") - 4
    end = at + 12 + struct.unpack(">I", data[at : at + 4])[0]
    late = data[:at] + data[end:-12] + data[at:end] + data[-12:]
    assert ImageRef(late).size() == (5, 7)
    np.testing.assert_array_equal(pixels(late), pixels(data))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_broken_exif_block_counts_as_none(kind: str) -> None:
    data = encoded(picture(7, 5), kind, exif=b"Exif\0\0" + b"\xff" * 40)
    assert ImageRef(data).size() == (7, 5)
    assert pixels(data).shape == (5, 7, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP"])
def test_size_is_read_from_the_header_alone(kind: str) -> None:
    data = encoded(picture(200, 100), kind)
    assert ImageRef(data[: len(data) // 2], "cut").size() == (200, 100)
    with pytest.raises(DataError, match="cut cannot be decoded"):
        ImageRef(data[: len(data) // 2], "cut").load()


def test_exif_rotation_survives_a_draft_decode() -> None:
    exif = PilImage.Exif()
    exif[0x0112] = 6
    data = encoded(PilImage.new("RGB", (1600, 400), "red"), "JPEG", exif=exif)
    small = ImageRef(data).load(draft=(100, 400))
    assert small.height > small.width and small.height < 1600


def test_cmyk_becomes_rgb() -> None:
    cyan = PilImage.new("CMYK", (8, 8), (255, 0, 0, 0))
    for kind in ("JPEG", "TIFF"):
        red, green, blue = pixels(encoded(cyan, kind))[4, 4]
        assert red < 10 and green > 200 and blue > 200


def test_16_bit_grey_keeps_its_range() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    got = pixels(encoded(PilImage.fromarray(ramp)))
    assert got.min() == 0 and got.max() == 255
    np.testing.assert_array_equal(got[..., 0], ramp // 257)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_16_bit_colour_keeps_its_high_byte() -> None:
    values = np.linspace(0, 65535, 48).astype(">u2").reshape(4, 4, 3)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", zlib.compress(rows))
    np.testing.assert_array_equal(pixels(data + png_chunk(b"IEND", b"")), values >> 8)


def test_float_and_32_bit_images() -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert pixels(PilImage.fromarray(ramp)).max() == 255
    assert pixels(PilImage.fromarray((ramp * 255).astype(np.int32))).max() == 255


def test_palette_transparency_and_alpha_are_laid_on_white() -> None:
    clear = PilImage.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    clear.putpixel((1, 0), (0, 0, 0, 128))
    got = pixels(encoded(clear))
    assert tuple(got[0, 0]) == (255, 0, 0) and tuple(got[3, 3]) == (255, 255, 255)
    assert 120 <= got[0, 1, 0] <= 132
    palette = PilImage.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 0, 128, 0])
    assert tuple(pixels(encoded(palette))[0, 0]) == (0, 128, 0)
    assert tuple(pixels(encoded(palette, transparency=1))[0, 0]) == (255, 255, 255)
    assert tuple(pixels(encoded(PilImage.new("LA", (2, 2), (0, 0))))[0, 0]) == (255, 255, 255)


def test_grey_one_bit_and_first_frame() -> None:
    assert tuple(pixels(encoded(PilImage.new("1", (3, 3), 1)))[0, 0]) == (255, 255, 255)
    frames = [PilImage.new("RGB", (4, 4), c) for c in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(data)[0, 0, 0] > 200


def test_one_pixel_is_a_picture() -> None:
    assert pixels(encoded(PilImage.new("RGB", (1, 1), "red"))).shape == (1, 1, 3)


def test_arrays() -> None:
    assert pixels(np.zeros((5, 6, 3), np.uint8)).shape == (5, 6, 3)
    assert ImageRef(np.zeros((5, 6), np.uint8)).size() == (6, 5)
    for wrong in (np.zeros((5, 6, 3), np.float32), np.zeros((5, 6, 2), np.uint8), np.zeros((0, 6, 3), np.uint8)):
        with pytest.raises(DataError, match=r"photo 7"):
            ImageRef(wrong, "photo 7").load()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_truncated_file_is_named(kind: str, tmp_path: Path) -> None:
    data = encoded(picture(200, 200), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut"):
        ImageRef(path).load()


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.png does not exist"):
        ImageRef(tmp_path / "nowhere.png").load()
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(DataError, match=r"page.png is not an image"):
        ImageRef(tmp_path / "page.png").size()
    with pytest.raises(DataError, match=r"empty"):
        ImageRef(b"", "empty").load()


def png_header(width: int, height: int) -> bytes:
    """A PNG that only claims its size."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000)])
def test_decompression_bombs_are_refused(size: tuple[int, int]) -> None:
    for use in (ImageRef(png_header(*size), "bomb").load, ImageRef(png_header(*size), "bomb").size):
        with pytest.raises(DataError, match=r"bomb is refused"):
            use()


def test_no_pixels() -> None:
    with pytest.raises(DataError, match=r"nothing"):
        ImageRef(png_header(0, 0), "nothing").load()
    with pytest.raises(DataError, match=r"no pixels"):
        ImageRef(PilImage.new("RGB", (0, 5)), "nothing").load()


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1)])
@pytest.mark.parametrize(
    "image",
    [
        ImageConfig(size=384),
        ImageConfig(resize="native", size=980, shortest=378),
        ImageConfig(split="tiles", size=1456),
        ImageConfig(resize="native", size=980, shortest=378, split="crops"),
    ],
    ids=["square", "native", "tiles", "crops"],
)
def test_extreme_sizes_give_views_or_a_reason(size: tuple[int, int], image: ImageConfig) -> None:
    ref = ImageRef(picture(*size), "sliver")
    if image.split == "crops":
        with pytest.raises(DataError, match="cannot be cut into four crops"):
            load_views(ref, image)
        return
    views, sizes = load_views(ref, image)
    assert [view.shape[:2] for view in views] == sizes
    if image.split == "tiles":
        assert len(views) == {(1, 1): 17, (1, 2000): 5, (2000, 1): 5}[size], "a line of tiles and the whole"


def test_loading_leaves_a_shared_pil_image_usable() -> None:
    image = picture(20, 10)
    ref = ImageRef(image)
    assert pixels(image).shape == (10, 20, 3)
    np.testing.assert_array_equal(np.asarray(ref.load()), np.asarray(ref.load()))


def png16(mode: int, value: tuple[int, ...], clear: tuple[int, ...]) -> bytes:
    """A PNG of one pixel with 16 bits a channel (`mode` 0: grey, 2: RGB) and a transparent colour."""

    def words(values: tuple[int, ...]) -> bytes:
        return struct.pack(f">{len(values)}H", *values)

    header, content = struct.pack(">IIBBBBB", 1, 1, 16, mode, 0, 0, 0), zlib.compress(b"\0" + words(value))
    chunks = {b"IHDR": header, b"tRNS": words(clear), b"IDAT": content, b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in chunks.items())


@pytest.mark.parametrize("turned", [1, 6])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_transparent_colours_are_white_in_every_mode(mode: str, turned: int) -> None:
    image = PilImage.new("RGB", (8, 8), "black")
    image.paste((255, 255, 255) if mode == "1" else (90, 90, 90), (0, 0, 4, 8))
    if mode in ("RGBA", "LA"):
        image.putalpha(PilImage.new("L", (8, 8), 255))
        image.paste((0, 0, 0, 0), (4, 0, 8, 8))
        clear = None
    else:
        clear = (0, 0, 0) if mode == "RGB" else 0
    converted = image.convert(mode) if mode != "P" else image.convert("L").point(lambda v: v // 90).convert("P")
    options = {} if clear is None else {"transparency": clear}
    shown = pixels(encoded(converted, exif=turned_by(turned), **options))
    corner = shown[7, 7]
    assert tuple(corner) == (255, 255, 255)


def test_transparent_colours_of_16_bits_are_white() -> None:
    assert tuple(pixels(png16(2, (513, 7, 0), (513, 7, 0)))[0, 0]) == (255, 255, 255)
    assert tuple(pixels(png16(2, (5130, 7, 0), (513, 7, 0)))[0, 0]) == (20, 0, 0)
    assert tuple(pixels(png16(0, (3000,), (3000,)))[0, 0]) == (255, 255, 255)
    assert tuple(pixels(png16(0, (3000,), (3001,)))[0, 0]) == (11, 11, 11)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_grey_of_few_bits_is_white_and_no_other_is(bits: int) -> None:
    """Two pixels a row: of the one grey that is transparent, and of another."""
    most = 2**bits - 1
    for clear, other in ((0, most), (most, 0), (most // 3, most - most // 3)):
        if clear == other:
            continue
        row = (clear << bits | other) << (-2 * bits % 8)
        header = struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)
        content = zlib.compress(b"\0" + row.to_bytes(max(1, bits // 4), "big"))
        chunks = {b"IHDR": header, b"tRNS": struct.pack(">H", clear), b"IDAT": content, b"IEND": b""}
        data = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks.items())
        assert pixels(data)[0, :, 0].tolist() == [255, other * 255 // most]
