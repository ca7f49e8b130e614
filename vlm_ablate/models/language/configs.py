"""Language models: configuration and registry."""

from __future__ import annotations

from typing import Literal

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.registry import language_models

_PKG = "vlm_ablate.models.language"


class HubLanguageConfig(ComponentConfig):
    """Any Hugging Face causal language model, by hub id or local path."""

    name: Literal["hf"] = "hf"
    id: str
    """Hub id or local folder."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    trust_remote_code: bool = False
    """Run code from the hub. Off unless you write it."""


language_models.declare("hf", HubLanguageConfig, f"{_PKG}.hf:HubLanguageModel")
