"""`vlm-ablate plan FILE`: placeholder until accounting is imported lazily below."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_ablate.cli.console import ArmsOption, ScaleOption, SetOption


def plan(
    file: Annotated[Path, typer.Argument(help="Experiment file.")],
    scale: ScaleOption = "laptop",
    arms: ArmsOption = None,
    sets: SetOption = None,
) -> None:
    """What would be run, before paying for it."""
