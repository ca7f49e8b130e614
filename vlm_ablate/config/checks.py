"""Checks of an experiment file that go beyond types: every name it mentions must exist."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vlm_ablate.config.compose import flatten
from vlm_ablate.config.document import Path_
from vlm_ablate.config.places import is_mapping, unknown_key
from vlm_ablate.config.problems import Where, dotted
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.config.scale import Scale
from vlm_ablate.config.shared_data import SECTIONS, composed, spread
from vlm_ablate.errors import Problem, nearest


def check_arms_exist(data: dict[str, Any], where: Where) -> list[Problem]:
    """At least one arm, and every arm is a mapping."""
    arms = data.get("arms")
    if not isinstance(arms, dict):
        return []  # reported by the schema
    return [
        _problem(where, ("arms", str(name)), "must be a mapping of keys") for name, arm in arms.items() if arm is None
    ]


def check_claims(data: dict[str, Any], where: Where) -> list[Problem]:
    """Claims name arms and columns that exist."""
    problems: list[Problem] = []
    arms = _mapping(data, "arms")
    columns = ["mean", *_columns(data)]
    claims = _mapping(data, "table").get("claims")
    for i, claim in enumerate(claims if isinstance(claims, list) else []):
        for path, arm in _claimed(claim) if isinstance(claim, dict) else ():
            if isinstance(arm, str) and arm not in arms:
                message = f"no arm {arm!r}; the arms are {', '.join(map(str, arms))}"
                at = ("table", "claims", str(i), *path)
                problems.append(_problem(where, at, message, nearest(arm, map(str, arms))))
        metric = claim.get("metric", "mean") if isinstance(claim, dict) else "mean"
        if isinstance(metric, str) and metric not in columns:
            message = f"no column {metric!r}; the columns are {', '.join(columns)}"
            problems.append(_problem(where, ("table", "claims", str(i), "metric"), message, nearest(metric, columns)))
    return problems


def _claimed(claim: dict[str, Any]) -> list[tuple[Path_, Any]]:
    """(path below the claim, arm) of what a claim names."""
    order = claim.get("order")
    steps = [(("order", str(i)), arm) for i, arm in enumerate(order)] if isinstance(order, list) else []
    return [*((("better",), claim.get("better")), (("worse",), claim.get("worse"))), *steps]


def check_cells(data: dict[str, Any], where: Where) -> list[Problem]:
    """The paper's table exists, and every arm's cell names exactly one of its rows."""
    from vlm_ablate.papers import CellError, find_row, table, table_keys

    key = _mapping(data, "paper").get("key")
    if not isinstance(key, str):
        cells = [n for n, arm in _mapping(data, "arms").items() if isinstance(arm, dict) and arm.get("cell")]
        if "paper" in data:
            return []
        shown = [name for name in ("columns", "score", "paired", "published") if name in _mapping(data, "table")]
        told: list[tuple[Path_, str]]
        told = [(("arms", str(n), "cell"), "stands for a cell, but the file names no paper table") for n in cells]
        told += [(("table", n), "is of a paper's table, but the file names none in paper.key") for n in shown]
        return [_problem(where, at, message) for at, message in told]
    if key not in table_keys():
        message = f"no table {key!r} in the paper files"
        return [_problem(where, ("paper", "key"), message, nearest(key, table_keys()))]
    problems: list[Problem] = []
    for name, arm in _mapping(data, "arms").items():
        cell = arm.get("cell") if isinstance(arm, dict) else None
        if isinstance(cell, dict):
            try:
                find_row(key, cell)
            except CellError as error:
                at = ("arms", str(name), "cell", *((error.column,) if error.column else ()))
                problems.append(_problem(where, at, error.message, error.nearest))
    return problems + _check_columns(data, where, list(table(key).columns))


def check_paired(data: dict[str, Any], where: Where) -> list[Problem]:
    """Columns that stand beside one of the paper are the experiment's."""
    columns = _columns(data)
    return [
        _problem(where, ("table", "paired", str(ours)), f"no column {ours!r}; the columns are {', '.join(columns)}",
                 nearest(str(ours), columns))
        for ours in _mapping(data, "table", "paired") if ours not in columns
    ]  # fmt: skip


def check_scale_names(data: dict[str, Any], where: Where, known: Collection[str]) -> list[Problem]:
    """What is said of a scale (in `scales`, or in a claim's `untested`) is said of one that there is."""
    named: list[tuple[Path_, Any]] = [(("scales", str(name)), name) for name in _mapping(data, "scales")]
    claims = _mapping(data, "table").get("claims")
    for i, claim in enumerate(claims if isinstance(claims, list) else []):
        at = ("table", "claims", str(i), "untested")
        named += [((*at, str(name)), name) for name in _mapping(claim, "untested")]
    return [
        _problem(where, path, f"no scale {name!r}; known: {', '.join(sorted(known))}", nearest(str(name), known))
        for path, name in named
        if name not in known
    ]


def check_scale_paths(scale: Scale, where: Where) -> list[Problem]:
    """The dotted paths of a scale that need not be there in every run are fields that a run may have, and where it
    compares, fields with plain values.

    Args:
        where: of the scale's file.
    """
    named: list[tuple[Path_, str]] = [(("values", path), path) for path in scale.values]
    for i, tuned in enumerate(scale.tuned):
        named += [(("tuned", str(i), key, path), path) for key in ("when", "set") for path in getattr(tuned, key)]
    problems = [problem for at, path in named if (problem := _no_field(where, at, path))]
    compared: list[tuple[Path_, str]] = [(("values", p), p) for p, ours in scale.values.items() if set(ours) - {"*"}]
    compared += [(("tuned", str(i), "when", p), p) for i, tuned in enumerate(scale.tuned) for p in tuned.when]
    told = "is a mapping, which no value equals; write the dotted path of a field in it"
    return problems + [
        _problem(where, at, f"{path!r} {told}")
        for at, path in compared
        if is_mapping(spread(tuple(path.split(".")))[0])
    ]


def _no_field(where: Where, at: Path_, path: str) -> Problem | None:
    """The problem of a dotted path, written at `at`, that is no field of a run; None: it is one."""
    place = spread(tuple(path.split(".")))[0]
    found = unknown_key(place)
    if found is None:
        return None
    key, before = place[found.at], ".".join(place[: found.at])
    stand = "" if found.nearest else f"; below {before!r} stand {', '.join(found.known) or 'no keys'}"
    return _problem(where, at, f"{path!r} is no field of a run: {key!r} is unknown{stand}", found.nearest)


def _check_columns(data: dict[str, Any], where: Where, known: list[str]) -> list[Problem]:
    shown = _mapping(data, "table")
    wanted = shown.get("columns")
    asked: list[tuple[Path_, Any]]
    asked = [(("table", "columns", str(i)), c) for i, c in enumerate(wanted if isinstance(wanted, list) else [])]
    asked += [(("table", "score"), shown["score"])] if isinstance(shown.get("score"), str) else []
    asked += [(("table", "paired", str(ours)), theirs) for ours, theirs in _mapping(data, "table", "paired").items()]
    return [
        _problem(
            where, path, f"the paper's table has no column {c!r}; it has {', '.join(known)}", nearest(str(c), known)
        )
        for path, c in asked
        if c not in known
    ]


def check_factor(data: dict[str, Any], where: Where) -> list[Problem]:
    """Declared factors are fields of a run (`*` stands for any name)."""
    factors = data.get("factor")
    if not isinstance(factors, list):
        return []
    base = composed({k: data[k] for k in SECTIONS if isinstance(data.get(k), dict)})
    sections = {section: set(_next_keys(base, section)) for section in SECTIONS}
    problems: list[Problem] = []
    for i, factor in enumerate(factors):
        head, _, rest = str(factor).partition(".")
        at = ("factor", str(i))
        if head not in sections:
            message = f"{factor!r} is no field of a run; they start with {', '.join(sections)}"
            problems.append(_problem(where, at, message, nearest(head, sections)))
        elif rest and rest.split(".")[0] not in {"*", *sections[head]}:
            message = f"{factor!r} is no field of a run; below {head!r} stand {', '.join(sorted(sections[head]))}"
            problems.append(_problem(where, at, message, nearest(rest.split(".")[0], sections[head])))
        elif problem := _no_field(where, at, str(factor)):
            problems.append(problem)
    return problems


def _next_keys(base: dict[str, Any], section: str) -> list[str]:
    from vlm_ablate.config.problems import keys_at

    path = ("stages", "*", "data") if section == "data" else (section,)
    return keys_at(RunConfig, base, path) or sorted(
        {path[1] for path in flatten(base.get(section, {}), (section,)) if path[1:]}
    )


def _problem(where: Where, path: Path_, message: str, near: str | None = None) -> Problem:
    file, shown = where(path)
    return Problem(file, dotted(shown), message, near)


def _columns(data: dict[str, Any]) -> list[str]:
    """The file's columns, without those that it leaves out."""
    return [str(name) for name, entry in _mapping(data, "evaluation", "benchmarks").items() if entry is not None]


def _mapping(data: Any, *path: str) -> dict[Any, Any]:
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else {}
