"""`status`: what the files of a home tell of runs that go, wait or have ended badly."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from dataclasses import asdict, replace
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.runs.disk import write_results
from tests.tracking.specs import make_spec
from vlm_ablate.cli.app import app
from vlm_ablate.home import Home
from vlm_ablate.launch.handover import Handover, Saying
from vlm_ablate.lease import Lease
from vlm_ablate.runs.folder import run_folder, write_json
from vlm_ablate.runs.live import LiveRun
from vlm_ablate.runs.spec import RunSpec


def says(spec: RunSpec, home: Home, **changed: Any) -> LiveRun:
    """A `live.json`, as the process of a run writes it."""
    now = time.time_ns() // 1_000_000
    live = LiveRun(
        spec.id, spec.run_name, spec.experiment, spec.arm, spec.seed, spec.scale, socket.gethostname(), os.getpid(),
        "ray", 1, "training", stage="train", step=5, total=10, started_ms=now - 65_000, updated_ms=now,
    )  # fmt: skip
    live = replace(live, **changed)
    folder = run_folder(home, spec.id)
    folder.prepare()
    write_json(folder.live, asdict(live))
    return live


def status(home: Home, *options: str) -> str:
    result = CliRunner().invoke(app, ["status", "--home", str(home.root), *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_what_runs_waits_and_ended_badly_is_shown(home: Home) -> None:
    alive, silent, lost = (make_spec(arm) for arm in ("alive", "silent", "lost"))
    says(alive, home)
    says(silent, home)
    os.utime(run_folder(home, silent.id).live, (then := time.time() - 300, then))
    says(lost, home, host="elsewhere", launcher="slurm")
    write_results(make_spec("broken"), home, status="failed", message="out of memory\nat step 7")
    write_results(make_spec("fine"), home)
    handover = Handover.create(home, {"home": str(home.root), "launcher": "ray", "host": "here", "path": sys.path})
    handover.task(1, make_spec("queued"))
    taken, left = handover.task(2, make_spec("taken")), handover.task(3, make_spec("left"))
    Saying(taken).send(("begun",))
    left.withdraw()
    with Lease.acquire(run_folder(home, alive.id).root), Lease.acquire(run_folder(home, silent.id).root):
        text, known = status(home), json.loads(status(home, "--json"))
    assert {row["arm"]: row["state"] for row in known["running"]} == {
        "alive": "alive", "silent": "silent", "lost": "lost"}  # fmt: skip
    first = next(row for row in known["running"] if row["arm"] == "alive")
    assert (first["step"], first["total"], first["stage"], first["launcher"]) == (5, 10, "train", "ray")
    assert [row["name"] for row in known["waiting"]] == [make_spec("queued").run_name]
    assert [(row["name"], row["status"]) for row in known["ended"]] == [(make_spec("broken").run_name, "failed")]
    lines = {line.split()[0]: line for line in text.splitlines()}
    for part in ("training train", "5/10", "1 min ", socket.gethostname(), str(os.getpid()), "ray", "ago"):
        assert part in lines["alive"]
    assert "silent" in lines["silent"][20:] and "gone: run it again" in lines["lost"]
    assert lines["failed"].endswith("out of memory") and "waits" in lines and "fine" not in text


def test_clocks_of_machines_may_differ(home: Home) -> None:
    behind = make_spec("behind")
    then = time.time_ns() // 1_000_000 - 3_600_000
    says(behind, home, updated_ms=then, started_ms=then - 65_000)
    with Lease.acquire(run_folder(home, behind.id).root):
        ((row,), text) = json.loads(status(home, "--json"))["running"], status(home)
    assert row["state"] == "alive" and row["seconds_since_sign"] < 60 <= row["seconds"] < 120
    assert "1 min 0" in text


def test_a_home_where_nothing_runs_says_so(home: Home) -> None:
    assert status(home) == f"nothing runs in {home.root}\n"
    assert json.loads(status(home, "--json")) == {"running": [], "waiting": [], "ended": []}
    assert status(Home(home.root / "none")).startswith("nothing runs in")
    assert not (home.root / "none").exists()


def test_what_ended_long_ago_is_not_shown(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(make_spec("broken"), home, status="failed", message="out of memory")
    later = time.time() + 30 * 3600
    monkeypatch.setattr("vlm_ablate.runs.now.time.time", lambda: later)
    assert "out of memory" not in status(home) and "out of memory" in status(home, "--hours", "48")
