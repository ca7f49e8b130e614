"""Finding the data packages of the `offline` extra, and what must be said of each: version, licence, checksum.

The packages are read as data; none of their code is imported.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path

from vlm_ablate.errors import AssetMissing

INSTALL = "run `make assets`, or `pip install 'vlm_ablate[offline]'`"
"""What brings the packages."""


@cache
def package_root(package: str, folder: str) -> Path:
    """The installed folder `folder` of distribution `package`, without importing it.

    Raises:
        AssetMissing: the distribution is not installed; the message gives the command that installs it.
    """
    try:
        root = Path(str(metadata.distribution(package).locate_file(folder)))
    except metadata.PackageNotFoundError:
        root = None
    if root is None or not root.exists():
        raise AssetMissing(f"the data package {package!r} is not installed", hint=INSTALL)
    return root


@cache
def package_version(package: str) -> str:
    """Version of an installed distribution."""
    return metadata.version(package)


@cache
def folder_sha256(root: Path, pattern: str) -> str:
    """SHA-256 over the sorted names and sizes of the files below `root` that match `pattern`."""
    digest = hashlib.sha256()
    for path in sorted(root.glob(pattern)):
        digest.update(f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n".encode())
    return digest.hexdigest()
