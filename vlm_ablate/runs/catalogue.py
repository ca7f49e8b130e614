"""All runs of a home: what was asked for there, by experiment; and their records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlm_ablate.errors import StorageError
from vlm_ablate.home import Home
from vlm_ablate.runs.names import asked_for
from vlm_ablate.runs.once import looking_once
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.view import Results, history_of, record_of
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import History, RunRecord


@dataclass(frozen=True)
class Asked:
    """What tells one run that was asked for from others."""

    id: str
    experiment: str
    arm: str
    scale: str
    seed: int


def asked_here(home: Home) -> list[Asked]:
    """All runs that were ever asked for here, read once for all that ask about them."""
    return [
        Asked(body["id"], *(body["spec"][name] for name in ("experiment", "arm", "scale", "seed")))
        for _, body in asked_for(home)
    ]


def seeds_asked(asked: Iterable[Asked], experiment: str, scale: str) -> set[int]:
    """Seeds with which an experiment was run at a scale."""
    return {each.seed for each in asked if (each.experiment, each.scale) == (experiment, scale)}


def others_asked(
    asked: Iterable[Asked], experiment: str, scale: str, arms: Iterable[str], ids: Iterable[str]
) -> frozenset[str]:
    """Ids of the runs of these arms that are none of `ids`: of another configuration."""
    known, names = set(ids), set(arms)
    ours = (each for each in asked if (each.experiment, each.scale) == (experiment, scale) and each.arm in names)
    return frozenset(each.id for each in ours if each.id not in known)


def recorded_of(
    specs: Sequence[RunSpec], home: Home, unread: Callable[[RunSpec, StorageError], object]
) -> list[tuple[Results, RunRecord]]:
    """The results of those specs of which anything is there, also when another experiment has computed it, with their
    records.

    Args:
        unread: is told of a run one of whose files is damaged; it is left out, and the others are not.
    """
    found = []
    with looking_once():
        for spec in specs:
            try:
                results = find_results(spec, home)
                if results.attempt or results.done:
                    found.append((results, record_of(results)))
            except StorageError as error:
                unread(spec, error)
    return found


def examples_of(results: Sequence[Results]) -> dict[str, Path]:
    """Run id -> its panel of pictures with truth and answers, where there is one."""
    panels = {each.spec.id: each.folder.artifacts / schema.EXAMPLES_FILE for each in results}
    return {run: path for run, path in panels.items() if path.is_file()}


def histories_of(results: Sequence[Results], keys: Sequence[str]) -> Mapping[str, History]:
    """Run id -> the histories of some metrics."""
    return {each.spec.id: history_of(each, keys) for each in results}
