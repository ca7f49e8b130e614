"""One record, whatever it came from: interleaved segments of text and images, each text with or without loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_ablate.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as PilImage


@dataclass(frozen=True)
class ImageRef:
    """A picture by path, encoded bytes, PIL image or uint8 array (H, W, 3). Nothing is decoded until `load`."""

    source: Path | str | bytes | PilImage | np.ndarray
    name: str = ""
    """What errors call it; empty: the path, or the kind of source."""

    @property
    def label(self) -> str:
        """How messages name this picture."""
        if self.name:
            return self.name
        return str(self.source) if isinstance(self.source, str | Path) else f"<{type(self.source).__name__}>"

    def load(self, draft: tuple[int, int] | None = None) -> PilImage:
        """The picture as PIL RGB, upright, alpha on white. `draft` (width, height): a JPEG may decode at a reduced
        size that is no smaller than this.

        Raises:
            DataError: missing, truncated, empty, too large or not a picture; the message names it.
        """
        from vlm_ablate.data.decode import decode

        return decode(self.source, self.label, draft)

    def size(self) -> tuple[int, int]:
        """(width, height) in pixels of what `load` gives, read from the header.

        Raises:
            DataError: as `load`, as far as the header shows it.
        """
        from vlm_ablate.data.decode import header_size

        return header_size(self.source, self.label)


@dataclass(frozen=True)
class Text:
    """A run of text; `supervised` says whether its tokens are predicted."""

    text: str
    supervised: bool = False


@dataclass(frozen=True)
class Image:
    """A picture in reading order."""

    ref: ImageRef


Segment = Text | Image


@dataclass(frozen=True)
class Sample:
    """A record as a model will read it.

    A document (`dialogue` False: caption, page, interleaved text, ready-made prompt) is written as it stands under
    every prompt format. In a dialogue, segments without loss form the user's turns and supervised texts the
    assistant's; the prompt format writes the roles.
    """

    id: str
    segments: tuple[Segment, ...]
    source: str
    dialogue: bool = False

    @property
    def images(self) -> list[ImageRef]:
        """The pictures in reading order."""
        return [segment.ref for segment in self.segments if isinstance(segment, Image)]


class UnusableSample(DataError):
    """One sample that cannot be trained on; the run goes on without it unless there are too many.

    `reason` is short and the same for all samples of a kind, so that they can be counted.
    """

    def __init__(self, sample: str, reason: str, detail: str, *, hint: str | None = None) -> None:
        self.sample, self.reason, self.detail = sample, reason, detail
        super().__init__(f"sample {sample}: {detail}", hint=hint)
