"""Greedy generation through transformers' `generate`, with stop strings found in the decoded text."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from vlm_ablate.models.language.base import LanguageModel
from vlm_ablate.models.tokens import END_OF_UTTERANCE


def greedy(
    language: LanguageModel,
    embeds: Tensor,
    attention_mask: Tensor,
    *,
    max_new_tokens: int,
    stop: list[str],
    cache: Cache | None = None,
) -> list[str]:
    """Continue left-padded prompts.

    Args:
        language: in evaluation mode.
        embeds: (batch, sequence, hidden).
        attention_mask: (batch, sequence) bool.
        max_new_tokens: at most so many tokens a row.
        stop: a row ends before the first of these strings in its text.
        cache: keys and values of the first columns, where they were computed before; it is written on.

    Returns:
        The continuations, without special tokens and stop strings.
    """
    tokenizer, ends = language.require_tokenizer(), end_ids(language)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0],
        use_cache=True,
    )
    model: Any = language.model  # its type does not tell of `generate`
    own, model.generation_config = model.generation_config, config
    try:
        ids = model.generate(
            inputs_embeds=embeds,
            attention_mask=attention_mask.long(),
            generation_config=config,
            **({} if cache is None else {"past_key_values": cache}),
            stopping_criteria=StoppingCriteriaList([StopStrings(tokenizer, stop)] if stop else []),
        )
    finally:
        model.generation_config = own
    return [decode(tokenizer, row, ends, stop) for row in ids.tolist()]


def end_ids(language: LanguageModel) -> list[int]:
    """Ids that end a text: those of the checkpoint's generation_config, the tokeniser's, and the end of utterance."""
    tokenizer, kept = language.require_tokenizer(), getattr(language.model, "generation_config", None)
    said = getattr(kept, "eos_token_id", None)
    ids = {tokenizer.eos_token_id, tokenizer.get_vocab().get(END_OF_UTTERANCE)}
    ids |= set(said) if isinstance(said, list | tuple) else {said}
    return sorted(i for i in ids if i is not None and 0 <= i < language.vocabulary)


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: list[int], stop: list[str]) -> str:
    """The text of a row of generated ids up to its end or the first stop string."""
    cut = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    text = cast(str, tokenizer.decode(ids[:cut], skip_special_tokens=True))  # of one row
    places = [place for place in (text.find(s) for s in stop) if place >= 0]
    return text[: min(places)] if places else text


class StopStrings(StoppingCriteria):
    """Ends a row whose generated text holds one of the strings."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: list[str]) -> None:
        self.tokenizer, self.strings = tokenizer, strings

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        texts = self.tokenizer.batch_decode(input_ids, skip_special_tokens=True)
        done = [any(s in text for s in self.strings) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)
