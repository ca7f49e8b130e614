"""OBELICS (HuggingFaceM4/OBELICS): `images` and `texts` are lists of one length; at each place one is None.

The hub's copy holds image addresses; a copy with downloaded images holds pictures or paths in their place.
"""

from __future__ import annotations

from vlm_ablate.data.sample import Image, Segment, Text, UnusableSample
from vlm_ablate.data.sources.configs import ObelicsConfig
from vlm_ablate.data.sources.records import RecordSource
from vlm_ablate.data.sources.rows import Row
from vlm_ablate.data.values import cells_of, text_of


class Obelics(RecordSource):
    """A document in reading order; all its text is learned. A blank line stands for a picture that is left out."""

    required = ("images", "texts")
    config: ObelicsConfig

    def segments(self, row: Row, name: str) -> list[Segment]:
        images, texts = cells_of(row["images"]), cells_of(row["texts"])
        if len(images) != len(texts):
            raise UnusableSample(name, "wrong record", f"{len(images)} images stand beside {len(texts)} texts")
        found: list[Segment] = []
        shown = 0
        for image, cell in zip(images, texts, strict=True):
            text = text_of(cell, "texts")
            if image is not None and not (self.config.max_images and shown >= self.config.max_images):
                found.append(self.picture(image, row, name))
                shown += 1
            if text:
                apart = not found or isinstance(found[-1], Image) or found[-1].text[-1:].isspace() or text[:1].isspace()
                found.append(Text(text if apart else f"\n\n{text}", True))
        return found
