"""Greedy generation through transformers' `generate`: what prompts begin with in common is computed once, stop strings
are found in the decoded text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from vlm_ablate.models.architectures.base import Architecture, Part, Reading
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.beginnings import Beginnings, Plan, part_of
from vlm_ablate.models.language.base import LanguageModel, evaluating
from vlm_ablate.models.tokens import END_OF_UTTERANCE


def continued(
    language: LanguageModel,
    architecture: Architecture,
    prompts: Batch,
    reading: Reading,
    text: Tensor,
    *,
    max_new_tokens: int,
    stop: list[str],
    beginnings: Beginnings | None,
) -> list[str]:
    """Greedy continuations of left-padded prompts.

    Args:
        reading: what the prompts give the language model to read.
        text: (batch, sequence, hidden): their embedded tokens.
        max_new_tokens, stop: see `greedy`.
        beginnings: computes what prompts begin with in common once, where that pays and the views have names
            (`Batch.view_keys`); None: every prompt is computed whole.
    """
    if beginnings is not None and reading.visual is not None and prompts.view_keys is not None:
        reading = replace(reading, visual=replace(reading.visual, same=_same(prompts)))
    embeds = architecture.embed(text, reading)
    with evaluating(language.model):
        plan = None if beginnings is None else _shared(language, architecture, prompts, reading, beginnings)
        cache: DynamicCache | None = None
        part: tuple[Part, ...] = ()
        if beginnings is not None and plan is not None:
            cache = _begun(language, architecture, embeds, reading, beginnings, plan)
            part = (part_of(plan.step, prompts.attention_mask.sum(1), embeds.shape[1]),)
        with architecture.seeing(reading, *part), architecture.decoding():
            return greedy(
                language, embeds, prompts.attention_mask, max_new_tokens=max_new_tokens, stop=stop, cache=cache
            )


def _same(batch: Batch) -> Tensor:
    """(views,) long: of each view, in the order of the batch's rows, the number of the first with its name."""
    assert batch.view_keys is not None
    first: dict[bytes, int] = {}
    order = batch.view_sample.argsort(stable=True).tolist()
    numbers = [first.setdefault(batch.view_keys[view], number) for number, view in enumerate(order)]
    return torch.tensor(numbers, dtype=torch.long, device=batch.view_sample.device)


def _shared(
    language: LanguageModel, architecture: Architecture, prompts: Batch, reading: Reading, beginnings: Beginnings
) -> Plan | None:
    """How prompts are computed that begin alike; None: each whole."""
    views: list[tuple[bytes, int]] = []
    if len(prompts.input_ids) < 2:
        return None
    if (visual := reading.visual) is not None:
        if prompts.view_keys is None:
            return None
        counts = [visual.states.shape[1]] * len(visual.states) if visual.own is None else visual.own.sum(1).tolist()
        order, keys = prompts.view_sample.argsort(stable=True).tolist(), prompts.view_keys
        views = [(keys[view], architecture.placeholders(n)) for view, n in zip(order, counts, strict=True)]
    if not beginnings.serve(language.decoder, language.hidden, looks_back=architecture.looks_back):
        return None
    return beginnings.plan(beginnings.named(prompts.input_ids, prompts.attention_mask, reading.is_image, views))


def _begun(
    language: LanguageModel,
    architecture: Architecture,
    embeds: Tensor,
    reading: Reading,
    beginnings: Beginnings,
    plan: Plan,
) -> DynamicCache:
    """Keys and values of what stands before the columns of the last pass."""
    decoder = language.decoder

    def decode(embeds: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache, part: Part) -> DynamicCache:
        with architecture.seeing(reading, part):
            decoder(
                inputs_embeds=embeds, attention_mask=mask, position_ids=positions, past_key_values=cache,
                use_cache=True,
            )  # fmt: skip
        return cache

    return beginnings.begin(plan, embeds, reading.segment > 0, decode)


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
