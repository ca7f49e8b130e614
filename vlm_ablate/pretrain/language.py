"""Pretraining of the stand-in language model: a small Llama on packed documents.

The two qualities differ in nothing but the number of steps, as the paper's Table 1 compares two language models of
one size.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from vlm_ablate.data.offline import facts, pictures
from vlm_ablate.pretrain.corpus import documents, wordnet_record
from vlm_ablate.pretrain.recipe import STANDINS, write_recipe
from vlm_ablate.pretrain.tokenizer import train_tokenizer

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
    seed: int = 0


RECIPES: dict[Quality, LanguageRecipe] = {"good": LanguageRecipe(), "poor": LanguageRecipe(steps=150, warmup_steps=20)}


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
    started = time.perf_counter()
    loss = _train(model, _batches(recipe, tokenizer, wordnet), recipe, on_step)
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    sources = [wordnet_record(wordnet), *facts.licence_records(), *pictures.licence_records()]
    measured = {"final_loss": round(loss, 4), "seconds": round(time.perf_counter() - started),
                "tokens": recipe.steps * recipe.batch_size * recipe.sequence_length,
                "parameters": sum(p.numel() for p in model.parameters())}
    write_recipe(out, {"quality": quality, **asdict(recipe)}, sources, measured)
    return out


def _config(recipe: LanguageRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=recipe.hidden, intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads, num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )


def _batches(recipe: LanguageRecipe, tokenizer: PreTrainedTokenizerFast, wordnet: Path) -> Iterator[Tensor]:
    """Endless batches (batch_size, sequence_length + 1) of documents packed back to back, each between <s> and </s>."""
    stream = documents(random.Random(f"train/{recipe.seed}"), wordnet)
    need = recipe.batch_size * (recipe.sequence_length + 1)
    buffer: list[int] = []
    while True:
        while len(buffer) < need:
            texts = list(itertools.islice(stream, 256))
            for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
                buffer += [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        yield torch.tensor(buffer[:need]).view(recipe.batch_size, -1)
        buffer = buffer[need:]


def _train(model: LlamaForCausalLM, batches: Iterator[Tensor], recipe: LanguageRecipe, on_step) -> float:
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, recipe.warmup_steps, recipe.steps)
    smoothed = 0.0
    model.train()
    for step, batch in enumerate(itertools.islice(batches, recipe.steps), 1):
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        smoothed = loss.item() if step == 1 else 0.95 * smoothed + 0.05 * loss.item()
        on_step(step, recipe.steps, smoothed)
    return smoothed
