"""`parity DIR` over the families, and every way in which a checkpoint can be bad: one clear error each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import Result

from tests.checkpoints import kin
from tests.checkpoints.kin import Kin
from tests.checkpoints.test_parity import CASES, save_reference
from tests.command import call, told
from tests.models.support import a_vlm
from vlm_ablate.checkpoints.processor import processor_for
from vlm_ablate.checkpoints.to_transformers import to_transformers
from vlm_ablate.config.data import ImageConfig

KIN = {
    "llava": Kin("llava"),
    "paligemma": Kin("paligemma"),
    "idefics": Kin("idefics", options=dict(cross_layer_interval=2)),
    "mllama": Kin("mllama", tokens=("<|image|>",)),
}


def figures(result: Result) -> list[float]:
    """The column of relative differences."""
    rows = [line.split("│") for line in result.stdout.splitlines() if line.startswith("│")]
    return [float(row[5]) for row in rows]


@pytest.mark.parametrize("family", ["idefics2", "idefics3", "smolvlm", *KIN])
def test_both_compute_the_same(family: str, tmp_path: Path) -> None:
    if family in KIN:
        kin.save(KIN[family], tmp_path)
    else:
        save_reference(CASES[family], tmp_path)
    result = call("parity", tmp_path, "--images", "2")
    assert result.exit_code == 0, result.output
    assert "both compute the same: tolerance 1e-05" in result.stdout
    assert len(figures(result)) == 5 and max(figures(result)) <= 1e-5


@pytest.mark.parametrize(
    ("image", "connector"),
    [
        (ImageConfig(resize="native", size=64, shortest=24, split="crops"), dict(name="perceiver", latents=3, depth=1,
            heads=2, head_dim=8, kv_heads=1)),
        (ImageConfig(size=96, split="tiles", tile=32), dict(name="pixel_shuffle")),
    ],
    ids=["crops", "tiles"],
)  # fmt: skip
def test_with_the_processor_of_the_folder(image: ImageConfig, connector: dict, tmp_path: Path) -> None:
    vlm = a_vlm({"name": "siglip-nano"}, {"name": "llama-nano"}, connector=connector, image=image)
    vlm.vision.patches = "any" if image.split == "tiles" else "full"
    to_transformers(vlm).save_pretrained(tmp_path)
    processor_for(vlm, image, "plain").processor.save_pretrained(tmp_path)
    result = call("parity", tmp_path, "--images", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("equal") >= 4 and "differ by" not in result.stdout


def test_a_difference_is_shown_and_is_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_reference(CASES["idefics2"], tmp_path)
    from vlm_ablate.models.vlm import VLM

    logits = VLM.logits
    monkeypatch.setattr(VLM, "logits", lambda self, *args: logits(self, *args) + 0.01)
    result = call("parity", tmp_path)
    assert result.exit_code == 1 and "they differ" in result.stdout
    assert min(figures(result)) > 1e-5
    assert call("parity", tmp_path, "--tolerance", "1").exit_code == 0


def test_float64(tmp_path: Path) -> None:
    save_reference(CASES["idefics3"], tmp_path)
    result = call("parity", tmp_path, "--dtype", "float64", "--images", "1")
    assert result.exit_code == 0 and "tolerance 1e-10" in result.stdout, result.output


# --- bad checkpoints -------------------------------------------------------------------------------------------------


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def _missing(folder: Path) -> None:
    edit(folder, lambda t: t.pop("model.connector.perceiver_resampler.latents"))


def _surplus(folder: Path) -> None:
    edit(folder, lambda t: t.update({"model.connector.more": torch.zeros(2)}))


def _shape(folder: Path) -> None:
    name = "model.connector.perceiver_resampler.norm.weight"
    edit(folder, lambda t: t.update({name: torch.zeros(7)}))


def _text_missing(folder: Path) -> None:
    edit(folder, lambda t: t.pop("model.text_model.norm.weight"))


def _tower_missing(folder: Path) -> None:
    edit(folder, lambda t: t.pop("model.vision_model.post_layernorm.weight"))


def _vocabulary(folder: Path) -> None:
    tokenizer = folder / "tokenizer.json"
    body = json.loads(tokenizer.read_text())
    size = max(token["id"] for token in body["added_tokens"])
    body["added_tokens"] += [
        {"id": size + 1 + i, "content": f"<{i}>", "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False} for i in range(9)
    ]  # fmt: skip
    tokenizer.write_text(json.dumps(body))


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<html>not found</html>")


def _shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _unconfigured(folder: Path) -> None:
    (folder / "config.json").unlink()


def _another_family(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config["text_config"]))


def _untokenised(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


BAD = {
    _missing: "missing ['connector.perceiver_resampler.latents']",
    _surplus: "surplus ['connector.more']",
    _shape: "connector.perceiver_resampler.norm.weight: the checkpoint has (7,), this assembly (32,)",
    _text_missing: "text tensors missing ['model.norm.weight']",
    _tower_missing: "vision tower does not fit its configuration",
    _vocabulary: "the tokeniser has ids up to 34, the embedding only 26 rows",
    _pickled: "holds no *.safetensors file",
    _cut: "cannot be read as safetensors",
    _garbage: "cannot be read as safetensors",
    _shard: "lacks 1 of 2 files of weights: model-00002-of-00002.safetensors",
    _unconfigured: "holds no configuration that transformers can read",
    _another_family: "is a 'mistral' checkpoint; known: idefics2",
    _untokenised: "holds no tokeniser that transformers can read",
}


@pytest.mark.parametrize("damage", BAD, ids=[damage.__name__.strip("_") for damage in BAD])
def test_a_bad_checkpoint_is_one_clear_error(damage: Callable[[Path], None], tmp_path: Path) -> None:
    save_reference(CASES["idefics2"], tmp_path)
    damage(tmp_path)
    result = call("parity", tmp_path)
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert BAD[damage] in told(result)
    assert told(result).count("error:") == 1


@pytest.mark.parametrize(
    ("id", "message", "hint"),
    [
        ("HuggingFaceM4/Idefics3-8B-Llama3", "is not on this machine", "write the path of a local copy"),
        ("./nowhere", "the folder './nowhere' does not exist", "give an existing local folder"),
    ],
)
def test_checkpoints_that_are_not_here(id: str, message: str, hint: str) -> None:
    call("parity", id)  # imports
    start = time.monotonic()
    result = call("parity", id)
    assert time.monotonic() - start < 100
    assert result.exit_code == 1 and message in told(result) and hint in told(result)
