"""What every data source is: rows by number, each a `Sample`; and the record of where its material comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.data.sample import Sample
from vlm_ablate.provenance import AssetRecord

__all__ = ["STREAM_WINDOW", "AssetRecord", "Source"]

STREAM_WINDOW = 1024
"""Rows of a stream that are shuffled among themselves, at most."""


class Source(ABC):
    """Base of all sources. Rows are numbered from 0 to len - 1 and never change for one `fingerprint`.

    `__getitem__` is called from loader processes: an instance must survive pickling and share nothing mutable.
    """

    sequential: bool = False
    """True for streams: rows are cheap only in rising order, so the mixture shuffles them within windows."""
    window: int = STREAM_WINDOW
    """Rows of such a window; the order of samples depends on it."""

    def __init__(self, config: ComponentConfig) -> None:
        self.config = config

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Row `index` (0 <= index < len).

        Raises:
            DataError: the row cannot be used; the message names it.
        """

    def prepare(self) -> None:  # noqa: B027 - most sources have nothing to prepare
        """Make and keep what rows need, so that reading them is fast; called once before training. May take minutes
        and tells `events.preparing` how far it is. Rows are the same without it.

        Raises:
            StorageError: the cache cannot be written.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the rows change: hash of the settings and of the material's identity."""

    @property
    def licences(self) -> list[AssetRecord]:
        """Where the material comes from and under what terms."""
        return []
