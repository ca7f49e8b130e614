"""The families that are known, and what is asked of them by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlm_ablate.checkpoints.families.base import ExportFamily, Family, Inputs, Parts
from vlm_ablate.checkpoints.families.idefics import Idefics
from vlm_ablate.checkpoints.families.idefics2 import Idefics2
from vlm_ablate.checkpoints.families.idefics3 import Idefics3
from vlm_ablate.checkpoints.families.llava import Llava
from vlm_ablate.checkpoints.families.mllama import Mllama
from vlm_ablate.checkpoints.families.paligemma import PaliGemma
from vlm_ablate.errors import ModelError
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.masks import positions
from vlm_ablate.models.vlm import VLM

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

EXPORTS: tuple[ExportFamily, ...] = (Idefics2(), Idefics3(), Llava(), PaliGemma())
"""Families that an assembly may be written as; its connector says which."""
FAMILIES: dict[str, Family] = {
    name: family for family in (*EXPORTS, Idefics(), Mllama()) for name in family.model_types
}
"""`model_type` of a configuration -> its family; COVERAGE.md says what of each is covered."""


def family_of(config: PretrainedConfig, id: str) -> Family:
    """The family of a checkpoint's configuration.

    Raises:
        ModelError: it is of none that is known.
    """
    if config.model_type not in FAMILIES:
        raise ModelError(f"{id!r} is a {config.model_type!r} checkpoint; known: {', '.join(FAMILIES)}")
    return FAMILIES[config.model_type]


def parts_of(config: PretrainedConfig, id: str) -> Parts:
    """The fields of a `ModelConfig` for the checkpoint `id` (local folder or hub id) of that configuration.

    Raises:
        ModelError: it is of a family, or a variant of one, that is no assembly of ours.
    """
    return {**family_of(config, id).parts(config, id), "language": {"name": "hf", "id": id}, "init_from": id}


def inputs_for(model: PreTrainedModel, vlm: VLM, batch: Batch) -> Inputs:
    """The batch as transformers' `model` wants it, in the model's precision."""
    common = dict(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask.long(),
        position_ids=positions(batch.segment),
    )
    return common | family_of(model.config, type(model).__name__).inputs(model, vlm, batch)
