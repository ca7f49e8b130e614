"""What becomes of an error that nobody foresaw: one line, and a file to send with a report."""

from __future__ import annotations

import errno
import os
import platform
import sys
import tempfile
import traceback

from vlm_ablate.errors import StorageError, VlmAblateError
from vlm_ablate.masking import masked


def message_of(error: Exception) -> VlmAblateError:
    """The error as one that prints as a message. Of one that nobody foresaw the traceback is kept in a file."""
    if isinstance(error, VlmAblateError):
        return error
    reason = masked(" ".join(str(error).split())[:500])
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ConnectionError):
        if error.filename is not None:
            name = f"file {error.filename}" if isinstance(error.filename, int) else os.fsdecode(error.filename)
            return StorageError(f"{name}: {_plain(error)}")
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            return StorageError(f"the output cannot be written: {_plain(error)}")
    if isinstance(error, MemoryError):
        return VlmAblateError("the memory of this machine does not suffice" + (f": {reason}" if reason else ""),
                              hint="close other programs, or ask for less at a time")
    kept = keep_traceback(error)
    what = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    where = f"please report it with the file {kept}" if kept else "please report it; --debug shows where it happened"
    return VlmAblateError(f"a fault of vlm-ablate, not of what you asked: {what}", hint=where)


def interrupted(error: Exception) -> bool:
    """Whether Ctrl-C made the error: modules in C that it meets while they are imported give an ImportError for it."""
    cause: BaseException | None = None if isinstance(error, VlmAblateError) else error.__cause__
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__
    return cause is not None


def keep_traceback(error: BaseException) -> str | None:
    """Write the traceback, the command and the versions into a new file that only its owner reads; gives its path."""
    from vlm_ablate import __version__

    lines = [
        f"vlm-ablate {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"command: {' '.join(sys.argv)}",
        "",
        "".join(traceback.format_exception(error)),
    ]
    try:
        handle, path = tempfile.mkstemp(prefix="vlm-ablate-fault-", suffix=".txt")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(masked("\n".join(lines)))
    except OSError:
        return None
    return path


def _plain(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]
