"""Tiny assemblies as a plan sees them and as they are."""

from __future__ import annotations

import torch

from vlm_ablate.accounting import SampleShape, plan_model
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.config.stages import held_in_bf16
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.batch import IGNORE, Batch
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import build_vlm


def run_config(model, image=None, *, sequence_length=128, **stage) -> RunConfig:
    """A run of one stage; fields of `stage` that say only how it is computed become its execution."""
    execution = {key: stage.pop(key) for key in list(stage) if key in Execution.model_fields}
    data = {"mixture": {"any": {"source": "offline"}}, "image": image or {}, "sequence_length": sequence_length}
    return RunConfig.model_validate(
        {
            "model": model,
            "stages": {"train": {"steps": 1, "batch_size": 2, "data": data, **stage}},
            "evaluation": {"benchmarks": {"any": {"benchmark": "offline_vqa"}}},
            "execution": execution,
        }
    )


TINY_PERCEIVER = {"name": "perceiver", "latents": 8, "depth": 2, "heads": 4, "head_dim": 16, "kv_heads": 2}
ASSEMBLIES = {
    "linear": ({"name": "linear"}, "autoregressive"),
    "perceiver": (TINY_PERCEIVER, "autoregressive"),
    "pixel_shuffle": ({"name": "pixel_shuffle"}, "autoregressive"),
    "mapping_network": ({"name": "mapping_network", "tokens": 6, "depth": 2, "heads": 4}, "autoregressive"),
    "cross_attention": ({**TINY_PERCEIVER, "projection": "none"}, {"name": "cross_attention", "every": 2}),
}
TEXT = 40


def batch_of(vlm, plan, size):
    """`size` samples shaped as the plan's: an image first, then supervised text."""
    places = plan.placeholders_per_image
    ids = torch.randint(4, 20, (size, plan.sequence))
    ids[:, :places] = vlm.image_token_id
    labels = ids.masked_fill(torch.arange(plan.sequence) < places, IGNORE)
    return Batch(
        input_ids=ids,
        segment=torch.ones_like(ids),
        labels=labels,
        pixel_values=torch.randn(size, 3, 64, 64),
        pixel_mask=None,
        view_sample=torch.arange(size),
        sample_ids=[str(i) for i in range(size)],
        images=size,
    )


def planned_and_real(tiny, assembly, **stage):
    connector, architecture = ASSEMBLIES[assembly]
    model = {**tiny, "connector": connector, "architecture": architecture}
    config = run_config(model, {"size": 64}, sequence_length=1, **stage)
    half = held_in_bf16(config.stages.values())
    vlm = build_vlm(config.model, Views.of(config.images()), half=half)
    checkpointing = config.execution.gradient_checkpointing
    apply_training(vlm, config.stages["train"], gradient_checkpointing=checkpointing)
    return plan_model(config, sample=SampleShape(text_tokens=TEXT)), vlm.train()


STAGES = {
    "frozen": {},
    "lora": {"vision": "lora", "language": "lora", "lora": {"r": 8}},
    "dora_language": {"language": "dora", "lora": {"r": 8}},
    "full": {"vision": "full", "language": "full"},
}
DORA = {"vision": "dora", "language": "dora", "lora": {"r": 8}}
