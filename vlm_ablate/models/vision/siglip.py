"""SigLIP with Idefics2's variable resolution: position ids are bucketed fractions of the view's own grid."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import Idefics2VisionConfig, PretrainedConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.errors import ModelError
from vlm_ablate.models.pretrained import config_folder, read_config, read_tensors, tensor_names
from vlm_ablate.models.vision.base import VisionEncoder, VisionFeatures
from vlm_ablate.models.vision.configs import SiglipNativeConfig
from vlm_ablate.models.vision.hf import normalisation
from vlm_ablate.models.vision.inside import TOWER_FIELDS
from vlm_ablate.models.vision.patches import patch_mask

_POSITIONS = "embeddings.position_embedding.weight"


class NativeSiglip(VisionEncoder):
    """transformers' `Idefics2VisionTransformer` (Idefics3's is the same function) with a rule of patch validity."""

    backbone: Idefics2VisionTransformer
    patch_size: int

    def __init__(
        self,
        config: ComponentConfig,
        *,
        device: torch.device | str = "cpu",
        image_size: int | None = None,
        load_weights: bool = True,
    ) -> None:
        super().__init__(config, device=device, image_size=image_size, load_weights=load_weights)
        self.patches: Literal["full", "any"] = "full"

    def assemble(self, vision_config: Idefics2VisionConfig, tensors: dict[str, Tensor] | None, *, meta: bool) -> None:
        """Build the backbone; `tensors` None leaves it as initialised.

        Raises:
            ModelError: the tensors do not fit the configuration.
        """
        with torch.device("meta" if meta else "cpu"):
            self.backbone = Idefics2VisionTransformer._from_config(vision_config, dtype=torch.float32)
        self.width = vision_config.hidden_size
        self.patch_size = cast(int, vision_config.patch_size)  # transformers has room for two sides; SigLIP has one
        if tensors is not None:
            load_tower(self.backbone, tensors)

    @property
    def sees_padding(self) -> bool:  # type: ignore[override]  # by configuration
        """Patches that are padded in part count with the rule "any"; with "full" a view keeps its own patches only."""
        return self.patches == "any"

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self.patch_size, width // self.patch_size

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None) -> VisionFeatures:
        rows, columns = self.grid(*pixel_values.shape[-2:])
        if pixel_mask is None:
            mask = torch.ones(len(pixel_values), rows, columns, dtype=torch.bool, device=pixel_values.device)
        else:
            mask = patch_mask(pixel_mask, self.patch_size, self.patches)
        states = self.backbone(pixel_values=pixel_values, patch_attention_mask=mask).last_hidden_state
        return VisionFeatures(states, None if pixel_mask is None else mask.flatten(1), (rows, columns))


class SiglipNativeEncoder(NativeSiglip):
    """Weights of a SigLIP, Idefics2, Idefics3 or SmolVLM checkpoint; a smaller position table is interpolated."""

    def __init__(
        self,
        config: SiglipNativeConfig,
        *,
        device: torch.device | str = "cpu",
        image_size: int | None = None,
        load_weights: bool = True,
    ) -> None:
        super().__init__(config, device=device, image_size=image_size, load_weights=load_weights)
        self.patches = config.patches
        full = read_config(config.id, config.revision, planning=not load_weights)
        vision_config = native_config(full, config.image_size)
        tensors = None
        if load_weights:
            folder = config_folder(config.id, config.revision, planning=False)
            tensors = read_tower(folder)
            self.mean, self.std = normalisation(folder, full)
        self.assemble(vision_config, tensors, meta=not load_weights)
        if load_weights:
            self.to(device)


def native_config(config: PretrainedConfig, image_size: int | None) -> Idefics2VisionConfig:
    """The vision configuration of any checkpoint with a SigLIP tower, as Idefics2's.

    Args:
        config: a SigLIP, Idefics2, Idefics3 or SmolVLM configuration, whole or of the vision part.
        image_size: side in pixels of the position table; None keeps the checkpoint's.

    Raises:
        ModelError: the configuration has no vision tower of that kind.
    """
    vision = getattr(config, "vision_config", config)
    kind = vision.model_type
    if not any(name in kind for name in ("siglip", "idefics2", "idefics3", "smolvlm")) or "siglip2" in kind:
        raise ModelError(f"siglip-native needs a SigLIP tower; this is {kind!r}")
    values = {name: getattr(vision, name) for name in TOWER_FIELDS if hasattr(vision, name)}
    values["image_size"] = image_size or values["image_size"]
    return Idefics2VisionConfig(**values)


def read_tower(folder: Path) -> dict[str, Tensor]:
    """The vision tower's tensors of a checkpoint folder, named as in `Idefics2VisionTransformer`.

    Raises:
        ModelError: there is no such tower.
    """
    suffix = "embeddings.patch_embedding.weight"
    prefixes = [name.removesuffix(suffix) for name in tensor_names(folder) if name.endswith(suffix)]
    if len(prefixes) != 1:
        raise ModelError(f"{folder} holds {len(prefixes)} vision towers, expected one")
    tensors = read_tensors(folder, prefixes[0])
    wanted = ("embeddings.", "encoder.", "post_layernorm.")
    return {n: t.float() for n, t in tensors.items() if n.startswith(wanted) and not n.endswith("position_ids")}


def load_tower(tower: Idefics2VisionTransformer, tensors: dict[str, Tensor]) -> None:
    """Load a tower, its position table resized to the tower's.

    Raises:
        ModelError: names or shapes differ.
    """
    rows = tower.embeddings.position_embedding.num_embeddings
    tensors = {**tensors, _POSITIONS: resize_positions(tensors[_POSITIONS], rows)}
    try:
        tower.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ModelError(f"the checkpoint's vision tower does not fit its configuration: {error}") from error


def resize_positions(table: Tensor, rows: int) -> Tensor:
    """Bicubic interpolation of a square table of positions (old, width) to (rows, width)."""
    if len(table) == rows:
        return table
    old, new = round(len(table) ** 0.5), round(rows**0.5)
    square = table.view(1, old, old, -1).permute(0, 3, 1, 2)
    resized = interpolate(square, size=(new, new), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(rows, -1)
