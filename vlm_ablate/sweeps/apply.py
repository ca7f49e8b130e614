"""A sweep's winners as an experiment file: the same experiment, with the arms tuned at the scale of the sweep."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_ablate.config.yaml_reader import to_yaml
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.runs.folder import StageFolder, run_folder, variants
from vlm_ablate.sweeps.config import ARM
from vlm_ablate.sweeps.loading import SEARCHED, LoadedSweep
from vlm_ablate.sweeps.results import StudyResult, TrialRecord
from vlm_ablate.tracking import schema


def winners(results: Sequence[StudyResult], trial: int | None = None) -> dict[str, tuple[StudyResult, TrialRecord]]:
    """Arm -> the trial that is written for it: the best of each study, or the one of that number.

    Raises:
        VlmAblateError: no trial is finished, or none of that number.
    """
    found = {}
    for result in results:
        of_number = [each for each in result.finished if trial is None or each.number == trial]
        if not of_number:
            asked = "no trial" if trial is None else f"no trial {trial}"
            raise VlmAblateError(f"{result.name}: {asked} is finished", hint="`vlm-ablate sweep show FILE` lists them")
        found[of_number[0].arm] = (result, of_number[0])
    return found


def revision_of(trial: TrialRecord, home: Home) -> str:
    """Of the code that trained a trial; several where its seeds differ in that, empty where it is not known."""
    found = []
    for run in trial.runs:
        keys = (run_folder(home, run).read() or {}).get("stages") or []
        for root in variants(home.stages, keys[-1]) if keys else ():
            found.append((StageFolder(root).outcome() or {}).get("provenance", {}).get(schema.GIT))
    return ", ".join(dict.fromkeys(filter(None, found)))


def experiment_text(
    loaded: LoadedSweep, chosen: Mapping[str, tuple[StudyResult, TrialRecord]], out: Path, home: Home
) -> str:
    """The text of an experiment file at `out` that runs the chosen trials' values as the tuned arms of the experiment.

    What the sweep itself set is among them, as far as it decides weights. Arms that were not searched stay as they are.

    Args:
        home: where the trials ran.
    """
    sweep, experiment = loaded.sweep, loaded.base.experiment
    fixed = {name: value for name, value in sweep.set.items() if name.split(".")[0] in SEARCHED}
    arms: dict[str, Any] = {name: {} for name in [*loaded.base.arms, *loaded.base.left_out]}
    for arm, (result, trial) in chosen.items():
        values = {name: value for name, value in trial.values.items() if name != ARM}
        tuned = {
            "sweep": result.name,
            "trial": trial.number,
            "scale": sweep.experiment.scale,
            "objective": sweep.objective.score,
            "score": round(trial.objectives[0], 3),
            "seeds": len(trial.scores),
            "revision": revision_of(trial, home) or None,
            "set": {**fixed, **values},
        }
        arms[arm] = {"tuned": {key: value for key, value in tuned.items() if value is not None}}
    body = {
        "base": os.path.relpath(loaded.experiment_file.resolve(), out.resolve().parent),
        "name": f"{experiment.name}_tuned",
        "title": f"{experiment.title}, tuned",
        "arms": arms,
    }
    at = f"at scale {sweep.experiment.scale!r}, on the tune split"
    head = f"# {experiment.name} with what the sweep {sweep.name} found {at}.\n"
    return head + to_yaml(body)
