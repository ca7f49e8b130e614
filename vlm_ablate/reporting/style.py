"""How pictures look: one font, ink colours, and a palette that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, THIN, BAND = "#1d1f23", "#666c76", "#d5d8dd", "#f5f6f8"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#333333", "#56B4E9", "#E69F00", "#7A5195")
"""Okabe and Ito's palette, darkest first and without yellow, so that labels can be read in it."""
MARKERS = "osD^vPX*"
COLOURS = 128
"""Of a PNG: its most frequent ones, so that areas, lines and letters keep theirs and only the rims of letters are
rounded."""

_SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": THIN,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "vlm-ablate",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def drawing(*, text: bool = False) -> Iterator[None]:
    """matplotlib with this style, whatever the user's own settings are; no display is needed.

    Args:
        text: letters of an SVG stay letters, for a page whose reader has the fonts; otherwise they are outlines.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS | ({"svg.fonttype": "none"} if text else {}))
        yield


def to_bytes(figure: Figure, format: str, *, dpi: int = 200, tight: bool = False) -> bytes:
    """The figure as PNG or SVG, with no date in it, so that the same figure gives the same bytes.

    A PNG has a palette of `COLOURS`: a third of the bytes, and no difference that can be seen.
    """
    import io

    from PIL import Image

    out = io.BytesIO()
    metadata = {"Date": None} if format == "svg" else {"Software": None}
    figure.savefig(out, format=format, dpi=dpi, metadata=metadata, bbox_inches="tight" if tight else None)
    if format != "png":
        return out.getvalue()
    picture, small = Image.open(out).convert("RGB"), io.BytesIO()
    counted = picture.getcolors(picture.width * picture.height) or []
    boxes: dict[bytes, bytes] = {}  # of neighbours that Pillow does not tell apart the more frequent stays
    for _, colour in sorted(counted, key=lambda entry: entry[0], reverse=True):
        channels = bytes(colour)  # type: ignore[call-overload]  # RGB
        boxes.setdefault(bytes(channel >> 2 for channel in channels), channels)
    palette = Image.new("P", (1, 1))
    palette.putpalette(b"".join(list(boxes.values())[:COLOURS]))
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(small, "png", optimize=True, dpi=(dpi, dpi))
    return small.getvalue()
