"""A plug-in with squares of which a rank that follows gets so many only, until a file is there: so it can be killed
in the middle of training."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Literal

from training.squares import SquareSource, SquareSourceConfig

from vlm_ablate.data.sample import Sample
from vlm_ablate.registry import sources

GATE = "VLM_ABLATE_TEST_GATE"
"""Environment variable: the file; without it nobody waits."""
READ = 11
"""Samples that a rank reads before it waits: of two ranks and batches of four, it is in the sixth step then."""


class GatedConfig(SquareSourceConfig):
    """As squares."""

    name: Literal["gated"] = "gated"  # type: ignore[assignment]  # its own


@sources.register("gated", GatedConfig)
class Gated(SquareSource):
    """See above."""

    _read = 0

    def __getitem__(self, index: int) -> Sample:
        self._read += 1
        gate = os.environ.get(GATE)
        while gate and self._read > READ and sys.argv[0].endswith("follow.py") and not Path(gate).exists():
            time.sleep(0.02)
        return super().__getitem__(index)
