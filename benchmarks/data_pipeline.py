"""What the data pipeline feeds against what the laptop's model consumes; and what a resume costs, by position.

Feeding: sequences a second that the loader gives with 2 workers, nobody else at work, against sequences a second that
training steps take on the very same batches. The two take turns; medians of the rounds' ratios are printed. Two
mixtures: the experiment's own composed pictures, and photos (640 x 480 JPEG) with captions in Parquet files.
Resume: seconds from opening the sources to the first batch after so many sequences, fresh loader processes included.

    python benchmarks/data_pipeline.py [--experiment FILE --arm NAME --scale NAME] [--workers 2]

Exit status 1 when a target is missed. Feeding is judged by process CPU time, which is the safer number on a machine
that is shared: wall time would judge how many others want the cores in either turn.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import datasets.config
import numpy as np
import torch
from PIL import Image

from vlm_ablate.config.data import DataConfig
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.config.run_config import RunStage
from vlm_ablate.config.stages import Stage
from vlm_ablate.data.dataset import build_mixture
from vlm_ablate.data.module import VLMDataModule
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM, build_vlm
from vlm_ablate.registry import load_plugins
from vlm_ablate.runs.spec import specs_of
from vlm_ablate.training.fit import configure_threads, training_device
from vlm_ablate.training.optim import build_optimizer

TIMES_FED, RESUME_S = 3.0, 2.0
POSITIONS = (0, 10_000, 1_000_000)


@dataclass(frozen=True)
class Rate:
    """Seconds of one round: wall, and CPU of this process and its loader processes."""

    wall: float
    cpu: float


def module(vlm: VLM, stage: RunStage, workers: int) -> VLMDataModule:
    """The data of a run whose sources are opened anew, and prepared as a run prepares them."""
    mixture = build_mixture(stage.data, 0)
    for source in mixture.sources:
        source.prepare()
    return VLMDataModule(
        stage,
        execution=Execution(workers=workers),
        mixture=mixture,
        tokenizer=vlm.tokenizer,
        tokens_per_view=vlm.placeholders,
        mean=vlm.vision.mean,
        std=vlm.vision.std,
    )


def cpu_seconds() -> float:
    """CPU time of this process and of children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def feed(data: VLMDataModule, batches: int) -> tuple[Rate, list[Batch]]:
    """A round of the loader alone. The first batches, which wait for the processes to start, are not timed."""
    warm = 2 * max(1, data.execution.workers) * 2  # what the workers have ready beforehand
    cpu = cpu_seconds()
    stream = iter(data.train_dataloader())
    for _ in islice(stream, warm):
        pass
    start = time.perf_counter()
    given = list(islice(stream, batches))
    wall = time.perf_counter() - start
    stream.close()  # ends the processes, so that their CPU time is known
    ahead = data.execution.workers * 2
    return Rate(wall, (cpu_seconds() - cpu) * batches / (batches + warm + ahead)), given


def consume(vlm: VLM, stage: Stage, batches: list[Batch]) -> Rate:
    """A round of training steps: forward, backward, clipping, optimiser."""
    device, optimizer = training_device(), build_optimizer(vlm, stage)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    start, cpu = time.perf_counter(), cpu_seconds()
    for batch in batches:
        output = vlm(batch.to(device))
        (output.loss_sum / max(output.supervised_tokens, 1)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    float(output.loss_sum.detach())  # waits for an accelerator
    return Rate(time.perf_counter() - start, cpu_seconds() - cpu)


def photos(folder: Path, rows: int = 2000) -> Path:
    """Smooth noisy pictures as JPEG with captions, in Parquet."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, images = np.random.default_rng(0), []
    for _ in range(50):
        small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        images.append({"bytes": buffer.getvalue(), "path": None})
    captions = [f"a picture with the number {i} of many" for i in range(rows)]
    table = pa.table({"image": [images[i % len(images)] for i in range(rows)], "text": captions})
    pq.write_table(table, folder / "train.parquet", row_group_size=100)
    return folder


def feeding(label: str, vlm: VLM, stage: RunStage, workers: int, steps: int, rounds: int) -> bool:
    """Measure one mixture, print it, and say whether the target is reached."""
    pairs = []
    for index in range(rounds + 1):
        fed, batches = feed(module(vlm, stage, workers), steps)
        used = consume(vlm, stage, batches)
        if index:  # the first round warms up
            pairs.append((fed, used))
            print(f"  round {index}: fed {used.wall / fed.wall:.1f} times as fast as consumed", flush=True)
    sequences = steps * stage.batch_size
    wall = median(used.wall / fed.wall for fed, used in pairs)
    cpu = median(used.cpu / (fed.cpu / max(1, workers)) for fed, used in pairs)
    fed_rate, used_rate = (sequences / median(pair[i].wall for pair in pairs) for i in (0, 1))
    print(
        f"{label}: loader {fed_rate:.0f} sequences/s with {workers} workers, model {used_rate:.1f} sequences/s; "
        f"median of ratios {wall:.1f} by wall time, {cpu:.1f} by CPU time a worker"
    )
    return cpu >= TIMES_FED


def resuming(vlm: VLM, stage: RunStage, workers: int, repeats: int) -> bool:
    """Time resumes at several positions, and say whether the target is reached."""
    state = module(vlm, stage, workers).state_dict()
    reached = True
    for position in POSITIONS:
        times, cpu = [], cpu_seconds()
        for _ in range(repeats):
            start = time.perf_counter()
            data = module(vlm, stage, workers)
            data.load_state_dict({**state, "consumed": position})
            stream = iter(data.train_dataloader())
            next(stream)
            times.append(time.perf_counter() - start)
            stream.close()
        cpu = (cpu_seconds() - cpu) / repeats
        reached &= median(times) <= RESUME_S
        print(f"resume after {position:>9,} sequences: {median(times):.2f} s (of {repeats}: {min(times):.2f} to "
              f"{max(times):.2f}), CPU of all processes {cpu:.2f} s", flush=True)  # fmt: skip
    return reached


def main() -> None:
    """Print all figures; exit status 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="experiments/idefics2/t03_architecture.yaml")
    parser.add_argument("--arm", default="ar_perceiver_lora")
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="batches of a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    load_plugins()
    threads = configure_threads()
    spec = specs_of(load_experiment(options.experiment, scale=options.scale), arms=[options.arm])[0]
    stage = next(iter(spec.config.stages.values()))
    vlm = build_vlm(spec.config.model, Views.of(spec.config.images()), seed=0).to(training_device()).train()
    apply_training(vlm, stage)
    print(f"{spec.arm} at {spec.scale}: batches of {stage.batch_size}, {threads} thread(s), device {training_device()}")
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        source = {"name": "pairs", "id": str(photos(Path(folder)))}
        data = DataConfig.model_validate({**stage.data.model_dump(), "mixture": {"photos": {"source": source}}})
        jpeg = stage.model_copy(update={"data": data})
        reached = [
            feeding("composed pictures", vlm, stage, options.workers, options.steps, options.rounds),
            feeding("photos", vlm, jpeg, options.workers, options.steps, options.rounds),
            *(resuming(vlm, kind, options.workers, 3) for kind in (stage, jpeg)),
        ]
    print(f"target: fed at least {TIMES_FED:g} times as fast as consumed, both mixtures: {_verdict(all(reached[:2]))}")
    print(f"target: resume within {RESUME_S:g} s at any position, both mixtures: {_verdict(all(reached[2:]))}")
    raise SystemExit(0 if all(reached) else 1)


def _verdict(reached: bool) -> str:
    return "reached" if reached else "MISSED"


if __name__ == "__main__":
    main()
