"""Reading .deb files, anywhere: an `ar` archive of two compressed tar archives (deb(5)).

They are unpacked as they are read, and only so far: a small file may claim to hold gigabytes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, cast

from vlm_ablate.errors import DataError
from vlm_ablate.limits import Bounded, Readable, most_unpacked

_MAGIC = b"!<arch>\n"
_HEADER = 60
_READABLE = ("", ".gz", ".xz", ".bz2")
_LONGEST_TEXT = 2**20
"""Bytes of a control file, or of a header of the tar archive; both are held in memory."""
_MOST_FILES = 100_000


def control(deb: Path) -> dict[str, str]:
    """The fields of a package's control file on one line each (Package, Version, ...).

    Raises:
        DataError: it is not a .deb file, or cut short.
    """
    with _members(deb, "control.tar") as archive:
        for member in archive:
            if member.isfile() and member.name.removeprefix("./") == "control":
                file = archive.extractfile(member)
                if file is None or member.size > _LONGEST_TEXT:
                    raise DataError(f"{deb}: its control file holds {member.size:,} bytes")
                lines = [line for line in file.read().decode("utf-8", "replace").split("\n") if line[:1].strip()]
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
                count += 1
                if count > _MOST_FILES:
                    raise DataError(f"{deb}: it holds more than {_MOST_FILES:,} files")
                archive.extract(member, folder, filter="data")
    return count


@contextmanager
def _members(deb: Path, stem: str) -> Iterator[tarfile.TarFile]:
    """The tar archive of that name, whatever its compression, opened for reading in order."""
    limit = most_unpacked(deb.stat().st_size)
    try:
        with deb.open("rb") as file:
            stream = Bounded(_unpacked(_part(deb, file, stem)), limit, f"{deb}: {stem}")
            with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|", tarinfo=_Header) as archive:
                yield archive
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk; those of a damaged compression carry no number
        raise DataError(f"{deb}: {stem} cannot be unpacked: {error}") from error


class _Header(tarfile.TarInfo):
    """A header whose texts (long names, extended attributes) are of a size that names have."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> _Header:
        """The header in a block.

        Raises:
            DataError: it says that texts of more than a MiB follow.
        """
        header = super().frombuf(buf, encoding or "utf-8", errors)
        texts = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
                 tarfile.GNUTYPE_LONGLINK)
        if header.type in texts and header.size > _LONGEST_TEXT:
            raise DataError(f"a name in the archive claims {header.size:,} bytes")
        return header


def _unpacked(part: _Part) -> Readable:
    file = cast(BinaryIO, part)
    match part.ending:
        case ".gz":
            return gzip.GzipFile(fileobj=file)
        case ".xz":
            return lzma.LZMAFile(file)
        case ".bz2":
            return bz2.BZ2File(file)
    return part


def _part(deb: Path, file: BinaryIO, stem: str) -> _Part:
    """The part of the `ar` archive whose name begins so."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise DataError(f"{deb}: not a .deb file")
    while len(header := file.read(_HEADER)) == _HEADER:
        name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), header[48:58].strip()
        if not size.isdigit():
            break
        if name.startswith(stem):
            ending = name.removeprefix(stem)
            if ending not in _READABLE:
                raise DataError(f"{deb}: {name} is compressed in a way that cannot be read here",
                                hint="take the package of Debian 12, or unpack it with dpkg-deb")
            return _Part(file, int(size), ending)
        file.seek(int(size) + int(size) % 2, io.SEEK_CUR)
    raise DataError(f"{deb}: {stem} is missing; the file may be cut short")


class _Part:
    """So many bytes of a file from where it stands, for reading in order."""

    def __init__(self, file: BinaryIO, size: int, ending: str) -> None:
        self._file, self._left = file, size
        self.ending = ending

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, fewer at the end."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        if len(data) < wanted:  # tarfile would take it for the end
            raise EOFError("the file is cut short")
        self._left -= wanted
        return data
