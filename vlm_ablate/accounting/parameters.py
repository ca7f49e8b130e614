"""Parameters by part."""

from __future__ import annotations

from torch import nn

from vlm_ablate.models.vlm import VLM

PARTS = ("vision", "connector", "cross_attention", "language", "embeddings", "adapters")
"""vision and language: backbones without adapters; language: without token tables. cross_attention: the new
parameters of any architecture. embeddings: token tables, output head and rows of new tokens. adapters: LoRA, DoRA."""


def parameters_by_part(vlm: VLM, *, trainable: bool = False) -> dict[str, int]:
    """Part -> number of parameters; shared ones (tied embeddings) count once.

    Args:
        vlm: the model, after `apply_training` where adapters or trainable counts matter.
        trainable: only those that require gradients.
    """
    tables = _tables(vlm)
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in vlm.named_parameters():
        if parameter.requires_grad or not trainable:
            counts[part_of(name, parameter, tables)] += parameter.numel()
    if not trainable:
        counts["vision"] += getattr(vlm.vision.backbone, "untracked_parameters", 0)
    return counts


def part_of(name: str, parameter: nn.Parameter, tables: set[int]) -> str:
    """The part that a parameter of a VLM belongs to; `tables` are the ids of the token tables' parameters."""
    if ".lora_" in name:
        return "adapters"
    if id(parameter) in tables:
        return "embeddings"
    first = name.split(".", 1)[0]
    return "cross_attention" if first == "architecture" else first


def _tables(vlm: VLM) -> set[int]:
    model = vlm.language.model
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    return {id(p) for module in modules if module is not None for p in module.parameters()}
