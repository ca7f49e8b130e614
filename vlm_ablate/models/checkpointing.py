"""Gradient checkpointing: activations that the backward pass recomputes instead of keeping."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn

from vlm_ablate.models import documents
from vlm_ablate.models.architectures.base import Architecture
from vlm_ablate.models.language.base import LanguageModel
from vlm_ablate.models.vision.base import VisionEncoder


def set_checkpointing(
    vision: VisionEncoder, language: LanguageModel, architecture: Architecture, *, enabled: bool
) -> None:
    """Whether the layers of both backbones, and the architecture's blocks between them, are recomputed."""
    architecture.gradient_checkpointing = enabled
    for model, contexts in ((language.model, partial(_recomputing, language, architecture)), (vision.backbone, None)):
        if not getattr(model, "supports_gradient_checkpointing", False):
            continue
        if not enabled:
            if any(getattr(part, "gradient_checkpointing", False) for part in model.modules()):
                _switch(model, "disable")
            continue
        options = {"use_reentrant": False, **({"context_fn": contexts} if contexts else {})}
        _switch(model, "enable", options)


def _recomputing(
    language: LanguageModel, architecture: Architecture
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For `torch.utils.checkpoint(context_fn=...)`: what is recomputed sees what the forward pass saw."""
    now, own = documents.current(), getattr(architecture, "checkpoint_contexts", None)
    before, again = own() if own else (nullcontext(), nullcontext())

    @contextmanager
    def recomputed() -> Iterator[None]:
        with again, documents.reading(language.decoder, now):
            yield

    return before, recomputed()


def _switch(model: nn.Module, state: str, *args: object) -> None:
    """transformers renamed the switch in 5.x; the old name warns there and the new one is missing before."""
    names = (f"activation_checkpointing_{state}", f"gradient_checkpointing_{state}")
    next(getattr(model, name) for name in names if hasattr(model, name))(*args)
