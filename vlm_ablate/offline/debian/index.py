"""What was read from a collection's files, kept in the cache folder: looking at thousands takes half a minute."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import __version__ as pillow_version

from vlm_ablate.home import Home
from vlm_ablate.limits import parse_json
from vlm_ablate.offline.assets import package_version
from vlm_ablate.offline.debian.catalogue import MANIFEST
from vlm_ablate.offline.debian.drawing import Look
from vlm_ablate.storage import storage_errors, write_atomically

INDEX_VERSION = 1
"""Raise when what is read of a file changes."""

Row = dict[str, Any]


def indexed(collection: str, folder: Path, pattern: str, read: Callable[[Path], list[tuple[Row, Look]]]) -> list[Row]:
    """`read(folder)` as rows with a `look`; done once for a folder's content and kept.

    Raises:
        StorageError: the cache folder cannot be written.
    """
    name = f"{collection}-{_state(folder, pattern)}.json"
    path = Home.default().cache / "offline" / name
    try:
        rows = parse_json(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        rows = [{**row, "look": asdict(look)} for row, look in read(folder)]
        with storage_errors("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(rows))
        rows = json.loads(json.dumps(rows))
    return [{**row, "look": _look(row["look"])} for row in rows]


def _look(body: dict[str, Any]) -> Look:
    return Look(body["digest"], tuple(body["box"]), body["aspect"], tuple(body["grounds"]), body["thumb"])


def _state(folder: Path, pattern: str) -> str:
    """Hash of all that decides an index: its code's version, the drawing libraries, the package, names and sizes."""
    digest = hashlib.sha256(f"{INDEX_VERSION} {pillow_version} {package_version('resvg-py')}".encode())
    digest.update((folder / MANIFEST).read_bytes())
    for path in sorted(folder.glob(pattern)):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
