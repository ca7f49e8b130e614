"""Batches, padding, skipping, and a resume that continues with the sample that would have come."""

from __future__ import annotations

import random
from collections import Counter
from itertools import chain
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.data import records
from tests.data.conftest import Drawn, data_config
from vlm_ablate.config.data import DataConfig, ImageConfig
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.run_config import RunStage
from vlm_ablate.data.collate import Collator
from vlm_ablate.data.dataset import Skips
from vlm_ablate.data.encode import EncodedSample, Encoder
from vlm_ablate.data.mixture import Mixture
from vlm_ablate.data.module import EndlessBatches, VLMDataModule
from vlm_ablate.errors import DataError
from vlm_ablate.models.batch import IGNORE, Batch
from vlm_ablate.registry import sources as registry

HALF = (0.5, 0.5, 0.5)
CONFIG = data_config(image=ImageConfig(size=16))
MIXTURE = Mixture({"a": Drawn("a", 40), "b": Drawn("b", 9)}, {"a": 2.0, "b": 1.0}, 5)


def module(
    tokenizer: PreTrainedTokenizerFast, config: DataConfig = CONFIG, mixture: Mixture = MIXTURE, start: int = 0,
    batch_size: int = 4, **execution: float,
) -> VLMDataModule:
    stage = RunStage(steps=12, batch_size=batch_size, data=config)
    return VLMDataModule(
        stage, execution=Execution(**execution), mixture=mixture, tokenizer=tokenizer, tokens_per_view=3, mean=HALF,
        std=HALF, start=start,
    )  # fmt: skip


def first_ids(data: VLMDataModule, batches: int) -> list[list[str]]:
    loader = iter(data.train_dataloader())
    return [next(loader).sample_ids for _ in range(batches)]


def encoded(length: int, *views: tuple[int, int], per_image: tuple[int, ...] | None = None) -> EncodedSample:
    ids = np.arange(length, dtype=np.int64)
    pixels = [np.full((*view, 3), 255, np.uint8) for view in views]
    return EncodedSample(f"s{length}", ids, ids.copy(), pixels, per_image or (1,) * len(views), False)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(side: str) -> None:
    batch = Collator(99, HALF, HALF, side)([encoded(3, (4, 6)), encoded(5), encoded(2, (4, 6), (2, 3))])
    assert batch.input_ids.shape == (3, 5) and batch.images == 3
    assert batch.attention_mask.sum(1).tolist() == [3, 5, 2]
    padding = ~batch.attention_mask
    assert (batch.input_ids[padding] == 99).all() and (batch.labels[padding] == IGNORE).all()
    assert bool(batch.attention_mask[0, 0]) == (side == "right")
    assert batch.view_sample.tolist() == [0, 2, 2]
    assert batch.pixel_values.shape == (3, 3, 4, 6) and batch.pixel_mask.sum((1, 2)).tolist() == [24, 24, 6]
    assert (batch.pixel_values[2, :, :2, :3] == 1).all() and batch.pixel_values[2].sum() == 18


def test_views_of_one_image_are_numbered_as_one(tokenizer: PreTrainedTokenizerFast) -> None:
    size = (4, 4)
    batch = Collator(0, HALF, HALF)(
        [encoded(3, *[size] * 5, per_image=(2, 3)), encoded(3), encoded(3, size, size), encoded(3, size)]
    )
    assert batch.view_image.tolist() == [0, 0, 1, 1, 1, 2, 3, 4] and batch.images == 5
    assert Collator(0, HALF, HALF)([encoded(3)]).view_image.shape == (0,)
    crops = data_config(image=ImageConfig(size=16, split="crops"))
    two = Mixture({"two": Drawn("two", 4, images=2)}, {"two": 1.0}, 0)
    batch = next(iter(module(tokenizer, crops, two, batch_size=2).train_dataloader()))
    assert batch.view_image.tolist() == [i for i in range(4) for _ in range(5)]


def test_masks_and_pixels_are_absent_where_not_needed() -> None:
    collate = Collator(0, HALF, HALF)
    assert collate([encoded(3, (4, 6)), encoded(3, (4, 6))]).pixel_mask is None
    text = collate([encoded(3)])
    assert text.pixel_values is None and text.view_sample.shape == (0,) and text.view_sample.dtype == torch.long


def test_order_does_not_depend_on_workers_micro_batches_or_ranks(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = first_ids(module(tokenizer), 4)
    assert first_ids(module(tokenizer, workers=2), 4) == whole
    assert list(chain(*first_ids(module(tokenizer, micro_batch_size=2), 8))) == list(chain(*whole))
    ranks = [iter(EndlessBatches(0, 2, rank, 2)) for rank in range(2)]
    assert [i for _ in range(4) for rank in ranks for i in next(rank)] == list(range(16))


def test_a_later_stage_goes_on_where_the_earlier_one_ended(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = first_ids(module(tokenizer), 6)
    assert first_ids(module(tokenizer, start=8), 4) == whole[2:]


def test_images_grow_with_the_step_for_any_workers_micro_batches_or_start(tokenizer: PreTrainedTokenizerFast) -> None:
    config = data_config(image=ImageConfig(size=16), climb={2: 24, 3: 40})

    def sides(start: int, consumed: int = 0, batches: int = 5, **execution: float) -> list[int]:
        data = module(tokenizer, config, start=start, **execution)
        data.load_state_dict(data.state_dict() | {"consumed": start + consumed})
        loader = iter(data.train_dataloader())
        return [next(loader).pixel_values.shape[-1] for _ in range(batches)]

    assert sides(0) == sides(400) == sides(0, workers=2) == [16, 16, 24, 40, 40]
    assert sides(0, batches=8, micro_batch_size=2) == [16, 16, 16, 16, 24, 24, 40, 40]
    assert sides(0, consumed=8, batches=2) == [24, 40], "resumed after two steps"


def test_stages_open_equal_sources_once_and_others_of_their_own() -> None:
    from vlm_ablate.data.dataset import build_mixtures

    one, two = ({"source": {"name": "offline", "rows": rows}} for rows in (8, 16))
    stages = {
        "a": data_config(mixture={"x": one}),
        "b": data_config(mixture={"x": one}, sequence_length=9),
        "c": data_config(mixture={"y": one, "z": two}),
    }
    mixtures = build_mixtures(stages, 0)
    assert mixtures["a"] is mixtures["b"] and mixtures["c"].names == ["y", "z"]
    assert mixtures["c"].sources[0] is mixtures["a"].sources[0]


class Recorder(pl.LightningModule):
    """Notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.shown: list[list[str]] = []
        self.automatic_optimization = False

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.shown.append(batch.sample_ids)
        if len(self.shown) % 2 == 0:  # two micro-batches a step
            self.manual_backward(self.weight.sum())
            self.optimizers().step()


def trained(
    tokenizer: PreTrainedTokenizerFast, workers: int, steps: int, mixture: Mixture = MIXTURE, **fit: object
) -> tuple[pl.Trainer, Recorder]:
    recorder = Recorder()
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    data = module(tokenizer, CONFIG, mixture, micro_batch_size=2, workers=workers, start=4)
    trainer.fit(recorder, datamodule=data, **fit)
    return trainer, recorder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Forty pairs in each format that can be streamed, in two files each (JSON lines stand beside their pictures)."""
    rows = [{"image": records.png(colour, 12 + i % 3), "text": f"{colour} {i}", "n": i}
            for i, colour in enumerate(["red", "green", "blue", "white"] * 10)]  # fmt: skip
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("parquet", "jsonl", "webdataset")}
    for kind, folder in folders.items():
        for part in ("",) if kind == "jsonl" else ("0", "1"):
            records.write(rows[20:] if part == "1" else rows[: 20 if part else None], kind, folder / part)
    return folders


def streams(folders: dict[str, Path], kind: str) -> Mixture:
    """A stream beside a map-style source, opened anew as after a kill."""
    import datasets.config

    datasets.config.HF_DATASETS_CACHE = folders[kind] / "cache"
    config = registry["pairs"].config.model_validate(
        {"name": "pairs", "id": str(folders[kind]), "streaming": True, "rows": 40}
    )
    return Mixture({"stream": registry.build(config), "a": Drawn("a", 9)}, {"stream": 3.0, "a": 1.0}, 1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["map", "parquet", "jsonl", "webdataset"])
def test_resume_shows_exactly_what_would_have_come(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, folders: dict[str, Path], kind: str, workers: int
) -> None:
    def mixture() -> Mixture:
        return MIXTURE if kind == "map" else streams(folders, kind)

    whole = trained(tokenizer, 0, 15, mixture())[1].shown
    trainer, before = trained(tokenizer, workers, 3, mixture())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    after = trained(tokenizer, workers, 15, mixture(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)[1]
    assert before.shown + after.shown == whole and len(before.shown) == 6
    if kind != "map":
        epoch = [name for batch in whole for name in batch if not name.startswith("a:")][:38]
        names = 2 if kind == "webdataset" else 1  # both shards number their rows from 0
        assert max(Counter(epoch).values()) == names and epoch != sorted(epoch), "a shuffled pass, nothing twice"


def test_a_checkpoint_over_other_data_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    state = module(tokenizer).state_dict()
    other = Mixture({"a": Drawn("a", 41), "b": Drawn("b", 9)}, {"a": 2.0, "b": 1.0}, 5)
    with pytest.raises(DataError, match="changed since"):
        module(tokenizer, mixture=other).load_state_dict(state)
    with pytest.raises(DataError, match="began after 0"):
        module(tokenizer, start=8).load_state_dict(state)


def broken_mixture(broken: set[int]) -> Mixture:
    return Mixture({"a": Drawn("a", 200, broken=frozenset(broken))}, {"a": 1.0}, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_undecodable_images_are_replaced_and_counted(tokenizer: PreTrainedTokenizerFast, workers: int) -> None:
    data = module(tokenizer, CONFIG, broken_mixture({3, 4, 50}), workers=workers, max_skipped=0.1)
    loader = iter(data.train_dataloader())
    shown = [name for _ in range(50) for name in next(loader).sample_ids]
    assert not {"a:3", "a:4", "a:50"} & set(shown) and shown.count("a:5") == 3
    assert data.skips.skipped >= 3
    alone = module(tokenizer, CONFIG, broken_mixture({3, 4, 50}), max_skipped=0.1).dataset
    assert [alone[i].id for i in reversed(range(200))][::-1] == shown


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_unusable_samples_fail_the_run(tokenizer: PreTrainedTokenizerFast, workers: int) -> None:
    mixture = broken_mixture(set(range(0, 200, 4)))
    loader = iter(module(tokenizer, CONFIG, mixture, workers=workers, max_skipped=0.1).train_dataloader())
    with pytest.raises(DataError, match=r"above execution.max_skipped = 0.1; the last one: .*a:\d+") as caught:
        for _ in range(60):
            next(loader)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(("share", "failed"), [(0.004, 0), (0.03, 200)])
def test_a_share_is_judged_beyond_chance(tokenizer: PreTrainedTokenizerFast, share: float, failed: int) -> None:
    """A limit of 1 % holds for two hundred ranks of which each reads 2,000 samples, and meets three times as many."""
    dataset, ended = module(tokenizer, CONFIG, broken_mixture({3}), max_skipped=0.01).dataset, 0
    rng = random.Random(0)
    for _ in range(200):
        dataset.skips = Skips()
        try:
            for _ in range(2000):
                dataset.skips.add(int(unusable := rng.random() < share))
                if unusable:
                    dataset._judge(None)
        except DataError:
            ended += 1
    assert ended == failed


def test_a_source_without_one_usable_row_fails_at_once(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="source 'a': none of 100 rows"):
        next(iter(module(tokenizer, mixture=broken_mixture(set(range(200)))).train_dataloader()))


@pytest.mark.parametrize("workers", [0, 1])
def test_sequences_too_short_for_every_sample_are_told_with_what_to_change(
    tokenizer: PreTrainedTokenizerFast, workers: int
) -> None:
    data = module(tokenizer, CONFIG.model_copy(update={"sequence_length": 2}), workers=workers)
    with pytest.raises(DataError, match=r"none of .* rows .* after truncation to data.sequence_length = 2") as caught:
        next(iter(data.train_dataloader()))
    assert caught.value.hint is not None and "raise data.sequence_length" in caught.value.hint


def test_samples_and_views_belong_together(tokenizer: PreTrainedTokenizerFast) -> None:
    config = data_config(image=ImageConfig(size=16, split="crops"))
    source = Mixture({"a": Drawn("a", 5, images=2)}, {"a": 1.0}, 0)
    batch = next(iter(module(tokenizer, config, source).train_dataloader()))
    image_id = Encoder(tokenizer, config, 3).image_id
    assert (batch.input_ids == image_id).sum(1).tolist() == [30] * 4
    assert batch.view_sample.tolist() == [row for row in range(4) for _ in range(10)]
