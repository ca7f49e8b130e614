"""The LightningDataModule: micro-batches without an end, in an order that depends on the seed and the place only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader, Dataset, Sampler

from vlm_ablate.config.execution import Execution
from vlm_ablate.config.run_config import RunStage
from vlm_ablate.data.collate import Collator
from vlm_ablate.data.dataset import Batches, Failure, MixtureDataset, Skips
from vlm_ablate.data.deal import Share, SharedBatches
from vlm_ablate.data.encode import stage_encoder
from vlm_ablate.data.mixture import Mixture
from vlm_ablate.data.pack import PackedBatches, PackedRows, Row, window_of
from vlm_ablate.errors import DataError
from vlm_ablate.models.batch import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class EndlessBatches(Sampler[list[int]]):
    """Global indices of one rank's micro-batches, from `start` on, in the order in which samples come.

    Micro-batch j of rank r holds the indices start + (j * world + r) * size and the following size - 1, so that an
    optimiser step covers the same samples for any micro-batch size and any number of ranks.
    """

    def __init__(self, start: int, size: int, rank: int = 0, world: int = 1) -> None:
        self.start, self.size, self.rank, self.world = start, size, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start + self.rank * self.size
        while True:
            yield list(range(first, first + self.size))
            first += self.world * self.size


class _Places(Dataset[int | Row | Share]):
    """The place itself: reading is done for a whole batch in the collate function."""

    def __getitem__(self, place: int | Row | Share) -> int | Row | Share:
        return place


class _Loader(DataLoader[int | Row | Share]):
    """Raises, in the training process, the error that a loader process handed on."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # collating makes them of the indices
        for batch in super().__iter__():
            if isinstance(batch, Failure):
                raise batch.error
            yield batch


class VLMDataModule(pl.LightningDataModule):
    """Training data of one stage.

    Args:
        stage: its data and batch size.
        execution: of the stage: micro-batch, workers, how many samples may be skipped.
        mixture: order of samples (`build_mixture`); stages with equal sources share it.
        tokenizer: of the built model, image tokens included.
        tokens_per_view: `<image>` placeholders of one view: a number, or a function of the view's (height, width).
        mean, std: pixel normalisation of the vision encoder.
        start: sequences that earlier stages consumed.
        ragged: batches are one row without padding.
        expect: told the names of a batch's views, which batches then carry (see `Collator`).

    A checkpoint holds how many sequences were consumed (of a packed stage, rows, and where their window begins); the
    next one after a resume is the one that would have come, whatever the number of workers, at no cost.
    """

    def __init__(
        self,
        stage: RunStage,
        *,
        execution: Execution,
        mixture: Mixture,
        tokenizer: PreTrainedTokenizerBase,
        tokens_per_view: int | Callable[[int, int], int],
        mean: Sequence[float],
        std: Sequence[float],
        start: int = 0,
        ragged: bool = False,
        expect: Callable[[Sequence[bytes]], None] | None = None,
    ) -> None:
        super().__init__()
        self.stage, self.execution, self.start = stage, execution, start
        batch_size = stage.batch_size
        encoder = stage_encoder(tokenizer, stage.data, tokens_per_view, start=start, batch_size=batch_size)
        self.skips = Skips()
        self.dataset = MixtureDataset(mixture, encoder, execution.max_skipped, self.skips)
        collate = Collator(encoder.pad, mean, std, stage.data.padding, ragged=ragged, expect=expect)
        self.batches = Batches(self.dataset, collate)
        self._resumed = 0
        self._rows = self._packed((0, start)) if stage.data.packing == "rows" else None
        cut = any(image.split != "none" for image in stage.data.image_by_step().values())
        # Of a stream, rows that were measured would have to be read again from further back.
        self._uneven = cut and not any(source.sequential for source in mixture.sources)

    @property
    def consumed(self) -> int:
        """Sequences that finished optimiser steps have consumed, those of earlier stages included."""
        steps = self.trainer.global_step if self.trainer is not None else 0
        return self.start + max(steps * self.stage.batch_size, self._resumed)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on."""
        state = {"consumed": self.consumed, "start": self.start, "fingerprint": data_fingerprint(self.dataset.mixture)}
        return state if self._rows is None else state | {"window": self._rows.place(self.consumed - self.start)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the sequences that the checkpoint has consumed.

        Raises:
            DataError: the checkpoint was written over other data, or after other stages.
        """
        if state_dict["fingerprint"] != data_fingerprint(self.dataset.mixture):
            raise DataError(
                "the training data changed since the checkpoint was written",
                hint="restore the data, or remove the run's folder to start afresh",
            )
        if state_dict["start"] != self.start:
            raise DataError(f"the checkpoint's stage began after {state_dict['start']} sequences, not {self.start}")
        self._resumed = state_dict["consumed"] - self.start
        if self._rows is not None:
            row, sample = state_dict["window"]
            self._rows = self._packed((row, sample))

    def train_dataloader(self) -> DataLoader[int | Row | Share]:
        """Micro-batches of this rank, from the first unconsumed sequence on."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        step = self.stage.batch_size
        size = self.execution.micro_batch_size or step // world
        order: Sampler[Any] = EndlessBatches(self.consumed, size, rank, world)
        if self._rows is not None:
            order = PackedBatches(self._rows, self.consumed - self.start, step, size, rank, world)
        elif world > 1 and self._uneven:
            order = SharedBatches(self.consumed, step, size, rank, world)
        return _Loader(
            _Places(),
            batch_sampler=order,
            collate_fn=self.batches,
            num_workers=self.execution.workers,
            multiprocessing_context="fork" if self.execution.workers else None,  # the encoder may hold a closure
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )

    def _packed(self, place: tuple[int, int]) -> PackedRows:
        data, dataset = self.stage.data, self.dataset
        return PackedRows(
            dataset.measure,
            tokens=data.sequence_length,
            views=data.row_views,
            seed=dataset.mixture.seed,
            batch_size=self.stage.batch_size,
            place=place,
            window=window_of(dataset.mixture),
        )


def data_fingerprint(mixture: Mixture) -> str:
    """16 hex digits that change when the sources, their rows, their shares or the order of samples change."""
    digest = hashlib.sha256(repr((mixture.seed, mixture.block)).encode())
    for name, source, share in zip(mixture.names, mixture.sources, mixture.shares, strict=True):
        digest.update(repr((name, source.fingerprint, len(source), share)).encode())
    return digest.hexdigest()[:16]
