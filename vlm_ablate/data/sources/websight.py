"""WebSight (HuggingFaceM4/WebSight): `image`, a screenshot, and `text`, the HTML it was drawn from."""

from __future__ import annotations

from vlm_ablate.data.sample import Segment, Text
from vlm_ablate.data.sources.records import RecordSource
from vlm_ablate.data.sources.rows import Row
from vlm_ablate.data.values import stripped


class WebSight(RecordSource):
    """The screenshot, then the HTML, which is learned."""

    required = ("image", "text")

    def segments(self, row: Row, name: str) -> list[Segment]:
        return [self.picture(row["image"], row, name), Text(stripped(row["text"], "text"), True)]
