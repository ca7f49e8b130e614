"""Where experiment and scale files are found: in `experiments/` of the working directory, else those of the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
OWN = Path("experiments")
"""Relative to the working directory."""


def shipped_experiments() -> Path | None:
    """The experiments that came with the package: inside it where it was installed, beside it in a checkout."""
    places = (_PACKAGE / "experiments", _PACKAGE.parent / "experiments")
    return next((place for place in places if (place / "scales").is_dir()), None)


def experiments_root() -> Path:
    """The folder that `list`, `reproduce` and names of experiments mean; it need not be there."""
    return OWN if OWN.is_dir() else shipped_experiments() or OWN


def experiment_name(file: Path) -> str:
    """The file as people name it: `idefics2/t03_architecture`; a file outside of the folder by its path."""
    for root in (OWN, shipped_experiments()):
        if root is not None and file.is_relative_to(root):
            return str(file.relative_to(root).with_suffix(""))
    return str(file)
