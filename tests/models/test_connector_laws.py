"""Connectors over many grids: as many tokens as they said, of their own type, under any order and mask of patches."""

from __future__ import annotations

import pytest
import torch

from tests.models.test_connectors import CONFIGS, build, features, label
from vlm_ablate.errors import ModelError
from vlm_ablate.models.connectors.configs import LinearConfig, MappingNetworkConfig, MlpConfig, PerceiverConfig
from vlm_ablate.models.connectors.pixel_shuffle import pixel_shuffle

GRIDS = [(1, 1), (2, 2), (6, 4), (3, 5)]
EVERY = pytest.mark.parametrize("config", CONFIGS, ids=label)
WHOLE = (MappingNetworkConfig, PerceiverConfig)
"""They read the patches of a view as a set."""
EACH = (LinearConfig, MlpConfig)
"""They read every patch by itself, without `tokens`."""


@EVERY
def test_tokens_are_as_many_as_was_said_on_every_grid_or_the_grid_is_refused(config) -> None:
    taken = 0
    for grid in GRIDS:
        try:
            connector = build(config, grid=grid)
        except ModelError:
            continue
        taken += 1
        x = features(views=2, grid=grid)
        assert connector(x, None, grid).shape == (2, connector.visual_tokens(grid), 32)
        for other in GRIDS:  # built for one grid, asked for another
            try:
                tokens = connector.visual_tokens(other)
                out = connector(features(views=1, grid=other), None, other)
            except ModelError:
                continue
            assert out.shape == (1, tokens, 32)
    assert taken >= 2, "the smallest view may have too few patches"


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tokens_are_of_the_type_of_the_weights_and_finite_for_a_view_of_padding_alone(config, dtype) -> None:
    connector, x = build(config).to(dtype).eval(), features().to(dtype)
    assert connector(x, None, (4, 6)).dtype == dtype
    mask = torch.ones(3, 24, dtype=torch.bool)
    mask[1] = False
    out = connector(x, mask, (4, 6))
    assert out.dtype == dtype and out.isfinite().all()


@EVERY
def test_a_mask_of_real_patches_alone_is_none_and_nothing_is_drawn_by_chance(config) -> None:
    connector, x = build(config).double().train(), features().double()
    before = torch.get_rng_state()
    plain, masked = (connector(x, mask, (4, 6)) for mask in (None, torch.ones(3, 24, dtype=torch.bool)))
    torch.testing.assert_close(masked, plain, rtol=1e-10, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), before)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(connector(x[order], None, (4, 6)), plain[order], rtol=1e-10, atol=1e-12)


@EVERY
def test_what_patches_say_does_not_hang_on_their_order_where_no_place_is_read(config) -> None:
    each = isinstance(config, EACH) and not getattr(config, "tokens", None)
    if not (each or isinstance(config, WHOLE)):
        pytest.skip("it reads places")
    connector, x = build(config).double(), features().double()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    mask = (torch.rand(3, 24, generator=torch.Generator().manual_seed(1)) < 0.7).index_fill(1, order[:1], True)
    for kept in (None, mask):
        plain = connector(x, kept, (4, 6))
        moved = connector(x[:, order], None if kept is None else kept[:, order], (4, 6))
        torch.testing.assert_close(moved, plain[:, order] if each else plain, rtol=1e-9, atol=1e-11)
    if not each:  # masked patches are as if they were not there
        short = connector(x[:1, mask[0]], None, (1, int(mask[0].sum())))
        torch.testing.assert_close(connector(x[:1], mask[:1], (4, 6)), short, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("grid", "factor"), [((2, 2), 1), ((2, 6), 2), ((6, 3), 3), ((8, 4), 4)])
def test_pixel_shuffle_puts_each_patch_into_the_token_over_it(grid: tuple[int, int], factor: int) -> None:
    rows, columns = grid
    places = torch.arange(rows * columns)[:, None].expand(-1, 2)[None]
    tokens = pixel_shuffle(places, grid, factor)[0, :, ::2]
    across = columns // factor
    for number, patches in enumerate(tokens.tolist()):
        top, left = number // across * factor, number % across * factor
        assert patches == [(top + i) * columns + left + j for i in range(factor) for j in range(factor)]
