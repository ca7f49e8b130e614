"""The contract of every registered part that can be built here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.models.conftest import write_tokenizer
from tests.models.support import PERCEIVER, a_batch, a_vlm, open_gates
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.config.stages import LoraConfig, Stage
from vlm_ablate.errors import AssetMissing, ModelError
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.half import hold_in_bf16
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM, build_vlm
from vlm_ablate.offline.configs import SmolLm2Config
from vlm_ablate.offline.language.smollm2 import SmolLm2
from vlm_ablate.registry import architectures, connectors, language_models, vision_encoders
from vlm_ablate.testing import check_model, check_vision_encoder

HUB = {"hf-siglip": ("hf", "siglip"), "hf-clip": ("hf", "clip"), "hf-dinov2": ("hf", "dinov2")}
VISION = [*HUB, *(e.name for e in vision_encoders if e.name != "hf")]
CONNECTORS = {"perceiver": PERCEIVER, "mapping_network": dict(name="mapping_network", tokens=3, depth=1, heads=2)}
SIDE = {"efficientnet-lite0": 64, "ppocr-v4": 64, "vit-s14": 42}


def vision_config(name: str, folder) -> dict:
    kind, checkpoint = HUB.get(name, (name, "mllama" if name == "mllama" else "siglip"))
    entry = vision_encoders[kind]
    config = {"name": kind}
    if "id" in entry.config.model_fields:
        config["id"] = str(folder(checkpoint))
    if "resolution" in entry.config.model_fields:
        config["resolution"] = SIDE.get(kind, 64)
    if kind in ("siglip-nano", "vit-s14"):
        config["weights"] = "random"
    return config


def build(folder, *, vision="siglip-native", language="hf", connector="linear", architecture="autoregressive") -> VLM:
    """A tiny model with these parts; skipped when a part's files are not installed."""
    language_config = {"name": language, **({"id": str(folder("llama"))} if language == "hf" else {})}
    if language == "llama-nano":
        language_config["weights"] = "random"
    side = SIDE.get(vision, 32)
    try:
        return a_vlm(
            vision_config(vision, folder),
            language_config,
            connector=CONNECTORS.get(connector, connector),
            architecture=architecture,
            image=ImageConfig(size=side),
        )
    except AssetMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def folder(request):
    """Name of a fixture -> the checkpoint folder it made."""
    return lambda name: Path(request.getfixturevalue(name))


def check(make, tmp_path: Path) -> None:
    """The contract of a whole model, with open gates."""
    check_model(lambda: open_gates(make()), a_batch, tmp_path)


@pytest.mark.parametrize("name", VISION)
def test_vision_encoders(name: str, folder, tmp_path) -> None:
    check(lambda: build(folder, vision=name), tmp_path)
    vision = build(folder, vision=name)
    check_vision_encoder(vision.vision.config, side=vision.views.side)


@pytest.mark.parametrize("name", ["siglip-native", "efficientnet-lite0"])
def test_an_encoder_in_bf16_gets_its_pixels_in_fp32(name: str, folder) -> None:
    """One of them resizes what it gets, which autocast does not round."""
    vlm = build(folder, vision=name)
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = vlm.encode_images(pixels, None)
        hold_in_bf16(vlm.vision)
        assert torch.equal(vlm.encode_images(pixels, None), expected)


@pytest.mark.parametrize("name", [e.name for e in vision_encoders])
def test_trainable_vision_encoders_take_adapters(name: str, folder) -> None:
    vlm = build(folder, vision="hf-siglip" if name == "hf" else name)
    if not vlm.vision.trainable:
        pytest.skip("this encoder has no gradients")
    targets = "all-linear" if name != "efficientnet-lite0" else r".*(expand|project)_conv"
    report = apply_training(
        vlm, Stage(steps=1, batch_size=1, vision="lora", lora=LoraConfig(r=2, vision_targets=targets))
    )
    vlm(a_batch(vlm)).loss_sum.backward()
    assert report.matched["vision"]
    assert [n for n, p in vlm.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("name", [e.name for e in language_models if e.name != "smollm2-135m"])
@pytest.mark.parametrize("architecture", [e.name for e in architectures])
def test_language_models(name: str, architecture: str, folder, tmp_path) -> None:
    def make() -> VLM:
        return build(folder, language=name, architecture=architecture)

    check(make, tmp_path)


@pytest.mark.parametrize("name", [e.name for e in connectors])
@pytest.mark.parametrize("architecture", [e.name for e in architectures])
def test_connectors(name: str, architecture: str, folder, tmp_path) -> None:
    def make() -> VLM:
        return build(folder, connector=name, architecture=architecture)

    check(make, tmp_path)


@pytest.mark.parametrize("name", ["hf-siglip", "hf-clip", "hf-dinov2"])
def test_hidden_state_minus_two_is_the_layer_before_the_last(name: str, folder) -> None:
    from transformers import AutoModel

    kind, checkpoint = HUB[name]
    model = AutoModel.from_pretrained(folder(checkpoint)).eval()
    tower = getattr(model, "vision_model", model)
    config = dict(name=kind, id=str(folder(checkpoint)), layer=-2)
    encoder = a_vlm(config, folder("llama"), connector="linear").vision
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, -16:]
        torch.testing.assert_close(encoder(pixels, None).features, expected)


def test_padding_of_a_view_changes_nothing_for_the_native_encoder(folder) -> None:
    vision = build(folder).vision
    small = torch.randn(1, 3, 16, 24)
    padded, mask = torch.randn(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.bool)
    padded[..., :16, :24], mask[:, :16, :24] = small, True
    with torch.no_grad():
        alone, among = vision(small, None), vision(padded, mask)
    real = among.mask.view(4, 4)
    assert real.sum() == 6 and real[:2, :3].all()
    torch.testing.assert_close(among.features[among.mask], alone.features[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rule", "patches"), [("full", 2), ("any", 6)])
def test_rule_of_patch_validity(rule: str, patches: int, folder) -> None:
    config = dict(name="siglip-native", id=str(folder("siglip")), patches=rule)
    vision = a_vlm(config, folder("llama")).vision
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, :9, :23] = True
    assert vision(torch.randn(1, 3, 32, 32), mask).mask.sum() == patches


def test_position_table_is_interpolated(folder) -> None:
    config = dict(name="siglip-native", id=str(folder("siglip")))
    small = a_vlm(config, folder("llama")).vision.backbone.embeddings.position_embedding.weight
    large = a_vlm(config | dict(image_size=64), folder("llama")).vision.backbone.embeddings.position_embedding.weight
    assert large.shape == (64, 16)
    # bicubic without aligned corners keeps the mean of the table up to its edges
    torch.testing.assert_close(large.mean(0), small.mean(0), rtol=0.1, atol=0.01)


@pytest.mark.parametrize("id", ["nobody/no-such-model", "./no/such/folder"])
@pytest.mark.parametrize("part", ["vision", "language"])
def test_models_that_are_not_here_are_reported_at_once(id: str, part: str, folder) -> None:
    parts = {"vision": folder("siglip"), "language": folder("llama")} | {part: dict(name="hf", id=id)}
    with pytest.raises(AssetMissing, match=id) as caught:
        a_vlm(parts["vision"], parts["language"])
    assert "local" in (caught.value.hint or "")


PAPER = {
    "idefics2": ("HuggingFaceM4/idefics2-8b", "perceiver", 8_402_768_112),
    "idefics3": ("HuggingFaceM4/Idefics3-8B-Llama3", "pixel_shuffle", 8_462_086_384),
}


@pytest.mark.parametrize("name", PAPER)
def test_full_size_models_have_the_released_number_of_parameters(name: str) -> None:
    id, connector, parameters = PAPER[name]
    config = ModelConfig.model_validate(
        {
            "vision": {"name": "siglip-native", "id": id},
            "language": {"name": "hf", "id": id},
            "connector": connector,
            "architecture": "autoregressive",
        }
    )
    vlm = build_vlm(config, Views(side=364, tiled=True), load_weights=False)
    assert sum(p.numel() for p in vlm.parameters()) == parameters


def test_smollm2_is_planned_without_its_file() -> None:
    model = SmolLm2(SmolLm2Config(), load_weights=False).model
    assert all(p.is_meta for p in model.parameters())
    assert sum(p.numel() for p in model.parameters()) == 134_515_008


@pytest.mark.parametrize("name", HUB)
def test_hub_encoders_take_other_image_sizes(name: str, folder) -> None:
    vision = build(folder, vision=name).vision
    seen = vision(torch.randn(1, 3, 48, 48), None)
    assert seen.features.shape == (1, 36, 16) and seen.grid == (6, 6)


def test_text_part_and_tower_of_a_dual_checkpoint_match_the_plain_ones(folder) -> None:
    """The tower of a whole CLIP is taken, nothing of its text model."""
    vision = build(folder, vision="hf-clip").vision
    assert not any("text" in name or "projection" in name for name, _ in vision.named_parameters())


def test_a_tokeniser_larger_than_the_embedding_is_an_error(folder, tmp_path) -> None:
    shutil.copytree(folder("llama"), tmp_path / "llama")
    write_tokenizer(tmp_path / "llama", ["<extra>"])
    with pytest.raises(ModelError, match="embedding only"):
        a_vlm(folder("siglip"), tmp_path / "llama")
