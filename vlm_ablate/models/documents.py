"""Documents that stand one after another in one row without padding, each attending to itself only.

Decoders of transformers take their attention from a registry. Ours computes each document by itself, so that a batch
costs its real tokens; which documents there are is known to the registered function for as long as a block of `reading`
lasts. A decoder that does not come to the registry for its attention, or carries something else from one token to the
next, is found out by `reads_documents`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as dropped
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from vlm_ablate.errors import ModelError
from vlm_ablate.models.language.base import evaluating
from vlm_ablate.models.probing import agree, in_half

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vlm_ablate.config.execution import Attention

Kernel = Literal["padded", "documents", "varlen", "flash_attn"]
"""What computes the attention among text positions; "padded": the model's own, on padded rows."""
NAME = "vlm_ablate_documents"
"""In the registries of transformers."""
_FLASH_HEAD = 256
"""Widest head that the kernels of flash attention take."""


@dataclass(frozen=True)
class Documents:
    """The documents of a row, in order."""

    lengths: tuple[int, ...]
    kernel: Kernel
    starts: Tensor
    """(documents + 1,) int32: where each begins, and the end of the last."""
    prefixes: tuple[int, ...] | None = None
    """How many positions at the start of each see each other; None: none, causal everywhere."""
    apart: set[str] = field(default_factory=set, compare=False)
    """Filled with why layers were computed one document at a time although a kernel of flash attention was chosen."""

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        device: torch.device,
        *,
        kernel: Kernel = "documents",
        both_ways: Tensor | None = None,
        apart: set[str] | None = None,
    ) -> Documents:
        """
        Args:
            lengths: of the documents.
            device: of the row.
            kernel: what is to compute.
            both_ways: (1, sequence) bool: positions at a document's start that also see what follows them.
            apart: to fill with why layers are computed one document at a time.
        """
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        prefixes = None
        if both_ways is not None:
            prefixes = tuple(torch.stack([part.sum() for part in both_ways[0].split(list(lengths))]).tolist())
        return cls(tuple(lengths), kernel, starts, prefixes, set() if apart is None else apart)

    @property
    def longest(self) -> int:
        """Tokens of the longest."""
        return max(self.lengths)


_NOW: ContextVar[Documents | None] = ContextVar("documents", default=None)


def current() -> Documents | None:
    """The documents that are being read."""
    return _NOW.get()


@contextmanager
def reading(decoder: PreTrainedModel, documents: Documents | None) -> Iterator[None]:
    """Within the block the layers of `decoder` attend within these documents; None: as the decoder does by itself."""
    if documents is None:
        yield
        return
    config = decoder.config
    before, token = config._attn_implementation, _NOW.set(documents)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _NOW.reset(token)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' registry calls it: (1, heads, sequence, width) -> (1, sequence, heads, width).

    Raises:
        ValueError: outside of `reading`, or with something that is not done by document here (attention sinks, a bias
            of positions, a cache).
    """
    documents = _NOW.get()
    if documents is None or len(query) != 1 or query.shape[2] != sum(documents.lengths):
        raise ValueError("attention by document was asked for without documents")
    if s_aux is not None or kwargs.get("position_bias") is not None or kwargs.get("cache") is not None:
        raise ValueError("attention with sinks, a bias of positions or a cache is not done by document")
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    rule = _Rule(causal, sliding_window, softcap, scaling if scaling is not None else query.shape[-1] ** -0.5, dropout)
    query, key, value = _as_computed(query, key, value)
    if documents.kernel in ("varlen", "flash_attn"):
        unfit = _unfit(documents, query, value, rule)
        if unfit is None:
            return _flash(documents, query, key, value, rule)[None], None
        documents.apart.add(unfit)
    lengths = list(documents.lengths)
    queries, keys, values = (states.split(lengths, dim=2) for states in (query, key, value))
    prefixes = documents.prefixes or (0,) * len(lengths)
    parts = zip(queries, keys, values, prefixes, strict=True)
    found = [_attend_one(q, k, v, rule, prefix) for q, k, v, prefix in parts]
    return torch.cat(found, dim=2).transpose(1, 2).contiguous(), None


def _as_computed(*states: Tensor) -> Iterator[Tensor]:
    """In the precision of autocast, where a GPU computes by it.

    Embeddings in fp32 give rotated queries and keys in fp32 beside values in bf16. torch's attention brings them
    together by itself, the kernels of flash attention do not, and take no fp32.
    """
    device = states[0].device.type
    if device != "cuda" or not torch.is_autocast_enabled(device):
        return iter(states)
    return (each.to(torch.get_autocast_dtype(device)) for each in states)


@dataclass(frozen=True)
class _Rule:
    """How a layer attends."""

    causal: bool
    window: int | None
    softcap: float | None
    scale: float
    dropout: float


def _attend_one(query: Tensor, key: Tensor, value: Tensor, rule: _Rule, prefix: int) -> Tensor:
    """One document: (1, heads, length, width) of queries, with as many or fewer heads of keys and values."""
    mask = _mask(query.shape[2], rule, prefix, query.device)
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and query.is_cuda and (mask is not None or query.dtype == torch.float32):
        # No fused kernel of a GPU takes grouped heads then, and what is not fused holds all scores.
        key, value, groups = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), 1
    if rule.softcap is None:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=rule.dropout, is_causal=rule.causal and mask is None,
            scale=rule.scale, enable_gqa=groups > 1,
        )  # fmt: skip
    if mask is None and rule.causal:
        mask = query.new_ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    scores = torch.tanh(query @ key.transpose(2, 3) * rule.scale / rule.softcap) * rule.softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    return dropped(weights, rule.dropout) @ value


def _mask(length: int, rule: _Rule, prefix: int, device: torch.device) -> Tensor | None:
    """(length, length) bool, True where a query (row) sees a key; None: causal without more, or everything."""
    window = rule.window if rule.window is not None and rule.window < length else None
    if not rule.causal or not (window or prefix > 1):
        return None
    place = torch.arange(length, device=device)
    distance = place[:, None] - place
    mask = distance >= 0
    if window is not None:
        mask &= distance < window
    return mask | ((place < prefix)[:, None] & (place < prefix))


def _unfit(documents: Documents, query: Tensor, value: Tensor, rule: _Rule) -> str | None:
    """Why the chosen kernel of flash attention does not take this layer as it is; None: it does."""
    width = query.shape[-1]
    if documents.prefixes is not None:
        return "prompts are seen both ways"
    if not rule.causal:
        return "a layer is not causal"
    if query.dtype not in (torch.bfloat16, torch.float16):
        return f"a layer computes in {str(query.dtype).removeprefix('torch.')}"
    if width % 8 or not value.shape[-1] == width <= _FLASH_HEAD:
        return f"heads are {width} wide with values of {value.shape[-1]}"
    if documents.kernel == "varlen":
        if rule.dropout or rule.softcap is not None:
            return "torch's kernel takes no dropout and no cap on scores"
        if rule.window is not None and rule.window < documents.longest and "window_size" not in _varlen_options():
            return "torch's kernel takes no window"
    return None


def _flash(documents: Documents, query: Tensor, key: Tensor, value: Tensor, rule: _Rule) -> Tensor:
    """(1, heads, sequence, width) -> (sequence, heads, width), causal."""
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    starts, longest = documents.starts, documents.longest
    window = (rule.window - 1 if rule.window is not None and rule.window < longest else -1, 0)
    bounds = (starts, starts, longest, longest)
    if documents.kernel == "flash_attn":
        from flash_attn import flash_attn_varlen_func

        out: Tensor = flash_attn_varlen_func(
            query, key, value, *bounds, dropout_p=rule.dropout, softmax_scale=rule.scale, causal=True,
            window_size=window, softcap=rule.softcap or 0.0,
        )  # fmt: skip
        return out
    from torch.nn.attention.varlen import varlen_attn

    known = _varlen_options()
    options: dict[str, Any] = {"scale": rule.scale}
    options |= {"window_size": window} if "window_size" in known else {"is_causal": True}
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and "enable_gqa" in known:
        options |= {"enable_gqa": True}
    elif groups > 1:
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    result = varlen_attn(query, key, value, *bounds, **options)
    assert isinstance(result, Tensor)  # nothing else was asked for
    return result


@cache
def _varlen_options() -> frozenset[str]:
    """Parameters of torch's own attention over sequences of different lengths, which changed from 2.10 to 2.13; empty
    where there is none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """The registered attention knows the documents and needs no mask."""


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _no_mask)


@cache
def opaque_to_compilers() -> None:
    """Have torch.compile leave `attend` as it is: traced, it would be compiled anew for all lengths of documents."""
    AttentionInterface.register(NAME, torch.compiler.disable(attend))


def choose(wanted: Attention, device: torch.device, *, half: bool) -> Kernel:
    """What computes the attention of a stage on this machine.

    Args:
        wanted: `execution.attention`.
        device: that trains.
        half: whether the stage computes in bf16, which the kernels of flash attention need.

    Raises:
        ModelError: what is asked for by name is not there.
    """
    if wanted in ("padded", "documents"):
        return wanted
    cuda = device.type == "cuda"
    if wanted == "auto":
        if not cuda:
            return "padded"
        if not half:
            return "documents"
        return "flash_attn" if find_spec("flash_attn") else "varlen" if "scale" in _varlen_options() else "documents"
    problem = None if cuda else "it runs on a GPU only"
    if problem is None and not half:
        problem = "it computes in bf16 only, and a stage has `precision: fp32`"
    elif problem is None and wanted == "flash_attn" and not find_spec("flash_attn"):
        problem = "the package flash-attn is not installed: pip install 'vlm_ablate[gpu]'"
    elif problem is None and wanted == "varlen" and "scale" not in _varlen_options():
        problem = f"torch {torch.__version__} has none that takes a scale"
    if problem:
        hint = "write `attention: documents`, which runs anywhere, or `auto`, which takes what there is"
        raise ModelError(f"execution.attention: {wanted} cannot be had here: {problem}", hint=hint)
    return wanted


def reads_documents(decoder: PreTrainedModel, width: int) -> bool:
    """Whether a decoder reads documents in one row as it reads them apart: tried on two short ones.

    Args:
        decoder: without its output head; its layers' attention must come from transformers' registry.
        width: of its inputs.
    """
    if not (getattr(decoder, "_supports_attention_backend", False) and getattr(decoder, "_supports_flash_attn", False)):
        return False
    parameter, half = next(decoder.parameters()), in_half(decoder)
    place = torch.arange(4, device=parameter.device)[None]

    def in_a_row(*texts: Tensor) -> Tensor:
        lengths = [text.shape[1] for text in texts]
        with reading(decoder, Documents.of(lengths, parameter.device)):
            return _read(decoder, torch.cat(texts, 1), torch.cat([place[:, :n] for n in lengths], 1))

    def read(first: Tensor, second: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        apart = [_read(decoder, text, place[:, : text.shape[1]]) for text in (first, second)]
        together, beside = in_a_row(first, second), in_a_row(other, second)
        if not torch.equal(together[:, first.shape[1] :], beside[:, other.shape[1] :]):
            raise ValueError("a document hangs on the one before it")
        return together, torch.cat(apart, 1)

    # Beside a model in bf16 there may be adapters in fp32, which run under autocast.
    autocast = torch.autocast(parameter.device.type, parameter.dtype if half else None, enabled=half)
    with evaluating(decoder), autocast:
        return agree(decoder, width, (4, 3, 4), read)


def _read(decoder: PreTrainedModel, embeds: Tensor, positions: Tensor) -> Tensor:
    states: Tensor = decoder(
        inputs_embeds=embeds, attention_mask=None, position_ids=positions, use_cache=False
    ).last_hidden_state
    return states
