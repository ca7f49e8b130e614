"""Parameter groups, optimiser and learning-rate schedule of a stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from vlm_ablate.config.stages import BACKBONES, Stage
from vlm_ablate.errors import ModelError
from vlm_ablate.training.muon import MuonAdamW

_UNDECAYED_NAMES = (
    "latents", "connector.queries", "trainable_tokens", "register_tokens", "lora_embedding",
    "position_embedding", "positional_embedding", "pos_embed",
)  # fmt: skip
_FACTORS = ("lora_A", "lora_B")
_NEW_NAMES = ("trainable_tokens",)
"""Rows of added tokens live inside the language backbone, but are new parameters."""
_GATES = ("alpha_cross_attn", "alpha_dense")
"""What the gates of cross-attention blocks are called (`models/architectures/gated_block.py`)."""


def is_decayed(name: str, parameter: nn.Parameter, embeddings: set[int]) -> bool:
    """Weight decay is for matrices and kernels: not for biases, norms, gates, learned tokens and embeddings.

    Args:
        name: dotted path.
        parameter: the parameter.
        embeddings: ids of all embedding tables.
    """
    # Factors of adapters of rank 1 are matrices like those of any rank.
    vector = parameter.numel() == max(parameter.shape, default=1) and not any(part in name for part in _FACTORS)
    return not (vector or id(parameter) in embeddings or any(part in name for part in _UNDECAYED_NAMES))


def is_backbone(name: str) -> bool:
    """Whether the parameter belongs to a pretrained backbone or to an adapter inside one."""
    return name.split(".", 1)[0] in BACKBONES and not any(part in name for part in _NEW_NAMES)


def part_of(name: str) -> str:
    """Which of `config.stages.LearningRates` a parameter of that dotted path follows."""
    if is_backbone(name):
        return name.split(".", 1)[0]
    return "gates" if name.rpartition(".")[2] in _GATES else "connector"


def learning_rate(part: str, stage: Stage) -> float:
    """Of a part's parameters, as far as they are not matrices that Muon trains."""
    own: float | None = getattr(stage.learning_rates, part)
    if own is not None:
        return own
    if part in BACKBONES:
        return stage.backbone_learning_rate or stage.learning_rate
    return stage.learning_rate if part == "connector" else learning_rate("connector", stage)


def parameter_groups(model: nn.Module, stage: Stage) -> list[dict[str, Any]]:
    """Groups by backbone or new, decayed or not, Muon or AdamW, and by part where a part has a rate of its own.

    Each has `lr`, `weight_decay`, `muon` and `name`. Muon takes the decayed matrices when the stage asks for it.
    Embeddings, output heads, vectors and kernels always go to AdamW, and so do low-rank adapters: orthogonal steps of
    both factors at once make updates far larger than the weights.

    Raises:
        ModelError: nothing is trainable.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    heads = {id(p) for m in model.modules() if isinstance(m, PreTrainedModel) for p in _head_parameters(m)}
    own = {part for part, rate in stage.learning_rates if rate is not None}
    buckets: dict[tuple[bool, bool, bool, str], list[nn.Parameter]] = {}
    parts: dict[tuple[bool, bool, bool, str], str] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed, part = is_decayed(name, parameter, embeddings), part_of(name)
            hidden = decayed and parameter.ndim == 2 and "lora_" not in name and id(parameter) not in heads
            muon = stage.optimizer == "muon" and hidden
            key = (part in BACKBONES, decayed, muon, part if part in own else "")
            buckets.setdefault(key, []).append(parameter)
            parts[key] = part
    if not buckets:
        raise ModelError("this stage trains nothing: both backbones and the connector are frozen")
    groups = []
    for key, params in sorted(buckets.items(), reverse=True):
        backbone, decayed, muon, named = key
        kind = named or ("backbone" if backbone else "new")
        groups.append(
            {
                "params": params,
                "lr": learning_rate(parts[key], stage)
                * (stage.matrix_learning_rate / stage.learning_rate if muon else 1.0),
                "weight_decay": stage.weight_decay if decayed else 0.0,
                "muon": muon,
                "name": f"{kind}{'' if decayed else '_undecayed'}{'_muon' if muon else ''}",
            }
        )
    return groups


def _head_parameters(model: PreTrainedModel) -> Iterable[nn.Parameter]:
    head = model.get_output_embeddings()
    return head.parameters() if isinstance(head, nn.Module) else ()


def build_optimizer(model: nn.Module, stage: Stage) -> Optimizer:
    """The stage's optimiser over the trainable parameters; AdamW fused where the device has a kernel for it."""
    groups = parameter_groups(model, stage)
    fused = all(_fusable(p) for g in groups for p in g["params"])
    if stage.optimizer == "muon":
        return MuonAdamW(groups, betas=stage.betas, fused=fused)
    return AdamW(groups, betas=stage.betas, fused=fused)


def _fusable(parameter: nn.Parameter) -> bool:
    return parameter.device.type in ("cuda", "cpu") and parameter.is_floating_point()


def schedule(stage: Stage) -> Callable[[int], float]:
    """Factor on the learning rate as a function of the optimiser steps done.

    Linear warm-up from 1/warmup_steps to 1, then constant, or to 0 at the stage's end linearly or along a half cosine.
    """

    def factor(step: int) -> float:
        if step < stage.warmup_steps:
            return (step + 1) / stage.warmup_steps
        progress = min(1.0, (step - stage.warmup_steps) / (stage.steps - stage.warmup_steps))
        if stage.schedule == "linear":
            return 1.0 - progress
        if stage.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        return 1.0

    return factor


def build_scheduler(optimizer: Optimizer, stage: Stage) -> LambdaLR:
    """The stage's schedule on every group of the optimiser."""
    return LambdaLR(optimizer, schedule(stage))


@torch.no_grad()
def scale_and_clip(
    parameters: Iterable[nn.Parameter], scale: float | torch.Tensor, limit: float | None
) -> torch.Tensor:
    """Multiply all gradients by `scale`, then clip their global 2-norm to `limit`, in one pass.

    Returns:
        The norm after scaling and before clipping, a scalar tensor.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):  # over the shares of all ranks, each of which scales its own
        norm = norm.full_tensor()
        gradients = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
    norm = norm * scale
    factor = torch.as_tensor(scale, dtype=norm.dtype, device=norm.device)
    if limit is not None:
        factor = factor * torch.clamp(limit / (norm + 1e-6), max=1.0)
    if gradients:
        torch._foreach_mul_(gradients, factor)
    return norm
