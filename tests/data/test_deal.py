"""Steps dealt to ranks: the same samples, each once, and about as many views at the same time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.data.conftest import Drawn, data_config, picture
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.run_config import RunStage
from vlm_ablate.data.deal import dealt
from vlm_ablate.data.mixture import Mixture
from vlm_ablate.data.module import VLMDataModule
from vlm_ablate.data.sample import Image, ImageRef, Sample, Text
from vlm_ablate.errors import DataError
from vlm_ablate.models.batch import Batch
from vlm_ablate.training.counters import Counter as Counted

STEP, STEPS, BROKEN = 8, 3, frozenset({5, 9})


@given(st.data(), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_each_sequence_is_dealt_once_and_no_two_ranks_differ_by_more_than_one(data, ranks, size, micro_batches) -> None:
    """By more views than the largest sequence has: in a micro-batch, and in a step."""
    count = ranks * size * micro_batches
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 40)), min_size=count, max_size=count))
    shares = dealt(sizes, ranks, size)
    assert [len(share) for share in shares] == [micro_batches] * ranks
    batches = [batch for share in shares for batch in share]
    assert {len(batch) for batch in batches} == {size} and sorted(n for b in batches for n in b) == list(range(count))
    if ranks == 1:
        assert [n for batch in batches for n in batch] == list(range(count))
        return
    views = [[sum(sizes[n][1] for n in batch) for batch in share] for share in shares]
    largest = max(count for _, count in sizes)
    assert max(map(max, views)) - min(map(min, views)) <= largest
    times = list(zip(*views, strict=True))
    assert all(min(earlier) >= max(later) for earlier, later in pairwise(times))
    sums = [sum(share) for share in views]
    assert max(sums) - min(sums) <= largest


def test_a_step_like_the_cauldron_in_tiles_waits_for_nobody() -> None:
    """Of 256 samples on 8 ranks, one to 26 tiles each: idle time, which was a third to a half as samples come."""
    generator = np.random.default_rng(0)
    views = np.minimum(26, 1 + generator.geometric(0.1, 256)).tolist()

    def idle(times: list[list[int]]) -> float:
        """Of ranks that wait for the slowest of each micro-batch."""
        return 1 - sum(views) / sum(max(time) * len(time) for time in times)

    for size, before in ((1, 0.5), (4, 0.3)):
        came = [views[n : n + size] for n in range(0, 256, size)]
        assert idle([[sum(b) for b in came[n : n + 8]] for n in range(0, len(came), 8)]) > before
        shares = [[sum(views[n] for n in b) for b in share] for share in dealt([(1, v) for v in views], 8, size)]
        assert idle([list(time) for time in zip(*shares, strict=True)]) < 0.05


class Pages(Drawn):
    """Pages of one to three tiles a side, and every fourth sample without one."""

    def __getitem__(self, index: int) -> Sample:
        name, text = f"{self.name}:{index}", (Text("how many?"), Text(f" {index}", True))
        if index % 4 == 3:
            return Sample(name, text, self.name)
        content: Any = (
            b"broken" if index in self.broken else picture(16 * (1 + index % 3), 16 * (1 + index % 5 % 3), index)
        )
        return Sample(name, (Image(ImageRef(content, name)), *text), self.name)


def loader_of(
    tokenizer: PreTrainedTokenizerFast, rank: int = 0, world: int = 1, *, split: str = "tiles", consumed: int = 0,
    source: Drawn | None = None, **execution: int,
) -> Iterator[Batch]:  # fmt: skip
    """Micro-batches as a rank reads them."""
    image = ImageConfig(split=split, tile=16, size=48) if split == "tiles" else ImageConfig(size=16)
    stage = RunStage(steps=12, batch_size=STEP, data=data_config(image=image, climb={1: 32, 2: 48}))
    data = VLMDataModule(
        stage, execution=Execution(max_skipped=0.5, **execution),
        mixture=Mixture({"a": source or Pages("a", 40, broken=BROKEN)}, {"a": 1.0}, 5), tokenizer=tokenizer,
        tokens_per_view=3, mean=(0.5,) * 3, std=(0.5,) * 3, start=16,
    )  # fmt: skip
    data.load_state_dict(data.state_dict() | {"consumed": 16 + consumed})
    cpu = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, global_step=0, strategy=cpu)  # type: ignore[assignment]
    return iter(data.train_dataloader())


def of_rank(
    tokenizer: PreTrainedTokenizerFast, rank: int = 0, world: int = 1, consumed: int = 0, **how: Any
) -> list[list[tuple[list[str], int]]]:
    """Step -> micro-batch -> ids and number of views."""
    loader = loader_of(tokenizer, rank, world, consumed=consumed, **how)
    micro, steps = STEP // world // how.get("micro_batch_size", STEP // world), STEPS - consumed // STEP
    return [[(b.sample_ids, len(b.view_sample)) for b in (next(loader) for _ in range(micro))] for _ in range(steps)]


def ids(step: list[tuple[list[str], int]]) -> Counter[str]:
    return Counter(name for names, _ in step for name in names)


@pytest.mark.parametrize(
    ("world", "execution"), [(2, {}), (4, {"micro_batch_size": 1}), (2, {"micro_batch_size": 2, "workers": 2})]
)
def test_ranks_share_the_tiles_of_each_step_of_one_process(tokenizer, world: int, execution: dict[str, int]) -> None:
    alone = of_rank(tokenizer, micro_batch_size=1)
    ranks = [of_rank(tokenizer, rank, world, **execution) for rank in range(world)]
    size, slowest, as_they_come = execution.get("micro_batch_size", STEP // world), 0, 0
    for number, step in enumerate(alone):
        assert sum((ids(rank[number]) for rank in ranks), Counter()) == ids(step), "broken pages and climbs included"
        times = list(zip(*([views for _, views in rank[number]] for rank in ranks), strict=True))
        each = [views for _, views in step]
        assert sum(map(sum, times)) == sum(each)
        slowest += sum(map(max, times))
        came = [sum(each[n : n + size]) for n in range(0, STEP, size)]
        as_they_come += sum(max(came[n : n + world]) for n in range(0, len(came), world))
    assert slowest < as_they_come, (slowest, as_they_come)
    again = [of_rank(tokenizer, rank, world, consumed=8, **execution) for rank in range(world)]
    assert again == [rank[1:] for rank in ranks], "resumed after a step"


def test_what_is_not_cut_is_read_by_one_rank_alone(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm_ablate.data.dataset.MixtureDataset.measure", lambda *_: pytest.fail("it is measured"))
    stream = Pages("a", 40, broken=BROKEN)
    stream.sequential = True
    for how in ({"split": "none"}, {"source": stream}):
        alone, ranks = of_rank(tokenizer, **how), [of_rank(tokenizer, rank, 2, **how) for rank in (0, 1)]
        assert [names for step in alone for names, _ in step] == [
            [*first[0][0], *second[0][0]] for first, second in zip(*ranks, strict=True)
        ]


def test_ranks_that_did_not_find_the_same_samples_are_told(tokenizer) -> None:
    """A page that only one machine can read would change who gets which sample."""

    def counted(*sources: Drawn) -> list[Counted]:
        counters = [Counted(lambda height, width: 1, 0) for _ in sources]
        for rank, source in enumerate(sources):
            counters[rank].add(next(loader_of(tokenizer, rank, 2, source=source)))
        return counters

    def total(counters: list[Counted]) -> list[float]:
        said: list[list[float]] = []
        for counter in counters:
            deepcopy(counter).settle(lambda values: said.append(list(values)) or list(values))
        return [sum(values) for values in zip(*said, strict=True)]

    whole, lacking = Pages("a", 40), Pages("a", 40, broken=frozenset(range(0, 40, 2)))
    alike, apart = counted(whole, whole), counted(whole, lacking)
    sums = {name: total(counters) for name, counters in (("alike", alike), ("apart", apart))}
    alike[0].settle(lambda _: sums["alike"])
    assert alike[0].seen.sequences == STEP
    for counter in apart:
        with pytest.raises(DataError, match="other samples for the same step"):
            counter.settle(lambda _: sums["apart"])
