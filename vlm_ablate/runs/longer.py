"""A longer stage at a constant rate goes on where a shorter one of the same kind ended, instead of starting over.

Nothing in such a stage depends on how many steps it will have: weights, moments, order of data and noise after so
many steps are the same in both. So the shorter one's last checkpoint, which is kept (`execution.continuable`), is a
checkpoint of the longer one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vlm_ablate.config.execution import is_continuable
from vlm_ablate.config.run_config import RunStage
from vlm_ablate.home import Home
from vlm_ablate.runs.fingerprints import agree
from vlm_ablate.runs.folder import StageFolder
from vlm_ablate.runs.keys import StageKey
from vlm_ablate.runs.log import Log, LogLine, read_log
from vlm_ablate.runs.results import is_finished
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.storage import link_or_copy
from vlm_ablate.tracking import schema
from vlm_ablate.training.checkpoint import CheckpointFiles
from vlm_ablate.training.stages import curve_steps


@dataclass(frozen=True)
class Wanted:
    """What the log of the longer stage has to hold of the steps that it does not take itself."""

    first_step: int
    """Optimiser steps of the stages before."""
    log_every: int
    curve_steps: Collection[int] = ()
    """Steps of the stage after which its curve has a point."""
    curve_metrics: Mapping[str, str] = field(default_factory=dict)
    """Metrics of each -> how they are asked."""


def continue_shorter(
    spec: RunSpec, index: int, folder: StageFolder, before: StageFolder | None, home: Home,
    curve_metrics: Mapping[str, str], notice: Callable[[str], None] = lambda message: None,
) -> tuple[StageFolder, int] | None:  # fmt: skip
    """Let a stage that has not begun go on from the longest shorter one that it may continue.

    Args:
        folder: of the stage.
        before: the stage that it starts from.
        curve_metrics: of each point of the run's curve -> how they are asked.
        notice: hears why a shorter one that is there is not continued.

    Returns:
        The shorter one and its steps; None: there is none.

    Raises:
        StorageError: the folder cannot be written.
        LeaseLost: this process has lost the right to write there.
    """
    stages = list(spec.config.stages.items())
    name, stage = stages[index]
    execution, curve = spec.config.execution.of_stage(name), spec.config.evaluation.curve
    if not is_continuable(stage, execution):
        return None
    wanted = Wanted(
        first_step=sum(earlier.steps for _, earlier in stages[:index]),
        log_every=execution.log_every,
        curve_steps=curve_steps(stage.steps, curve.points) if curve else (),
        curve_metrics=curve_metrics,
    )
    found = _shorter(spec.stage_keys[index], stage, before, home, wanted, notice)
    if found is not None:
        _take_over(*found, folder, wanted)
    return found


def continued_from(folder: StageFolder, done: int) -> dict[str, Any] | None:
    """The shorter stage that a stage goes on from, and its steps, as the manifest tells; None: from none.

    One whose checkpoint was lost or damaged before it was used is forgotten.

    Args:
        done: steps of the stage's last whole checkpoint.
    """
    said = folder.manifest() or {}
    continued: dict[str, Any] | None = said.get("continued")
    if continued is not None and continued["steps"] > done:
        _describe_anew(folder, {name: value for name, value in said.items() if name != "continued"})
        return None
    return continued


def _shorter(
    key: StageKey, stage: RunStage, before: StageFolder | None, home: Home, wanted: Wanted,
    notice: Callable[[str], None] = lambda message: None,
) -> tuple[StageFolder, int] | None:  # fmt: skip
    """The longest finished stage that a stage may continue, and its steps; None: there is none.

    Args:
        key: of the longer stage.
        stage: the longer stage.
        before: the stage that it starts from.
        wanted: a curve whose points the shorter one has not all measured is measured anew, and trained for that.
        notice: hears why one that is there is not continued.
    """
    prints, parent = key.fingerprints(home), before.root.name if before else None
    for steps, found in sorted(_kept(home, stage.steps), key=lambda pair: pair[0], reverse=True):
        manifest = found.manifest() or {}
        same = _all_but_steps(manifest.get("inputs")) == _all_but_steps(key.inputs)
        if not same or manifest.get("before") != parent or not agree(prints, manifest.get("fingerprints", {})):
            continue
        if not is_finished(found):
            continue
        missing = _missing_points(found, steps, wanted)
        if not missing:
            return found, steps
        notice(
            f"the {steps} steps of {found.root.name} are taken anew: it has no curve point at step {missing[0]}, which"
            " evaluation.curve asks for; with `curve: null` they would be continued"
        )
    return None


def _take_over(found: StageFolder, steps: int, folder: StageFolder, wanted: Wanted) -> None:
    """Give the longer stage's folder the shorter one's log, curve and last checkpoint, the checkpoint last.

    The folder's manifest says then what it continues.

    Raises:
        StorageError: it cannot be written.
        LeaseLost: this process has lost the right to write there.
    """
    _describe_anew(folder, (folder.manifest() or {}) | {"continued": {"stage": found.root.name, "steps": steps}})
    log = Log(folder.log)
    log.rewind(-1)
    for entry in read_log(found.log):
        if _belongs(entry, steps, wanted):
            log.add(entry.values, entry.step, time_ms=entry.time_ms, asked=entry.asked)
    log.sync()
    log.close()
    for step in wanted.curve_steps:
        for file in found.curve.glob(f"*.{wanted.first_step + step}.jsonl") if step <= steps else ():
            link_or_copy(file, folder.curve / file.name)
    for step, file in CheckpointFiles(found.root).found():
        if step == steps:
            link_or_copy(file, folder.root / file.name)


def _describe_anew(folder: StageFolder, said: Mapping[str, Any]) -> None:
    folder.describe({name: value for name, value in said.items() if name not in ("format", "key")})


def _kept(home: Home, below: int) -> Iterator[tuple[int, StageFolder]]:
    """(steps, stage) of every stage that kept a checkpoint of fewer steps."""
    for root in sorted(home.stages.iterdir()) if home.stages.is_dir() else ():
        for step, _ in CheckpointFiles(root).found()[-1:]:
            if step < below:
                yield step, StageFolder(root)


def _all_but_steps(inputs: Any) -> str | None:
    """What went into a key, but the steps of the last stage."""
    if not isinstance(inputs, dict) or not inputs.get("stages"):
        return None
    *stages, last = inputs["stages"]
    rest = {name: value for name, value in last.items() if name != "steps"}
    return json.dumps({**inputs, "stages": [*stages, rest]}, sort_keys=True)


def _missing_points(found: StageFolder, steps: int, wanted: Wanted) -> list[int]:
    there = {entry.step - wanted.first_step for entry in read_log(found.log) if _answers(entry, wanted.curve_metrics)}
    return sorted(step for step in wanted.curve_steps if step <= steps and step not in there)


def _answers(entry: LogLine, metrics: Mapping[str, str]) -> bool:
    """Whether an entry has all scores of a point of the curve, none that is known to have been asked otherwise."""
    told = entry.asked or {}
    return all(name in entry.values and told.get(name, asked) == asked for name, asked in metrics.items())


def _belongs(entry: LogLine, steps: int, wanted: Wanted) -> bool:
    """Whether the longer stage, undisturbed, would have logged this."""
    step = entry.step - wanted.first_step
    if any(name.startswith(schema.CURVE) for name in entry.values):
        return step in wanted.curve_steps
    return step <= steps and step % wanted.log_every == 0
