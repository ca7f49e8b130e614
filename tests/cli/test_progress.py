"""The display of a launch: one line for each end, bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from vlm_ablate.cli import lines, progress
from vlm_ablate.cli.progress import RunDisplay, duration
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.events import (
    EvaluationProgress,
    Event,
    Notice,
    Preparing,
    RunFinished,
    RunStarted,
    StageStarted,
    StepDone,
)
from vlm_ablate.runs.spec import RunSpec, specs_of


def specs() -> list[RunSpec]:
    return specs_of(load_experiment("experiments/idefics2/t03_architecture.yaml"), seeds=[0])[:2]


def show(events: list[Event], *, terminal: bool) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=150)
    with RunDisplay(specs(), console) as display:
        for event in events:
            display(event)
        if display._progress:
            display._progress.refresh()
    return text.getvalue()


def one_run() -> list[Event]:
    spec = specs()[0]
    return [
        RunStarted(spec.id, spec.run_name, spec.arm, 0, steps=300, resumed_step=100),
        StageStarted(spec.id, "pretrain", 0, 1, 300),
        StepDone(spec.id, 150, 300, 1.2345, 2345.0, seconds_left=61),
    ]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_SECONDS", 0)


def test_plain_lines_without_a_terminal() -> None:
    first, second = specs()
    text = show(
        [
            *one_run(),
            EvaluationProgress(first.id, "vqav2", 10, 300),
            RunFinished(first.id, "finished", 41.26, seconds=75),
            RunFinished(second.id, "finished", 40.0, seconds=75, reused=True),
            Notice("", "the store is slow", level="warning"),
        ],
        terminal=False,
    )
    assert text.splitlines() == [
        f"started   {first.run_name}  (300 steps, continuing from step 100)",
        f"finished  {first.run_name}  mean 41.3  in 1 min 15 s",
        f"finished  {second.run_name}  mean 40.0  (recorded earlier)",
        "warning: the store is slow",
    ]


def test_bar_of_a_running_run_on_a_terminal() -> None:
    text = show(one_run(), terminal=True)
    for part in ("all runs", "0/2", "150/300", "loss 1.234", "2.3k tokens/s", "1 min 01 s left"):
        assert part in text


def test_a_long_run_says_now_and_then_how_far_it_is_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = specs()
    assert "150/300" not in show(one_run(), terminal=False)
    monkeypatch.setattr(progress, "INTERVAL", 0)
    lines = show([*one_run(), StepDone(first.id, 200, 300, 1.2, 2300)], terminal=False).splitlines()
    assert any(f"{first.run_name}  200/300  " in line and "loss 1.200" in line for line in lines)


def test_diverged_and_failed_runs_say_why() -> None:
    first, second = specs()
    text = show(
        [RunFinished(first.id, "diverged", message="loss is nan at step 7"),
         RunFinished(second.id, "failed", message="out of memory")],
        terminal=False,
    )  # fmt: skip
    assert f"diverged  {first.run_name}  in 0 s  loss is nan at step 7" in text
    assert f"failed    {second.run_name}  in 0 s  out of memory" in text


def test_preparations_are_shown_before_the_run_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = specs()
    told = [Preparing(first.id, "drawing 900 pictures for maps (train)", done, 900) for done in (256, 512, 900)]
    shown = show(told, terminal=True)
    assert "900/900" in shown and "drawing 900 pictures for maps (train)" in shown
    line = f"preparing {first.run_name}: drawing 900 pictures for maps (train)"
    assert line not in show(told, terminal=False)  # quick ones are not worth a line
    monkeypatch.setattr(progress, "PATIENCE", 0)
    assert show(told, terminal=False).splitlines().count(line) == 1


def test_there_is_a_line_a_second_at_most_and_it_counts_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(lines, "LINE_SECONDS", 1.0)
    monkeypatch.setattr(lines.time, "monotonic", lambda: now[0])
    shown: list[tuple[float, str]] = []
    steady = lines.SteadyLines(lambda text, style: shown.append((now[0], text)))
    for number in range(50):
        steady.add("recorded", f"finished  run {number}  (recorded earlier)")
        now[0] += 0.0625
    steady.add("failed", "failed    run x")
    steady.add("going", "          run y  5/10")
    steady.flush()
    assert [text for _, text in shown] == [
        "finished  run 0  (recorded earlier)",
        "finished  run 1  (recorded earlier)  (and 15 recorded earlier)",
        "finished  run 17  (recorded earlier)  (and 15 recorded earlier)",
        "finished  run 33  (recorded earlier)  (and 15 recorded earlier)",
        "failed    run x  (and 1 recorded earlier)",
    ]
    assert [round(at - shown[0][0], 1) for at, _ in shown] == [0, 1, 2, 3, 3.1]  # the last on the way out
    steady.flush()
    assert len(shown) == 5


def test_no_notice_is_left_out_for_another_line(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(lines, "LINE_SECONDS", 1.0)
    monkeypatch.setattr(lines.time, "monotonic", lambda: now[0])
    shown: list[str] = []
    steady = lines.SteadyLines(lambda text, style: shown.append(text))
    for kind in ("started", "info", "finished", "warning", "failed", "finished"):
        steady.add(kind, kind)
    now[0] += lines.LINE_SECONDS
    steady.tick()
    assert shown == ["started", "failed  (and 2 finished)"]
    steady.flush()
    assert shown[2:] == ["warning", "info"]
    for kind in ("finished", "pruned", "does not fit", "pruned"):
        steady.add(kind, kind)
    steady.flush()
    assert shown[4:] == ["pruned  (and 1 pruned, 1 does not fit, 1 finished)"], "ends of trials are counted, too"


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59.4, 60, 3600, 86399)] == [
        "0 s",
        "59 s",
        "1 min 00 s",
        "1 h 00 min",
        "23 h 59 min",
    ]
