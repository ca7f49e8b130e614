"""Draws samples as a picture: the views, and the tokens in colours for text, image and supervised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlm_ablate.data.inspect import Kind, Shown
from vlm_ablate.errors import StorageError

COLOURS: dict[Kind, tuple[int, int, int]] = {"text": (40, 40, 40), "image": (140, 70, 180), "supervised": (0, 125, 60)}
_PROBLEM = (190, 30, 30)
_WIDTH, _MARGIN, _THUMBNAIL, _LINE = 1100, 16, 128, 19


def draw(samples: Sequence[Shown], path: Path) -> None:
    """Write a PNG of the samples, one below the other.

    Raises:
        StorageError: the file cannot be written.
    """
    font = _font()
    panels = [_panel(sample, font) for sample in samples]
    legend = _legend(font)
    sheet = Image.new("RGB", (_WIDTH, sum(p.height for p in [legend, *panels])), "white")
    top = 0
    for panel in [legend, *panels]:
        sheet.paste(panel, (0, top))
        top += panel.height
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, "PNG")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings: Pillow's own font lacks signs that stand for line ends and repeats."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 13)


def _legend(font: ImageFont.FreeTypeFont) -> Image.Image:
    sheet = Image.new("RGB", (_WIDTH, _LINE + _MARGIN), "white")
    pen, x = ImageDraw.Draw(sheet), _MARGIN
    for kind, colour in COLOURS.items():
        pen.text((x, _MARGIN // 2), kind, colour, font)
        x += int(pen.textlength(kind, font)) + 24
    return sheet


def _panel(sample: Shown, font: ImageFont.FreeTypeFont) -> Image.Image:
    thumbnails = [_thumbnail(view) for view in sample.views]
    across = (_WIDTH - 2 * _MARGIN) // (_THUMBNAIL + 8)
    rows = -(-len(thumbnails) // across)
    words = _words(sample)
    lines = _wrapped(words, font)
    top = _LINE + 10 + rows * (_THUMBNAIL + 8)
    sheet = Image.new("RGB", (_WIDTH, top + len(lines) * _LINE + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    pen.line((0, 0, _WIDTH, 0), (200, 200, 200))
    pen.text((_MARGIN, 5), headline(sample), _PROBLEM if sample.problem else (90, 90, 90), font)
    for i, thumbnail in enumerate(thumbnails):
        row, column = divmod(i, across)
        sheet.paste(thumbnail, (_MARGIN + column * (_THUMBNAIL + 8), _LINE + 8 + row * (_THUMBNAIL + 8)))
    for number, line in enumerate(lines):
        for x, word, colour in line:
            pen.text((_MARGIN + x, top + number * _LINE), word, colour, font)
    return sheet


def headline(sample: Shown) -> str:
    """Id, source and counts of a sample in one line."""
    counts = f"{sample.images} images in {len(sample.views)} views, {sample.tokens} tokens, "
    counts += f"{sample.supervised} supervised"
    if sample.problem:
        counts = "SKIPPED"
    return f"{sample.id}  ({sample.source})  {counts}{', truncated' if sample.truncated else ''}"


def _thumbnail(view: np.ndarray) -> Image.Image:
    image = Image.fromarray(view)
    scale = _THUMBNAIL / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)


def _words(sample: Shown) -> list[tuple[str, tuple[int, int, int]]]:
    """Pieces of text with their colours; "\\n" stands alone where a line ends."""
    if sample.problem:
        return [(word + " ", _PROBLEM) for word in sample.problem.split()]
    pieces = []
    for run in sample.runs:
        text = run.text.replace("\n", " ↵\n ") if run.kind == "supervised" else run.text.replace("\n", "\n ")
        for i, line in enumerate(text.split("\n ")):
            if i:
                pieces.append(("\n", COLOURS[run.kind]))
            pieces += [(word + " ", COLOURS[run.kind]) for word in line.split(" ") if word]
    return pieces


def _wrapped(
    words: list[tuple[str, tuple[int, int, int]]], font: ImageFont.FreeTypeFont
) -> list[list[tuple[float, str, tuple[int, int, int]]]]:
    lines: list[list[tuple[float, str, tuple[int, int, int]]]] = [[]]
    x = 0.0
    for word, colour in words:
        width = 0 if word == "\n" else font.getlength(word)
        if word == "\n" or x + width > _WIDTH - 2 * _MARGIN:
            lines.append([])
            x = 0.0
        if word != "\n":
            lines[-1].append((x, word, colour))
            x += width
    return lines
