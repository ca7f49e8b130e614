"""Prompts of a batch that begin alike, begun once: few-shot prompts whose first shots are the same.

A batch of left-padded prompts is cut before its last columns. What stands before the cut is a beginning of each prompt;
different ones are computed once, themselves in the same manner, which makes a prefix tree. Their keys and values are
then laid before the last columns as if every prompt had been computed by itself, so that generation goes on as ever: in
the same columns, with the same mask and positions, without a gap between what was shared and what was not.

Beginnings are alike where their tokens are, and where their pictures have the same name (`Batch.view_keys`). Keys and
values are then equal in exact arithmetic; sums over another number of rows may round in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from vlm_ablate.events import remark
from vlm_ablate.models import masks
from vlm_ablate.models.architectures.base import Part
from vlm_ablate.models.probing import agree

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WORTH = 0.85
"""Share of the positions up to which what is left to compute must fall, or nothing is shared."""
_PASS = 16
"""Positions that one more pass through the decoder costs beside its own."""

States = list[tuple[Tensor, Tensor]]
"""Of each layer keys and values, (rows, heads, columns, width)."""


@dataclass(frozen=True)
class Step:
    """One pass through the decoder over prompts, or beginnings of prompts, padded on the left to the longest."""

    rows: tuple[int, ...]
    """Of each its prompt, or one of those that begin with it: a row of the batch."""
    lengths: tuple[int, ...]
    own: int
    """Columns that this pass computes, the last ones; at least 1."""
    before: Step | None = None
    """The pass that computes what stands before them; None: nothing does."""
    parents: tuple[int, ...] = ()
    """Of each the number in `before` of what it begins with; 0 where it has nothing before its own columns."""

    @property
    def columns(self) -> int:
        """Of the longest."""
        return max(self.lengths)

    @property
    def cost(self) -> int:
        """Positions that are computed, padding included."""
        return len(self.rows) * self.own + (self.before.cost if self.before else 0)


@dataclass(frozen=True)
class Plan:
    """How a batch is computed."""

    step: Step
    """The last pass."""
    prompts: Sequence[np.ndarray]
    """See `Beginnings.named`."""


class Beginnings:
    """Has a model begin prompts of a batch once that begin alike, and counts what that saves.

    For one model whose weights stay as they are: what all prompts of a batch begin with is kept for the next.
    """

    def __init__(self) -> None:
        self._able: bool | None = None
        self._numbers: dict[bytes, int] = {}
        self._kept: tuple[np.ndarray, States] | None = None
        self.positions = 0
        """Of all prompts, with their padding."""
        self.computed = 0
        """Those that were computed."""

    def serve(self, decoder: PreTrainedModel, width: int, *, looks_back: bool) -> bool:
        """Whether a model can begin prompts once; that it cannot is told once.

        Args:
            decoder: without its output head.
            width: of its inputs.
            looks_back: `Architecture.looks_back`.
        """
        if self._able is None:
            self._able = looks_back and reads_on(decoder, width)
            if not self._able:
                why = "its language model does not read on from kept keys and values" if looks_back else (
                    "what its architecture computes of a beginning may hang on what follows"
                )  # fmt: skip
                remark(f"prompts that begin alike are computed one by one: {why}")
        return self._able

    def plan(self, prompts: Sequence[np.ndarray]) -> Plan | None:
        """How a batch is computed; None where sharing does not pay.

        Args:
            prompts: see `named`.
        """
        step = planned(prompts)
        asked = len(prompts) * step.columns
        self.positions += asked
        self.computed += asked if step.before is None else step.cost
        return None if step.before is None else Plan(step, prompts)

    @torch.no_grad()
    def begin(self, plan: Plan, embeds: Tensor, real: Tensor, decode: Callable[..., DynamicCache]) -> DynamicCache:
        """Keys and values of all columns of a batch but the last ones, `plan.step.own`, for each row.

        Args:
            embeds: (batch, sequence, hidden), padded on the left.
            real: (batch, sequence) bool.
            decode: (embeds, mask, positions, cache, part) -> the cache with the part's keys and values behind its own.
        """
        assert plan.step.before is not None
        return _laid_before(plan.step, self._computed(plan.step.before, plan.prompts, embeds, real.sum(1), decode))

    def _computed(
        self,
        step: Step,
        prompts: Sequence[np.ndarray],
        embeds: Tensor,
        lengths: Tensor,
        decode: Callable[..., DynamicCache],
    ) -> States:
        """Keys and values of all columns of a step."""
        alone = prompts[step.rows[0]][: step.columns] if len(step.rows) == 1 else None
        if alone is not None and self._kept is not None and np.array_equal(self._kept[0], alone):
            self.computed -= step.cost
            return self._kept[1]
        cache = DynamicCache()
        if step.before is not None:
            cache = _laid_before(step, self._computed(step.before, prompts, embeds, lengths, decode))
        part, width = part_of(step, lengths, embeds.shape[1]), step.columns
        own = torch.tensor(step.lengths, device=embeds.device)[:, None]
        real = torch.arange(width, device=embeds.device) >= width - own
        positions = masks.positions(real.long())[:, width - step.own :]
        states = _states(decode(embeds[part.rows[:, None], part.columns], real, positions, cache, part))
        if alone is not None:
            self._kept = alone, states
        return states

    def named(
        self, input_ids: Tensor, real: Tensor, is_image: Tensor, views: Sequence[tuple[bytes, int]]
    ) -> list[np.ndarray]:
        """Of each prompt a number a position, equal where the token is and what a placeholder stands for.

        Args:
            input_ids: (batch, sequence) long.
            real: (batch, sequence) bool, False at padding.
            is_image: (batch, sequence) bool, True at placeholders.
            views: name and number of placeholders of each view, in the order of the batch's rows.

        Raises:
            ValueError: there are more or fewer placeholders.
        """
        ids, shown = input_ids.cpu().numpy().copy(), is_image.cpu().numpy()
        given = np.array([self._numbers.setdefault(name, -1 - len(self._numbers)) for name, _ in views], np.int64)
        ids[shown] = given.repeat(np.array([count for _, count in views], np.int64))
        return [row[kept] for row, kept in zip(ids, real.cpu().numpy(), strict=True)]


def planned(prompts: Sequence[np.ndarray]) -> Step:
    """The passes of a batch, the last one first; `before` is None where none of them pays."""
    return _planned(tuple(range(len(prompts))), np.array([len(prompt) for prompt in prompts]), _alike(prompts))


def _alike(prompts: Sequence[np.ndarray]) -> np.ndarray:
    """(prompts, prompts): how many positions two of them have in common at their start."""
    lengths = [len(prompt) for prompt in prompts]
    table = np.full((len(prompts), max(lengths) + 1), np.iinfo(np.int64).min)
    for number, prompt in enumerate(prompts):
        table[number, : len(prompt)] = prompt
    common = np.empty((len(prompts), len(prompts)), np.int64)
    for number, length in enumerate(lengths):
        differs = table != table[number]
        differs[:, length] = True  # an end is no position
        common[number] = differs.argmax(1)
    return common


def _planned(rows: tuple[int, ...], lengths: np.ndarray, alike: np.ndarray) -> Step:
    """The cheapest cut before the last columns, by a row's longest beginning in common with another."""
    alone = Step(rows, tuple(lengths.tolist()), int(lengths.max()))
    if len(rows) == 1:
        return alone
    common = np.minimum(alike, np.minimum(lengths[:, None], lengths))
    others = np.where(np.eye(len(rows), dtype=bool), 0, common).max(1)
    cuts = np.unique(np.maximum(lengths - others, 1))
    cost, own = min((_cost(int(cut), lengths, common), int(cut)) for cut in cuts)
    if cost > WORTH * alone.cost:
        return alone
    before = np.maximum(lengths - own, 0)
    inside, longest = _inside(before, common)
    chosen = np.flatnonzero(longest)
    parents = [int(inside[row, chosen].argmax()) if before[row] else 0 for row in range(len(rows))]
    step = _planned(tuple(rows[place] for place in chosen), before[chosen], common[np.ix_(chosen, chosen)])
    return Step(rows, alone.lengths, own, step, tuple(parents))


def _cost(own: int, lengths: np.ndarray, common: np.ndarray) -> int:
    """Positions, where beginnings share nothing more among each other."""
    before = np.maximum(lengths - own, 0)
    _, longest = _inside(before, common)
    return len(lengths) * own + (int(longest.sum() * before.max()) + _PASS if longest.any() else 0)


def _inside(before: np.ndarray, common: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, rows): whether a row's beginning is the start of another's, or is it; (rows,): those to be computed."""
    inside = (common >= before[:, None]) & (before >= before[:, None])
    equal = inside & inside.T
    first = equal.argmax(1) == np.arange(len(before))  # of equal ones
    longest: np.ndarray = first & ~(inside & ~equal).any(1) & (before > 0)
    return inside, longest


def part_of(step: Step, lengths: Tensor, width: int) -> Part:
    """What a step computes of a batch of `width` columns whose prompts have `lengths`."""
    rows, own = (torch.tensor(each, device=lengths.device) for each in (step.rows, step.lengths))
    place = own[:, None] - step.own + torch.arange(step.own, device=lengths.device)
    return Part(rows, (place + width - lengths[rows][:, None]).clamp(min=0))


def _laid_before(step: Step, states: States) -> DynamicCache:
    """The keys and values that stand before a step's own columns, from those of the step before."""
    assert step.before is not None
    cache, width = DynamicCache(), step.columns - step.own
    device = states[0][0].device
    parents = torch.tensor(step.parents, device=device)
    theirs = torch.tensor([step.before.lengths[parent] for parent in step.parents], device=device)
    own = torch.tensor(step.lengths, device=device) - step.own
    # Column of the parent for a column here: both are aligned at the right.
    place = torch.arange(width, device=device) - (width - own)[:, None] + (step.before.columns - theirs)[:, None]
    place = place.clamp(0, step.before.columns - 1)

    def laid(values: Tensor) -> Tensor:
        return values.transpose(1, 2)[parents[:, None], place].transpose(1, 2)

    for number, (keys, values) in enumerate(states):
        cache.update(laid(keys), laid(values), number)
    return cache


def _states(cache: DynamicCache) -> States:
    layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
    return [(cast(Tensor, layer.keys), cast(Tensor, layer.values)) for layer in layers]


def reads_on(decoder: PreTrainedModel, width: int) -> bool:
    """Whether a decoder reads on from kept keys and values as if it had read all at once: tried on a short text.

    Args:
        decoder: without its output head.
        width: of its inputs.
    """
    ropes = str((getattr(decoder.config, "rope_parameters", None), getattr(decoder.config, "rope_scaling", None)))
    if "dynamic" in ropes or "longrope" in ropes:  # the angles of a beginning hang on how long the whole is
        return False

    def read(text: Tensor) -> tuple[Tensor, Tensor]:
        place = torch.arange(text.shape[1], device=text.device)[None]
        whole = decoder(inputs_embeds=text, position_ids=place, use_cache=False).last_hidden_state[:, 4:]
        cache = DynamicCache()
        decoder(inputs_embeds=text[:, :4], position_ids=place[:, :4], past_key_values=cache, use_cache=True)
        again = DynamicCache()
        for number, (keys, values) in enumerate(_states(cache)):
            again.update(keys, values, number)
        rest = decoder(
            inputs_embeds=text[:, 4:], attention_mask=torch.ones_like(place, dtype=torch.bool),
            position_ids=place[:, 4:], past_key_values=again, use_cache=True,
        ).last_hidden_state  # fmt: skip
        return rest, whole

    return agree(decoder, width, (7,), read)
