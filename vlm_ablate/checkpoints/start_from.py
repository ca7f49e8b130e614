"""Weights of released checkpoints into our assembly: the families of `names.FAMILIES`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, PretrainedConfig

from vlm_ablate.checkpoints.names import EMBEDDING, FAMILIES, HEAD, POSITIONS, Family
from vlm_ablate.errors import ModelError
from vlm_ablate.models.pretrained import (
    bundled_config,
    config_folder,
    is_own_checkpoint,
    read_config,
    read_tensors,
    resolve,
    tensor_shapes,
)
from vlm_ablate.models.vision.siglip import resize_positions
from vlm_ablate.models.vlm import VLM


def import_checkpoint(vlm: VLM, id: str) -> None:
    """Load a whole released checkpoint (local folder or hub id) into a model of the same assembly.

    Raises:
        AssetMissing: it is not on this machine.
        ModelError: it is of another family, or its tensors or token ids are not those of this assembly.
    """
    folder = resolve(id)
    if is_own_checkpoint(folder):
        _import_own(vlm, folder)
        return
    config = read_config(str(folder), planning=False)
    family = _family(vlm, config, id)
    import_tensors(vlm, read_tensors(folder), family)
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
        import_tensors(vlm, _own_shapes(folder), _OWN)
        return
    config = read_config(str(folder), planning=True)
    family = _family(vlm, config, id)
    if any(folder.glob("*.safetensors")) or bundled_config(id) != folder:
        shapes = tensor_shapes(folder)
    else:
        with torch.device("meta"):
            whole = AutoModelForImageTextToText.from_config(config)
        shapes = {name: tensor.shape for name, tensor in whole.state_dict().items()}
    import_tensors(vlm, {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, family)


def _family(vlm: VLM, config: PretrainedConfig, id: str) -> Family:
    if config.model_type not in FAMILIES:
        raise ModelError(f"init_from: {id!r} is a {config.model_type!r} checkpoint; known: {', '.join(FAMILIES)}")
    family = FAMILIES[config.model_type](config)
    if not family.own_placeholder:
        _check_placeholder(vlm, getattr(config, "image_token_id", None), id)
    return family


def _check_placeholder(vlm: VLM, theirs: int | None, id: str) -> None:
    if theirs is not None and theirs != vlm.image_token_id:
        raise ModelError(
            f"init_from: <image> is token {theirs} in {id!r} and {vlm.image_token_id} here",
            hint="give the same checkpoint as the language model's `id`, so that its tokeniser is used",
        )


_OWN = Family(((r"", r""),))
"""Checkpoints of this package: tensors have their own names."""


def _import_own(vlm: VLM, folder: Path) -> None:
    from vlm_ablate.checkpoints.own import load_checkpoint, merged_tensors

    loaded = load_checkpoint(folder)
    _check_placeholder(vlm, loaded.image_token_id, str(folder))
    import_tensors(vlm, merged_tensors(loaded), _OWN)


def _own_shapes(folder: Path) -> dict[str, Tensor]:
    from vlm_ablate.checkpoints.own import planned_tensors

    return planned_tensors(folder)


@torch.no_grad()
def import_tensors(vlm: VLM, tensors: Mapping[str, Tensor], family: Family) -> None:
    """Load tensors that are named as in transformers' checkpoints of `family`.

    Layers that the vision encoder cut off, because nothing reads them, are left out.

    Raises:
        ModelError: tensors are missing or surplus, or have other shapes.
    """
    incoming, surplus = family.group(tensors)
    own = {name: p for name, p in vlm.named_parameters() if "trainable_tokens" not in name}
    for name in vlm.vision.cut_away:
        incoming.pop(f"vision.backbone.{name}", None)
    tied = vlm.language.model.get_output_embeddings().weight is vlm.language.model.get_input_embeddings().weight
    if tied:
        incoming.pop(HEAD, None)
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


def _split_rows(vlm: VLM, name: str, table: Tensor) -> Tensor:
    """Rows of new tokens go to their own parameter; the rest is returned for the base table.

    A table that ends before the last new token knows nothing of those beyond its end: they stay as they were.
    """
    model = vlm.language.model
    module = model.get_input_embeddings() if name == EMBEDDING else model.get_output_embeddings()
    base, rows = len(module.weight), getattr(module, "trainable_tokens", None)
    end = base if rows is None else module.start + len(rows)
    if not base <= len(table) <= max(base, end):
        raise ModelError(f"the checkpoint's vocabulary has {len(table)} rows, this assembly's {max(base, end)}")
    if rows is not None and len(table) > module.start:
        known = table[module.start : end]
        rows[: len(known)].copy_(known)
    return table[:base]


@torch.no_grad()
def _copy_row(vlm: VLM, source: int, target: int) -> None:
    """Give the token `target` the embedding of `source`."""
    module = vlm.language.model.get_input_embeddings()
    rows = getattr(module, "trainable_tokens", None)
    if rows is not None and target >= module.start:
        rows[target - module.start] = module.weight[source]
