"""Scale files: what stands in for the paper's backbones, data and budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, field_validator

from vlm_ablate import registry as registries
from vlm_ablate.config.base import Strict
from vlm_ablate.registry import Registry


@dataclass(frozen=True)
class StandsFor:
    """Marks a scale's table of stand-ins for the parts of `registry`."""

    registry: Registry[Any]


class StandIn(Strict):
    """A part that stands in for one the paper names."""

    use: dict[str, Any]
    """The component, e.g. {name: siglip-nano}."""
    note: str = ""
    """What a reader must know about the substitution."""


class TunedKind(Strict):
    """How the arms of one kind are trained best at this scale, found on the tune split with equal effort for each kind.

    What is set here differs between arms without making them unlike: no warning is given, and a table tells it.
    """

    when: dict[str, Any] = Field(min_length=1)
    """Dotted path of a run in the paper's words -> its value, or a list of values, e.g. {model.connector.name: linear}.
    All must be so; a path with `*` that names several places, at every one of them, but for `stages.*`: that is each
    stage by itself, the same in `when` and in `set`."""
    set: dict[str, Any] = Field(min_length=1)
    """Dotted path below `stages` -> value."""
    note: str = ""
    """Where the trials are recorded."""

    @field_validator("when")
    @classmethod
    def _is_of_a_run(cls, values: dict[str, Any]) -> dict[str, Any]:
        for path in values:
            if path.partition(".")[0] not in ("model", "stages"):
                raise ValueError(f"{path!r} is not below `model` or `stages`")
        return values

    @field_validator("set")
    @classmethod
    def _is_of_training(cls, values: dict[str, Any]) -> dict[str, Any]:
        for path in values:
            if not path.startswith("stages."):
                raise ValueError(f"{path!r} is not below `stages`; how an arm is trained is tuned, not what it is")
        return values


class Scale(Strict):
    """One scale: the same experiment with other backbones, data and budget.

    Applied to the base and to every arm after its diff, so that arms stay written in the paper's words.
    """

    name: str = Field(pattern=r"^\w[\w.-]*$")
    summary: str = ""
    vision: Annotated[dict[str, StandIn], StandsFor(registries.vision_encoders)] = Field(default_factory=dict)
    """Paper's encoder (hub id or registry name) -> stand-in."""
    language: Annotated[dict[str, StandIn], StandsFor(registries.language_models)] = Field(default_factory=dict)
    """Paper's language model -> stand-in."""
    sources: Annotated[dict[str, StandIn], StandsFor(registries.sources)] = Field(default_factory=dict)
    """Paper's data source -> stand-in; the mixture keeps its entries and weights. As in all of these tables, a key
    `NAME[field=value]` means the part of that name with that value, before a key that is the name alone."""
    benchmarks: Annotated[dict[str, StandIn], StandsFor(registries.benchmarks)] = Field(default_factory=dict)
    """Paper's benchmark -> stand-in; the column keeps the paper's name."""
    values: dict[str, dict[Any, Any]] = Field(default_factory=dict)
    """Dotted path -> {the paper's value -> the value at this scale}, e.g. model.connector.latents: {64: 8}.

    Fields that an experiment varies belong here, not under `overrides`: each value keeps its own counterpart. `*` in
    the path stands for every name, `*` as a value for every value not listed. A path below `data` means every
    stage's data; below `data.image` also the evaluation's image and its benchmarks', where these are written.
    """
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Merged over the result: data (of every stage), stages, evaluation, execution. A `replace: true` key in a mapping
    replaces instead of merging; the key `*` stands for every key that is there (stages: {"*": {batch_size: 8}})."""
    tuned: list[TunedKind] = Field(default_factory=list)
    """Learning rates and the like by kind of arm, merged last and in this order, over `overrides`."""
    note: str = ""
    """What a reader must know about the overrides, e.g. which data stands in for the paper's."""

    @property
    def tuned_fields(self) -> list[str]:
        """Dotted paths in which arms may differ because each was tuned."""
        return list(dict.fromkeys(path for tuned in self.tuned for path in tuned.set))

    def stand_ins(self, registry: Registry[Any]) -> dict[str, StandIn]:
        """The table for the parts of a registry; empty where they are the subject of experiments and have none."""
        for name, field in type(self).model_fields.items():
            if any(isinstance(mark, StandsFor) and mark.registry is registry for mark in field.metadata):
                return dict(getattr(self, name))
        return {}
