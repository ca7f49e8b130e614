"""The mixture as a torch data set by global index. Unusable samples are replaced, counted, and not too many."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from torch.utils.data import Dataset

from vlm_ablate.config.data import DataConfig
from vlm_ablate.data.deal import Share, Size, dealt, digest
from vlm_ablate.data.encode import EncodedSample, Encoder
from vlm_ablate.data.mixture import Mixture
from vlm_ablate.data.pack import Row
from vlm_ablate.data.sample import Sample
from vlm_ablate.data.sources.base import Source
from vlm_ablate.errors import DataError, VlmAblateError
from vlm_ablate.models.batch import Batch
from vlm_ablate.registry import sources as registry

Made = TypeVar("Made")
MIN_JUDGED = 100
"""Samples before the share of unusable ones is judged."""
MAX_ATTEMPTS = 100
"""Rows tried in the place of one unusable sample."""


def build_sources(config: DataConfig) -> dict[str, Source]:
    """The sources of a mixture, ready to be read.

    Raises:
        DataError: a source cannot be read or lacks a column.
        AssetMissing: its material is not on this machine.
    """
    return {name: registry.build(entry.source) for name, entry in config.mixture.items()}


def build_mixture(config: DataConfig, seed: int, sources: dict[str, Source] | None = None) -> Mixture:
    """The order of samples of one run. `sources` may be given when they are open already.

    Raises:
        DataError: as `build_sources`, or an empty source.
    """
    sources = sources or build_sources(config)
    weights = {
        name: entry.weight if entry.epochs is None else entry.epochs * len(sources[name])
        for name, entry in config.mixture.items()
    }
    return Mixture(sources, weights, seed)


def build_mixtures(stages: Mapping[str, DataConfig], seed: int) -> dict[str, Mixture]:
    """The order of samples of each stage; equal sources are opened once, and equal mixtures are one.

    Raises:
        DataError: as `build_mixture`.
    """
    opened: dict[str, Source] = {}
    made: dict[str, Mixture] = {}
    found: dict[str, Mixture] = {}
    for stage, config in stages.items():
        key = json.dumps({name: entry.model_dump(mode="json") for name, entry in config.mixture.items()})
        if key not in made:
            for entry in config.mixture.values():
                part = entry.source.model_dump_json()
                opened[part] = opened[part] if part in opened else registry.build(entry.source)
            parts = {name: opened[entry.source.model_dump_json()] for name, entry in config.mixture.items()}
            made[key] = build_mixture(config, seed, parts)
        found[stage] = made[key]
    return found


class Skips:
    """How many samples were read and skipped, over all loader processes, which read ahead of training."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self._read, self._skipped = context.Value("q", 0), context.Value("q", 0)

    def add(self, skipped: int) -> None:
        """One sample was read after `skipped` unusable ones."""
        with self._read.get_lock():
            self._read.value += 1 + skipped
            self._skipped.value += skipped

    @property
    def read(self) -> int:
        """Rows read, skipped ones included."""
        return int(self._read.value)

    @property
    def skipped(self) -> int:
        """Rows that could not be used."""
        return int(self._skipped.value)


class MixtureDataset(Dataset[EncodedSample]):
    """Encoded sample by global index, 0 and up without an end.

    An unusable sample is replaced by the next usable row of its source: what stands at an index does not depend on
    what was read before.
    """

    def __init__(self, mixture: Mixture, encoder: Encoder, max_skipped: float, skips: Skips | None = None) -> None:
        self.mixture, self.encoder, self.max_skipped = mixture, encoder, max_skipped
        self.skips = skips or Skips()

    def __getitem__(self, index: int) -> EncodedSample:
        """The `index`-th sample of the run.

        Raises:
            DataError: too many rows cannot be used; the message gives the last reason.
        """
        return self._read(index, self.encoder.at(index))

    def row(self, row: Row) -> list[EncodedSample]:
        """The samples of a packed row.

        A sample whose pixels turn out unreadable, and whose replacement is of another size than was measured, is left
        out, but for the last of a row; it counts as skipped all the same.

        Raises:
            DataError: as above.
        """
        encoder = self.encoder.at_step(row.step)
        found = [self._read(index, encoder) for index in row.samples]
        sizes = [(len(sample.input_ids), len(sample.views)) for sample in found]
        kept = [sample for sample, size, meant in zip(found, sizes, row.sizes, strict=True) if size == meant]
        kept = kept or found[:1]
        others = sum(sample.skipped for sample in found) - sum(sample.skipped for sample in kept)
        return [replace(kept[0], skipped=kept[0].skipped + others), *kept[1:]]

    def measure(self, index: int, step: int | None = None) -> Size:
        """Tokens and views of the `index`-th sample as prepared at a step of the stage, from the headers of its images.

        Args:
            step: None: the one that the sample has by itself.

        Raises:
            DataError: neither the row nor another in its place can be used, as far as it shows without pixels.
        """
        encoder = self.encoder.at(index) if step is None else self.encoder.at_step(step)
        layout, _, _ = self._first(index, encoder.layout)
        return len(layout.input_ids), len(layout.view_sizes)

    def _read(self, index: int, encoder: Encoder) -> EncodedSample:
        encoded, skipped, last = self._first(index, encoder)
        self.skips.add(skipped)
        if skipped:
            self._judge(last)
            encoded = replace(encoded, skipped=skipped)
        return encoded

    def _first(self, index: int, make: Callable[[Sample], Made]) -> tuple[Made, int, DataError | None]:
        """What is made of the first usable row from a sample's own on, how many were not, and why the last was not."""
        which, row = self.mixture[index]
        source, name = self.mixture.sources[which], self.mixture.names[which]
        last: DataError | None = None
        attempts = min(MAX_ATTEMPTS, len(source))
        for attempt in range(attempts):
            try:
                return make(source[(row + attempt) % len(source)]), attempt, last
            except DataError as error:
                last = error
        raise DataError(
            f"source {name!r}: none of {attempts} rows in a row can be used; "
            f"the last one: {last.message if last else ''}",
            hint=last.hint if last else None,
        )

    def sample(self, index: int) -> tuple[str, Sample]:
        """(name of its source, sample) at an index, as read, usable or not."""
        which, row = self.mixture[index]
        return self.mixture.names[which], self.mixture.sources[which][row]

    def _judge(self, last: DataError | None) -> None:
        read, skipped = self.skips.read, self.skips.skipped
        allowed = self.max_skipped * read
        # Plus three standard deviations of such a count: it is judged at each skip, by each rank for itself.
        if read >= MIN_JUDGED and skipped > allowed + 3 * math.sqrt(allowed):
            raise DataError(
                f"{skipped} of {read} samples cannot be used, above execution.max_skipped = {self.max_skipped:g}; "
                f"the last one: {last.message if last else ''}",
                hint=last.hint if last else None,
            )


@dataclass(frozen=True)
class Failure:
    """An error on its way from a loader process, without the traceback that torch would put in its message."""

    error: DataError


class Batches:
    """Collate function over indices, packed rows or shares: reads, encodes, collates, hands errors on as values."""

    def __init__(self, dataset: MixtureDataset, collate: Callable[[Sequence[EncodedSample]], Batch]) -> None:
        self.dataset, self.collate = dataset, collate
        self._dealt: tuple[range, list[list[list[int]]], int] = range(0), [], 0
        """The step that was dealt last, how, and by what (`Batch.deal`)."""

    def __call__(self, places: Sequence[int | Row | Share]) -> Batch | Failure:
        """The batch of these, or the error of this project that reading them gave."""
        try:
            samples = [sample for place in places for sample in self._samples(place)]
            skipped = sum(sample.skipped for sample in samples)
            return replace(self.collate(samples), deal=self._deal(places[0]), skipped=skipped)
        except VlmAblateError as error:
            # Whatever it was, training lacks data: what else a part may lack was told when it was opened.
            return Failure(DataError(error.message, hint=error.hint))

    def _samples(self, place: int | Row | Share) -> list[EncodedSample]:
        if isinstance(place, Row):
            return self.dataset.row(place)
        return [self.dataset[index] for index in ([place] if isinstance(place, int) else self._indices(place))]

    def _deal(self, place: int | Row | Share) -> int:
        if isinstance(place, int):
            return 0
        return place.deal if isinstance(place, Row) else self._dealt[2]

    def _indices(self, share: Share) -> list[int]:
        """Every rank measures every sample of a step, once in each of its loader processes, and deals them alike."""
        if self._dealt[0] != share.step:
            sizes = [self.dataset.measure(index) for index in share.step]
            self._dealt = share.step, dealt(sizes, share.ranks, share.size), digest(sizes)
        return [share.step[number] for number in self._dealt[1][share.rank][share.number]]
