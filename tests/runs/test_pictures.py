"""Pictures on the disk that cannot be used, or change: each is told, and counted once, by whichever process."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from training.squares import STAGE, make_spec, square

from tests.runs.executed import last_record, stages
from vlm_ablate.data.dataset import build_mixtures
from vlm_ablate.events import Notice, StageFinished, StepDone
from vlm_ablate.home import Home
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.spec import RunSpec

ROWS, BROKEN = 10, {2, 5, 6}


@pytest.fixture
def spec(parts: Path, tmp_path: Path) -> RunSpec:
    """Rows that are pictures beside a list of them, the home below the same folder."""
    rows = []
    for i in range(ROWS):
        colour, ref = square(i)
        if i not in BROKEN:
            ref.load().save(tmp_path / f"{i}.png")
        rows.append(json.dumps({"image": f"{i}.png", "text": colour}))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    source = {"name": "pairs", "id": str(tmp_path / "rows.jsonl")}
    asked = {"align": STAGE | {"steps": 8}, "tune": STAGE | {"steps": 4}}
    return make_spec(parts, source=source, stages=asked, execution={"max_skipped": 1.0, "workers": 1})


def expected(spec: RunSpec) -> list[int]:
    """Of each stage, by walking along the order of its samples."""
    config, start, counts = spec.config, 0, []
    mixtures = build_mixtures({name: stage.data for name, stage in config.stages.items()}, spec.seeds.data)
    for name, stage in config.stages.items():
        count = 0
        for index in range(start, start := start + stage.steps * stage.batch_size):
            row = mixtures[name][index][1]
            while row % ROWS in BROKEN:
                row, count = row + 1, count + 1
        counts.append(count)
    return counts


def counted(home: Home, spec: RunSpec) -> list[int]:
    return [int((stage.outcome() or {})["skipped"]) for stage in stages(home, spec)]


def test_each_is_counted_once_however_often_the_run_was_stopped(
    spec: RunSpec, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm_ablate.training.callbacks.Monitor.event_interval", 0.0)
    at, notices = 3, []

    def stop(event: object) -> None:
        if isinstance(event, Notice):
            notices.append(event.message)
        if isinstance(event, StepDone) and event.step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    for at in (3, 5, 10):
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {at}"):
            execute(spec, home=home, reporter=stop)
    at = -1
    outcome = execute(spec, home=home, reporter=stop)
    assert outcome.status == "finished", outcome
    wanted = expected(spec)
    assert counted(home, spec) == wanted and min(wanted) > 0
    assert last_record(home, spec).metrics["data/skipped"] == sum(wanted)
    samples = STAGE["batch_size"] * 4 + wanted[1]
    assert f"{wanted[1]} of {samples} samples cannot be used; others took their place" in " ".join(notices)


@pytest.mark.parametrize(("long", "stages"), [(1e9, ["align"]), (-1.0, ["align", "tune"])], ids=["quick", "slow"])
def test_a_picture_that_changes_while_the_run_goes_on_fails_it(
    spec: RunSpec, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: float, stages: list[str]
) -> None:
    """Also where looking at the files takes long, so that the stage after it goes by what was seen before."""
    monkeypatch.setattr("vlm_ablate.runs.fingerprints._LONG", long)
    monkeypatch.setattr("vlm_ablate.runs.fingerprints._REST", 1e9)

    def change(event: object) -> None:
        if isinstance(event, StageFinished) and event.stage == "align":
            square(99)[1].load().save(tmp_path / "0.png")

    outcome = execute(spec, home=home, reporter=change)
    assert outcome.status == "failed" and outcome.scores == {}
    changed = ", ".join(f"files of data {stage}.squares" for stage in stages)
    assert outcome.message.startswith(f"changed on the disk while the run went on: {changed};")
    assert execute(spec, home=home).status == "finished"
