"""What files decide of a run: digests of weights, data and plug-in code as they are on this machine. No torch here."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from vlm_ablate.data.sources.files import base_folder, local_roots
from vlm_ablate.data.sources.lines import ENDINGS as RECORDS
from vlm_ablate.errors import AssetMissing, VlmAblateError
from vlm_ablate.events import preparing
from vlm_ablate.home import Home, files_below, is_home
from vlm_ablate.registry import REGISTRIES, Registry, benchmarks, sources
from vlm_ablate.runs.once import once
from vlm_ablate.storage import file_sha256, write_atomically

MISSING = ""
"""Stands for what is not on this machine: it agrees with anything."""
HASHED_BYTES = 64 * 2**30
"""A part with more bytes than this is known by names, sizes and times of its files instead of their contents."""
_DIGITS = 16
_OWN = "vlm_ablate"
_NO_CONTENT = ("README.md", ".gitattributes", ".gitignore", "LICENSE")
_PICTURES = frozenset({
    "", ".avif", ".bmp", ".gif", ".heic", ".ico", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pdf", ".pgm", ".png",
    ".ppm", ".tga", ".tif", ".tiff", ".webp",
})  # fmt: skip
"""What pictures end with that records name. What else lies there (scripts, YAML, other lists) is none of theirs."""


class Part(Protocol):
    """What may read files: a part's configuration. Its method `fingerprint`, or `id` and `revision`, say which."""

    @property
    def name(self) -> str:
        """Registry name, "" for what stands in none."""


Fingerprints = dict[str, str]
"""What (e.g. `language weights`) -> digest, or MISSING."""


def agree(mine: Mapping[str, str], theirs: Mapping[str, str]) -> bool:
    """Whether nothing that is known on both sides differs."""
    return not differences(mine, theirs)


def differences(mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """What is known on both sides and differs."""
    return [what for what, digest in mine.items() if digest and theirs.get(what) and theirs[what] != digest]


def part_fingerprint(part: Part) -> str:
    """Digest of what a part reads from disk; "none" when nothing on disk decides it, MISSING when it is not here.

    A part's configuration may say it itself: a method `fingerprint` gives a digest, or the files of which it is one.
    Else its `id` names a folder, a file or a repository of the hub, of which the commit counts.
    """
    own = getattr(part, "fingerprint", None)
    try:
        if callable(own):
            said: str | Sequence[Path] = own()
            return said if isinstance(said, str) else files_digest(said)
        data = registry_of(type(part)) in (sources, benchmarks)
        return id_fingerprint(getattr(part, "id", None), getattr(part, "revision", None), data=data)
    except AssetMissing:
        return MISSING
    except (VlmAblateError, OSError):
        return MISSING  # whoever opens the part says what is wrong with it


def id_fingerprint(id: str | None, revision: str | None = None, *, data: bool = False) -> str:
    """Digest of the files of a local `id`, or the commit of a hub repository in the cache of this machine.

    Args:
        data: whether a data set is meant, where a model has the same id.

    Raises:
        AssetMissing: it is neither here nor in the cache.
    """
    if not id:
        return "none"
    if local := _local(id):
        return _recent(local)
    return f"commit {_cached_commit(id, revision, data)}"


def part_files(id: str | None) -> list[Path] | None:
    """The files of a local `id`; None where it names nothing on this machine but perhaps a repository of the hub."""
    local = _local(id) if id else None
    return _files(local) if local else None


def _local(id: str) -> Path | None:
    path = Path(id).expanduser()
    return path if path.exists() or any(c in id for c in "*?[") else None


_looked_at: dict[Path, tuple[float, str]] = {}
"""Path -> until when (monotonic seconds) its digest counts as known."""
_LONG, _REST = 0.5, 20
"""What takes longer than so many seconds to look at is looked at again only after so many times as long: a hundred
thousand pictures are not listed once an arm."""


def look_again() -> None:
    """Believe nothing of a moment ago: what is asked next is looked at, however long that takes."""
    _looked_at.clear()


def _recent(path: Path) -> str:
    """Digest of all files at a path; of what takes long to look at, as of a moment ago."""
    started = time.monotonic()
    until, digest = _looked_at.get(path.absolute(), (0.0, ""))
    if started < until:
        return digest
    digest = files_digest(_files(path))
    ended = time.monotonic()
    if ended - started > _LONG:
        _looked_at[path.absolute()] = (ended + _REST * (ended - started), digest)
    return digest


def code_fingerprint(registry: Registry[object], name: str) -> str | None:
    """Digest of the source of a part that this package does not bring: its file, or all files of its package.

    Of what somebody has put into a room of this package, the file alone.
    """
    entry = registry[name]
    module, own = entry.module, entry.module.partition(".")[0] == _OWN
    if own and isinstance(entry.target, str):
        return None
    spec = find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return MISSING
    file = Path(spec.origin)
    top = find_spec(module.partition(".")[0])
    package = Path(top.origin).parent if top and top.origin and top.submodule_search_locations and not own else None
    return files_digest(sorted(package.rglob("*.py")) if package else [file])


def registry_of(config: type[object]) -> Registry[object] | None:
    """The registry that a part's configuration class belongs to."""
    for registry in REGISTRIES:
        if registry.configures(config):
            return registry
    return None


def _looked_at_part(part: Part) -> tuple[Part, str, str | None]:
    """The part (kept, so that no other takes its id while this is remembered), what it reads, and its code."""
    registry = registry_of(type(part))
    return part, part_fingerprint(part), code_fingerprint(registry, part.name) if registry else None


def fingerprints_of(parts: Mapping[str, Part]) -> Fingerprints:
    """What is read from disk for each part, and the source of those that plug-ins bring."""
    found: Fingerprints = {}
    for what, part in parts.items():
        _, digest, code = once(("part", id(part)), partial(_looked_at_part, part))
        if digest != "none":
            found[what] = digest
        if code is not None:
            found[f"{what} code"] = code
    return found


def files_digest(files: Sequence[Path]) -> str:
    """16 hex digits over names (below their common folder) and contents of files."""
    if not files:
        raise AssetMissing("no files")
    root = Path(os.path.commonpath([file.absolute().parent for file in files]))
    stats = [(file, file.stat()) for file in files]
    whole = sum(stat.st_size for _, stat in stats) <= HASHED_BYTES
    digest = hashlib.sha256()
    cache = _Cache()
    for number, (file, stat) in enumerate(stats, 1):
        name = str(file.absolute().relative_to(root))
        content = cache.digest(file, stat) if whole else f"{stat.st_size} {stat.st_mtime_ns}"
        digest.update(f"{name}\0{content}\n".encode())
        if stat.st_size > 2**28:
            preparing(f"reading {file.name} to know it again", number, len(stats))
    cache.save()
    return digest.hexdigest()[:_DIGITS]


def _files(path: Path) -> list[Path]:
    """All files that an `id` stands for: of a folder, of a pattern; a list of records brings the pictures beside it."""
    if path.is_dir():
        return _files_in(path)
    found, beside = [path], path.parent
    if not path.is_file():
        beside = base_folder(str(path)) or path.parent
        roots = [root for root in local_roots(str(path), None) if not _of_a_home(root, beside)]
        found = [file for root in roots for file in (_files_in(root) if root.is_dir() else [root]) if file.is_file()]
    if any(file.name.endswith(RECORDS) for file in found):
        found += [file for file in files_below(beside) if file.suffix.lower() in _PICTURES]
    return sorted(set(found))


def _files_in(folder: Path) -> list[Path]:
    return [file for file in files_below(folder) if file.name not in _NO_CONTENT]


def _of_a_home(path: Path, base: Path) -> bool:
    """Whether it is a home below `base`, or lies in one: runs write there."""
    return any(is_home(folder) for folder in (path, *path.parents) if folder != base and folder.is_relative_to(base))


def _cached_commit(id: str, revision: str | None, data: bool) -> str:
    from huggingface_hub import constants

    for kind in ("datasets", "models") if data else ("models", "datasets"):
        refs = Path(constants.HF_HUB_CACHE) / f"{kind}--{id.replace('/', '--')}" / "refs"
        ref = refs / (revision or "main")
        if ref.is_file():
            return ref.read_text().strip()[:_DIGITS]
        if revision and (refs.parent / "snapshots" / revision).is_dir():
            return revision[:_DIGITS]
    raise AssetMissing(f"{id!r} is not in the hub cache of this machine")


class _Cache:
    """Digests of files by path, size, time and inode, kept in the home folder: a file is read once."""

    def __init__(self) -> None:
        self._home = Home.default()
        self._path = self._home.cache / "fingerprints.json"
        self._known = _read_cache(self._path)
        self._new: dict[str, str] = {}

    def digest(self, file: Path, stat: os.stat_result) -> str:
        key = f"{file.absolute()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
        found = self._known.get(key) or self._new.get(key)
        if found is None:
            found = file_sha256(file)
            if stat.st_size > 2**20:  # small files are read again faster than they are looked up
                self._new[key] = found
        return found

    def save(self) -> None:
        if not self._new:
            return
        self._known.update(self._new)
        self._new = {}
        if not self._home.root.is_dir():
            return  # who only looks makes no home
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, json.dumps(self._known, indent=0))
        except (OSError, VlmAblateError):
            pass  # it is only slower next time


@lru_cache(maxsize=4)
def _read_cache(path: Path) -> dict[str, str]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in body.items() if isinstance(v, str)} if isinstance(body, dict) else {}
