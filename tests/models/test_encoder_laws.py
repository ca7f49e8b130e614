"""Encoders over many sizes of views: the grid that was promised, the same for a view in any company, other layers and
tokens as transformers has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from tests.models.test_parts import HUB, VISION, vision_config
from vlm_ablate.errors import AssetMissing, ModelError
from vlm_ablate.models.promises import check_features, check_grid
from vlm_ablate.models.vision.base import VisionEncoder
from vlm_ablate.models.vision.patches import patch_mask
from vlm_ablate.registry import vision_encoders

SIZES = [(32, 32), (16, 32), (32, 24), (40, 33), (64, 64)]


@pytest.fixture
def folder(request):
    """Name of a fixture -> the checkpoint folder it made."""
    return lambda name: Path(request.getfixturevalue(name))


def encoder(name: str, folder, *, side: int = 64, **fields) -> VisionEncoder:
    kind = HUB.get(name, (name,))[0]
    config = vision_encoders[kind].config.model_validate(vision_config(name, folder) | fields)
    try:
        return vision_encoders.build(config, image_size=side).eval()
    except AssetMissing as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("name", [n for n in VISION if n not in ("efficientnet-lite0", "ppocr-v4", "vit-s14")])
def test_features_are_on_the_promised_grid_for_every_size_that_is_taken(name: str, folder) -> None:
    vision = encoder(name, folder)
    taken = 0
    for height, width in SIZES:
        pixels = torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(height + width))
        try:
            check_grid(vision, height, width)
        except ModelError:
            continue
        taken += 1
        with torch.no_grad():
            seen, turned = vision(pixels, None), vision(pixels.flip(0), None)
        check_features(vision, seen, pixels)
        assert seen.mask is None and seen.features.dtype == torch.float32
        torch.testing.assert_close(turned.features.flip(0), seen.features, rtol=1e-4, atol=1e-5)
    assert taken


@pytest.mark.parametrize("rule", ["full", "any"])
def test_a_patch_counts_by_its_pixels(rule: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        height, width = torch.randint(1, 13, (2,), generator=generator).tolist()
        mask = torch.zeros(1, 13, 13, dtype=torch.bool)
        mask[:, :height, :width] = True
        found = patch_mask(mask, 4, rule)
        assert found.shape == (1, 3, 3)
        for row in range(3):
            for column in range(3):
                own = mask[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                assert bool(found[0, row, column]) == bool(own.all() if rule == "full" else own.any())


@pytest.mark.parametrize("name", HUB)
def test_every_layer_and_the_class_token_are_those_of_transformers(name: str, folder) -> None:
    model = AutoModel.from_pretrained(folder(HUB[name][1])).eval()
    tower = getattr(model, "vision_model", model)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states
    count = len(states) - 1
    for layer in range(-count - 1, -1):
        vision = encoder(name, folder, side=32, layer=layer)
        with torch.no_grad():
            torch.testing.assert_close(vision(pixels, None).features, states[layer][:, -16:])
        kept = sum(p.numel() for n, p in vision.named_parameters() if ".layers." in n or ".layer." in n)
        whole = sum(p.numel() for n, p in tower.named_parameters() if "layers." in n or "layer." in n)
        assert kept * count == whole * (count + 1 + layer), "layers that nothing reads are cut off"
    with pytest.raises(ModelError, match=f"has {count} layers; hidden state {-count - 2} does not exist"):
        encoder(name, folder, side=32, layer=-count - 2)
    if name == "hf-siglip":
        with pytest.raises(ModelError, match=r"gave 16 tokens"):
            encoder(name, folder, side=32, class_token="keep")(pixels, None)
        return
    with torch.no_grad():
        whole = encoder(name, folder, side=32, class_token="keep", layer=-2)
        seen = whole(pixels, torch.ones(2, 32, 32, dtype=torch.bool))
    assert seen.grid == (1, 17) == whole.grid(32, 32) and seen.mask is not None and seen.mask.all()
    torch.testing.assert_close(seen.features, states[-2])


@pytest.mark.parametrize("name", HUB)
def test_a_plan_has_the_grid_and_the_parameters_of_the_model(name: str, folder) -> None:
    config = vision_encoders["hf"].config.model_validate(vision_config(name, folder) | {"layer": -2})
    planned, made = (vision_encoders.build(config, image_size=32, load_weights=load) for load in (False, True))
    assert all(p.is_meta for p in planned.parameters())
    assert {n: p.shape for n, p in planned.named_parameters()} == {n: p.shape for n, p in made.named_parameters()}
    assert (planned.width, planned.unused, planned.cut_away) == (made.width, made.unused, made.cut_away)
    assert [planned.grid(*size) for size in SIZES] == [made.grid(*size) for size in SIZES]
