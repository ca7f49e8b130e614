"""Figures and the folder of results."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from vlm_ablate.config.experiment import Arm, Experiment, TableConfig
from vlm_ablate.errors import StorageError, VlmAblateError
from vlm_ablate.reporting import figure_paper, figure_seen, report, write_results
from vlm_ablate.reporting.charts import figure_curve, figure_forest, figure_slope
from vlm_ablate.reporting.figures import _scientific as scientific
from vlm_ablate.reporting.figures import curves, spread_out
from vlm_ablate.reporting.frame import sample_of
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.record_file import load_records
from vlm_ablate.tracking.records import History, Point, RunRecord

Histories = dict[str, History]
BAND = b"PolyCollection"
"""What an SVG calls an area between two lines."""


def test_curves_pool_seeds_at_each_step(experiment: Experiment, runs: list[RunRecord], histories: Histories) -> None:
    found = curves(report(experiment, runs), runs, histories)
    points = found["ca"]
    assert list(found) == list(experiment.arms)
    assert [p.step for p in points] == [67, 133, 200, 267, 333, 400]
    assert {p.score.n for p in points} == {3}
    assert points[-1].seen[schema.SEEN_IMAGES] == 400 * 64
    values = [h["curve/mean"][-1].value for run, h in histories.items() if run.startswith("ca-")]
    assert points[-1].score.mean == pytest.approx(sum(values) / 3)


def test_a_score_without_its_counters_is_not_drawn(experiment: Experiment, runs: list[RunRecord]) -> None:
    history = {"curve/mean": [Point(1, 5.0, 0), Point(2, 6.0, 0)], **{m: [Point(2, 9.0, 0)] for m in schema.SEEN}}
    found = curves(report(experiment, runs), runs, {runs[0].run_id: history})
    assert [p.step for p in found[runs[0].arm]] == [2]


def test_curves_of_runs_beside_the_table_are_left_out(
    experiment: Experiment, runs: list[RunRecord], histories: Histories
) -> None:
    scale = replace(runs[0], run_id="scale", scale="paper", seed=7)
    old = replace(runs[0], run_id="old", tags=runs[0].tags | {schema.RUN: "old"}, start_time=9999)
    records = [*runs, scale, old]
    model = report(experiment, records, "laptop", ids={r.id for r in runs})
    high = {"curve/mean": [Point(400, 99.0, 0)], **{m: [Point(400, 1.0, 0)] for m in schema.SEEN}}
    assert curves(model, records, {**histories, "scale": high, "old": high}) == curves(model, runs, histories)


@pytest.mark.parametrize("draw", ["seen", "paper"])
def test_figures_in_both_formats_are_reproducible(
    draw: str, experiment: Experiment, runs: list[RunRecord], histories: Histories
) -> None:
    model = report(experiment, runs)

    def figure(format: str) -> bytes:
        return figure_seen(model, runs, histories, format) if draw == "seen" else figure_paper(model, format)

    assert figure("png").startswith(b"\x89PNG")
    svg = figure("svg")
    assert svg == figure("svg") and b"<svg" in svg
    assert not re.search(rb"<dc:date>", svg)


def test_one_seed_draws_without_a_band(experiment: Experiment, runs: list[RunRecord], histories: Histories) -> None:
    one = [r for r in runs if r.seed == 0]
    bands = [figure_seen(report(experiment, some), some, histories, "svg").count(BAND) for some in (runs, one)]
    assert bands[0] > 0 == bands[1]


def test_no_axis_tells_of_an_interval_where_there_is_none(experiment: Experiment, runs: list[RunRecord]) -> None:
    def told(some: list[RunRecord]) -> list[bool]:
        model = report(experiment, some)
        drawn = (figure_paper(model, "svg"), figure_forest(model))
        return [b"95 % interval" in svg for svg in drawn]

    assert told(runs) == [True, True]
    assert told([r for r in runs if r.seed == 0]) == [False, False]


def test_no_curve_without_scores_along_the_way(experiment: Experiment, runs: list[RunRecord]) -> None:
    with pytest.raises(VlmAblateError, match="no curves"):
        figure_seen(report(experiment, runs), runs, {})


def test_paper_figure_shows_arms_that_have_no_score(
    experiment: Experiment, runs: list[RunRecord], run: Callable[..., RunRecord]
) -> None:
    mixed = [r for r in runs if r.arm != "ca"] + [run("ca", s, status="diverged") for s in range(3)]
    shown = [figure_paper(report(experiment, some), "svg").count(b"diverged") for some in (runs, mixed)]
    assert shown == [0, 1]


def test_labels_do_not_overlap_and_stay_where_there_is_room() -> None:
    heights = [0.1, 0.1, 0.1, 0.1]
    placed = spread_out([0.5, 0.52, 0.9, 0.51], heights)
    assert placed[2] == pytest.approx(0.9)
    near = sorted(placed[i] for i in (0, 1, 3))
    assert [b - a for a, b in pairwise(near)] == pytest.approx([0.1, 0.1])
    assert sum(near) / 3 == pytest.approx(0.51)
    assert placed[0] < placed[3] < placed[1]


def test_labels_stay_within_the_room_that_there_is() -> None:
    heights = [0.2, 0.1, 0.2, 0.1]
    for wanted in ([0.95, 0.9, 1.0, 1.0], [0.0, 0.05, 0.0, 0.3], [0.5, 0.5, 0.5, 0.5]):
        placed = spread_out(wanted, heights, 0.0, 1.0)
        ends = sorted((y - h / 2, y + h / 2) for y, h in zip(placed, heights, strict=True))
        assert ends[0][0] > -1e-9 and ends[-1][1] < 1 + 1e-9
        assert all(below[1] < above[0] + 1e-9 for below, above in pairwise(ends))
    tight = spread_out([0.9, 0.1], [0.5, 0.5], 0.0, 1.0)
    assert tight == pytest.approx([0.75, 0.25])


def test_no_label_of_a_curve_or_an_order_is_cut(
    experiment: Experiment,
    run: Callable[..., RunRecord],
    history: Callable[[RunRecord], History],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor does one stand over another, however many arms end near the top with names of several lines."""
    told = "A name that takes more lines than one, as names of arms often do, number"
    names = {f"arm_{i}": f"{told} {i}" for i in range(12)}
    cells = [written.cell for written in experiment.arms.values()]
    many = experiment.model_copy(update={
        "arms": {arm: Arm(label=name, cell=cells[i] if i < 5 else None) for i, (arm, name) in enumerate(names.items())},
        "table": TableConfig(claims=[]),
    })  # fmt: skip
    records = [run(arm, seed) for arm in names for seed in range(2)]
    histories = {r.run_id: history(r) for r in records}
    drawn: list[Figure] = []
    monkeypatch.setattr("vlm_ablate.reporting.figures.to_bytes", lambda figure, format: drawn.append(figure) or b"")
    monkeypatch.setattr("vlm_ablate.reporting.charts.to_bytes", lambda figure, format: drawn.append(figure) or b"")
    made = report(many, records)
    figure_seen(made, records, histories)
    figure_curve(made, curves(made, records, histories))
    figure_slope(made)
    for figure in drawn:
        assert not cut_or_covered(figure)


def cut_or_covered(figure: Figure) -> list[str]:
    """Texts of several words of a figure that reach over its edge or into one another."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()
    texts = [t for axes in figure.axes for t in axes.texts] + figure.texts
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts]
    width, height = figure.get_size_inches() * figure.dpi
    over = [text for text, b in boxes if b.x0 < 0 or b.y0 < 0 or b.x1 > width or b.y1 > height]
    return over + [a for (a, box), (b, other) in combinations(boxes, 2) if box.overlaps(other)]


def test_scientific_ticks() -> None:
    assert [scientific(v) for v in (0, 2e13, 2.5e15)] == ["0", "2·10¹³", "2.5·10¹⁵"]


def test_results_folder(tmp_path: Path, experiment: Experiment, runs: list[RunRecord], histories: Histories) -> None:
    folder = tmp_path / "test" / "laptop"
    written = write_results(report(experiment, runs), runs, folder, histories)
    assert sorted(p.name for p in written) == sorted(p.name for p in folder.iterdir())
    assert {p.name for p in written} == {
        *(f"table.{s}" for s in ("md", "tex", "csv", "html", "png")),
        *(f"figure_{n}.{s}" for n in ("seen", "paper") for s in ("png", "svg")),
        "records.json",
    }
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    write_results(report(experiment, runs), runs, folder, histories)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_the_best_arm_s_panel_of_examples_is_kept_and_names_its_run(
    tmp_path: Path, experiment: Experiment, runs: list[RunRecord]
) -> None:
    made, folder = report(experiment, runs), tmp_path / "results"
    panels = {run.run_id: tmp_path / f"{run.run_id}.png" for run in runs}
    for i, panel in enumerate(panels.values()):
        Image.new("RGB", (20, 10), (i, 0, 0)).save(panel)
    best = sample_of(made, runs)
    assert (best.arm, best.seed) == ("ar_lora", 0)
    assert folder / "examples.png" in write_results(made, runs, folder, examples=panels)
    assert load_records(folder / "records.json").examples == {best.run_id: folder / "examples.png"}
    assert Image.open(folder / "examples.png").convert("RGB").getpixel((0, 0)) == (runs.index(best), 0, 0)
    before = (folder / "examples.png").read_bytes()
    write_results(made, runs, folder, examples=panels, again=False)
    assert (folder / "examples.png").read_bytes() == before
    written = (folder / "examples.png").stat().st_mtime_ns
    write_results(made, runs, folder, examples=load_records(folder / "records.json").examples)
    assert (folder / "examples.png").stat().st_mtime_ns == written, "a picture that was kept is not made of itself"
    (folder / "examples.png").write_text("no picture")
    assert load_records(folder / "records.json").examples == {}
    write_results(made, runs, folder, examples=panels, again=False)
    assert (folder / "examples.png").read_bytes() == before


def test_a_panel_is_of_a_run_that_the_table_has(
    tmp_path: Path, experiment: Experiment, runs: list[RunRecord]
) -> None:
    """Of the best arm's runs the first that has one; that of a run which the table has no more goes."""
    made, folder = report(experiment, runs), tmp_path / "results"
    panel = tmp_path / "panel.png"
    Image.new("RGB", (20, 10), (9, 0, 0)).save(panel)
    second = next(run for run in runs if (run.arm, run.seed) == ("ar_lora", 1))
    write_results(made, runs, folder, examples={second.run_id: panel})
    assert [*load_records(folder / "records.json").examples] == [second.run_id]
    write_results(made, runs, folder, again=False)
    assert [*load_records(folder / "records.json").examples] == [second.run_id]
    others = [replace(run, run_id=f"again-{run.run_id}") for run in runs]
    for again in (False, True):
        write_results(report(experiment, others), others, folder, again=again)
        assert not (folder / "examples.png").exists()


def test_tables_can_be_made_again_from_the_records_file(
    tmp_path: Path, experiment: Experiment, runs: list[RunRecord], histories: Histories
) -> None:
    write_results(report(experiment, runs), runs, tmp_path / "first", histories)
    kept = load_records(tmp_path / "first" / "records.json")
    write_results(report(experiment, kept.records), kept.records, tmp_path / "second", kept.histories)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


def test_a_figure_that_the_records_no_longer_hold_goes(
    tmp_path: Path, experiment: Experiment, runs: list[RunRecord], histories: Histories
) -> None:
    write_results(report(experiment, runs), runs, tmp_path, histories)
    write_results(report(experiment, runs), runs, tmp_path)
    assert not (tmp_path / "figure_seen.png").exists()
    assert (tmp_path / "figure_paper.png").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path, experiment: Experiment, runs: list[RunRecord]) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot create"):
        write_results(report(experiment, runs), runs, tmp_path / "file" / "laptop")
