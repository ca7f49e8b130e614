"""Launchers: configuration, and which there are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.registry import launchers


class LocalConfig(ComponentConfig, decides="execution"):
    """Worker processes of this machine: one a GPU, or one a core."""

    name: Literal["local"] = "local"
    jobs: int | None = Field(None, gt=0)
    """Runs at a time; None: one for each GPU, or without GPUs for each core."""
    threads: int = Field(1, gt=0)
    """Threads of one CPU operation in a worker. The last digits of a result depend on it."""


launchers.declare("local", LocalConfig, "vlm_ablate.launch.local:LocalLauncher")
