"""What torch writes, and a disk that takes no more."""

from __future__ import annotations

from typing import IO, Any

import torch


def save(value: Any, file: IO[bytes]) -> None:
    """`torch.save`, with the operating system's error when the disk is full: torch makes a RuntimeError of it."""
    try:
        torch.save(value, file)
    except RuntimeError as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, OSError):
            raise cause from error
        raise
