"""Pretraining of the stand-in language model: a small Llama, in three phases.

First language: packed documents, loss on every token. Then answering: questions on described pictures and lists to be
repeated, loss on the answers alone and embeddings fixed. A model this small learns to look things up in its context
only when that is what it is paid for. Last looking: half the descriptions are vectors that say a name and its place at
once, in any order and with noise, as visual tokens would. Large language models need no such lesson; a connector for
this one has minutes, not days, to find its language.

The two qualities differ in nothing but the number of steps, as the paper's Table 1 compares two language models of
one size.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from vlm_ablate.offline import facts, pictures
from vlm_ablate.offline.pretrain.corpus import Slot, documents, exercises, glimpses, wordnet_record
from vlm_ablate.offline.pretrain.phases import Measured, phase
from vlm_ablate.offline.pretrain.recipe import STANDINS, write_recipe
from vlm_ablate.offline.pretrain.tokenizer import train_tokenizer
from vlm_ablate.provenance import AssetRecord

Quality = Literal["good", "poor"]


@dataclass(frozen=True)
class LanguageRecipe:
    """Everything that decides the weights."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 384
    vocab_size: int = 3072
    tokenizer_documents: int = 60_000
    sequence_length: int = 448
    batch_size: int = 10
    steps: int = 1500
    learning_rate: float = 3e-3
    warmup_steps: int = 60
    weight_decay: float = 0.1
    answering_steps: int = 900
    answering_learning_rate: float = 2e-3
    looking_steps: int = 1000
    looking_learning_rate: float = 1.5e-3
    slot_noise: float = 0.3
    """Standard deviation of the isotropic noise on a slot, over that of the embeddings."""
    slot_confusion: float = 0.7
    """The same, at most, of the noise that is distributed as the embeddings themselves: what a poor encoder says."""
    seed: int = 0

    @property
    def total_steps(self) -> int:
        """Of all phases."""
        return self.steps + self.answering_steps + self.looking_steps

    def until(self, phase: str) -> dict[str, Any]:
        """The fields that decide the weights after `phase`."""
        later = {"language": ("answering", "looking", "slot"), "answering": ("looking", "slot"), "looking": ()}[phase]
        return {key: value for key, value in asdict(self).items() if not key.startswith(later)}


RECIPES: dict[Quality, LanguageRecipe] = {
    "good": LanguageRecipe(),
    "poor": LanguageRecipe(steps=150, warmup_steps=20, answering_steps=90, looking_steps=100),
}

_ANSWERS = re.compile(r"(?:Answer|Caption):(.*?\n\n)", re.DOTALL)


def pretrain_language(
    quality: Quality, wordnet: Path, *, out: Path | None = None, recipe: LanguageRecipe | None = None,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Path:
    """Train a tokenizer and a language model and write config, tokenizer, weights (fp16) and recipe to `out`.

    `on_step(step, steps, loss)` is called after every step. Returns the folder.

    Raises:
        AssetMissing: WordNet or a package of the `offline` extra is not installed.
    """
    recipe = recipe or RECIPES[quality]
    out = out or STANDINS / f"llama-nano-{quality}"
    out.mkdir(parents=True, exist_ok=True)
    texts = documents(random.Random(f"tokenizer/{recipe.seed}"), wordnet)
    tokenizer = train_tokenizer(itertools.islice(texts, recipe.tokenizer_documents), recipe.vocab_size)
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(_config(recipe, tokenizer))
    sources = [wordnet_record(wordnet), *facts.licence_records(), *pictures.licence_records()]
    measured = _phases(model, tokenizer, recipe, documents(random.Random(f"train/{recipe.seed}"), wordnet), sources,
                       on_step)
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    measured |= {"tokens": recipe.total_steps * recipe.batch_size * recipe.sequence_length,
                 "parameters": sum(p.numel() for p in model.parameters())}
    write_recipe(out, {"quality": quality, **asdict(recipe)}, sources, measured)
    return out


def _phases(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: LanguageRecipe, language: Iterator[str],
    sources: list[AssetRecord], on_step: Callable[[int, int, float], None],
) -> dict[str, float]:
    """The three phases in turn; returns the smoothed loss at the end of each."""

    def run(name: str, batches: Iterator[tuple[Tensor, Tensor]], steps: int, rate: float, done: int) -> Measured:
        settings = {"recipe": recipe.until(name), "sources": [s.to_dict() for s in sources]}
        return phase(model, f"llama-nano-{name}", settings, lambda: {f"{name}_loss": round(_train(
            model, batches, recipe, steps, rate, lambda step, loss: on_step(done + step, recipe.total_steps, loss)
        ), 4)})

    packed = _batches(recipe, tokenizer, language, everything=True)
    measured = run("language", packed, recipe.steps, recipe.learning_rate, 0)
    model.get_input_embeddings().requires_grad_(False)
    packed = _batches(recipe, tokenizer, exercises(random.Random(f"answering/{recipe.seed}")), everything=False)
    measured |= run("answering", packed, recipe.answering_steps, recipe.answering_learning_rate, recipe.steps)
    looking = looking_batches(recipe, tokenizer, model.model.embed_tokens.weight.detach())
    done = recipe.steps + recipe.answering_steps
    return measured | run("looking", looking, recipe.looking_steps, recipe.looking_learning_rate, done)


def _config(recipe: LanguageRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=recipe.hidden, intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads, num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )


def _batches(
    recipe: LanguageRecipe, tokenizer: PreTrainedTokenizerFast, texts: Iterator[str], *, everything: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (tokens, labels), each (batch_size, sequence_length + 1): documents back to back between <s> and </s>.

    Labels are -100 where nothing is learned: nowhere (`everything`), or everywhere but in answers.
    """
    need = recipe.batch_size * (recipe.sequence_length + 1)
    tokens: list[int] = []
    labels: list[int] = []
    while True:
        while len(tokens) < need:
            chunk = list(itertools.islice(texts, 256))
            coded = tokenizer(chunk, add_special_tokens=False, return_offsets_mapping=True)
            for text, ids, offsets in zip(chunk, coded["input_ids"], coded["offset_mapping"], strict=True):
                tokens += [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
                if everything:
                    labels += [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
                else:
                    learned = _answer_characters(text)
                    inner = [t if learned[end - 1] else -100 for t, (_, end) in zip(ids, offsets, strict=True)]
                    labels += [-100, *inner, -100]
        shape = (recipe.batch_size, -1)
        yield torch.tensor(tokens[:need]).view(shape), torch.tensor(labels[:need]).view(shape)
        tokens, labels = tokens[need:], labels[need:]


def _answer_characters(text: str) -> list[bool]:
    """For each character, whether it belongs to an answer."""
    learned = [False] * len(text)
    for found in _ANSWERS.finditer(text):
        learned[found.start(1) : found.end(1)] = [True] * (found.end(1) - found.start(1))
    return learned


def _train(
    model: LlamaForCausalLM, batches: Iterator[tuple[Tensor, Tensor]], recipe: LanguageRecipe, steps: int,
    learning_rate: float, on_step: Callable[[int, float], None],
) -> float:
    """Train what asks for gradients on batches of token ids or of embeddings; returns the smoothed loss."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(recipe.warmup_steps, steps // 5), steps)
    smoothed = 0.0
    model.train()
    for step, (tokens, labels) in enumerate(itertools.islice(batches, steps), 1):
        given = {"input_ids": tokens[:, :-1]} if tokens.ndim == 2 else {"inputs_embeds": tokens[:, :-1]}
        hidden = model.model(**given, use_cache=False).last_hidden_state
        targets = labels[:, 1:]
        known = targets != -100
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[known]), targets[known])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        smoothed = loss.item() if step == 1 else 0.95 * smoothed + 0.05 * loss.item()
        on_step(step, smoothed)
    return smoothed


class Slots:
    """Turns slots into vectors in the space of the language model's embeddings, which no longer change."""

    def __init__(self, table: Tensor, tokenizer: PreTrainedTokenizerFast, recipe: LanguageRecipe) -> None:
        self.table, self.tokenizer = table, tokenizer
        self.noise, self.confusion = recipe.slot_noise * table.std().item(), recipe.slot_confusion
        self.spread = torch.linalg.cholesky(torch.cov(table.T) + 1e-6 * torch.eye(table.shape[1]))
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self._known: dict[str, Tensor] = {}

    def vectors(self, slots: list[Slot]) -> Tensor:
        """(slots, width): the sum of the mean embeddings of each slot's texts, scaled by 0.7 to 1.3, with noise.

        A picture is seen more or less clearly: one draw decides how far its slots are confused with other words.
        """
        rows = torch.stack([sum(map(self._mean, slot), start=torch.zeros(())) for slot in slots])
        scale = 0.7 + 0.6 * torch.rand(len(rows), 1, generator=self.generator)
        confusion = self.confusion * torch.rand(1, generator=self.generator)
        noise, other = (torch.randn(rows.shape, generator=self.generator) for _ in range(2))
        mistaken: Tensor = other @ self.spread.T
        return rows * scale + self.noise * noise + confusion * mistaken

    def _mean(self, text: str) -> Tensor:
        if text not in self._known:
            ids = self.tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
            self._known[text] = self.table[torch.tensor(ids)].mean(0)
        return self._known[text]


def looking_batches(
    recipe: LanguageRecipe, tokenizer: PreTrainedTokenizerFast, table: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (embeddings (batch, sequence + 1, width), labels): half glimpses, half exercises in words."""
    rng, slots = random.Random(f"looking/{recipe.seed}"), Slots(table, tokenizer, recipe)
    words = exercises(random.Random(f"looking words/{recipe.seed}"))
    need = recipe.batch_size * (recipe.sequence_length + 1)
    embeddings, labels, length = [], [], 0
    while True:
        while length < need:
            pairs = glimpses(rng) if rng.random() < 0.6 else [([], next(words))]
            rows, marks = [table[tokenizer.bos_token_id][None]], [-100]
            for seen, text in pairs:
                coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
                learned = _answer_characters(text)
                if seen:
                    rows.append(slots.vectors(seen))
                    marks += [-100] * len(seen)
                rows.append(table[torch.tensor(coded["input_ids"])])
                pieces = zip(coded["input_ids"], coded["offset_mapping"], strict=True)
                marks += [token if learned[end - 1] else -100 for token, (_, end) in pieces]
            embeddings.append(torch.cat(rows))
            labels += marks
            length += len(marks)
        packed = torch.cat(embeddings)
        shape = recipe.batch_size, recipe.sequence_length + 1
        yield packed[:need].view(*shape, -1), torch.tensor(labels[:need]).view(shape)
        embeddings, labels, length = [packed[need:]], labels[need:], length - need
