"""Where results are on disk. The disk is the one truth of what is done; a tracking store only shows it.

```
HOME/stages/KEY[.n]/          a trained stage
    stage.json                what went into its key, and fingerprints of the files that decided
    checkpoint-STEP-SHA.ckpt  the last two resumable checkpoints, while it trains; at a constant rate the last one stays
                              (`.shares`, a folder, of ranks that hold shares of the model)
    log.jsonl                 metrics against steps
    weights.safetensors       what training has made so far, all stages included
    outcome.json              how it ended
    curve/                    predictions of points along the way
    scores/KEY[.n]/           score.json and predictions.jsonl of one benchmark, asked in one way
HOME/runs/ID/                 an arm with a seed of an experiment: run.json points at keys; artifacts/, log.txt
    live.json                 while it runs: where, and how far it is; see `live.py`
    stop                      made by anyone: the run stops early, with a checkpoint
```

Whoever writes in a stage, a score or a run holds its lease (`.lease-N`, see `lease.py`).

`.n` tells variants of one key apart, whose files (weights, data, plug-ins) differed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, TypeVar

from vlm_ablate.errors import StorageError
from vlm_ablate.home import Home
from vlm_ablate.lease import Lease
from vlm_ablate.lease_files import Owner
from vlm_ablate.runs.fingerprints import agree
from vlm_ablate.runs.once import once
from vlm_ablate.sealed import sealed, unsealed
from vlm_ablate.storage import storage_errors, write_atomically

FORMAT = 2
_OLD_NAME = re.compile(r"[0-9a-f]{12}")


def read_json(path: Path | str) -> dict[str, Any] | None:
    """The mapping in a file; None when there is no such file. Within `looking_once` a file is read once.

    Raises:
        StorageError: it cannot be read, is damaged, or holds something else.
    """
    return once(("json", os.fspath(path)), partial(_read_json, path))


def _read_json(path: Path | str) -> dict[str, Any] | None:
    try:
        with open(path, "rb", buffering=0) as file:
            return unsealed(file.read())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{path} cannot be read: {error}", hint="move it away; what it told is made again"
        ) from error


def _fingerprints(manifest: str) -> dict[str, str] | None:
    body = _read_json(manifest)
    return None if body is None else body.get("fingerprints", {})


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """Write a mapping with its checksum, atomically."""
    write_atomically(path, sealed(body, indent=1) + "\n")


@dataclass(frozen=True)
class Keyed:
    """A folder that is named by a key and tells in a manifest what went into it."""

    root: Path
    manifest_name = "manifest.json"
    outcome_name = "outcome.json"
    outcome_fields: ClassVar[Mapping[str, type | UnionType]] = {"status": str}
    """What every outcome says."""

    @property
    def key(self) -> str:
        """The key, without the number of the variant."""
        return self.root.name.partition(".")[0]

    def manifest(self) -> dict[str, Any] | None:
        """What went into the key; None before `describe`."""
        return read_json(os.path.join(self.root, self.manifest_name))

    def fingerprints(self) -> dict[str, str] | None:
        """Those in the manifest, of the files that decided; None before `describe`."""
        file = os.path.join(self.root, self.manifest_name)
        return once(("fingerprints", file), partial(_fingerprints, file))

    def describe(self, body: Mapping[str, Any]) -> None:
        """Write the manifest."""
        with storage_errors("create", self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        write_json(self.root / self.manifest_name, {"format": FORMAT, "key": self.key, **body})

    def outcome(self) -> dict[str, Any] | None:
        """How it ended; None when it has not.

        Raises:
            StorageError: the file cannot be read, or does not say it.
        """
        file = os.path.join(self.root, self.outcome_name)
        return once(("outcome", file), partial(self._read_outcome, file))

    def _read_outcome(self, file: str) -> dict[str, Any] | None:
        body = _read_json(file)
        for name, kind in self.outcome_fields.items() if body is not None else ():
            if not isinstance((body or {}).get(name), kind):
                raise StorageError(f"{file} does not say `{name}`", hint="move it away; what it told is made again")
        return body

    def end(self, body: Mapping[str, Any]) -> None:
        """Record how it ended, last of all."""
        write_json(self.root / self.outcome_name, body)


Found = TypeVar("Found", bound=Keyed)


@contextmanager
def leased(
    find: Callable[[], Found], waiting: Callable[[Owner | None], None] | None = None, *, wait: bool = True
) -> Iterator[Found]:
    """Hold the lease of the folder that `find` names; another folder may be named once it is held.

    Args:
        waiting, wait: see `Lease.acquire`.

    Raises:
        LeaseHeld: another holds it, and `wait` is False.
        StorageError: it cannot be written.
    """
    while True:
        folder = find()
        with Lease.acquire(folder.root, waiting=waiting, wait=wait):
            if find().root == folder.root:
                yield folder
                return


@dataclass(frozen=True)
class ScoreFolder(Keyed):
    """One score."""

    manifest_name = "protocol.json"
    outcome_name = "score.json"
    outcome_fields = {"column": str, "score": int | float, "blind": bool}

    @property
    def predictions(self) -> Path:
        """Predictions, written as the evaluation goes."""
        return self.root / "predictions.jsonl"

    def _read_outcome(self, file: str) -> dict[str, Any] | None:
        """Without scores by item of the blind and of those told in words: they are much, and nobody asks for them."""
        body = super()._read_outcome(file)
        if body is not None and (body["blind"] or body.get("described")):
            body.pop("item_scores", None)
        return body


@dataclass(frozen=True)
class StageFolder(Keyed):
    """One trained stage."""

    manifest_name = "stage.json"

    @property
    def weights(self) -> Path:
        """What training made, all stages so far included."""
        return self.root / "weights.safetensors"

    @property
    def log(self) -> Path:
        """Metrics against steps."""
        return self.root / "log.jsonl"

    @property
    def curve(self) -> Path:
        """Predictions of points along the way."""
        return self.root / "curve"

    @cached_property
    def scores(self) -> Path:
        """Parent of the scores of these weights."""
        return self.root / "scores"

    @property
    def done(self) -> bool:
        """Whether it has ended for good: finished or diverged."""
        return self.outcome() is not None

    def score(self, key: str, fingerprints: Mapping[str, str]) -> ScoreFolder:
        """The folder of a score, there or not; of several that agree, as of files that are gone, the last."""
        begun: ScoreFolder | None = None
        for folder in reversed(variants(self.scores, key)):
            found = ScoreFolder(folder)
            theirs = found.fingerprints()
            if theirs is None:
                begun = found
            elif agree(fingerprints, theirs):
                return found
        return begun or ScoreFolder(fresh(self.scores, key))


@dataclass(frozen=True)
class RunFolder:
    """An arm with a seed of one experiment."""

    root: Path

    @property
    def file(self) -> Path:
        """The run as it was asked for, the keys that it points at, how it ended."""
        return self.root / "run.json"

    @property
    def artifacts(self) -> Path:
        """Files for people, and for a tracking store."""
        return self.root / "artifacts"

    @property
    def live(self) -> Path:
        """Where the run is now, while it goes."""
        return self.root / "live.json"

    @property
    def stop(self) -> Path:
        """A file that asks the run to stop early."""
        return self.root / "stop"

    @property
    def output(self) -> Path:
        """What the run printed."""
        return self.root / "log.txt"

    @property
    def published(self) -> Path:
        """Parent of the notes on what tracking stores have been given."""
        return self.root / "published"

    def prepare(self) -> None:
        """Create the folders.

        Raises:
            StorageError: they cannot be created.
        """
        with storage_errors("create", self.root):
            self.artifacts.mkdir(parents=True, exist_ok=True)

    def read(self) -> dict[str, Any] | None:
        """What `write` wrote; None when it never got so far."""
        return read_json(self.file)

    def write(self, body: Mapping[str, Any]) -> None:
        """Record the run, atomically."""
        write_json(self.file, {"format": FORMAT, **body})


def run_folder(home: Home, id: str) -> RunFolder:
    """The folder of the run with that id."""
    return RunFolder(home.runs / id)


def variants(parent: Path, key: str) -> list[Path]:
    """Folders of a key, in the order in which they were made."""
    entries = once(("variants", os.fspath(parent)), partial(_entries, parent)).get(key, ())
    numbered = {_number(entry.name, key): parent / entry.name for entry in entries if entry.is_dir()}
    return [numbered[number] for number in sorted(numbered) if number]


def _entries(parent: Path) -> dict[str, list[os.DirEntry[str]]]:
    """Key -> what is below a parent under names of its folders, folders or not."""
    found: dict[str, list[os.DirEntry[str]]] = {}
    try:
        with os.scandir(parent) as entries:
            for entry in entries:
                found.setdefault(entry.name.partition(".")[0], []).append(entry)
    except OSError:
        pass
    return found


def fresh(parent: Path, key: str) -> Path:
    """The folder that the next variant of a key gets."""
    number = max((_number(folder.name, key) for folder in variants(parent, key)), default=0) + 1
    return parent / (key if number == 1 else f"{key}.{number}")


def _number(name: str, key: str) -> int:
    """1 for `KEY`, n for `KEY.n`, 0 for anything else."""
    rest = name.removeprefix(key)
    return 1 if not rest else int(rest[1:]) if rest[1:].isdecimal() else 0


def find_stage(home: Home, key: str, fingerprints: Mapping[str, str], before: str | None) -> StageFolder:
    """The folder of a stage, there or not; of several that agree, as of files that are gone, the last.

    Args:
        key: of the stage.
        fingerprints: of the files that decide; what is unknown on one side agrees.
        before: name of the folder of the stage before, whose weights this one starts from.
    """
    begun: StageFolder | None = None
    for folder in reversed(variants(home.stages, key)):
        found = StageFolder(folder)
        manifest = found.manifest()
        if manifest is None:
            begun = found
        elif manifest.get("before") == before and agree(fingerprints, manifest.get("fingerprints", {})):
            return found
    return begun or StageFolder(fresh(home.stages, key))


def folders_of_version_01(home: Home) -> list[Path]:
    """Runs that version 0.1 of this package left in a home; see `migrate.py`."""
    folders = sorted(home.runs.iterdir()) if home.runs.is_dir() else []
    named = [folder for folder in folders if _OLD_NAME.fullmatch(folder.name)]
    return [folder for folder in named if (folder / "artifacts").is_dir() and not (folder / "run.json").exists()]
