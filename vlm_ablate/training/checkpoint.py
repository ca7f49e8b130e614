"""The resumable checkpoints of a stage: the last two, each known by a checksum, whole or absent."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from vlm_ablate.storage import atomic_file, check_writable, file_sha256, storage_errors

_NAME = re.compile(r"checkpoint-(\d+)-([0-9a-f]{16})\.ckpt")
_WRITING = "checkpoint-writing-*.ckpt"
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

    def found(self) -> list[tuple[int, Path]]:
        """(step, file), the oldest first."""
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

    def keep(self, step: int) -> None:
        """Give the checkpoint that was just written its name, and drop those that are older than the one before it.

        Raises:
            LeaseLost: this process has lost the right to write there.
        """
        check_writable(self.writing)
        name = f"checkpoint-{step}-{_checksum(self.writing)}.ckpt"
        with storage_errors("write", self.folder / name):
            check_writable(self.folder / name)
            os.replace(self.writing, self.folder / name)
        left = [*self.folder.glob(_WRITING), *self.folder.glob(f".{_WRITING}.*")]  # by writers that were killed
        for file in [*(file for _, file in self.found()[:-KEPT]), *left]:
            file.unlink(missing_ok=True)

    def clear(self, *, but: int | None = None) -> None:
        """Remove all: the stage has ended.

        Args:
            but: the steps of a checkpoint that is kept.

        Raises:
            LeaseLost: this process has lost the right to write there.
        """
        check_writable(self.folder / _WRITING)
        for file in [*self.folder.glob("checkpoint-*"), *self.folder.glob(f".{_WRITING}.*")]:
            named = _named(file)
            if named is None or named[0] != but:
                file.unlink(missing_ok=True)


def _checksum(file: Path) -> str:
    return file_sha256(file)[:16]


def _named(file: Path) -> tuple[int, str] | None:
    """Step and checksum in the name of a checkpoint; None for any other file."""
    match = _NAME.fullmatch(file.name)
    return (int(match[1]), match[2]) if match else None


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoint files that are whole or absent, with a `StorageError` when the disk will not take them."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write `checkpoint` in the place of `path`."""
        with atomic_file(Path(path)) as file:
            save(checkpoint, file)


def save(value: Any, file: IO[bytes]) -> None:
    """`torch.save`, with the operating system's error when the disk is full: torch makes a RuntimeError of it."""
    try:
        torch.save(value, file)
    except RuntimeError as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, OSError):
            raise cause from error
        raise
