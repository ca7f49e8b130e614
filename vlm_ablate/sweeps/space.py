"""The space of one study: which fields are searched when, what is proposed for them, and all combinations of a grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from graphlib import TopologicalSorter
from itertools import islice
from typing import TYPE_CHECKING

from vlm_ablate.sweeps.config import ARM, Dimension, Value, as_list, conditions, ends

if TYPE_CHECKING:
    from optuna.trial import Trial

Values = dict[str, Value]
"""Field -> value; of a study over several arms also `arm`."""
MOST_COMBINATIONS = 10_000
"""Up to so many combinations a grid has, and it is noticed that all of a space were begun."""


@dataclass(frozen=True)
class Space:
    """Fields and the values that they may take, in an order in which each stands behind those that it depends on."""

    dimensions: Mapping[str, Dimension]

    @classmethod
    def of(cls, fields: Mapping[str, Dimension], arms: Sequence[str]) -> Space:
        """The space of a study over some arms; conditions on an arm that is the only one are settled here."""
        if len(arms) > 1:
            every = {ARM: Dimension(choices=list(arms)), **fields}
        else:
            wanted = {name: conditions(fields, name) for name in fields}
            fitting = {name: d for name, d in fields.items() if arms[0] in wanted[name].get(ARM, arms)}
            every = {name: _without_arm(d) for name, d in fitting.items()}
        order = TopologicalSorter({name: [w for w in d.when if w in every] for name, d in every.items()})
        return cls({name: every[name] for name in order.static_order()})

    def active(self, name: str, values: Mapping[str, Value]) -> bool:
        """Whether a field is searched when those before it have these values."""
        asked = self.dimensions[name].when.items()
        return all(other in values and values[other] in as_list(wanted) for other, wanted in asked)

    def suggest(self, trial: Trial, untouched: Sequence[str] = ()) -> Values:
        """Values for a trial, recorded in the study.

        Args:
            untouched: fields that stay as the file has them.
        """
        values: Values = {}
        for name, d in self.dimensions.items():
            if name in untouched or not self.active(name, values):
                continue
            if d.choices is not None:
                values[name] = trial.suggest_categorical(name, d.choices)
            elif isinstance(d.low, int) and isinstance(d.high, int):
                values[name] = trial.suggest_int(name, d.low, d.high, step=int(d.step or 1), log=d.log)
            else:
                low, high = ends(d)
                values[name] = _exact(d, trial.suggest_float(name, low, high, step=d.step, log=d.log))
        return values

    def exact(self, values: Mapping[str, Value]) -> Values:
        """Values as a file writes them: of numbers in steps 0.3, and not the 0.1 + 2 * 0.1 of a sampler."""
        return {name: _exact(self.dimensions[name], value) for name, value in values.items()}

    @property
    def countable(self) -> bool:
        """Whether every field has so many values: `grid` gives all combinations."""
        return all(d.choices is not None or d.whole or d.step is not None for d in self.dimensions.values())

    def grid(self) -> Iterator[Values]:
        """All combinations of fields with countable values."""
        yield from self._below(list(self.dimensions), {})

    def _below(self, names: Sequence[str], values: Values) -> Iterator[Values]:
        if not names:
            yield values
        elif not self.active(names[0], values):
            yield from self._below(names[1:], values)
        else:
            for value in listed(self.dimensions[names[0]]):
                yield from self._below(names[1:], {**values, names[0]: value})

    def combinations(self, most: int) -> int | None:
        """How many combinations a countable space has; None: more than `most`."""
        found = sum(1 for _ in islice(self.grid(), most + 1))
        return found if found <= most else None

    def enabling(self, name: str) -> Values:
        """Values of other fields with which a field is searched."""
        return {other: wanted[0] for other, wanted in conditions(self.dimensions, name).items()}


def _without_arm(dimension: Dimension) -> Dimension:
    when = {other: wanted for other, wanted in dimension.when.items() if other != ARM}
    return dimension.model_copy(update={"when": when})


def extremes(dimension: Dimension) -> list[Value]:
    """The ends of a range, the upper one as far as its steps reach, or all choices."""
    if dimension.choices is not None:
        return list(dimension.choices)
    low, high = ends(dimension)
    if dimension.step is None:
        return [low, high]
    last = int((high - low) / dimension.step + 1e-9)
    return [low, low + last * int(dimension.step) if dimension.whole else _step(dimension, last)]


def listed(dimension: Dimension) -> Iterator[Value]:
    """All values of a field that has so many: choices, whole numbers, or numbers in steps. They may be very many."""
    if dimension.choices is not None:
        yield from dimension.choices
    elif isinstance(dimension.low, int) and isinstance(dimension.high, int):
        yield from range(dimension.low, dimension.high + 1, int(dimension.step or 1))
    else:
        low, high = ends(dimension)
        assert dimension.step is not None
        for number in range(int((high - low) / dimension.step + 1e-9) + 1):
            yield _step(dimension, number)


def _step(dimension: Dimension, number: int) -> float:
    low, _ = ends(dimension)
    return float(Decimal(str(low)) + number * Decimal(str(dimension.step)))  # 0.1 + 2 * 0.1 is not the 0.3 of a file


def _exact(dimension: Dimension, value: Value) -> Value:
    if dimension.step is None or dimension.whole or not isinstance(value, float):
        return value
    return _step(dimension, round((value - ends(dimension)[0]) / dimension.step))
