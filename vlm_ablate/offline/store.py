"""Composed items kept on disk, so that arms, seeds and processes share one rendering.

A store is a folder of `images.npy` (items, height, width, 3) uint8, memory-mapped, and `items.jsonl`. It is made once,
under a lock and by as many processes as there are cores, and named by everything that decides its content. A killed
maker leaves the pieces that it finished, and the next one goes on from there. Rows and pictures carry checksums: a list
that is damaged is made again with all of its pictures, a damaged picture is drawn again by whoever first reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vlm_ablate.errors import DataError, StorageError
from vlm_ablate.events import preparing, remark
from vlm_ablate.home import Home
from vlm_ablate.offline.item import Item
from vlm_ablate.offline.pictures import Split
from vlm_ablate.offline.sealed import CheckedImages, Damaged, checksum, sealed, unsealed
from vlm_ablate.offline.tasks import TASKS
from vlm_ablate.storage import HOME_VARIABLE, atomic_file, locked, storage_errors, write_atomically

PIECE = 256
"""Items that one process makes at a time."""
_IMAGES, _ROWS = "images.npy", "items.jsonl"
_SUM = "crc32"
"""Key of a row's checksum: that of its picture."""

Row = dict[str, Any]


@dataclass(frozen=True)
class ItemStore:
    """Items of one task and split: `images[i]` belongs to `rows[i]` (id, question, answer, references, description)."""

    images: Sequence[np.ndarray]
    rows: Sequence[Row]


def store_folder(task: str, split: Split, count: int, side: int) -> Path:
    """Where the first `count` items of a task and split are kept.

    Raises:
        AssetMissing: the task's material is not on this machine.
    """
    made_of = f"{TASKS[task].fingerprint}/{task}/{split}/{count}/{side}"
    name = hashlib.sha256(made_of.encode()).hexdigest()[:16]
    return Home.default().cache / "offline" / f"{task}-{split}-{count}-{side}px-{name}"


def item_store(task: str, split: Split, count: int, side: int) -> ItemStore:
    """The first `count` items of a task and split at `side` pixels; made on first use (a few ms an item and core).

    Raises:
        AssetMissing: the task's material is not on this machine.
        DataError: one of the processes that draw was killed.
        StorageError: the cache folder cannot be written, or the disk is too full.
    """
    folder = store_folder(task, split, count, side)

    def waiting() -> None:
        drawn = min(count, PIECE * len(list(folder.glob("items.*-*.jsonl"))))
        preparing(f"{_what(task, split, count)}, in another process", drawn, count)

    with _held(folder, waiting):
        if (folder / _ROWS).exists():
            try:
                return _opened(folder, task, split, count, side)
            except Damaged as damage:
                remark(f"{folder} is damaged ({damage}); its pictures are drawn again")
                _clear(folder)
        _make(folder, task, split, count, side)
        return _opened(folder, task, split, count, side)


def items(task: str, split: Split, count: int, side: int) -> ItemStore:
    """The store if it is there, else items that are made as they are asked for: for a look at a few of many.

    Raises:
        AssetMissing: the task's material is not on this machine.
    """
    folder = store_folder(task, split, count, side)
    if (folder / _ROWS).exists():
        with suppress(Damaged):
            return _opened(folder, task, split, count, side)
    made = _Made(task, split, count, side)
    return ItemStore(_Images(made), _Rows(made))


@contextmanager
def _held(folder: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the store for this process."""
    with locked(folder.parent / f"{folder.name}.lock", waiting), storage_errors("write", folder):
        yield


@cache
def _opened(folder: Path, task: str, split: Split, count: int, side: int) -> ItemStore:
    """The store in a folder.

    Raises:
        Damaged: its list is not what was written, or the pictures are not as many.
    """
    try:
        rows: list[Row] = [json.loads(line) for line in unsealed((folder / _ROWS).read_bytes()).split("\n") if line]
    except Damaged as damage:
        raise Damaged(f"{_ROWS}: {damage}") from damage
    try:
        images = np.load(folder / _IMAGES, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise Damaged(f"{_IMAGES}: {error}") from error
    if len(rows) != count or len(images) != count or images.dtype != np.uint8:
        raise Damaged(f"{count:,} items, {len(rows):,} rows and {len(images):,} pictures")
    told: list[int] = []

    def redraw(index: int) -> np.ndarray:
        if not told:
            remark(f"{folder / _IMAGES} is damaged (picture {index}); damaged pictures are drawn again")
        told.append(index)
        image = np.asarray(TASKS[task](split, index, side).image)
        with suppress(OSError, ValueError):  # a folder that takes no writes is read as well as it can be
            np.load(folder / _IMAGES, mmap_mode="r+")[index] = image
        return image

    return ItemStore(CheckedImages(images, [row[_SUM] for row in rows], redraw), rows)


def _clear(folder: Path) -> None:
    """Take everything out; the list first, which says that the rest is whole."""
    (folder / _ROWS).unlink(missing_ok=True)
    for file in folder.iterdir():
        file.unlink()


class _Made:
    """Items by number, the last ones kept."""

    def __init__(self, task: str, split: Split, count: int, side: int) -> None:
        self.task, self.split, self.count, self.side = task, split, count, side
        self._kept: dict[int, Item] = {}

    def __getitem__(self, index: int) -> Item:
        index = range(self.count)[index]  # a sequence ends, and has places that are counted from its end
        if index not in self._kept:
            if len(self._kept) >= 64:
                del self._kept[next(iter(self._kept))]
            self._kept[index] = TASKS[self.task](self.split, index, self.side)
        return self._kept[index]


class _Images(Sequence[np.ndarray]):
    """The pictures of items that are made as they are asked for."""

    def __init__(self, made: _Made) -> None:
        self._made = made

    def __len__(self) -> int:
        return self._made.count

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]  # no slices: they would draw them all
        return np.asarray(self._made[index].image)


class _Rows(Sequence[Row]):
    """Their rows."""

    def __init__(self, made: _Made) -> None:
        self._made = made

    def __len__(self) -> int:
        return self._made.count

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]  # nor are there slices of these
        return _row(self._made[index])


def _row(item: Item) -> Row:
    return {"id": item.id, "question": item.question, "answer": item.answer, "references": list(item.references),
            "description": item.description}


# --- making ---------------------------------------------------------------------------------------------------------


def _what(task: str, split: Split, count: int) -> str:
    return f"drawing {count:,} pictures for {task} ({split})"


def _make(folder: Path, task: str, split: Split, count: int, side: int) -> None:
    """Make what is missing of a store; the list of items comes last and says that it is whole."""
    folder.mkdir(exist_ok=True)
    _allocate(folder / _IMAGES, (count, *TASKS[task](split, 0, side).image.shape))
    pieces = [range(i, min(i + PIECE, count)) for i in range(0, count, PIECE)]
    open_ = [piece for piece in pieces if _read_piece(folder, piece) is None]
    done = count - sum(map(len, open_))
    what = _what(task, split, count)
    preparing(what, done, count)
    for made in _pieces(folder, task, split, side, open_):
        done += made
        preparing(what, done, count)
    texts = [_read_piece(folder, piece) for piece in pieces]
    if None in texts:
        raise StorageError(f"{folder}: what was written there a moment ago cannot be read", hint="the disk may fail")
    write_atomically(folder / _ROWS, sealed("".join(text for text in texts if text)))
    for piece in pieces:
        _piece_file(folder, piece).unlink()


def _pieces(folder: Path, task: str, split: Split, side: int, open_: Sequence[range]) -> Iterator[int]:
    """Make pieces, in other processes if there are several; gives how many items each held as it is done."""
    processes = min(len(open_), _cores())
    if processes < 2:
        yield from (_make_piece(folder, task, split, side, piece) for piece in open_)
        return
    # Forked, so that what was read of the material is shared.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _live_for, (os.getpid(),)) as pool:
        try:
            running = [pool.submit(_make_piece, folder, task, split, side, piece) for piece in open_]
            for future in as_completed(running):
                yield future.result()
        except BrokenProcessPool as error:
            raise DataError(f"a process that drew pictures for {task} was killed, perhaps for want of memory",
                            hint="the same command goes on from the pictures that are drawn") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _live_for(parent: int) -> None:
    """Leave signals to the parent, and end when it is gone: a killed one cannot say so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _make_piece(folder: Path, task: str, split: Split, side: int, piece: range) -> int:
    """Make the items of a piece; its rows are written when its pictures are."""
    images = np.load(folder / _IMAGES, mmap_mode="r+")
    rows: list[str] = []
    for index in piece:
        item = TASKS[task](split, index, side)
        images[index] = item.image
        rows.append(json.dumps({**_row(item), _SUM: checksum(item.image)}) + "\n")
    images.flush()
    write_atomically(_piece_file(folder, piece), sealed("".join(rows)))
    return len(piece)


def _read_piece(folder: Path, piece: range) -> str | None:
    """The rows of a piece; None where it is not made, or damaged."""
    try:
        return unsealed(_piece_file(folder, piece).read_bytes())
    except (FileNotFoundError, Damaged):
        return None


def _piece_file(folder: Path, piece: range) -> Path:
    return folder / f"items.{piece.start:09d}-{piece.stop:09d}.jsonl"


def _allocate(path: Path, shape: tuple[int, ...]) -> None:
    """An array file of its full size. A disk that is too full must say so now, not kill who writes into the map."""
    with suppress(OSError, ValueError, EOFError):
        if np.load(path, mmap_mode="r").shape == shape:
            return
    size, free = math.prod(shape), shutil.disk_usage(path.parent).free
    if size > free:
        raise StorageError(f"{path} needs {size / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are free",
                           hint=f"free space, or name another folder with {HOME_VARIABLE}")
    with atomic_file(path) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + size)
        if hasattr(os, "posix_fallocate"):  # a file of holes would not hold the room
            file.flush()
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
