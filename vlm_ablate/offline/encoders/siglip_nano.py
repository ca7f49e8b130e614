"""The shipped small vision encoder: SigLIP's architecture with variable-resolution position ids."""

from __future__ import annotations

import torch

from vlm_ablate.models.pretrained import read_config, stand_in
from vlm_ablate.models.vision.siglip import NativeSiglip, native_config, read_tower
from vlm_ablate.offline.configs import SiglipNanoConfig


class SiglipNanoEncoder(NativeSiglip):
    """The shipped small encoder, pretrained or at random."""

    def __init__(
        self,
        config: SiglipNanoConfig,
        *,
        device: torch.device | str = "cpu",
        image_size: int | None = None,
        load_weights: bool = True,
    ) -> None:
        super().__init__(config, device=device, image_size=image_size, load_weights=load_weights)
        pretrained = load_weights and config.weights == "pretrained"
        folder = stand_in(config.folder, file="model.safetensors" if pretrained else "config.json")
        vision_config = native_config(read_config(str(folder), planning=True), None)
        self.assemble(vision_config, read_tower(folder) if pretrained else None, meta=not load_weights)
        if load_weights:
            self.to(device)
