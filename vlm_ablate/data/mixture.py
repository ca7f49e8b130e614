"""The order of training samples: global index -> (source, row), a pure function of (seed, index).

Neither the number of workers or ranks nor a resume changes it, and no position costs more than another. The index
axis is cut into blocks; each block holds every source by its exact share (rounding carries over to the next block)
in a seeded order; each source is walked epoch by epoch, every epoch a permutation of its rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from vlm_ablate.data.sources.base import Source
from vlm_ablate.errors import DataError

_BITS = 40
_LONGEST = 2**27
"""Samples of the longest block: the order of one is held in memory."""
_MASK = (1 << 64) - 1


class Mixture:
    """Weighted sources, interleaved. The order of writing does not matter: sources are sorted by name.

    Raises:
        DataError: no sources, an empty one, a weight that is not positive, or one that is nothing beside the others.
    """

    def __init__(self, sources: Mapping[str, Source], weights: Mapping[str, float], seed: int) -> None:
        if not sources:
            raise DataError("the mixture names no source")
        self.names = sorted(sources)
        self.sources = [sources[name] for name in self.names]
        self.lengths = [len(source) for source in self.sources]
        for name, length in zip(self.names, self.lengths, strict=True):
            if length < 1:
                raise DataError(f"source {name!r} is empty")
            if not (weights[name] > 0 and math.isfinite(weights[name])):
                raise DataError(f"source {name!r} has weight {weights[name]}; weights are above 0")
        self.seed = seed
        total = sum(weights[name] for name in self.names)
        self.shares = [weights[name] / total for name in self.names]
        # Cumulative shares as integers, so that the counts below are exact at any index.
        self._bounds = [0, *(round(c * (1 << _BITS)) for c in np.cumsum(self.shares)[:-1]), 1 << _BITS]
        # At least 4 of the rarest source in a block: then its rounded counts can never fall.
        rarest = min(self.shares)
        if rarest * _LONGEST < 4:
            name = self.names[self.shares.index(rarest)]
            raise DataError(
                f"source {name!r} would be one in {1 / rarest if rarest else math.inf:.0e} samples",
                hint="give it more weight, or leave it out",
            )
        self.block = max(256, math.ceil(4 / rarest))
        self._blocks: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __getitem__(self, index: int) -> tuple[int, int]:
        """(number of the source, its row) of the `index`-th sample, index >= 0."""
        block, position = divmod(index, self.block)
        source, rank = self._block_order(block)
        which = int(source[position])
        return which, self._row(which, self._drawn(which, block) + int(rank[position]))

    def _drawn(self, which: int, block: int) -> int:
        """How often source `which` was drawn before `block`."""
        upper, lower = self._bounds[which + 1], self._bounds[which]
        n = block * self.block
        drawn: int = (upper * n >> _BITS) - (lower * n >> _BITS)
        return drawn

    def _block_order(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Source of each position of a block, and how many of it stand before; the last few blocks are kept."""
        if block not in self._blocks:
            while len(self._blocks) >= 4:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[block] = self._make_block(block)
        return self._blocks[block]

    def _make_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        counts = [self._drawn(i, block + 1) - self._drawn(i, block) for i in range(len(self.sources))]
        order = np.repeat(np.arange(len(counts)), counts)
        np.random.default_rng([self.seed, 0, block]).shuffle(order)
        rank = np.empty_like(order)
        for i, count in enumerate(counts):
            rank[order == i] = np.arange(count)
        return order, rank

    def _row(self, which: int, draw: int) -> int:
        length = self.lengths[which]
        epoch, position = divmod(draw, length)
        if not self.sources[which].sequential:
            return permuted(position, length, (self.seed, which + 1, epoch))
        size = self.sources[which].window
        start = position - position % size
        window = min(size, length - start)
        return start + permuted(position - start, window, (self.seed, which + 1, epoch, start))


def permuted(position: int, length: int, key: Sequence[int]) -> int:
    """The `position`-th element of the permutation of range(length) that `key` names, without storing it.

    A Feistel network over the next power of four, walked until it lands inside (Black and Rogaway 2002).
    """
    half = max(1, ((length - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    keys = _round_keys(tuple(key))
    value = position
    while True:
        left, right = value >> half, value & low
        for round_key in keys:
            left, right = right, left ^ (_mix(right + round_key) & low)
        value = left << half | right
        if value < length:
            return value


@lru_cache(maxsize=256)
def _round_keys(key: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(k) for k in np.random.default_rng([abs(k) for k in key]).integers(0, 1 << 63, size=8))


def _mix(x: int) -> int:
    """Finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)
