"""The papers' tables as data: what an arm stands for, and the numbers that ours are printed beside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cache
from importlib.resources import files
from typing import Any

from vlm_ablate.errors import UnknownNameError, VlmAblateError, nearest

PAPERS = ("idefics2", "idefics3")


class CellError(VlmAblateError):
    """A cell that names no row of the paper's table, or more than one."""

    exit_code = 2

    def __init__(self, message: str, *, column: str | None = None, near: str | None = None) -> None:
        super().__init__(message, hint=f"did you mean {near!r}?" if near else None)
        self.column, self.nearest = column, near


@dataclass(frozen=True)
class PaperTable:
    """One table of a paper: facts only, scores in percent points (CIDEr for COCO)."""

    key: str
    paper: str
    title: str
    arxiv: str
    number: str
    caption: str
    varies: str
    metric: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    held_fixed: dict[str, Any] = field(default_factory=dict)
    finding: str = ""
    source: tuple[str, ...] = ()
    notes: Any = None


def regenerated(paper: PaperTable, experiment: str) -> str:
    """What of the paper an experiment is, e.g. `Table 3`.

    One of the name `f04_...` is Figure 4, whose numbers are those of the table.
    """
    figure = re.match("f0*([1-9][0-9]*)_", experiment.rpartition("/")[2])
    return f"Figure {figure[1]}" if figure else paper.number


def table_keys() -> list[str]:
    """Keys of all tables, in the order of the papers."""
    return [key for paper in PAPERS for key in _tables(paper)]


def table(key: str) -> PaperTable:
    """The table with that key, e.g. `idefics2_t03`.

    Raises:
        UnknownNameError: no such table.
    """
    for paper in PAPERS:
        if key.startswith(f"{paper}_") and key in _tables(paper):
            return _tables(paper)[key]
    raise UnknownNameError("paper table", key, table_keys())


def find_row(key: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    """The one row of table `key` whose columns equal those of `cell`.

    Raises:
        UnknownNameError: no such table.
        CellError: a column that the table does not have, no such row (the nearest is named), or several.
    """
    found = table(key)
    for column in cell:
        if column not in found.columns:
            message = f"{found.number} ({key}) has no column {column!r}; it has {', '.join(found.columns)}"
            raise CellError(message, column=str(column), near=nearest(str(column), found.columns))
    rows = [row for row in found.rows if all(_same(row.get(column), value) for column, value in cell.items())]
    if len(rows) == 1:
        return rows[0]
    if rows:
        apart = [c for c in found.columns if c not in cell and len({str(r.get(c)) for r in rows}) > 1]
        raise CellError(f"{_show(cell)} names {len(rows)} rows of {key}; add one of {', '.join(apart)}")
    near = min(found.rows, key=lambda row: sum(_distance(value, row.get(column)) for column, value in cell.items()))
    raise CellError(f"{found.number} ({key}) has no row {_show(cell)}", near=_show({c: near.get(c) for c in cell}))


@cache
def _tables(paper: str) -> dict[str, PaperTable]:
    import yaml

    text = files(__package__).joinpath(f"{paper}.yaml").read_text(encoding="utf-8")
    data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {
        key: PaperTable(
            key=key,
            paper=paper,
            title=data["title"],
            arxiv=data["arxiv"],
            number=body["number"],
            caption=body["caption"],
            varies=body["varies"],
            metric=body["metric"],
            columns=tuple(body["columns"]),
            rows=tuple(dict(row) for row in body["rows"]),
            held_fixed=body.get("held_fixed", {}),
            finding=body.get("finding", ""),
            source=tuple(body.get("source", ())),
            notes=body.get("notes"),
        )
        for key, body in data["tables"].items()
    }


def _same(ours: Any, theirs: Any) -> bool:
    return ours == theirs or str(ours).casefold() == str(theirs).casefold()


def _distance(ours: Any, theirs: Any) -> float:
    """0 for equal, up to 1: relative difference of numbers, dissimilarity of texts."""
    if isinstance(ours, int | float) and isinstance(theirs, int | float):
        return abs(ours - theirs) / max(abs(ours), abs(theirs), 1)
    return 1 - SequenceMatcher(None, str(ours).casefold(), str(theirs).casefold()).ratio()


def _show(cell: Mapping[str, Any]) -> str:
    return ", ".join(f"{column}: {value}" for column, value in cell.items())
