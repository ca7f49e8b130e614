"""A run trains its stages in order and can be continued from anywhere, also from between two stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from vlm_ablate.config.execution import Execution
from vlm_ablate.config.stages import Stage, Training
from vlm_ablate.errors import StorageError
from vlm_ablate.events import Reporter, StageStarted
from vlm_ablate.storage import atomic_file
from vlm_ablate.training.callbacks import Checkpoints, CurvePoints, Monitor, StepMetrics, StepSeeds, derived_seed
from vlm_ablate.training.counters import BatchFlops, Counter, Seen
from vlm_ablate.training.fit import build_trainer, fit, quiet_lightning
from vlm_ablate.training.interruption import Interruption
from vlm_ablate.training.module import TrainingModule

DataFactory = Callable[[str, int], pl.LightningDataModule]
"""(name of a stage, sequences that earlier stages consumed) -> its data in micro-batches, without an end."""


@dataclass(frozen=True)
class TrainingJob:
    """What to train, and everything it talks to."""

    vlm: nn.Module
    stages: Mapping[str, Stage]
    data: DataFactory
    apply_training: Callable[[nn.Module, Stage, Execution], Any]
    """Freezes, unfreezes and adapts the model for a stage."""
    folder: Path
    """Where checkpoints go."""
    run: str
    init_seed: int
    dropout_seed: int
    reporter: Reporter
    track: Callable[[StepMetrics], None]
    execution: Execution = field(default_factory=Execution)
    """How all is computed; `of_stage` says what a stage does otherwise."""
    interruption: Interruption = field(default_factory=Interruption)
    flops: Mapping[str, BatchFlops] = field(default_factory=dict)
    """By stage; a stage that is not named counts none."""
    curve_steps: tuple[int, ...] = ()
    """Optimiser steps over all stages after which `measure` is called."""
    measure: Callable[[int, Seen], None] | None = None
    """(step over all stages, what was seen): one point of the curve."""

    @property
    def total_steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages.values())

    def final_path(self, index: int) -> Path:
        """State after stage `index`."""
        return self.folder / f"stage-{index}-final.pt"

    def last_path(self, index: int) -> Path:
        """Resumable checkpoint within stage `index`."""
        return self.folder / f"stage-{index}-last.ckpt"


def steps_done(plan: TrainingJob) -> int:
    """Optimiser steps, over all stages, that a continued run need not repeat. Reads only small files and headers."""
    done = 0
    for index, stage in enumerate(plan.stages.values()):
        if plan.final_path(index).exists():
            done += stage.steps
        elif plan.last_path(index).exists():
            return done + int(torch.load(plan.last_path(index), weights_only=True, mmap=True)["global_step"])
        else:
            return done
    return done


def train_stages(plan: TrainingJob) -> Seen:
    """Train what is not trained yet; afterwards the model is in evaluation mode.

    A finished stage is replayed: the model is adapted as it was, then gets the stage's final parameters, so that
    merging adapters on a change of stage gives the same weights as in an uninterrupted run.

    Raises:
        Diverged: the loss is not finite or exploded.
        StopRequested: a stop was requested; the checkpoint is on disk.
        StorageError: a checkpoint cannot be written.
    """
    seen, first_step = Seen(), 0
    for index, (name, stage) in enumerate(plan.stages.items()):
        _prepare(plan, index, name, stage)
        if plan.final_path(index).exists():
            seen = _load_final(plan, index, name)
        else:
            plan.reporter(StageStarted(plan.run, name, index, len(plan.stages), stage.steps))
            seen = _train_stage(plan, index, name, seen, first_step)
        first_step += stage.steps
    plan.vlm.eval()
    return seen


def _prepare(plan: TrainingJob, index: int, name: str, stage: Stage) -> None:
    """Adapt the model for a stage. New adapters draw from the initialisation seed, whatever ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(plan.init_seed, "adapters", index))
        plan.apply_training(plan.vlm, stage, plan.execution.of_stage(name))
    plan.vlm.neftune_alpha = stage.neftune_alpha
    plan.vlm.train()
    if stage.vision is Training.frozen:
        plan.vlm.vision.eval()  # frozen batch norms keep their statistics


def _train_stage(plan: TrainingJob, index: int, name: str, seen: Seen, first_step: int) -> Seen:
    stage = plan.stages[name]
    counter = Counter(plan.vlm.visual_tokens, plan.vlm.image_token_id, plan.flops.get(name), seen)
    module = TrainingModule(plan.vlm, stage, plan.execution.of_stage(name), observe=counter.add)
    callbacks = _callbacks(plan, index, stage, counter, first_step)
    resume = plan.last_path(index) if plan.last_path(index).exists() else None
    with quiet_lightning(), plan.interruption.deferred():
        trainer = build_trainer(stage, callbacks, plan.folder)
        fit(trainer, module, plan.data(name, seen.sequences), resume)
    _save_final(plan, index, module, counter.seen)
    return counter.seen


def _callbacks(plan: TrainingJob, index: int, stage: Stage, counter: Counter, first_step: int) -> list[pl.Callback]:
    """In the order in which they act at the end of a step: the checkpoint comes last and holds what the others saw."""
    monitor = Monitor(
        counter,
        plan.track,
        plan.reporter,
        run=plan.run,
        first_step=first_step,
        total_steps=plan.total_steps,
        divergence_ratio=stage.divergence_loss_ratio,
    )
    callbacks: list[pl.Callback] = [StepSeeds(plan.dropout_seed, index), monitor]
    here = [s - first_step for s in plan.curve_steps if first_step < s <= first_step + stage.steps]
    if here and plan.measure is not None:
        measure = plan.measure
        callbacks.append(CurvePoints(here, lambda step: measure(step, counter.seen), first_step))
    last = Checkpoints(plan.last_path(index), plan.interruption, plan.reporter, run=plan.run, first_step=first_step)
    return [*callbacks, last]


def _save_final(plan: TrainingJob, index: int, module: TrainingModule, seen: Seen) -> None:
    with atomic_file(plan.final_path(index)) as file:
        torch.save({"state_dict": module.state_dict(), "seen": seen.to_dict()}, file)
    plan.last_path(index).unlink(missing_ok=True)


def _load_final(plan: TrainingJob, index: int, name: str) -> Seen:
    path = plan.final_path(index)
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError) as error:
        raise StorageError(f"cannot read {path}: {error}", hint="remove it to train the stage again") from error
    TrainingModule(plan.vlm, plan.stages[name]).load_state_dict(state["state_dict"])
    return Seen(**state["seen"])


def curve_steps(total: int, points: int) -> tuple[int, ...]:
    """`points` evenly spaced optimiser steps, the last one `total`."""
    return tuple(sorted({max(1, round(total * i / points)) for i in range(1, points + 1)}))
