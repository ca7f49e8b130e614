"""Bytes of the files of weights that stages leave, which follow from all stages up to each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vlm_ablate.config.stages import BACKBONES
from vlm_ablate.models.vlm import VLM, Adapter


@dataclass(frozen=True)
class Adapted:
    """The adapters of a backbone."""

    adapter: Adapter
    bytes: int
    weights: dict[str, int]
    """Name of a weight that they are merged into when another stage does without -> its bytes."""


@dataclass(frozen=True)
class Kept:
    """What a stage adds to the file of weights."""

    own: dict[str, int]
    """Name of a new or trained parameter, adapters apart -> its bytes."""
    adapted: dict[str, Adapted]
    """By backbone, those that the stage freezes as well."""


def kept_of(vlm: VLM) -> Kept:
    """Of a model as a stage trains it: what `save_trained` writes of it (and buffers, which are small)."""
    own: dict[str, int] = {}
    adapters, sizes = dict.fromkeys(BACKBONES, 0), {}
    for path, parameter in vlm.named_parameters():
        name, size = path.replace(".base_layer", ""), parameter.numel() * parameter.element_size()
        sizes[name] = size
        if ".lora_" in name:
            adapters[name.split(".", 1)[0]] += size
        elif parameter.requires_grad or name.startswith(("connector.", "architecture.")):
            own[name] = size
    adapted = {}
    for backbone, adapter in vlm.adapters.items():
        prefix = "vision.backbone" if backbone == "vision" else "language.model"
        merged = [f"{prefix}.{module}.weight" for module in adapter.modules]
        weights = {name: sizes[name] for name in merged if name in sizes}
        adapted[backbone] = Adapted(adapter, adapters[backbone], weights)
    return Kept(own, adapted)


def file_sizes(stages: Iterable[Kept]) -> list[int]:
    """Bytes of each stage's file of weights: what earlier stages trained is in it, too, and what adapters were merged
    into when a stage has others, or none as it trains the backbone in full."""
    sizes = []
    weights: dict[str, int] = {}
    adapted: dict[str, Adapted] = {}
    for stage in stages:
        for backbone, before in adapted.items():
            now = stage.adapted.get(backbone)
            if now is None or now.adapter != before.adapter:
                weights |= before.weights
        adapted, weights = stage.adapted, weights | stage.own
        sizes.append(sum(weights.values()) + sum(each.bytes for each in adapted.values()))
    return sizes
