"""Weights of released Idefics2, Idefics3 and SmolVLM checkpoints into our assembly."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vlm_ablate.errors import ModelError
from vlm_ablate.models.checkpoints.names import EMBEDDING, HEAD, IDEFICS, POSITIONS, to_ours
from vlm_ablate.models.hub import read_config, read_tensors, resolve
from vlm_ablate.models.vision.siglip import resize_positions
from vlm_ablate.models.vlm import VLM


def import_checkpoint(vlm: VLM, id: str) -> None:
    """Load a whole released checkpoint (local folder or hub id) into a model of the same assembly.

    Raises:
        AssetMissing: it is not on this machine.
        ModelError: it is of another family, or its tensors or token ids are not those of this assembly.
    """
    folder = resolve(id)
    config = read_config(str(folder), planning=False)
    if config.model_type not in IDEFICS:
        raise ModelError(f"init_from: {id!r} is a {config.model_type!r} checkpoint; known: {', '.join(IDEFICS)}")
    theirs = getattr(config, "image_token_id", None)
    if theirs != vlm.image_token_id:
        raise ModelError(
            f"init_from: <image> is token {theirs} in {id!r} and {vlm.image_token_id} here",
            hint="give the same checkpoint as the language model's `id`, so that its tokeniser is used",
        )
    import_tensors(vlm, read_tensors(folder))


@torch.no_grad()
def import_tensors(vlm: VLM, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors that are named as in transformers' checkpoints.

    Raises:
        ModelError: tensors are missing or surplus, or have other shapes.
    """
    named = {to_ours(name): (name, tensor) for name, tensor in tensors.items()}
    surplus = [name for name in tensors if to_ours(name) is None]
    own = {name: p for name, p in vlm.named_parameters() if "trainable_tokens" not in name}
    incoming = {name: tensor for name, (_, tensor) in named.items() if name is not None}
    tied = vlm.language.model.get_output_embeddings().weight is vlm.language.model.get_input_embeddings().weight
    if tied:
        incoming.pop(HEAD, None)
    missing = sorted(set(own) - set(incoming))
    surplus += sorted(set(incoming) - set(own))
    if missing or surplus:
        raise ModelError(f"the checkpoint does not fit this assembly: missing {missing[:4]}, surplus {surplus[:4]}")
    for name, parameter in own.items():
        tensor = incoming[name]
        if name in (EMBEDDING, HEAD):
            tensor = _split_rows(vlm, name, tensor)
        elif name == POSITIONS:
            tensor = resize_positions(tensor.float(), len(parameter))
        if tensor.shape != parameter.shape:
            raise ModelError(
                f"{name}: the checkpoint has {tuple(tensor.shape)}, this assembly {tuple(parameter.shape)}"
            )
        parameter.copy_(tensor)


def _split_rows(vlm: VLM, name: str, table: Tensor) -> Tensor:
    """Rows of new tokens go to their own parameter; the rest is returned for the base table."""
    model = vlm.language.model
    module = model.get_input_embeddings() if name == EMBEDDING else model.get_output_embeddings()
    if len(table) != vlm.language.vocabulary:
        raise ModelError(
            f"the checkpoint's vocabulary has {len(table)} rows, this assembly's {vlm.language.vocabulary}"
        )
    rows = getattr(module, "trainable_tokens", None)
    if rows is not None:
        rows.copy_(table[module.start : module.start + len(rows)])
    return table[: len(module.weight)]
