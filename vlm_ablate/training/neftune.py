"""NEFTune: uniform noise on embedded text while training (arXiv:2310.05914)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def noisy_embeddings(embedding: nn.Module, alpha: float | None) -> Iterator[None]:
    """Add noise from U(-1, 1) * alpha / sqrt(length * width) to the embedding's output while it is in training mode.

    Args:
        embedding: maps (batch, length) ids to (batch, length, width).
        alpha: strength; None does nothing.
    """
    if alpha is None:
        yield
        return

    def add_noise(module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
        if not module.training:
            return output
        magnitude = alpha / (output.shape[-2] * output.shape[-1]) ** 0.5
        return output + torch.empty_like(output).uniform_(-magnitude, magnitude)

    handle = embedding.register_forward_hook(add_noise)
    try:
        yield
    finally:
        handle.remove()
