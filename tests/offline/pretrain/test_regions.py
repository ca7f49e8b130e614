"""What the stand-in encoder learns of a region: weights over patches, place and ground, worked out pixel by pixel."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_ablate.offline import pictures
from vlm_ablate.offline.facts import ascii_fold
from vlm_ablate.offline.item import Region
from vlm_ablate.offline.pretrain.regions import IGNORE, PretrainPictures, TextBank, _cover, _place
from vlm_ablate.offline.pretrain.vision import _whitening
from vlm_ablate.offline.pretrain.vision_recipe import VISION_RECIPES
from vlm_ablate.offline.scenes import PLACES

corners = st.integers(-10, 70)


@settings(max_examples=60, deadline=None)
@given(corners, corners, corners, corners, st.sampled_from([4, 8, 16]))
def test_a_patch_is_covered_by_as_much_as_pixels_of_it_lie_in_the_box(
    a: int, b: int, c: int, d: int, patch: int
) -> None:
    left, right, top, bottom = *sorted((a, c)), *sorted((b, d))
    pixels = np.zeros((48, 64), np.float32)
    pixels[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 1
    expected = pixels.reshape(48 // patch, patch, 64 // patch, patch).mean((1, 3))
    assert np.allclose(_cover(Region("x", (left, top, right, bottom)), 48, 64, patch), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (80, 48)])
def test_a_region_is_in_the_quarter_of_its_middle_and_in_none_where_it_is_large(size: tuple[int, int]) -> None:
    height, width = size
    rng = np.random.default_rng(0)
    for _ in range(200):
        w, h = rng.integers(4, width), rng.integers(4, height)
        x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
        found = _place(Region("x", (int(x), int(y), int(x + w), int(y + h))), height, width)
        if w > 0.55 * width or h > 0.55 * height:
            assert found == IGNORE
            continue
        words = PLACES[found].split()
        assert words == ["bottom" if y + h / 2 >= height / 2 else "top", "right" if x + w / 2 >= width / 2 else "left"]


@pytest.mark.usefixtures("offline_material")
def test_batches_are_pictures_with_regions_whose_texts_are_in_the_bank() -> None:
    recipe = replace(VISION_RECIPES["good"], batch_size=6)
    bank = TextBank()
    assert len(set(bank.names)) == len(bank.names) and all(
        ascii_fold(p.name) in bank.index for p in pictures.pictures()
    )
    made, again = (
        list(itertools.islice(PretrainPictures(recipe, "contrast", recipe.contrast_shares), 3)) for _ in range(2)
    )
    known = 0
    for (pixels, regions), (same, _) in zip(made, again, strict=True):
        assert torch.equal(pixels, same) and pixels.shape[:2] == (6, 3) and pixels.shape[2:] in recipe.sizes
        assert -1 <= pixels.min() < -0.3 and 0.3 < pixels.max() <= 1
        patches = pixels.shape[2] * pixels.shape[3] // recipe.patch**2
        assert regions.weights.shape == (len(regions.image), patches)
        assert torch.allclose(regions.weights.sum(1), torch.ones(len(regions.image)), atol=1e-5)
        assert (regions.weights >= 0).all() and set(regions.image.tolist()) <= set(range(6))
        for index, texts in ((regions.name, bank.names), (regions.place, bank.places), (regions.ground, bank.grounds)):
            assert all(i == IGNORE or 0 <= i < len(texts) for i in index.tolist())
        assert ((regions.ground == IGNORE) | (regions.name == IGNORE)).all(), "a ground is no thing"
        known += int((regions.name != IGNORE).sum())
    other = next(iter(PretrainPictures(recipe, "alignment", recipe.contrast_shares)))[0]
    assert known > 15 and not torch.equal(other, made[0][0]), "each phase has pictures of its own"


@pytest.mark.parametrize("degree", [0.0, 0.5, 1.0])
def test_whitened_rows_have_no_mean_and_a_power_of_their_covariance(degree: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    rows = torch.randn(400, 6, generator=generator, dtype=torch.float64) @ mix + 3
    centre, whiten = _whitening(rows, degree)
    found = (rows - centre) @ whiten
    assert found.mean(0).abs().max() < 1e-9
    values = torch.linalg.eigvalsh(torch.cov(rows.T, correction=0))
    ridge = values + 0.01 * values.mean()
    assert torch.linalg.eigvalsh(torch.cov(found.T, correction=0)).sort().values == pytest.approx(
        (values / ridge**degree).sort().values.numpy(), rel=1e-6
    )
