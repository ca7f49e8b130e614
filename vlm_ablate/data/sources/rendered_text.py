"""Rendered Text (wendlerc/RenderedText): a picture and what is written on it.

The text is the column `text` (a string or a list of lines), or `ocr_annotation` with a `text` of that kind.
"""

from __future__ import annotations

from vlm_ablate.data.sample import Segment, Text
from vlm_ablate.data.sources.records import RecordSource, stripped
from vlm_ablate.data.sources.rows import Row


class RenderedText(RecordSource):
    """The picture, then its text, which is learned."""

    def check(self, found: list[str]) -> None:
        self.required = ("image", "ocr_annotation" if "ocr_annotation" in found else "text")
        super().check(found)

    def segments(self, row: Row, name: str) -> list[Segment]:
        text = row[self.required[1]]
        if isinstance(text, dict):
            text = text.get("text")
        written = "\n".join(filter(None, map(stripped, text))) if isinstance(text, list) else stripped(text)
        return [self.picture(row["image"], row, name), Text(written, True)]
