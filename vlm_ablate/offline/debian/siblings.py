"""Pictures that are nearly the same stand together, so that one split has them all."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

ALIKE = 5.0
"""Mean difference of two thumbnails, of 255, below which pictures are taken for variants of one."""

_FAINT = 0.2
"""The same as a share of how much the pictures stand out of the thumbnails' grey: thin drawings differ little."""

_GREY = 128


def groups(keys: Sequence[str], marks: Sequence[Iterable[Hashable]], thumbs: np.ndarray) -> list[str]:
    """For each key the first key of its group. Two belong together that share a mark or look alike, and so on.

    `marks[i]` are what may be shared (a digest, a folder and title); `thumbs` is (n, features) in [0, 255].
    """
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(i: int, j: int) -> None:
        low, high = sorted((root(i), root(j)))
        parent[high] = low

    first: dict[Hashable, int] = {}
    for i, own in enumerate(marks):
        for mark in own:
            join(i, first.setdefault(mark, i))
    near = np.minimum(ALIKE, _FAINT * np.abs(thumbs - _GREY).mean(1))
    for i in range(len(keys) - 1):
        for j in np.flatnonzero(np.abs(thumbs[i + 1 :] - thumbs[i]).mean(1) < np.minimum(near[i], near[i + 1 :])):
            join(i, i + 1 + int(j))
    return [keys[root(i)] for i in range(len(keys))]
