"""Mllama's vision encoder: local and global transformer, with hidden states of some layers beside the last."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import MllamaVisionModel

from vlm_ablate.errors import ModelError
from vlm_ablate.models.pretrained import config_folder, read_config, read_tensors, tensor_names
from vlm_ablate.models.vision.base import VisionEncoder, VisionFeatures
from vlm_ablate.models.vision.configs import MllamaVisionConfig
from vlm_ablate.models.vision.hf import normalisation

_ONE_TILE = 1
"""transformers' number of the aspect ratio 1 x 1, the first that is supported."""


class MllamaVisionEncoder(VisionEncoder):
    """transformers' `MllamaVisionModel`, each view an image of one tile.

    Its other tiles are empty and masked, as transformers pads them, and left out unless `tiles: all` asks for them; the
    class token comes first, so that the features are one row. Images of several tiles are not put together again.
    """

    def __init__(
        self,
        config: MllamaVisionConfig,
        *,
        device: torch.device | str = "cpu",
        image_size: int | None = None,
        load_weights: bool = True,
    ) -> None:
        super().__init__(config, device=device, image_size=image_size, load_weights=load_weights)
        full = read_config(config.id, config.revision, planning=not load_weights)
        vision = getattr(full, "vision_config", full)
        if vision.model_type != "mllama_vision_model" or list(vision.supported_aspect_ratios[0]) != [1, 1]:
            raise ModelError(f"mllama needs an Mllama checkpoint with the aspect ratio 1 x 1; {config.id!r} is none")
        with torch.device("cpu" if load_weights else "meta"):
            self.backbone = MllamaVisionModel._from_config(vision, dtype=torch.float32)
        self.width, self.tiles = vision.vision_output_dim, vision.max_num_tiles
        self.side, self.patch_size = vision.image_size, vision.patch_size
        self.kept = self.tiles if config.tiles == "all" else 1
        if self.kept > 1:
            self.own_patches = (self.side // self.patch_size) ** 2 + 1
        if load_weights:
            folder = config_folder(config.id, config.revision, planning=False)
            suffix = "class_embedding"
            prefix = next((n.removesuffix(suffix) for n in tensor_names(folder) if n.endswith(suffix)), "")
            self.backbone.load_state_dict(read_tensors(folder, prefix), strict=True)
            self.mean, self.std = normalisation(folder, full)
            self.to(device)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        if (height, width) != (self.side, self.side):
            raise ModelError(
                f"mllama takes views of {self.side} x {self.side} px, not {height} x {width}",
                hint=f"set data.image to resize: square, size: {self.side}",
            )
        return 1, self.kept * ((self.side // self.patch_size) ** 2 + 1)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None) -> VisionFeatures:
        grid, views = self.grid(*pixel_values.shape[-2:]), len(pixel_values)
        tiles = pad(pixel_values[:, None, None], (0, 0, 0, 0, 0, 0, 0, self.tiles - 1))
        ratio = torch.full((views, 1), _ONE_TILE, device=pixel_values.device)
        real = pad(torch.ones_like(ratio)[..., None], (0, self.tiles - 1))
        states = self.backbone(tiles, aspect_ratio_ids=ratio, aspect_ratio_mask=real).last_hidden_state
        return VisionFeatures(states[:, 0, : self.kept].flatten(1, 2), None, grid)
