"""What is exported, and what an export wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_ablate.config.data import Preparation


@dataclass(frozen=True)
class Origin:
    """Where a model comes from, and how it is asked."""

    name: str
    """Of the run, for messages."""
    data: Preparation
    """Image preparation and prompt format that it is asked with."""
    title: str
    """Heading of its card."""
    tags: tuple[str, ...] = ()
    sections: tuple[tuple[str, str], ...] = ()
    """(heading, Markdown) of the card, after how it is loaded."""
    plugins: tuple[str, ...] = ()
    """Modules that its parts come from."""
    run: Mapping[str, Any] | None = None
    """What is written into a folder of this package's own about the run."""


@dataclass(frozen=True)
class Check:
    """The written folder, loaded with transformers, against the run's own model on a picture of noise."""

    pixels: float
    """Largest difference of pixel values; the token ids were equal."""
    logits: float
    """Largest difference of logits."""
    scale: float
    """Largest logit."""

    def __str__(self) -> str:
        pixels = f"pixels within {self.pixels:.1g}" if self.pixels else "pixels equal"
        return f"token ids equal, {pixels}, logits within {self.logits:.1g} (the largest is {self.scale:.3g})"


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    folder: Path
    cls: str | None
    """transformers' class that loads it; None: `load_checkpoint` of this package."""
    reason: str = ""
    """Why transformers has no class for it."""
    adapters: bool = False
    """Whether adapters stand beside the base weights."""
    remarks: tuple[str, ...] = ()
    check: Check | None = None
