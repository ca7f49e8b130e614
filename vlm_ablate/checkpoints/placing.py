"""Tensors of a checkpoint into the parameters of an assembly, all or those of single parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import cast

import torch
from torch import Tensor, nn

from vlm_ablate.checkpoints.families.base import POSITIONS
from vlm_ablate.errors import ModelError
from vlm_ablate.models.language.vocabulary import ExtendedEmbedding, ExtendedHead
from vlm_ablate.models.renaming import Renaming
from vlm_ablate.models.vision.siglip import resize_positions
from vlm_ablate.models.vlm import VLM

PARTS = ("vision", "language", "connector", "architecture")
"""Parts of a model that have weights; the names of their tensors here begin with them."""


@torch.no_grad()
def import_tensors(vlm: VLM, tensors: Mapping[str, Tensor], names: Renaming, parts: Sequence[str] = PARTS) -> None:
    """Load tensors that `names` finds places for; of single parts, those of others are passed over.

    Layers that the vision encoder cut off, because nothing reads them, are left out, and so is a head that equals the
    embedding where both are one table here.

    Raises:
        ModelError: tensors are missing or surplus, or have other shapes.
    """
    incoming, surplus = names.group(tensors)
    wanted = tuple(f"{part}." for part in parts)
    own = {n: p for n, p in vlm.named_parameters() if "trainable_tokens" not in n and n.startswith(wanted)}
    if len(parts) < len(PARTS):
        incoming, surplus = {n: theirs for n, theirs in incoming.items() if n.startswith(wanted)}, []
    statistics = _statistics(vlm)
    for name in vlm.vision.cut_away:
        incoming.pop(f"vision.backbone.{name}", None)
    tables = _tables(vlm)
    embedding, head = tables
    if tables[head].weight is tables[embedding].weight and head in incoming:
        _check_same_table(incoming.pop(head), incoming.get(embedding, []), tensors)
    missing = sorted(set(own) - set(incoming))
    surplus += sorted(set(incoming) - set(own) - set(statistics))
    if missing or surplus:
        raise ModelError(
            f"the checkpoint does not fit this assembly: missing {missing[:4]}, surplus {surplus[:4]}"
            f" ({len(missing)} missing, {len(surplus)} surplus)"
        )
    for name, parameter in own.items():
        rows = [tensors[theirs] for theirs in incoming[name]]
        tensor = torch.cat(rows) if len(rows) > 1 else rows[0]
        if name in tables:
            tensor = _split_rows(tables[name], tensor)
        elif name == f"{head.removesuffix('weight')}bias":
            tensor = tensor[: len(parameter)]  # new tokens, beyond it, have none
        elif name == POSITIONS and _is_square(tensor) and _is_square(parameter):
            tensor = resize_positions(tensor.float(), len(parameter))
        elif "alpha_" in name and tensor.dim() == 3:
            tensor = tensor[0, 0]  # Idefics' gates by channel: (1, 1, hidden) there, (hidden,) here
        if tensor.shape != parameter.shape:
            raise ModelError(
                f"{name}: the checkpoint has {tuple(tensor.shape)}, this assembly {tuple(parameter.shape)}",
                hint=f"widths must agree; here the vision encoder gives {vlm.vision.width}, the language model takes"
                f" {vlm.language.hidden}",
            )
        parameter.copy_(tensor)
    for name in set(incoming) & set(statistics):
        statistics[name].copy_(tensors[incoming[name][0]])


def _is_square(table: Tensor) -> bool:
    """Whether its rows are the places of a square grid, and no class token's beside them (CLIP's)."""
    return isqrt(len(table)) ** 2 == len(table)


def _statistics(vlm: VLM) -> dict[str, Tensor]:
    """Buffers that a checkpoint keeps, such as those of batch norms: taken where a checkpoint has them."""
    kept = vlm.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in vlm.named_buffers() if name in kept}


def _check_same_table(head: list[str], embedding: list[str], tensors: Mapping[str, Tensor]) -> None:
    """Whether the rows of a checkpoint's output head are those of its embedding; on meta, where none are, taken so."""
    if not embedding or any(tensors[name].is_meta for name in (*head, *embedding)):
        return
    rows, table = (torch.cat([tensors[name] for name in names]) for names in (head, embedding))
    shared = min(len(rows), len(table))
    if not torch.equal(rows[:shared], table[:shared]):
        raise ModelError(
            f"the checkpoint's output head ({head[0]}) is another table than its embedding, and finds no place:"
            " in this assembly both are one",
            hint="give the same checkpoint as the language model's `id`",
        )


def _tables(vlm: VLM) -> dict[str, nn.Module]:
    """Name of its weight -> embedding and output head of the language model, whatever its family calls them."""
    model = vlm.language.model
    paths = {module: path for path, module in vlm.named_modules()}
    both = (model.get_input_embeddings(), model.get_output_embeddings())
    return {f"{paths[module]}.weight": module for module in both}


def _split_rows(module: nn.Module, table: Tensor) -> Tensor:
    """Rows of new tokens go to their own parameter; the rest is returned for the base table.

    A table that ends before the last new token knows nothing of those beyond its end: they stay as they were.

    Args:
        module: the embedding or the output head.
    """
    base = len(cast(Tensor, module.weight))
    extended = module if isinstance(module, ExtendedEmbedding | ExtendedHead) else None
    end = base if extended is None else extended.start + len(extended.trainable_tokens)
    if not base <= len(table) <= max(base, end):
        raise ModelError(f"the checkpoint's vocabulary has {len(table)} rows, this assembly's {max(base, end)}")
    if extended is not None and len(table) > extended.start:
        known = table[extended.start : end]
        extended.trainable_tokens[: len(known)].copy_(known)
    return table[:base]
