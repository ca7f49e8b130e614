"""Fully autoregressive: visual tokens take their places in the text sequence (LLaVA, Idefics2, Idefics3)."""

from __future__ import annotations

from torch import Tensor

from vlm_ablate.errors import ModelError
from vlm_ablate.models.architectures.base import Architecture, Visual
from vlm_ablate.models.language.base import LanguageModel


class Autoregressive(Architecture):
    """Each `<image>` placeholder's embedding is replaced by a visual token of the language model's own width."""

    def connector_width(self, language: LanguageModel, vision_width: int) -> int:
        return language.hidden

    def text_tokens(self, visual_tokens: int) -> int:
        return visual_tokens

    def embed(self, embeds: Tensor, is_image: Tensor, visual: Visual | None) -> Tensor:
        given = 0 if visual is None else visual.states.shape[0] * visual.states.shape[1]
        places = int(is_image.sum())
        if places != given:
            raise ModelError(f"the text has {places} <image> placeholders for {given} visual tokens")
        if visual is None:
            return embeds
        return embeds.masked_scatter(is_image[..., None], visual.states.to(embeds.dtype))
