"""What the harness costs per training step: our Trainer path against a plain PyTorch loop, same model, same batches.

The two take turns, so that whatever else the machine does hits both; medians over rounds are printed. Trainer path:
Lightning, all callbacks (seeds, counters, divergence, progress, checkpoints) and tracking to a local store. Plain loop:
forward, backward, clipping, fused AdamW, schedule, one `loss.item()`.

    python benchmarks/harness_overhead.py [--arm ar_perceiver_lora] [--set stages.pretrain.batch_size=8 ...]

The cost of writing a checkpoint is measured by itself and spread over the steps between two of them.
Process CPU time (all threads, so tracking's too) is the safer number on a machine that is shared.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader
from vlm_ablate.tracking.logger import RunTracker

from vlm_ablate.config.execution import Execution
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.config.run_config import RunStage
from vlm_ablate.config.stages import Stage
from vlm_ablate.data.dataset import build_mixture
from vlm_ablate.data.module import VLMDataModule
from vlm_ablate.events import silent
from vlm_ablate.home import Home
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM, build_vlm
from vlm_ablate.registry import load_plugins
from vlm_ablate.runs.spec import RunSpec, specs_of
from vlm_ablate.training.callbacks import Checkpoints, Monitor, StepMetrics, StepSeeds
from vlm_ablate.training.counters import Counter
from vlm_ablate.training.fit import build_trainer, configure_threads, fit, quiet_lightning, training_device
from vlm_ablate.training.interruption import Interruption
from vlm_ablate.training.module import TrainingModule
from vlm_ablate.training.optim import build_optimizer, build_scheduler

TARGET = 1.05


@dataclass(frozen=True)
class Timing:
    """Seconds of one round, the loss of its last step, and seconds of one checkpoint."""

    wall: float
    cpu: float
    loss: float
    checkpoint_wall: float = 0.0
    checkpoint_cpu: float = 0.0


class Clock(pl.Callback):
    """Times what lies between the first and the last step, set-up left out."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu


class Given(pl.LightningDataModule):
    """Batches that exist already."""

    def __init__(self, batches: list[Batch]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None)


def plain(vlm: VLM, stage: Stage, batches: list[Batch]) -> Timing:
    """One round of the plain loop."""
    device = training_device()
    optimizer = build_optimizer(vlm, stage)
    scheduler = build_scheduler(optimizer, stage)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    wall, cpu = time.perf_counter(), time.process_time()
    loss = torch.zeros(())
    for batch in DataLoader(batches, batch_size=None):
        output = vlm(batch.to(device))
        loss = output.loss_sum / max(output.supervised_tokens, 1)
        loss.backward()
        if stage.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, stage.gradient_clip)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu, float(loss.detach()))


def harness(vlm: VLM, stage: Stage, batches: list[Batch], tracker: RunTracker, folder: Path, run: str) -> Timing:
    """One round of the path that `vlm-ablate run` takes."""

    def track(m: StepMetrics) -> None:
        values = {"train/loss": m.loss, "train/grad_norm": m.grad_norm, "train/lr": m.learning_rate}
        seen = {"seen/images": m.seen.images, "seen/text_tokens": m.seen.text_tokens, "seen/flops": m.seen.flops}
        tracker.log_metrics(values | seen, m.step)

    counter = Counter(vlm.visual_tokens, vlm.image_token_id)
    module, clock = TrainingModule(vlm, stage, observe=counter.add), Clock()
    ratio = stage.divergence_loss_ratio
    callbacks = [
        clock,
        StepSeeds(0, 0),
        Monitor(counter, track, silent, run=run, first_step=0, total_steps=stage.steps, divergence_ratio=ratio),
        Checkpoints(folder / "last.ckpt", Interruption(), silent, run=run, first_step=0),
    ]
    with quiet_lightning():
        trainer = build_trainer(stage, callbacks, folder)
        fit(trainer, module, Given(batches), None)
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.save_checkpoint(folder / "last.ckpt")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    share = stage.steps / module.execution.checkpoint_every
    return Timing(clock.wall + wall * share, clock.cpu + cpu * share, float(module.step_loss), wall, cpu)


def prepare(spec: RunSpec, stage: RunStage) -> tuple[VLM, list[Batch]]:
    """The model of an arm, and as many of its real batches as a round has steps."""
    config = spec.config
    vlm = build_vlm(config.model, Views.of(config.images()), seed=0).to(training_device())
    apply_training(vlm, stage)
    data = VLMDataModule(
        stage,
        execution=Execution(),
        mixture=build_mixture(stage.data, 0),
        tokenizer=vlm.tokenizer,
        tokens_per_view=vlm.placeholders,
        mean=vlm.vision.mean,
        std=vlm.vision.std,
    )
    batches = [batch for batch, _ in zip(data.train_dataloader(), range(stage.steps), strict=False)]
    return vlm.train(), batches


def main() -> None:
    """Print medians over rounds; exit status 1 when the CPU ratio is above the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="experiments/idefics2/t03_architecture.yaml")
    parser.add_argument("--arm", default="ar_perceiver_lora")
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--steps", type=int, default=30, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--set", action="append", default=[], dest="sets", help="a.b=value, as for `vlm-ablate run`")
    options = parser.parse_args()
    load_plugins()
    threads = configure_threads()
    spec = specs_of(load_experiment(options.experiment, scale=options.scale, sets=options.sets, arms=[options.arm]))[0]
    stage = next(iter(spec.config.stages.values()))
    # Accumulation would only add the same forward passes to both.
    stage = stage.model_copy(update={"steps": options.steps, "warmup_steps": 0})
    vlm, batches = prepare(spec, stage)
    print(
        f"{spec.arm} at {spec.scale}: {sum(p.numel() for p in vlm.parameters()):,} parameters, "
        f"{sum(p.numel() for p in vlm.parameters() if p.requires_grad):,} trained, batches "
        f"{tuple(batches[0].input_ids.shape)}, {threads} thread(s), {options.steps} steps a round"
    )
    with tempfile.TemporaryDirectory() as temporary:
        home = Home(Path(temporary)).prepare()
        home.run(spec.hash).prepare()
        with RunTracker.start(replace(spec, experiment="overhead"), home=home) as tracker:
            while tracker.run_id is None:  # the store is made, and mlflow imported, before anything is timed
                time.sleep(0.1)
            pairs = []
            start = {name: value.clone() for name, value in vlm.state_dict().items()}
            for index in range(options.rounds + 1):
                vlm.load_state_dict(start)
                one = plain(vlm, stage, batches)
                vlm.load_state_dict(start)
                two = harness(vlm, stage, batches, tracker, home.run(spec.hash).checkpoints, spec.hash)
                if index:  # the first round warms up
                    pairs.append((one, two))
                    print(f"  round {index}: wall {two.wall / one.wall:.3f}, cpu {two.cpu / one.cpu:.3f}")
    report(pairs, stage)


def report(pairs: list[tuple[Timing, Timing]], stage: Stage) -> None:
    """Medians, and the verdict."""
    every = Execution().checkpoint_every
    for kind in ("wall", "cpu"):
        base, ours = (median(getattr(pair[i], kind) for pair in pairs) * 1000 / stage.steps for i in (0, 1))
        ratio = median(getattr(two, kind) / getattr(one, kind) for one, two in pairs)
        saving = median(getattr(two, f"checkpoint_{kind}") for _, two in pairs) * 1000
        print(
            f"{kind:>4}: plain {base:.2f} ms/step, harness {ours:.2f} ms/step (of it checkpoints "
            f"{saving / every:.2f}: {saving:.0f} ms every {every}), "
            f"median of ratios {ratio:.3f}"
        )
    same = all(abs(one.loss - two.loss) <= 1e-4 * abs(one.loss) for one, two in pairs)
    print(f"last losses {'agree' if same else 'differ (dropout is seeded by the harness only)'}")
    verdict = ratio <= TARGET
    print(f"target: at most {TARGET:.2f} of the plain loop's CPU time: {'reached' if verdict else 'MISSED'}")
    raise SystemExit(0 if verdict else 1)


if __name__ == "__main__":
    main()
