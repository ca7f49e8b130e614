"""Any Hugging Face vision model as a vision encoder: the tower alone, patch features only."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from vlm_ablate.errors import ModelError
from vlm_ablate.models.pretrained import config_folder, image_processor_of, load_pretrained, read_config
from vlm_ablate.models.vision.base import SIGLIP_MEAN, SIGLIP_STD, VisionEncoder, VisionFeatures
from vlm_ablate.models.vision.configs import HubVisionConfig
from vlm_ablate.models.vision.inside import read_inner_tower, tower_config
from vlm_ablate.models.vision.patches import patch_mask

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_FINAL_NORMS = ("post_layernorm", "layernorm", "norm", "layer_norm")


class HubVisionEncoder(VisionEncoder):
    """Vision transformers of transformers (SigLIP, CLIP, DINOv2, ViT, ...), by hub id or local folder.

    Of a dual model (CLIP) or a vision-language one (LLaVA, PaliGemma, Idefics) the vision tower is taken. Class and
    register tokens are dropped unless they are asked for. Layers that the chosen hidden state does not need are cut
    off, with the pooling head, so that every remaining parameter has a gradient.
    """

    config: HubVisionConfig

    def __init__(
        self,
        config: HubVisionConfig,
        *,
        device: torch.device | str = "cpu",
        image_size: int | None = None,
        load_weights: bool = True,
    ) -> None:
        super().__init__(config, device=device, image_size=image_size, load_weights=load_weights)
        trust = config.trust_remote_code
        full = read_config(config.id, config.revision, planning=not load_weights, trust_remote_code=trust)
        inner, missing = tower_config(full), list[str]()
        if not load_weights:
            with torch.device("meta"):
                model = AutoModel.from_config(inner or full, trust_remote_code=trust, dtype=torch.float32)
        else:
            folder = config_folder(config.id, config.revision, planning=False)
            if inner is None:
                model, missing = load_pretrained(AutoModel, folder, trust_remote_code=trust, dtype=torch.float32)
            else:
                model = read_inner_tower(folder, inner)
            self.mean, self.std = normalisation(folder, inner or full)
        self.backbone = vision_tower(model)
        if "spatial_shapes" in inspect.signature(self.backbone.forward).parameters:
            raise ModelError(
                f"{config.id!r} is a NaFlex tower ({type(self.backbone).__name__}): it takes patches, not images",
                hint="use a checkpoint of SigLIP 2 with a fixed resolution, as google/siglip2-so400m-patch14-384",
            )
        whole = {name for name, _ in self.backbone.named_parameters()}
        vision_config = self.backbone.config
        self.width = vision_config.hidden_size
        self.patch_size = vision_config.patch_size
        self.trained_size = vision_config.image_size
        self._interpolates = "interpolate_pos_encoding" in inspect.signature(self.backbone.forward).parameters
        cut(self.backbone, config.layer)
        self.cut_away = frozenset(whole - {name for name, _ in self.backbone.named_parameters()})
        self.unused = tuple(n for n, _ in self.backbone.named_parameters() if n.endswith("mask_token"))
        self._check_whole(model, missing)
        if load_weights:
            self.to(device)

    def _check_whole(self, model: PreTrainedModel, missing: Sequence[str]) -> None:
        """Whether everything that is left of the tower came from the checkpoint: the rest is as transformers drew it.

        Args:
            model: that the tower is of.
            missing: names of its parameters that the checkpoint has not.

        Raises:
            ModelError: a parameter of the tower did not.
        """
        read = {id(p) for n, p in self.backbone.named_parameters() if n not in self.unused}
        whole = dict(model.named_parameters())
        lacking = [name for name in missing if name in whole and id(whole[name]) in read]
        if lacking:
            raise ModelError(f"{self.config.id} lacks tensors of its vision tower: {lacking[:3]}")

    def grid(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = height // self.patch_size, width // self.patch_size
        return (rows, columns) if self.config.class_token == "drop" else (1, rows * columns + 1)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None) -> VisionFeatures:
        height, width = pixel_values.shape[-2:]
        patches = (height // self.patch_size) * (width // self.patch_size)
        side = self.trained_size
        resized = self._interpolates and (height, width) != ((side, side) if isinstance(side, int) else tuple(side))
        extra = {"interpolate_pos_encoding": True} if resized else {}
        states = self.backbone(pixel_values=pixel_values, **extra).last_hidden_state
        prefix = states.shape[1] - patches
        rows, columns = self.grid(height, width)
        if prefix < 0 or (self.config.class_token == "keep" and prefix != 1):
            raise ModelError(f"{self.config.id} gave {states.shape[1]} tokens for a grid of {rows} x {columns} patches")
        mask = None if pixel_mask is None else patch_mask(pixel_mask, self.patch_size, "full").flatten(1)
        if self.config.class_token == "keep":
            mask = None if mask is None else pad(mask, (1, 0), value=True)
            return VisionFeatures(states, mask, (rows, columns))
        return VisionFeatures(states[:, prefix:], mask, (rows, columns))


def vision_tower(model: PreTrainedModel) -> PreTrainedModel:
    """The vision part of a dual model, or the model itself.

    Raises:
        ModelError: it takes no pixels or has no patches.
    """
    tower = getattr(model, "vision_model", None)
    tower = tower if isinstance(tower, PreTrainedModel) else model
    if not hasattr(tower.config, "patch_size") or not hasattr(tower.config, "hidden_size"):
        raise ModelError(f"{type(model).__name__} is not a vision transformer with patches")
    return tower


def cut(tower: PreTrainedModel, layer: int) -> None:
    """Make hidden state `layer` (-1: the last, with the final norm) the tower's last hidden state; drop what is unused.

    Raises:
        ModelError: the tower has no such layer.
    """
    if getattr(tower, "use_head", False):
        tower.use_head = False  # type: ignore[assignment]  # a flag of SigLIP's
        del tower.head
    if hasattr(tower, "pooler"):
        tower.pooler = None  # type: ignore[assignment]  # which transformers takes for no pooling
    norms = [name for name in _FINAL_NORMS if isinstance(getattr(tower, name, None), nn.Module)]
    # CLIP's post_layernorm stands on the pooled class token only, which nothing here reads.
    if layer != -1 or "clip" in tower.config.model_type.lower():
        for name in norms:
            setattr(tower, name, nn.Identity())
    if layer == -1:
        return
    count = tower.config.num_hidden_layers
    if not -count <= layer + 1 <= 0:
        raise ModelError(f"{type(tower).__name__} has {count} layers; hidden state {layer} does not exist")
    lists = [
        (m, n, c)
        for m in tower.modules()
        for n, c in m.named_children()
        if isinstance(c, nn.ModuleList) and len(c) == count
    ]
    if len(lists) != 1:
        raise ModelError(f"cannot find the layers of {type(tower).__name__}")
    owner, name, layers = lists[0]
    setattr(owner, name, layers[: count + layer + 1])


def normalisation(folder: Path, config: PretrainedConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation by channel: what the folder says of its image processor, else by the kind of model."""
    said = image_processor_of(folder)
    if "image_mean" in said and "image_std" in said:
        return tuple(said["image_mean"]), tuple(said["image_std"])
    kind = config.model_type
    if "siglip" in kind or "idefics" in kind or "smolvlm" in kind:
        return SIGLIP_MEAN, SIGLIP_STD
    return CLIP if "clip" in kind else IMAGENET
