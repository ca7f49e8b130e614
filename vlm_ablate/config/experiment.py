"""An experiment file: one base, arms as small diffs of it, the paper's cells they stand for, and the table to print."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from vlm_ablate.config.base import FieldError, Strict
from vlm_ablate.config.run_config import RunConfig, RunStage

__all__ = ["Arm", "Claim", "Experiment", "PaperRef", "RunConfig", "RunStage", "Seeds", "TableConfig", "Tuned"]


class Seeds(Strict):
    """Seeds of one run; by default all follow from its number."""

    init: int
    data: int
    dropout: int


class PaperRef(Strict):
    """The table of a paper that an experiment regenerates."""

    key: str
    """Id of the table in the package's paper files, e.g. idefics2_t03."""


class Tuned(Strict):
    """Where an arm's values come from: a trial of a sweep. They hold at the scale of the sweep and at no other."""

    sweep: str
    """Study that found them."""
    trial: int
    scale: str
    objective: str = "mean"
    score: float | None = None
    """Of the trial, on the tune split."""
    seeds: int | None = None
    """Of the trial."""
    revision: str | None = None
    """Of the code that ran it."""
    set: dict[str, Any]
    """Dotted fields, put over what the scale made of the arm."""


class Arm(Strict):
    """One arm: a label, the paper's cell, and the fields it changes."""

    label: str | None = None
    cell: dict[str, Any] | None = None
    """Columns of the paper's row that this arm stands for, enough to name one row."""
    set: dict[str, Any] = Field(default_factory=dict)
    """A nested mapping merged over the base, or dotted paths."""
    note: str | None = None
    tuned: Tuned | None = None
    """Written by `sweep apply`."""


class Claim(Strict):
    """A claim of the paper, judged from the runs: a difference of two arms, or an order of several.

    Either `better` and `worse`, or `order`: two arms or more, the best first, each better than the next. With
    `relation: similar` all neighbours of the order lie within the margin.
    """

    text: str
    better: str | None = None
    """Arm that the paper finds better (or, with `relation: similar`, one of the two that hardly differ)."""
    worse: str | None = None
    order: list[str] | None = None
    """Arms from the best to the worst, in place of `better` and `worse`."""
    relation: Literal["better", "similar"] = "better"
    metric: str = "mean"
    """Column on which the claim is judged; "mean" is the unweighted mean of the benchmarks."""
    margin: float | None = Field(None, gt=0)
    """Points within which two arms count as similar; None: one point, what the Idefics2 paper takes for noise."""
    paper_gain: float | None = None
    """What the paper states, better - worse; None: the difference in its own table."""
    source: str = ""
    """Where the paper says so, e.g. `section 3.2, finding 2`."""
    untested: dict[str, str] = Field(default_factory=dict)
    """Scale -> why its runs say nothing of the claim: what stands in for the arms there does not differ in what it is
    about. Decided from the stand-ins, never from scores."""

    @model_validator(mode="after")
    def _is_pair_or_order(self) -> Claim:
        pair = self.better is not None and self.worse is not None
        if pair == (self.order is not None) or (self.better is None) != (self.worse is None):
            raise ValueError("a claim has `better` and `worse`, or `order`: two arms or more, the best first")
        if self.order is not None:
            if len(self.order) < 2 or len(set(self.order)) < len(self.order):
                raise FieldError(("order",), "two different arms or more, the best first")
            if self.paper_gain is not None and len(self.order) > 2:
                raise FieldError(("paper_gain",), "one number for several steps; the paper's table has each")
        elif self.better == self.worse:
            raise FieldError(("worse",), "an arm is not compared with itself")
        if self.margin is not None and self.relation != "similar":
            raise FieldError(("margin",), "only `relation: similar` has a margin")
        return self

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms it is about, the best first."""
        return tuple(self.order) if self.order is not None else (self.better or "", self.worse or "")


class TableConfig(Strict):
    """What the table shows."""

    columns: list[str] = Field(default_factory=list)
    """Columns of the paper to repeat beside ours; empty: all."""
    score: str = "avg_score"
    """The paper's score column: what our mean is printed beside."""
    paired: dict[str, str] = Field(default_factory=dict)
    """Our column -> the paper's column that it stands beside, where their names differ, e.g. {docvqa: docvqa_test}."""
    published: bool = False
    """Also show the paper's rows that no arm stands for, as published."""
    claims: list[Claim] = Field(default_factory=list)

    def paper_column(self, column: str) -> str:
        """The paper's name of one of our columns ("mean": its score column)."""
        return self.score if column == "mean" else self.paired.get(column, column)


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
    scales: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Name of a scale -> what this experiment needs there beside the scale's file, in that file's words: the
    counterpart of a value that only this experiment varies, or other material."""
    table: TableConfig = TableConfig()

    @field_validator("seeds")
    @classmethod
    def _are_different(cls, seeds: list[int]) -> list[int]:
        """A seed that is there twice is one run, and no second replication."""
        if twice := [seed for seed, count in Counter(seeds).items() if count > 1]:
            raise ValueError(f"{', '.join(map(str, twice))} is there twice; each seed is one run")
        return seeds

    @field_validator("name")
    @classmethod
    def _is_no_path(cls, name: str) -> str:
        """A name becomes part of paths: nothing in it leads out of a folder."""
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", name):
            raise ValueError(f"{name!r} is no name: words of letters, digits and -_. with / between, e.g. mine/depth")
        return name
