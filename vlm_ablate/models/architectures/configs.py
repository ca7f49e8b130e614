"""Architectures: how visual tokens meet the language model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vlm_ablate.config.base import ComponentConfig, added
from vlm_ablate.registry import architectures

_PKG = "vlm_ablate.models.architectures"


class AutoregressiveConfig(ComponentConfig):
    """Fully autoregressive: visual tokens take their places in the text sequence."""

    name: Literal["autoregressive"] = "autoregressive"
    prompt: Literal["causal", "bidirectional"] = added("causal")
    """Attention among the positions before the first supervised token: "bidirectional" is PaliGemma's prefix."""


class CrossAttentionConfig(ComponentConfig):
    """Gated cross-attention blocks between decoder layers; tanh gates start at zero (Flamingo, Idefics1)."""

    name: Literal["cross_attention"] = "cross_attention"
    every: int = Field(4, gt=0)
    """A block stands before every `every`-th decoder layer: layers // every blocks, before 0, every, 2*every, ..."""
    gate: Literal["scalar", "vector"] = "scalar"
    """One gate a sub-layer, or one a channel."""
    qk_norm: bool = False
    """RMSNorm on queries and keys per head."""
    attend: Literal["last", "all"] = "last"
    """A text token sees the last image before it, or all images before it."""
    before: tuple[Annotated[int, Field(ge=0)], ...] | None = added(None, min_length=1)
    """Decoder layers, counted from 0 without the blocks, before which a block stands, instead of `every` (Mllama)."""
    visual_width: Literal["vision", "language"] = added("vision")
    """Width of the visual tokens: the vision encoder's (Idefics1), or the language model's (Mllama)."""
    unseeing: Literal["mlp", "skip", "all"] = added("mlp")
    """At positions that see no image a block runs its MLP alone (Idefics1), or not at all, or without its MLP on all
    images of the document, those to come as well (what transformers' Mllama computes)."""


architectures.declare("autoregressive", AutoregressiveConfig, f"{_PKG}.autoregressive:Autoregressive")
architectures.declare("cross_attention", CrossAttentionConfig, f"{_PKG}.cross_attention:CrossAttention")
