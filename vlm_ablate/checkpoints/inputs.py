"""A batch of ours as the arguments of transformers' classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vlm_ablate.models.batch import Batch
from vlm_ablate.models.vlm import VLM

Inputs = dict[str, Tensor]


def inputs_for(model: PreTrainedModel, vlm: VLM, batch: Batch) -> Inputs:
    """The batch as transformers' `model` wants it, in the model's precision."""
    real = batch.attention_mask
    inputs = dict(
        input_ids=batch.input_ids,
        attention_mask=real.long(),
        # Left padding must not shift positions.
        position_ids=(real.long().cumsum(1) - 1).clamp(min=0),
    )
    return inputs | _INPUTS[model.config.model_type](model, vlm, batch)


def slots(batch: Batch, dtype: torch.dtype) -> tuple[Tensor, list[tuple[int, int]]]:
    """(samples, most views of a sample, 3, height, width), zeros where there is none; and where each view went."""
    assert batch.pixel_values is not None
    counts = torch.bincount(batch.view_sample, minlength=len(batch.input_ids))
    filled = torch.zeros(len(counts), max(1, int(counts.max())), *batch.pixel_values.shape[1:], dtype=dtype)
    places, seen = [], [0] * len(counts)
    for row, view in zip(batch.view_sample.tolist(), batch.pixel_values, strict=True):
        filled[row, seen[row]] = view.to(dtype)
        places.append((row, seen[row]))
        seen[row] += 1
    return filled, places


def _idefics2(model: PreTrainedModel, vlm: VLM, batch: Batch) -> Inputs:
    if batch.pixel_values is None:
        return {}
    filled, places = slots(batch, model.dtype)
    mask = torch.zeros(*filled.shape[:2], *filled.shape[3:], dtype=torch.bool)
    for view, place in enumerate(places):
        mask[place] = True if batch.pixel_mask is None else batch.pixel_mask[view]
    return dict(pixel_values=filled, pixel_attention_mask=mask)


def _llava(model: PreTrainedModel, vlm: VLM, batch: Batch) -> Inputs:
    return {} if batch.pixel_values is None else dict(pixel_values=batch.pixel_values.to(model.dtype))


def _paligemma(model: PreTrainedModel, vlm: VLM, batch: Batch) -> Inputs:
    prompt = torch.zeros_like(batch.input_ids)  # everything is prompt, nothing is to be predicted
    return dict(token_type_ids=prompt, **_llava(model, vlm, batch))


def _idefics(model: PreTrainedModel, vlm: VLM, batch: Batch) -> Inputs:
    from transformers.models.idefics.processing_idefics import (
        image_attention_mask_for_packed_input_ids,
        incremental_to_binary_attention_mask,
    )

    rows, side = len(batch.input_ids), vlm.side
    if batch.pixel_values is None:
        filled = torch.zeros(rows, 1, 3, side, side, dtype=model.dtype)
    else:
        filled, _ = slots(batch, model.dtype)
    incremental, _ = image_attention_mask_for_packed_input_ids(batch.input_ids, vlm.tokenizer, "pt")
    mask = incremental_to_binary_attention_mask(incremental, "pt", num_classes=filled.shape[1])
    return dict(pixel_values=filled, image_attention_mask=mask)


def _mllama(model: PreTrainedModel, vlm: VLM, batch: Batch) -> Inputs:
    from transformers.models.mllama.processing_mllama import (
        convert_sparse_cross_attention_mask_to_dense,
        get_cross_attention_token_mask,
    )

    theirs = model.config.image_token_index
    ids = batch.input_ids.masked_fill(batch.input_ids == vlm.image_token_id, theirs)
    if batch.pixel_values is None:
        return dict(input_ids=ids)
    filled, places = slots(batch, model.dtype)
    tiles, (rows, images) = model.config.vision_config.max_num_tiles, filled.shape[:2]
    tiled = torch.zeros(rows, images, tiles, *filled.shape[2:], dtype=filled.dtype)
    tiled[:, :, 0] = filled
    ratio, real = torch.zeros(rows, images, dtype=torch.long), torch.zeros(rows, images, tiles, dtype=torch.long)
    real[..., 0] = 1  # as transformers' image processor leaves it for missing images
    for place in places:
        ratio[place] = 1
    sparse = [get_cross_attention_token_mask(row, theirs) for row in ids.tolist()]
    counts = [[1] * len(row) for row in sparse]
    dense = convert_sparse_cross_attention_mask_to_dense(sparse, counts, tiles, ids.shape[1])
    pixels = dict(pixel_values=tiled, aspect_ratio_ids=ratio, aspect_ratio_mask=real)
    return dict(input_ids=ids, cross_attention_mask=torch.tensor(dense), **pixels)


_INPUTS: dict[str, Callable[[PreTrainedModel, VLM, Batch], Inputs]] = {
    "idefics2": _idefics2,
    "idefics3": _idefics2,
    "smolvlm": _idefics2,
    "llava": _llava,
    "paligemma": _paligemma,
    "idefics": _idefics,
    "mllama": _mllama,
}
