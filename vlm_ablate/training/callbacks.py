"""What happens around an optimiser step: seeds, counters, divergence, progress, curve points, checkpoints."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from vlm_ablate.errors import Diverged
from vlm_ablate.events import Checkpointed, Reporter, StepDone
from vlm_ablate.training.counters import Counter, Seen, Stopwatch
from vlm_ablate.training.interruption import Interruption, StopRequested
from vlm_ablate.training.module import TrainingModule
from vlm_ablate.training.ranks import Ranks
from vlm_ablate.training.saving import Saver


@dataclass(frozen=True)
class StepMetrics:
    """What is tracked every `log_every` steps; means are over the steps since the last time."""

    step: int
    """Optimiser steps done, over all stages."""
    loss: float
    """Mean loss per supervised token."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    tokens_per_s: float
    waiting: float
    """Share of the seconds since the last time in which training waited for its data, 0..1."""
    seen: Seen
    model_flops_per_s: float = 0.0
    """Of this rank, as its counter has them (`Counter.useful`)."""


def derived_seed(*parts: object) -> int:
    """A 63-bit seed that is a pure function of `parts`."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class StepSeeds(Callback):
    """Seeds torch before every micro-batch from (seed, stage, step, micro-batch, rank).

    Dropout and noise are then a pure function of the place in training: a resumed run needs no saved generator state,
    and an evaluation or a data loader that draws random numbers in between changes nothing.
    """

    def __init__(self, seed: int, stage: int) -> None:
        self._seed, self._stage = seed, stage

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        micro_batch = cast(TrainingModule, module).micro_batch
        torch.manual_seed(derived_seed(self._seed, self._stage, trainer.global_step, micro_batch, trainer.global_rank))


class DivergenceDetector:
    """Smooths the loss (exponential mean over about 20 steps) and compares it with that of the first step.

    The first loss counts for one nat at least: a stage that goes on from a model that knows its data starts near zero,
    where overfitting, or data that are new, multiply the loss without anything having exploded.
    """

    decay = 0.95
    least = 1.0

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.first: float | None = None
        self.smoothed = 0.0

    def update(self, loss: float, norm: float, step: int) -> None:
        """Look at one optimiser step.

        Raises:
            Diverged: loss or gradient norm is not finite, or the smoothed loss exceeds `ratio` times the first.
        """
        if not math.isfinite(loss) or not math.isfinite(norm):
            what = "loss" if not math.isfinite(loss) else "gradient norm"
            raise Diverged(f"the {what} is not finite at step {step} (smoothed loss before: {self.smoothed:.4g})")
        if self.first is None:
            self.first, self.smoothed = max(loss, self.least), loss
        self.smoothed = self.decay * self.smoothed + (1 - self.decay) * loss
        if self.smoothed > self.ratio * self.first:
            first = "one nat" if self.first == self.least else f"the first loss {self.first:.4g}"
            raise Diverged(f"the smoothed loss {self.smoothed:.4g} at step {step} exceeds {self.ratio:g} times {first}")

    def state(self) -> dict[str, Any]:
        """Plain numbers (`first` is None before the first step), for a checkpoint."""
        return {"first": self.first, "smoothed": self.smoothed}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.first, self.smoothed = state["first"], state["smoothed"]


class StepEnd(Callback):
    """Base of callbacks that act once an optimiser step, not once a micro-batch."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        ours = cast(TrainingModule, module)
        if ours.micro_batch == 0:
            self.on_step_end(trainer, ours, trainer.global_step)

    def on_step_end(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """`step` optimiser steps of this stage are done."""
        raise NotImplementedError


class Monitor(StepEnd):
    """Counts what is seen, tracks loss and rates, reports progress and notices divergence.

    On a GPU the losses stay there until the next tracked step, so that no step waits for one.
    """

    event_interval = 0.2
    """Least seconds between two progress events."""

    def __init__(
        self,
        counter: Counter,
        track: Callable[[StepMetrics], None],
        reporter: Reporter,
        *,
        run: str,
        first_step: int,
        total_steps: int,
        divergence_ratio: float,
        waited: Callable[[], float],
        stopwatch: Stopwatch,
        ranks: Ranks = Ranks(),
    ) -> None:
        """
        Args:
            waited: gives the seconds of waiting for data since its last call (`Waiting.take`).
        """
        self._ranks, self._waited, self._stopwatch = ranks, waited, stopwatch
        self.counter, self._track_metrics, self._reporter = counter, track, reporter
        self._run, self._first_step, self._total = run, first_step, total_steps
        self._pending: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._step = 0
        self._window: list[tuple[float, float]] = []
        self._detector = DivergenceDetector(divergence_ratio)
        self._clock = self._event_clock = self._started = 0.0
        self._tokens = self._event_tokens = self._start_step = 0
        self._useful = 0.0
        self._losses: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._clock = self._event_clock = self._started = time.perf_counter()
        self._tokens = self._event_tokens = self.counter.seen.tokens
        self._useful = self.counter.useful
        self._start_step = trainer.global_step

    def on_step_end(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        assert module.step_loss is not None and module.step_norm is not None  # a step is done
        self.counter.settle(self._ranks.total)
        self._pending.append((module.step_loss, module.step_norm))
        self._step = step
        tracked = step % module.execution.log_every == 0 or step == module.stage.steps
        saved = step % module.execution.checkpoint_every == 0
        if tracked or saved or module.device.type == "cpu":
            self._collect()
        if tracked:
            self._track(module, self._first_step + step)
        if step % module.execution.log_every == 0:  # what a last step tracks early, a longer stage tracks again
            self._window.clear()
        self._report(self._first_step + step, step)

    def _collect(self) -> None:
        """Bring the pending losses to the host and look at them."""
        if not self._pending:
            return
        values = torch.stack([torch.stack(pair) for pair in self._pending]).tolist()
        self._pending.clear()
        for i, (loss, norm) in enumerate(values, start=self._step - len(values) + 1):
            self._window.append((loss, norm))
            self._losses.append(loss)
            self._detector.update(loss, norm, self._first_step + i)

    def _track(self, module: TrainingModule, step: int) -> None:
        now, seen = time.perf_counter(), self.counter.seen
        losses, norms = zip(*self._window, strict=True)
        seconds = max(now - self._clock, 1e-9)
        self._track_metrics(
            StepMetrics(
                step=step,
                loss=sum(losses) / len(losses),
                grad_norm=sum(norms) / len(norms),
                learning_rate=module.learning_rate_now(),
                tokens_per_s=(seen.tokens - self._tokens) / seconds,
                waiting=min(1.0, self._waited() / seconds),
                seen=seen,
                model_flops_per_s=(self.counter.useful - self._useful) / seconds,
            )
        )
        self._clock, self._tokens, self._useful = now, seen.tokens, self.counter.useful

    def _report(self, step: int, stage_step: int) -> None:
        now = time.perf_counter()
        if not self._losses or (now - self._event_clock < self.event_interval and step < self._total):
            return
        tokens = self.counter.seen.tokens
        pace = (now - self._started) / max(1, stage_step - self._start_step)
        self._reporter(
            StepDone(
                run=self._run,
                step=step,
                steps=self._total,
                loss=sum(self._losses) / len(self._losses),
                tokens_per_s=(tokens - self._event_tokens) / max(now - self._event_clock, 1e-9),
                seconds_left=pace * (self._total - step),
            )
        )
        self._losses.clear()
        self._event_clock, self._event_tokens = now, tokens

    def state_dict(self) -> dict[str, Any]:
        self._collect()  # a checkpoint on a request to stop may be of any step
        window = [list(pair) for pair in self._window]
        return {
            "seen": self.counter.seen.to_dict(),
            "detector": self._detector.state(),
            "window": window,
            **self._stopwatch.spent(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counter.seen = Seen(**state_dict["seen"])
        self._stopwatch.go_on(state_dict)
        self._detector.load(state_dict["detector"])
        self._window = [tuple(pair) for pair in state_dict["window"]]


class CurvePoints(StepEnd):
    """Calls `measure(step)` after the given steps of this stage, with dropout off and the modules' modes put back."""

    def __init__(self, steps: Sequence[int], measure: Callable[[int], None], first_step: int) -> None:
        self._steps, self._measure, self._first_step = frozenset(steps), measure, first_step

    def on_step_end(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        if step not in self._steps:
            return
        modes = {m: m.training for m in module.modules()}
        module.eval()
        try:
            self._measure(self._first_step + step)
        finally:
            for part, mode in modes.items():
                part.training = mode


class Checkpoints(StepEnd):
    """Writes a resumable checkpoint every so many steps, on a request to stop, and if asked for at the end."""

    def __init__(
        self,
        saver: Saver,
        interruption: Interruption,
        reporter: Reporter,
        *,
        run: str,
        first_step: int,
        saving: Callable[[], None],
        at_end: bool = False,
        ranks: Ranks = Ranks(),
    ) -> None:
        self._ranks, self._at_end = ranks, at_end
        self._saver, self._interruption, self._reporter = saver, interruption, reporter
        self._run, self._first_step, self._saving = run, first_step, saving

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Lightning's own handler of SIGTERM would end training after the micro-batch, before there is a checkpoint.
        self._interruption.reclaim()

    def on_step_end(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        self._report()
        ended = step >= module.stage.steps
        if ended and not self._at_end:
            return  # the end of a stage is recorded by its final state
        stop = not ended and self._ranks.any(self._interruption.requested)
        if ended or stop or step % module.execution.checkpoint_every == 0:
            self._saving()
            self._saver.save(trainer, step)  # by all ranks: each may hold a share
            if ended or stop:
                self._saver.finish()
            if not ended:
                self._report()
        if stop:
            raise StopRequested(f"stopped after step {self._first_step + step}")

    def _report(self) -> None:
        for step in self._saver.valid():
            self._reporter(Checkpointed(run=self._run, step=self._first_step + step))
