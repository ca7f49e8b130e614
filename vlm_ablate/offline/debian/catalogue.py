"""Which Debian packages are read, and where they lie once fetched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from vlm_ablate.errors import AssetMissing
from vlm_ablate.home import Home
from vlm_ablate.provenance import AssetRecord

Collection = Literal["stamps", "clip_art", "maps", "documents", "wordnet"]
COLLECTIONS: tuple[Collection, ...] = get_args(Collection)

MANIFEST = "manifest.json"
"""Beside a package's files; written last, so that a folder with one is whole."""


@dataclass(frozen=True)
class Package:
    """One package: what was tried, under which terms, and what of it is kept."""

    name: str
    collection: Collection
    version: str
    pool: str
    """Path below a mirror's root."""
    bytes: int
    sha256: str
    licence: str
    attribution: str
    keep: tuple[str, ...]
    """Patterns of the files to unpack; `*` stands for folders too."""

    def folder(self, home: Home | None = None) -> Path:
        """Where its files lie, below which they keep the paths that they have in the package."""
        return (home or Home.default()).assets / "debian" / self.name

    def manifest(self, home: Home | None = None) -> dict[str, Any] | None:
        """What was fetched: version, SHA-256 of the .deb, number of files; None where it was not."""
        path = self.folder(home) / MANIFEST
        try:
            return _manifest(path, path.stat().st_mtime_ns)
        except (FileNotFoundError, NotADirectoryError):
            return None


@lru_cache(maxsize=64)
def _manifest(path: Path, changed: int) -> dict[str, Any]:
    """Asked for with every picture that is drawn, so read once; `changed` tells a new one from the old."""
    manifest: dict[str, Any] = json.loads(path.read_text())
    return manifest


@cache
def _listing() -> dict[Collection, dict[str, Any]]:
    listing: dict[Collection, dict[str, Any]] = yaml.safe_load((files("vlm_ablate") / "assets/debian.yaml").read_text())
    return listing


@cache
def catalogue() -> dict[str, Package]:
    """Name -> package, of all collections."""
    found = {}
    for collection, entry in _listing().items():
        for name, fields in entry["packages"].items():
            found[name] = Package(name, collection, **{**fields, "keep": tuple(fields["keep"])})
    return found


def packages(collection: Collection) -> list[Package]:
    """The packages of a collection."""
    return [package for package in catalogue().values() if package.collection == collection]


def summary(collection: Collection) -> str:
    """One line that says what a collection holds."""
    return str(_listing()[collection]["summary"])


def require(*collections: Collection) -> None:
    """Make sure that collections are here.

    Raises:
        AssetMissing: some package was not fetched; the message gives the command that fetches all of them.
    """
    missing = [p for c in collections for p in packages(c) if p.manifest() is None]
    if missing:
        wanted = list(dict.fromkeys(p.collection for p in missing))
        names = " and ".join(", ".join(c.replace("_", " ") for c in wanted).rsplit(", ", 1))
        raise AssetMissing(
            f"{names} are not on this machine: {', '.join(p.name for p in missing)} "
            f"{'were' if len(missing) > 1 else 'was'} not fetched",
            hint=f"run `vlm-ablate data fetch {' '.join(wanted)}`",
        )


def folders(collection: Collection) -> list[Path]:
    """The folders of a collection's fetched packages, in the catalogue's order.

    Raises:
        AssetMissing: one was not fetched; the message gives the command that fetches it.
    """
    require(collection)
    return [package.folder() for package in packages(collection)]


def licence_records(collection: Collection) -> list[AssetRecord]:
    """Provenance of a collection: version and SHA-256 are those of the fetched .deb files.

    Raises:
        AssetMissing: one was not fetched.
    """
    require(collection)
    records = []
    for package in packages(collection):
        manifest = package.manifest() or {}
        records.append(AssetRecord(collection.replace("_", " "), package.name, manifest["version"], package.licence,
                                   package.attribution, manifest["sha256"]))
    return records
