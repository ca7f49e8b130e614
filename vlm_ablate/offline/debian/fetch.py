"""Fetching Debian packages as data: found or downloaded, checked, unpacked, described in a manifest. Nothing is
installed, and root rights are not needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vlm_ablate.errors import AssetMissing, DataError
from vlm_ablate.home import Home
from vlm_ablate.offline.debian import archive
from vlm_ablate.offline.debian.catalogue import MANIFEST, Package
from vlm_ablate.storage import file_sha256, locked, storage_errors

Progress = Callable[[str, int], None]
"""Hears what is being done and how many bytes of the .deb are there."""

_SCRATCH = ".partial"

ELSEWHERE = ("where apt-get is not, name a mirror of Debian with --mirror URL, or download the .deb files and pass "
             "their folder with --debs")


@dataclass(frozen=True)
class Fetched:
    """One package that lies on this machine."""

    package: Package
    version: str
    files: int
    fresh: bool
    """False when it was there before."""

    @property
    def as_tried(self) -> bool:
        """Whether it is the version in the catalogue, whose checksum was compared."""
        return self.version == self.package.version


def fetch(
    package: Package, *, home: Home | None = None, debs: Path | None = None, mirror: str | None = None,
    progress: Progress = lambda what, done: None,
) -> Fetched:
    """Make a package's files available; what is there already is left as it is.

    Args:
        package: of the catalogue.
        home: where to; None: the default home.
        debs: folder with .deb files, instead of a download.
        mirror: root of a Debian mirror, asked instead of apt-get.
        progress: hears of the download.

    Raises:
        AssetMissing: it cannot be had.
        DataError: what was had is not the package, or not what its version's checksum says.
        StorageError: the home cannot be written.
    """
    home = home or Home.default()
    if known := package.manifest(home):
        return Fetched(package, known["version"], known["files"], fresh=False)
    folder = package.folder(home)
    with storage_errors("write in", home.assets), _alone(folder, progress):
        if known := package.manifest(home):  # by whoever was waited for
            return Fetched(package, known["version"], known["files"], fresh=False)
        manifest = _fetch(package, folder, debs, mirror, progress)
    return Fetched(package, manifest["version"], manifest["files"], fresh=True)


@contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the package for this process, and clear away what killed ones left."""
    waiting = partial(progress, "waiting for another process that fetches it", 0)
    with locked(folder.parent / f".{folder.name}.lock", waiting):
        for left in folder.parent.glob(f".{folder.name}.?*{_SCRATCH}"):
            shutil.rmtree(left)
        yield


def _fetch(package: Package, folder: Path, debs: Path | None, mirror: str | None, progress: Progress) -> dict[str, Any]:
    """Find or download it, check and unpack it, and put it in place; gives its manifest."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{package.name}.", suffix=_SCRATCH) as scratch:
        if debs:
            deb = _from_folder(package, debs)
        elif mirror:
            deb = _from_mirror(package, mirror, Path(scratch), progress)
        else:
            deb = _from_apt(package, Path(scratch), progress)
        manifest = _check(package, deb)
        progress("unpacking", package.bytes)
        manifest["files"] = archive.unpack(deb, Path(scratch) / "files", package.keep)
        if not manifest["files"]:
            raise DataError(f"{package.name} {manifest['version']} holds none of {', '.join(package.keep)}")
        _put(Path(scratch) / "files", folder, manifest)
    return manifest


def _put(files: Path, folder: Path, manifest: dict[str, Any]) -> None:
    """Move into place; the manifest says that the folder is whole."""
    (files / MANIFEST).write_text(json.dumps(manifest, indent=1))
    if folder.exists():  # of an attempt that was killed: it has no manifest
        shutil.rmtree(folder)
    os.replace(files, folder)


def _check(package: Package, deb: Path) -> dict[str, Any]:
    """The manifest of a .deb file that is the package, and unharmed if its checksum is known."""
    fields, digest = archive.control(deb), file_sha256(deb)
    if fields.get("Package") != package.name:
        raise DataError(f"{deb}: this is the package {fields.get('Package')!r}, not {package.name!r}")
    if fields.get("Version") == package.version and digest != package.sha256:
        raise DataError(f"{deb.name}: the SHA-256 is {digest}, that of version {package.version} is {package.sha256}",
                        hint="the download is damaged or was changed; fetch it again")
    return {"package": package.name, "version": fields.get("Version", ""), "sha256": digest,
            "licence": package.licence, "attribution": package.attribution}


def _find(package: Package, folder: Path) -> Path | None:
    found = sorted(folder.glob(f"{package.name}_*.deb"))
    return found[-1] if found else None


def _from_folder(package: Package, debs: Path) -> Path:
    if not debs.is_dir():
        raise AssetMissing(f"{debs} is not a folder", hint="--debs names the folder of the .deb files")
    found = _find(package, debs)
    if found is None:
        raise AssetMissing(f"{debs} has no {package.name}_*.deb",
                           hint=f"it is {package.pool} on every mirror of Debian")
    return found


def _from_apt(package: Package, folder: Path, progress: Progress) -> Path:
    """Let apt-get download it: any user may, and it checks the signature of its index."""
    program = shutil.which("apt-get")
    if program is None:
        raise AssetMissing(f"{package.name} cannot be fetched: there is no apt-get", hint=ELSEWHERE)
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    process = subprocess.Popen([program, "download", package.name], cwd=folder, env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None:
            progress("downloading", sum(file.stat().st_size for file in folder.glob("*.deb*")))
            time.sleep(0.1)
    except BaseException:
        process.kill()
        raise
    message = (process.stderr.read() if process.stderr else "").strip()
    found = _find(package, folder)
    if process.returncode or found is None:
        last = next((line for line in reversed(message.splitlines()) if line.startswith("E:")), message[-200:])
        raise AssetMissing(f"apt-get could not download {package.name}: {last or 'no file came'}",
                           hint=f"`apt-get update` may help; {ELSEWHERE}")
    return found


def _from_mirror(package: Package, mirror: str, folder: Path, progress: Progress) -> Path:
    """Download the version in the catalogue, whose checksum is known."""
    import requests

    address = f"{mirror.rstrip('/')}/{package.pool}"
    path = folder / Path(package.pool).name
    try:
        with requests.get(address, stream=True, timeout=30) as answer, path.open("wb") as file:
            answer.raise_for_status()
            done = 0
            for piece in answer.iter_content(1 << 20):
                file.write(piece)
                done += len(piece)
                progress("downloading", done)
    except requests.RequestException as error:
        raise AssetMissing(f"{package.name} {package.version} cannot be fetched from {address}: {_why(error)}",
                           hint="name another mirror, or pass downloaded .deb files with --debs FOLDER") from error
    return path


def _why(error: Exception) -> str:
    """One phrase instead of the chain of causes that requests prints."""
    import requests

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return "the mirror has it no more (another release?)" if status == 404 else f"the mirror answers {status}"
    if isinstance(error, requests.Timeout):
        return "the mirror does not answer"
    return "there is no connection" if isinstance(error, requests.ConnectionError) else str(error)
