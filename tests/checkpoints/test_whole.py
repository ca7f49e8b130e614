"""Whatever is in a checkpoint folder is read or refused: adapters, heads, processors, end tokens, chat templates."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    Idefics2ImageProcessor,
    Idefics2Processor,
    LlamaConfig,
)

from tests.checkpoints import kin
from tests.checkpoints.kin import Kin
from tests.checkpoints.test_export import NANO, adapt
from tests.checkpoints.test_parity import CASES, save_reference
from tests.models.conftest import TEXT, save_lm
from tests.models.support import PERCEIVER, a_batch, a_vlm, logits_of
from vlm_ablate.checkpoints.adapters_of import fold_adapters
from vlm_ablate.checkpoints.chat import chat_template
from vlm_ablate.checkpoints.families.known import parts_of
from vlm_ablate.checkpoints.peft_folder import save_adapters
from vlm_ablate.checkpoints.processor import generation_config
from vlm_ablate.checkpoints.released import fingerprint, image_config, processor_unlike
from vlm_ablate.checkpoints.start_from import started_vlm
from vlm_ablate.checkpoints.to_transformers import to_transformers
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.errors import AssetMissing, ModelError, VlmAblateError
from vlm_ablate.evaluation.ask import with_transformers
from vlm_ablate.models.generation import end_ids
from vlm_ablate.models.pretrained import read_config, read_tensors
from vlm_ablate.models.released import read_model
from vlm_ablate.models.views import Views
from vlm_ablate.models.vision.hf import normalisation
from vlm_ablate.models.vlm import VLM


@pytest.fixture(params=["lora", "dora"])
def kept(request, tmp_path: Path) -> tuple[VLM, Path]:
    """A model and its export with adapters beside the weights."""
    vlm = adapt(a_vlm(*NANO, connector=PERCEIVER), language=request.param, vision=request.param)
    base = to_transformers(vlm, merged=False)
    base.save_pretrained(tmp_path)
    vlm.tokenizer.save_pretrained(tmp_path)
    save_adapters(vlm, base, tmp_path / "adapter")
    return vlm, tmp_path


def test_a_model_starts_from_kept_adapters_too(kept) -> None:
    vlm, folder = kept
    batch = a_batch(vlm, ["<image> what colour ?"])
    config = ModelConfig.model_validate(parts_of(read_config(str(folder), planning=False), str(folder)))
    again = started_vlm(config, Views(32)).eval()
    torch.testing.assert_close(logits_of(again, batch), logits_of(vlm, batch), rtol=1e-4, atol=1e-4)
    whole = read_model(folder)
    with torch.no_grad():
        found = whole(input_ids=batch.input_ids, pixel_values=batch.pixel_values[None]).logits
    torch.testing.assert_close(found, logits_of(vlm, batch), rtol=1e-4, atol=1e-4)


def test_a_part_that_would_leave_adapters_out_is_refused(kept) -> None:
    _, folder = kept
    with pytest.raises(ModelError, match=r"model\.language: .* holds adapters beside its weights"):
        a_vlm(NANO[0], folder)


def test_adapters_that_find_no_place_are_told(siglip: Path, tmp_path: Path) -> None:
    """peft itself warns, and goes on with adapters as it drew them."""
    save_reference(CASES["idefics2"], tmp_path / "whole")
    adapters(tmp_path / "whole", tmp_path / "whole" / "adapter", AutoModelForImageTextToText)
    read_model(tmp_path / "whole")
    before, said = fingerprint(tmp_path / "whole"), tmp_path / "whole" / "adapter" / "adapter_config.json"
    said.write_text(said.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    assert fingerprint(tmp_path / "whole") != before, "the same tensors, weighed otherwise"
    renamed(tmp_path / "whole" / "adapter", "base_model.model.model.", "base_model.model.")
    with pytest.raises(ModelError, match=r"has no tensors for adapters of Idefics2ForConditionalGeneration: .*lora_A"):
        read_model(tmp_path / "whole")
    words = save_lm(tmp_path / "words", LlamaConfig(**TEXT))
    adapters(words, tmp_path / "beside", AutoModelForCausalLM)
    vlm = a_vlm(siglip, words, connector="linear")
    fold_adapters(vlm, tmp_path / "beside")
    renamed(tmp_path / "beside", "base_model.model.model.", "base_model.model.language_model.model.")
    with pytest.raises(ModelError, match=r"beside has no tensors for adapters of LlamaForCausalLM: .*lora_A"):
        fold_adapters(vlm, tmp_path / "beside")


def adapters(model: Path, folder: Path, kind: Any) -> None:
    """Fresh adapters of a model, as peft writes them."""
    config = LoraConfig(r=2, target_modules=["down_proj"])
    get_peft_model(kind.from_pretrained(model), config).save_pretrained(folder)


def renamed(folder: Path, old: str, new: str) -> None:
    """The same tensors under names of another model."""
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def test_of_shards_those_are_read_that_the_index_names(tmp_path: Path) -> None:
    """As transformers does: those of an earlier save may lie beside them."""
    save_reference(CASES["idefics2"], tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    names = sorted(whole)
    for number, part in enumerate((names[:9], names[9:]), 1):
        save_file({name: whole[name] for name in part}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    save_file({name: whole[name] * 0 for name in names[5:]}, tmp_path / "model-00003-of-00003.safetensors")
    where = {name: f"model-0000{1 + (name in names[9:])}-of-00002.safetensors" for name in names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    read = read_tensors(tmp_path)
    assert read.keys() == whole.keys() and all(torch.equal(read[name], whole[name]) for name in names)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(AssetMissing, match="lacks 1 of 2 files of weights: model-00001-of-00002"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("beside", ["model_old.safetensors", "consolidated.safetensors"])
def test_of_a_whole_file_and_others_beside_it_the_whole_is_read(beside: str, tmp_path: Path) -> None:
    """As transformers does: a backup has the same names, the same weights in another layout have others."""
    save_reference(CASES["idefics2"], tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    prefix = "" if beside.startswith("model") else "layers."
    save_file({prefix + name: tensor * 0 for name, tensor in whole.items()}, tmp_path / beside)
    where = {name: "model-00001-of-00001.safetensors" for name in whole}  # of shards that were joined since
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    read = read_tensors(tmp_path)
    assert read.keys() == whole.keys() and all(torch.equal(read[name], whole[name]) for name in whole)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": ["a"]}', '{"weight_map": {"model.norm.weight": 1}}'])
def test_an_index_that_names_no_files_is_damaged(index: str, tmp_path: Path) -> None:
    save_file({"model.norm.weight": torch.ones(2)}, tmp_path / "model-00001-of-00001.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=r"index.json names no file of each tensor \(weight_map\)"):
        read_tensors(tmp_path)


def test_a_head_of_its_own_is_never_dropped(tmp_path: Path) -> None:
    """An untied checkpoint in an assembly whose head is its embedding."""
    save_reference(CASES["idefics2"], tmp_path / "untied")
    save_reference(CASES["idefics2"], tmp_path / "tied")
    config = tmp_path / "tied" / "config.json"
    body = json.loads(config.read_text())
    body["tie_word_embeddings"] = body["text_config"]["tie_word_embeddings"] = True
    config.write_text(json.dumps(body))
    parts = parts_of(read_config(str(tmp_path / "tied"), planning=False), str(tmp_path / "tied"))
    with pytest.raises(ModelError, match="output head is another table than the embedding"):
        started_vlm(ModelConfig.model_validate(parts), Views(32))
    save_reference(CASES["idefics2-tied"], tmp_path / "other")
    small = parts_of(read_config(str(tmp_path / "other"), planning=False), str(tmp_path / "other"))
    assert started_vlm(ModelConfig.model_validate(small), Views(32)).language.model.config.tie_word_embeddings


def test_a_language_model_that_lacks_tensors_is_refused(siglip: Path, tmp_path: Path) -> None:
    folder = save_lm(tmp_path, LlamaConfig(**TEXT))
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks tensors of its language model: \['model.norm.weight'\]"):
        a_vlm(siglip, folder)


def lacking(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop(next(name for name in tensors if name.endswith("1.mlp.fc1.weight")))
    save_file(tensors, file, metadata={"format": "pt"})


def narrow(file: Path) -> None:
    config = file.parent / "config.json"
    config.write_text(re.sub(r'"hidden_size": \d+', '"hidden_size": 64', config.read_text()))


DAMAGES = {
    "cut short": (lambda file: file.write_bytes(file.read_bytes()[:999]), "cannot be read as safetensors"),
    "gone": (Path.unlink, r"holds no \*\.safetensors file"),
    "of another width": (narrow, "its weights have other shapes than its config.json says"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", ["vision", "lm"])
def test_damaged_parts_are_named(part: str, damage: str, siglip: Path, tmp_path: Path) -> None:
    shutil.copytree(siglip, tmp_path / "vision")
    save_lm(tmp_path / "lm", LlamaConfig(**TEXT))
    parts = {"name": "hf", "id": str(tmp_path / "vision")}, tmp_path / "lm"
    assert a_vlm(*parts, connector="linear")
    spoil, told = DAMAGES[damage]
    spoil(tmp_path / part / "model.safetensors")
    with pytest.raises(VlmAblateError, match=told) as caught:
        a_vlm(*parts, connector="linear")
    assert str(tmp_path / part) in caught.value.message


def test_a_tower_that_lacks_tensors_is_refused_unless_nothing_reads_them(
    siglip: Path, llama: Path, tmp_path: Path
) -> None:
    """transformers draws them, and says so in a log."""
    folder = shutil.copytree(siglip, tmp_path / "vision")
    lacking(folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks tensors of its vision tower: .*1\.mlp\.fc1\.weight"):
        a_vlm({"name": "hf", "id": str(folder)}, llama, connector="linear")
    assert a_vlm({"name": "hf", "id": str(folder), "layer": -3}, llama, connector="linear"), "that layer is cut off"


SAID = {"image_processor_type": "Idefics3ImageProcessor", "size": {"longest_edge": 64}, "resample": 1,
        "max_image_size": {"longest_edge": 32}}  # fmt: skip
WHOLE = {"image_processor_type": "Idefics2ImageProcessor", "size": {"longest_edge": 64, "shortest_edge": 24}}


@pytest.mark.parametrize(
    ("family", "said", "expected"),
    [
        ("idefics3", SAID, ImageConfig(split="tiles", tile=32, size=64, resample="lanczos")),
        ("idefics3", WHOLE | {"size": {"height": 48, "width": 48}}, ImageConfig(size=48)),
        ("idefics2", WHOLE, ImageConfig(resize="native", size=64, shortest=24)),
        ("idefics2", WHOLE | {"size": {"height": 48, "width": 48}, "do_image_splitting": True, "resample": 3},
         ImageConfig(size=48, split="crops", resample="bicubic")),
        ("idefics2", SAID, ImageConfig(split="tiles", tile=32, size=64, resample="lanczos")),
        ("idefics3", SAID | {"do_image_splitting": False}, "do_image_splitting: False"),
        ("idefics3", SAID | {"size": {"height": 64, "width": 64}}, "size: "),
        ("idefics3", SAID | {"size": {"longest_edge": 224}}, "more than 6 tiles of 32 px"),
        ("idefics3", SAID | {"resample": 0}, "resample: 0"),
        ("smolvlm", SAID | {"do_resize": False}, "do_resize: False"),
        ("idefics2", WHOLE | {"do_rescale": False}, "do_rescale: False"),
        ("idefics2", WHOLE | {"do_normalize": False}, "do_normalize: False"),
        ("idefics2", WHOLE | {"rescale_factor": 1.0}, "rescale_factor: 1.0"),
        ("idefics2", WHOLE | {"size": {"height": 48, "width": 32}}, "size: "),
    ],
)  # fmt: skip
def test_image_processors_are_expressed_in_full_or_refused(family, said, expected, tmp_path: Path) -> None:
    save_reference(CASES[family], tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    config = read_config(str(tmp_path), planning=False)
    if isinstance(expected, ImageConfig):
        assert image_config(config, tmp_path) == expected
    else:
        with pytest.raises(ModelError, match=expected):
            image_config(config, tmp_path)


def test_of_two_files_that_tell_of_the_image_processor_the_one_of_transformers_counts(tmp_path: Path) -> None:
    """transformers 5 saves one file; the other stays as transformers 4 wrote it."""
    save_reference(CASES["idefics3"], tmp_path)
    old = SAID | {"size": {"longest_edge": 96}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    new = SAID | {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    config = read_config(str(tmp_path), planning=False)
    for written, size, mean in (({"image_processor": new}, 64, (0.0, 0.0, 0.0)), ({}, 96, (0.1, 0.2, 0.3))):
        (tmp_path / "processor_config.json").write_text(json.dumps(written))
        assert AutoImageProcessor.from_pretrained(tmp_path, backend="pil").size["longest_edge"] == size
        assert image_config(config, tmp_path).size == size and normalisation(tmp_path, config)[0] == mean


SQUARES = {"size": {"height": 32, "width": 32}, "resample": 3}
CROPPED = SQUARES | {"size": {"shortest_edge": 32}, "do_center_crop": True}
TILED = SQUARES | {"resample": 2, "max_image_tiles": 4}


@pytest.mark.parametrize(
    ("family", "said", "expected", "unlike"),
    [
        ("llava", CROPPED, ImageConfig(size=32), "the middle"),
        ("llava", SQUARES | {"size": 24}, ImageConfig(size=24), ""),
        ("paligemma", SQUARES, ImageConfig(size=32), ""),
        ("paligemma", SQUARES | {"resample": 1}, ImageConfig(size=32, resample="lanczos"), ""),
        ("paligemma", SQUARES | {"resample": 0}, "resample: 0", ""),
        ("llava", SQUARES | {"do_normalize": False}, "do_normalize: False", ""),
        ("mllama", TILED, ImageConfig(size=32, resample="bilinear"), "4 tiles"),
    ],
)
def test_squares_are_prepared_as_the_processor_says_or_it_is_told(family, said, expected, unlike, tmp_path) -> None:
    kin.save(Kin(family), tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    config = read_config(str(tmp_path), planning=False)
    if isinstance(expected, str):
        with pytest.raises(ModelError, match=expected):
            image_config(config, tmp_path)
        return
    assert image_config(config, tmp_path) == expected
    told = processor_unlike(config, tmp_path)
    assert unlike in told and bool(unlike) == bool(told)


@pytest.mark.parametrize("whole", [False, True], ids=["plain", "inside"])
def test_a_checkpoints_own_end_tokens_end_a_text_and_are_exported(whole: bool, siglip: Path, tmp_path: Path) -> None:
    if whole:
        kin.save(Kin("llava"), tmp_path)
    else:
        save_lm(tmp_path, LlamaConfig(**TEXT))
        assert AutoModelForCausalLM.from_pretrained(tmp_path)
    GenerationConfig(eos_token_id=[2, 5, 7]).save_pretrained(tmp_path)
    vlm = a_vlm(siglip, tmp_path)
    end = vlm.tokenizer.convert_tokens_to_ids("<end_of_utterance>")
    assert end_ids(vlm.language) == sorted({2, 5, 7, vlm.tokenizer.eos_token_id, end})
    assert generation_config(vlm).eos_token_id == end_ids(vlm.language)


@pytest.mark.parametrize("whole", [False, True], ids=["plain", "inside"])
@pytest.mark.parametrize("said", ["{", "[]", '{"eos_token_id": "</s>"}', '{"eos_token_id": [2, 1.5]}'])
def test_a_damaged_generation_config_is_told(whole: bool, said: str, siglip: Path, tmp_path: Path) -> None:
    if whole:
        kin.save(Kin("llava"), tmp_path)
    else:
        save_lm(tmp_path, LlamaConfig(**TEXT))
    (tmp_path / "generation_config.json").write_text(said)
    with pytest.raises(ModelError, match=r"generation_config\.json"):
        a_vlm(siglip, tmp_path)


RELEASED = (  # HuggingFaceM4/Idefics3-8B-Llama3, without the beginning of text, which the tokeniser writes
    "{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image' %}"
    "{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}"
    "{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def test_the_exported_chat_template_writes_what_the_released_one_does() -> None:
    tokenizer = a_vlm(*NANO).tokenizer
    image, words = {"type": "image"}, {"type": "text", "text": "What is it?"}
    dialogues = [
        [("system", [words]), ("user", [image, words]), ("assistant", [words])],
        [("user", [words, image, words]), ("assistant", [image, words]), ("user", [image, image])],
        [("user", [{"type": "text", "text": ""}, image, words])],
        [("user", [{"type": "text", "text": " two\nlines "}])],
    ]
    for dialogue in dialogues:
        messages = [{"role": role, "content": content} for role, content in dialogue]
        for ask in (False, True):
            expected, found = (
                tokenizer.apply_chat_template(messages, chat_template=t, add_generation_prompt=ask, tokenize=False)
                for t in (RELEASED, chat_template("chat", tokenizer))
            )
            assert found == expected


def test_without_a_chat_template_nothing_is_asked(tmp_path: Path) -> None:
    vlm = a_vlm(*NANO, connector=PERCEIVER)
    exported = to_transformers(vlm)
    exported.save_pretrained(tmp_path)
    vlm.tokenizer.chat_template = None
    vlm.tokenizer.save_pretrained(tmp_path)
    Idefics2Processor(Idefics2ImageProcessor(), vlm.tokenizer, chat_template=None).save_pretrained(tmp_path)
    for file in tmp_path.glob("chat_template*"):
        file.unlink()
    with pytest.raises(ModelError, match="has no chat template, so nothing says how its prompts are written"):
        with_transformers(tmp_path)
