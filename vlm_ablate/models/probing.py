"""What a decoder can do is found out by trying it on short texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_UNABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, NotImplementedError, RuntimeError)
"""What decoders raise that do not take what is asked of them."""
_HALF = (torch.bfloat16, torch.float16)


@torch.no_grad()
def agree(
    decoder: PreTrainedModel, width: int, lengths: Sequence[int], read: Callable[..., tuple[Tensor, Tensor]]
) -> bool:
    """Whether two ways of reading the same give the same states, up to rounding; one that cannot be had does not.

    Args:
        decoder: without its output head.
        width: of its inputs.
        lengths: of the texts that are read.
        read: is given the texts, (1, length, width) each, and gives the states by one way and by the other.
    """
    parameter = next(decoder.parameters())
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randn(1, length, width, generator=generator).to(parameter) for length in lengths]
    try:
        found, expected = read(*texts)
    except _UNABLE:
        return False
    error = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    coarse = torch.is_autocast_enabled(parameter.device.type) or in_half(decoder)
    return bool(error < (5e-2 if coarse else 1e-4))


def in_half(decoder: PreTrainedModel) -> bool:
    """Whether a decoder's weights are in a precision of two bytes."""
    return next(decoder.parameters()).dtype in _HALF
