"""The assembly that a released checkpoint is: its parts, as the model section of a YAML."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vlm_ablate.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Parts = dict[str, Any]


def _llava(config: PretrainedConfig, id: str) -> Parts:
    if not isinstance(config.vision_feature_layer, int):
        raise ModelError(f"{id!r} reads several layers of its vision tower: {config.vision_feature_layer}")
    if config.vision_feature_layer >= 0:
        raise ModelError(f"{id!r} counts its vision layer from the first: {config.vision_feature_layer}")
    kept = "keep" if config.vision_feature_select_strategy == "full" else "drop"
    return {
        "vision": {"name": "hf", "id": id, "layer": config.vision_feature_layer, "class_token": kept},
        "connector": {
            "name": "mlp",
            "activation": config.projector_hidden_act,
            "bias": config.multimodal_projector_bias,
        },
        "architecture": {"name": "autoregressive"},
    }


def _paligemma(config: PretrainedConfig, id: str) -> Parts:
    return {
        "vision": {"name": "hf", "id": id},
        "connector": {"name": "linear"},
        "architecture": {"name": "autoregressive", "prompt": "bidirectional"},
    }


def _resampler(perceiver: PretrainedConfig) -> dict[str, Any]:
    """What the resamplers of both Idefics families are described by."""
    return {
        "name": "perceiver",
        "latents": perceiver.resampler_n_latents,
        "depth": perceiver.resampler_depth,
        "heads": perceiver.resampler_n_heads,
        "head_dim": perceiver.resampler_head_dim,
    }


def _idefics(config: PretrainedConfig, id: str) -> Parts:
    if not config.use_resampler:
        raise ModelError(f"{id!r} has no resampler: its blocks read the patches themselves, which no connector gives")
    perceiver = config.perceiver_config
    return {
        "vision": {"name": "hf", "id": id, "class_token": "keep"},
        "connector": {
            **_resampler(perceiver),
            "kv_heads": perceiver.resampler_n_heads,
            "qk_norm": perceiver.qk_layer_norms_perceiver,
            "projection": "none",
            "norm": "layer",
            "norm_eps": 1e-5,
            "mlp": "relu",
        },
        "architecture": {
            "name": "cross_attention",
            "every": config.cross_layer_interval,
            "gate": "scalar" if config.alpha_type == "float" else "vector",
            "qk_norm": config.qk_layer_norms,
        },
    }


def _mllama(config: PretrainedConfig, id: str) -> Parts:
    crossing = sorted(config.text_config.cross_attention_layers)
    return {
        "vision": {"name": "mllama", "id": id},
        "connector": {"name": "linear"},
        "architecture": {
            "name": "cross_attention",
            "before": [index - place for place, index in enumerate(crossing)],
            "qk_norm": True,
            "attend": "last",
            "visual_width": "language",
            "unseeing": "skip",
        },
    }


def _idefics2(config: PretrainedConfig, id: str) -> Parts:
    perceiver = config.perceiver_config
    return {
        "vision": {"name": "siglip-native", "id": id, "patches": "full"},
        "connector": {
            **_resampler(perceiver),
            "kv_heads": perceiver.num_key_value_heads,
            "norm_eps": perceiver.rms_norm_eps,
        },
        "architecture": {"name": "autoregressive"},
    }


def _idefics3(config: PretrainedConfig, id: str) -> Parts:
    return {
        "vision": {"name": "siglip-native", "id": id, "patches": "any"},
        "connector": {"name": "pixel_shuffle", "factor": config.scale_factor},
        "architecture": {"name": "autoregressive"},
    }


ASSEMBLIES: dict[str, Callable[[PretrainedConfig, str], Parts]] = {
    "idefics2": _idefics2,
    "idefics3": _idefics3,
    "smolvlm": _idefics3,
    "llava": _llava,
    "paligemma": _paligemma,
    "idefics": _idefics,
    "mllama": _mllama,
}
"""`model_type` of a configuration -> vision, connector and architecture; COVERAGE.md says what of each is covered."""


def parts_of(config: PretrainedConfig, id: str) -> Parts:
    """The fields of a `ModelConfig` for the checkpoint `id` (local folder or hub id) of that configuration.

    Raises:
        ModelError: it is of a family, or a variant of one, that is no assembly of ours.
    """
    if config.model_type not in ASSEMBLIES:
        raise ModelError(f"{id!r} is a {config.model_type!r} checkpoint; known: {', '.join(ASSEMBLIES)}")
    return {**ASSEMBLIES[config.model_type](config, id), "language": {"name": "hf", "id": id}, "init_from": id}
