"""Scale files: what stands in for the paper's backbones, data and budget."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from vlm_ablate.config.base import Strict


class StandIn(Strict):
    """A part that stands in for one the paper names."""

    use: dict[str, Any]
    """The component, e.g. {name: siglip-nano}."""
    note: str = ""
    """What a reader must know about the substitution."""


class Scale(Strict):
    """One scale: the same experiment with other backbones, data and budget.

    Applied to the base and to every arm after its diff, so that arms stay written in the paper's words.
    """

    name: str
    summary: str = ""
    vision: dict[str, StandIn] = Field(default_factory=dict)
    """Paper's encoder (hub id or registry name) -> stand-in."""
    language: dict[str, StandIn] = Field(default_factory=dict)
    """Paper's language model -> stand-in."""
    values: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Dotted path -> {the paper's value -> the value at this scale}, e.g. model.connector.latents: {64: 8}."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Merged over the result: data, stages, evaluation. A `replace: true` key in a mapping replaces instead of merging."""
