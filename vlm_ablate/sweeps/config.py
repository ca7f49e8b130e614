"""A sweep file: which experiment, which fields, who proposes values, what counts as better, and what it may cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from vlm_ablate.config.base import FieldError, Strict

Value = bool | int | float | str | None
"""What a field of the space can hold."""

ARM = "arm"
"""The dimension of a sweep over several arms."""


def least_seeds(p: float) -> int:
    """Seeds a trial from which a Wilcoxon test can end one before its last. The smallest p-value of n seeds is 2^-n: of
    four 0.0625, so for 0.1 there must be a fifth. It looks at no fewer than two."""
    return max(2, math.floor(-math.log2(p)) + 1) + 1


class SweptExperiment(Strict):
    """What is searched in."""

    file: str
    """Experiment file: a path from the working directory or from the sweep file, or `idefics2/t03_architecture`."""
    arms: list[str] = Field(min_length=1)
    """Arms of it. Several are one more dimension of the space, called `arm`."""
    scale: str = "laptop"
    per_arm: bool = False
    """Search each arm for itself, with the whole budget each: a comparison is fair when all sides were tuned alike."""

    @field_validator("arms", mode="before")
    @classmethod
    def _one_is_a_list(cls, arms: Any) -> Any:
        return [arms] if isinstance(arms, str) else arms

    @field_validator("arms")
    @classmethod
    def _differ(cls, arms: list[str]) -> list[str]:
        if len(set(arms)) < len(arms):
            raise ValueError("an arm is named twice")
        return arms


LARGEST = 2**53
"""Up to here a study, which keeps 64-bit floats, holds every whole number."""


class Dimension(Strict):
    """The values that one field may take: a range (`low`, `high`), or a list of `choices`.

    A range whose ends are whole numbers gives whole numbers; write 1.0 for numbers between.
    """

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    """Drawn evenly over orders of magnitude."""
    step: int | float | None = Field(None, gt=0)
    choices: list[Value] | None = Field(None, min_length=1)
    when: dict[str, Value | list[Value]] = Field(default_factory=dict)
    """Other fields of the space (or `arm`) and the value or values that they must have; else the file's value holds."""

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        if self.choices is not None:
            for name in ("low", "high", "step"):
                if getattr(self, name) is not None:
                    raise FieldError((name,), "belongs to a range; this field has choices")
            if self.log:
                raise FieldError(("log",), "belongs to a range; this field has choices")
            if len(set(self.choices)) < len(self.choices):  # 1, 1.0 and true are one to a study
                raise FieldError(("choices",), "has the same value twice")
            return self
        if self.low is None or self.high is None:
            raise ValueError("needs `low` and `high`, or `choices`")
        if self.low >= self.high:
            raise FieldError(("high",), f"{self.high} is not above low, {self.low}")
        if self.log and self.low <= 0:
            raise FieldError(("low",), f"{self.low} is not above 0, as `log` needs")
        if self.log and self.step is not None:
            raise FieldError(("step",), "does not go with `log`; write the values as `choices`")
        if self.whole and self.step is not None and not isinstance(self.step, int):
            raise FieldError(("step",), f"{self.step} is no whole number, as the ends are")
        if self.whole and max(abs(self.low), abs(self.high)) > LARGEST:
            end = "high" if abs(self.high) > LARGEST else "low"
            raise FieldError((end,), f"{getattr(self, end)} is beyond 2^53: a study would round it")
        return self

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


def _dimension(value: Any) -> Any:
    """A list is short for its choices."""
    return {"choices": value} if isinstance(value, list) else value


class Sampler(Strict):
    """Who proposes values."""

    name: Literal["tpe", "random", "grid", "nsga2"] = "tpe"
    """"grid" goes through all combinations; "nsga2" keeps a population, for two objectives."""
    seed: int = Field(0, ge=0, lt=2**31)
    startup: int = Field(8, ge=1)
    """Of tpe: trials drawn at random first. Of nsga2: size of its population."""


class Pruner(Strict):
    """Who ends trials that are behind others. "median" and "hyperband" look at the scores along the way
    (`evaluation.curve`), "wilcoxon" at the seeds of a trial one after another."""

    name: Literal["none", "median", "hyperband", "wilcoxon"] = "none"
    startup: int = Field(5, ge=0)
    """Of median: trials that go to their end first."""
    warmup: int = Field(0, ge=0)
    """Of median: points of the curve at which nothing is pruned."""
    reduction: int = Field(3, ge=2)
    """Of hyperband: of so many trials one goes on."""
    p: float = Field(0.1, gt=0, lt=1)
    """Of wilcoxon: below this p-value a trial is behind the best."""


class Objective(Strict):
    """What counts as better."""

    score: str = "mean"
    """A column of the experiment's benchmarks, or their mean."""
    split: Literal["tune"] = "tune"
    direction: Literal["maximize", "minimize"] = "maximize"
    against: Literal["flops", "parameters"] | None = None
    """A second objective, as small as possible: operations of the training, or parameters of the model (planned)."""

    @field_validator("split", mode="before")
    @classmethod
    def _on_tune(cls, split: Any) -> Any:
        if split in ("report", "train"):
            raise ValueError(
                f"a sweep looks at the tune split and at no other: what was chosen on {split!r} says nothing there"
            )
        return split


class Budget(Strict):
    """When no further trial begins, over all processes; the first that is reached counts."""

    trials: int | None = Field(None, ge=1, le=100_000)
    hours: float | None = Field(None, gt=0)
    """Of computing, all trials together."""
    flops: float | None = Field(None, gt=0)
    """Planned operations of the trainings, all trials together."""


class Constraints(Strict):
    """What a trial must keep by its plan; one that does not is never started."""

    peak_memory_gib: float | None = Field(None, gt=0)
    parameters: float | None = Field(None, gt=0)
    flops: float | None = Field(None, gt=0)
    """Operations of one training."""


class Sweep(Strict):
    """A whole sweep file."""

    name: str
    """Names the study, and its experiment in the tracking store: `sweeps/NAME`."""
    question: str = ""
    experiment: SweptExperiment
    set: dict[str, Any] = Field(default_factory=dict)
    """Dotted fields that all trials have otherwise than the file, e.g. fewer steps."""
    space: dict[str, Annotated[Dimension, BeforeValidator(_dimension)]] = Field(min_length=1)
    """Dotted field, as in an arm's `set` -> the values it may take."""
    sampler: Annotated[Sampler, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)] = (
        Sampler()
    )
    pruner: Annotated[Pruner, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)] = (
        Pruner()
    )
    objective: Annotated[
        Objective, BeforeValidator(lambda value: {"score": value} if isinstance(value, str) else value)
    ] = Objective()
    budget: Budget = Budget()
    """Of a grid, nothing need be said: it ends."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(default_factory=lambda: [0], min_length=1)
    """Of each trial. Runs are shared with tables, whose seeds are usually 0, 1, 2."""
    constraints: Constraints = Constraints()

    @field_validator("name")
    @classmethod
    def _is_no_path(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-][\w.-]*", name, flags=re.ASCII):
            raise ValueError(f"{name!r} is no name: letters, digits and -_.")
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> Sweep:
        budget, sampler, pruner, two = self.budget, self.sampler.name, self.pruner.name, self.objective.against
        if sampler != "grid" and budget.trials is None and budget.hours is None and budget.flops is None:
            raise FieldError(("budget",), "says nothing: write trials, hours or flops")
        if two and pruner != "none":
            raise FieldError(("pruner",), f"{pruner} ranks trials by one number, and there are two objectives")
        if sampler == "nsga2" and not two:
            raise FieldError(("sampler",), "nsga2 weighs two objectives; write objective.against, or take tpe")
        if pruner == "wilcoxon" and len(self.seeds) < (least := least_seeds(self.pruner.p)):
            message = f"wilcoxon needs {least} seeds a trial to end any, and there are {len(self.seeds)}"
            raise FieldError(("pruner",), message)
        if len(set(self.seeds)) < len(self.seeds):
            raise FieldError(("seeds",), "has the same seed twice")
        for field, dimension in self.space.items():
            _check_conditions(self, field, dimension)
            if sampler == "grid" and dimension.choices is None and not dimension.whole and dimension.step is None:
                raise FieldError(("space", field), "a grid needs `choices`, whole numbers or a `step`")
        return self


def ends(dimension: Dimension) -> tuple[float, float]:
    """Both ends of a range."""
    assert dimension.low is not None and dimension.high is not None
    return dimension.low, dimension.high


def holds(dimension: Dimension, value: object) -> bool:
    """Whether a value that a file has is one that the field may take in the search."""
    if dimension.choices is not None:
        return value in dimension.choices
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = ends(dimension)
    if not low <= value <= high or (dimension.whole and not isinstance(value, int)):
        return False
    step = dimension.step or (1 if dimension.whole else None)
    return step is None or abs((value - low) / step - round((value - low) / step)) < 1e-8


def as_list(wanted: Value | list[Value]) -> list[Value]:
    """The values of a condition, which may be one."""
    return wanted if isinstance(wanted, list) else [wanted]


def conditions(space: Mapping[str, Dimension], field: str) -> dict[str, list[Value]]:
    """Other field, or `arm` -> the values that it may have where a field is searched: all that must be so at once, for
    the fields of its conditions are searched there, too. An empty list: it is never searched."""
    found: dict[str, list[Value]] = {}
    seen, waiting = {field}, [field]
    while waiting:
        for other, wanted in space[waiting.pop()].when.items():
            found[other] = [value for value in as_list(wanted) if other not in found or value in found[other]]
            if other in space and other not in seen:
                seen.add(other)
                waiting.append(other)
    return found


def _check_conditions(sweep: Sweep, field: str, dimension: Dimension) -> None:
    """The fields of a condition are in the space, have the values it names, and stand in no circle; it can be met."""
    several = len(sweep.experiment.arms) > 1
    for other, wanted in dimension.when.items():
        path = ("space", field, "when", other)
        if other == ARM and several:
            known = Dimension(choices=list(sweep.experiment.arms))
        elif other in sweep.space:
            known = sweep.space[other]
        else:
            there = [*([ARM] if several else []), *(name for name in sweep.space if name != field)]
            raise FieldError(path, f"is no other field of the space; there are {', '.join(there) or 'none'}")
        for value in as_list(wanted):
            whole = known.whole and isinstance(value, float) and value.is_integer()
            if not holds(known, int(value) if whole and isinstance(value, float) else value):
                raise FieldError(path, f"never has the value {value!r}")
    seen: set[str] = set()
    waiting = [field]
    while waiting:
        for other in sweep.space[waiting.pop()].when:
            if other == field:
                raise FieldError(("space", field, "when"), "the field depends on itself")
            if other in sweep.space and other not in seen:
                seen.add(other)
                waiting.append(other)
    for other, values in conditions(sweep.space, field).items():
        if not values:
            own = [other] if other in dimension.when else []
            raise FieldError(("space", field, "when", *own), f"is never met: no value of {other} is all that it needs")
