"""The registries of pluggable parts and the configuration of every built-in part (no torch is imported here)."""

from vlm_ablate.config.components.architectures import architectures
from vlm_ablate.config.components.benchmarks import benchmarks
from vlm_ablate.config.components.connectors import connectors
from vlm_ablate.config.components.language import language_models
from vlm_ablate.config.components.sources import sources
from vlm_ablate.config.components.vision import vision_encoders

__all__ = ["architectures", "benchmarks", "connectors", "language_models", "sources", "vision_encoders"]
