"""The folder where runs, records and caches are kept. No torch here."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vlm_ablate.errors import StorageError
from vlm_ablate.storage import HOME_VARIABLE, storage_errors

DEFAULT_FOLDER = "outputs"
_OF_ADDRESSES = re.compile(r"[?]|%[0-9a-fA-F]{2}")
MINIMUM_FREE = 200 * 2**20
"""Bytes that must be free before a run starts."""


def files_below(folder: Path) -> list[Path]:
    """All files of a folder, in the order of their names, but hidden ones and those of a home, which runs write.

    Links to folders are followed, as large data often lie on another disk; each folder is looked through once.
    """
    found: list[Path] = []
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True):
        below = sorted(name for name in folders if name[0] != "." and not is_home(Path(place, name)))
        folders.clear()
        for name in below:
            real = os.path.realpath(os.path.join(place, name))
            folders += [name] if real not in seen else []
            seen.add(real)
        found += [file for name in names if name[0] != "." and (file := Path(place, name)).is_file()]
    return sorted(found)


def is_home(folder: Path) -> bool:
    """Whether it is a folder in which runs were kept."""
    return (folder / "stages").is_dir() and (folder / "runs").is_dir()


@dataclass(frozen=True)
class Home:
    """The folder that holds the tracking store, artifacts, run folders and caches."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        """`$VLM_ABLATE_HOME`, or `outputs` in the current folder."""
        return cls(Path(os.environ.get(HOME_VARIABLE) or DEFAULT_FOLDER).absolute())

    @classmethod
    def at(cls, folder: str | None) -> Home:
        """The home that is named, or the default one. Nothing is created.

        Raises:
            StorageError: no folder can have such a name, or be looked into.
        """
        try:
            home = cls(Path(folder).absolute()) if folder else cls.default()
            with storage_errors("look into", home.root):
                home.database.exists()
        except (OSError, ValueError) as error:
            raise StorageError(f"the home folder {str(folder)[:60]!r} cannot be used: {error}") from error
        home.check_name()
        return home

    @contextmanager
    def as_default(self) -> Iterator[None]:
        """Within the block it is the default one: fetched material and caches are there, too, for this process and
        those that it starts."""
        before = os.environ.get(HOME_VARIABLE)
        os.environ[HOME_VARIABLE] = str(self.root)
        try:
            yield
        finally:
            os.environ.pop(HOME_VARIABLE, None)
            if before is not None:
                os.environ[HOME_VARIABLE] = before

    def check_name(self) -> None:
        """Raises StorageError for a path that the tracking store would take for another one: its address is a URI, of
        which a part is decoded and a part is not."""
        found = _OF_ADDRESSES.search(str(self.root))
        if found:
            raise StorageError(
                f"the home folder {str(self.root)!r} has {found[0]!r} in its path, which means something else in the"
                " address of its tracking store",
                hint=f"name another folder with --home or {HOME_VARIABLE}",
            )

    @property
    def database(self) -> Path:
        """SQLite file of the local tracking store."""
        return self.root / "mlflow.db"

    @property
    def tracking_uri(self) -> str:
        """URI of the local tracking store."""
        return f"sqlite:///{self.database}"

    @property
    def artifacts(self) -> Path:
        """Root of the local store's artifacts."""
        return self.root / "artifacts"

    @property
    def runs(self) -> Path:
        """Parent of all run folders."""
        return self.root / "runs"

    @property
    def stages(self) -> Path:
        """Parent of the folders of trained stages, with their scores."""
        return self.root / "stages"

    @property
    def launches(self) -> Path:
        """Parent of the folders through which runs are handed to other machines, while they go."""
        return self.root / "launches"

    @property
    def assets(self) -> Path:
        """Pictures and documents that were fetched."""
        return self.root / "assets"

    @property
    def cache(self) -> Path:
        """What can be thrown away and made again."""
        return self.root / "cache"

    def prepare(self, minimum_free: int = MINIMUM_FREE) -> Home:
        """Create the folders; prove that they take writes and that `minimum_free` bytes are free. Cheap: call it first.

        Raises:
            StorageError: a read-only folder, a full disk, or too little free space.
        """
        self.check_name()
        with storage_errors("create", self.root):
            for folder in (self.root, self.artifacts, self.runs, self.stages, self.cache):
                folder.mkdir(parents=True, exist_ok=True)
        with storage_errors("write in", self.root), tempfile.TemporaryFile(dir=self.root) as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
        free = shutil.disk_usage(self.root).free
        if free < minimum_free:
            raise StorageError(
                f"only {free / 2**20:.0f} MiB are free under {self.root}, {minimum_free / 2**20:.0f} MiB are needed",
                hint=f"free space, or name another folder with {HOME_VARIABLE}",
            )
        return self
