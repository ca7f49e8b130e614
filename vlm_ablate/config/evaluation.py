"""The evaluation section: which benchmarks, how many shots, how demonstrations are drawn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vlm_ablate.config.base import Strict, component
from vlm_ablate.registry import benchmarks


class BenchmarkEntry(Strict):
    """One benchmark and how it is asked."""

    benchmark: component(benchmarks)  # type: ignore[valid-type]
    split: Literal["train", "tune", "report"] = "report"
    """Splits are named by use: sweeps look at tune, tables at report."""
    limit: int | None = Field(None, gt=0)
    """The first so many items of the split's fixed order; None: all."""
    shots: int | None = Field(None, ge=0)
    """In-context demonstrations; None: the section's value."""


class Demonstrations(Strict):
    """How in-context examples are chosen from the train split."""

    selection: Literal["random", "nearest"] = "random"
    """"nearest" ranks by image features (RICES)."""
    seed: int = 0
    pool: int | None = Field(2048, gt=0)
    """Items of the train split that demonstrations come from, drawn once with the seed; None: all of them."""


class Curve(Strict):
    """Cheap scores along the way, on the tune split: the paper's figures of score against what was seen."""

    points: int = Field(gt=0)
    """Evenly spaced over all stages; the last point is the end of training."""
    limit: int = Field(50, gt=0)
    """Items of each benchmark."""
    benchmarks: list[str] = Field(default_factory=list)
    """Columns that are scored; empty: all."""


class EvaluationConfig(Strict):
    """What a trained model is scored on."""

    benchmarks: dict[str, BenchmarkEntry] = Field(min_length=1)
    """Column name -> benchmark."""
    shots: int = Field(4, ge=0)
    demonstrations: Demonstrations = Demonstrations()
    batch_size: int = Field(32, gt=0)
    """Prompts generated together; greedy answers do not depend on it."""
    blind: bool = True
    """Also score with every image withheld: the blind floor."""
    ceiling: bool = False
    """Also score with the pictures told in words in place of the images; for benchmarks that know their pictures."""
    curve: Curve | None = None
    """Scores along the way; None: none."""

    @model_validator(mode="after")
    def _curve_names_columns(self) -> EvaluationConfig:
        for name in self.curve.benchmarks if self.curve else ():
            if name not in self.benchmarks:
                raise ValueError(f"curve names benchmark {name!r}; the columns are {', '.join(self.benchmarks)}")
        return self
