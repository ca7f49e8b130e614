"""Two who want the same run: one computes it, the other waits or stops without writing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

from training.squares import make_spec

from tests.runs.executed import assert_same_result, stages
from vlm_ablate.events import Notice, RunStarted, StepDone
from vlm_ablate.home import Home
from vlm_ablate.lease import Lease
from vlm_ablate.lease_files import Owner
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.folder import StageFolder, run_folder
from vlm_ablate.runs.outcome import note_from_outside
from vlm_ablate.runs.publishing import publish_missing
from vlm_ablate.runs.train import StageRunner
from vlm_ablate.tracking.read import read_records
from vlm_ablate.training.interruption import Interruption

STOPPED = """
    import os, signal
    from pathlib import Path
    from training.squares import make_spec
    from vlm_ablate.events import StepDone
    from vlm_ablate.home import Home
    from vlm_ablate.runs.execute import execute
    from vlm_ablate.training.callbacks import Monitor
    Monitor.event_interval = 0.0
    def pause(event):
        if isinstance(event, StepDone) and event.step == 9:
            print("stops", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
    outcome = execute(make_spec(Path({parts!r}), curve={{"points": 2, "limit": 4}}), home=Home(Path({home!r})),
                      reporter=pause)
    print(outcome.status, outcome.message, flush=True)
"""


def just_renewed(file: Path) -> None:
    """Have a lease last for its whole time from the first look at it, whenever that is."""
    os.utime(file, (time.time() + 3600,) * 2)


def left_by(folder: Path, token: int, **owner: object) -> None:
    """The lease of a process that did not give it back."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {"host": "afar", "pid": 7, "started": 1, "system": "another", "id": "x", "ttl": 1.0}
    (folder / f".lease-{token}").write_text(json.dumps(asdict(Owner(**(known | owner)))))
    just_renewed(folder / f".lease-{token}")


def test_who_does_not_hold_a_stage_leaves_its_checkpoints_alone(parts: Path, home: Home) -> None:
    """Its holder looks whether they are whole, puts damaged ones aside and says so."""
    spec, events = make_spec(parts), []
    runner = StageRunner(spec, home, *[SimpleNamespace()] * 2, events.append, Interruption(), lambda owner: None)
    begun = home.stages / "begun" / f"checkpoint-4-{'0' * 16}.ckpt"
    begun.parent.mkdir()
    begun.touch()
    runner._start([StageFolder(begun.parent)], 0)
    assert events[0].resumed_step == 4 and begun.exists()


def contents(home: Home, spec) -> dict[Path, bytes]:
    """All that is written of a run, by file."""
    roots = [run_folder(home, spec.id).root, *(stage.root for stage in stages(home, spec))]
    return {path: path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file()}


def test_an_owner_that_was_stopped_wakes_up_and_writes_nothing(straight, parts, home, monkeypatch):
    """SIGSTOP in step 9; meanwhile another goes on from the checkpoint of step 8."""
    monkeypatch.setenv("VLM_ABLATE_LEASE_SECONDS", "2")
    code = textwrap.dedent(STOPPED).format(parts=str(parts), home=str(home.root))
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1]}{os.pathsep}{Path(__file__).parents[2]}"}
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert other.stdout and other.stdout.readline() == "stops\n"
        just_renewed(run_folder(home, straight[1].id).root / ".lease-1")
        events = []
        outcome = execute(straight[1], home=home, reporter=events.append)
        assert (outcome.status, outcome.scores) == ("finished", straight[2].scores)
        assert f"waits for process {other.pid}" in next(e.message for e in events if isinstance(e, Notice))
        assert next(e for e in events if isinstance(e, RunStarted)).resumed_step == 8
        before = contents(home, straight[1])
        other.send_signal(signal.SIGCONT)
        said = other.communicate(timeout=200)[0]
    finally:
        other.kill()
    assert said.startswith("failed ") and "is written by another process now" in said
    assert contents(home, straight[1]) == before
    assert_same_result((home, straight[1]), straight[:2])
    if any("the tracking store failed" in event.message for event in events if isinstance(event, Notice)):
        publish_missing(home, home.tracking_uri, print)  # whoever was stopped held the database's lock
    assert len(read_records(home.tracking_uri, straight[1].experiment)) == 1


def test_a_machine_that_died_and_a_file_system_without_locks_keep_nobody_out(straight, home, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    folder, events = run_folder(home, straight[1].id).root, []
    left_by(folder, 4)
    assert execute(straight[1], home=home, reporter=events.append).status == "finished"
    assert "waits for process 7 on afar" in next(e.message for e in events if isinstance(e, Notice))
    assert [file.name for file in folder.glob(".lease-*")] == [".lease-5-free"]
    assert_same_result((home, straight[1]), straight[:2])


def test_a_stage_that_another_run_took_over_is_waited_for_and_continued(straight, home, monkeypatch):
    monkeypatch.setattr("vlm_ablate.training.callbacks.Monitor.event_interval", 0.0)
    monkeypatch.setattr("vlm_ablate.runs.log._RECENT", 0.0)
    events = []

    def lose(event):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 15 and len(events) < 40:
            left_by(stages(home, straight[1])[-1].root, 9)
            events.extend([event] * 40)

    assert execute(straight[1], home=home, reporter=lose).scores == straight[2].scores
    told = [event.message for event in events if isinstance(event, Notice)]
    assert any("is written by another process now (process 7 on afar)" in message for message in told), told
    assert [event.resumed_step for event in events if isinstance(event, RunStarted)] == [0, 14]
    assert_same_result((home, straight[1]), straight[:2])


def test_who_does_not_compute_a_run_does_not_say_how_it_ended(straight, home):
    spec = straight[1]
    folder = run_folder(home, spec.id)
    with Lease.acquire(folder.root):
        note_from_outside(spec, home, "failed", "its worker is gone")
        assert folder.read() is None
    note_from_outside(spec, home, "failed", "its worker is gone")
    assert folder.read()["status"] == "failed"
