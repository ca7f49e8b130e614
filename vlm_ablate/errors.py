"""The exception types a user can meet. Every one prints as a single clear message, without a traceback."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


class VlmAblateError(Exception):
    """Base of all errors that the command line reports as one message.

    `hint` says what the user can do next; `exit_code` is what the process returns.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors come out of other processes whole, whatever their constructor takes."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[VlmAblateError], arguments: tuple[Any, ...], state: dict[str, Any]) -> VlmAblateError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one file: where it stands, what is wrong, and the nearest valid value."""

    file: str
    path: str
    message: str
    nearest: str | None = None

    def __str__(self) -> str:
        where = f"{self.file}: {self.path}" if self.path else self.file
        tail = f" (did you mean {self.nearest!r}?)" if self.nearest else ""
        return f"{where}: {self.message}{tail}"


class ConfigError(VlmAblateError):
    """What a user wrote is not valid. Carries all problems at once."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem], *, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems), hint=hint)


class UnknownNameError(VlmAblateError):
    """A name that no registry entry, arm, scale or asset carries."""

    exit_code = 2

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        self.nearest = nearest(name, self.known)
        listing = ", ".join(self.known) or "none registered"
        super().__init__(f"unknown {kind} {name!r}", hint=self._hint(listing))

    def _hint(self, listing: str) -> str:
        return f"did you mean {self.nearest!r}? known: {listing}" if self.nearest else f"known: {listing}"


class AssetMissing(VlmAblateError):
    """An optional asset (weights, pictures, a hub id) is not on this machine; arms that need it are skipped."""


class ModelError(VlmAblateError):
    """Parts that do not fit together: widths, token counts, adapters that match nothing."""


class DataError(VlmAblateError):
    """A record, image or data set that cannot be used."""


class TrackingError(VlmAblateError):
    """The tracking store cannot be reached or written."""


class StorageError(VlmAblateError):
    """A full disk, a read-only folder, a file that cannot be written."""


class Diverged(VlmAblateError):
    """Training produced a loss that is not finite or exploded. A result, not a failure of the harness."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None when nothing is close."""
    from difflib import get_close_matches

    lowered = {k.lower(): k for k in known}
    found = get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return lowered[found[0]] if found else None
