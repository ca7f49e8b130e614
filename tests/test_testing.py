"""The checks that plug-in authors call: parts of this package pass, and each broken promise is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from training import squares

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem, Split
from vlm_ablate.evaluation.metrics import ItemScore, Metric, metrics
from vlm_ablate.models.architectures.autoregressive import Autoregressive
from vlm_ablate.models.architectures.configs import AutoregressiveConfig
from vlm_ablate.models.connectors.base import Connector
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import build_vlm
from vlm_ablate.offline.configs import OfflineSourceConfig, OfflineVqaConfig, SiglipNanoConfig
from vlm_ablate.registry import architectures, benchmarks, connectors, sources
from vlm_ablate.testing import (
    check_architecture,
    check_benchmark,
    check_connector,
    check_metric,
    check_source,
    check_vision_encoder,
    example_batch,
)


class BrokenConfig(ComponentConfig):
    """A connector that breaks one promise."""

    name: Literal["broken"] = "broken"
    promise: str = ""


class Broken(Connector):
    """Mean of the patches under one linear map, but for what it breaks."""

    def __init__(self, config: BrokenConfig, **sizes) -> None:
        super().__init__(config, **sizes)
        self.project = nn.Linear(self.vision_width, self.hidden)
        self.unused = nn.Linear(2, 2) if config.promise == "gradient" else nn.Identity()

    def visual_tokens(self, grid: tuple[int, int]) -> int:
        return 2 if self.config.promise == "tokens" else 1

    def forward(self, features: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> Tensor:
        pooled = features.mean(1, keepdim=True)
        if self.config.promise == "views":
            pooled = pooled - pooled.mean(0)
        if self.config.promise == "meta" and features.device.type == "meta":
            return torch.zeros(1, 1, self.hidden)
        return self.project(pooled)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connectors, "_entries", dict(connectors._entries))
    connectors.register("broken", BrokenConfig)(Broken)


def test_a_connector_that_keeps_its_promises_passes(broken: None, tmp_path: Path) -> None:
    check_connector(BrokenConfig(), tmp_path)


@pytest.mark.parametrize(
    ("promise", "told"),
    [
        ("tokens", "shape of the visual tokens"),
        ("gradient", "no gradient reaches unused"),
        ("views", "a view's tokens depend on others'"),
        ("meta", "shape of the visual tokens on the meta device"),
    ],
)
def test_each_broken_promise_of_a_connector_is_told(broken: None, promise: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=told):
        check_connector(BrokenConfig(promise=promise), tmp_path)


def test_parts_of_this_package_pass() -> None:
    check_vision_encoder(SiglipNanoConfig(), side=64)
    check_source(squares.SquareSourceConfig())
    check_benchmark(squares.SquareBenchmarkConfig(), splits=("train", "tune", "report"))


def test_examples_are_padded_as_asked_and_leave_the_tokeniser_as_it_is() -> None:
    nano = {"vision": {"name": "siglip-nano", "weights": "random"}, "language": {"name": "llama-nano"}}
    model = ModelConfig.model_validate({**nano, "connector": "linear", "architecture": "autoregressive"})
    vlm = build_vlm(model, Views(side=32))
    for own in ("left", "right"):
        vlm.tokenizer.padding_side = own
        for left in (True, False):
            assert bool(example_batch(vlm, left=left).attention_mask[:, -1].all()) == left
            assert vlm.tokenizer.padding_side == own


def test_the_offline_source_and_benchmark_pass() -> None:
    check_source(OfflineSourceConfig(rows=4), rows=2)
    check_benchmark(OfflineVqaConfig(items=4), items=2)


class SilentConfig(ComponentConfig):
    """A source that teaches nothing."""

    name: Literal["silent"] = "silent"
    rows: int = 2
    missing: bool = False


class Silent(squares.SquareSource):
    """Squares whose answers are not learned."""

    def __getitem__(self, index: int):
        sample = super().__getitem__(index)
        return type(sample)(sample.id, sample.segments[:2], sample.source)


class MuteConfig(ComponentConfig):
    """A benchmark with two items of one id."""

    name: Literal["mute"] = "mute"
    items: int = 2


class Mute(squares.SquareBenchmark):
    """Squares, all of one id."""

    def items(self, split: Split) -> Sequence[BenchmarkItem]:
        return [super().items(split)[0]] * 2


def test_a_source_that_teaches_nothing_and_a_benchmark_with_equal_ids_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (sources, benchmarks):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    sources.register("silent", SilentConfig)(Silent)
    benchmarks.register("mute", MuteConfig)(Mute)
    with pytest.raises(AssertionError, match="teaches no text"):
        check_source(SilentConfig())
    with pytest.raises(Exception, match="two items of 'report' have the id"):
        check_benchmark(MuteConfig())


ANSWERS = [("a red square", ["a red square", "red"]), ("12", ["12", "12.5"]), ("no", ["a green circle"]), ("B", ["B"])]


@pytest.mark.parametrize("name", metrics.names())
def test_metrics_of_this_package_pass(name: str) -> None:
    check_metric(metrics[name], ANSWERS, most=10 if name == "cider" else 1)


class Careless(Metric):
    """Lengths as scores, and no look at the references."""

    name, version = "careless", "1"

    def score(self, prediction: str, references: Sequence[str]) -> ItemScore:
        return ItemScore(len(prediction) / self.longest)

    longest = 4.0


def test_a_metric_out_of_range_and_one_that_scores_against_nothing_are_told() -> None:
    with pytest.raises(AssertionError, match=r"'a red square' scores 3.0, outside 0\.\.1"):
        check_metric(Careless(), ANSWERS)
    with pytest.raises(AssertionError, match="an item without references is scored"):
        check_metric(Careless(), ANSWERS, most=9)


class DetachedConfig(AutoregressiveConfig):
    """An architecture that never learns from what it sees."""

    name: Literal["detached"] = "detached"


class Detached(Autoregressive):
    """No gradient reaches the visual tokens."""

    def embed(self, embeds, reading):
        if reading.visual is not None:
            reading = replace(reading, visual=replace(reading.visual, states=reading.visual.states.detach()))
        return super().embed(embeds, reading)


def test_an_architecture_that_cuts_the_gradient_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(architectures, "_entries", dict(architectures._entries))
    architectures.register("detached", DetachedConfig)(Detached)
    check_architecture(AutoregressiveConfig(), tmp_path)
    with pytest.raises(Exception, match="gradient"):
        check_architecture(DetachedConfig(), tmp_path)
