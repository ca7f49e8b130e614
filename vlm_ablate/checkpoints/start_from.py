"""Weights of released checkpoints, and of this package's own, into an assembly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, PretrainedConfig

from vlm_ablate.checkpoints.families.base import EMBEDDING, HEAD, POSITIONS, Family
from vlm_ablate.checkpoints.families.known import family_of
from vlm_ablate.checkpoints.own import load_checkpoint, merged_tensors, planned_tensors
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.errors import ModelError
from vlm_ablate.models.language.vocabulary import ExtendedEmbedding, ExtendedHead
from vlm_ablate.models.pretrained import (
    bundled_config,
    config_folder,
    is_own_checkpoint,
    read_config,
    read_tensors,
    resolve,
    tensor_shapes,
)
from vlm_ablate.models.released import adapter_folder, check_parts, read_model
from vlm_ablate.models.renaming import Renaming
from vlm_ablate.models.views import Views
from vlm_ablate.models.vision.siglip import resize_positions
from vlm_ablate.models.vlm import VLM, build_vlm


def started_vlm(
    config: ModelConfig, views: Views, *, seed: int = 0, language_dtype: torch.dtype = torch.float32
) -> VLM:
    """The model of a configuration with the weights that training starts from: its parts', then those of `init_from`.

    Raises:
        AssetMissing: a part's files, or the checkpoint, are not on this machine.
        ModelError: the parts do not fit together, or the checkpoint does not fit them.
    """
    check_parts(config)
    vlm = build_vlm(config, views, seed=seed, language_dtype=language_dtype)
    if config.init_from:
        import_checkpoint(vlm, config.init_from)
    return vlm


def import_checkpoint(vlm: VLM, id: str) -> None:
    """Load a whole released checkpoint (local folder or hub id) into a model of the same assembly.

    Adapters that stand beside its weights are folded into them.

    Raises:
        AssetMissing: it is not on this machine.
        ModelError: it is of another family, or its tensors or token ids are not those of this assembly.
    """
    folder = resolve(id)
    if is_own_checkpoint(folder):
        loaded = load_checkpoint(folder)
        _check_placeholder(vlm, loaded.image_token_id, str(folder))
        import_tensors(vlm, merged_tensors(loaded), _OWN)
        return
    config = read_config(str(folder), planning=False)
    family = _family(vlm, config, id)
    tensors = read_model(folder).state_dict() if adapter_folder(folder) else read_tensors(folder)
    import_tensors(vlm, tensors, family.names(config))
    theirs = getattr(config, "image_token_id", None)
    if family.own_placeholder and theirs is not None:
        _copy_row(vlm, theirs, vlm.image_token_id)


def check_checkpoint(vlm: VLM, id: str) -> None:
    """Whether `import_checkpoint` would load it, from names and shapes alone: for plans, with a model on meta.

    A well-known hub id that is not on this machine is judged by the configuration that the package carries.

    Raises:
        AssetMissing: neither the checkpoint nor its configuration is on this machine.
        ModelError: it is not of this assembly.
    """
    folder = config_folder(id, planning=True)
    if is_own_checkpoint(folder):
        import_tensors(vlm, planned_tensors(folder), _OWN)
        return
    config = read_config(str(folder), planning=True)
    names = _family(vlm, config, id).names(config)
    if any(folder.glob("*.safetensors")) or bundled_config(id) != folder:
        shapes = tensor_shapes(folder)
    else:
        with torch.device("meta"):
            whole = AutoModelForImageTextToText.from_config(config)
        shapes = {name: tensor.shape for name, tensor in whole.state_dict().items()}
    import_tensors(vlm, {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, names)


def _family(vlm: VLM, config: PretrainedConfig, id: str) -> Family:
    family = family_of(config, id)
    if not family.own_placeholder:
        _check_placeholder(vlm, getattr(config, "image_token_id", None), id)
    return family


def _check_placeholder(vlm: VLM, theirs: int | None, id: str) -> None:
    if theirs is not None and theirs != vlm.image_token_id:
        raise ModelError(
            f"init_from: <image> is token {theirs} in {id!r} and {vlm.image_token_id} here",
            hint="give the same checkpoint as the language model's `id`, so that its tokeniser is used",
        )


_OWN = Renaming(((r"", r""),))
"""Checkpoints of this package: tensors have their own names."""


@torch.no_grad()
def import_tensors(vlm: VLM, tensors: Mapping[str, Tensor], names: Renaming) -> None:
    """Load tensors that `names` finds places for.

    Layers that the vision encoder cut off, because nothing reads them, are left out, and so is a head that equals the
    embedding where both are one table here.

    Raises:
        ModelError: tensors are missing or surplus, or have other shapes.
    """
    incoming, surplus = names.group(tensors)
    own = {name: p for name, p in vlm.named_parameters() if "trainable_tokens" not in name}
    for name in vlm.vision.cut_away:
        incoming.pop(f"vision.backbone.{name}", None)
    tied = vlm.language.model.get_output_embeddings().weight is vlm.language.model.get_input_embeddings().weight
    if tied and HEAD in incoming:
        _check_same_table(incoming.pop(HEAD), incoming.get(EMBEDDING, []), tensors)
    missing = sorted(set(own) - set(incoming))
    surplus += sorted(set(incoming) - set(own))
    if missing or surplus:
        raise ModelError(
            f"the checkpoint does not fit this assembly: missing {missing[:4]}, surplus {surplus[:4]}"
            f" ({len(missing)} missing, {len(surplus)} surplus)"
        )
    for name, parameter in own.items():
        parts = [tensors[theirs] for theirs in incoming[name]]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        if name in (EMBEDDING, HEAD):
            tensor = _split_rows(vlm, name, tensor)
        elif name == POSITIONS:
            tensor = resize_positions(tensor.float(), len(parameter))
        elif "alpha_" in name and tensor.dim() == 3:
            tensor = tensor[0, 0]  # Idefics' gates by channel: (1, 1, hidden) there, (hidden,) here
        if tensor.shape != parameter.shape:
            raise ModelError(
                f"{name}: the checkpoint has {tuple(tensor.shape)}, this assembly {tuple(parameter.shape)}"
            )
        parameter.copy_(tensor)


def _check_same_table(head: list[str], embedding: list[str], tensors: Mapping[str, Tensor]) -> None:
    """Whether the rows of a checkpoint's output head are those of its embedding; on meta, where none are, taken so."""
    if not embedding or any(tensors[name].is_meta for name in (*head, *embedding)):
        return
    rows, table = (torch.cat([tensors[name] for name in names]) for names in (head, embedding))
    shared = min(len(rows), len(table))
    if not torch.equal(rows[:shared], table[:shared]):
        raise ModelError(
            f"the checkpoint's output head ({head[0]}) is another table than its embedding, and finds no place:"
            " in this assembly both are one",
            hint="give the same checkpoint as the language model's `id`",
        )


def _split_rows(vlm: VLM, name: str, table: Tensor) -> Tensor:
    """Rows of new tokens go to their own parameter; the rest is returned for the base table.

    A table that ends before the last new token knows nothing of those beyond its end: they stay as they were.
    """
    model = vlm.language.model
    module = model.get_input_embeddings() if name == EMBEDDING else model.get_output_embeddings()
    base = len(cast(Tensor, module.weight))
    extended = module if isinstance(module, ExtendedEmbedding | ExtendedHead) else None
    end = base if extended is None else extended.start + len(extended.trainable_tokens)
    if not base <= len(table) <= max(base, end):
        raise ModelError(f"the checkpoint's vocabulary has {len(table)} rows, this assembly's {max(base, end)}")
    if extended is not None and len(table) > extended.start:
        known = table[extended.start : end]
        extended.trainable_tokens[: len(known)].copy_(known)
    return table[:base]


@torch.no_grad()
def _copy_row(vlm: VLM, source: int, target: int) -> None:
    """Give the token `target` the embedding of `source`."""
    module = vlm.language.model.get_input_embeddings()
    if isinstance(module, ExtendedEmbedding) and target >= module.start:
        module.trainable_tokens[target - module.start] = module.weight[source]
