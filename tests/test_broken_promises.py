"""Each promise of an encoder, a source, a benchmark and a connector, broken once: the check says which."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from training import squares

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.data.sample import Sample, Text
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem, Split
from vlm_ablate.models.connectors.base import Connector
from vlm_ablate.models.vision.base import VisionEncoder, VisionFeatures
from vlm_ablate.registry import benchmarks, connectors, sources, vision_encoders
from vlm_ablate.testing import check_benchmark, check_connector, check_source, check_vision_encoder

_calls = itertools.count()


class PromiseConfig(ComponentConfig):
    """Says which promise a part breaks; none by default."""

    name: Literal["promise"] = "promise"
    broken: str = ""
    rows: int = 3
    items: int = 3
    missing: bool = False


class Encoder(VisionEncoder):
    """Patches of 8 x 8 pixels under one linear map, but for what it breaks."""

    def __init__(self, config: PromiseConfig, **options: object) -> None:
        super().__init__(config, image_size=32)
        self.linear = nn.Linear(3 * 64, 6)
        self.backbone = "no module" if config.broken == "backbone" else self.linear
        self.mean = (0.5,) if config.broken == "mean" else self.mean
        self.width = 7 if config.broken == "width" else 6

    def grid(self, height: int, width: int) -> tuple[int, int]:
        more = self.config.broken == "grid"
        return height // 8 + more, width // 8

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None) -> VisionFeatures:
        views, _, height, width = pixel_values.shape
        cut = pixel_values.reshape(views, 3, height // 8, 8, width // 8, 8).permute(0, 2, 4, 1, 3, 5)
        features = self.linear(cut.reshape(views, -1, 3 * 64))
        if self.config.broken == "same":
            features = torch.zeros_like(features) + features.mean()
        if self.config.broken == "alone":
            features = features - features.mean(0, keepdim=True) / 2
        return VisionFeatures(features, None, (height // 8, width // 8))


class Rows(squares.SquareSource):
    """Squares, but for what it breaks."""

    def __len__(self) -> int:
        return 0 if self.config.broken == "rows" else self.config.rows

    @property
    def fingerprint(self) -> str:
        return {"fingerprint": "", "told": f"{next(_calls)}"}.get(self.config.broken, "squares")

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        match self.config.broken:
            case "id":
                return Sample("", sample.segments, sample.source)
            case "again":
                return Sample(f"{sample.id} {next(_calls)}", sample.segments, sample.source)
            case "text":
                segments = (*sample.segments[:-1], Text(f"{next(_calls)}", True))
                return Sample(sample.id, segments, sample.source)
            case "image":
                bad = type(sample.images[0])(b"no picture")
                return Sample(sample.id, (replace(sample.segments[0], ref=bad), *sample.segments[1:]), sample.source)
        return sample


class Asked(squares.SquareBenchmark):
    """Squares to be named, but for what it breaks."""

    def items(self, split: Split) -> Sequence[BenchmarkItem]:
        if self.config.broken == "split" and split != "report":
            raise VlmAblateError(f"there is no split {split!r}")
        items = super().items(split)
        match self.config.broken:
            case "again":
                return [replace(item, question=f"what {next(_calls)}") for item in items]
            case "references":
                return [replace(item, references=()) for item in items]
        return items

    def asked_with(self, config: object) -> tuple[str, str]:
        template, *rest = super().asked_with(config)
        return ("nothing/1" if self.config.broken == "template" else template, *rest)


class Joint(Connector):
    """Mean of the patches under one linear map, but for what it breaks."""

    def __init__(self, config: PromiseConfig, **sizes: object) -> None:
        super().__init__(config, **sizes)
        self.project = nn.Linear(self.vision_width, self.hidden)
        self.turned = torch.tensor(float(next(_calls)), device="cpu") if config.broken == "state" else None

    def visual_tokens(self, grid: tuple[int, int]) -> int:
        return 1

    def forward(self, features: Tensor, mask: Tensor | None, grid: tuple[int, int]) -> Tensor:
        out = self.project(features.mean(1, keepdim=True))
        if self.turned is not None and not out.is_meta:
            out = out + self.turned
        return out[..., 1:] if self.config.broken == "hidden" else out


CHECKS: dict[str, tuple[Callable[[PromiseConfig, Path], None], dict[str, str]]] = {
    "encoder": (
        lambda config, folder: check_vision_encoder(config),
        {
            "mean": "channels of mean and std", "backbone": "`backbone` is what stages freeze", "width": "width",
            "grid": "grid", "same": "two views have the same features", "alone": "features depend on others'",
        },
    ),
    "source": (
        lambda config, folder: check_source(config),
        {
            "rows": "the source has no rows", "fingerprint": "says by its fingerprint",
            "told": "fingerprint after pickling", "id": "row 0 has no id", "again": "row 0 after pickling",
            "text": "row 0 after pickling",
        },
    ),
    "benchmark": (
        lambda config, folder: check_benchmark(config, splits=("tune", "report")),
        {
            "split": "there is no split 'tune'", "again": "items of tune", "references": "reference",
            "template": "nothing/1",
        },
    ),
    "connector": (
        check_connector, {"state": "with the saved state gives other tokens", "hidden": "shape of the visual tokens"},
    ),
}  # fmt: skip
"""Kind of part -> its check, and promise -> what the check says where it is broken."""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry, cls in ((vision_encoders, Encoder), (sources, Rows), (benchmarks, Asked), (connectors, Joint)):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        registry.register("promise", PromiseConfig)(cls)


@pytest.mark.parametrize("kind", CHECKS)
def test_a_part_that_keeps_them_passes(kind: str, tmp_path: Path) -> None:
    CHECKS[kind][0](PromiseConfig(), tmp_path)


@pytest.mark.parametrize(
    ("kind", "promise"), [(kind, promise) for kind, (_, told) in CHECKS.items() for promise in told]
)
def test_a_part_that_breaks_one_is_told_which(kind: str, promise: str, tmp_path: Path) -> None:
    check, told = CHECKS[kind]
    with pytest.raises((AssertionError, VlmAblateError), match=told[promise]):
        check(PromiseConfig(broken=promise), tmp_path)
