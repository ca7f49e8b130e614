"""New vocabulary rows beside a base table that stays as it is.

The rows of added tokens are parameters of their own: they can be trained while the base table is frozen, need no
optimiser state for the table, and leave the checkpoint's own tensors untouched.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, pad

from vlm_ablate.models.language.base import LanguageModel, trained_dtype


class ExtendedEmbedding(nn.Embedding):
    """An embedding table whose ids from `start` on, `new_rows` of them, are rows of a second table.

    Where the base table is padded beyond its tokeniser, new ids lie over the padding: those base rows are not read.
    """

    def __init__(self, base: nn.Embedding, new_rows: nn.Parameter, start: int) -> None:
        nn.Module.__init__(self)
        self.weight = base.weight
        self.trainable_tokens = new_rows
        self.start = start
        self.embedding_dim = base.embedding_dim
        self.num_embeddings = max(base.num_embeddings, start + len(new_rows))
        self.padding_idx, self.max_norm, self.norm_type = base.padding_idx, None, 2.0
        self.scale_grad_by_freq, self.sparse = False, False
        scale = getattr(base, "embed_scale", None)  # Gemma 3 multiplies inside its embedding module
        self.scale = float(scale) if scale is not None else None

    def forward(self, input: Tensor) -> Tensor:
        new = input - self.start
        is_new = (new >= 0) & (new < len(self.trainable_tokens))
        old = embedding(input.masked_fill(is_new, 0), self.weight)
        added = embedding(new.clamp(0, len(self.trainable_tokens) - 1), self.trainable_tokens)
        states = torch.where(is_new[..., None], added, old)
        return states if self.scale is None else states * states.new_tensor(self.scale)


class ExtendedHead(nn.Linear):
    """An output head with the logits of new tokens in their places; rows may be shared with the embedding.

    Ids between the base table and `start`, which the embedding alone knows (Mllama's), are never predicted.
    """

    def __init__(self, base: nn.Linear, new_rows: nn.Parameter, start: int) -> None:
        nn.Module.__init__(self)
        self.weight, self.trainable_tokens, self.start = base.weight, new_rows, start
        self.register_parameter("bias", base.bias)
        self.in_features = base.in_features
        self.out_features = max(base.out_features, start + len(new_rows))

    def forward(self, input: Tensor) -> Tensor:
        old, new = linear(input, self.weight, self.bias), linear(input, self.trainable_tokens)
        if self.start > old.shape[-1]:
            old = pad(old, (0, self.start - old.shape[-1]), value=float("-inf"))
        return torch.cat([old[..., : self.start], new, old[..., self.start + len(self.trainable_tokens) :]], dim=-1)


def extend_vocabulary(language: LanguageModel, start: int, count: int) -> None:
    """Give the ids `start` .. `start + count - 1` rows of their own in the embedding and the output head.

    They start at the mean of the base table plus a tenth of its standard deviation in noise, from torch's generator.
    """
    if count == 0:
        return
    model = language.model
    table = cast(nn.Embedding, model.get_input_embeddings())
    head = cast(nn.Linear | None, model.get_output_embeddings())
    tied = head is not None and head.weight is table.weight
    rows = nn.Parameter(_initial_rows(table.weight, start, count))
    extended = ExtendedEmbedding(table, rows, start)
    model.set_input_embeddings(extended)
    if head is not None:
        head_rows = rows if tied else nn.Parameter(_initial_rows(head.weight, start, count))
        model.set_output_embeddings(ExtendedHead(head, head_rows, start))
    model.config.vocab_size = extended.num_embeddings


@torch.no_grad()
def _initial_rows(table: Tensor, start: int, count: int) -> Tensor:
    if table.is_meta:
        return torch.empty(count, table.shape[1], device="meta", dtype=trained_dtype(table.dtype))
    known = table[:start].float()
    noise = torch.randn(count, table.shape[1]) * known.std(0) * 0.1
    return (known.mean(0) + noise).to(trained_dtype(table.dtype))


def plain_table(weight: Tensor, new_rows: Tensor | None, start: int) -> Tensor:
    """The one table that an extended one stands for, (vocabulary, hidden).

    Rows between a table that ends before `start` and the new ones, which it does not have, are zeros.
    """
    if new_rows is None:
        return weight
    between = weight.new_zeros(max(0, start - len(weight)), *weight.shape[1:])
    return torch.cat([weight[:start], between, new_rows, weight[start + len(new_rows) :]])


def short_head(language: LanguageModel) -> tuple[int, int, int] | None:
    """Of an output head that lacks rows of the embedding (Mllama's): its rows, first new token, end; None: it has all.

    What lies between its rows and the first new token, and beyond the end, is never predicted.
    """
    head = cast(nn.Linear | None, language.model.get_output_embeddings())
    if head is None:
        return None
    rows, end = len(head.weight), head.out_features
    start = head.start if isinstance(head, ExtendedHead) else language.vocabulary
    return (rows, start, max(start, end)) if rows < start else None


def shorten_head(language: LanguageModel, rows: int, start: int, end: int) -> None:
    """Make a head with a row for every id of the embedding what `short_head` told of."""
    model = language.model
    whole = cast(nn.Linear, model.get_output_embeddings()).weight.detach()
    base = nn.Linear(whole.shape[1], rows, bias=False, device="meta")
    base.weight = nn.Parameter(whole[:rows].clone())
    if end > start:
        base = ExtendedHead(base, nn.Parameter(whole[start:end].clone()), start)
    model.set_output_embeddings(base)
