"""Ranks of a command that are killed in the middle: none stays, the run is free, and it goes on as any number of ranks.

The quick form of this, without the command and its processes, is in `training/test_ranks.py`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from runs.gated import GATE
from tests.runs.ranked import compare_weights, write_experiment
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.events import Event, RunStarted
from vlm_ablate.home import Home
from vlm_ablate.launch.base import Placement, placed
from vlm_ablate.lease import holder
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.results import find_stages
from vlm_ablate.runs.spec import RunSpec, specs_of

pytestmark = [pytest.mark.expensive, pytest.mark.timeout(400)]
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("killed"), plugin="runs.gated", source="gated", steps=8)


@pytest.fixture(scope="module")
def spec(file: Path) -> RunSpec:
    return specs_of(load_experiment(file, scale="paper"))[0]


@pytest.fixture(scope="module")
def alone(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("alone")).prepare(minimum_free=0)
    assert execute(spec, home=home).status == "finished"
    return home


@contextmanager
def started(file: Path, home: Home, strategy: str) -> Iterator[subprocess.Popen[str]]:
    """The command with two ranks, of which the second waits once there is a checkpoint."""
    command = [sys.executable, "-m", "vlm_ablate", "run", str(file), "--scale", "paper", "--home", str(home.root)]
    command += ["--devices", "2", "--set", f"execution.strategy={strategy}"]
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": path, GATE: str(home.root / "gate")}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def descendants(pid: int) -> dict[int, str]:
    """Processes below one -> their command lines."""
    found: dict[int, str] = {}
    threads = Path(f"/proc/{pid}/task").glob("*/children")  # of each thread those that it has started
    for child in " ".join(file.read_text() for file in threads).split():
        found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        found |= descendants(int(child))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("strategy", "killed", "told", "goes_on_as"),
    [
        ("ddp", "both", "worker process was ended by SIGKILL", 2),
        ("fsdp2", "second", f"rank 1 on {socket.gethostname()} was ended by SIGKILL", 1),
        ("fsdp2", "first", "worker process was ended by SIGKILL", 2),
    ],
)
def test_a_run_whose_ranks_were_killed_goes_on(
    spec: RunSpec, file: Path, home: Home, alone: Home, strategy: str,
    killed: Literal["first", "second", "both"], told: str, goes_on_as: int,
) -> None:  # fmt: skip
    with started(file, home, strategy) as process:
        until = time.monotonic() + 200
        while not list(home.stages.glob("*/checkpoint-4-*")):
            assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
            time.sleep(0.1)
        ranks = descendants(process.pid)
        first = next(pid for pid, command in ranks.items() if "vlm_ablate.launch.worker" in command)
        second = next(pid for pid, command in ranks.items() if "vlm_ablate.runs.follow" in command)
        for pid in {"first": [first], "second": [second], "both": [first, second]}[killed]:
            os.kill(pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and told in said.replace("\n", " "), said
    assert not [ranks[pid] for pid in ranks if alive(pid)]
    (stage,) = (found for found in find_stages(spec, home) if found.root.exists())
    assert holder(run_folder(home, spec.id).root) is None and holder(stage.root) is None
    goes_on, _ = placed(spec, Placement(devices=goes_on_as))
    events: list[Event] = []
    assert execute(goes_on, home=home, reporter=events.append).status == "finished"
    assert [event.resumed_step for event in events if isinstance(event, RunStarted)] == [4]
    compare_weights(spec, home, alone)
