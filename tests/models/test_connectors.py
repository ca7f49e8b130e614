"""Every registered connector keeps the contract, and the paper's two are numerically transformers' own."""

from __future__ import annotations

import sys

import pytest
import torch
from pydantic import ValidationError

from vlm_ablate.errors import ModelError
from vlm_ablate.models.connectors.configs import (
    LinearConfig,
    MappingNetworkConfig,
    MlpConfig,
    PerceiverConfig,
    PixelShuffleConfig,
)
from vlm_ablate.models.connectors.pixel_shuffle import pixel_shuffle
from vlm_ablate.registry import connectors, load_plugins
from vlm_ablate.testing import check_connector

GRID = (4, 6)
SIZES = {"vision_width": 24, "hidden": 32, "intermediate": 40, "grid": GRID}

VARIANTS = [
    LinearConfig(tokens=5),
    LinearConfig(bias=False),
    MlpConfig(gated=True),
    MlpConfig(intermediate=16, bias=False, activation="relu"),
    MappingNetworkConfig(tokens=3, depth=2, heads=2, width=16),
    PerceiverConfig(latents=6, depth=2, heads=4, head_dim=8, kv_heads=1, projection="linear", qk_norm=True),
    PerceiverConfig(latents=6, depth=1, heads=4, head_dim=8, kv_heads=4, projection="mlp", mlp_ratio=2),
    PerceiverConfig(latents=4, depth=2, heads=2, head_dim=4, kv_heads=2, latents_init="ones"),
]
# Every registered connector with its defaults first: a new one is tested without touching this file.
CONFIGS = [entry.config() for entry in connectors] + VARIANTS


def build(config, **changed):
    torch.manual_seed(0)
    return connectors.build(config, **{**SIZES, **changed})


def features(views=3, grid=GRID, width=24, seed=1):
    return torch.randn(views, grid[0] * grid[1], width, generator=torch.Generator().manual_seed(seed))


def label(config):
    changed = config.model_dump(exclude_defaults=True)
    return config.name + "".join(f"-{k}={v}" for k, v in changed.items())


@pytest.mark.parametrize("config", CONFIGS, ids=label)
class TestContract:
    def test_keeps_what_every_connector_promises(self, config, tmp_path):
        check_connector(config, tmp_path, grid=GRID)

    def test_masked_patches_do_not_leak(self, config):
        """Connectors with a fixed count ignore masked patches; local ones keep them inside their own tokens."""
        connector = build(config).eval()
        mask = torch.ones(3, *GRID, dtype=torch.bool)
        mask[:, 2:] = False  # the lower half of the grid
        mask = mask.flatten(1)
        clean = features()
        dirty = torch.where(mask[..., None], clean, features(seed=2) * 10)
        a, b = (connector(x, mask, GRID) for x in (clean, dirty))
        tokens = connector.visual_tokens(GRID)
        local = isinstance(config, (PixelShuffleConfig, MlpConfig)) or tokens == GRID[0] * GRID[1]
        kept = tokens // 2 if local else tokens
        torch.testing.assert_close(a[:, :kept], b[:, :kept], rtol=0, atol=1e-6)


def test_full_attention_mask_equals_no_mask():
    connector = build(PerceiverConfig(latents=6, depth=2, heads=4, head_dim=8, kv_heads=2)).double()
    x = features().double()
    full = torch.ones(3, 24, dtype=torch.bool)
    torch.testing.assert_close(connector(x, full, GRID), connector(x, None, GRID), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "depth", "latents"), [(4, 1, 1, 3), (4, 2, 3, 8), (6, 6, 2, 5)])
def test_perceiver_is_idefics2s(heads, kv_heads, depth, latents, masked):
    from transformers import Idefics2Config, MistralConfig
    from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig, Idefics2VisionConfig
    from transformers.models.idefics2.modeling_idefics2 import Idefics2Connector

    theirs_config = Idefics2Config(
        vision_config=Idefics2VisionConfig(hidden_size=24),
        text_config=MistralConfig(hidden_size=32, intermediate_size=40, num_attention_heads=4, num_key_value_heads=2),
        perceiver_config=Idefics2PerceiverConfig(
            hidden_size=32, resampler_n_latents=latents, resampler_depth=depth, resampler_n_heads=heads,
            resampler_head_dim=6, num_key_value_heads=kv_heads, rms_norm_eps=1e-5,
        ),
    )  # fmt: skip
    theirs_config.perceiver_config._attn_implementation = "sdpa"
    torch.manual_seed(3)
    theirs = Idefics2Connector(theirs_config).double()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.3)
    ours = build(
        PerceiverConfig(latents=latents, depth=depth, heads=heads, head_dim=6, kv_heads=kv_heads, norm_eps=1e-5)
    ).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = features().double()
    mask = torch.ones(3, 24, dtype=torch.bool)
    if masked:
        mask[0, 10:] = mask[2, ::3] = False
    a, b = ours(x, mask if masked else None, GRID), theirs(x, attention_mask=mask)
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_pixel_shuffle_is_idefics3s(factor):
    from transformers import Idefics3Config, LlamaConfig
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
    from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

    theirs = Idefics3Connector(
        Idefics3Config(
            vision_config=Idefics3VisionConfig(hidden_size=24),
            text_config=LlamaConfig(hidden_size=32),
            scale_factor=factor,
        )
    )
    ours = build(PixelShuffleConfig(factor=factor), grid=(6, 6))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = features(grid=(6, 6))
    assert torch.equal(ours(x, None, (6, 6)), theirs(x))


def test_pixel_shuffle_keeps_reading_order_on_oblong_grids():
    places = torch.arange(8.0).view(1, 8, 1)
    assert pixel_shuffle(places, (2, 4), 2).tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7]]]
    assert pixel_shuffle(places, (4, 2), 2).tolist() == [[[0, 1, 2, 3], [4, 5, 6, 7]]]


def test_parameter_counts_of_the_papers_connectors():
    """transformers 5.23 gives the same: 91,750,400 + 651,468,800 for Idefics2 and 18,874,368 for Idefics3."""
    full = {"vision_width": 1152, "hidden": 4096, "intermediate": 14336}
    with torch.device("meta"):
        idefics2 = connectors.build(PerceiverConfig(), **full, grid=(27, 27))
        idefics3 = connectors.build(PixelShuffleConfig(), **full, grid=(26, 26))
        linear = connectors.build(LinearConfig(bias=False), **full, grid=(27, 27))

    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(idefics2.modality_projection) == 91_750_400
    assert count(idefics2.perceiver_resampler) == 651_468_800
    assert count(idefics3) == 18_874_368
    assert count(linear) == 1152 * 4096
    assert (idefics2.visual_tokens((27, 27)), idefics3.visual_tokens((26, 26)), linear.visual_tokens((27, 27))) == (
        64,
        169,
        729,
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PerceiverConfig(heads=6, kv_heads=4), "4 key/value heads do not divide 6 heads"),
        (PerceiverConfig(projection="none"), "24 wide and the architecture asks for 32"),
        (PixelShuffleConfig(factor=3), "does not divide the patch grid 4 x 6"),
        (LinearConfig(tokens=25), "25 tokens are more than the 24 patches"),
        (MappingNetworkConfig(heads=5), "5 heads do not divide the width 24"),
        (MlpConfig(activation="gelou"), "unknown activation 'gelou'"),
    ],
)
def test_parts_that_do_not_fit_say_so(config, message):
    with pytest.raises(ModelError, match=message):
        build(config)


def test_shortening_linear_refuses_another_grid():
    connector = build(LinearConfig(tokens=5))
    with pytest.raises(ModelError, match="built for 24 patches and got 16"):
        connector(features(grid=(4, 4)), None, (4, 4))


def test_unknown_option_is_an_error():
    with pytest.raises(ValidationError, match="latnets"):
        PerceiverConfig(latnets=3)


PLUGIN = '''
from typing import Literal
from torch import nn
from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.registry import connectors
from vlm_ablate.models.connectors.base import Connector

class MeanConfig(ComponentConfig):
    name: Literal["mean-test"] = "mean-test"

@connectors.register("mean-test", MeanConfig)
class MeanConnector(Connector):
    """One token: the mean of the patches."""
    def __init__(self, config, **sizes):
        super().__init__(config, **sizes)
        self.linear = nn.Linear(self.vision_width, self.hidden)
    def visual_tokens(self, grid):
        return 1
    def forward(self, features, mask, grid):
        weight = mask.float() if mask is not None else features.new_ones(features.shape[:2])
        return self.linear((features * weight[..., None]).sum(1, keepdim=True) / weight.sum(1)[:, None, None])
'''


def test_a_connector_is_added_by_a_plugin_of_twenty_lines(tmp_path, monkeypatch):
    assert len(PLUGIN.strip().splitlines()) <= 20
    (tmp_path / "mean_connector_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        load_plugins(["mean_connector_plugin"])
        contract = TestContract()
        config = connectors["mean-test"].config()
        contract.test_keeps_what_every_connector_promises(config, tmp_path)
        contract.test_masked_patches_do_not_leak(config)
    finally:
        connectors._entries.pop("mean-test", None)
        sys.modules.pop("mean_connector_plugin", None)
