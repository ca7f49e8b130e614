"""The bundled architecture facts build to the released models' numbers of parameters."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
import torch
import transformers
from transformers import AutoConfig

CONFIGS = files("vlm_ablate") / "assets" / "configs"

# id -> (transformers class, sub-configuration or None, parameters)
EXPECTED = {
    "google/siglip-so400m-patch14-384": ("SiglipVisionModel", "vision_config", 428_225_600),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": ("CLIPVisionModel", "vision_config", 630_766_080),
    "QuanSun/EVA-CLIP": ("CLIPVisionModel", None, 4_348_837_376),
    "mistralai/Mistral-7B-v0.1": ("MistralForCausalLM", None, 7_241_732_096),
    "huggyllama/llama-7b": ("LlamaForCausalLM", None, 6_738_415_616),
    "meta-llama/Llama-3.1-8B-Instruct": ("LlamaForCausalLM", None, 8_030_261_248),
    "meta-llama/Meta-Llama-3-70B-Instruct": ("LlamaForCausalLM", None, 70_553_706_496),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("LlamaForCausalLM", None, 134_515_008),
    "HuggingFaceTB/SmolLM2-360M": ("LlamaForCausalLM", None, 361_821_120),
    "google/siglip2-base-patch16-384": ("SiglipModel", None, 375_479_810),
    "google/siglip-base-patch16-512": ("SiglipVisionModel", "vision_config", 93_520_128),
    "laion/CLIP-ViT-B-16-laion2B-s34B-b88K": ("CLIPModel", None, 149_620_737),
    "HuggingFaceM4/idefics2-8b": ("Idefics2ForConditionalGeneration", None, 8_402_768_112),
    "HuggingFaceM4/Idefics3-8B-Llama3": ("Idefics3ForConditionalGeneration", None, 8_462_086_384),
}


def test_every_bundled_config_is_checked():
    folders = {f.name.replace("--", "/") for f in CONFIGS.iterdir() if f.is_dir() and (f / "config.json").is_file()}
    assert folders == set(EXPECTED)


@pytest.mark.parametrize("hub_id", EXPECTED)
def test_builds_to_the_released_size(hub_id):
    kind, part, parameters = EXPECTED[hub_id]
    config = AutoConfig.from_pretrained(str(CONFIGS / hub_id.replace("/", "--")))
    with torch.device("meta"):
        model = getattr(transformers, kind)(getattr(config, part) if part else config)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("hub_id", EXPECTED)
def test_spells_out_what_decides_the_size(hub_id):
    """Class defaults differ from the released models, so none may be relied on."""
    sizes = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}

    def towers(node):
        for key, value in node.items():
            if isinstance(value, dict) and key.endswith("_config") and "perceiver" not in key:
                yield value

    config = json.loads((CONFIGS / hub_id.replace("/", "--") / "config.json").read_text())
    for tower in [*towers(config)] or [config]:
        assert sizes <= set(tower), tower.get("model_type")
