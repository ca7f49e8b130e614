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
def drawing() -> Iterator[None]:
    """matplotlib with this style, whatever the user's own settings are; no display is needed."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def to_bytes(figure: Figure, format: str, *, dpi: int = 200, tight: bool = False) -> bytes:
    """The figure as PNG or SVG, with no date in it, so that the same figure gives the same bytes."""
    import io

    out = io.BytesIO()
    metadata = {"Date": None} if format == "svg" else {"Software": None}
    figure.savefig(out, format=format, dpi=dpi, metadata=metadata, bbox_inches="tight" if tight else None)
    return out.getvalue()
