"""Image and caption pairs (LAION COCO, PMD): alt text and synthetic caption are kept, the configuration chooses."""

from __future__ import annotations

from vlm_ablate.data.sample import Segment, Text
from vlm_ablate.data.sources.configs import PairsConfig
from vlm_ablate.data.sources.records import RecordSource, stripped
from vlm_ablate.data.sources.rows import Row


class Pairs(RecordSource):
    """The picture, then its caption, which is learned."""

    config: PairsConfig

    def columns(self) -> tuple[str, ...]:
        return tuple(c for c in (self.config.image, self.config.text, self.config.synthetic) if c)

    def segments(self, row: Row, name: str) -> list[Segment]:
        caption = self.captions(row)[self.config.caption]
        return [self.picture(row[self.config.image], row, name), Text(caption, True)]

    def captions(self, row: Row) -> dict[str, str]:
        """"alt_text" and "synthetic" of a row; "" where there is none."""
        synthetic = stripped(row.get(self.config.synthetic)) if self.config.synthetic else ""
        return {"alt_text": stripped(row.get(self.config.text)), "synthetic": synthetic}
