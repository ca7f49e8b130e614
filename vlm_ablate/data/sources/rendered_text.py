"""Rendered Text (wendlerc/RenderedText): a picture and what is written on it.

The text is the column `text` (a string or a list of lines), or `ocr_annotation` with a `text` of that kind.
"""

from __future__ import annotations

from vlm_ablate.data.sample import Segment, Text
from vlm_ablate.data.sources.records import RecordSource
from vlm_ablate.data.sources.rows import Row
from vlm_ablate.data.values import stripped, texts_of


class RenderedText(RecordSource):
    """The picture, then its text, which is learned."""

    def check(self, found: list[str]) -> None:
        self.required = ("image", "ocr_annotation" if "ocr_annotation" in found else "text")
        super().check(found)

    def segments(self, row: Row, name: str) -> list[Segment]:
        text = row[self.required[1]]
        if isinstance(text, dict):
            text = text.get("text")
        lines = [stripped(line, "text") for line in texts_of(text, "text")]
        return [self.picture(row["image"], row, name), Text("\n".join(filter(None, lines)), True)]
