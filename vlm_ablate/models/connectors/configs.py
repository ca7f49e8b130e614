"""Connectors: configuration and registry. One maps (images, patches, width) to (images, visual_tokens, hidden)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from vlm_ablate.config.base import ComponentConfig, added
from vlm_ablate.registry import connectors

_PKG = "vlm_ablate.models.connectors"


class LinearConfig(ComponentConfig):
    """One linear layer on every patch: visual_tokens = patches."""

    name: Literal["linear"] = "linear"
    bias: bool = True
    tokens: int | None = Field(None, gt=0)
    """Project the flattened sequence of patches to this many tokens instead (Idefics2 Table 11, "linear")."""


class MlpConfig(ComponentConfig):
    """Two-layer MLP on every patch, plain (LLaVA) or gated (Idefics2's modality projection)."""

    name: Literal["mlp"] = "mlp"
    gated: bool = False
    """SiLU-gated (Idefics2) instead of linear-activation-linear."""
    intermediate: int | None = Field(None, gt=0)
    """Width between the layers. None: the language model's own MLP width if gated, else its hidden width."""
    activation: str = "gelu"
    """Activation between the layers of the plain variant, by its transformers name; the gated one uses silu."""
    bias: bool = True
    """Biases of the plain variant; the gated one has none."""


class MappingNetworkConfig(ComponentConfig):
    """Transformer over [projected patches, learned queries]; the queries are the visual tokens (MAPL, ClipCap)."""

    numerics: ClassVar[int] = 2  # 1: its queries were decayed, and trained as matrices are
    name: Literal["mapping_network"] = "mapping_network"
    tokens: int = Field(32, gt=0)
    depth: int = Field(4, gt=0)
    heads: int = Field(8, gt=0)
    width: int | None = Field(None, gt=0)
    """Width of the transformer. None: the smaller of vision and language widths."""


class PerceiverConfig(ComponentConfig):
    """Perceiver resampler: learned latents attend to the patches (Flamingo, Idefics2)."""

    name: Literal["perceiver"] = "perceiver"
    latents: int = Field(64, gt=0)
    """Visual tokens per image."""
    depth: int = Field(3, gt=0)
    heads: int = Field(16, gt=0)
    head_dim: int = Field(96, gt=0)
    kv_heads: int = Field(4, gt=0)
    """Grouped key/value heads; must divide `heads`."""
    mlp_ratio: float = Field(4.0, gt=0)
    """Width of the latents' gated MLP over their own width."""
    projection: Literal["gated_mlp", "mlp", "linear", "none"] = "gated_mlp"
    """Modality projection from the vision width, before the resampler (Idefics2: gated_mlp)."""
    qk_norm: bool = False
    """Norm on queries and keys per head (Idefics1)."""
    latents_init: Literal["normal", "ones"] = "normal"
    """"ones" is what transformers' Idefics2 starts from; "normal" (std 0.02) trains better from scratch."""
    norm_eps: float = Field(1e-6, gt=0)
    """Epsilon of every norm inside (Idefics2: 1e-6; Idefics1: 1e-5)."""
    norm: Literal["rms", "layer"] = added("rms")
    """RMSNorm (Idefics2) or LayerNorm (Flamingo, Idefics1)."""
    mlp: Literal["gated", "relu"] = added("gated")
    """The latents' MLP: SiLU-gated (Idefics2) or two linear layers with a ReLU (Idefics1), without biases."""


class PixelShuffleConfig(ComponentConfig):
    """Pixel shuffle (space to depth) by `factor`, then one bias-free linear layer (Idefics3)."""

    name: Literal["pixel_shuffle"] = "pixel_shuffle"
    factor: int = Field(2, gt=0)


connectors.declare("linear", LinearConfig, f"{_PKG}.linear:LinearConnector")
connectors.declare("mlp", MlpConfig, f"{_PKG}.mlp:MlpConnector")
connectors.declare("mapping_network", MappingNetworkConfig, f"{_PKG}.mapping_network:MappingNetwork")
connectors.declare("perceiver", PerceiverConfig, f"{_PKG}.perceiver:PerceiverResampler")
connectors.declare("pixel_shuffle", PixelShuffleConfig, f"{_PKG}.pixel_shuffle:PixelShuffleConnector")
