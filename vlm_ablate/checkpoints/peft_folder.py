"""Adapters of a run as a peft folder beside the exported base weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from vlm_ablate.checkpoints.families.known import family_of
from vlm_ablate.checkpoints.to_transformers import our_names
from vlm_ablate.config.stages import Training
from vlm_ablate.errors import ModelError
from vlm_ablate.models.adapters import backbone_of
from vlm_ablate.models.vlm import VLM

_PREFIX = {"vision": "vision.backbone.", "language": "language.model."}


def save_adapters(vlm: VLM, model: PreTrainedModel, folder: Path) -> None:
    """Write the adapters of `vlm` so that `PeftModel.from_pretrained(model, folder)` reads them.

    Args:
        vlm: the model with adapters.
        model: its export without them (`to_transformers(vlm, merged=False)`); is given the adapters.
        folder: to write to.

    Raises:
        ModelError: there are none, or they are LoRA in one backbone and DoRA in the other.
    """
    family = family_of(model.config, type(model).__name__)
    names = our_names(family, model.config, model.state_dict())
    peft = get_peft_model(model, _config(vlm, names))
    with torch.no_grad():
        for name in vlm.adapters:
            for path, module in _adapted(vlm, name, names).items():
                _copy(module, cast(nn.Module, peft.base_model.model).get_submodule(path))
    peft.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's has nothing but headings; the card is one level up


def _config(vlm: VLM, names: Mapping[str, str]) -> LoraConfig:
    adapters = vlm.adapters
    if not adapters:
        raise ModelError("the run has no adapters to keep", hint="leave out --keep-adapters")
    if len({adapter.kind for adapter in adapters.values()}) > 1:
        raise ModelError(
            "one peft adapter cannot be LoRA in one backbone and DoRA in the other", hint="leave out --keep-adapters"
        )
    first = next(iter(adapters.values()))
    paths = {name: list(_adapted(vlm, name, names)) for name in adapters}
    return LoraConfig(
        r=first.r,
        lora_alpha=cast(int, first.alpha),  # peft takes fractions too
        lora_dropout=first.dropout,
        use_dora=first.kind is Training.dora,
        target_modules=[path for found in paths.values() for path in found],
        rank_pattern={path: adapters[n].r for n, found in paths.items() for path in found if adapters[n].r != first.r},
        alpha_pattern={
            path: adapters[n].alpha for n, found in paths.items() for path in found if adapters[n].alpha != first.alpha
        },
    )


def _adapted(vlm: VLM, name: str, names: Mapping[str, str]) -> dict[str, nn.Module]:
    """Path in transformers' model -> our adapted module."""
    found: dict[str, nn.Module] = {}
    for path, module in backbone_of(vlm, name).named_modules():
        if isinstance(module, BaseTunerLayer):
            theirs = names.get(ours := f"{_PREFIX[name]}{path}.weight")
            if theirs is None:
                raise ModelError(f"{ours} has no place in transformers' checkpoint")
            found[theirs.removesuffix(".weight")] = cast(nn.Module, module)  # a layer of peft is both
    return found


def _copy(ours: nn.Module, theirs: nn.Module) -> None:
    """Adapter parameters have the same names in both."""
    own = {n: p for n, p in ours.named_parameters() if "lora_" in n}
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.copy_(own.pop(name))
    if own:
        raise ModelError(f"peft has no place for {sorted(own)[:3]}")
