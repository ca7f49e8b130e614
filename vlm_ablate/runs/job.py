"""What is given to training for a stage: the same on every rank, and what the first one tells of it besides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vlm_ablate.data.mixture import Mixture
from vlm_ablate.data.module import data_fingerprint
from vlm_ablate.errors import DataError
from vlm_ablate.events import CurvePoint, Reporter, silent
from vlm_ablate.models.vlm import VLM
from vlm_ablate.runs.folder import StageFolder
from vlm_ablate.runs.log import Log
from vlm_ablate.runs.score import Scoring
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.speed import Speed
from vlm_ablate.runs.stage_model import StageModel
from vlm_ablate.tracking import schema
from vlm_ablate.training.callbacks import StepMetrics
from vlm_ablate.training.checkpoint import CheckpointFiles
from vlm_ablate.training.counters import Seen, Stopwatch, flops_by_rates
from vlm_ablate.training.interruption import Interruption
from vlm_ablate.training.ranks import Ranks
from vlm_ablate.training.stages import StageJob, curve_steps


def stage_job(
    model: StageModel,
    index: int,
    vlm: VLM,
    mixture: Mixture,
    seen: Seen,
    *,
    checkpoints: CheckpointFiles,
    interruption: Interruption,
    flops: Sequence[float] | None,
    ranks: Ranks,
    stopwatch: Stopwatch | None = None,
) -> StageJob:
    """Of any rank; it tells nobody anything.

    Args:
        vlm: the model, ready for the stage.
        seen: before the stage.
        checkpoints: where the first rank writes.
        flops: rates by which FLOPs are counted, see `flops_by_rates`; None: they are not.
        stopwatch: runs since work on the stage began; None: it begins now.

    Raises:
        DataError: a rank has other data than the first, told on all of them.
    """
    spec, stages = model.spec, list(model.config.stages.items())
    name, stage = stages[index]
    _agree(ranks, name, mixture)
    return StageJob(
        vlm=vlm,
        stage=stage,
        execution=spec.config.execution.of_stage(name),
        index=index,
        data=model.data(index, vlm, mixture, seen.sequences),
        checkpoints=checkpoints,
        run=spec.id,
        dropout_seed=spec.seeds.dropout,
        first_step=sum(earlier.steps for _, earlier in stages[:index]),
        total_steps=sum(each.steps for _, each in stages),
        seen=seen,
        reporter=silent,
        track=lambda metrics: None,
        interruption=interruption,
        flops=flops_by_rates(*flops) if flops else None,
        ranks=ranks,
        stopwatch=stopwatch or Stopwatch(),
    )


def _agree(ranks: Ranks, stage: str, mixture: Mixture) -> None:
    """Each rank draws its share of a batch from its own copy of the data: of other ones it would draw other samples."""
    mine = data_fingerprint(mixture)
    same = ranks.said_by_first(mine) == mine
    if rank := ranks.most(0 if same else ranks.place.rank):
        raise DataError(
            f"rank {rank} has other training data for stage {stage!r} than rank 0",
            hint="every machine needs the same files of all sources",
        )


def telling(
    job: StageJob, spec: RunSpec, folder: StageFolder, log: Log, reporter: Reporter, scoring: Scoring,
    speed: Speed | None,
) -> StageJob:  # fmt: skip
    """The same for the first rank, which reports, logs, and measures the points of the curve.

    Args:
        folder: of the stage.
        speed: what MFU is measured by; None: it is not.
    """

    def track(metrics: StepMetrics) -> None:
        values = {
            schema.TRAIN_LOSS: metrics.loss,
            schema.TRAIN_GRAD_NORM: metrics.grad_norm,
            schema.TRAIN_LR: metrics.learning_rate,
            schema.TRAIN_TOKENS_PER_S: metrics.tokens_per_s,
            schema.WAITING: metrics.waiting,
        }
        values |= speed.metrics(metrics.model_flops_per_s) if speed else {}
        log.add(values | _seen_metrics(metrics.seen), metrics.step)

    def measure(step: int, now: Seen) -> None:
        scores = scoring.curve_point(job.vlm, folder, step)
        log.add(scores | _seen_metrics(now), step, asked=scoring.curve_metrics())
        reporter(CurvePoint(spec.id, step, scores))

    curve = spec.config.evaluation.curve
    return replace(
        job,
        reporter=reporter,
        track=track,
        saving=log.sync,
        useful=speed.flops if speed else None,
        curve_steps=curve_steps(job.stage.steps, curve.points) if curve else (),
        measure=measure if curve else None,
    )


def _seen_metrics(seen: Seen) -> dict[str, float]:
    return {
        schema.SEEN_IMAGES: float(seen.images),
        schema.SEEN_TEXT_TOKENS: float(seen.text_tokens),
        schema.SEEN_VISUAL_TOKENS: float(seen.visual_tokens),
        schema.SEEN_FLOPS: seen.flops,
    }
