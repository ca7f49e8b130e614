"""The recipe of a stand-in beside its weights: settings, sources with licences and checksums, and one hash."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from vlm_ablate.provenance import AssetRecord
from vlm_ablate.storage import file_sha256

STANDINS = Path(str(files("vlm_ablate"))) / "assets" / "standins"


def write_recipe(folder: Path, settings: dict[str, Any], sources: list[AssetRecord], measured: dict[str, Any]) -> str:
    """Write `recipe.json` into `folder`; returns the recipe's hash (of settings and sources, not of measurements)."""
    body = {"settings": settings, "sources": [s.to_dict() for s in sources]}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    weights = {p.name: file_sha256(p) for p in sorted(folder.glob("*.safetensors"))}
    text = json.dumps({"hash": digest, **body, "measured": measured, "weights_sha256": weights}, indent=2)
    (folder / "recipe.json").write_text(text + "\n")
    return digest
