"""Where the commands look for runs and records."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm_ablate.home import Home


def open_home(folder: str | None) -> Home:
    """The home named on the command line, or the default one. Nothing is created."""
    from pathlib import Path

    from vlm_ablate.home import Home

    return Home(Path(folder).absolute()) if folder else Home.default()
