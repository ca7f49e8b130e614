"""What the harness costs per training step: the path of `vlm-ablate run` against a plain PyTorch loop, same batches.

The two take turns, so that whatever else the machine does hits both; medians over rounds are printed. Our path: the
stage's training with all callbacks (seeds, counters, divergence, progress, checkpoints), the log on disk, and a thread
that publishes to a local store. Plain loop: forward, backward, clipping, optimiser, schedule, one `loss.item()`.

    python benchmarks/harness_overhead.py [--arm ar_perceiver_lora] [--set stages.pretrain.batch_size=8 ...]

A round has one step more than lie between two checkpoints, and so one checkpoint, as often as in a run. Process CPU
time (all threads, so publishing too) is the safer number on a machine that is shared.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset

from vlm_ablate.config.execution import Execution
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.config.run_config import RunStage
from vlm_ablate.config.stages import Stage, Training
from vlm_ablate.data.dataset import build_mixture
from vlm_ablate.data.module import VLMDataModule
from vlm_ablate.events import silent
from vlm_ablate.home import Home
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM, build_vlm
from vlm_ablate.registry import load_plugins
from vlm_ablate.runs.folder import StageFolder, find_stage, run_folder
from vlm_ablate.runs.log import Log
from vlm_ablate.runs.outcome import note_attempt
from vlm_ablate.runs.publishing import Publishing
from vlm_ablate.runs.spec import RunSpec, specs_of
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.store import ensure_store
from vlm_ablate.training.callbacks import StepMetrics
from vlm_ablate.training.checkpoint import CheckpointFiles
from vlm_ablate.training.counters import Seen, flops_by_rates
from vlm_ablate.training.fit import configure_threads, training_device
from vlm_ablate.training.optim import build_optimizer, build_scheduler
from vlm_ablate.training.stages import StageJob, train_stage
from vlm_ablate.training.stages import prepare as prepare_stage

TARGET = 1.03


@dataclass(frozen=True)
class Timing:
    """Seconds of one round, and the mean loss of its last steps."""

    wall: float
    cpu: float
    loss: float


class Batches(Dataset[Batch]):
    """Batches that exist already. The clock starts when the first is asked for: set-up is left out."""

    def __init__(self, batches: list[Batch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:
        if index == 0:
            self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self._batches[index]

    def timing(self, losses: list[float]) -> Timing:
        """From the first batch until now."""
        return Timing(time.perf_counter() - self._wall, time.process_time() - self._cpu, fmean(losses))


class Given(pl.LightningDataModule):
    """Batches as a stage's data."""

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.batches, batch_size=None)


def plain(vlm: VLM, stage: Stage, batches: Batches, log_every: int) -> Timing:
    """One round of the plain loop."""
    device = training_device()
    optimizer = build_optimizer(vlm, stage)
    scheduler = build_scheduler(optimizer, stage)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    losses = []
    for batch in DataLoader(batches, batch_size=None):
        output = vlm(batch.to(device))
        loss = output.loss_sum / max(output.supervised_tokens, 1)
        loss.backward()
        if stage.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, stage.gradient_clip)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return batches.timing(losses[-(stage.steps % log_every or log_every) :])  # what the harness tracks last


def harness(vlm: VLM, spec: RunSpec, stage: Stage, batches: Batches, home: Home) -> Timing:
    """One round of the path that `vlm-ablate run` takes."""
    folder = begun(spec, home)
    log, losses = Log(folder.log), []

    def track(m: StepMetrics) -> None:
        losses.append(m.loss)
        values = {schema.TRAIN_LOSS: m.loss, schema.TRAIN_GRAD_NORM: m.grad_norm, schema.TRAIN_LR: m.learning_rate}
        seen = {schema.SEEN_IMAGES: float(m.seen.images), schema.SEEN_TEXT_TOKENS: float(m.seen.text_tokens)}
        log.add(values | seen | {schema.SEEN_FLOPS: m.seen.flops}, m.step)

    job = StageJob(
        vlm=vlm,
        stage=stage,
        execution=execution_of(spec),
        index=0,
        data=Given(batches),
        checkpoints=CheckpointFiles(folder.root),
        run=spec.id,
        dropout_seed=spec.seeds.dropout,
        first_step=0,
        total_steps=stage.steps,
        seen=Seen(),
        reporter=silent,
        track=track,
        saving=log.sync,
        flops=flops_by_rates(1.0, 1.0),
    )
    with Publishing(spec, home, home.tracking_uri, print):
        while not run_folder(home, spec.id).published.exists():  # what a run pays once, before its first step
            time.sleep(0.05)
        train_stage(job)
        return batches.timing(losses[-1:])


def execution_of(spec: RunSpec) -> Execution:
    """As the first stage says, but in whole batches: accumulation would only add the same forward passes to both."""
    return spec.config.execution.of_stage(spec.stage_keys[0].name).model_copy(update={"micro_batch_size": None})


def begun(spec: RunSpec, home: Home) -> StageFolder:
    """The folders of a run as they are when its first stage starts."""
    note_attempt(spec, home, schema.RUNNING)
    key = spec.stage_keys[0]
    folder = find_stage(home, key.key, {}, None)
    folder.describe({"stage": key.name, "before": None, "inputs": key.inputs, "fingerprints": {}})
    return folder


def prepare(spec: RunSpec, stage: RunStage) -> tuple[VLM, Batches]:
    """The model of an arm, and as many of its real batches as a round has steps."""
    config = spec.config
    vlm = build_vlm(config.model, Views.of(config.images()), seed=0).to(training_device())
    prepare_stage(vlm, stage, 0, spec.seeds.init, partial(apply_training, gradient_checkpointing=False))
    data = VLMDataModule(
        stage,
        execution=execution_of(spec),
        mixture=build_mixture(stage.data, 0),
        tokenizer=vlm.tokenizer,
        tokens_per_view=vlm.placeholders,
        mean=vlm.vision.mean,
        std=vlm.vision.std,
    )
    return vlm, Batches([batch for batch, _ in zip(data.train_dataloader(), range(stage.steps), strict=False)])


def restart(vlm: VLM, stage: Stage, start: dict[str, torch.Tensor]) -> None:
    """The model as it was before the first step."""
    vlm.load_state_dict(start)
    vlm.train()
    if stage.vision is Training.frozen:
        vlm.vision.eval()


def main() -> None:
    """Print medians over rounds; exit status 1 when the CPU ratio is above the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="experiments/idefics2/t03_architecture.yaml")
    parser.add_argument("--arm", default="ar_perceiver_lora")
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], dest="sets", help="a.b=value, as for `vlm-ablate run`")
    options = parser.parse_args()
    load_plugins()
    threads = configure_threads()
    loaded = load_experiment(options.experiment, scale=options.scale, sets=options.sets, arms=[options.arm])
    specs = [replace(spec, experiment="overhead") for spec in specs_of(loaded, seeds=range(options.rounds + 1))]
    execution, first = execution_of(specs[0]), next(iter(specs[0].config.stages.values()))
    steps = execution.checkpoint_every + 1  # after the last step there is none: the weights themselves are written
    stage = first.model_copy(update={"steps": steps, "warmup_steps": 0})
    vlm, batches = prepare(specs[0], stage)
    print(
        f"{options.arm} at {options.scale}: {sum(p.numel() for p in vlm.parameters()):,} parameters, "
        f"{sum(p.numel() for p in vlm.parameters() if p.requires_grad):,} trained, batches "
        f"{tuple(batches[0].input_ids.shape)}, {threads} thread(s), {stage.steps} steps and a checkpoint a round"
    )
    pairs = []
    with tempfile.TemporaryDirectory() as temporary:
        home = Home(Path(temporary)).prepare()
        ensure_store(home.tracking_uri)
        start = {name: value.clone() for name, value in vlm.state_dict().items()}
        for number, spec in enumerate(specs):
            restart(vlm, stage, start)
            one = plain(vlm, stage, batches, execution.log_every)
            restart(vlm, stage, start)
            two = harness(vlm, spec, stage, batches, home)
            if number:  # the first round warms up
                pairs.append((one, two))
                print(f"  round {number}: wall {two.wall / one.wall:.3f}, cpu {two.cpu / one.cpu:.3f}", flush=True)
    report(pairs, stage)


def report(pairs: list[tuple[Timing, Timing]], stage: Stage) -> None:
    """Medians, and the verdict."""
    ratio = 0.0
    for kind in ("wall", "cpu"):
        base, ours = (median(getattr(pair[i], kind) for pair in pairs) * 1000 / stage.steps for i in (0, 1))
        ratio = median(getattr(two, kind) / getattr(one, kind) for one, two in pairs)
        print(f"{kind:>4}: plain {base:.2f} ms/step, harness {ours:.2f} ms/step, median of ratios {ratio:.3f}")
    same = all(abs(one.loss - two.loss) <= 1e-4 * abs(one.loss) for one, two in pairs)
    print(f"last losses {'agree' if same else 'differ (dropout is seeded by the harness only)'}")
    verdict = ratio <= TARGET
    print(f"target: at most {TARGET:.2f} of the plain loop's CPU time: {'reached' if verdict else 'MISSED'}")
    raise SystemExit(0 if verdict else 1)


if __name__ == "__main__":
    main()
