"""Our assembly as a checkpoint that transformers' own Idefics2 or Idefics3 class loads."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
)

from vlm_ablate.checkpoints.names import to_theirs
from vlm_ablate.errors import ModelError
from vlm_ablate.models.adapters import merge_adapters
from vlm_ablate.models.language.vocabulary import plain_table
from vlm_ablate.models.pretrained import quietly
from vlm_ablate.models.vision.siglip import native_config
from vlm_ablate.models.vlm import VLM
from vlm_ablate.storage import storage_errors


@dataclass(frozen=True)
class Fit:
    """What transformers has for an assembly."""

    cls: type[PreTrainedModel] | None
    """Its class, or None."""
    config: PretrainedConfig | None
    reason: str = ""
    """Why there is none."""


def exported_class(vlm: VLM) -> type[PreTrainedModel] | None:
    """The class of transformers that this assembly is, or None."""
    return fit(vlm).cls


def fit(vlm: VLM) -> Fit:
    """Which class of transformers computes what this assembly computes, if any: parts, names and shapes all agree."""
    cls, reason = _family(vlm)
    if cls is None:
        return Fit(None, None, reason)
    try:
        config = _idefics2(vlm) if cls is Idefics2ForConditionalGeneration else _idefics3(vlm)
        with torch.device("meta"):
            theirs = {name: tensor.shape for name, tensor in cls(config).state_dict().items()}
    except (ValueError, TypeError, ModelError) as error:
        return Fit(None, None, f"{cls.__name__} cannot be configured so: {error}")
    ours = {to_theirs(name): shape for name, shape in _shapes(vlm).items()}
    differing = sorted({str(n) for n in ours.keys() ^ theirs.keys()} | {n for n in ours if ours[n] != theirs.get(n)})
    if differing:
        return Fit(None, None, f"{cls.__name__} has other tensors: {', '.join(map(str, differing[:3]))}")
    return Fit(cls, config)


def _family(vlm: VLM) -> tuple[type[PreTrainedModel] | None, str]:
    config, text = vlm.config, vlm.language.model.config
    connector = config.connector
    if config.architecture.name != "autoregressive":
        return None, f"no class takes any language model with the {config.architecture.name!r} architecture"
    if config.architecture.prompt != "causal":
        return None, "Idefics2 and Idefics3 attend causally everywhere (model.architecture.prompt: causal)"
    if (tower := _tower_problem(vlm)) is not None:
        return None, tower
    if _scales_logits(text):
        return None, f"the {text.model_type!r} head changes its logits, which no vision-language class does"
    if connector.name == "pixel_shuffle":
        # The rule of patch validity speaks of padded views only.
        if _padded(vlm) and vlm.vision.patches != "any":
            return None, "Idefics3 counts a patch when any of its pixels is real (model.vision.patches: any)"
        return Idefics3ForConditionalGeneration, ""
    if connector.name != "perceiver":
        return None, f"no class has the connector {connector.name!r} behind a SigLIP tower of any resolution"
    needed = {"projection": "gated_mlp", "qk_norm": False, "mlp_ratio": 4}
    for field, value in needed.items():
        if getattr(connector, field) != value:
            return None, f"Idefics2's perceiver has {field}: {value}"
    if getattr(text, "hidden_act", None) != "silu":
        return None, "Idefics2 projects with the language model's activation, which is not silu here"
    if _padded(vlm) and vlm.vision.patches != "full":
        return None, "Idefics2 counts a patch when all of its pixels are real (model.vision.patches: full)"
    return Idefics2ForConditionalGeneration, ""


def _tower_problem(vlm: VLM) -> str | None:
    """Why the vision encoder is not Idefics2's and Idefics3's; None when it is, or computes the same."""
    vision = vlm.vision
    if hasattr(vision, "patches"):
        return None
    backbone = vision.backbone.config if isinstance(vision.backbone, PreTrainedModel) else None
    if getattr(backbone, "model_type", None) != "siglip_vision_model":
        return f"no class has the vision encoder {vision.config.name!r} in front of any connector"
    if vision.config.layer != -1:
        return "Idefics2 and Idefics3 read the last layer of the tower (model.vision.layer: -1)"
    side = backbone.image_size // backbone.patch_size
    if _padded(vlm) or vlm.vision.grid(vlm.side, vlm.side) != (side, side):
        return "the tower interpolates its positions, where Idefics2 and Idefics3 bucket them (siglip-native)"
    return None


def _padded(vlm: VLM) -> bool:
    """Whether views of one batch may have different sizes."""
    return vlm.image.resize == "native" and vlm.image.split != "tiles"


def _scales_logits(text: PretrainedConfig) -> bool:
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    return any(getattr(text, name, None) not in (None, 1, 1.0) for name in names)


def to_transformers(vlm: VLM, *, merged: bool = True) -> PreTrainedModel:
    """The same model as an instance of transformers' class; `vlm` stays as it is.

    Args:
        vlm: the model.
        merged: fold adapters into the weights; else they are left out.

    Raises:
        ModelError: transformers has no class for this assembly.
    """
    found = fit(vlm)
    if found.cls is None:
        raise ModelError(
            f"transformers has no class for this assembly: {found.reason}",
            hint="it can be kept as a checkpoint of this package",
        )
    if vlm.adapters and merged:
        vlm = deepcopy(vlm)
        merge_adapters(vlm)
    with torch.device("meta"):
        model = found.cls(found.config)
    model.load_state_dict(exported_tensors(vlm), strict=True, assign=True)
    model.tie_weights()
    # Rotary frequencies are buffers outside the state dict: take ours, the meta ones have no values.
    model.model.text_model.rotary_emb = deepcopy(vlm.language.model.model.rotary_emb)
    return model.eval()


def exported_tensors(vlm: VLM) -> dict[str, Tensor]:
    """All tensors under transformers' names, new vocabulary rows joined to their tables, adapters left out."""
    tensors = {}
    for name, tensor in plain_tensors(vlm).items():
        theirs = to_theirs(name)
        if theirs is None:
            raise ModelError(f"{name} has no place in transformers' checkpoint")
        tensors[theirs] = tensor
    return tensors


def plain_tensors(vlm: VLM) -> dict[str, Tensor]:
    """The state dict as without adapters and extended tables: adapters left out, new rows joined to their tables."""
    tensors = {}
    for name, tensor in vlm.state_dict().items():
        if "trainable_tokens" not in name and "lora_" not in name:
            tensors[name.replace(".base_layer.", ".")] = tensor
    model = vlm.language.model
    modules = {id(module): name for name, module in vlm.named_modules()}
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
        rows = getattr(base, "trainable_tokens", None)
        name = f"{modules[id(module)]}.weight"
        tensors[name] = plain_table(base.weight, rows, getattr(base, "start", 0)).detach()
    return tensors


def _shapes(vlm: VLM) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in plain_tensors(vlm).items()}


def export_checkpoint(vlm: VLM, folder: Path) -> None:
    """Write weights, configuration and tokeniser in transformers' form.

    Raises:
        ModelError: transformers has no class for this assembly.
        StorageError: the folder cannot be written.
    """
    model = to_transformers(vlm)
    with storage_errors("write", folder), quietly():
        model.save_pretrained(folder)
        vlm.tokenizer.save_pretrained(folder)


def _common(vlm: VLM) -> dict[str, Any]:
    text = deepcopy(vlm.language.model.config)
    text.vocab_size = vlm.language.vocabulary
    return dict(
        vision_config=native_config(vlm.vision.backbone.config, None).to_dict(),
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
