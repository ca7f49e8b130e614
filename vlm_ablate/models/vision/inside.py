"""The vision tower inside a vision-language checkpoint, without the rest of it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_MAPPING,
    AutoModel,
    CLIPVisionConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from vlm_ablate.errors import ModelError
from vlm_ablate.models.pretrained import read_tensors, tensor_names

TOWER_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "initializer_range",
)
"""What a CLIP or SigLIP tower is described by."""
_CLIP_FIELDS = (*TOWER_FIELDS, "initializer_factor")


def tower_config(full: PretrainedConfig) -> PretrainedConfig | None:
    """The configuration of the vision tower in a vision-language one; None where AutoModel reads `full` itself.

    Idefics' tower is CLIP's under another name and has no class of its own in AutoModel.
    """
    vision = getattr(full, "vision_config", None)
    if vision is None or type(full) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return None
    if vision.model_type == "idefics_vision":
        return CLIPVisionConfig(**{name: getattr(vision, name) for name in _CLIP_FIELDS})
    return vision if type(vision) in MODEL_MAPPING else None


def read_inner_tower(folder: Path, config: PretrainedConfig) -> PreTrainedModel:
    """The tower of a vision-language checkpoint with its weights, in fp32.

    Raises:
        ModelError: the checkpoint has no such tower.
    """
    suffix = "embeddings.patch_embedding.weight"
    prefixes = [name.removesuffix(suffix) for name in tensor_names(folder) if name.endswith(suffix)]
    if len(prefixes) != 1:
        raise ModelError(f"{folder} holds {len(prefixes)} vision towers, expected one")
    tower: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32)
    tensors = read_tensors(folder, prefixes[0])
    missing, surplus = tower.load_state_dict(tensors, strict=False)
    surplus = [name for name in surplus if not name.endswith("position_ids")]
    if missing or surplus:
        raise ModelError(f"{folder}: vision tensors missing {sorted(missing)[:3]}, surplus {sorted(surplus)[:3]}")
    tower.eval()
    return tower
