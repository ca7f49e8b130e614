"""A small assembly with a real Llama, and batches that are a pure function of their index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from vlm_ablate.config.stages import Stage
from vlm_ablate.models.batch import IGNORE, Batch

PATCH = 8
PLACEHOLDER = 1
VIEW_TOKENS = 4


@dataclass
class Output:
    loss_sum: Tensor
    supervised_tokens: Tensor


class Language(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        config = LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, attention_dropout=dropout, max_position_embeddings=64,
        )  # fmt: skip
        self.model = LlamaForCausalLM(config)


class SmallVLM(nn.Module):
    """Patches of 16 x 16 pictures become 4 visual tokens in place of the placeholders."""

    image_token_id = PLACEHOLDER

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.vision = nn.Sequential(nn.Conv2d(3, 16, PATCH, PATCH), nn.BatchNorm2d(16))
        self.connector = nn.Linear(16, 32)
        self.language = Language(dropout)
        self.neftune_alpha: float | None = None

    def visual_tokens(self, height: int, width: int) -> int:
        return (height // PATCH) * (width // PATCH)

    def forward(self, batch: Batch) -> Output:
        embedded = self.language.model.get_input_embeddings()(batch.input_ids)
        if self.training and self.neftune_alpha:
            embedded = embedded + torch.rand_like(embedded) * self.neftune_alpha / 100
        visual = self.connector(self.vision(batch.pixel_values).flatten(2).transpose(1, 2)).flatten(0, 1)
        embedded = embedded.masked_scatter((batch.input_ids == PLACEHOLDER)[..., None], visual)
        hidden = self.language.model.model(inputs_embeds=embedded, attention_mask=batch.attention_mask.long())[0]
        labels = batch.labels[:, 1:]
        logits = self.language.model.lm_head(hidden[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")
        return Output(loss, (labels != IGNORE).sum())


def sample_row(index: int, seed: int = 0) -> dict[str, Tensor]:
    """Sequence of 8..20 tokens with one picture; the number of supervised tokens differs from row to row."""
    generator = torch.Generator().manual_seed(seed * 100_003 + index)
    length = int(torch.randint(8, 21, (), generator=generator))
    ids = torch.randint(2, 64, (20,), generator=generator)
    ids[1 : 1 + VIEW_TOKENS] = PLACEHOLDER
    mask = torch.arange(20) < length
    labels = torch.where(mask & (torch.arange(20) > VIEW_TOKENS), ids, torch.tensor(IGNORE))
    return {"ids": ids, "mask": mask, "labels": labels, "pixels": torch.rand(3, 16, 16, generator=generator)}


def collate(rows: list[tuple[int, dict[str, Tensor]]]) -> Batch:
    parts = [row for _, row in rows]
    return Batch(
        input_ids=torch.stack([p["ids"] for p in parts]),
        segment=torch.stack([p["mask"].long() for p in parts]),
        labels=torch.stack([p["labels"] for p in parts]),
        pixel_values=torch.stack([p["pixels"] for p in parts]),
        pixel_mask=None,
        view_sample=torch.arange(len(parts)),
        sample_ids=[str(i) for i, _ in rows],
        images=len(parts),
    )


class Rows(Dataset):
    def __getitem__(self, index: int) -> tuple[int, dict[str, Tensor]]:
        return index, sample_row(index)


@dataclass
class Endless:
    """Micro-batches from `start` on, dealt to ranks in turn."""

    start: int
    size: int
    rank: int
    world: int

    def __iter__(self) -> Iterator[list[int]]:
        at = self.start + self.rank * self.size
        while True:
            yield list(range(at, at + self.size))
            at += self.size * self.world


class RowData(pl.LightningDataModule):
    def __init__(self, stage: Stage, start: int, micro_batch_size: int | None = None) -> None:
        super().__init__()
        self.stage, self.start, self.micro_batch_size = stage, start, micro_batch_size
        self.from_step = 0

    def train_dataloader(self) -> DataLoader:
        world, rank = self.trainer.world_size, self.trainer.global_rank
        size = self.micro_batch_size or self.stage.batch_size // world
        start = self.start + self.from_step * self.stage.batch_size
        return DataLoader(Rows(), batch_sampler=Endless(start, size, rank, world), collate_fn=collate)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.trainer.global_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.from_step = state_dict["step"]
