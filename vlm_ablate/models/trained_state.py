"""The part of a model that training made: what a checkpoint keeps, and how it goes back in."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.distributed.tensor import DTensor

from vlm_ablate.errors import ModelError
from vlm_ablate.models.adapters import inject, merge
from vlm_ablate.models.pretrained import read_tensor
from vlm_ablate.models.vlm import VLM, Adapter
from vlm_ablate.storage import atomic_path, storage_errors

_ADAPTERS = "adapters"
_NEW_PARTS = ("connector.", "architecture.")
_ENCODER = "vision."


def trainable_state_dict(vlm: VLM) -> dict[str, Tensor]:
    """Everything that differs from the base: new parts, new vocabulary rows, adapters, and weights trained so far.

    Contiguous tensors on the CPU, ready for safetensors. Of a model whose ranks hold a share each, all must ask.
    """
    return {name: _whole(tensor.detach()).cpu().contiguous().clone() for name, tensor in _trained(vlm).items()}


def _trained(vlm: VLM) -> dict[str, Tensor]:
    """The model's own tensors that training has made or will make."""
    names = {_through_adapters(vlm, name) for name in vlm.touched}
    return {
        name: parameter
        for name, parameter in vlm.named_parameters()
        if name in names or name.startswith(_NEW_PARTS) or "trainable_tokens" in name or "lora_" in name
    } | dict(_new_buffers(vlm))


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _new_buffers(vlm: VLM) -> list[tuple[str, Tensor]]:
    """Those of new parts, and of an encoder that was trained: its batch norms may have taken new statistics."""
    kept = vlm.state_dict(keep_vars=True)
    trained = any(name.startswith(_ENCODER) for name in vlm.touched)
    parts = (*_NEW_PARTS, _ENCODER) if trained else _NEW_PARTS
    return [(n, b) for n, b in vlm.named_buffers() if n in kept and n.startswith(parts)]


def _through_adapters(vlm: VLM, name: str) -> str:
    """Where a weight is now: peft moves the weight of an adapted layer one level down."""
    module, _, leaf = name.rpartition(".")
    for backbone, prefix in (("vision", "vision.backbone."), ("language", "language.model.")):
        adapter = vlm.adapters.get(backbone)
        if adapter and module.removeprefix(prefix) in adapter.modules and module.startswith(prefix):
            return f"{module}.base_layer.{leaf}"
    return name


def adapter_metadata(vlm: VLM) -> dict[str, str]:
    """What `load_trainable_state_dict` needs beside the tensors, as safetensors' metadata."""
    adapters = {name: asdict(adapter) for name, adapter in vlm.adapters.items()}
    return {_ADAPTERS: json.dumps(adapters, sort_keys=True)}


def load_trainable_state_dict(
    vlm: VLM, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, file: Path | None = None
) -> None:
    """Put back what `trainable_state_dict` gave, into a model of the same configuration.

    Args:
        vlm: freshly built, or with the same adapters already in it.
        tensors: the state.
        metadata: from `adapter_metadata`; adapters that it names are put in first. None: they are there.
        file: that the state was read from, for messages.

    Raises:
        ModelError: the state is of another configuration.
    """
    restore_adapters(vlm, metadata, file)
    fill(vlm, tensors, _trained(vlm), fault="the checkpoint is of another configuration")
    vlm.touched |= {name.replace(".base_layer", "") for name in tensors}


@torch.no_grad()
def fill(vlm: VLM, tensors: Mapping[str, Tensor], needed: Iterable[str], *, fault: str) -> None:
    """Copy `tensors` into the parameters and buffers of those names.

    Args:
        vlm: changed in place.
        tensors: by this package's names.
        needed: names that must be among them.
        fault: how the error begins when they do not fit.

    Raises:
        ModelError: names are missing or surplus, or shapes differ; nothing was copied then.
    """
    own = dict(vlm.named_parameters()) | dict(vlm.named_buffers())
    missing, surplus = sorted(set(needed) - set(tensors)), sorted(set(tensors) - set(own))
    shapes = [n for n, t in tensors.items() if n in own and own[n].shape != t.shape]
    if surplus or missing or shapes:
        raise ModelError(f"{fault}: missing {missing[:3]}, surplus {surplus[:3]}, of another shape {shapes[:3]}")
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def adapters_in(metadata: Mapping[str, str] | None, file: Path | None = None) -> dict[str, Adapter] | None:
    """Backbone -> its adapters, as `adapter_metadata` told of them; None where nothing is told.

    Args:
        file: that it was read from, for messages.

    Raises:
        ModelError: it was written by something else, or is damaged.
    """
    if not metadata or _ADAPTERS not in metadata:
        return None
    try:
        return dict(_told_adapters().validate_json(metadata[_ADAPTERS]).items())
    except ValueError as error:
        told = " ".join(str(error).split())[:300]
        raise ModelError(f"{file or 'the checkpoint'} does not say what adapters it has: {told}") from error


@cache
def _told_adapters() -> TypeAdapter[dict[Literal["vision", "language"], Adapter]]:
    return TypeAdapter(dict[Literal["vision", "language"], Adapter])


def restore_adapters(vlm: VLM, metadata: Mapping[str, str] | None, file: Path | None = None) -> None:
    """Put the adapters in that `adapter_metadata` told of, their weights still to be loaded; take others out.

    Raises:
        ModelError: see `adapters_in`; or the model has no such modules.
    """
    wanted = adapters_in(metadata, file)
    if wanted is None:
        return
    for name in set(vlm.adapters) - set(wanted):
        merge(vlm, name)
    for name, adapter in wanted.items():
        if vlm.adapters.get(name) != adapter:
            merge(vlm, name)
            inject(vlm, name, adapter)


def save_trained(vlm: VLM, file: Path) -> None:
    """Write the trained state as one safetensors file, whole or not at all.

    Raises:
        StorageError: it cannot be written.
        LeaseLost: this process has lost the right to write there.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with storage_errors("create", file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as partial:
        try:
            save_file(trainable_state_dict(vlm), partial, metadata=adapter_metadata(vlm))
        except SafetensorError as error:
            told = re.search(r"os error (\d+)", str(error))  # the library's own error hides a full disk
            if told is None:
                raise
            raise OSError(int(told[1]), os.strerror(int(told[1]))) from error


def load_trained(vlm: VLM, file: Path) -> None:
    """Read what `save_trained` wrote; into a model on the meta device no more than names and shapes.

    Raises:
        ModelError: the file is of another configuration, or no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            planning, metadata = vlm.device.type == "meta", opened.metadata()
            tensors = {name: read_tensor(opened, name, planning=planning) for name in list(opened.keys())}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the trained weights {file}: {error}") from error
    load_trainable_state_dict(vlm, tensors, metadata, file=file)
