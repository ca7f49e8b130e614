"""The score of one benchmark, with everything that must be equal before two scores may stand in one column."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields
from functools import cache
from operator import attrgetter
from typing import Any

from vlm_ablate.errors import DataError

_OUTCOME = frozenset({"score", "unparsed"})
_KINDS = {"str": "text", "int": "whole number", "float": "finite number", "bool": "truth value"}


@dataclass(frozen=True)
class ScoreRecord:
    """What one evaluation produced. `score` is 0..100 (CIDEr may exceed it); `split_hash` covers the items scored."""

    benchmark: str
    """Registry name of the benchmark."""
    column: str
    """Name in the experiment file: the table's column."""
    split: str
    """train, tune or report."""
    split_hash: str
    template: str
    """Prompt template and its version, e.g. `vqa/1`."""
    shots: int
    demonstration_seed: int
    scorer: str
    scorer_version: str
    items: int
    unparsed: int
    """Answers that the scorer could not read; they count as wrong."""
    score: float
    blind: bool
    """Every image was withheld, in the demonstrations and in the query."""
    demonstrations: str = "random"
    """How they were chosen: "random", "fixed" (the same for every item), or "nearest" with the encoder whose features
    ranked them."""
    described: bool = False
    """Exact descriptions in words stood in the place of the images: the ceiling."""

    def protocol(self) -> dict[str, Any]:
        """The fields in which all records of one column must agree."""
        return {name: getattr(self, name) for name in _known_fields() if name not in _OUTCOME}

    def differences(self, other: ScoreRecord) -> dict[str, tuple[Any, Any]]:
        """Field -> (mine, theirs) where the protocols differ; empty when the two may share a column."""
        if _protocol()(self) == _protocol()(other):  # as nearly always
            return {}
        mine, theirs = self.protocol(), other.protocol()
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a tag or a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ScoreRecord:
        """The inverse of `to_dict`; keys that this version does not know are ignored.

        Raises:
            DataError: a field is missing or of another type, or the score is not finite.
        """
        known = _known_fields()
        if missing := [n for n, f in known.items() if n not in data and f.default is f.default_factory is MISSING]:
            raise DataError(f"a score record has no {missing[0]!r}")
        given = {name: value for name, value in data.items() if name in known}
        for name, value in given.items():
            kind = known[name].type  # annotations are texts here
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            right = number and math.isfinite(value) if kind == "float" else type(value).__name__ == kind
            if not right:
                raise DataError(f"a score record's {name!r} must be a {_KINDS[str(kind)]}, not {value!r}")
        return cls(**given)


@cache
def _known_fields() -> dict[str, Field[Any]]:
    return {f.name: f for f in fields(ScoreRecord)}


@cache
def _protocol() -> Callable[[ScoreRecord], tuple[Any, ...]]:
    """The values of what all records of a column must agree in."""
    return attrgetter(*(name for name in _known_fields() if name not in _OUTCOME))
