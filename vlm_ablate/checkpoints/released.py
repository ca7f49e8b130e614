"""How a released checkpoint prepares its images, and what it is recorded as."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_ablate.checkpoints.families.known import family_of, parts_of
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.models.pretrained import (
    OWN_DESCRIPTION,
    image_processor_of,
    is_own_checkpoint,
    read_config,
    resolve,
    tensor_files,
)
from vlm_ablate.models.released import ADAPTER_CONFIG, adapter_folder

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def assembly_of(config: PretrainedConfig, folder: Path, *, id: str | None = None) -> tuple[ModelConfig, ImageConfig]:
    """Our assembly of a checkpoint folder, its weights included (`init_from`), and how its processor prepares images.

    Args:
        id: what its parts are known by, e.g. the hub id of the folder; None: the folder.

    Raises:
        ModelError: it is of a family, or a variant of one, that is no assembly of ours.
    """
    return ModelConfig.model_validate(parts_of(config, id or str(folder))), image_config(config, folder)


def image_config(config: PretrainedConfig, folder: Path) -> ImageConfig:
    """What the folder says of its image processor; without that, squares of the size of the vision tower's table.

    Raises:
        ModelError: it is of no family that is known, or prepares images in a way that is none of ours.
    """
    return family_of(config, str(folder)).images(config, _image_processor(folder))


def processor_unlike(config: PretrainedConfig, folder: Path) -> str:
    """What the folder's image processor does that `image_config` does not reproduce, in words; "" for nothing."""
    return family_of(config, str(folder)).unlike(_image_processor(folder))


def _image_processor(folder: Path) -> dict[str, Any]:
    said = image_processor_of(folder)
    return said if "size" in said else {}


def started_from(id: str) -> dict[str, Any]:
    """What a run records of the checkpoint that its model starts from.

    Raises:
        AssetMissing: it is not on this machine.
    """
    return {"id": id, **fingerprint(resolve(id))}


def fingerprint(folder: Path) -> dict[str, Any]:
    """The kind of a checkpoint, and a hash of its configuration, that of adapters beside it, and its tensor files.

    Of each file the header (names, types, shapes), the size and 64 samples of its content are hashed: other weights
    show, and a checkpoint of any size takes less than a second.
    """
    digest = hashlib.sha256()
    adapters = adapter_folder(folder) or folder
    told = (folder / "config.json", folder / OWN_DESCRIPTION, adapters / ADAPTER_CONFIG)
    files = [file for file in told if file.is_file()]
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
