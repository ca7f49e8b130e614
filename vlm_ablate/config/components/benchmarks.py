"""Benchmarks: items, prompt template, metric; one each."""

from __future__ import annotations

from vlm_ablate.registry import Registry

benchmarks: Registry = Registry("benchmark")

_PKG = "vlm_ablate.evaluation.benchmarks"
