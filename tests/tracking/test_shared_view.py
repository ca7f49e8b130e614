"""The views that the MLflow UI opens with: written as its own pages write them, and known to the installed version."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import mlflow
import pytest

from vlm_ablate.tracking.names import safe_name
from vlm_ablate.tracking.shared_view import (
    COMPARE_VIEW,
    RUNS_VIEW,
    compare_view,
    decoded,
    encoded,
    query,
    runs_view,
    sweep_view,
    tag,
)

BENCHMARKS = ("vqav2", "okvqa", "textvqa", "coco")
SPACE = ("arm", "stages.pretrain.learning_rate", "stages.pretrain.lora.r")
VIEWS = {
    "runs": runs_view(BENCHMARKS),
    "compare": compare_view(BENCHMARKS, ("arm", "seed", "model.connector.latents")),
    "sweep": sweep_view(BENCHMARKS, SPACE, "textvqa"),
}
EXPERIMENT_TAG_LIMIT = 5000
"""Characters of an experiment's tag that MLflow's stores take."""


@cache
def pages() -> str:
    """The code of the installed UI."""
    folder = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js"
    return "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.js"))


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_comes_back_from_its_tag(view: dict[str, object]) -> None:
    assert decoded(encoded(view)) == view


def test_what_is_no_view_is_said_to_be_none() -> None:
    with pytest.raises(ValueError, match="shared view"):
        decoded("{}")


def test_a_view_of_many_benchmarks_and_parameters_fits_into_a_tag() -> None:
    names = [f"benchmark_number_{number}" for number in range(20)]
    assert len(encoded(runs_view(names))) < EXPERIMENT_TAG_LIMIT
    assert len(encoded(compare_view(names, [f"stages.pretrain.field_{n}" for n in range(8)]))) < EXPERIMENT_TAG_LIMIT


def test_a_view_calls_metrics_and_parameters_as_the_store_does() -> None:
    """Which takes hardly any characters but letters and digits."""
    column, field = "vqa (de)", "stages.größe.steps"
    views = runs_view([column]), compare_view([column], [field]), sweep_view([column], [field], column)
    for view in views:
        assert f"metrics.`{safe_name('score/vqa (de)')}`" in str(view) and column not in str(view)
    assert all(f"params.`{safe_name(field)}`" in str(view) and field not in str(view) for view in views[1:])


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_the_installed_ui_knows_every_field_and_chart_of_a_view(view: dict[str, object]) -> None:
    charts, sections = view["compareRunCharts"], view["compareRunSections"]
    assert isinstance(charts, list) and isinstance(sections, list)
    names = {*view, *(name for part in (*charts, *sections) for name in part), *(chart["type"] for chart in charts)}
    missing = sorted(name for name in names if name not in pages())
    assert not missing, f"MLflow {mlflow.__version__} has other names for {missing}: see its shared views"


def test_the_installed_ui_opens_shared_views_by_tag_and_address() -> None:
    prefix, parameter = tag("").removesuffix("."), query("").removesuffix("=")
    assert f'"{prefix}."' in pages() and f'"{parameter}"' in pages(), f"MLflow {mlflow.__version__} shares otherwise"
    assert tag(RUNS_VIEW) != tag(COMPARE_VIEW)


def test_the_mean_comes_first_and_every_benchmark_has_a_column_and_a_chart() -> None:
    view = VIEWS["runs"]
    assert view["selectedColumns"][0] == "metrics.`score/mean`"
    charted = [chart.get("metricKey") for chart in view["compareRunCharts"]]
    for name in ("mean", *BENCHMARKS):
        assert f"metrics.`score/{name}`" in view["selectedColumns"] and f"score/{name}" in charted


def test_trials_stand_with_the_objective_first_and_what_was_searched() -> None:
    view = VIEWS["sweep"]
    first = ["tags.`vlm.trial`", "metrics.`score/textvqa`", *(f"params.`{name}`" for name in SPACE)]
    assert len(view["selectedColumns"]) == len(set(view["selectedColumns"]))
    assert view["selectedColumns"][: len(first)] == first and view["orderByKey"] == "metrics.`score/textvqa`"
    parallel, *scatters = view["compareRunCharts"][: 1 + len(SPACE)]
    assert parallel["type"] == "PARALLEL" and parallel["selectedParams"] == list(SPACE)
    assert parallel["selectedMetrics"] == ["score/textvqa"] and view["groupBy"] is None
    assert [(chart["xaxis"]["key"], chart["xaxis"]["type"]) for chart in scatters] == [(n, "PARAM") for n in SPACE]
