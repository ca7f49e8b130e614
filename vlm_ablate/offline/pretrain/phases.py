"""Weights after each finished phase of a pretraining, so that an interrupted one goes on with the next phase."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from vlm_ablate.home import Home
from vlm_ablate.storage import storage_errors

Measured = dict[str, float]
"""Name of a figure (loss, accuracy, seconds) -> its value."""


def phase(model: nn.Module, name: str, settings: dict[str, Any], train: Callable[[], Measured]) -> Measured:
    """Train `model` in place by calling `train`, or load what the same phase left when it was run before.

    The code is no part of `settings`: whoever changes it removes the `pretrain` folder of the cache.

    Args:
        model: has the weights that the phase before left.
        name: of the phase, part of the file's name.
        settings: everything that decides the weights after this phase, those of earlier phases included.
        train: trains and returns what it measured; the seconds that it took are added.

    Raises:
        StorageError: the cache folder cannot be written.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
    path = Home.default().cache / "pretrain" / f"{name}-{digest}.safetensors"
    if path.exists():
        load_model(model, path)
        with safe_open(path, "pt") as file:
            kept: Measured = json.loads(file.metadata()["measured"])
            return kept
    started = time.perf_counter()
    measured = train()
    measured[f"{name.rsplit('-', 1)[-1]}_seconds"] = round(time.perf_counter() - started)
    with storage_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as aside:
            partial = Path(aside) / path.name
            save_model(model, str(partial), metadata={"measured": json.dumps(measured)})
            partial.rename(path)
    return measured
