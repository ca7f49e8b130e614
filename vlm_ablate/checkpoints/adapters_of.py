"""Adapters alone, of a run or a folder, folded into the backbones of another model."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError

from vlm_ablate.checkpoints.own import TENSORS
from vlm_ablate.checkpoints.trained import WEIGHTS, check_weights, is_trained_stage
from vlm_ablate.errors import ModelError
from vlm_ablate.models.adapters import merge_adapters, take_out_adapters
from vlm_ablate.models.pretrained import is_own_checkpoint, opened_tensors, tensor_names
from vlm_ablate.models.released import with_adapters
from vlm_ablate.models.trained_state import adapters_in, fill, restore_adapters
from vlm_ablate.models.vlm import VLM

_PEFT = "adapter_config.json"


def fold_adapters(vlm: VLM, folder: Path, *, planning: bool = False) -> None:
    """Add what adapters change to the weights of the backbones that they were made for, or ones of the same shapes.

    Args:
        vlm: without adapters; on the meta device for a plan, which leaves it as it was.
        folder: of a run's stage, of our own format with adapters kept, or peft's, of the language model alone.

    Raises:
        ModelError: there are none, they are damaged, or they do not fit.
    """
    if is_trained_stage(folder):
        if not planning:
            check_weights(folder)
        _fold_ours(vlm, folder / WEIGHTS, planning)
    elif is_own_checkpoint(folder):
        _fold_ours(vlm, folder / TENSORS, planning)
    elif (folder / _PEFT).is_file():
        _fold_peft(vlm, folder, planning)
    else:
        raise ModelError(
            f"{folder} has no adapters that can be taken alone",
            hint=f"name a run that trained with lora or dora, a folder with {_PEFT} of the language model, or start"
            " from the whole: model.init_from",
        )


def _fold_ours(vlm: VLM, file: Path, planning: bool) -> None:
    with opened_tensors(file) as opened:
        metadata = opened.metadata() or {}
        names = [name for name in list(opened.keys()) if "lora_" in name]
        if not names or not adapters_in(metadata, file):
            raise ModelError(
                f"{file} has no adapters", hint="its stages train none, or fold them in: name the whole, or a part"
            )
        tensors = {name: opened.get_tensor(name) for name in names}
    touched = set(vlm.touched)
    with torch.random.fork_rng():  # new adapters are drawn before they are filled
        restore_adapters(vlm, metadata, file)
    needed = {name for name, _ in vlm.named_parameters() if "lora_" in name}
    try:
        fill(vlm, tensors, needed, fault=f"the adapters in {file} do not fit this model")
    except ModelError:
        take_out_adapters(vlm)
        raise
    if planning:
        take_out_adapters(vlm)
    else:
        merge_adapters(vlm)
    vlm.touched = touched  # a run keeps its difference from where it starts, and this is where


def _fold_peft(vlm: VLM, folder: Path, planning: bool) -> None:
    stored = tensor_names(folder)
    if planning:
        return
    model = vlm.language.model
    try:
        adapted = with_adapters(model, folder)
        taken = sum("lora_" in name for name, _ in adapted.named_parameters())
        if taken != len(stored):
            raise ModelError(f"{folder} has {len(stored)} tensors, of which this language model takes {taken}")
        adapted.merge_and_unload()
    except (ValueError, RuntimeError, OSError, KeyError, SafetensorError) as error:
        raise ModelError(f"the adapters in {folder} do not fit the language model: {error}") from error
    if hasattr(model, "peft_config"):
        del model.peft_config
