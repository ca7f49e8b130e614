"""Several ranks give the gradient of one process, with images on each or not; they stop and go on as any number."""

from __future__ import annotations

import itertools
import os
import pickle
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from training.squares import SquareSource, SquareSourceConfig, make_spec, save_parts
from training.together import together
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.stages import LoraConfig, Training
from vlm_ablate.data.collate import Collator
from vlm_ablate.data.dataset import build_mixture
from vlm_ablate.data.encode import stage_encoder
from vlm_ablate.data.module import VLMDataModule
from vlm_ablate.data.sample import Image, ImageRef, Sample, Text
from vlm_ablate.errors import StorageError
from vlm_ablate.lease import Lease, LeaseLost
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.trained_state import trainable_state_dict
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM, build_vlm
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.training.callbacks import StepMetrics
from vlm_ablate.training.checkpoint import CheckpointFiles
from vlm_ablate.training.counters import Seen
from vlm_ablate.training.fit import build_trainer, quiet_lightning
from vlm_ablate.training.interruption import StopRequested
from vlm_ablate.training.module import TrainingModule
from vlm_ablate.training.parallel import shard, trainer_options
from vlm_ablate.training.ranks import Ranks
from vlm_ablate.training.shards import read_whole
from vlm_ablate.training.stages import StageJob, prepare, train_stage

Strategy = Literal["ddp", "fsdp2"]
BOTH = pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
TILES = {"split": "tiles", "tile": 16, "size": 32}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    parts = tmp_path_factory.mktemp("parts")
    save_parts(parts)
    return make_spec(parts, stages={"tune": {"steps": 4, "batch_size": 4, "learning_rate": 1e-2}})


def built(spec: RunSpec, ranks: Ranks = Ranks(), half: Sequence[str] = ()) -> VLM:
    """A model that drops nothing; of ranks that are to have a share each, only the first has read its weights."""
    views, read = Views.of(spec.config.images()), ranks.first or not ranks.sharded
    vlm = build_vlm(spec.config.model, views, load_weights=read, seed=1, half=half)
    for module in vlm.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return vlm


def batches(spec: RunSpec, vlm: VLM, ranks: Ranks, *, images: Literal["all", "some"], ragged: bool) -> list[Batch]:
    """The two micro-batches of a step that has four samples; without images where a rank or the step has none."""
    encoder = stage_encoder(vlm.tokenizer, spec.config.last_stage.data, vlm.placeholders, start=0, batch_size=4).at(0)
    source = SquareSource(SquareSourceConfig())
    samples = [source[index] for index in range(4)]
    for index in (2, 3) if images == "some" else ():
        samples[index] = replace(samples[index], segments=(Text("Question: what colour"), Text(" red Answer:", True)))
    collate = Collator(encoder.pad, vlm.vision.mean, vlm.vision.std, ragged=ragged)
    size = 4 // ranks.place.world
    own = [encoder(sample) for sample in samples[ranks.place.rank * size : (ranks.place.rank + 1) * size]]
    return [collate(own[: size // 2]), collate(own[size // 2 :])]


class Fixed(pl.LightningDataModule):
    """These batches."""

    def __init__(self, found: list[Batch]) -> None:
        super().__init__()
        self.found = found

    def train_dataloader(self) -> Any:
        return DataLoader(self.found, batch_size=None)  # type: ignore[arg-type]


class Keep(Callback):
    """Keeps whole gradients as they are before the optimiser uses them."""

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        named = {n: p.grad for n, p in module.vlm.named_parameters() if p.requires_grad}
        self.gradients = {n: g if g is None else (g.full_tensor() if hasattr(g, "full_tensor") else g.clone())
                          for n, g in named.items()}  # fmt: skip


Kind = tuple[Training, Literal["all", "some"], bool, Literal["fp32", "bf16"]]
KINDS: list[Kind] = [
    *itertools.product((Training.full, Training.lora, Training.dora), ("all", "some"), (False, True), ("fp32",)),
    (Training.lora, "some", False, "bf16"),
]


def gradients(spec: RunSpec, folder: Path, ranks: Ranks) -> dict[Kind, dict[str, Tensor]]:
    """Of one step of every kind, after clipping."""
    found = {}
    for training, images, ragged, precision in KINDS:
        vlm = built(spec, half=["vision", "language"] if precision == "bf16" else [])
        how = {"language": training, "lora": LoraConfig(r=2, dropout=0.0), "gradient_clip": 0.5, "steps": 1}
        how["precision"] = precision
        stage = spec.config.last_stage.model_copy(
            update=how | {"vision": Training.full if training is Training.full else Training.frozen}
        )
        prepare(vlm, stage, 0, 3, apply_training)
        if ragged:
            assert vlm.attend_by("documents")
        keep = Keep()
        micro = 4 // ranks.place.world // 2
        module = TrainingModule(
            vlm, stage, Execution(micro_batch_size=micro), world_size=ranks.place.world,
            shard=partial(shard, vlm, ranks=ranks) if ranks.sharded else None,
        )  # fmt: skip
        with quiet_lightning():
            trainer = build_trainer(stage, [keep], folder, **trainer_options(ranks))
            trainer.fit(module, datamodule=Fixed(batches(spec, vlm, ranks, images=images, ragged=ragged)))
        found[training, images, ragged, precision] = keep.gradients
    return found


@BOTH
def test_ranks_give_the_gradients_of_one_process(spec: RunSpec, tmp_path: Path, strategy: Strategy) -> None:
    alone = gradients(spec, tmp_path, Ranks())
    first, second = together(partial(gradients, spec, tmp_path), tmp_path, strategy)
    for kind, expected in alone.items():
        for mine in (first[kind], second[kind]):
            assert mine.keys() == expected.keys()
            for name, gradient in expected.items():
                assert gradient is not None and mine[name] is not None, (kind, name)
                if kind[-1] == "bf16":  # sums over other rows of a batch round apart
                    assert (mine[name] - gradient).norm() <= 0.02 * gradient.norm() + 1e-5, (kind, name)
                    continue
                torch.testing.assert_close(
                    mine[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, at=(kind, name): f"{at}: {m}"
                )


class Cuttings(SquareSource):
    """Squares, halves of squares, and questions without a picture: five tiles, three and none."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        image, *texts = sample.segments
        assert isinstance(image, Image) and isinstance(image.ref.source, np.ndarray)
        half = Image(ImageRef(image.ref.source[:8], f"half {index}"))
        return replace(sample, segments=([half], [image], [])[index % 3] + texts)


def trained(
    spec: RunSpec, folder: Path, ranks: Ranks, stop_at: int | None = None, kill: Sequence[int] = (), every: int = 100,
    micro_batch_size: int | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The trained weights of a stage of LoRA on squares, whole; {} where it was stopped.

    Args:
        kill: ranks that are killed in the third step, after the checkpoint of the second.
        every: steps between checkpoints.
    """
    vlm = built(spec, ranks)
    (folder / "stage").mkdir(parents=True, exist_ok=True)
    lora = LoraConfig(r=2, dropout=0.0)
    stage = spec.config.last_stage.model_copy(update={"language": Training.lora, "lora": lora})
    prepare(vlm, stage, 0, 3, apply_training)
    cut = stage.data.image.split == "tiles"
    mixture = build_mixture(stage.data, 0, {"squares": Cuttings(SquareSourceConfig())} if cut else None)
    execution = Execution(checkpoint_every=every, log_every=1, micro_batch_size=micro_batch_size)
    files = CheckpointFiles(folder / "stage")

    def track(metrics: StepMetrics) -> None:
        if metrics.step == stop_at:
            job.interruption.request()
        if metrics.step == 3 and ranks.place.rank in kill:
            while [step for step, _ in files.found()][-1:] != [2]:
                time.sleep(0.01)  # ranks write shares while they go on
            os.kill(os.getpid(), signal.SIGKILL)

    job = StageJob(
        vlm=vlm, stage=stage, execution=execution, index=0, checkpoints=files, run="r",
        data=VLMDataModule(stage, execution=execution, mixture=mixture, tokenizer=vlm.tokenizer,
                           tokens_per_view=vlm.placeholders, mean=vlm.vision.mean, std=vlm.vision.std),
        dropout_seed=2, first_step=0, total_steps=stage.steps, seen=Seen(), reporter=lambda event: None,
        track=track, ranks=ranks,
    )  # fmt: skip
    try:
        seen = train_stage(job)
    except StopRequested:
        return {}
    assert seen.sequences == 16 and (seen.images == 16) == (not cut)
    return trainable_state_dict(vlm)


@BOTH
def test_two_ranks_stopped_go_on_as_one_and_one_as_two(spec: RunSpec, tmp_path: Path, strategy: Strategy) -> None:
    expected = trained(spec, tmp_path / "alone", Ranks())
    assert together(partial(trained, spec, tmp_path, stop_at=2), tmp_path, strategy) == [{}, {}]
    assert [step for step, _ in CheckpointFiles(tmp_path / "stage").found()] == [2]
    compare(trained(spec, tmp_path, Ranks()), expected)
    for mine in together(partial(trained, spec, tmp_path), tmp_path, strategy):
        compare(mine, expected)


@BOTH
def test_tiles_that_are_dealt_evenly_give_the_weights_of_one_process(
    spec: RunSpec, tmp_path: Path, strategy: Strategy
) -> None:
    """Micro-batches of one sample: with five tiles, three or none."""
    how = {"steps": 4, "batch_size": 4, "learning_rate": 1e-2, "data": {"image": TILES}}
    tiled = make_spec(Path(spec.config.model.vision.id).parent, stages={"tune": how})
    expected = trained(tiled, tmp_path / "alone", Ranks())
    for mine in together(partial(trained, tiled, tmp_path, micro_batch_size=1), tmp_path, strategy):
        compare(mine, expected)


@pytest.mark.parametrize(("strategy", "kill"), [("ddp", (1,)), ("fsdp2", (0, 1))])
def test_killed_ranks_go_on_as_one_or_as_two(
    spec: RunSpec, tmp_path: Path, strategy: Strategy, kill: Sequence[int]
) -> None:
    expected = trained(spec, tmp_path / "alone", Ranks())
    assert together(partial(trained, spec, tmp_path, kill=kill, every=2), tmp_path, strategy, dying=True) == []
    assert [step for step, _ in CheckpointFiles(tmp_path / "stage").found()] == [2]
    if len(kill) == 1:
        compare(trained(spec, tmp_path, Ranks()), expected)
    else:
        for mine in together(partial(trained, spec, tmp_path), tmp_path, strategy):
            compare(mine, expected)


def test_of_a_damaged_share_the_checkpoint_before_is_used(spec: RunSpec, tmp_path: Path) -> None:
    """As one process and as other ranks; and what killed writers have left is removed."""
    expected = trained(spec, tmp_path / "alone", Ranks())
    together(partial(trained, spec, tmp_path, kill=(0, 1), every=1), tmp_path, "fsdp2", dying=True)
    notices: list[str] = []
    files = CheckpointFiles(tmp_path / "stage", notices.append)
    assert [(step, folder.suffix) for step, folder in files.found()] == [(1, ".shares"), (2, ".shares")]
    share = files.found()[-1][1] / "__1_0.distcp"
    share.write_bytes(share.read_bytes()[:-1] + b"?")
    (files.folder / "checkpoint-writing-dead.shares").mkdir()
    assert files.step() == 1 and "of step 2 is damaged" in notices[0]
    assert len(list(files.folder.glob("*.damaged"))) == 1
    (kept,) = (folder for _, folder in files.found())
    (kept / ".nfs0001").touch()  # what a network file system may put there
    for mine in together(partial(trained, spec, tmp_path, every=2), tmp_path, "fsdp2"):
        compare(mine, expected)
    assert not list(files.folder.glob("checkpoint-writing-*"))
    shutil.rmtree(files.found()[-1][1])
    compare(trained(spec, tmp_path, Ranks()), expected)


def test_shares_become_no_checkpoint_once_the_lease_is_lost(tmp_path: Path) -> None:
    files = CheckpointFiles(tmp_path / "stage")
    with Lease.acquire(files.folder, ttl=1, heartbeat=60) as lease:
        files.writing_shares.mkdir()
        (files.writing_shares / "__0_0.distcp").write_bytes(b"share")
        (files.folder / f".lease-{lease.token + 1}").write_bytes((files.folder / f".lease-{lease.token}").read_bytes())
        with pytest.raises(LeaseLost):
            files.keep(4, {"__0_0.distcp": "0" * 64})
    assert files.found() == []


def test_the_list_of_parts_of_a_checkpoint_runs_nothing(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (tmp_path / "rest.ckpt").touch()
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(StorageError, match=r"\.metadata cannot be read: .*system does not belong there"):
        read_whole(tmp_path)
    assert not (tmp_path / "ran").exists()


def compare(mine: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert mine.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, at=name: f"{at}: {m}")
