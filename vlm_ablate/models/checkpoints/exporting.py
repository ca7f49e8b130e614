"""Our assembly as a checkpoint that transformers' own Idefics2 or Idefics3 class loads."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    PreTrainedModel,
)

from vlm_ablate.errors import ModelError
from vlm_ablate.home import storage_errors
from vlm_ablate.models.adapters import merge_adapters
from vlm_ablate.models.checkpoints.names import to_theirs
from vlm_ablate.models.language.vocabulary import plain_table
from vlm_ablate.models.vlm import VLM


def exported_class(vlm: VLM) -> type[PreTrainedModel] | None:
    """The class of transformers that this assembly is, or None."""
    config, patches = vlm.config, getattr(vlm.vision, "patches", None)
    if config.architecture.name != "autoregressive" or patches is None:
        return None
    connector = config.connector
    if connector.name == "pixel_shuffle" and patches == "any":
        return Idefics3ForConditionalGeneration
    gated = connector.name == "perceiver" and connector.projection == "gated_mlp"
    if gated and patches == "full" and not connector.qk_norm and connector.mlp_ratio == 4:
        return Idefics2ForConditionalGeneration
    return None


def to_transformers(vlm: VLM) -> PreTrainedModel:
    """The same model as an instance of transformers' class, adapters merged; `vlm` stays as it is.

    Raises:
        ModelError: transformers has no class for this assembly.
    """
    cls = exported_class(vlm)
    if cls is None:
        raise ModelError(
            "transformers has no class for this assembly; it can be kept as a checkpoint of this package",
            hint="Idefics2: siglip-native full + perceiver gated_mlp; Idefics3: siglip-native any + pixel_shuffle",
        )
    if vlm.adapters:
        vlm = deepcopy(vlm)
        merge_adapters(vlm)
    config = _idefics2(vlm) if cls is Idefics2ForConditionalGeneration else _idefics3(vlm)
    with torch.device("meta"):
        model = cls(config)
    model.load_state_dict(exported_tensors(vlm), strict=True, assign=True)
    model.tie_weights()
    # Rotary frequencies are buffers outside the state dict: take ours, the meta ones have no values.
    model.model.text_model.rotary_emb = deepcopy(vlm.language.model.model.rotary_emb)
    return model.eval()


def exported_tensors(vlm: VLM) -> dict[str, Tensor]:
    """All tensors under transformers' names, new vocabulary rows joined to their tables."""
    tensors = {}
    for name, tensor in vlm.state_dict().items():
        if "trainable_tokens" not in name:
            theirs = to_theirs(name)
            if theirs is None:
                raise ModelError(f"{name} has no place in transformers' checkpoint")
            tensors[theirs] = tensor
    model = vlm.language.model
    for theirs, module in (
        ("model.text_model.embed_tokens.weight", model.get_input_embeddings()),
        ("lm_head.weight", model.get_output_embeddings()),
    ):
        rows = getattr(module, "trainable_tokens", None)
        tensors[theirs] = plain_table(module.weight, rows, getattr(module, "start", 0)).detach()
    return tensors


def export_checkpoint(vlm: VLM, folder: Path) -> None:
    """Write weights, configuration and tokeniser in transformers' form.

    Raises:
        ModelError: transformers has no class for this assembly.
        StorageError: the folder cannot be written.
    """
    model = to_transformers(vlm)
    with storage_errors("write", folder):
        model.save_pretrained(folder)
        vlm.tokenizer.save_pretrained(folder)


def _common(vlm: VLM) -> dict:
    text = vlm.language.model.config
    return dict(
        vision_config=vlm.vision.backbone.config.to_dict(),
        text_config=text.to_dict(),
        image_token_id=vlm.image_token_id,
        tie_word_embeddings=text.tie_word_embeddings,
    )


def _idefics2(vlm: VLM) -> Idefics2Config:
    connector, text = vlm.config.connector, vlm.language.model.config
    perceiver = dict(
        hidden_size=text.hidden_size,
        rms_norm_eps=connector.norm_eps,
        resampler_n_latents=connector.latents,
        resampler_depth=connector.depth,
        resampler_n_heads=connector.heads,
        resampler_head_dim=connector.head_dim,
        num_key_value_heads=connector.kv_heads,
    )
    return Idefics2Config(perceiver_config=perceiver, **_common(vlm))


def _idefics3(vlm: VLM) -> Idefics3Config:
    common = _common(vlm)
    common["vision_config"].pop("model_type", None)
    return Idefics3Config(scale_factor=vlm.config.connector.factor, **common)
