"""The stand-ins' pretraining with tiny budgets: what is written, that it repeats, and that finished phases are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

from vlm_ablate.offline.configs import SiglipNanoConfig
from vlm_ablate.offline.pretrain.language import RECIPES, LanguageRecipe, pretrain_language
from vlm_ablate.offline.pretrain.recipe import STANDINS
from vlm_ablate.offline.pretrain.vision import encode, pretrain_vision, standardise
from vlm_ablate.offline.pretrain.vision_recipe import VISION_RECIPES, VisionRecipe

LANGUAGE = LanguageRecipe(
    hidden=16, layers=1, heads=2, kv_heads=1, intermediate=16, vocab_size=400, tokenizer_documents=100,
    sequence_length=64, batch_size=2, steps=3, answering_steps=2, looking_steps=2,
)
VISION = VisionRecipe(hidden=16, layers=1, heads=2, intermediate=16, batch_size=4, steps=2, alignment_steps=3)

VISION_FOLDERS = {SiglipNanoConfig(quality=quality).folder: quality for quality in VISION_RECIPES}


@pytest.fixture(autouse=True)
def own_home(offline_material: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Phases are kept in the cache of a home of its own."""
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    """Data files of a dictionary with a few words, in WordNet's format."""
    folder = tmp_path / "wordnet"
    folder.mkdir()
    for kind in ("noun", "verb", "adj", "adv"):
        lines = [f"0000{k} 03 n 01 word{k} 0 000 | the meaning of word {k}; an example" for k in range(5)]
        (folder / f"data.{kind}").write_text("  1 a licence\n" + "\n".join(lines) + "\n")
    return folder


def steps_of(train) -> list[int]:
    """The steps that `train(on_step)` reported."""
    steps: list[int] = []
    train(lambda step, *rest: steps.append(step))
    return steps


def test_language_has_three_phases_and_goes_on_after_the_last_finished_one(tmp_path: Path, wordnet: Path) -> None:
    first, again, longer = tmp_path / "first", tmp_path / "again", tmp_path / "longer"
    run = lambda out, recipe: steps_of(  # noqa: E731
        lambda report: pretrain_language("good", wordnet, out=out, recipe=recipe, on_step=report)
    )
    assert run(first, LANGUAGE) == [1, 2, 3, 4, 5, 6, 7]
    assert run(again, LANGUAGE) == []
    assert run(longer, replace(LANGUAGE, looking_steps=3)) == [6, 7, 8]
    one, two = (load_file(folder / "model.safetensors") for folder in (first, again))
    assert all(torch.equal(one[name], two[name]) for name in one)
    recipe = json.loads((first / "recipe.json").read_text())
    assert {"language_loss", "answering_loss", "looking_loss", "looking_seconds"} <= set(recipe["measured"])
    assert recipe["hash"] != json.loads((longer / "recipe.json").read_text())["hash"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(first), AutoTokenizer.from_pretrained(first)
    ids = tokenizer("Question: What is this?", return_tensors="pt")["input_ids"]
    assert model(ids).logits.shape[-1] == len(tokenizer)


def test_embeddings_are_learned_in_the_first_phase_only(tmp_path: Path, wordnet: Path) -> None:
    tables = []
    for looking_steps in (1, 2):
        recipe = replace(LANGUAGE, answering_steps=looking_steps, looking_steps=looking_steps)
        folder = pretrain_language("good", wordnet, out=tmp_path / str(looking_steps), recipe=recipe)
        tables.append(load_file(folder / "model.safetensors"))
    assert torch.equal(tables[0]["model.embed_tokens.weight"], tables[1]["model.embed_tokens.weight"])
    assert not torch.equal(tables[0]["model.norm.weight"], tables[1]["model.norm.weight"])


def test_vision_has_two_phases_and_standard_features(tmp_path: Path) -> None:
    language = STANDINS / "llama-nano-good"
    run = lambda out: steps_of(  # noqa: E731
        lambda report: pretrain_vision(language, out=out, recipe=VISION, on_step=report)
    )
    assert run(tmp_path / "first") == [1, 2, 3, 4, 5]
    assert run(tmp_path / "again") == []
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@torch.no_grad()
def test_standardised_features_have_mean_zero_and_size_one() -> None:
    encoder = Idefics2VisionTransformer.from_pretrained(STANDINS / "siglip-nano", dtype=torch.float32)
    encoder.post_layernorm.bias.add_(3.0)
    pixels = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = encode(encoder, pixels)
    standardise(encoder, [(pixels, None)])
    after = encode(encoder, pixels)
    assert after.mean((0, 1)).abs().max() < 1e-4
    assert after.pow(2).mean().sqrt().item() == pytest.approx(1, abs=1e-4)
    centred = before - before.mean((0, 1))
    assert torch.allclose(after, centred / centred.pow(2).mean().sqrt(), atol=1e-3)


@pytest.mark.parametrize("name", [*(f"llama-nano-{quality}" for quality in RECIPES), *VISION_FOLDERS])
def test_shipped_recipes_are_those_of_the_package(name: str) -> None:
    """Weights that ship were made by the recipe in the code, and are the file that was written then."""
    from vlm_ablate.storage import file_sha256

    body = json.loads((STANDINS / name / "recipe.json").read_text())
    quality = name.rpartition("-")[2]
    recipe = VISION_RECIPES[VISION_FOLDERS[name]] if name in VISION_FOLDERS else RECIPES[quality]
    fields = json.loads(json.dumps(recipe.__dict__))
    assert {key: body["settings"][key] for key in fields} == fields
    assert body["weights_sha256"] == {"model.safetensors": file_sha256(STANDINS / name / "model.safetensors")}
