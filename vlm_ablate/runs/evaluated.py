"""Rows that `vlm-ablate evaluate` added to an experiment's table, beside the arms that its file has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vlm_ablate.config.base import FieldError
from vlm_ablate.config.expand import LoadedExperiment
from vlm_ablate.config.experiment import Arm
from vlm_ablate.config.loading import ResolvedArm
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.runs.names import asked_for
from vlm_ablate.runs.spec import RunSpec


@dataclass(frozen=True)
class Rows:
    """An experiment with the rows that were added to it."""

    loaded: LoadedExperiment
    left_out: tuple[str, ...] = ()
    """Names of rows that were asked in another way than the table is now, and what differs."""


def with_row(loaded: LoadedExperiment, row: ResolvedArm) -> LoadedExperiment:
    """The experiment with one more arm, as if its file had it."""
    arms = {**loaded.experiment.arms, row.name: Arm(label=row.label, cell=row.cell)}
    experiment = loaded.experiment.model_copy(update={"arms": arms})
    return replace(loaded, experiment=experiment, arms={**loaded.arms, row.name: row})


def with_evaluated(loaded: LoadedExperiment, home: Home) -> Rows:
    """The experiment with all rows that were evaluated for it in this home, at its scale and under its protocol."""
    found: dict[str, tuple[int, RunSpec]] = {}
    left_out: dict[str, str] = {}
    for _, body in asked_for(home):
        said = body["spec"]
        ours = said["experiment"] == loaded.experiment.name and said["scale"] == loaded.scale.name
        if not ours or said.get("evaluated") is not True or said["arm"] in {*loaded.arms, *loaded.left_out}:
            continue
        try:
            spec = RunSpec.from_dict(said)
        except (TypeError, KeyError, ValueError, VlmAblateError, FieldError) as error:
            left_out[said["arm"]] = " ".join(str(error).split())[:120]
            continue
        if unlike := differences(spec.config, loaded.base):
            left_out[spec.arm] = unlike
            continue
        when = int(body.get("started_ms") or 0)
        if spec.arm not in found or found[spec.arm][0] < when:
            found[spec.arm] = when, spec
    for _, spec in sorted(found.values(), key=lambda known: known[0]):
        row = (spec.arm, spec.label, spec.cell, None, spec.config, spec.config, spec.stand_ins, spec.scaled)
        loaded = with_row(loaded, ResolvedArm(*row))
    return Rows(loaded, tuple(f"{arm} ({why})" for arm, why in left_out.items() if arm not in found))


def differences(mine: RunConfig, table: RunConfig) -> str:
    """In what one evaluation asks otherwise than another, in words; "" where both may stand in one table.

    How pictures are prepared, and the precision, belong to the model.
    """
    asked, wanted = _protocol(mine), _protocol(table)
    unlike = [
        f"{what} {asked.get(what)} and not {wanted.get(what)}"
        for what in asked.keys() | wanted.keys()
        if asked.get(what) != wanted.get(what)
    ]
    return "; ".join(sorted(unlike))[:300]


def _protocol(config: RunConfig) -> Mapping[str, Any]:
    evaluation = config.evaluation
    said: dict[str, Any] = {"benchmarks": sorted(evaluation.benchmarks), "prompt": evaluation.prompt}
    few = False
    for column, entry in evaluation.benchmarks.items():
        shots = evaluation.shots if entry.shots is None else entry.shots
        few = few or bool(shots)
        said |= {f"{column} split": entry.split, f"{column} limit": entry.limit, f"{column} shots": shots}
        said[f"{column} benchmark"] = entry.benchmark.model_dump(mode="json")
    if few:
        said["demonstrations"] = evaluation.demonstrations.model_dump(mode="json")
    return said
