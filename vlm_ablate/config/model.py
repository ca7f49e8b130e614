"""The model section of an experiment: four parts, one from each registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from vlm_ablate.config.base import FieldError, Strict, added, component
from vlm_ablate.registry import architectures, connectors, language_models, vision_encoders

RUN = "run:"
"""What the name of a run begins with, where a folder or a hub id may stand, too."""
WHOLE = "whole"
"""Stands for all parts of a model together."""


class PartStarts(Strict, decides="training"):
    """Where the weights of single parts come from; the others start as without it.

    Each is a folder, a hub id, or `run:NAME`, a finished run of the same home, named as for `vlm-ablate export`.
    """

    vision: str | None = added(None)
    """Vision encoder, adapters folded in."""
    language: str | None = added(None)
    """Language model with the rows of new tokens, adapters folded in."""
    connector: str | None = added(None)
    """Connector, of the same kind and widths."""
    architecture: str | None = added(None)
    """Blocks of cross-attention; an autoregressive model has none."""
    adapters: str | None = added(None)
    """LoRA or DoRA alone, folded into the backbones that stand here: of a run, of a folder that `vlm-ablate export
    --keep-adapters` wrote, or a peft folder of the language model."""

    @model_validator(mode="after")
    def _names_a_part(self) -> PartStarts:
        if not any(id for _, id in self):
            raise ValueError(f"names no part; known: {', '.join(type(self).model_fields)}")
        return self

    @model_validator(mode="after")
    def _folds_once(self) -> PartStarts:
        for part in ("vision", "language"):
            if self.adapters and self.adapters == getattr(self, part):
                told = f"the {part} part of {self.adapters!r} has its adapters folded in already; name one of the two"
                raise FieldError(("adapters",), told)
        return self


def _start(value: Any) -> Any:
    """Checked here, so that what is wrong in a mapping is told of its field."""
    if isinstance(value, Mapping):
        return PartStarts.model_validate(value)
    if value is None or isinstance(value, str | PartStarts):
        return value
    raise ValueError(f"a folder, a hub id, {RUN}NAME, or a mapping of parts to these; not {value!r}")


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
    init_from: Annotated[str | PartStarts | None, BeforeValidator(_start)] = None
    """Start from a checkpoint of the same assembly: local folder or hub id of a released one (Idefics2, Idefics3,
    SmolVLM, LLaVA, PaliGemma, Idefics, Mllama), a folder that `vlm-ablate export` wrote, or `run:NAME`, a finished run
    of the same home. A mapping takes single parts from there: `{connector: run:NAME}`. Checked by `plan`."""
    extra_tokens: list[str] = Field(default_factory=list)
    """Tokens added to the language model's vocabulary beside the image tokens: words of their own wherever texts and
    answers have them (`<loc_12>`), with rows that every stage trains."""

    @property
    def starts(self) -> dict[str, str]:
        """Part, or WHOLE -> the folder, hub id or run that `init_from` takes it from."""
        if isinstance(self.init_from, PartStarts):
            return {part: id for part, id in self.init_from if id}
        return {WHOLE: self.init_from} if self.init_from else {}

    def starting_from(self, places: Mapping[str, str]) -> ModelConfig:
        """The same, with other places for some of those that `starts` names."""
        starts: dict[str, Any] = {part: places.get(id, id) for part, id in self.starts.items()}
        if not places.keys() & {*self.starts.values()}:
            return self
        return self.model_copy(update={"init_from": starts[WHOLE] if WHOLE in starts else PartStarts(**starts)})
