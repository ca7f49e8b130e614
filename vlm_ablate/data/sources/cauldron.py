"""The Cauldron (HuggingFaceM4/the_cauldron) and Docmatix (HuggingFaceM4/Docmatix): one schema.

`images`: list of pictures; `texts`: list of {user, assistant, source}, one a turn. Answers are learned.
"""

from __future__ import annotations

from vlm_ablate.data.sample import Segment, Text, UnusableSample
from vlm_ablate.data.sources.configs import DocmatixConfig
from vlm_ablate.data.sources.records import RecordSource, stripped
from vlm_ablate.data.sources.rows import Row


class Cauldron(RecordSource):
    """All images, then the turns. A turn without question or answer is left out."""

    required = ("images", "texts")
    dialogue = True

    def pictures(self, row: Row) -> list:
        """Cells of the pictures to show."""
        return row["images"] or []

    def segments(self, row: Row, name: str) -> list[Segment]:
        found: list[Segment] = [self.picture(cell, row, name) for cell in self.pictures(row)]
        for turn in row["texts"] or []:
            if not isinstance(turn, dict) or not {"user", "assistant"} <= set(turn):
                raise UnusableSample(name, "wrong record", f"a turn has no user and assistant: {turn!r}")
            user, assistant = stripped(turn["user"]), stripped(turn["assistant"])
            if user and assistant:
                found += [Text(user), Text(assistant, True)]
        return found


class Docmatix(Cauldron):
    """The pages of a document, then the turns."""

    config: DocmatixConfig

    def pictures(self, row: Row) -> list:
        return super().pictures(row)[: self.config.max_pages]
