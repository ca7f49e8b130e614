"""Scorers, one file each. `metrics["anls"]` gives an instance; classes are imported when first asked for."""

from __future__ import annotations

from importlib import import_module

from vlm_ablate.errors import UnknownNameError
from vlm_ablate.evaluation.metrics.base import ItemScore, Metric, MetricResult

__all__ = ["ItemScore", "Metric", "MetricRegistry", "MetricResult", "metrics"]


class MetricRegistry:
    """Exact name -> metric. A duplicate raises; an unknown name lists what exists and the nearest."""

    def __init__(self) -> None:
        self._targets: dict[str, str | type[Metric]] = {}

    def declare(self, name: str, target: str | type[Metric]) -> None:
        """Add a metric class, or its import path `package.module:Class`.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._targets:
            raise ValueError(f"metric {name!r} is registered twice")
        self._targets[name] = target

    def register(self, cls: type[Metric]) -> type[Metric]:
        """Class decorator for plug-ins; the name is the class's own."""
        self.declare(cls.name, cls)
        return cls

    def __getitem__(self, name: str) -> Metric:
        """A new instance of the metric.

        Raises:
            UnknownNameError: no metric has that name.
        """
        if name not in self._targets:
            raise UnknownNameError("metric", name, self._targets)
        target = self._targets[name]
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            target = getattr(import_module(module), attribute)
        return target()

    def __contains__(self, name: object) -> bool:
        return name in self._targets

    def names(self) -> list[str]:
        """All names, in order of registration."""
        return list(self._targets)


metrics = MetricRegistry()
for _name, _target in {
    "vqa_accuracy": "vqa_accuracy:VqaAccuracy",
    "anls": "anls:Anls",
    "anls_docvqa": "anls:DocVqaAnls",
    "cider": "cider:Cider",
    "relaxed_accuracy": "relaxed_accuracy:RelaxedAccuracy",
    "exact_match": "exact_match:ExactMatch",
    "multiple_choice": "multiple_choice:MultipleChoice",
}.items():
    metrics.declare(_name, f"{__name__}.{_target}")
