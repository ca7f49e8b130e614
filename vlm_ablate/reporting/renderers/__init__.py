"""One file for each format. A text renderer takes a layout; CSV takes the report, for full precision."""

from __future__ import annotations

from vlm_ablate.errors import UnknownNameError
from vlm_ablate.reporting.frame import Report
from vlm_ablate.reporting.layout import lay_out

FORMATS = ("markdown", "latex", "csv", "html", "png")
SUFFIXES = {"markdown": "md", "latex": "tex", "csv": "csv", "html": "html", "png": "png"}


def render(report: Report, format: str = "markdown") -> str | bytes:
    """The report as a document: text, or bytes for png.

    Raises:
        UnknownNameError: no such format.
    """
    from importlib import import_module

    if format not in FORMATS:
        raise UnknownNameError("table format", format, FORMATS)
    module = import_module(f"{__name__}.{format}")
    document: str | bytes = module.render(report if format == "csv" else lay_out(report))
    return document
