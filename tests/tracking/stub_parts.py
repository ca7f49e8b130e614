"""A plug-in with a source and a benchmark that do nothing: specs of launch and tracking tests are made of them."""

from __future__ import annotations

from typing import Literal

from vlm_ablate.config.base import ComponentConfig
from vlm_ablate.evaluation.benchmarks.base import Benchmark, BenchmarkItem, Split
from vlm_ablate.registry import benchmarks, sources


class StubSource(ComponentConfig):
    """No samples."""

    name: Literal["stub-source"] = "stub-source"
    note: str = ""


class StubBenchmark(ComponentConfig):
    """No items."""

    name: Literal["stub-benchmark"] = "stub-benchmark"


sources.register("stub-source", StubSource)(type("Source", (), {}))


@benchmarks.register("stub-benchmark", StubBenchmark)
class StubAsked(Benchmark):
    """Asks nothing."""

    metric_name = "exact_match"

    def items(self, split: Split) -> list[BenchmarkItem]:
        return []
