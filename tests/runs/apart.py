"""A plug-in with squares of which a rank that follows finds fewer than the first: an older copy of the files."""

from __future__ import annotations

import sys
from typing import Literal

from training.squares import SquareSource, SquareSourceConfig

from vlm_ablate.registry import sources


class ApartConfig(SquareSourceConfig):
    """As squares."""

    name: Literal["apart"] = "apart"  # type: ignore[assignment]  # its own


@sources.register("apart", ApartConfig)
class Apart(SquareSource):
    """See above."""

    def __init__(self, config: ApartConfig) -> None:
        fewer = config.rows // 2 if sys.argv[0].endswith("follow.py") else config.rows
        super().__init__(config.model_copy(update={"rows": fewer}))
