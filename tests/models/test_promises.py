"""A part that breaks a promise is named with it, before or at the first batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import Siglip2VisionConfig, Siglip2VisionModel

from tests.models.conftest import VISION
from tests.models.support import a_batch, a_vlm
from vlm_ablate.config.stages import LoraConfig, Stage
from vlm_ablate.errors import ModelError
from vlm_ablate.models.adapters import apply_training, match_modules
from vlm_ablate.models.connectors.linear import LinearConnector
from vlm_ablate.models.vision.hf import HubVisionEncoder
from vlm_ablate.models.vision.siglip import SiglipNativeEncoder


def test_a_connector_that_does_not_count_its_tokens(llama, siglip, monkeypatch) -> None:
    monkeypatch.delattr(LinearConnector, "visual_tokens")
    with pytest.raises(ModelError, match="LinearConnector does not say `visual_tokens`") as caught:
        a_vlm(siglip, llama, connector="linear")
    assert "Known before any forward" in (caught.value.hint or "")


@pytest.mark.parametrize("tokens", [0, 2.5, None])
def test_a_connector_that_counts_no_number(tokens, llama, siglip, monkeypatch) -> None:
    monkeypatch.setattr(LinearConnector, "visual_tokens", lambda self, grid: tokens)
    with pytest.raises(ModelError, match=r"LinearConnector\.visual_tokens"):
        a_vlm(siglip, llama, connector="linear")


def test_a_connector_without_a_gradient(llama, siglip, monkeypatch) -> None:
    vlm = a_vlm(siglip, llama, connector="linear")
    apply_training(vlm, Stage(steps=1, batch_size=1))
    whole = LinearConnector.forward
    monkeypatch.setattr(LinearConnector, "forward", lambda self, *inputs: whole(self, *inputs).detach())
    with pytest.raises(ModelError, match="LinearConnector gives visual tokens without a gradient"):
        vlm(a_batch(vlm))
    with torch.no_grad():
        vlm(a_batch(vlm))


@pytest.mark.parametrize("grid", [(2, 4), (4, 5)])
def test_an_encoder_with_another_grid_than_its_features(grid, llama, siglip, monkeypatch) -> None:
    vlm = a_vlm(dict(name="hf", id=str(siglip)), llama, connector="linear")
    batch = a_batch(vlm)
    monkeypatch.setattr(HubVisionEncoder, "grid", lambda self, height, width: grid)
    with pytest.raises(ModelError, match=r"HubVisionEncoder gives 16 x 16 features .* promises"):
        vlm(batch)


@pytest.mark.parametrize("grid", [None, 16, (0, 4)])
def test_an_encoder_whose_grid_is_none(grid, llama, siglip, monkeypatch) -> None:
    monkeypatch.setattr(SiglipNativeEncoder, "grid", lambda self, height, width: grid)
    with pytest.raises(ModelError, match=r"SiglipNativeEncoder\.grid\(32, 32\) gives"):
        a_vlm(siglip, llama, connector="linear")


def test_a_naflex_tower_is_refused_by_name(llama, tmp_path: Path) -> None:
    fields = {k: v for k, v in VISION.items() if k != "image_size"}
    Siglip2VisionModel(Siglip2VisionConfig(**fields, num_patches=16)).save_pretrained(tmp_path)
    for name in ("hf", "siglip-native"):
        with pytest.raises(ModelError, match=r"NaFlex|siglip2"):
            a_vlm(dict(name=name, id=str(tmp_path)), llama)


@pytest.mark.parametrize("targets", [["embed_tokens"], ["q_proj", "lm_head"], r".*(embed_tokens|q_proj)"])
def test_tables_of_the_vocabulary_take_no_adapter(targets, llama, siglip) -> None:
    vlm = a_vlm(siglip, llama)
    with pytest.raises(ModelError, match="a table of the vocabulary, which takes no adapter"):
        match_modules(vlm.language.model, targets, what="language")
    with pytest.raises(ValidationError, match="a table of the vocabulary, which takes no adapter"):
        LoraConfig(language_targets=targets)


def test_what_is_no_expression_is_refused_when_the_file_is_read() -> None:
    with pytest.raises(ValidationError, match="no regular expression"):
        LoraConfig(vision_targets="(q_proj")
