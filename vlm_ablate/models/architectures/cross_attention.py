"""Gated cross-attention blocks between the decoder layers of any causal language model (Flamingo, Idefics1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlm_ablate.errors import ModelError
from vlm_ablate.models.architectures.base import Architecture, Part, Reading
from vlm_ablate.models.architectures.configs import CrossAttentionConfig
from vlm_ablate.models.architectures.gated_block import GatedBlock
from vlm_ablate.models.language.base import LanguageModel
from vlm_ablate.models.masks import own_views, visible_views


@dataclass(frozen=True)
class Sight:
    """What each text position sees."""

    keys: Tensor
    """(batch, keys, width): visual states of a sample's views one after another, padded; or see `views`."""
    visible: Tensor | tuple[Tensor, ...]
    """(batch, sequence, keys) bool; of documents in one row without padding one each, (1, length, own keys)."""
    otherwise: Tensor | tuple[Tensor, ...] | None = None
    """Of the same form: what a position attends to that sees nothing; None: nothing."""
    cache: dict[int, tuple[Tensor, Tensor]] | None = field(default=None)
    """Block -> its keys and values, kept while decoding."""
    views: Tensor | None = None
    """(batch, views) long, where samples show the same views: which of `keys`, (different views, tokens, width)."""

    def keys_values(self, block: GatedBlock) -> tuple[Tensor, Tensor]:
        """Of a block, each (batch, heads, keys, width)."""
        keys, values = block.keys_values(self.keys)
        if self.views is None:
            return keys, values
        keys, values = (each[self.views].transpose(1, 2).flatten(2, 3) for each in (keys, values))
        return keys, values

    def at(self, length: int) -> tuple[Tensor | tuple[Tensor, ...], Tensor | tuple[Tensor, ...] | None]:
        """`visible` and `otherwise` of `length` positions: the whole sequence, or what was generated after it."""
        visible, otherwise = self.visible, self.otherwise
        if isinstance(visible, tuple) or length == visible.shape[1]:
            return visible, otherwise
        assert not isinstance(otherwise, tuple)
        last = otherwise if otherwise is None else otherwise[:, -1:].expand(-1, length, -1)
        return visible[:, -1:].expand(-1, length, -1), last


class CrossAttention(Architecture):
    """Gated blocks, layers // every of them but at least one, before decoder layers 0, every, 2*every, ...

    So transformers' Idefics counts them: no block stands before a last group of fewer than `every` layers.
    With `before` they stand where it says (Mllama: a cross-attention layer is a block before the next layer). The text
    holds one placeholder a view. Blocks are installed as forward pre-hooks, so that the language model's modules and
    state dict stay as they are, and adapters, caches and checkpointing work as without them.
    """

    config: CrossAttentionConfig

    def __init__(self, config: CrossAttentionConfig, *, language: LanguageModel, vision_width: int) -> None:
        super().__init__(config, language=language, vision_width=vision_width)
        layers = len(language.layers)
        self.places = config.before or range(0, config.every * max(1, layers // config.every), config.every)
        if max(self.places) >= layers:
            raise ModelError(f"blocks before decoder layers {list(self.places)}: there are layers 0 to {layers - 1}")
        width = self.connector_width(language, vision_width)
        self.blocks = nn.ModuleList(
            GatedBlock(language.model.config, width, gate=config.gate, qk_norm=config.qk_norm, unseeing=config.unseeing)
            for _ in self.places
        )
        self._sight: Sight | None = None

    def connector_width(self, language: LanguageModel, vision_width: int) -> int:
        return vision_width if self.config.visual_width == "vision" else language.hidden

    @property
    def text_alone(self) -> str | None:
        return "causal" if type(self) is CrossAttention and self.config.unseeing != "mlp" else None

    @property
    def looks_back(self) -> bool:
        return type(self) is CrossAttention and self.config.unseeing != "all"

    def placeholders(self, visual_tokens: int) -> int:
        return 1

    def install(self, language: LanguageModel) -> None:
        for index, place in enumerate(self.places):
            # A bound method, not a closure: the hooks of a copied model belong to the copy.
            hook = partial(self._before_layer, index)
            language.layers[place].register_forward_pre_hook(hook, with_kwargs=True)

    def _before_layer(
        self, index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (self._attend_at(index, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._attend_at(index, kwargs["hidden_states"])}

    def _attend_at(self, index: int, hidden: Tensor) -> Tensor:
        block, sight = cast(GatedBlock, self.blocks[index]), self._sight
        inputs = (hidden,) if sight is None else (hidden, sight.keys, *sight.at(hidden.shape[1]))
        if sight is not None and sight.cache is not None:
            if index not in sight.cache:
                sight.cache[index] = sight.keys_values(block)
            out: Tensor = block(*inputs, sight.cache[index])
        elif sight is not None and sight.views is not None:
            out = block(*inputs, sight.keys_values(block))
        elif self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            # By itself: transformers checkpoints the `forward` of a layer, before which this runs.
            out = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)
        else:
            out = block(*inputs)
        return out

    def embed(self, embeds: Tensor, reading: Reading) -> Tensor:
        return embeds

    @contextmanager
    def seeing(self, reading: Reading, part: Part | None = None) -> Iterator[None]:
        with self._set(self._look(reading, part)):
            yield

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Within the block keys and values of the images are computed once; for inference inside `seeing`."""
        with self._set(self._sight and replace(self._sight, cache={})):
            yield

    @contextmanager
    def _set(self, sight: Sight | None) -> Iterator[None]:
        before, self._sight = self._sight, sight
        try:
            yield
        finally:
            self._sight = before

    def checkpoint_contexts(self) -> tuple[Any, Any]:
        """For `torch.utils.checkpoint(context_fn=...)`: what the backward pass recomputes sees what the forward saw.

        Needed where a layer is checkpointed with its hooks, as transformers did once.
        """
        return self._set(self._sight), self._set(self._sight)

    def _look(self, reading: Reading, part: Part | None) -> Sight | None:
        is_image, visual = reading.is_image, reading.visual
        if visual is None:
            if is_image.any():
                raise ModelError(f"the text has {int(is_image.sum())} <image> placeholders and the batch no images")
            return None
        batch, (views, tokens, width) = len(is_image), visual.states.shape
        per_row = torch.bincount(visual.sample, minlength=batch)
        if not torch.equal(is_image.sum(1), per_row):
            raise ModelError(f"<image> placeholders per row {is_image.sum(1).tolist()}, views {per_row.tolist()}")
        most = int(per_row.max())
        slot = torch.arange(views, device=per_row.device) - (per_row.cumsum(0) - per_row)[visual.sample]
        image = visual.image.new_full((batch, most), -1).index_put((visual.sample, slot), visual.image)
        visible = visible_views(is_image, reading.segment, image, last_only=self.config.attend == "last")
        others = own_views(is_image, reading.segment, most) if self.config.unseeing == "all" else None
        own = None
        if visual.own is not None:
            own = visual.own.new_zeros(batch, most, tokens).index_put((visual.sample, slot), visual.own)
        shown = None
        if part is not None or visual.same is not None:
            number = torch.arange(views, device=slot.device) if visual.same is None else visual.same
            shown = number.new_zeros(batch, most).index_put((visual.sample, slot), number)
            if part is not None:
                visible, shown, own = _seen_by(part, visible, shown, own)
            different, shown = shown.unique(return_inverse=True)
            states = visual.states[different]
        else:
            states = visual.states.new_zeros(batch, most, tokens, width)
            states = states.index_put((visual.sample, slot), visual.states).flatten(1, 2)

        def keys_of(visible: Tensor, others: Tensor | None, own: Tensor | None) -> tuple[Tensor, Tensor | None]:
            """From views to their tokens."""
            visible = visible.repeat_interleave(tokens, dim=2)
            others = others if others is None else others.repeat_interleave(tokens, dim=2)
            if own is not None:
                visible = visible & own.flatten(1)[:, None]
                others = others if others is None else others & own.flatten(1)[:, None]
            if visual.shown is not None:
                visible = visible & (torch.arange(visible.shape[2], device=visible.device) % tokens < visual.shown)
            return visible, others

        if reading.documents is None:
            return Sight(states, *keys_of(visible, others, own), views=shown)
        pieces = [keys_of(*piece) for piece in _pieces(reading.documents, is_image, visible, others, own)]
        otherwise = None if others is None else tuple(other for _, other in pieces if other is not None)
        return Sight(states, tuple(seen for seen, _ in pieces), otherwise)


def _seen_by(part: Part, visible: Tensor, shown: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of some positions what they see, with no view that none of a row's positions sees but as padding.

    Args:
        visible: (batch, sequence, views) bool.
        shown: (batch, views) long: which view it is.
        own: (batch, views, tokens) bool, or None.
    """
    visible = visible[part.rows[:, None], part.columns]
    seen = visible.any(1)
    most = max(int(seen.sum(1).max()), 1)
    views = seen.long().argsort(dim=1, descending=True, stable=True)[:, :most]
    rows = part.rows[:, None]
    visible = visible.gather(2, views[:, None].expand(-1, visible.shape[1], -1))
    return visible, shown[rows, views], None if own is None else own[rows, views]


def _pieces(
    documents: Sequence[int], is_image: Tensor, visible: Tensor, others: Tensor | None, own: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
    """What belongs to each document of one row: its positions, its views."""
    counts = torch.stack([part.sum() for part in is_image[0].split(list(documents))]).tolist()
    first = view = 0
    for length, views in zip(documents, counts, strict=True):
        rows, columns = slice(first, first + length), slice(view, view + views)
        first, view = first + length, view + views
        yield (
            visible[:, rows, columns],
            None if others is None else others[:, rows, columns],
            None if own is None else own[:, columns],
        )
