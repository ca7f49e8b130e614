"""The view of an experiment's runs that the MLflow UI opens with: columns, groups by arm, charts in a fixed order.

MLflow keeps a view that somebody shares as an experiment tag, `mlflow.sharedViewState.KEY`: JSON, deflated, in base64;
an address with `viewStateShareKey=KEY` opens it. Names of its fields are those of MLflow 3; the UI leaves out what it
does not know, and a test in a browser shows that columns and charts appear.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlm_ablate.tracking import schema
from vlm_ablate.tracking.names import safe_name

RUNS_VIEW, COMPARE_VIEW = "vlm-ablate", "vlm-ablate-compare"
"""Keys of the views that this package writes; views that people share have keys of their own."""
_MARK = "deflate;"

_CURVE = schema.curve_metric(schema.MEAN)
_MEAN = schema.score_metric(schema.MEAN)
_RUN_NAME = "attributes.`Run Name`"


def tag(key: str) -> str:
    """Name of the experiment tag that holds the view of that key."""
    return f"mlflow.sharedViewState.{key}"


def query(key: str) -> str:
    """What an address has behind its `?` to open the view of that key."""
    return f"viewStateShareKey={key}"


def runs_view(benchmarks: Iterable[str]) -> dict[str, Any]:
    """The state of the runs page, as MLflow's UI reads it: runs by arm, their scores, curves and sizes.

    Args:
        benchmarks: columns of the scores, in the order in which they are shown.
    """
    scores = _scores(benchmarks)
    charts = [
        *(_bar(name, 0) for name in scores),
        _line(_CURVE, 1, schema.SEEN_IMAGES, "Score against images seen"),
        _line(_CURVE, 1, schema.SEEN_TEXT_TOKENS, "Score against text tokens seen"),
        _line(_CURVE, 1, schema.SEEN_FLOPS, "Score against FLOPs"),
        _line(schema.TRAIN_LOSS, 2),
        _line(schema.TRAIN_GRAD_NORM, 2),
        _line(schema.TRAIN_LR, 2),
        _bar(schema.PARAMS_TRAINABLE, 3),
        _bar(schema.PARAMS_TOTAL, 3),
        _bar(schema.WALL_SECONDS, 3),
    ]
    sections = dict.fromkeys(("Score", "Score during training", "Training", "Model and cost"), 3)
    group = {"mode": "param", "groupByData": schema.PARAM_ARM}
    grouped = {"aggregateFunction": "average", "groupByKeys": [group]}
    return _state(scores, (schema.PARAM_SEED,), charts, sections) | {"groupBy": grouped}


def compare_view(benchmarks: Iterable[str], varied: Sequence[str]) -> dict[str, Any]:
    """The state of a page on which runs are compared: parameters against the mean score, and what differs.

    Args:
        benchmarks: columns of the scores.
        varied: parameters that differ between runs: columns, and axes of parallel coordinates, which leave out a run
            that lacks one of them.
    """
    scores, varied = _scores(benchmarks), list(map(safe_name, varied))
    axes = {"selectedParams": varied, "selectedMetrics": [_MEAN], "showAllRuns": True}
    groups = {"compareGroups": ["Model metrics", "Parameters"], "chartName": "Runs side by side",
              "showChangeFromBaseline": False, "showDifferencesOnly": True, "baselineColumnUuid": ""}  # fmt: skip
    cost = [schema.SEEN_FLOPS, schema.PARAMS_TRAINABLE]
    charts = [
        _chart("PARALLEL", "parallel", 0, axes),
        *(_scatter(metric, 1) for metric in cost),
        *(_bar(name, 1) for name in scores),
        _chart("DIFFERENCE", "difference", 2, groups),
    ]
    return _state(scores, varied, charts, {"Parameters and score": 1, "Score": 3, "Differences": 1})


def sweep_view(benchmarks: Iterable[str], searched: Sequence[str], objective: str = schema.MEAN) -> dict[str, Any]:
    """The state of a sweep's runs page: its trials with their parameters, the best first, and what these did.

    Args:
        benchmarks: columns of the scores.
        searched: parameters of the space, as runs have them.
        objective: column of the score that counts.
    """
    score, searched = safe_name(schema.score_metric(objective)), list(map(safe_name, searched))
    scores = list(dict.fromkeys([score, *_scores(benchmarks)]))
    axes = {"selectedParams": searched, "selectedMetrics": [score], "showAllRuns": True}
    charts = [
        _chart("PARALLEL", "searched", 0, axes),
        *(_scatter(name, 1, kind="PARAM", score=score) for name in searched),
        *(_scatter(metric, 2, score=score) for metric in (schema.SEEN_FLOPS, schema.PARAMS_TRAINABLE)),
        _line(_CURVE, 3),
        _line(schema.TRAIN_LOSS, 3),
    ]
    sections = {"Trials": 1, "Each field": 3, "Cost": 2, "Along the way": 2}
    first = [_column("tags", schema.TRIAL), _column("metrics", score), *(_column("params", name) for name in searched)]
    return _state(scores, (), charts, sections, first=first, order=score)


def _state(
    scores: Sequence[str],
    params: Sequence[str],
    charts: list[dict[str, Any]],
    sections: Mapping[str, int],
    *,
    first: Sequence[str] = (),
    order: str = _MEAN,
) -> dict[str, Any]:
    """The state of a page.

    Args:
        sections: name -> charts in a row.
        first: columns before those of the scores.
        order: metric by which runs stand, the highest first.
    """
    columns = list(dict.fromkeys([*first, *(_column("metrics", name) for name in scores)]))
    columns += [_column("params", name) for name in params]
    columns += [_column("metrics", name) for name in (schema.PARAMS_TRAINABLE, schema.WALL_SECONDS)]
    return {
        "selectedColumns": columns,
        "columnOrder": [_RUN_NAME, *columns],
        "columnWidths": {_RUN_NAME: 330} | dict.fromkeys(columns, 130),  # names of runs differ at their end
        "orderByKey": _column("metrics", order),
        "orderByAsc": False,
        "searchFilter": f"tags.`{schema.KIND}` = '{schema.RUN_KIND}'",  # the run that carries the table has no scores
        "groupBy": None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        "isAccordionReordered": True,  # or the UI sorts the sections by name
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": _section(index), "name": name, "columns": columns_of, "display": True, "isReordered": True}
            for index, (name, columns_of) in enumerate(sections.items())
        ],
    }


def encoded(state: dict[str, Any]) -> str:
    """The value of the tag."""
    text = json.dumps(state, separators=(",", ":")).encode()
    return _MARK + base64.b64encode(zlib.compress(text, 9)).decode()


def decoded(value: str) -> dict[str, Any]:
    """The inverse of `encoded`.

    Raises:
        ValueError: it is no such tag.
    """
    if not value.startswith(_MARK):
        raise ValueError(f"not the tag of a shared view: {value[:40]!r}")
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(value.removeprefix(_MARK))))
    return state


def _scores(benchmarks: Iterable[str]) -> list[str]:
    return [_MEAN, *(safe_name(schema.score_metric(name)) for name in benchmarks)]


def _bar(metric: str, section: int) -> dict[str, Any]:
    return _chart("BAR", metric, section, {"metricKey": metric})


def _scatter(name: str, section: int, *, kind: str = "METRIC", score: str = _MEAN) -> dict[str, Any]:
    """A score of each run against another metric, or (`PARAM`) against a parameter."""
    axes = {"xaxis": {"key": name, "type": kind}, "yaxis": {"key": score, "type": "METRIC"}}
    return _chart("SCATTER", f"scatter {name}", section, axes)


def _line(metric: str, section: int, against: str = "", title: str = "") -> dict[str, Any]:
    """A curve against steps, or against another metric."""
    axis = {"xAxisKey": "metric", "selectedXAxisMetricKey": against} if against else {"xAxisKey": "step"}
    fields = {"metricKey": metric, "selectedMetricKeys": [metric], "useGlobalXaxisKey": False, **axis}
    return _chart("LINE", f"{metric} {against}", section, fields | ({"displayName": title} if title else {}))


def _chart(kind: str, name: str, section: int, fields: dict[str, Any]) -> dict[str, Any]:
    common = {"type": kind, "uuid": f"{RUNS_VIEW} {name}", "metricSectionId": _section(section)}
    return common | {"deleted": False, "isGenerated": False, "runsCountToCompare": 100} | fields


def _section(index: int) -> str:
    return f"{RUNS_VIEW} section {index}"


def _column(kind: str, name: str) -> str:
    """A column as the UI names it."""
    return f"{kind}.`{name}`"
