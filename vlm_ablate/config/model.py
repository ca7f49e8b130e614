"""The model section of an experiment: four parts, one from each registry."""

from __future__ import annotations

from pydantic import Field

from vlm_ablate.config.base import Strict, component
from vlm_ablate.registry import architectures, connectors, language_models, vision_encoders


class ModelConfig(Strict, decides="training"):
    """A vision-language model, put together from four registered parts."""

    vision: component(vision_encoders)  # type: ignore[valid-type]  # made at run time
    """Vision encoder."""
    language: component(language_models)  # type: ignore[valid-type]  # made at run time
    """Language model."""
    connector: component(connectors)  # type: ignore[valid-type]  # made at run time
    """Connector."""
    architecture: component(architectures)  # type: ignore[valid-type]  # made at run time
    """How visual tokens meet the language model."""
    init_from: str | None = None
    """Start from a checkpoint of the same assembly: local folder or hub id of a released one (Idefics2, Idefics3,
    SmolVLM, LLaVA, PaliGemma, Idefics, Mllama), or a folder that `vlm-ablate export` wrote. Checked by `plan`."""
    extra_tokens: list[str] = Field(default_factory=list)
    """Tokens added to the language model's vocabulary beside the image tokens."""
