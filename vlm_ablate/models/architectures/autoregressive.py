"""Fully autoregressive: visual tokens take their places in the text sequence (LLaVA, Idefics2, Idefics3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_masks_for_generate

from vlm_ablate.errors import ModelError
from vlm_ablate.models.architectures.base import Architecture, Visual
from vlm_ablate.models.architectures.configs import AutoregressiveConfig
from vlm_ablate.models.language.base import LanguageModel


class Autoregressive(Architecture):
    """Each `<image>` placeholder's embedding is replaced by a visual token of the language model's own width.

    With `prompt: bidirectional` all positions of a prompt attend to each other (PaliGemma, arXiv:2407.07726): a forward
    pre-hook on the decoder makes the mask, so that the language model's modules and state dict stay as they are.
    """

    config: AutoregressiveConfig
    _prompt: Tensor | None = None

    def connector_width(self, language: LanguageModel, vision_width: int) -> int:
        return language.hidden

    def text_tokens(self, visual_tokens: int) -> int:
        return visual_tokens

    def install(self, language: LanguageModel) -> None:
        if self.config.prompt == "bidirectional":
            language.decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True)

    @contextmanager
    def seeing(self, is_image: Tensor, visual: Visual | None, prompt: Tensor | None = None) -> Iterator[None]:
        before, self._prompt = self._prompt, torch.ones_like(is_image) if prompt is None else prompt
        try:
            yield
        finally:
            self._prompt = before

    def _before_decoder(self, decoder: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        embeds, prompt = kwargs.get("inputs_embeds"), self._prompt
        if prompt is None or embeds is None or embeds.shape[1] != prompt.shape[1]:
            return args, kwargs  # generated tokens: they see all before them
        mask = create_masks_for_generate(
            decoder.config,
            inputs_embeds=embeds,
            attention_mask=kwargs.get("attention_mask"),
            past_key_values=kwargs.get("past_key_values"),
            position_ids=kwargs.get("position_ids"),
            block_sequence_ids=torch.where(prompt, 0, -1),
        )
        return args, {**kwargs, "attention_mask": mask}

    def embed(self, embeds: Tensor, is_image: Tensor, visual: Visual | None) -> Tensor:
        given = 0 if visual is None else visual.states.shape[0] * visual.states.shape[1]
        places = int(is_image.sum())
        if places != given:
            raise ModelError(f"the text has {places} <image> placeholders for {given} visual tokens")
        if visual is None:
            return embeds
        return embeds.masked_scatter(is_image[..., None], visual.states.to(embeds.dtype))
