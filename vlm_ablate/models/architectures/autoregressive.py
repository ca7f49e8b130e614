"""Fully autoregressive: visual tokens take their places in the text sequence (LLaVA, Idefics2, Idefics3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vlm_ablate.errors import ModelError
from vlm_ablate.models.architectures.base import Architecture, Part, Reading
from vlm_ablate.models.architectures.configs import AutoregressiveConfig
from vlm_ablate.models.documents import current
from vlm_ablate.models.language.base import LanguageModel
from vlm_ablate.models.masks import decoder_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Autoregressive(Architecture):
    """Each `<image>` placeholder's embedding is replaced by a visual token of the language model's own width.

    With `prompt: bidirectional` all positions of a prompt attend to each other (PaliGemma, arXiv:2407.07726): a forward
    pre-hook on the decoder makes the mask, so that the language model's modules and state dict stay as they are.
    """

    config: AutoregressiveConfig
    _reading: Reading | None = None

    def connector_width(self, language: LanguageModel, vision_width: int) -> int:
        return language.hidden

    @property
    def text_alone(self) -> str | None:
        return self.config.prompt if type(self) is Autoregressive else None

    @property
    def looks_back(self) -> bool:
        return type(self) is Autoregressive and self.config.prompt == "causal"

    def placeholders(self, visual_tokens: int) -> int:
        return visual_tokens

    def install(self, language: LanguageModel) -> None:
        if self.config.prompt == "bidirectional":
            language.decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True)

    @contextmanager
    def seeing(self, reading: Reading, part: Part | None = None) -> Iterator[None]:
        before, self._reading = self._reading, reading
        try:
            yield
        finally:
            self._reading = before

    def _before_decoder(
        self, decoder: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        embeds, reading = kwargs.get("inputs_embeds"), self._reading
        if current() is not None:  # documents in one row: attention knows their prompts
            return args, kwargs
        if reading is None or embeds is None or embeds.shape[1] != reading.prefix.shape[1]:
            return args, kwargs  # generated tokens: they see all before them
        return args, {**kwargs, "attention_mask": decoder_mask(decoder.config, embeds, reading.segment, reading.prefix)}

    def both_ways(self, reading: Reading) -> Tensor | None:
        return reading.prefix if self.config.prompt == "bidirectional" else None

    def embed(self, embeds: Tensor, reading: Reading) -> Tensor:
        is_image, visual = reading.is_image, reading.visual
        given = None
        if visual is not None:
            given = visual.states.flatten(0, 1) if visual.own is None else visual.states[visual.own]
        places, tokens = int(is_image.sum()), 0 if given is None else len(given)
        if places != tokens:
            raise ModelError(f"the text has {places} <image> placeholders for {tokens} visual tokens")
        if given is None:
            return embeds
        return embeds.masked_scatter(is_image[..., None], given.to(embeds.dtype))
