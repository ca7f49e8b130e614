"""How a released checkpoint prepares its images, and what it is recorded as."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_ablate.checkpoints.assemblies import parts_of
from vlm_ablate.config.data import MAX_TILES, ImageConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.models.pretrained import OWN_DESCRIPTION, is_own_checkpoint, read_config, resolve, tensor_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
_TILED = ("idefics3", "smolvlm")


def assembly_of(config: PretrainedConfig, folder: Path) -> tuple[ModelConfig, ImageConfig]:
    """Our assembly of a checkpoint folder, its weights included (`init_from`), and how its processor prepares images.

    Raises:
        ModelError: it is of a family, or a variant of one, that is no assembly of ours.
    """
    return ModelConfig.model_validate(parts_of(config, str(folder))), image_config(config, folder)


def image_config(config: PretrainedConfig, folder: Path) -> ImageConfig:
    """What the folder says of its image processor; without that, squares of the size of the vision tower's table."""
    said = _image_processor(folder)
    side = config.vision_config.image_size
    size, filter_ = said.get("size") or {}, {"resample": _FILTERS.get(said.get("resample"), "auto")}
    if config.model_type in _TILED and "longest_edge" in size and said.get("do_image_splitting", True):
        tile = (said.get("max_image_size") or {}).get("longest_edge", side)
        return ImageConfig(split="tiles", tile=tile, size=min(size["longest_edge"], MAX_TILES * tile), **filter_)
    if config.model_type == "idefics2" and "longest_edge" in size:
        split = "crops" if said.get("do_image_splitting") else "none"
        least = size.get("shortest_edge")
        return ImageConfig(resize="native", size=size["longest_edge"], shortest=least, split=split, **filter_)
    if size.get("height") and size.get("height") == size.get("width"):
        side = size["height"]
    return ImageConfig(size=side, **filter_)


def _image_processor(folder: Path) -> dict[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            said = json.loads((folder / name).read_text())
            said = said.get("image_processor", said)
            if "size" in said:
                return said
    return {}


def started_from(id: str) -> dict[str, Any]:
    """What a run records of the checkpoint that its model starts from.

    Raises:
        AssetMissing: it is not on this machine.
    """
    return {"id": id, **fingerprint(resolve(id))}


def fingerprint(folder: Path) -> dict[str, Any]:
    """The kind of a checkpoint, and a hash of its configuration and tensor files.

    Of each file the header (names, types, shapes), the size and 64 samples of its content are hashed: other weights
    show, and a checkpoint of any size takes less than a second.
    """
    digest = hashlib.sha256()
    files = [file for file in (folder / "config.json", folder / OWN_DESCRIPTION) if file.is_file()]
    for file in files:
        digest.update(file.read_bytes())
    for file in sorted(folder.rglob("*.safetensors")) or tensor_files(folder):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder)} {size}".encode())
        with file.open("rb") as opened:
            header = int.from_bytes(opened.read(8), "little")
            digest.update(opened.read(min(header, size)))
            for sample in range(64):
                opened.seek(sample * size // 64)
                digest.update(opened.read(4096))
    kind = "vlm_ablate" if is_own_checkpoint(folder) else read_config(str(folder), planning=True).model_type
    return {"type": kind, "sha256": digest.hexdigest()[:16]}
