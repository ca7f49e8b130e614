"""Finding the files of a local data set: by ending, beside what else lies in a folder, and by split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from vlm_ablate.data.sources.lines import ENDINGS as LINE_ENDINGS
from vlm_ablate.errors import DataError
from vlm_ablate.home import files_below

ENDINGS = {"parquet": (".parquet",), "jsonl": LINE_ENDINGS, "webdataset": (".tar", ".tar.gz", ".tgz")}
_NOTES = {"dataset_info.json", "dataset_infos.json", "state.json", "sizes.json"}
"""Files about a data set that hold no records."""
SPLIT_NAMES = ("train", "val", "test", "dev")
"""Files whose names begin so are of that split and stand for no other."""
_OTHER_NAMES = (*SPLIT_NAMES, "validation")
_SHOWN = 12


def local_roots(id: str, subset: str | None) -> list[Path]:
    """What a local id names: a folder (of the subset, if it has one), a file, or all that a glob matches."""
    path = Path(id).expanduser()
    if subset and (path / subset).is_dir():
        path = path / subset
    if path.exists():
        return [path]
    return [Path(p) for p in sorted(glob(str(path), recursive=True))]


def files_of(roots: Sequence[Path]) -> list[Path]:
    """All files of folders, in the order of their names, but hidden ones and those that runs wrote."""
    every = (files_below(root) if root.is_dir() else [root] for root in roots)
    return [file for found in every for file in found if file.is_file()]


def records_files(found: Sequence[Path], format: str, where: str) -> tuple[str, list[Path]]:
    """(format, files that hold records).

    Shards of img2dataset have a Parquet file and statistics of the same name beside them: the shards are taken.

    Raises:
        DataError: there are none, or of two formats so that one must be named.
    """
    kinds = list(ENDINGS) if format == "auto" else [format]
    by_kind = {kind: [f for f in found if f.name.endswith(ENDINGS[kind]) and f.name not in _NOTES] for kind in kinds}
    by_kind = {kind: files for kind, files in by_kind.items() if files}
    if shards := by_kind.get("webdataset"):
        stems = tuple(str(shard.parent / shard.name.partition(".")[0]) for shard in shards)
        rest = (f for kind, files in by_kind.items() if kind != "webdataset" for f in files)
        others = [f for f in rest if not str(f).startswith(stems)]
        if others:
            raise DataError(
                f"{where} holds records of several formats: {listing([*shards, *others])}",
                hint="set `format` to one of them: " + ", ".join(by_kind),
            )
        return "webdataset", shards
    for kind, files in by_kind.items():
        return kind, files
    raise DataError(
        f"{where} holds no {' or '.join(kinds)} files; found: {listing(found)}",
        hint="set `format`, or point `id` at Parquet, JSON lines or tar files",
    )


def of_split(files: Sequence[Path], roots: Sequence[Path], split: str, where: str) -> list[Path]:
    """The files whose folder, or else whose name, is called as the split or begins so; all where splits are not told.

    Of a folder that begins so (`training_set`), files that are called as another split are not of this one.

    Raises:
        DataError: a folder has files of other splits, and none of this one.
    """
    folders = {file: _below(file, roots)[:-1] for file in files}
    names = {file: (file.name,) for file in files}
    for parts in (folders, names):
        for fits in (_is_called, str.startswith):
            if found := [file for file in files if any(fits(part, split) for part in parts[file])]:
                unlike = [name for name in _OTHER_NAMES if not name.startswith(split) and not split.startswith(name)]
                own = [f for f in found if split in folders[f] or not any(_is_called(f.name, name) for name in unlike)]
                return own or found
    others = [file for file in files if any(part.startswith(SPLIT_NAMES) for part in (*folders[file], file.name))]
    if others and any(root.is_dir() for root in roots):
        raise DataError(
            f"{where} has no files of the split {split!r}; found: {listing(others)}",
            hint="set `split`, or point `id` at the files themselves",
        )
    return list(files)


def _is_called(part: str, split: str) -> bool:
    """Whether a folder or a file is called so, with or without more behind it: `test-00.parquet`, not `testmini`."""
    return part.startswith(split) and not part[len(split) : len(split) + 1].isalnum()


def listing(files: Sequence[Path]) -> str:
    """Some files by name, for a message."""
    names = list(dict.fromkeys(f.name for f in files))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing"


def base_folder(id: str) -> Path | None:
    """The folder that the records of a local id may reach into: itself, a file's, or the fixed part of a glob.

    None for what is not on this machine by that name: a hub id.
    """
    path = Path(id).expanduser()
    if path.is_dir():
        return path
    if not path.exists() and not glob(str(path), recursive=True):
        return None
    fixed = list(path.parts[:-1])
    while any(has_magic(part) for part in fixed):
        fixed.pop()
    return Path(*fixed)


def reached(folder: Path | None, name: str, field: str) -> Path:
    """The file that a record names: relative to its data's folder, and nowhere else. Links below it are followed, as
    whoever made the folder put them there.

    Without a folder (data of the hub) it must lie where `datasets` keeps what it downloaded.

    Raises:
        DataError: it lies elsewhere.
    """
    roots = [os.path.abspath(folder)] if folder is not None else _hub_caches()
    for root in roots:
        path = os.path.normpath(os.path.join(root, name))
        if os.path.commonpath([root, path]) == root and "\0" not in name:
            return Path(path)
    raise DataError(
        f"{field} is {name!r}, which lies outside {folder or 'the downloaded data'}",
        hint="records reach only files below their data's folder; move the files, or set `id` to a folder above both",
    )


def _hub_caches() -> list[str]:
    import datasets

    return [os.path.abspath(p) for p in (datasets.config.HF_DATASETS_CACHE, datasets.config.HF_CACHE_HOME)]


def _below(file: Path, roots: Sequence[Path]) -> tuple[str, ...]:
    for root in roots:
        if root.is_dir() and file.is_relative_to(root):
            return file.relative_to(root).parts
    return (file.name,)
