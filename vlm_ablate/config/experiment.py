"""An experiment file: one base, arms as small diffs of it, the paper's cells they stand for, and the table to print."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from vlm_ablate.config.base import Strict
from vlm_ablate.config.run_config import RunConfig, RunStage

__all__ = ["Arm", "Claim", "Experiment", "PaperRef", "RunConfig", "RunStage", "Seeds", "TableConfig"]


class Seeds(Strict):
    """Seeds of one run; by default all follow from its number."""

    init: int
    data: int
    dropout: int


class PaperRef(Strict):
    """The table of a paper that an experiment regenerates."""

    key: str
    """Id of the table in the package's paper files, e.g. idefics2_t03."""


class Arm(Strict):
    """One arm: a label, the paper's cell, and the fields it changes."""

    label: str | None = None
    cell: dict[str, Any] | None = None
    """Columns of the paper's row that this arm stands for, enough to name one row."""
    set: dict[str, Any] = Field(default_factory=dict)
    """A nested mapping merged over the base, or dotted paths."""
    note: str | None = None


class Claim(Strict):
    """A claim of the paper about two arms, judged from the runs."""

    text: str
    better: str
    """Arm that the paper finds better (or, with `relation: no_worse`, not worse)."""
    worse: str
    relation: Literal["better", "similar"] = "better"
    metric: str = "mean"
    """Column on which the claim is judged; "mean" is the unweighted mean of the benchmarks."""
    paper_gain: float | None = None


class TableConfig(Strict):
    """What the table shows."""

    columns: list[str] = Field(default_factory=list)
    """Columns of the paper to repeat beside ours; empty: all."""
    score: str = "avg_score"
    """The paper's score column."""
    claims: list[Claim] = Field(default_factory=list)


class Experiment(RunConfig):
    """A whole experiment file after `base:` inheritance: the base of its arms, and what they are."""

    name: str
    """Names the MLflow experiment, e.g. idefics2/t03_architecture."""
    title: str
    question: str = ""
    """What the ablation asks, in one sentence."""
    paper: PaperRef | None = None
    plugins: list[str] = Field(default_factory=list)
    """Modules to import first, for parts that are registered there."""
    factor: list[str] = Field(default_factory=list)
    """Dotted paths that arms are meant to differ in; other differences are warned about."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(default_factory=lambda: [0, 1, 2], min_length=1)
    data: dict[str, Any] = Field(default_factory=dict)
    """What every stage trains on that does not say otherwise in a `data` of its own."""
    arms: dict[str, Arm] = Field(min_length=1)
    table: TableConfig = TableConfig()

    @field_validator("name")
    @classmethod
    def _is_no_path(cls, name: str) -> str:
        """A name becomes part of paths: nothing in it leads out of a folder."""
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", name):
            raise ValueError(f"{name!r} is no name: words of letters, digits and -_. with / between, e.g. mine/depth")
        return name
