"""The tasks on composed pictures, by name: what the source `offline` and the benchmarks `offline_*` share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

TaskName = Literal[
    "vqa", "knowledge", "reading", "captions", "pages",                 # of what pip packages carry
    "cutouts", "stamps", "clip_art", "maps", "capitals", "documents",   # and Debian packages: `vlm-ablate data fetch`
]


def _some(tasks: dict[str, float]) -> dict[str, float]:
    if not any(tasks.values()):
        raise ValueError("no task has a share above 0")
    return tasks


Tasks = Annotated[dict[TaskName, Annotated[float, Field(ge=0)]], AfterValidator(_some)]
"""Task -> share; 0 leaves a task out."""
