"""Language models: configuration and registry."""

from __future__ import annotations

from typing import Literal

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.registry import Registry

language_models: Registry = Registry("language model")

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


class LlamaNanoConfig(ComponentConfig):
    """The shipped stand-in: a small Llama decoder in two qualities of equal size."""

    name: Literal["llama-nano"] = "llama-nano"
    quality: Literal["good", "poor"] = "good"
    """The two differ only in how long they were pretrained; the paper's Table 1 compares such a pair."""
    weights: Literal["pretrained", "random"] = "pretrained"


class SmolLm2Config(ComponentConfig):
    """SmolLM2-135M-Instruct (Q4_1, de-quantised). From the `offline` extra."""

    name: Literal["smollm2-135m"] = "smollm2-135m"


language_models.declare("hf", HubLanguageConfig, f"{_PKG}.hub:HubLanguageModel")
language_models.declare("llama-nano", LlamaNanoConfig, f"{_PKG}.nano:LlamaNano")
language_models.declare("smollm2-135m", SmolLm2Config, f"{_PKG}.smollm2:SmolLm2")
