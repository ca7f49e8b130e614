"""The evaluation section: which benchmarks, how many shots, how demonstrations are drawn."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from vlm_ablate.config.base import Strict, added, component
from vlm_ablate.config.data import ImageConfig, Preparation, PromptFormat
from vlm_ablate.registry import benchmarks


class BenchmarkEntry(Strict, decides="score"):
    """One benchmark and how it is asked."""

    benchmark: component(benchmarks)  # type: ignore[valid-type]  # made at run time
    split: Literal["train", "tune", "report"] = "report"
    """Splits are named by use: sweeps look at tune, tables at report."""
    limit: int | None = Field(None, gt=0)
    """The first so many items of the split's fixed order; None: all."""
    shots: int | None = Field(None, ge=0)
    """In-context demonstrations; None: the section's value."""
    image: ImageConfig | None = None
    """How its images are prepared; what is not written is the section's (in a run's configuration all is there)."""


class Demonstrations(Strict, decides="score"):
    """How in-context examples are chosen from the train split."""

    selection: Literal["random", "nearest", "fixed"] = "random"
    """"random": each item has its own. "nearest" ranks by image features (RICES). "fixed": all items have the same,
    drawn once with the seed; a protocol of its own, whose scores stand in no column with others."""
    seed: int = 0
    pool: int | None = Field(2048, gt=0)
    """Items of the train split that demonstrations come from, drawn once with the seed; None: all of them."""


class Curve(Strict, decides="score"):
    """Cheap scores along the way, on the tune split: the paper's figures of score against what was seen."""

    points: int = Field(gt=0)
    """Evenly spaced over the steps of each stage; the last of a stage is its end."""
    limit: int = Field(50, gt=0)
    """Items of each benchmark."""
    benchmarks: list[str] = Field(default_factory=list)
    """Columns that are scored; empty: all."""


class EvaluationConfig(Strict, decides="score"):
    """What a trained model is scored on."""

    benchmarks: dict[str, BenchmarkEntry] = Field(min_length=1)
    """Column name -> benchmark."""
    image: ImageConfig = ImageConfig()
    """How images are prepared; what is not written is the last stage's, where images grow (`climb`) that of its end."""
    prompt: PromptFormat = "plain"
    """Prompt format; default: the last stage's."""
    shots: int = Field(4, ge=0)
    demonstrations: Demonstrations = Demonstrations()
    blind: bool = True
    """Also score with every image withheld: the blind floor."""
    ceiling: bool = False
    """Also score with the pictures told in words in place of the images; for benchmarks that know their pictures."""
    curve: Curve | None = None
    """Scores along the way; None: none."""
    precision: Literal["fp32", "bf16"] | None = added(None)
    """What scores are computed in; None: as the last stage trains, or fp32 where nothing is trained."""

    @property
    def curve_columns(self) -> tuple[str, ...]:
        """Columns that a point along the way has."""
        return tuple((self.curve.benchmarks if self.curve else ()) or self.benchmarks)

    def along_the_way(self, column: str) -> BenchmarkEntry:
        """How a point of the curve asks one benchmark: the first items of the tune split."""
        assert self.curve is not None
        return self.benchmarks[column].model_copy(update={"split": "tune", "limit": self.curve.limit})

    @model_validator(mode="after")
    def _columns_have_names_of_their_own(self) -> EvaluationConfig:
        """None that means another thing in a table, or (see `tracking/answers.py`) in its file of answers."""
        if "mean" in self.benchmarks:
            raise ValueError('no column can have the name "mean": so the mean of all columns is called')
        for name in self.benchmarks:
            if re.search(r" \((blind|\d+)\)$", name):
                raise ValueError(f"column {name!r}: a name cannot end in (blind) or in a number in brackets")
        return self

    @model_validator(mode="after")
    def _curve_names_columns(self) -> EvaluationConfig:
        for name in self.curve.benchmarks if self.curve else ():
            if name not in self.benchmarks:
                raise ValueError(f"curve names benchmark {name!r}; the columns are {', '.join(self.benchmarks)}")
        return self

    def unfilled_tiles(self) -> dict[tuple[str, ...], str]:
        """Path below this section of a size that tiles do not fill -> why not; what a column takes over is told once.

        Validation lets them pass: so the image processors of some released checkpoints have them.
        """
        found: dict[tuple[str, ...], str] = {("image", "size"): self.image.unfilled}
        for name, entry in self.benchmarks.items():
            if entry.image is not None and entry.image.unfilled != self.image.unfilled:
                found["benchmarks", name, "image", "size"] = entry.image.unfilled
        return {path: why for path, why in found.items() if why}

    def preparation(self, column: str) -> Preparation:
        """How images and prompts of one benchmark are prepared."""
        return Preparation(image=self.benchmarks[column].image or self.image, prompt=self.prompt)
