"""The parts of the backbones' layers compiled by torch.compile: while a model trains, never where it is scored.

Attention, MLP and norms of each layer are compiled by themselves. So recomputation under checkpointing, ranks that
share a model by ddp, hooks and names of parameters stay what they are, and equal layers are compiled once. Sums are
rounded in another order than without (1e-6 of the largest logit was seen in fp32).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from typing import Any
from weakref import ref

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from vlm_ablate.errors import ModelError
from vlm_ablate.models import documents, dora
from vlm_ablate.models.vlm import VLM

BACKEND = "inductor"
_BEFORE = "_forward_before_compiling"
"""Attribute of a compiled module: the forward that it had of its own; None: that of its class."""
_OLDEST = (7, 0)
"""Compute capability of a GPU that the compiler's kernels need."""


def compile_layers(vlm: VLM, backend: str = BACKEND) -> int:
    """Compile at the next forward passes of training; gives the number of layers.

    What `documents.attend` computes stays as it is, since it looks at what is being read, and so do linear layers with
    DoRA. The layers of a frozen encoder whose output is stored are left alone: what is stored must not depend on who
    stored it.

    Raises:
        ModelError: nothing can be compiled here.
    """
    if problem := _problem(vlm.device, backend):
        raise ModelError(
            f"execution.compile cannot be had here: {problem}", hint="write `compile: false`, which changes no result"
        )
    documents.opaque_to_compilers()
    dora.opaque_to_compilers()
    release(vlm)
    found = 0
    for part, backbone in (("vision", vlm.vision.backbone), ("language", vlm.language.model)):
        for layer in backbone.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                found += 1
                for child in layer.children():
                    if not isinstance(child, nn.ModuleList | nn.ModuleDict):
                        _compile(vlm, part, child, backend)
    if not found:
        raise ModelError(
            "execution.compile: neither backbone has layers that are known, so nothing can be compiled",
            hint="write `compile: false`",
        )
    return found


def release(vlm: VLM) -> None:
    """Undo `compile_layers`."""
    for module in vlm.modules():
        if _BEFORE in vars(module):
            before = vars(module).pop(_BEFORE)
            del module.forward
            if before is not None:
                module.forward = before


def _compile(vlm: VLM, part: str, module: nn.Module, backend: str) -> None:
    plain, owner = module.forward, ref(vlm)
    fast = torch.compile(plain, backend=backend)

    @wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        whole = owner()
        if whole is None or not whole.training or (part == "vision" and whole.features is not None):
            return plain(*args, **kwargs)
        return _told(fast, args, kwargs)

    setattr(module, _BEFORE, vars(module).get("forward"))
    module.forward = forward


def _told(fast: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a compiled function gives.

    Raises:
        ModelError: the compiler failed.
    """
    try:
        return fast(*args, **kwargs)
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "triton")):
            raise
        first = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"execution.compile: the compiler failed: {type(error).__name__}: {first}",
            hint="write `compile: false`, which changes no result",
        ) from error


def _problem(device: torch.device, backend: str) -> str | None:
    """Why nothing can be compiled for a device; None: it can."""
    if backend != BACKEND:
        return None
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "the package triton is not installed"
        if torch.cuda.get_device_capability(device) < _OLDEST:
            return f"{torch.cuda.get_device_name(device)} is older than its kernels need"
        return None
    compilers = [os.environ.get("CXX"), "g++", "clang++", "c++"]
    return None if any(name and shutil.which(name) for name in compilers) else "there is no C++ compiler"
