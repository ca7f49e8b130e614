"""Our assembly as a checkpoint that a class of transformers loads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from vlm_ablate.checkpoints.families.base import ExportFamily, Family
from vlm_ablate.checkpoints.families.known import EXPORTS
from vlm_ablate.errors import ModelError
from vlm_ablate.models.adapters import merge_adapters
from vlm_ablate.models.language.vocabulary import plain_table
from vlm_ablate.models.vlm import VLM


@dataclass(frozen=True)
class Fit:
    """What transformers has for an assembly."""

    family: ExportFamily | None
    """The family that it is written as, or None."""
    config: PretrainedConfig | None
    reason: str = ""
    """Why there is none."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Our name of a tensor -> transformers'."""
    unread: Mapping[str, torch.Size] = field(default_factory=dict)
    """transformers' name -> shape of tensors of the vision tower that nothing reads, and that were cut off here."""

    @property
    def cls(self) -> type[PreTrainedModel] | None:
        """transformers' class, or None."""
        return self.family.cls if self.family else None


def fit(vlm: VLM) -> Fit:
    """Which class of transformers computes what this assembly computes, if any: parts, names and shapes all agree."""
    connector = vlm.config.connector.name
    family = next((family for family in EXPORTS if family.connector == connector), EXPORTS[0])
    if (reason := family.refusal(vlm)) is not None:
        return Fit(None, None, reason)
    name = family.cls.__name__
    try:
        config = family.config(vlm)
        with torch.device("meta"):
            theirs = {name: tensor.shape for name, tensor in family.cls(config).state_dict().items()}
    except (ValueError, TypeError, AttributeError, ModelError) as error:
        return Fit(None, None, f"{name} cannot be configured so: {error}")
    names = our_names(family, config, theirs)
    ours = {names.get(own, own): tensor.shape for own, tensor in plain_tensors(vlm).items()}
    cut = {names[own] for name in getattr(vlm.vision, "cut_away", ()) if (own := f"vision.backbone.{name}") in names}
    unread = {name: theirs[name] for name in cut if name not in ours}
    wanted = {name: shape for name, shape in theirs.items() if name not in unread}
    differing = sorted(n for n in ours.keys() | wanted.keys() if ours.get(n) != wanted.get(n))
    if differing:
        return Fit(None, None, f"{name} has other tensors: {', '.join(differing[:3])}")
    return Fit(family, config, "", names, unread)


def our_names(family: Family, config: PretrainedConfig, theirs: Iterable[str]) -> dict[str, str]:
    """Our name of a tensor -> transformers', of those that a class has."""
    names = family.names(config)
    return {ours: name for name in theirs if (ours := names.to_ours(name)) is not None}


def to_transformers(vlm: VLM, *, merged: bool = True) -> PreTrainedModel:
    """The same model as an instance of transformers' class; `vlm` stays as it is.

    Args:
        vlm: the model.
        merged: fold adapters into the weights; else they are left out.

    Raises:
        ModelError: transformers has no class for this assembly.
    """
    found = fit(vlm)
    if found.family is None or found.config is None:
        raise ModelError(
            f"transformers has no class for this assembly: {found.reason}",
            hint="it can be kept as a checkpoint of this package",
        )
    if vlm.adapters and merged:
        vlm = deepcopy(vlm)
        merge_adapters(vlm)
    with torch.device("meta"):
        model = found.family.cls(found.config)
    model.load_state_dict(exported_tensors(vlm, found), strict=True, assign=True)
    model.tie_weights()
    # Buffers outside the state dict have no values on the meta device: rotary frequencies are ours.
    getattr(model.model, found.family.text_module).rotary_emb = deepcopy(vlm.language.model.model.rotary_emb)
    _fill_buffers(model)
    model.eval()
    return model


def _fill_buffers(model: PreTrainedModel) -> None:
    """Give buffers that no checkpoint has the values that their modules start with."""
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if not buffer.is_meta:
                continue
            if name == "position_ids":
                value = torch.arange(buffer.shape[-1]).expand(buffer.shape).clone()
            elif name == "embed_scale":
                value = torch.tensor(cast(float, module.scalar_embed_scale))
            else:
                raise ModelError(f"{type(module).__name__} has a buffer {name!r} of which nothing says what is in it")
            setattr(module, name, value)


def exported_tensors(vlm: VLM, found: Fit) -> dict[str, Tensor]:
    """All tensors under transformers' names, new vocabulary rows joined to their tables, adapters left out.

    Layers of the vision tower that were cut off here, because nothing reads them, are zeros.
    """
    plain = plain_tensors(vlm)
    like = next(iter(plain.values()))
    zeros = {name: torch.zeros(shape, dtype=like.dtype) for name, shape in found.unread.items()}
    return {found.names[name]: tensor for name, tensor in plain.items()} | zeros


def plain_tensors(vlm: VLM) -> dict[str, Tensor]:
    """The state dict as without adapters and extended tables: adapters left out, new rows joined to their tables."""
    tensors = {}
    for name, tensor in vlm.state_dict().items():
        if "trainable_tokens" not in name and "lora_" not in name:
            tensors[name.replace(".base_layer.", ".")] = tensor
    model = vlm.language.model
    modules = {id(module): name for name, module in vlm.named_modules()}
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        rows, start, path = getattr(base, "trainable_tokens", None), getattr(base, "start", 0), modules[id(module)]
        tensors[f"{path}.weight"] = plain_table(cast(Tensor, base.weight), rows, start).detach()
        if rows is not None and (bias := getattr(base, "bias", None)) is not None:
            # Logits of new tokens have no bias (`ExtendedHead`), whatever the base has where it is padded.
            tensors[f"{path}.bias"] = plain_table(bias, bias.new_zeros(len(rows)), start).detach()
    return tensors
