"""Tiny random checkpoints of families beside Idefics2 and Idefics3, made with transformers alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    Gemma2Config,
    GemmaConfig,
    IdeficsConfig,
    IdeficsForVisionText2Text,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MllamaConfig,
    MllamaForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedModel,
    SiglipVisionConfig,
)

from tests.models.conftest import TEXT, VISION, write_tokenizer
from tests.models.support import IMAGE
from vlm_ablate.checkpoints.families.known import inputs_for, parts_of
from vlm_ablate.checkpoints.start_from import started_vlm
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.models.batch import IGNORE, Batch
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM

OURS = ["<fake_token_around_image>", IMAGE, "<end_of_utterance>"]


@dataclass(frozen=True)
class Kin:
    """A family and the options that break things."""

    family: str
    side: int = 32
    vision: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    tokens: tuple[str, ...] = tuple(OURS)
    padded: int = 0
    """Rows of the tables beyond the tokeniser."""


def save(case: Kin, folder: Path) -> PreTrainedModel:
    """Write a random checkpoint; every parameter is far from the zeros and ones of a fresh model."""
    vocabulary = write_tokenizer(folder, list(case.tokens))
    torch.manual_seed(0)
    model = _MODELS[case.family](case, vocabulary)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model.requires_grad_(True).eval()


def ours(case: Kin, folder: Path, reference: PreTrainedModel) -> VLM:
    """The same checkpoint in our assembly."""
    config = ModelConfig.model_validate(parts_of(reference.config, str(folder)))
    return started_vlm(config, Views(case.side)).eval()


def image_token(case: Kin, vocabulary: int) -> int:
    """Id of the placeholder of an image."""
    place = next(i for i, token in enumerate(case.tokens) if token in (IMAGE, "<|image|>"))
    return vocabulary - len(case.tokens) + place


def _llava(case: Kin, vocabulary: int) -> PreTrainedModel:
    tied = case.text.get("tie_word_embeddings", False)
    vision = CLIPVisionConfig(**VISION | dict(image_size=case.side) | case.vision)
    text = LlamaConfig(**TEXT | dict(vocab_size=vocabulary + case.padded, tie_word_embeddings=tied) | case.text)
    image = image_token(case, vocabulary)
    config = dict(vision_config=vision, text_config=text, image_token_index=image, tie_word_embeddings=tied)
    return LlavaForConditionalGeneration(LlavaConfig(**config, **case.options))


def _paligemma(case: Kin, vocabulary: int) -> PreTrainedModel:
    vision = SiglipVisionConfig(**VISION | dict(image_size=case.side, vision_use_head=False) | case.vision)
    fields = TEXT | dict(vocab_size=vocabulary + case.padded, head_dim=8) | case.text
    text = (Gemma2Config if "sliding_window" in fields else GemmaConfig)(**fields)
    width = text.hidden_size
    return PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(
            vision_config=vision.to_dict(),
            text_config=text.to_dict(),
            image_token_index=image_token(case, vocabulary),
            projection_dim=width,
            hidden_size=width,
        )
    )


def _idefics(case: Kin, vocabulary: int) -> PreTrainedModel:
    vision = {k: v for k, v in (VISION | case.vision).items() if k != "hidden_size"}
    perceiver = dict(resampler_n_latents=3, resampler_depth=2, resampler_n_heads=2, resampler_head_dim=8)
    perceiver |= case.options.get("perceiver_config", {})
    text = {k: v for k, v in (TEXT | case.text).items() if k != "num_key_value_heads"}
    additional = case.options.get("additional_vocab_size", 0)
    return IdeficsForVisionText2Text(
        IdeficsConfig(
            **text,
            vocab_size=vocabulary - additional,
            vision_config=vision | dict(embed_dim=(VISION | case.vision)["hidden_size"], image_size=case.side),
            use_resampler=True,
            **case.options | dict(perceiver_config=perceiver),
        )
    )


def _mllama(case: Kin, vocabulary: int) -> PreTrainedModel:
    width = (VISION | case.vision)["hidden_size"]
    vision = dict(
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=3,
        num_global_layers=1,
        attention_heads=2,
        patch_size=(VISION | case.vision)["patch_size"],
        image_size=case.side,
        intermediate_layers_indices=[0, 2],
        vision_output_dim=3 * width,
        **case.options,
    )
    text = TEXT | dict(num_hidden_layers=6, cross_attention_layers=[1, 4]) | case.text
    # The last token of the tokeniser, the image's, has a row in the embedding only.
    return MllamaForConditionalGeneration(
        MllamaConfig(
            vision_config=vision,
            text_config=text | dict(vocab_size=vocabulary - 1),
            image_token_index=vocabulary - 1,
        )
    )


_MODELS: dict[str, Callable[[Kin, int], PreTrainedModel]] = {
    "llava": _llava,
    "paligemma": _paligemma,
    "idefics": _idefics,
    "mllama": _mllama,
}


class ExactNorm(nn.Module):
    """An RMSNorm in the precision of its input: those of transformers compute in float32 whatever they are given."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = next(getattr(norm, n) for n in ("variance_epsilon", "eps") if getattr(norm, n, None) is not None)
        self.offset = 1.0 if "Gemma" in type(norm).__name__ else 0.0

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * (self.weight + self.offset)


def exact_norms(model: nn.Module) -> None:
    """Replace every RMSNorm in `model` by `ExactNorm`; parameter names stay."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if "RMSNorm" in type(child).__name__:
                setattr(module, name, ExactNorm(child))


def reference_inputs(reference: PreTrainedModel, batch: Batch, vlm: VLM) -> dict[str, Tensor]:
    """The batch as transformers' class wants it; PaliGemma's suffix begins at the first label."""
    inputs = inputs_for(reference, vlm, batch)
    if "token_type_ids" in inputs:
        inputs["token_type_ids"] = ((batch.labels != IGNORE).cumsum(1) > 0).long()
    return inputs
