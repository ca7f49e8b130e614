"""Standard output and error as they are met: terminals of another encoding, full disks, readers that have left."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn

READER_LEFT = 141
"""Exit status when whoever read the output has left (`| head`): that of the shell's own programs."""


def forgiving() -> None:
    """Write signs that a stream's encoding lacks as their escapes, instead of ending in the middle of a table."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def finish(command: Callable[[], object]) -> NoReturn:
    """Run a command to its end and exit with its status; what it printed is written out first.

    A reader that has left ends it silently, with status `READER_LEFT`. Output that cannot be written is an error,
    status 1.
    """
    status: object = 0
    try:
        command()
    except SystemExit as end:
        status = end.code
    if sys.stdout is not None:  # None: whoever started us closed it
        _flush()
    gc.freeze()  # Python's search for cycles at the end takes a second where torch was imported, and frees what ends
    raise SystemExit(status)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()
        raise SystemExit(READER_LEFT) from None
    except OSError as error:
        _silence()
        sys.stderr.write(f"error: the output cannot be written: {(error.strerror or str(error)).lower()}\n")
        raise SystemExit(1) from None


def _silence() -> None:
    """Let what is still to be written go nowhere: Python would try again when it ends, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
