"""What every architecture is: the seam between visual tokens and the language model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.models.language.base import LanguageModel


@dataclass(frozen=True)
class Visual:
    """The visual tokens of a batch."""

    states: Tensor
    """(views, visual_tokens, width), views sorted by sample."""
    sample: Tensor
    """(views,) long: row of the batch."""
    image: Tensor
    """(views,) long: the image that a view is part of, numbered over the batch in reading order."""
    own: Tensor | None = None
    """(views, visual_tokens) bool, True at a view's own tokens; None: everywhere."""
    shown: int | None = None
    """The first so many tokens of a view are what it shows, the rest stands for its padding; None: all."""
    same: Tensor | None = None
    """(views,) long: number of the first view that shows the same; None: not known."""


@dataclass(frozen=True)
class Reading:
    """What a batch gives the language model to read, position by position."""

    is_image: Tensor
    """(batch, sequence) bool, True at placeholders."""
    segment: Tensor
    """(batch, sequence) long; see `Batch.segment`."""
    prefix: Tensor
    """(batch, sequence) bool, True before the first position of its segment that is to be predicted."""
    visual: Visual | None
    """None for a batch without images."""
    documents: tuple[int, ...] | None = None
    """See `Batch.documents`."""


@dataclass(frozen=True)
class Part:
    """Some columns of some rows of a batch, where not all are computed at once."""

    rows: Tensor
    """(part,) long."""
    columns: Tensor
    """(part, own) long: columns of the batch; at padding any."""


class Architecture(nn.Module):
    """Base of all architectures. Holds the new parameters of the seam; the language model stays outside it."""

    gradient_checkpointing = False
    """Whether its own blocks are to be recomputed in the backward pass instead of kept."""

    def __init__(self, config: ComponentConfig, *, language: LanguageModel, vision_width: int) -> None:
        """
        Args:
            config: the architecture's own configuration.
            language: the language model it is for; `install` is called with it afterwards.
            vision_width: width of the vision encoder's features.
        """
        super().__init__()
        self.config = config

    def connector_width(self, language: LanguageModel, vision_width: int) -> int:
        """Width of the visual tokens that this architecture wants."""
        raise NotImplementedError

    @property
    def text_alone(self) -> str | None:
        """How prompts without images are read, where that hangs on nothing but this and the language model's weights.

        None: parameters of the architecture take part, or may.
        """
        return None

    @property
    def looks_back(self) -> bool:
        """Whether what is computed at a position hangs on nothing that follows it, and `seeing` knows of parts."""
        return False

    def placeholders(self, visual_tokens: int) -> int:
        """Placeholders in the text for a view of so many visual tokens."""
        raise NotImplementedError

    def install(self, language: LanguageModel) -> None:
        """Attach what has to run inside the language model. Its state dict keeps its keys."""

    def both_ways(self, reading: Reading) -> Tensor | None:
        """(batch, sequence) bool: text positions at the start of a document that see what follows them, too; None:
        none."""
        return None

    def embed(self, embeds: Tensor, reading: Reading) -> Tensor:
        """The language model's input: (batch, sequence, hidden) text embeddings with or without visual tokens.

        Raises:
            ModelError: placeholders and visual tokens differ in number.
        """
        raise NotImplementedError

    @contextmanager
    def seeing(self, reading: Reading, part: Part | None = None) -> Iterator[None]:
        """Within the block the language model's layers see the images.

        Args:
            part: what they are run on, if not on all of `reading`; given where it `looks_back` alone.
        """
        yield

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Within the block, inside `seeing` and without gradients, what no new token changes may be kept."""
        yield
