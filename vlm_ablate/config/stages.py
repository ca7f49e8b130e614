"""Training stages: what is trained, for how long, on what schedule."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from vlm_ablate.config.base import FieldError, Strict, added


class Training(StrEnum):
    """How a backbone is trained in a stage."""

    frozen = "frozen"
    lora = "lora"
    dora = "dora"
    full = "full"


BACKBONES = ("vision", "language")
"""Fields of a stage that say how a pretrained part is trained, and attributes of the model that hold it; all else is
new."""


class LoraConfig(Strict, decides="training"):
    """Low-rank adapters (peft). Targets are matched against module paths inside the backbone."""

    r: int = Field(64, gt=0)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    vision_targets: str | list[str] = "all-linear"
    """"all-linear", a list of module-name suffixes, or one regular expression over full module paths."""
    language_targets: str | list[str] = "all-linear"
    """As above; "all-linear" leaves out the output head."""

    @field_validator("vision_targets", "language_targets")
    @classmethod
    def _is_expression(cls, targets: str | list[str]) -> str | list[str]:
        if isinstance(targets, str) and targets != "all-linear":
            try:
                re.compile(targets)
            except re.error as error:
                raise ValueError(f"no regular expression: {error}") from error
        return targets

    @field_validator("language_targets")
    @classmethod
    def _spares_vocabulary(cls, targets: str | list[str]) -> str | list[str]:
        """Names of known families; whatever a model calls its tables, `models/adapters.py` refuses them too."""
        if isinstance(targets, str):
            paths = [f"{prefix}{name}" for name in _VOCABULARY for prefix in ("", "model.", "transformer.")]
            named = [path for path in paths if targets != "all-linear" and re.fullmatch(targets, path)]
        else:
            named = [target for target in targets if target.rpartition(".")[2] in _VOCABULARY]
        if named:
            raise ValueError(
                f"{named[0]} is a table of the vocabulary, which takes no adapter: rows of new tokens are trained by "
                "themselves; leave it out, or train the model in full"
            )
        return targets


_VOCABULARY = ("embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out", "tok_embeddings")
"""What families of language models call the embedding and the output head."""

Beta = Annotated[float, Field(ge=0, lt=1)]


class LearningRates(Strict, decides="training"):
    """Learning rates of single parts, where they are not the stage's; matrices that Muon trains follow in proportion.

    A part that trains at `x` times the stage's `learning_rate` has its matrices trained at `x` times
    `matrix_learning_rate`, too.
    """

    connector: float | None = added(None, gt=0)
    """Of new parameters: the connector, blocks of cross-attention, rows of new tokens. None: `learning_rate`."""
    vision: float | None = added(None, gt=0)
    """Of the vision encoder or its adapters. None: `backbone_learning_rate`."""
    language: float | None = added(None, gt=0)
    """Of the language model or its adapters. None: `backbone_learning_rate`."""
    gates: float | None = added(None, gt=0)
    """Of the gates of cross-attention blocks, which start closed. None: as the connector."""


Layers = Annotated[int, Field(gt=0)] | str
"""The last so many layers, or a regular expression over whole parameter paths inside the backbone."""


class TrainedLayers(Strict, decides="training"):
    """The part of a backbone that is trained in full, where not all of it is."""

    vision: Layers | None = added(None)
    language: Layers | None = added(None)

    @field_validator("vision", "language")
    @classmethod
    def _is_expression(cls, layers: int | str | None) -> int | str | None:
        if isinstance(layers, str):
            try:
                re.compile(layers)
            except re.error as error:
                raise ValueError(f"no regular expression: {error}") from error
        return layers


class Stage(Strict, decides="training"):
    """How one stage trains; on what, a run's stage says (`run_config.RunStage`)."""

    steps: int = Field(gt=0)
    """Optimiser steps."""
    batch_size: int = Field(gt=0)
    """Sequences per optimiser step, over all devices."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """"muon" orthogonalises the steps of matrices (torch.optim.Muon) and leaves the rest to AdamW."""
    matrix_learning_rate: float = Field(0.02, gt=0)
    """Learning rate of the matrices that Muon trains: the spectral norm of a step."""
    learning_rate: float = Field(1e-4, gt=0)
    backbone_learning_rate: float | None = Field(None, gt=0)
    """Learning rate of backbone parameters and adapters; None: the same."""
    learning_rates: LearningRates = added(LearningRates())
    """Learning rates of single parts, before those above."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    """Not applied to biases, norms, gates, latents and embeddings."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    gradient_clip: float | None = Field(1.0, gt=0)
    vision: Training = Training.frozen
    language: Training = Training.frozen
    trained_layers: TrainedLayers = added(TrainedLayers())
    """Of a backbone that is trained in full, only the last so many layers (`language: 4`), or the parameters whose
    whole path an expression matches; the rest stays frozen."""
    connector: Literal["full", "frozen"] = "full"
    """The new parameters: connector and, for cross-attention, the gated blocks."""
    lora: LoraConfig = LoraConfig()
    neftune_alpha: float | None = Field(None, gt=0)
    """Uniform noise of +-alpha/sqrt(length * width) on the embedded text (arXiv:2310.05914)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """"bf16" computes in bf16 (autocast); what is trained is kept in fp32, and so is everything on a CPU."""
    divergence_loss_ratio: float = Field(3.0, gt=1)
    """A run has diverged when the smoothed loss is not finite or exceeds this multiple of its first value, which counts
    for one nat at least."""

    @model_validator(mode="after")
    def _layers_of_what_is_trained(self) -> Stage:
        for part in ("vision", "language"):
            if getattr(self.trained_layers, part) is not None and getattr(self, part) is not Training.full:
                raise FieldError(
                    ("trained_layers", part), f"only of a backbone trained in full; {part} is {getattr(self, part)}"
                )
        return self

    @model_validator(mode="after")
    def _warmup_ends(self) -> Stage:
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} is not below steps {self.steps}; set both, e.g. "
                f"warmup_steps: {self.steps // 10}"
            )
        return self


def held_in_bf16(stages: Iterable[Stage]) -> tuple[str, ...]:
    """The backbones that a GPU may hold in bf16: every stage computes in bf16, and none trains them in full.

    Nothing is lost that autocast would not round anyway, at half the memory.
    """
    stages = list(stages)
    if any(stage.precision != "bf16" for stage in stages):
        return ()
    return tuple(part for part in BACKBONES if all(getattr(stage, part) is not Training.full for stage in stages))
