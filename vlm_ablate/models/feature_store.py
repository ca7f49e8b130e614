"""Output of frozen encoders on disk, shared by all processes that use one home. No torch here.

Answers that cannot differ between arms are kept in the same way, in a root of their own (`answers_folder`).

Below `root` every encoder has a folder, named by everything that decides its output. In it lie packs: `NAME.bin` holds
values one after another, `NAME.idx` an entry of fixed size for each. A pack is written by one process only, values
first, and never again once it is full or its writer is gone; so whatever is killed leaves at most a torn last entry,
which readers leave out. Entries carry a checksum of their own and one of their values, which is compared when a process
first reads them: what is damaged is computed again.

All encoders together stay below a limit: before a new pack is begun, the packs that were not used for longest go. The
packs that several processes begin at the same time may each pass it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import struct
import time
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vlm_ablate.errors import StorageError
from vlm_ablate.events import remark
from vlm_ablate.home import MINIMUM_FREE, Home
from vlm_ablate.storage import locked

PACK = 64 * 2**20
"""Bytes after which a pack is full."""
KEY_BYTES = 16
_ENTRY = struct.Struct(f"<{KEY_BYTES}sQIIIII")
"""key, offset, rows, bytes of a row, kind of number, CRC-32 of the values, CRC-32 of all that comes before it."""
_SUMMED = _ENTRY.size - 4
_LOOK_AGAIN = 0.5
"""Seconds before what other processes wrote is looked for again."""
_OPEN = 128
"""Packs that a process has open at a time: it may have a thousand files open, and needs them for others."""
_USED_EVERY = 60.0
"""Seconds before a pack is marked as used again."""


@dataclass(frozen=True)
class Stored:
    """The output of an encoder for one view."""

    values: np.ndarray
    """(rows, bytes of a row) uint8."""
    kind: int
    """What the bytes are; known to whoever wrote them."""


@dataclass
class _Entry:
    """Where one value is."""

    pack: _Pack
    place: int
    """Of the entry in the index, in bytes."""
    offset: int
    rows: int
    row_bytes: int
    kind: int
    checksum: int | None
    """None once it was compared."""


@dataclass
class _Pack:
    """A pack as this process knows it."""

    path: Path
    """Without a suffix."""
    known: int = 0
    """Bytes of the index that were read."""
    handle: int | None = None
    used: float = 0.0


@dataclass
class _Writer:
    """The pack that this process writes."""

    pack: _Pack
    values: int
    index: int
    """Descriptors."""
    process: int
    size: int = 0


@dataclass
class Counts:
    """What a process has had from a store."""

    read: int = 0
    written: int = 0
    damaged: int = 0


class FeatureStore:
    """The output of one encoder.

    Args:
        root: of all encoders.
        name: of this one: 16 hex digits over everything that decides its output.
        limit: bytes of all encoders together.
        pack: bytes after which a pack is full.
        what: is kept, for messages.
    """

    def __init__(
        self, root: Path, name: str, *, limit: int, pack: int = PACK, what: str = "output of encoders"
    ) -> None:
        self.root, self.folder, self.limit, self._what = root, root / name, limit, what
        self._pack_bytes = min(pack, max(limit // 4, 1))
        self._packs: dict[str, _Pack] = {}
        self._opened: dict[Path, _Pack] = {}
        """Those that are open, the one that was used last at the end."""
        self._entries: dict[bytes, _Entry] = {}
        self._looked = 0.0
        self._writer: _Writer | None = None
        self._closed = ""
        """Why nothing more is written."""
        self.counts = Counts()

    def read(self, keys: Sequence[bytes]) -> list[Stored | None]:
        """What is stored under keys of 16 bytes; None where nothing is, or what is there is damaged."""
        if any(key not in self._entries for key in keys):
            self._look()
        return [self._read(key) for key in keys]

    def expect(self, keys: Iterable[bytes]) -> None:
        """Have the operating system read ahead what will be asked for soon."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is None:
                self._look()
                entry = self._entries.get(key)
            if entry is not None and hasattr(os, "posix_fadvise"):
                with suppress(OSError):
                    length = entry.rows * entry.row_bytes
                    os.posix_fadvise(self._open(entry.pack), entry.offset, length, os.POSIX_FADV_WILLNEED)

    def add(self, found: Sequence[tuple[bytes, Stored]]) -> None:
        """Keep values. What another process has kept meanwhile is left out; a disk that takes no more is told once."""
        self._look(now=True)
        new = {key: stored for key, stored in found if key not in self._entries}
        if not new or self._closed:
            return
        try:
            self._append(new)
        except (OSError, StorageError) as error:
            self._closed = str(error)
            remark(f"no more {self._what} is kept in {self.root}: {error}")

    def _read(self, key: bytes) -> Stored | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        values = np.empty((entry.rows, entry.row_bytes), np.uint8)
        try:
            whole = os.preadv(self._open(entry.pack), [values.data], entry.offset) == values.nbytes
        except OSError:  # its pack was removed, to stay below the limit
            whole = False
            entry.checksum = None
        if entry.checksum is not None:
            whole = whole and zlib.crc32(values.data) == entry.checksum
            if not whole:
                self._strike_out(entry)
            entry.checksum = None
        if not whole:
            del self._entries[key]
            return None
        self._use(entry.pack)
        self.counts.read += 1
        return Stored(values, entry.kind)

    def _open(self, pack: _Pack) -> int:
        """A descriptor of its values; the pack that was not used for longest is closed where too many are open."""
        if pack.handle is None:
            if len(self._opened) >= _OPEN:
                oldest = self._opened.pop(next(iter(self._opened)))
                if oldest.handle is not None:
                    os.close(oldest.handle)
                    oldest.handle = None
            pack.handle = os.open(pack.path.with_suffix(".bin"), os.O_RDONLY)
        self._opened.pop(pack.path, None)
        self._opened[pack.path] = pack
        return pack.handle

    def _strike_out(self, entry: _Entry) -> None:
        """Have nobody else read a damaged value: its entry becomes one without rows."""
        if not self.counts.damaged:
            remark(f"{self._what} in {entry.pack.path} is damaged; what is damaged is computed again")
        self.counts.damaged += 1
        with suppress(OSError), entry.pack.path.with_suffix(".idx").open("r+b") as file:
            file.seek(entry.place)
            file.write(_packed(bytes(KEY_BYTES), replace(entry, rows=0), 0))

    def _use(self, pack: _Pack) -> None:
        now = time.monotonic()
        if not pack.used or now - pack.used > _USED_EVERY:
            pack.used = now
            with suppress(OSError):
                os.utime(pack.path.with_suffix(".idx"))

    # --- what others wrote ---

    def _look(self, now: bool = False) -> None:
        """Read what was added to the indices since the last look."""
        if not now and time.monotonic() - self._looked < _LOOK_AGAIN:
            return
        self._looked = time.monotonic()
        with suppress(OSError), os.scandir(self.folder) as files:
            for file in files:
                if file.name.endswith(".idx"):
                    pack = self._packs.setdefault(file.name[:-4], _Pack(self.folder / file.name[:-4]))
                    if file.stat().st_size > pack.known:
                        self._take_in(pack)

    def _take_in(self, pack: _Pack) -> None:
        try:
            with pack.path.with_suffix(".idx").open("rb") as file:
                file.seek(pack.known)
                data = file.read()
            held = pack.path.with_suffix(".bin").stat().st_size
        except OSError:
            return
        for start in range(0, len(data) - _ENTRY.size + 1, _ENTRY.size):
            line = data[start : start + _ENTRY.size]
            key, offset, rows, row_bytes, kind, checksum, own = _ENTRY.unpack(line)
            if zlib.crc32(line[:_SUMMED]) != own or offset + rows * row_bytes > held:
                return  # torn, or not whole yet
            if rows:
                place = pack.known
                self._entries.setdefault(key, _Entry(pack, place, offset, rows, row_bytes, kind, checksum))
            pack.known += _ENTRY.size

    # --- writing ---

    def _append(self, new: dict[bytes, Stored]) -> None:
        for key, stored in new.items():
            writer = self._open_writer()
            data = np.ascontiguousarray(stored.values)
            offset, size = writer.size, data.nbytes
            _write(writer.values, data.reshape(-1).data)
            writer.size += size
            rows, row_bytes = data.shape
            entry = _Entry(writer.pack, writer.pack.known, offset, rows, row_bytes, stored.kind, None)
            _write(writer.index, memoryview(_packed(key, entry, zlib.crc32(data.data))))
            writer.pack.known += _ENTRY.size
            self._entries[key] = entry
            self.counts.written += 1

    def _open_writer(self) -> _Writer:
        writer = self._writer
        if writer is not None and writer.process == os.getpid():
            if writer.size < self._pack_bytes and os.fstat(writer.index).st_nlink:
                return writer
            os.close(writer.values)
            os.close(writer.index)
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.root / ".lock"):
            make_room(self.root, self.limit - self._pack_bytes)
        if shutil.disk_usage(self.root).free < MINIMUM_FREE + self._pack_bytes:
            raise OSError("the disk is nearly full")
        name = f"{int(time.time()):x}-{os.getpid():x}-{secrets.token_hex(4)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        pack = self._packs[name] = _Pack(self.folder / name)
        values, index = (os.open(pack.path.with_suffix(suffix), flags, 0o666) for suffix in (".bin", ".idx"))
        self._writer = _Writer(pack, values, index, os.getpid())
        return self._writer

    def __getstate__(self) -> dict[str, object]:
        """A copy reads for itself and has no files open."""
        none: dict[str, object] = {"_packs": {}, "_opened": {}, "_entries": {}, "_writer": None}
        return {**self.__dict__, **none, "_looked": 0.0, "counts": Counts()}


def _packed(key: bytes, entry: _Entry, checksum: int) -> bytes:
    line = _ENTRY.pack(key, entry.offset, entry.rows, entry.row_bytes, entry.kind, checksum, 0)[:_SUMMED]
    return line + struct.pack("<I", zlib.crc32(line))


def _write(handle: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(handle, data) :]


@dataclass(frozen=True)
class PackFile:
    """A pack on disk."""

    path: Path
    """Without a suffix."""
    size: int
    used: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class StoreSize:
    """What a home holds of encoders' output."""

    packs: list[PackFile] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """On disk."""
        return sum(pack.size for pack in self.packs)

    @property
    def encoders(self) -> int:
        """Encoders with anything."""
        return len({pack.path.parent for pack in self.packs})


def features_folder(home: Home) -> Path:
    """Where a home keeps the output of all encoders."""
    return home.cache / "features"


def answers_folder(home: Home) -> Path:
    """Where a home keeps answers that arms share."""
    return home.cache / "answers"


def store_size(root: Path) -> StoreSize:
    """All packs below `root`, those that were not used for longest first."""
    packs = []
    for index in root.glob("*/*.idx"):
        with suppress(OSError):
            stat, values = index.stat(), index.with_suffix(".bin").stat()
            packs.append(PackFile(index.with_suffix(""), stat.st_size + values.st_size, stat.st_mtime))
    return StoreSize(sorted(packs, key=lambda pack: pack.used))


def make_room(root: Path, limit: int) -> int:
    """Remove packs, those that were not used for longest first, until all are below `limit` bytes; gives what went.

    A process that has one open reads on from it; one that writes it begins another.
    """
    found = store_size(root)
    left = found.bytes
    for pack in found.packs:
        if left <= max(limit, 0):
            break
        for suffix in (".idx", ".bin"):  # a pack without an index is not there
            with suppress(OSError):
                pack.path.with_suffix(suffix).unlink()
        left -= pack.size
    return found.bytes - left
