"""The sequences of a step, dealt to ranks and micro-batches so that none waits long for another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from zlib import crc32

from torch.utils.data import Sampler

Size = tuple[int, int]
"""Tokens and views of a sequence."""
_Weight = tuple[int, int]
"""Views and tokens of some: what takes longest stands first."""


def dealt(sizes: Sequence[Size], ranks: int, size: int) -> list[list[list[int]]]:
    """Rank -> its micro-batches of a step -> numbers of their sequences, ascending, `size` of them.

    The sequences with most views (of as many, with most tokens) go first, each into the micro-batch that has fewest.
    Micro-batches of about as many views are then computed at the same time, the largest first, each by the rank that
    has had fewest. What belongs to the step stays the same. One rank waits for nobody, and takes them as they come.

    Args:
        sizes: of all sequences of the step: a multiple of ranks * size.
    """
    if ranks == 1:
        return [[list(range(first, first + size)) for first in range(0, len(sizes), size)]]
    filled = _filled([(views, tokens) for tokens, views in sizes], len(sizes) // size, size)
    shares: list[list[list[int]]] = [[] for _ in range(ranks)]
    had: list[_Weight] = [(0, 0)] * ranks
    for first in range(0, len(filled), ranks):
        takers = sorted(range(ranks), key=lambda rank: (had[rank], rank))
        for rank, (weight, numbers) in zip(takers, filled[first : first + ranks], strict=True):
            shares[rank].append(sorted(numbers))
            had[rank] = _sum(had[rank], weight)
    return shares


def _filled(weights: Sequence[_Weight], count: int, size: int) -> list[tuple[_Weight, list[int]]]:
    """So many micro-batches of about equal weight, the heaviest first."""
    batches: list[tuple[_Weight, list[int]]] = [((0, 0), []) for _ in range(count)]
    lightest: list[tuple[_Weight, int]] = [((0, 0), at) for at in range(count)]
    for number in sorted(range(len(weights)), key=lambda number: weights[number], reverse=True):
        weight, at = heappop(lightest)
        weight, numbers = _sum(weight, weights[number]), [*batches[at][1], number]
        batches[at] = weight, numbers
        if len(numbers) < size:
            heappush(lightest, (weight, at))
    return sorted(batches, key=lambda batch: batch[0], reverse=True)


def _sum(first: _Weight, second: _Weight) -> _Weight:
    return first[0] + second[0], first[1] + second[1]


def digest(sizes: Sequence[Size]) -> int:
    """A number above 0 and below 2**16 that other sizes hardly have."""
    return 1 + crc32(repr(list(sizes)).encode()) % (2**16 - 1)


@dataclass(frozen=True)
class Share:
    """A micro-batch of a rank, of a step that is dealt where it is read: by each loader process for itself."""

    step: range
    """Global indices of the step's samples."""
    ranks: int
    size: int
    """Samples of a micro-batch."""
    rank: int
    number: int
    """Of the micro-batch among the rank's own of the step."""


class SharedBatches(Sampler[list[Share]]):
    """One rank's micro-batches from `start` on, of steps of so many samples, to be dealt by their views."""

    def __init__(self, start: int, step: int, size: int, rank: int, world: int) -> None:
        self.start, self.step, self.size, self.rank, self.world = start, step, size, rank, world

    def __iter__(self) -> Iterator[list[Share]]:
        first = self.start
        while True:
            step = range(first, first + self.step)
            for number in range(self.step // (self.size * self.world)):
                yield [Share(step, self.world, self.size, self.rank, number)]
            first += self.step
