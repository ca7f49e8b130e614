"""What an export says of a run, from what the run left on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.runs.disk import score_record, write_results
from tests.tracking.specs import make_spec
from vlm_ablate.home import Home
from vlm_ablate.runs.export import origin_of
from vlm_ablate.runs.find import FinishedRun
from vlm_ablate.runs.keys import ScoreKey


def test_what_a_run_was_scored_on_is_not_called_what_it_was_trained_on(tmp_path: Path) -> None:
    spec, home = make_spec(), Home(tmp_path).prepare(0)

    def record(key: ScoreKey, score: float) -> dict[str, Any]:
        return score_record(key, score) | {"licences": [{"name": "photos", "licence": "CC-BY-4.0"}]}

    results = write_results(spec, home, record=record, licences=[{"name": "drawings", "licence": "CC0-1.0"}])
    told = dict(origin_of(FinishedRun(spec, results)).sections)["Licences"]
    trained, _, scored = told.partition("Scored on:")
    assert "Trained on:" in trained and "| drawings | CC0-1.0 |" in trained and "photos" not in trained
    assert "| photos | CC-BY-4.0 |" in scored and "drawings" not in scored


def test_what_a_run_was_trained_on_that_this_one_started_from_is_told_too(tmp_path: Path) -> None:
    home, stage = Home(tmp_path).prepare(0), {"steps": 10, "batch_size": 4}
    first = write_results(make_spec("first", stages={"a": stage, "b": stage}), home, licences=[{"name": "web"}])
    before = first.stages[0]
    before.end({"status": "finished", "licences": [{"name": "captions"}]})
    start = {"id": "run:first", "type": "run", "stage": first.stages[-1].root.name, "sha256": "1"}
    for number, told in enumerate((start, {"connector": start}, {"id": "hub/model", "type": "llava"})):
        spec = make_spec(f"later{number}")
        results = write_results(spec, home, licences=[{"name": "questions"}], init_from=told)
        text = dict(origin_of(FinishedRun(spec, results)).sections)["Licences"]
        known = [name for name in ("questions", "web", "captions") if f"| {name} |" in text]
        assert known == (["questions", "web", "captions"] if number < 2 else ["questions"])
