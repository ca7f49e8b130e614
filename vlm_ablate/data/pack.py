"""Packing: rows of up to so many tokens and views, each filled with whole samples.

Samples are taken a window at a time, in the order of training, and laid into rows by best fit, the longest first: each
goes where least space is left, or opens a row. The rows of a window are shuffled. A row follows from the seed and the
samples of its window alone, so that a resumed run measures one window again and nothing else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Sampler

from vlm_ablate.data.deal import Size, dealt, digest

if TYPE_CHECKING:
    from vlm_ablate.data.mixture import Mixture

WINDOW = 2048
"""Samples that are packed together: of a mixture like the Cauldron rows of 4,096 tokens become 0.996 full."""

_OF_STREAM = 0.8
"""Share of a stream's window that a window of a mixture draws of it on the average."""


@dataclass(frozen=True)
class Row:
    """The samples of a packed row."""

    samples: tuple[int, ...]
    """Global indices, ascending."""
    sizes: tuple[Size, ...]
    """As they were measured."""
    step: int
    """Optimiser step of the stage that decides how its images are prepared: the one in which its window begins."""
    deal: int = field(default=0, compare=False)
    """See `Batch.deal`."""

    @property
    def tokens(self) -> int:
        """Of all its samples."""
        return sum(tokens for tokens, _ in self.sizes)

    @property
    def views(self) -> int:
        """Of all its samples."""
        return sum(views for _, views in self.sizes)


def best_fit(sizes: Sequence[Size], tokens: int, views: int | None = None) -> list[list[int]]:
    """Numbers of the samples of each row, by best fit decreasing.

    Args:
        sizes: of the samples. One that is larger than a row by itself gets a row of its own.
        tokens: most of a row.
        views: most of a row; None: any number.
    """
    rows: list[list[int]] = []
    free_views: list[int] = []
    no_limit = sum(count for _, count in sizes) + 1
    most = no_limit if views is None else views
    # Rows by the tokens that are left in them, and which numbers of tokens there are as bits of one integer: the least
    # number from t on is the lowest bit of it shifted by t. Rows without a view left serve samples without views only.
    open_rows: list[defaultdict[int, list[int]]] = [defaultdict(list), defaultdict(list)]
    bits = [0, 0]

    def take(length: int, need: int) -> tuple[int, int] | None:
        """(row, tokens left in it before) of the best fit, taken out of the open ones."""
        for spent in (1, 0) if not need else (0,):
            left = bits[spent] >> length
            place = length - 1
            while left:
                step = (left & -left).bit_length()
                place, left = place + step, left >> step
                bucket = open_rows[spent][place]
                for at in range(len(bucket) - 1, -1, -1):
                    row = bucket[at]
                    if free_views[row] >= need:
                        del bucket[at]
                        if not bucket:
                            bits[spent] ^= 1 << place
                        return row, place
        return None

    for number in sorted(range(len(sizes)), key=lambda n: (-sizes[n][0], -sizes[n][1], n)):
        length, need = sizes[number]
        found = take(length, need) if length <= tokens else None
        if found is None:
            row, before = len(rows), max(tokens, length)
            rows.append([])
            free_views.append(most)
        else:
            row, before = found
        rows[row].append(number)
        free_views[row] -= need
        left = before - length
        if left:
            spent = int(free_views[row] <= 0)
            open_rows[spent][left].append(row)
            bits[spent] |= 1 << left
    return rows


def window_of(mixture: Mixture) -> int:
    """Samples of a mixture that are packed together: so few that what they draw of a stream lies within two of its
    windows, which it keeps. They are measured first and read in another order, and reading further back begins the
    stream again."""
    parts = zip(mixture.sources, mixture.shares, strict=True)
    drawn = [max(each.window, int(_OF_STREAM * each.window / share)) for each, share in parts if each.sequential]
    return min([WINDOW, *drawn])


class PackedRows:
    """The packed rows of a stage by number, from 0 on without an end.

    Args:
        measure: (global index, step) -> size of the sample, with images prepared as from that step on.
        tokens, views: most of a row.
        seed: of the order of rows in a window.
        batch_size: rows of an optimiser step.
        place: (number of a window's first row, its first sample): where counting begins, `(0, start)` for a new stage.
        window: samples that are packed together; None: WINDOW.
    """

    def __init__(
        self,
        measure: Callable[[int, int], Size],
        *,
        tokens: int,
        views: int | None,
        seed: int,
        batch_size: int,
        place: tuple[int, int],
        window: int | None = None,
    ) -> None:
        self._measure, self._tokens, self._views = measure, tokens, views
        self._seed, self._batch_size, self._window = seed, batch_size, window or WINDOW
        self._places = [place]
        self._held: tuple[int, list[Row]] = (-1, [])

    def __getitem__(self, number: int) -> Row:
        """Rows are asked for in ascending order but for those of one window.

        Raises:
            IndexError: the row lies before the place where counting began.
            DataError: a sample cannot be measured, nor another in its place.
        """
        while True:
            at = bisect_right(self._places, number, key=lambda place: place[0]) - 1
            if at < 0:
                raise IndexError(f"row {number} lies before row {self._places[0][0]}")
            rows = self._rows(at)
            if number - self._places[at][0] < len(rows):
                return rows[number - self._places[at][0]]

    def place(self, number: int) -> tuple[int, int]:
        """(first row, first sample) of the window of a row that was asked for, or comes after such a one."""
        return self._places[bisect_right(self._places, number, key=lambda place: place[0]) - 1]

    def _rows(self, at: int) -> list[Row]:
        if self._held[0] != at:
            first_row, first = self._places[at]
            step = first_row // self._batch_size
            sizes = [self._measure(index, step) for index in range(first, first + self._window)]
            packed = best_fit(sizes, self._tokens, self._views)
            order = np.random.default_rng((self._seed, first)).permutation(len(packed))
            self._held = at, [self._row(sorted(packed[n]), sizes, first, step) for n in order]
            if at + 1 == len(self._places):
                self._places.append((first_row + len(packed), first + self._window))
        return self._held[1]

    def _row(self, numbers: list[int], sizes: list[Size], first: int, step: int) -> Row:
        return Row(tuple(first + n for n in numbers), tuple(sizes[n] for n in numbers), step)


class PackedBatches(Sampler[list[Row]]):
    """Packed rows of one rank's micro-batches, of steps of so many rows that are dealt by their views."""

    def __init__(self, rows: PackedRows, start: int, step: int, size: int, rank: int = 0, world: int = 1) -> None:
        self.rows, self.start, self.step, self.size, self.rank, self.world = rows, start, step, size, rank, world

    def __iter__(self) -> Iterator[list[Row]]:
        first = self.start
        while True:
            # Every rank measures every row: which samples stand where does not depend on how many ranks there are.
            every = [self.rows[number] for number in range(first, first + self.step)]
            deal = digest([size for row in every for size in row.sizes]) if self.world > 1 else 0
            for batch in dealt([(row.tokens, row.views) for row in every], self.world, self.size)[self.rank]:
                yield [replace(every[number], deal=deal) for number in batch]
            first += self.step


@dataclass(frozen=True)
class Fill:
    """How full rows are."""

    rows: int
    samples: int
    tokens: int
    space: int
    """Tokens that the rows could hold."""
    most_views: int

    @property
    def share(self) -> float:
        """Of the rows' space that holds tokens."""
        return self.tokens / self.space if self.space else 0.0


def padded_share(sizes: Sequence[Size], batch: int) -> float:
    """Share of real tokens when each `batch` samples in a row are padded to the longest of them."""
    lengths = [length for length, _ in sizes]
    space = sum(max(lengths[n : n + batch]) * len(lengths[n : n + batch]) for n in range(0, len(lengths), batch))
    return sum(lengths) / space if space else 0.0


def fill_of(sizes: Sequence[Size], tokens: int, views: int | None, window: int = WINDOW) -> Fill:
    """What packing makes of samples of these sizes, in the order of training; the last window may be a short one."""
    rows = counted = most = 0
    for first in range(0, len(sizes), window):
        part = sizes[first : first + window]
        packed = best_fit(part, tokens, views)
        rows, counted = rows + len(packed), counted + sum(length for length, _ in part)
        most = max([most, *(sum(part[n][1] for n in row) for row in packed)])
    return Fill(rows, len(sizes), counted, rows * tokens, most)
