"""Models in the shape of Idefics3-8B, Idefics2-8B and SmolVLM-256M with random weights, and tiny ones of both forms."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, SiglipVisionConfig

from vlm_ablate.accounting import SampleShape, StagePlan, plan_model
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM, build_vlm

ADAPTED = r".*\.(q_proj|k_proj|v_proj|o_proj|out_proj|gate_proj|up_proj|down_proj|fc1|fc2)"
RANK = 64


@dataclass(frozen=True)
class Shape:
    """A model's parts, and the documents of its batches: each is one picture and a text that is learned."""

    vision: SiglipVisionConfig | str
    language: LlamaConfig | str
    connector: Mapping[str, Any]
    side: int
    """Pixels of a view."""
    views: tuple[int, ...]
    """Views that a picture may have, equally often."""
    texts: tuple[int, int]
    """Least and most text tokens of a document."""
    documents: int
    """Of a batch."""
    patches: str = "any"
    """Rule of the encoder; see `siglip-native`."""
    image: Mapping[str, Any] = field(default_factory=dict)
    """How pictures are prepared, beside the size of views."""


SIGLIP, LLAMA = "google/siglip-so400m-patch14-384", "meta-llama/Llama-3.1-8B-Instruct"
_TINY_SIGLIP = SiglipVisionConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
)
_TINY_LLAMA = LlamaConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=300, tie_word_embeddings=False,
)  # fmt: skip
_PERCEIVER = {"name": "perceiver", "latents": 8, "depth": 2, "heads": 4, "head_dim": 16, "kv_heads": 2}
SHAPES = {
    "tiny_idefics3": Shape(
        _TINY_SIGLIP, _TINY_LLAMA, {"name": "pixel_shuffle", "factor": 2}, 32, (1, 2, 5), (4, 40), 4,
        image={"split": "tiles", "tile": 32, "size": 160},
    ),
    "tiny_idefics2": Shape(
        _TINY_SIGLIP, _TINY_LLAMA, _PERCEIVER, 32, (1, 5), (4, 40), 4, "full", {"split": "crops", "size": 32}
    ),
    # Pages at 1820 pixels: 5 x 5, 5 x 4, 5 x 3 or 4 x 4 tiles of 364 and the whole.
    "idefics3_8b": Shape(
        SIGLIP, LLAMA, {"name": "pixel_shuffle", "factor": 2}, 364, (26, 21, 16, 17), (32, 1500), 4,
        image={"split": "tiles", "tile": 364, "size": 1820},
    ),
    # A picture as it is, or four crops and the whole.
    "idefics2_8b": Shape(
        SIGLIP, "mistralai/Mistral-7B-v0.1", {"name": "perceiver"}, 980, (1, 5), (32, 1500), 4, "full",
        {"split": "crops", "size": 980},
    ),
    "smolvlm_256m": Shape(
        SiglipVisionConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                           image_size=512, patch_size=16),
        "HuggingFaceTB/SmolLM2-135M-Instruct", {"name": "pixel_shuffle", "factor": 4}, 512, (1, 5, 13, 17), (32, 800),
        8, image={"split": "tiles", "tile": 512, "size": 2048},
    ),
}  # fmt: skip


@contextmanager
def configured(shape: Shape) -> Iterator[tuple[ModelConfig, ImageConfig]]:
    """The model's configuration; what is not shipped lies in a folder for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        ids = []
        for name, part in (("vision", shape.vision), ("language", shape.language)):
            if not isinstance(part, str):
                part.save_pretrained(Path(folder) / name)
            ids.append(part if isinstance(part, str) else str(Path(folder) / name))
        vision = {"name": "siglip-native", "id": ids[0], "image_size": shape.side, "patches": shape.patches}
        parts = {"vision": vision, "language": {"name": "hf", "id": ids[1]}, "connector": shape.connector,
                 "architecture": "autoregressive"}  # fmt: skip
        yield ModelConfig.model_validate(parts), ImageConfig.model_validate(shape.image)


def device_of() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def described(shape: Shape, half: Collection[str] = ()) -> VLM:
    """The structure alone, on the meta device; backbones of `half` in bf16."""
    with configured(shape) as (config, image):
        return build_vlm(config, Views.of([image]), load_weights=False, half=half)


def build(shape: Shape, training: str = "frozen", vision: str | None = None, checkpointing: bool = False) -> VLM:
    """A model of that shape with random weights; a GPU holds in bf16 what it holds so of runs.

    Args:
        shape: of it.
        training: of the language model: frozen, lora, dora or full.
        vision: of the encoder; None: as the language model.
        checkpointing: recompute activations in the backward pass.
    """
    device = device_of()
    with configured(shape) as (config, image):
        run = run_config(config, image, training, vision, checkpointing)
    vlm = described(shape, run.held_in_bf16 if device.type == "cuda" else ())
    tied = bool(getattr(vlm.language.model.config, "tie_word_embeddings", False))
    vlm = vlm.to_empty(device=device)
    if tied:
        tie(vlm)
    fill(vlm, device)
    apply_training(vlm, run.stages["train"], gradient_checkpointing=checkpointing)
    vlm.train()
    if vision == "frozen" or (vision is None and training == "frozen"):
        vlm.vision.eval()
    return vlm


def tie(vlm: VLM) -> None:
    """Share tables between embedding and head again, which `to_empty` has made two of."""
    model = vlm.language.model
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    head.weight = table.weight
    if hasattr(head, "trainable_tokens"):
        head.trainable_tokens = table.trainable_tokens


@torch.no_grad()
def fill(model: nn.Module, device: torch.device) -> None:
    """Random matrices, norms of one, no biases; and what is neither a parameter nor in a checkpoint, made anew."""
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.02, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            with torch.device("cpu"):
                made = type(module)(module.config)
            for name, value in made.named_buffers(recurse=False):
                setattr(module, name, value.to(device))


def run_config(
    model: ModelConfig, image: ImageConfig, training: str, vision: str | None, checkpointing: bool
) -> RunConfig:
    """A run of one stage that trains so."""
    lora = {"r": RANK, "dropout": 0.0, "vision_targets": ADAPTED, "language_targets": ADAPTED}
    stage = {
        "steps": 1, "batch_size": 1, "language": training, "vision": vision or training, "lora": lora,
        "precision": "bf16",
        "data": {"mixture": {"any": {"source": "offline"}}, "image": image.model_dump(), "sequence_length": 32_768},
    }  # fmt: skip
    return RunConfig.model_validate({
        "model": model, "stages": {"train": stage}, "execution": {"gradient_checkpointing": checkpointing},
        "evaluation": {"benchmarks": {"any": {"benchmark": "offline_vqa"}}},
    })  # fmt: skip


def planned(shape: Shape, training: str, vision: str | None = None, checkpointing: bool = False) -> StagePlan | None:
    """What the package's own plan says of that training: operations by view, token and pair of tokens. None, and why is
    printed, where the libraries of this machine cannot make one: what is timed is timed without."""
    with configured(shape) as (config, image):
        sample = SampleShape(text_tokens=sum(shape.texts) // 2)
        try:
            return plan_model(run_config(config, image, training, vision, checkpointing), sample=sample).last
        except (NotImplementedError, RuntimeError) as error:
            print(f"no plan, so no MFU: {type(error).__name__}: {str(error).splitlines()[0]}")
            return None
