"""What an export writes: transformers' processors give the data room's tokens and pixels, folders load back equal."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image as Pillow
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GPT2Config,
    GPTNeoXConfig,
    PhiConfig,
)

from tests.models.conftest import TEXT, save_lm
from tests.models.support import PERCEIVER, a_batch, a_vlm, batch_of, logits_of, open_gates
from vlm_ablate.checkpoints import load_checkpoint
from vlm_ablate.checkpoints.chat import chat_template
from vlm_ablate.checkpoints.export import export
from vlm_ablate.checkpoints.exported import Origin
from vlm_ablate.checkpoints.own import read_description, save_checkpoint
from vlm_ablate.checkpoints.peft_folder import save_adapters
from vlm_ablate.checkpoints.processor import generation_config, processor_for
from vlm_ablate.checkpoints.to_transformers import fit, plain_tensors, to_transformers
from vlm_ablate.config.data import DataConfig, ImageConfig, Preparation
from vlm_ablate.config.stages import Stage
from vlm_ablate.data.collate import Collator
from vlm_ablate.data.encode import Encoder
from vlm_ablate.data.prompts import prompt_format
from vlm_ablate.data.sample import Image, ImageRef, Sample, Text
from vlm_ablate.errors import AssetMissing, ModelError, StorageError
from vlm_ablate.models.adapters import apply_training, merge_adapters
from vlm_ablate.models.vlm import VLM

NANO = ({"name": "siglip-nano"}, {"name": "llama-nano"})
SHUFFLE = dict(name="pixel_shuffle", factor=2)


def picture(seed: int, width: int, height: int) -> Pillow.Image:
    return Pillow.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


PICTURES = [picture(0, 90, 61), picture(1, 33, 70), picture(2, 64, 64)]


def adapt(vlm: VLM, seed: int = 0, **stage) -> VLM:
    """With adapters that do something."""
    apply_training(vlm, Stage(steps=1, batch_size=1, lora={"r": 4, "alpha": 8}, **stage))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in vlm.named_parameters():
        if "lora_B" in name or "trainable_tokens" in name:
            parameter.data.normal_(std=0.1, generator=generator)
    return vlm


# --- processors ------------------------------------------------------------------------------------------------------

PREPARATIONS = {
    "square": (ImageConfig(size=64), PERCEIVER),
    "square-lanczos": (ImageConfig(size=48, resample="lanczos"), PERCEIVER),
    "native": (ImageConfig(resize="native", size=64, shortest=24), PERCEIVER),
    "native-no-least-side": (ImageConfig(resize="native", size=56), PERCEIVER),
    "crops": (ImageConfig(resize="native", size=64, shortest=24, split="crops"), PERCEIVER),
    "square-crops": (ImageConfig(size=32, split="crops"), PERCEIVER),
    "tiles": (ImageConfig(size=96, split="tiles", tile=32), SHUFFLE),
    "tiles-perceiver": (ImageConfig(size=64, split="tiles", tile=32), PERCEIVER),
    "square-shuffled": (ImageConfig(size=32), SHUFFLE),
}
TEXTS = ["a <image>What is it?", "<image> one <image>\nTwo words", "<image><image>and <image>", "no picture"]


@pytest.mark.parametrize("name", PREPARATIONS)
def test_the_processor_gives_the_tokens_and_pixels_of_the_data_room(name: str, tmp_path: Path) -> None:
    image, connector = PREPARATIONS[name]
    vlm = a_vlm(*NANO, connector=connector, image=image)
    processor_for(vlm, image, "plain").processor.save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    data = DataConfig.model_construct(image=image, prompt="plain", sequence_length=4096)
    encoder = Encoder(vlm.tokenizer, data, vlm.placeholders)
    collate = Collator(encoder.pad, vlm.vision.mean, vlm.vision.std)
    for text in TEXTS:
        parts, pictures = text.split("<image>"), PICTURES[: text.count("<image>")]
        segments = [Text(parts[0])]
        for shown, part in zip(pictures, parts[1:], strict=True):
            segments += [Image(ImageRef(shown)), Text(part)]
        ours = collate([encoder(Sample("s", tuple(s for s in segments if s != Text("")), "t"), generate=True)])
        theirs = processor(images=pictures or None, text=text, return_tensors="pt")
        assert theirs["input_ids"].tolist() == ours.input_ids.tolist(), text
        if pictures:
            assert torch.equal(theirs["pixel_values"][0], ours.pixel_values), text
            mask = torch.ones_like(ours.pixel_values[:, 0]).bool() if ours.pixel_mask is None else ours.pixel_mask
            assert torch.equal(theirs["pixel_attention_mask"][0].bool(), mask), text


def test_preparations_that_no_processor_can_express() -> None:
    image = ImageConfig(resize="native", size=64)
    native = a_vlm(*NANO, connector="linear", image=image)
    with pytest.raises(ModelError, match="no processor of transformers counts tokens by size"):
        processor_for(native, image, "plain")
    (remark,) = processor_for(a_vlm(*NANO), ImageConfig(size=32, fast=True), "plain").remarks
    assert "data.image.fast" in remark


TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}" + (
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("form", ["plain", "chat", "template"])
@pytest.mark.parametrize("generate", [True, False])
def test_the_chat_template_writes_the_prompt_format(form: str, generate: bool) -> None:
    tokenizer = a_vlm(*NANO).tokenizer
    tokenizer.chat_template = TEMPLATE
    dialogue = [
        ("user", ["image", "What is it? "]),
        ("assistant", ["A cat."]),
        ("user", ["And ", "image", "image", "these?"] if form != "plain" else ["image", "image", "And these?"]),
        ("assistant", ["Two dogs"]),
        ("user", ["Sure?"]),
    ]
    dialogue = dialogue if generate else dialogue[:4]
    segments, messages = [], []
    for role, items in dialogue:
        content = [{"type": "image"} if item == "image" else {"type": "text", "text": item} for item in items]
        messages.append({"role": role, "content": content})
        learned = role == "assistant"
        segments += [Image(ImageRef(PICTURES[0])) if item == "image" else Text(item, learned) for item in items]
    written = prompt_format(form, tokenizer)(Sample("s", tuple(segments), "t", dialogue=True), generate)
    expected = written.text + (tokenizer.eos_token if written.eos else "")
    found = tokenizer.apply_chat_template(
        messages, chat_template=chat_template(form, tokenizer), add_generation_prompt=generate, tokenize=False
    )
    assert found == expected
    texts = [{"role": "user", "content": "Only words?"}]
    asked = tokenizer.apply_chat_template(
        texts, chat_template=chat_template(form, tokenizer), add_generation_prompt=True, tokenize=False
    )
    sample = Sample("s", (Text("Only words?"),), "t", dialogue=True)
    assert asked == prompt_format(form, tokenizer)(sample, True).text


def test_a_tokeniser_without_a_template_of_its_own() -> None:
    with pytest.raises(ModelError, match="no chat template of its own"):
        chat_template("template", a_vlm(*NANO).tokenizer)


# --- transformers' classes -------------------------------------------------------------------------------------------


def test_the_stand_ins_generate_the_same_from_the_exported_folder(tmp_path: Path) -> None:
    vlm = adapt(a_vlm(*NANO, image=ImageConfig(size=32)), language="lora", vision="dora")
    model = to_transformers(vlm)
    model.generation_config = generation_config(vlm)
    model.save_pretrained(tmp_path)
    processor_for(vlm, ImageConfig(size=32), "plain").processor.save_pretrained(tmp_path)
    processor, loaded = AutoProcessor.from_pretrained(tmp_path), AutoModelForImageTextToText.from_pretrained(tmp_path)
    inputs = processor(images=[PICTURES[0]], text="<image>Question: what colour Answer:", return_tensors="pt")
    with torch.no_grad():
        batch = batch_of(inputs)
        ours = vlm.logits(batch)
        torch.testing.assert_close(loaded(**inputs).logits, ours, rtol=1e-4, atol=1e-4)
        ids = loaded.generate(**inputs, max_new_tokens=8)
    answers = vlm.generate(batch, max_new_tokens=8)
    assert processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True) == answers
    assert answers[0]


@pytest.mark.parametrize("connector", [PERCEIVER, SHUFFLE], ids=["idefics2", "idefics3"])
def test_any_siglip_at_its_own_size_is_idefics(connector: dict, siglip: Path, llama: Path) -> None:
    """The papers' ablations feed squares to the plain tower: then its positions are those of the bucketed one."""
    vlm = a_vlm({"name": "hf", "id": str(siglip)}, llama, connector=connector)
    batch = a_batch(vlm)
    pixels = torch.zeros(3, 2, *batch.pixel_values.shape[1:])
    for view, slot in enumerate([(0, 0), (1, 0), (1, 1)]):
        pixels[slot] = batch.pixel_values[view]
    inputs = dict(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), pixel_values=pixels)
    with torch.no_grad():
        found = to_transformers(vlm)(**inputs).logits
    real = batch.attention_mask
    torch.testing.assert_close(found[real], logits_of(vlm, batch)[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (dict(architecture="cross_attention"), "'cross_attention' architecture"),
        (dict(connector="linear"), "connector 'linear'"),
        (dict(connector=PERCEIVER | dict(projection="mlp")), "projection: gated_mlp"),
        (dict(connector=PERCEIVER | dict(mlp_ratio=2)), "mlp_ratio: 4"),
        (dict(connector=PERCEIVER | dict(qk_norm=True)), "qk_norm: False"),
        (dict(connector=SHUFFLE, image=ImageConfig(resize="native", size=64)), "patches: any"),
    ],
)
def test_why_there_is_no_class(fields: dict, reason: str) -> None:
    assert reason in fit(a_vlm(*NANO, **fields)).reason


def test_towers_that_idefics_does_not_have(siglip: Path, clip: Path, dinov2: Path) -> None:
    _, language = NANO
    for vision, reason in [
        ({"name": "hf", "id": str(clip)}, "vision encoder 'hf'"),
        ({"name": "hf", "id": str(dinov2)}, "vision encoder 'hf'"),
        ({"name": "hf", "id": str(siglip), "layer": -2}, "last layer"),
    ]:
        assert reason in fit(a_vlm(vision, language)).reason
    interpolated = a_vlm({"name": "hf", "id": str(siglip)}, language, image=ImageConfig(size=64))
    assert "interpolates its positions" in fit(interpolated).reason


def test_a_language_model_that_no_class_can_hold_is_a_reason(tmp_path: Path) -> None:
    language = save_lm(tmp_path, GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=256))
    assert "Idefics3ForConditionalGeneration cannot be" in fit(a_vlm(NANO[0], language, connector=SHUFFLE)).reason


# --- adapters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_beside_the_base(kind: str, tmp_path: Path) -> None:
    vlm = adapt(a_vlm(*NANO, image=ImageConfig(size=32)), language=kind, vision=kind)
    base = to_transformers(vlm, merged=False)
    base.save_pretrained(tmp_path)
    save_adapters(vlm, base, tmp_path / "adapter")
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    batch = a_batch(vlm, ["<image> what colour ?"])
    inputs = dict(input_ids=batch.input_ids, pixel_values=batch.pixel_values[None])
    with torch.no_grad():
        without = model(**inputs).logits
        model = PeftModel.from_pretrained(model, tmp_path / "adapter")
        found, expected = model.eval()(**inputs).logits, logits_of(vlm, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (without - expected).abs().max() > 0.01, "else nothing was adapted"


def test_adapters_that_one_peft_folder_cannot_hold(tmp_path: Path) -> None:
    vlm = adapt(a_vlm(*NANO), language="lora", vision="dora")
    with pytest.raises(ModelError, match="LoRA in one backbone and DoRA in the other"):
        save_adapters(vlm, to_transformers(vlm, merged=False), tmp_path)


# --- our own folder --------------------------------------------------------------------------------------------------

OWN = {
    "cross_attention": dict(architecture=dict(name="cross_attention", every=2), connector=PERCEIVER | dict(
        projection="linear")),
    "linear": dict(connector="linear"),
    "mapping_network": dict(connector=dict(name="mapping_network", tokens=3, depth=1, heads=2)),
}  # fmt: skip


@pytest.mark.parametrize("keep", [False, True], ids=["merged", "kept"])
@pytest.mark.parametrize("name", OWN)
def test_our_own_folder_loads_back_equal(name: str, keep: bool, tmp_path: Path) -> None:
    vlm = adapt(a_vlm(*NANO, image=ImageConfig(size=32), **OWN[name]), language="dora", vision="lora")
    open_gates(vlm)
    batch = a_batch(vlm, ["<image> what colour ?", "<image><image> two"])
    expected = logits_of(vlm, batch)
    save_checkpoint(vlm, tmp_path, ImageConfig(size=32), prompt="chat", keep_adapters=keep)
    moved = tmp_path.rename(tmp_path.parent / f"{tmp_path.name}-moved")
    loaded = load_checkpoint(moved)
    tolerance = 1e-5 if keep else 1e-4  # merging rounds
    torch.testing.assert_close(logits_of(loaded, batch), expected, rtol=tolerance, atol=tolerance)
    assert set(loaded.adapters) == ({"vision", "language"} if keep else set())
    assert read_description(moved).prompt == "chat" and not any(p.requires_grad for p in loaded.parameters())
    # Its parts are checkpoints by themselves.
    assert AutoModelForCausalLM.from_pretrained(moved / "language").dtype == torch.float32
    assert "<image>" in AutoTokenizer.from_pretrained(moved / "language").get_vocab()


FAMILIES = {
    "gpt_neox": GPTNeoXConfig(**{k: v for k, v in TEXT.items() if k != "num_key_value_heads"}),
    "phi": PhiConfig(**TEXT),
}


@pytest.mark.parametrize(("family", "padded"), [("gpt_neox", 0), ("gpt_neox", 8), ("phi", 0), ("phi", 8)])
def test_tables_of_any_family_keep_rows_and_biases(family: str, padded: int, siglip: Path, tmp_path: Path) -> None:
    """GPT-NeoX calls its embedding otherwise, and Phi's output head has a bias, which new tokens have none of."""
    lm = save_lm(tmp_path / "lm", deepcopy(FAMILIES[family]), padded=padded)
    if family == "phi":
        base = AutoModelForCausalLM.from_pretrained(lm)
        base.lm_head.bias.data.normal_(generator=torch.Generator().manual_seed(0))
        base.save_pretrained(lm)
    vlm = a_vlm(siglip, lm, connector="linear")
    for name, rows in vlm.named_parameters():
        if "trainable_tokens" in name:
            rows.data.normal_(generator=torch.Generator().manual_seed(1))
    batch = a_batch(vlm, ["<fake_token_around_image><image><fake_token_around_image> what ?"])
    expected = logits_of(vlm, batch)
    (tmp_path / "out").mkdir()
    save_checkpoint(vlm, tmp_path / "out", ImageConfig(size=32))
    torch.testing.assert_close(logits_of(load_checkpoint(tmp_path / "out"), batch), expected, rtol=1e-5, atol=1e-5)
    again = a_vlm(siglip, lm, connector="linear", seed=1, init_from=str(tmp_path / "out"))
    torch.testing.assert_close(logits_of(again, batch), expected, rtol=1e-5, atol=1e-5)


def test_adapters_are_folded_in_before_weights_are_rounded(siglip: Path, llama: Path, tmp_path: Path) -> None:
    vlm = adapt(a_vlm(siglip, llama, connector="linear"), language="dora", vision="lora")
    merged = deepcopy(vlm)
    merge_adapters(merged)
    export(vlm, Origin("a run", Preparation(image=ImageConfig(size=32)), "A run"), tmp_path, dtype=torch.bfloat16)
    written = load_checkpoint(tmp_path).state_dict()
    assert all(torch.equal(written[n], t.bfloat16().float()) for n, t in plain_tensors(merged).items())


def test_what_is_no_export_is_not_replaced(tmp_path: Path) -> None:
    vlm, origin = a_vlm(*NANO, connector="linear"), Origin("a run", Preparation(image=ImageConfig(size=32)), "A run")
    for name in ("weights.safetensors", "language/grammar.txt"):
        mine = tmp_path / name.partition("/")[0].partition(".")[0] / name
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        with pytest.raises(StorageError, match=f"holds {name.partition('/')[0]}, and no earlier export"):
            export(vlm, origin, tmp_path / mine.relative_to(tmp_path).parts[0], force=True)
        assert mine.read_text() == "mine"
    for _ in range(2):
        assert export(vlm, origin, tmp_path / "out", force=True).cls is None
    assert load_checkpoint(tmp_path / "out")


@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("tower", ["siglip", "clip", "dinov2"])
def test_towers_of_which_layers_were_cut(tower: str, layer: int, llama: Path, tmp_path: Path, request) -> None:
    vision = {"name": "hf", "id": str(request.getfixturevalue(tower)), "layer": layer}
    vlm = a_vlm(vision, llama, connector="linear")
    batch = a_batch(vlm)
    expected = logits_of(vlm, batch)
    save_checkpoint(vlm, tmp_path, ImageConfig(size=32))
    torch.testing.assert_close(logits_of(load_checkpoint(tmp_path), batch), expected, rtol=1e-5, atol=1e-5)


def test_folders_that_are_no_checkpoint_of_ours(tmp_path: Path) -> None:
    with pytest.raises(AssetMissing, match=r"no vlm_ablate\.json"):
        load_checkpoint(tmp_path)
    save_checkpoint(a_vlm(*NANO, connector="linear"), tmp_path, ImageConfig(size=32))
    tensors = tmp_path / "assembly.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load_checkpoint(tmp_path)
    save_file({"connector.linear.weight": torch.zeros(2, 2), "other": torch.zeros(1)}, tensors)
    with pytest.raises(ModelError, match=r"missing \['connector.linear.bias'\], surplus \['other'\]"):
        load_checkpoint(tmp_path)
    description = tmp_path / "vlm_ablate.json"
    description.write_text(description.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(ModelError, match="format 9"):
        load_checkpoint(tmp_path)
    description.write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load_checkpoint(tmp_path)


def test_the_class_of_an_assembly_is_told_without_weights() -> None:
    assert fit(a_vlm(*NANO)).cls.__name__ == "Idefics2ForConditionalGeneration"
