"""The Cauldron (HuggingFaceM4/the_cauldron) and Docmatix (HuggingFaceM4/Docmatix): one schema.

`images`: list of pictures; `texts`: list of {user, assistant, source}, one a turn. Answers are learned.
"""

from __future__ import annotations

from typing import Any

from vlm_ablate.data.sample import Segment, Text, UnusableSample
from vlm_ablate.data.sources.configs import DocmatixConfig
from vlm_ablate.data.sources.records import RecordSource
from vlm_ablate.data.sources.rows import Row
from vlm_ablate.data.values import records_of, stripped


class Cauldron(RecordSource):
    """All images, then the turns. A turn without question or answer is left out."""

    required = ("images", "texts")
    dialogue = True

    def pictures(self, row: Row, name: str) -> list[Any]:
        """Cells of the pictures to show."""
        return self.cells(row["images"], name)

    def segments(self, row: Row, name: str) -> list[Segment]:
        found: list[Segment] = [self.picture(cell, row, name) for cell in self.pictures(row, name)]
        for turn in records_of(row["texts"], "texts"):
            if not {"user", "assistant"} <= set(turn):
                raise UnusableSample(name, "wrong record", f"a turn has no user and assistant: {turn!r}")
            user, assistant = stripped(turn["user"], "user"), stripped(turn["assistant"], "assistant")
            if user and assistant:
                found += [Text(user), Text(assistant, True)]
        return found


class Docmatix(Cauldron):
    """The pages of a document, then the turns."""

    config: DocmatixConfig

    def pictures(self, row: Row, name: str) -> list[Any]:
        found, limit = super().pictures(row, name), self.config.max_pages
        if limit and len(found) > limit:
            raise UnusableSample(
                name, "too many pages", f"it has {len(found)} pages, above max_pages = {limit}, and its turns do not "
                "say on which page they are answered; `execution.max_skipped` allows for leaving such documents out"
            )
        return found
