"""Every class that an export writes: it loads with transformers alone and gives the run's tokens, logits and words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, Gemma2Config, GemmaConfig

from tests.checkpoints.test_export import NANO, PICTURES, SHUFFLE, adapt
from tests.models.conftest import TEXT, save_lm
from tests.models.support import a_vlm, assert_equal, assert_same_texts
from vlm_ablate.checkpoints.export import export
from vlm_ablate.checkpoints.exported import Origin
from vlm_ablate.checkpoints.families.known import EXPORTS
from vlm_ablate.checkpoints.own import load_checkpoint
from vlm_ablate.checkpoints.released import assembly_of
from vlm_ablate.checkpoints.start_from import started_vlm
from vlm_ablate.checkpoints.to_transformers import fit
from vlm_ablate.config.data import ImageConfig, Preparation
from vlm_ablate.data.sample import Image, ImageRef, Sample, Text
from vlm_ablate.errors import ModelError
from vlm_ablate.evaluation.ask import Prompts, Shot, with_transformers, with_vlm
from vlm_ablate.models.generation import end_ids
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM

BOTH_WAYS = dict(name="autoregressive", prompt="bidirectional")


def gemma(folder: Path) -> Path:
    return save_lm(folder, GemmaConfig(**TEXT, head_dim=8))


def gemma_2(folder: Path) -> Path:
    return save_lm(folder, Gemma2Config(**TEXT, head_dim=8, sliding_window=64, query_pre_attn_scalar=8))


def hub(tower: str, **fields: Any) -> dict[str, Any]:
    return {"name": "hf", "id": tower, **fields}


CASES: dict[str, tuple[str, Callable[..., VLM]]] = {
    "idefics2": ("Idefics2", lambda **_: a_vlm(*NANO)),
    "idefics3": ("Idefics3", lambda **_: a_vlm(*NANO, connector=SHUFFLE)),
    "llava": ("Llava", lambda clip, llama, **_: a_vlm(hub(clip, layer=-2), llama, connector="mlp")),
    "llava-class-token": (
        "Llava",
        lambda clip, llama, **_: a_vlm(
            hub(clip, class_token="keep"), llama, connector=dict(name="mlp", activation="relu", bias=False)
        ),
    ),
    "llava-siglip": ("Llava", lambda siglip, llama, **_: a_vlm(hub(siglip, layer=-2), llama, connector="mlp")),
    "paligemma": (
        "PaliGemma",
        lambda siglip, folder, **_: a_vlm(hub(siglip), gemma(folder), connector="linear", architecture=BOTH_WAYS),
    ),
    "paligemma-2": (
        "PaliGemma",
        lambda siglip, folder, **_: a_vlm(
            Path(siglip), gemma_2(folder), connector="linear", architecture=BOTH_WAYS
        ),
    ),
}


def test_every_family_is_here() -> None:
    assert {f"{kind}ForConditionalGeneration" for kind, _ in CASES.values()} == {e.cls.__name__ for e in EXPORTS}


@pytest.mark.parametrize("name", CASES)
def test_an_export_is_the_run(name: str, siglip: Path, clip: Path, llama: Path, tmp_path: Path) -> None:
    kind, build = CASES[name]
    vlm = adapt(build(siglip=str(siglip), clip=str(clip), llama=llama, folder=tmp_path / "lm"), language="lora").eval()
    data = Preparation(image=ImageConfig(size=32, resample="bilinear"), prompt="chat")
    made = export(vlm, Origin("run", data, "A run"), tmp_path / "out")
    assert made.cls == f"{kind}ForConditionalGeneration", made.reason

    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    words = [Image(ImageRef(PICTURES[0])), Image(ImageRef(PICTURES[1])), Text("what is it ?")]
    batch = Prompts(vlm, data, side="left").batch([Sample("one", tuple(words), "t", dialogue=True)])
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "what is it ?"}]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=list(PICTURES[:2]), text=text, return_tensors="pt")
    assert torch.equal(inputs["input_ids"], batch.input_ids)
    assert ("token_type_ids" in inputs) == (kind == "PaliGemma"), "its prompts attend both ways where these say so"
    with torch.no_grad():
        logits = model(**inputs).logits
        assert_equal(logits, vlm.logits(batch), limit=4)
        assert_same_texts(vlm.generate(batch, max_new_tokens=12), model, inputs, end_ids(vlm.language), vlm.tokenizer)

    config, image = assembly_of(AutoConfig.from_pretrained(tmp_path / "out"), tmp_path / "out")
    assert image == data.image
    again = started_vlm(config, Views.of([image])).eval()
    with torch.no_grad():
        assert_equal(again.logits(batch), logits, limit=4)


def test_a_run_whose_logits_are_no_numbers_is_not_exported_as_checked(
    siglip: Path, clip: Path, llama: Path, tmp_path: Path
) -> None:
    vlm = CASES["llava"][1](siglip=str(siglip), clip=str(clip), llama=llama, folder=tmp_path / "lm")
    next(vlm.connector.parameters()).data.fill_(math.nan)
    with pytest.raises(ModelError, match="other logits"):
        export(vlm, Origin("run", Preparation(image=ImageConfig(size=32)), "A run"), tmp_path / "out")


@pytest.mark.parametrize("name", ["llava", "paligemma-2"])
def test_an_exported_folder_answers_as_its_run(
    name: str, siglip: Path, clip: Path, llama: Path, tmp_path: Path
) -> None:
    _, build = CASES[name]
    vlm = build(siglip=str(siglip), clip=str(clip), llama=llama, folder=tmp_path / "lm").eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in vlm.language.parameters():  # of a fresh one every answer is empty
            parameter.add_(torch.randn_like(parameter) * 0.3)
    data = Preparation(image=ImageConfig(size=32, resample="bilinear"), prompt="chat")
    export(vlm, Origin("run", data, "A run"), tmp_path / "out")
    PICTURES[0].save(tmp_path / "picture.png")
    said = tmp_path / "out" / "generation_config.json"
    said.write_text(json.dumps({**json.loads(said.read_text()), "repetition_penalty": 3.0, "num_beams": 2}))
    ours, theirs = with_vlm(vlm, data), with_transformers(tmp_path / "out")
    for question in ("what is it ?", "what colour ?", "is it red ?"):
        shot = Shot(question, (tmp_path / "picture.png",))
        assert (answer := ours(shot, (), 12)) and theirs(shot, (), 12) == answer


@pytest.mark.parametrize("name", ["llava", "paligemma", "plain siglip"])
def test_a_run_that_is_asked_with_smaller_images_than_its_tower_has_gets_a_folder_of_ours(
    name: str, siglip: Path, clip: Path, llama: Path, tmp_path: Path
) -> None:
    plain = ("Idefics2", lambda siglip, llama, **_: a_vlm(hub(siglip), llama))
    _, build = CASES.get(name, plain)
    vlm = build(siglip=str(siglip), clip=str(clip), llama=llama, folder=tmp_path / "lm")
    made = export(vlm, Origin("run", Preparation(image=ImageConfig(size=16)), "A run"), tmp_path / "out")
    assert made.cls is None and "32 px" in made.reason
    again = load_checkpoint(tmp_path / "out")
    assert_equal(again.encode_images(torch.ones(1, 3, 16, 16), None), vlm.encode_images(torch.ones(1, 3, 16, 16), None))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (dict(connector="mlp"), "last layer before its norm"),
        (dict(connector=dict(name="mlp", gated=True)), "gated: false"),
        (dict(connector="mlp", architecture=BOTH_WAYS), "LLaVA attends causally"),
        (dict(connector="mlp", image=ImageConfig(size=64)), "whole squares of 32 px"),
        (dict(connector="linear", architecture=BOTH_WAYS), "a Gemma or Gemma 2, not a 'llama'"),
    ],
)
def test_why_there_is_no_class(fields: dict[str, Any], reason: str, siglip: Path, llama: Path) -> None:
    assert reason in fit(a_vlm(hub(str(siglip)), llama, **fields)).reason
