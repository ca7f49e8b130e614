"""Weights that the first rank has read, dealt out to ranks that have built no more than the structure.

The model is whole in the first rank's host memory, where released weights are read file by file, and nowhere else:
every other rank builds it on the meta device. Once it is shared out, one tensor after the other is sent, and each rank
keeps its share of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vlm_ablate.errors import ModelError
from vlm_ablate.models.vlm import VLM
from vlm_ablate.training.ranks import Ranks

Whole = Mapping[str, Tensor]
"""Name -> values; of a rank that has none, on the meta device."""


def to_be_dealt(vlm: VLM, ranks: Ranks) -> Whole | None:
    """Before the model is shared out: what is to be dealt; None: every rank has all of it already. Called by all.

    Raises:
        ModelError: the structures of two ranks differ.
    """
    whole = _states(vlm)
    if not ranks.any(any(tensor.is_meta for tensor in whole.values())):
        return None
    told = ranks.said_by_first({name: [list(t.shape), str(t.dtype)] for name, t in whole.items()})
    differing = sorted({*told} ^ {*whole}) + [n for n, t in whole.items() if n in told and told[n][0] != list(t.shape)]
    if ranks.any(bool(differing)):
        raise ModelError(
            "a model that is built without its weights has another structure than the one that has read them: "
            + (", ".join(differing[:3]) or "see the other ranks"),
            hint="a part whose `load_weights=False` leaves something out cannot be dealt out; write strategy: ddp",
        )
    for name, tensor in whole.items() if not ranks.first else ():
        dtype = getattr(torch, told[name][1].removeprefix("torch."))
        if tensor.is_meta and tensor.dtype != dtype:
            tensor.data = tensor.data.to(dtype)
    return {name: tensor.detach() for name, tensor in whole.items()}


@torch.no_grad()
def deal(vlm: VLM, whole: Whole, device: torch.device, ranks: Ranks) -> None:
    """After the model was shared out: every rank gets its share of each tensor. Called by all.

    Args:
        vlm: in which the first rank has its shares.
        whole: from `to_be_dealt`.
        device: where shares are to be.

    Raises:
        ModelError: a rank cannot hold a share of something.
    """
    if not ranks.first:
        vlm.to_empty(device=device)
        left = [name for name, module in vlm.named_modules() if any(_is_meta(v) for v in vars(module).values())]
        if left:
            raise ModelError(
                f"{left[0]} keeps a tensor that is neither parameter nor buffer, and no rank but the first has it",
                hint="write strategy: ddp",
            )
    for name, own in _states(vlm).items():
        of = whole[name]
        values = of.to(device) if ranks.first else torch.empty(of.shape, dtype=of.dtype, device=device)
        if isinstance(own, DTensor):
            share = distribute_tensor(values, own.device_mesh, own.placements, src_data_rank=0)
            if not ranks.first:
                own.to_local().copy_(share.to_local())
        else:
            sent = values.view(torch.uint8) if values.dtype == torch.bool else values.contiguous()
            dist.broadcast(sent, src=0)
            if not ranks.first:
                own.copy_(values)


def _states(vlm: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those that no checkpoint keeps, too; each once."""
    return dict(vlm.named_parameters()) | dict(vlm.named_buffers())


def _is_meta(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_meta
