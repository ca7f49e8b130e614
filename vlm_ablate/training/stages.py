"""One stage of a run: trained from its first step or from a checkpoint, to the weights that it ends with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from vlm_ablate.config.execution import Execution, is_continuable
from vlm_ablate.config.stages import Stage, Training
from vlm_ablate.errors import Diverged
from vlm_ablate.events import Reporter
from vlm_ablate.training.callbacks import Checkpoints, CurvePoints, Monitor, StepMetrics, StepSeeds, derived_seed
from vlm_ablate.training.checkpoint import CheckpointFiles
from vlm_ablate.training.counters import BatchFlops, Counter, Seen, Stopwatch
from vlm_ablate.training.fit import build_trainer, fit, quiet_lightning
from vlm_ablate.training.interruption import Interruption
from vlm_ablate.training.module import TrainingModule
from vlm_ablate.training.parallel import shard, trainer_options
from vlm_ablate.training.ranks import Ranks
from vlm_ablate.training.saving import Saver, saver
from vlm_ablate.training.waiting import Waiting

if TYPE_CHECKING:
    from vlm_ablate.models.vlm import VLM


@dataclass(frozen=True)
class StageJob:
    """A stage to train, and everything it talks to."""

    vlm: VLM
    """Prepared for the stage, see `prepare`."""
    stage: Stage
    execution: Execution
    """How this stage is computed."""
    index: int
    """Number of the stage in its run, from 0."""
    data: pl.LightningDataModule
    """The stage's data in micro-batches, without an end."""
    checkpoints: CheckpointFiles
    run: str
    """Id of the run, for events."""
    dropout_seed: int
    first_step: int
    """Optimiser steps of the stages before."""
    total_steps: int
    """Optimiser steps of all stages."""
    seen: Seen
    """What the stages before have seen."""
    reporter: Reporter
    track: Callable[[StepMetrics], None]
    saving: Callable[[], None] = lambda: None
    """Called before a checkpoint is written: what it will not repeat must be safe by then."""
    interruption: Interruption = field(default_factory=Interruption)
    flops: BatchFlops | None = None
    """Training FLOPs of a batch; None counts none."""
    useful: BatchFlops | None = None
    """The model's own FLOPs of a batch, for its rate; None counts none."""
    curve_steps: Sequence[int] = ()
    """Optimiser steps of this stage after which `measure` is called."""
    measure: Callable[[int, Seen], None] | None = None
    """(step over all stages, what was seen): one point of the curve."""
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    """Runs since work on the stage began here."""
    ranks: Ranks = field(default_factory=Ranks)
    """Those that train it together. All but the first have a reporter and a tracker that hear nothing."""

    @property
    def continuable(self) -> bool:
        """Whether its last checkpoint is kept, for a longer stage to go on from."""
        return is_continuable(self.stage, self.execution)


def prepare(vlm: VLM, stage: Stage, index: int, init_seed: int, adapt: Callable[[VLM, Stage], Any]) -> None:
    """Adapt the model for a stage. New adapters draw from the initialisation seed, whatever ran before.

    Args:
        adapt: freezes, unfreezes and puts adapters in.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(init_seed, "adapters", index))
        adapt(vlm, stage)
    vlm.neftune_alpha = stage.neftune_alpha
    vlm.train()
    if stage.vision is Training.frozen:
        vlm.vision.eval()  # frozen batch norms keep their statistics


def train_stage(job: StageJob) -> Seen:
    """Train a stage to its end; afterwards the model is in evaluation mode, and of ranks that shard, a share of it.

    Raises:
        Diverged: the loss is not finite or exploded.
        StopRequested: a stop was requested; the checkpoint is on disk.
        StorageError: a checkpoint cannot be written.
    """
    counter = Counter(job.vlm.visual_tokens, job.vlm.image_token_id, job.flops, job.seen, job.useful)
    ranks = job.ranks
    module = TrainingModule(
        job.vlm,
        job.stage,
        job.execution,
        world_size=ranks.place.world,
        observe=counter.add,
        shard=partial(shard, job.vlm, ranks=ranks) if ranks.sharded else None,
    )
    latest = job.checkpoints.latest() if ranks.first else None
    resume = ranks.said_by_first(str(latest) if latest else None)
    writer = saver(job.checkpoints, ranks)
    with quiet_lightning(), job.interruption.deferred():
        options = trainer_options(ranks)
        trainer = build_trainer(job.stage, _callbacks(job, counter, writer), job.checkpoints.folder, **options)
        try:
            fit(trainer, module, job.data, Path(resume) if resume else None)
        except Diverged:  # all ranks are here, and none is left with half a checkpoint
            writer.finish()
            raise
        writer.finish()
    job.vlm.eval()
    return counter.seen


def _callbacks(job: StageJob, counter: Counter, writer: Saver) -> list[pl.Callback]:
    """In the order in which they act at the end of a step: the checkpoint holds what those before it saw."""
    waiting = Waiting()
    monitor = Monitor(
        counter,
        job.track,
        job.reporter,
        run=job.run,
        first_step=job.first_step,
        total_steps=job.total_steps,
        divergence_ratio=job.stage.divergence_loss_ratio,
        waited=waiting.take,
        stopwatch=job.stopwatch,
        ranks=job.ranks,
    )
    callbacks: list[pl.Callback] = [StepSeeds(job.dropout_seed, job.index), monitor]
    if job.curve_steps and job.measure is not None:
        measure = job.measure
        callbacks.append(CurvePoints(job.curve_steps, lambda step: measure(step, counter.seen), job.first_step))
    checkpoints = Checkpoints(
        writer,
        job.interruption,
        job.reporter,
        run=job.run,
        first_step=job.first_step,
        saving=job.saving,
        at_end=job.continuable,
        ranks=job.ranks,
    )
    return [*callbacks, checkpoints, waiting]


def curve_steps(steps: int, points: int) -> tuple[int, ...]:
    """`points` evenly spaced optimiser steps of a stage of so many, the last one its end."""
    return tuple(sorted({max(1, round(steps * i / points)) for i in range(1, points + 1)}))
