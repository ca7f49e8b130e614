"""The resumable checkpoints of a stage: the last two, each known by a checksum, whole or absent.

One process, or ranks that have the whole model each, write a file; ranks that hold shares write a folder (`shards.py`).
Which of them is valid is decided here, for both alike: its name holds the checksum of its contents.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins import TorchCheckpointIO

from vlm_ablate.storage import atomic_file, check_writable, file_sha256, storage_errors
from vlm_ablate.training.disk import save

_NAME = re.compile(r"checkpoint-(\d+)-([0-9a-f]{16})\.(?:ckpt|shares)")
_WRITING, _WRITING_SHARES = "checkpoint-writing-*.ckpt", "checkpoint-writing-*.shares"
KEPT = 2
"""Checkpoints of a stage: one that turns out damaged falls back to the one before."""


@dataclass(frozen=True)
class CheckpointFiles:
    """The checkpoints in a folder, named by step and checksum.

    Args:
        folder: of the stage.
        notice: hears of a damaged checkpoint that is passed over.
    """

    folder: Path
    notice: Callable[[str], None] = lambda message: None
    _writer: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def writing(self) -> Path:
        """Where a checkpoint is written before its checksum is known: no other process writes there."""
        return self.folder / _WRITING.replace("*", self._writer)

    @property
    def writing_shares(self) -> Path:
        """As `writing`, for a folder."""
        return self.folder / _WRITING_SHARES.replace("*", self._writer)

    def found(self) -> list[tuple[int, Path]]:
        """(step, file or folder), the oldest first."""
        files = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted((named[0], file) for file in files if (named := _named(file)))

    def latest(self) -> Path | None:
        """The last checkpoint that is whole; damaged ones are put aside, each with a notice."""
        for step, file in reversed(self.found()):
            if (step, _checksum(file)) == _named(file):
                return file
            self.notice(f"the checkpoint {file} of step {step} is damaged; the one before it is used")
            with storage_errors("move", file):
                check_writable(file)
                file.rename(file.with_suffix(".damaged"))
        return None

    def step(self) -> int:
        """Optimiser steps of this stage that the last whole checkpoint has; 0 without any."""
        found = self.latest()
        named = _named(found) if found else None
        return named[0] if named else 0

    def keep(self, step: int, shares: Mapping[str, str] | None = None) -> None:
        """Give the checkpoint that was just written its name, and drop those that are older than the one before it.

        Args:
            shares: of a folder, each file's name and SHA-256.

        Raises:
            LeaseLost: this process has lost the right to write there.
        """
        written = self.writing if shares is None else self.writing_shares
        check_writable(written)
        checksum = _checksum(written) if shares is None else _checksum_of(shares)
        target = self.folder / f"checkpoint-{step}-{checksum}{written.suffix}"
        with storage_errors("write", target):
            check_writable(target)
            if shares is None or not target.exists():  # a folder of the same contents is the same checkpoint
                os.replace(written, target)
        for file in [*(file for _, file in self.found()[:-KEPT]), *self._left()]:
            _remove(file)

    def clear(self, *, but: int | None = None) -> None:
        """Remove all: the stage has ended.

        Args:
            but: the steps of a checkpoint that is kept.

        Raises:
            LeaseLost: this process has lost the right to write there.
        """
        check_writable(self.folder / _WRITING)
        for file in [*self.folder.glob("checkpoint-*"), *self._left()]:
            named = _named(file)
            if named is None or named[0] != but:
                _remove(file)

    def _left(self) -> list[Path]:
        """What writers left that were killed."""
        return [file for name in (_WRITING, f".{_WRITING}.*", _WRITING_SHARES) for file in self.folder.glob(name)]


def _checksum(path: Path) -> str:
    if not path.is_dir():
        return file_sha256(path)[:16]
    from vlm_ablate.training.shards import OWN

    files = [file for file in path.iterdir() if OWN.fullmatch(file.name)]
    with ThreadPoolExecutor(8) as threads:
        digests = list(threads.map(file_sha256, files))
    return _checksum_of({file.name: digest for file, digest in zip(files, digests, strict=True)})


def _checksum_of(shares: Mapping[str, str]) -> str:
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(shares.items()))
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _named(file: Path) -> tuple[int, str] | None:
    """Step and checksum in the name of a checkpoint; None for anything else."""
    match = _NAME.fullmatch(file.name)
    return (int(match[1]), match[2]) if match else None


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoint files that are whole or absent, with a `StorageError` when the disk will not take them.

    What ranks wrote in shares is read as if one process had written it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` in the place of `path`."""
        with atomic_file(Path(path)) as file:
            save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, loc: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """What a file or folder holds."""
        if Path(path).is_dir():
            from vlm_ablate.training.shards import read_whole

            return read_whole(Path(path))
        loaded: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only)
        return loaded
