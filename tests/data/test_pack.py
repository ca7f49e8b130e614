"""Packing: every sample once, no row too full, rows that depend on the seed and their window alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.data.conftest import Drawn, data_config, picture
from vlm_ablate.config.data import DataConfig, ImageConfig
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.run_config import RunStage
from vlm_ablate.data.mixture import Mixture
from vlm_ablate.data.module import VLMDataModule
from vlm_ablate.data.pack import PackedBatches, PackedRows, Row, best_fit, fill_of, window_of
from vlm_ablate.data.sample import Image, ImageRef, Sample, Text
from vlm_ablate.data.sources.streams import StreamRows
from vlm_ablate.models.batch import Batch

SIZES = st.lists(st.tuples(st.integers(1, 120), st.integers(0, 9)), max_size=60)


@given(SIZES, st.integers(1, 100), st.none() | st.integers(1, 8))
def test_every_sample_stands_in_one_row_and_no_row_is_too_full(sizes, tokens, views) -> None:
    rows = best_fit(sizes, tokens, views)
    assert sorted(n for row in rows for n in row) == list(range(len(sizes)))
    for row in rows:
        if len(row) > 1:
            assert sum(sizes[n][0] for n in row) <= tokens
            assert views is None or sum(sizes[n][1] for n in row) <= views


@given(SIZES, st.integers(1, 100))
def test_each_sample_goes_where_least_is_left(sizes, tokens) -> None:
    """Against best fit decreasing as it is defined, row by row."""
    free: list[int] = []
    expected = []
    for length, _ in sorted(sizes, reverse=True):
        fitting = [n for n in range(len(free)) if free[n] >= length]
        if not fitting:
            free.append(max(tokens, length))
            fitting = [len(free) - 1]
        best = min(fitting, key=lambda n: free[n])
        free[best] -= length
    expected = sorted(free)
    held = [sum(sizes[n][0] for n in row) for row in best_fit(sizes, tokens)]
    assert sorted(max(tokens, length) - length for length in held) == expected


def measured(index: int, step: int) -> tuple[int, int]:
    """As a source would: a function of the place alone."""
    draw = np.random.default_rng(index)
    return int(draw.integers(1, 40)) + step // 100, int(draw.integers(0, 4))


def rows(place: tuple[int, int] = (0, 0), seed: int = 1) -> PackedRows:
    return PackedRows(measured, tokens=50, views=8, seed=seed, batch_size=4, place=place, window=30)


def test_a_stage_reads_each_window_whole_before_the_next() -> None:
    packed = rows()
    first = [packed[n] for n in range(200)]
    count = packed.place(10**9)[0]  # of rows in the windows that were begun
    for window in range(3):
        begin = 30 * window
        inside = [row for row in first if row.samples[0] in range(begin, begin + 30)]
        assert sorted(n for row in inside for n in row.samples) == list(range(begin, begin + 30))
    assert first == [rows()[n] for n in range(200)] and count >= 200
    assert [row.samples for row in first[:20]] != [rows(seed=2)[n].samples for n in range(20)]
    assert all(row.step <= n // 4 for n, row in enumerate(first))


@pytest.mark.parametrize("begin", [0, 7, 61, 199])
def test_what_is_resumed_goes_on_as_if_it_had_never_stopped(begin: int) -> None:
    whole = rows()
    expected = [whole[n] for n in range(begin, begin + 50)]
    again = rows(place=whole.place(begin))
    assert [again[n] for n in range(begin, begin + 50)] == expected


def test_ranks_share_the_rows_of_each_step_of_one_process() -> None:
    """And rows that several compute at the same time have about as many views."""
    alone = [sorted(batch, key=_first) for batch in islice(PackedBatches(rows(), 8, 4, 4), 6)]
    assert [row for batch in islice(PackedBatches(rows(), 8, 4, 2), 12) for row in batch] == [
        row for batch in islice(PackedBatches(rows(), 8, 4, 4), 6) for row in batch
    ], "one rank takes them as they come"
    ranks = [iter(PackedBatches(rows(), 8, 4, 1, rank, 2)) for rank in range(2)]
    for step in alone:
        times = [[next(rank)[0] for rank in ranks] for _ in range(2)]
        assert sorted((row for time in times for row in time), key=_first) == step
        apart = sorted(row.views for row in step)
        assert sorted(row.views for row in times[1]) == apart[:2] and sorted(row.views for row in times[0]) == apart[2:]


def _first(row: Row) -> int:
    return row.samples[0]


def test_rows_of_a_mixture_like_the_cauldron_are_full() -> None:
    generator = np.random.default_rng(0)
    tokens = np.clip(generator.lognormal(6.3, 0.9, 4096).astype(int) + 66, 80, 4000)
    sizes = list(zip(tokens.tolist(), generator.integers(1, 6, 4096).tolist(), strict=True))
    fill = fill_of(sizes, 4096, 48)
    assert fill.share > 0.985 and fill.most_views <= 48 and fill.samples == 4096


class Told:
    """A stream that says how much was read of it."""

    def __init__(self, at: int = 0, read: list[int] | None = None) -> None:
        self.at, self.read = at, [] if read is None else read

    def skip(self, rows: int) -> Told:
        return Told(self.at + rows, self.read)

    def __iter__(self) -> Iterator[dict]:
        for number in range(self.at, 3000):
            self.read.append(number)
            yield {"text": "t" * 90}

    def unpacked(self, raw: dict) -> dict:
        return raw


@pytest.mark.parametrize("shares", [{"a": 1.0}, {"a": 1.0, "b": 3.0}])
def test_packed_rows_of_a_stream_read_it_about_once(shares: dict[str, float]) -> None:
    told = {name: Told() for name in shares}
    parts = {
        name: StreamRows(stream, length=3000, window_bytes=9000, name=name, fingerprint="", licence="")
        for name, stream in told.items()
    }
    mixture = Mixture(parts, shares, 0)
    for stream in told.values():
        stream.read.clear()

    def read(index: int, step: int = 0) -> tuple[int, int]:
        which, row = mixture[index]
        mixture.sources[which][row]
        return measured(index, 0)

    place, window = (0, 70), window_of(mixture)
    packed = PackedRows(read, tokens=50, views=8, seed=1, batch_size=4, place=place, window=window)
    samples = 0
    for batch in islice(PackedBatches(packed, 0, 4, 4), 100):
        for number in [number for row in batch for number in row.samples]:
            read(number)
            samples += 1
    count = sum(len(stream.read) for stream in told.values())
    assert count < 4 * samples, f"{count} rows for {samples} samples"


@pytest.fixture
def packed_data(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> Callable[..., VLMDataModule]:
    """A stage of packed rows over pictures that are drawn, of which some cannot be decoded."""
    monkeypatch.setattr("vlm_ablate.data.pack.WINDOW", 24)

    def make(ragged: bool = False, workers: int = 0, **fields: object) -> VLMDataModule:
        config = data_config(image=ImageConfig(size=16), sequence_length=30, packing="rows", **fields)
        stage = RunStage(steps=12, batch_size=2, data=config)
        mixture = Mixture({"a": Drawn("a", 60, broken=frozenset({3, 11}))}, {"a": 1.0}, 5)
        return VLMDataModule(
            stage, execution=Execution(max_skipped=0.2, workers=workers), mixture=mixture, tokenizer=tokenizer,
            tokens_per_view=3, mean=(0.5,) * 3, std=(0.5,) * 3, ragged=ragged,
        )  # fmt: skip

    return make


def first(data: VLMDataModule, batches: int) -> list[Batch]:
    return [batch for batch, _ in zip(data.train_dataloader(), range(batches), strict=False)]


def test_batches_of_packed_rows_are_their_samples_padded_or_in_one_row(packed_data) -> None:
    for padded, row in zip(first(packed_data(), 6), first(packed_data(ragged=True), 6), strict=True):
        assert padded.sample_ids == row.sample_ids and padded.sequences == row.sequences > 2
        real = padded.attention_mask
        assert torch.equal(padded.input_ids[real], row.input_ids[0]) and row.input_ids.shape[0] == 1
        assert torch.equal(padded.pixel_values, row.pixel_values) and not row.view_sample.any()
        assert row.documents == tuple(real.sum(1).tolist())
        assert padded.supervised_tokens == row.supervised_tokens
        assert not {"a:3", "a:11"} & set(row.sample_ids)


class Torn(Drawn):
    """The headers of broken pictures can be read, and they are larger than those that take their places."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        if index not in self.broken:
            return sample
        written = io.BytesIO()
        picture(20, 20).save(written, "PNG")
        torn = Image(ImageRef(written.getvalue()[:-40], sample.id))
        return replace(sample, segments=(torn, Text("how many many?"), *sample.segments[2:]))


def test_samples_that_are_left_out_of_rows_are_counted(packed_data) -> None:
    data = packed_data()
    data.dataset.mixture.sources[0] = Torn("a", 60, broken=frozenset({3, 11}))
    window = first(data, 6)
    assert sum(len(data._rows[n].samples) for n in range(12)) == 24 and data._rows.place(12) == (12, 24)
    assert sum(batch.sequences for batch in window) == 22
    assert sum(batch.skipped for batch in window) == data.skips.skipped == 2


def test_a_view_limit_holds_in_batches(packed_data) -> None:
    most = [max(len(batch.pixel_values) for batch in first(packed_data(row_views=n), 10)) for n in (1, 64)]
    assert most[0] == 2 < most[1], "a batch has two rows"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_packed_stage_resumes_from_its_state(packed_data, workers: int) -> None:
    expected = [batch.sample_ids for batch in first(packed_data(), 20)]
    begun = packed_data(workers=workers)
    shown = [batch.sample_ids for batch in first(begun, 9)]
    begun._resumed = 2 * 9
    state = begun.state_dict()
    again = packed_data(workers=workers)
    again.load_state_dict(state)
    assert state["window"][0] > 0, "in a later window than the first"
    assert shown + [batch.sample_ids for batch in first(again, 11)] == expected


def test_keys_know_of_packing_only_where_it_is_on() -> None:
    plain = DataConfig.model_validate({"mixture": {"a": {"source": {"name": "cauldron"}}}})
    assert not {"packing", "row_views"} & plain.model_dump().keys()
    packed = DataConfig.model_validate(plain.model_dump() | {"packing": "rows", "row_views": 48})
    assert packed.model_dump()["packing"] == "rows"
    with pytest.raises(ValueError, match="packing: rows"):
        DataConfig.model_validate(plain.model_dump() | {"row_views": 48})
