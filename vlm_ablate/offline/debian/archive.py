"""Reading .deb files, anywhere: an `ar` archive of two compressed tar archives (deb(5))."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from vlm_ablate.errors import DataError

_MAGIC = b"!<arch>\n"
_HEADER = 60
_READABLE = ("", ".gz", ".xz", ".bz2")


def control(deb: Path) -> dict[str, str]:
    """The fields of a package's control file on one line each (Package, Version, ...).

    Raises:
        DataError: it is not a .deb file, or cut short.
    """
    with _members(deb, "control.tar") as archive:
        for member in archive:
            if member.isfile() and member.name.removeprefix("./") == "control":
                text = archive.extractfile(member).read().decode()  # type: ignore[union-attr]
                lines = [line for line in text.splitlines() if line[:1].strip()]
                return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    raise DataError(f"{deb}: it has no control file")


def unpack(deb: Path, folder: Path, keep: Iterable[str]) -> int:
    """Write the package's regular files whose paths match a pattern below `folder`; returns how many.

    Links are left out: what is read are the files themselves.

    Raises:
        DataError: it is not a .deb file, or cut short.
    """
    patterns, count = tuple(keep), 0
    with _members(deb, "data.tar") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isfile() and any(fnmatchcase(name, pattern) for pattern in patterns):
                archive.extract(member, folder, filter="data")
                count += 1
    return count


@contextmanager
def _members(deb: Path, stem: str) -> Iterator[tarfile.TarFile]:
    """The tar archive of that name, whatever its compression, opened for reading in order."""
    try:
        with deb.open("rb") as file, tarfile.open(fileobj=_part(deb, file, stem), mode="r|*") as archive:
            yield archive  # type: ignore[call-overload]
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{deb}: {stem} cannot be unpacked: {error}") from error


def _part(deb: Path, file: BinaryIO, stem: str) -> _Part:
    """The part of the `ar` archive whose name begins so."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise DataError(f"{deb}: not a .deb file")
    while len(header := file.read(_HEADER)) == _HEADER:
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58].strip()
        if not size.isdigit():
            break
        if name.startswith(stem):
            if name.removeprefix(stem) not in _READABLE:
                raise DataError(f"{deb}: {name} is compressed in a way that cannot be read here",
                                hint="take the package of Debian 12, or unpack it with dpkg-deb")
            return _Part(file, int(size))
        file.seek(int(size) + int(size) % 2, io.SEEK_CUR)
    raise DataError(f"{deb}: {stem} is missing; the file may be cut short")


class _Part:
    """So many bytes of a file from where it stands, for reading in order."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, fewer at the end."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        if len(data) < wanted:  # tarfile would take it for the end
            raise EOFError("the file is cut short")
        self._left -= wanted
        return data
