"""What is written once and read much later, with checksums: a flipped bit or a lost page is found, not learned."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from typing import overload

import numpy as np

_SEAL = b"sha256 "


class Damaged(Exception):
    """What stands in a file is not what was written there; the message says what is wrong."""


def sealed(text: str) -> str:
    """Lines of text with one more: the checksum of the others."""
    return f"{text}{_SEAL.decode()}{hashlib.sha256(text.encode()).hexdigest()}\n"


def unsealed(data: bytes) -> str:
    """The text of a file that `sealed` made.

    Raises:
        Damaged: it is not what was sealed.
    """
    start = data.rfind(_SEAL)
    if start < 0:
        raise Damaged("no checksum")
    text, seal = data[:start], data[start:]
    if seal != _SEAL + hashlib.sha256(text).hexdigest().encode() + b"\n":
        raise Damaged("another checksum than it had when it was written")
    return text.decode()


def checksum(image: np.ndarray) -> int:
    """CRC-32 of a picture's bytes (12 us for 64 x 64 pixels): up to 32 wrong bits in a row always show."""
    return zlib.crc32(np.ascontiguousarray(image).data)


class CheckedImages(Sequence[np.ndarray]):
    """Pictures (height, width, 3) uint8, each compared with its checksum when it is first read.

    Args:
        images: (items, height, width, 3) uint8.
        sums: their checksums.
        redraw: gives a picture again, of the same shape, in the place of one that is damaged.
    """

    def __init__(self, images: np.ndarray, sums: Sequence[int], redraw: Callable[[int], np.ndarray]) -> None:
        self._images, self._sums, self._redraw = images, sums, redraw
        self._whole = np.zeros(len(sums), bool)
        self._redrawn: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._sums)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]  # whoever draws it again knows no place from the end
        if index in self._redrawn:
            return self._redrawn[index]
        image: np.ndarray = self._images[index]
        if not self._whole[index]:
            if checksum(image) != self._sums[index]:
                image = self._redrawn[index] = self._redraw(index)
            self._whole[index] = True
        return image
