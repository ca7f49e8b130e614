"""Where a model's weights come from at the start of training: released checkpoints, our own, runs; all or by part."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, PretrainedConfig

from vlm_ablate.checkpoints.adapters_of import fold_adapters
from vlm_ablate.checkpoints.families.known import family_of
from vlm_ablate.checkpoints.own import TENSORS, load_checkpoint, merged_tensors, planned_checkpoint
from vlm_ablate.checkpoints.placing import PARTS, import_tensors
from vlm_ablate.checkpoints.to_transformers import plain_tensors
from vlm_ablate.checkpoints.trained import WEIGHTS, is_trained_stage, read_trained_stage
from vlm_ablate.config.model import RUN, WHOLE, ModelConfig
from vlm_ablate.errors import AssetMissing, ModelError
from vlm_ablate.models.language.vocabulary import ExtendedEmbedding
from vlm_ablate.models.pretrained import (
    bundled_config,
    config_folder,
    is_own_checkpoint,
    opened_tensors,
    planned_tensors,
    read_config,
    read_named,
    read_tensor,
    read_tensors,
    resolve,
    tensor_names,
)
from vlm_ablate.models.released import adapter_folder, check_parts, read_model
from vlm_ablate.models.renaming import Renaming
from vlm_ablate.models.trained_state import load_trained
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM, build_vlm

_NEW = ("connector", "architecture")
"""Parts that a run's weights and a folder of ours hold whole, whatever else is in them."""
_OWN = Renaming(((r"", r""),))
"""Checkpoints of this package: tensors have their own names."""


def started_vlm(config: ModelConfig, views: Views, *, seed: int = 0, half: Collection[str] = ()) -> VLM:
    """The model of a configuration with the weights that training starts from: its parts', then those of `init_from`.

    Runs stand in it by the folders of their last stages, see `runs/starts.py`.

    Args:
        half: backbones that are held in bf16, see `build_vlm`.

    Raises:
        AssetMissing: a part's files, or the checkpoint, are not on this machine.
        ModelError: the parts do not fit together, or the checkpoint does not fit them.
    """
    check_parts(config)
    vlm = build_vlm(config, views, seed=seed, half=half)
    for part, id in config.starts.items():
        _start(vlm, part, id, planning=False)
    return vlm


def check_starts(vlm: VLM, config: ModelConfig) -> None:
    """Whether `started_vlm` would load what `init_from` names, from names and shapes alone: for a model on meta.

    A well-known hub id that is not on this machine is judged by the configuration that the package carries. A run that
    stands there by its name is not looked at: who knows the home puts its folder there before (`runs/starts.py`).

    Raises:
        AssetMissing: neither a checkpoint nor its configuration is on this machine.
        ModelError: it is not of this assembly.
    """
    for part, id in config.starts.items():
        if not id.startswith(RUN):
            _start(vlm, part, id, planning=True)


def _start(vlm: VLM, part: str, id: str, *, planning: bool) -> None:
    """Load one part, or all; what is wrong with a part is told of its field."""
    try:
        if part == WHOLE:
            _import(vlm, id, PARTS, planning=planning)
        elif part == "adapters":
            fold_adapters(vlm, resolve(id), planning=planning)
        else:
            _check_part(vlm, part)
            _import(vlm, id, (part,), planning=planning)
    except (AssetMissing, ModelError) as error:
        if part != WHOLE:
            error.message = f"model.init_from.{part}: {error.message}"
        raise


def _check_part(vlm: VLM, part: str) -> None:
    if not any(name.startswith(f"{part}.") for name, _ in vlm.named_parameters()):
        raise ModelError(
            f"the {part} {getattr(vlm.config, part).name!r} of this model has no weights",
            hint=f"leave out model.init_from.{part}",
        )


@dataclass(frozen=True)
class _Incoming:
    """What a checkpoint brings for the parts that are asked for."""

    tensors: Mapping[str, Tensor]
    names: Renaming
    all_names: Iterable[str]
    """Of all its tensors, by its own names."""
    placeholder: int | None = None
    """Id of `<image>` there; None: it does not say."""
    copied: bool = False
    """The placeholder is another token there, whose embedding ours gets."""


def _import(vlm: VLM, id: str, parts: Sequence[str], *, planning: bool) -> None:
    """Load parts of a checkpoint (local folder or hub id) into a model with the same ones.

    Adapters that stand beside its weights are folded into them.
    """
    folder = config_folder(id, planning=True) if planning else resolve(id)
    if is_trained_stage(folder):
        found = _of_stage(folder, parts, planning)
    elif is_own_checkpoint(folder):
        found = _of_own(folder, parts, planning)
    else:
        found = _of_family(folder, id, parts, planning)
    words = "language" in parts
    if words and not found.copied and found.placeholder not in (None, vlm.image_token_id):
        raise ModelError(
            f"init_from: <image> is token {found.placeholder} in {id!r} and {vlm.image_token_id} here",
            hint="give the same checkpoint as the language model's `id`, so that its tokeniser is used",
        )
    if len(parts) < len(PARTS):
        there = {ours.partition(".")[0] for name in found.all_names if (ours := found.names.to_ours(name))}
        absent = [part for part in parts if part not in there]
        if absent:
            raise ModelError(f"{folder} has no weights of a part {absent[0]!r}; it has {', '.join(sorted(there))}")
    import_tensors(vlm, found.tensors, found.names, parts)
    if words and found.copied and found.placeholder is not None and not planning:
        _copy_row(vlm, found.placeholder, vlm.image_token_id)


def _of_stage(folder: Path, parts: Sequence[str], planning: bool) -> _Incoming:
    """Of a run: new parts from its file; for others its model is built, adapters folded in."""
    told = read_trained_stage(folder, check=not planning)
    if set(parts) <= set(_NEW):
        return _of_file(folder / WEIGHTS, parts, planning)
    if planning:
        vlm = build_vlm(told.model, told.views, load_weights=False)
        return _of_vlm(vlm, plain_tensors(vlm))
    vlm = started_vlm(told.model, told.views, seed=told.seed)
    load_trained(vlm, told.weights)
    return _of_vlm(vlm, merged_tensors(vlm))


def _of_own(folder: Path, parts: Sequence[str], planning: bool) -> _Incoming:
    if set(parts) <= set(_NEW):
        return _of_file(folder / TENSORS, parts, planning)
    if planning:
        vlm = planned_checkpoint(folder)
        return _of_vlm(vlm, plain_tensors(vlm))
    vlm = load_checkpoint(folder)
    return _of_vlm(vlm, merged_tensors(vlm))


def _of_vlm(vlm: VLM, tensors: Mapping[str, Tensor]) -> _Incoming:
    return _Incoming(tensors, _OWN, tensors, vlm.image_token_id)


def _of_file(file: Path, parts: Sequence[str], planning: bool) -> _Incoming:
    """Tensors of some parts under our own names; on the meta device for a plan."""
    wanted = tuple(f"{part}." for part in parts)
    with opened_tensors(file) as opened:
        names = list(opened.keys())
        own = [name for name in names if name.startswith(wanted)]
        return _Incoming({name: read_tensor(opened, name, planning=planning) for name in own}, _OWN, names)


def _of_family(folder: Path, id: str, parts: Sequence[str], planning: bool) -> _Incoming:
    """Of a released checkpoint; of one that is planned with, names and shapes."""
    config = read_config(str(folder), planning=planning)
    family = family_of(config, id)
    names = family.names(config)
    told = (getattr(config, "image_token_id", None), family.own_placeholder)
    if planning:
        planned = _planned(folder, config, id)
        return _Incoming(planned, names, planned, *told)
    if adapter_folder(folder):
        tensors = dict(read_model(folder).state_dict())
        return _Incoming(tensors, names, tensors, *told)
    if len(parts) == len(PARTS):
        tensors = read_tensors(folder)
        return _Incoming(tensors, names, tensors, *told)
    there, wanted = tensor_names(folder), tuple(f"{part}." for part in parts)
    return _Incoming(
        read_named(folder, [n for n in there if (names.to_ours(n) or "").startswith(wanted)]), names, there, *told
    )


def _planned(folder: Path, config: PretrainedConfig, id: str) -> Mapping[str, Tensor]:
    """Its tensors on the meta device, from files or, of a configuration that the package carries, from that."""
    if any(folder.glob("*.safetensors")) or bundled_config(id) != folder:
        return planned_tensors(folder)
    with torch.device("meta"):
        whole: Mapping[str, Tensor] = AutoModelForImageTextToText.from_config(config).state_dict()
    return whole


@torch.no_grad()
def _copy_row(vlm: VLM, source: int, target: int) -> None:
    """Give the token `target` the embedding of `source`."""
    module = vlm.language.model.get_input_embeddings()
    if isinstance(module, ExtendedEmbedding) and target >= module.start:
        module.trainable_tokens[target - module.start] = module.weight[source]
