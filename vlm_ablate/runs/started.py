"""What a run records of where its model's weights came from."""

from __future__ import annotations

from typing import Any

from vlm_ablate.checkpoints.released import started_from
from vlm_ablate.config.model import WHOLE, ModelConfig
from vlm_ablate.home import Home
from vlm_ablate.runs.starts import digest_of, run_named, stage_of


def started(model: ModelConfig, home: Home) -> dict[str, Any]:
    """Of the whole: id, kind and hash; of parts: these by part. Empty where it starts from its parts' own files.

    Raises:
        AssetMissing: a checkpoint is not on this machine.
        UnknownNameError: a run is not in the home.
    """
    told = {part: _told(id, home) for part, id in model.starts.items()}
    return told.get(WHOLE, told)


def _told(id: str, home: Home) -> dict[str, Any]:
    name = run_named(id)
    if name is None:
        return started_from(id)
    stage = stage_of(name, home)
    return {"id": id, "type": "run", "stage": stage.root.name, "sha256": digest_of(stage)}
