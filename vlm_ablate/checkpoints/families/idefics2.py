"""Idefics2 (arXiv:2405.02246): SigLIP at native resolution, a perceiver behind a gated projection, any decoder."""

from __future__ import annotations

from transformers import Idefics2Config, Idefics2ForConditionalGeneration, PretrainedConfig

from vlm_ablate.checkpoints.families.base import Parts, resampler
from vlm_ablate.checkpoints.families.siglip_family import SiglipFamily
from vlm_ablate.models.vlm import VLM

_OURS = {"projection": "gated_mlp", "qk_norm": False, "mlp_ratio": 4}


class Idefics2(SiglipFamily):
    """Whole images, or four crops and the whole."""

    model_types = ("idefics2",)
    connector, cuts = "perceiver", "Idefics2"
    cls = Idefics2ForConditionalGeneration

    def parts(self, config: PretrainedConfig, id: str) -> Parts:
        perceiver = config.perceiver_config
        return {
            "vision": {"name": "siglip-native", "id": id, "patches": "full"},
            "connector": {
                **resampler(perceiver),
                "kv_heads": perceiver.num_key_value_heads,
                "norm_eps": perceiver.rms_norm_eps,
            },
            "architecture": {"name": "autoregressive"},
        }

    def refusal(self, vlm: VLM) -> str | None:
        if (common := super().refusal(vlm)) is not None:
            return common
        connector, text = vlm.config.connector, vlm.language.model.config
        if connector.name != "perceiver":
            return f"no class has the connector {connector.name!r} behind a SigLIP tower of any resolution"
        for field, value in _OURS.items():
            if getattr(connector, field) != value:
                return f"Idefics2's perceiver has {field}: {value}"
        if getattr(text, "hidden_act", None) != "silu":
            return "Idefics2 projects with the language model's activation, which is not silu here"
        if vlm.views.padded and vlm.vision.patches != "full":
            return "Idefics2 counts a patch when all of its pixels are real (model.vision.patches: full)"
        return None

    def config(self, vlm: VLM) -> Idefics2Config:
        connector, text = vlm.config.connector, vlm.language.model.config
        perceiver = {
            "hidden_size": text.hidden_size,
            "rms_norm_eps": connector.norm_eps,
            "resampler_n_latents": connector.latents,
            "resampler_depth": connector.depth,
            "resampler_n_heads": connector.heads,
            "resampler_head_dim": connector.head_dim,
            "num_key_value_heads": connector.kv_heads,
        }
        return Idefics2Config(perceiver_config=perceiver, **self.common(vlm))
