"""Image and caption pairs (LAION COCO, PMD): the configuration chooses between alt text and synthetic caption."""

from __future__ import annotations

from vlm_ablate.data.sample import Segment, Text
from vlm_ablate.data.sources.configs import PairsConfig
from vlm_ablate.data.sources.records import RecordSource
from vlm_ablate.data.sources.rows import Row
from vlm_ablate.data.values import stripped


class Pairs(RecordSource):
    """The picture, then its caption, which is learned."""

    config: PairsConfig

    def columns(self) -> tuple[str, ...]:
        return tuple(c for c in (self.config.image, self.config.text, self.config.synthetic) if c)

    def segments(self, row: Row, name: str) -> list[Segment]:
        column = self.config.synthetic if self.config.caption == "synthetic" else self.config.text
        caption = stripped(row[column], column) if column else ""
        return [self.picture(row[self.config.image], row, name), Text(caption, True)]
