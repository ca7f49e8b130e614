"""Several processes on one study: each trial is one process's, and a dead one's is continued once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.sweeps.toys import RANK, sweep, write_sweep
from tests.sweeps.worker import Slow
from vlm_ablate.home import Home
from vlm_ablate.sweeps.loading import load_sweep
from vlm_ablate.sweeps.results import StudyResult, result_of
from vlm_ablate.sweeps.storage import default_storage
from vlm_ablate.sweeps.trials import open_studies

ROOT = Path(__file__).parents[2]
SERVER = next((f for f in sorted(Path("/usr/lib/postgresql").glob("*/bin")) if (f / "postgres").exists()), None)


@contextmanager
def workers(
    file: Path, home: Home, count: int, *, uri: str = "", seconds: float = 0.3
) -> Iterator[list[subprocess.Popen[bytes]]]:
    command = [sys.executable, "-m", "tests.sweeps.worker", str(file), str(home.root), uri, str(seconds)]
    started = [subprocess.Popen(command, cwd=ROOT) for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def lines(home: Home, name: str) -> list[list[str]]:
    file = home.root / name
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def result(file: Path, home: Home, uri: str | None = None) -> StudyResult:
    loaded = load_sweep(file)
    (study,) = open_studies(loaded, home, uri or default_storage(home, "toy"))
    return result_of(study.study, loaded.sweep.objective)


def test_processes_share_a_study_and_continue_a_dead_ones_trial_once(tmp_path: Path, home: Home) -> None:
    file = write_sweep(tmp_path, budget={"trials": 8})
    with workers(file, home, 1, seconds=600) as (first,):
        until(lambda: lines(home, "begun.txt"))
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    ((dead, _),) = lines(home, "begun.txt")
    with workers(file, home, 2) as both:
        assert [process.wait(200) for process in both] == [0, 0]
    begun = lines(home, "begun.txt")
    assert [rate for rate, _ in lines(home, "continued.txt")] == [dead]
    assert len({rate for rate, _ in begun}) == len(begun) == 8, "no trial is lost or begun twice"
    found = result(file, home)
    assert found.counts() == {"finished": 8} and [trial.number for trial in found.trials] == list(range(8))


def answers(address: str) -> bool:
    """Whether the server is up; its socket is there before."""
    import psycopg

    try:
        psycopg.connect(address).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A PostgreSQL server of its own, reached by a socket; its address."""
    pytest.importorskip("psycopg")
    if SERVER is None:
        pytest.skip("no PostgreSQL server is installed")
    data, socket = tmp_path / "pg", Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # names of sockets are short
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if as_user:
        data.mkdir()
        for folder in (data, socket):
            subprocess.run(["chown", "postgres", str(folder)], check=True)
        for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
            folder.chmod(folder.stat().st_mode | 0o011)
    subprocess.run([*as_user, str(SERVER / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync"],
                   check=True, capture_output=True)  # fmt: skip
    options = ["-c", "listen_addresses=", "-k", str(socket), "-c", "fsync=off"]
    process = subprocess.Popen([*as_user, str(SERVER / "postgres"), "-D", str(data), *options],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        address = f"postgresql://postgres@/postgres?host={socket}"
        until(lambda: answers(address))
        yield address
    finally:
        subprocess.run([*as_user, str(SERVER / "pg_ctl"), "stop", "-D", str(data), "-m", "immediate"], check=True,
                       capture_output=True)  # fmt: skip
        process.wait(120)
        subprocess.run(["rm", "-rf", str(socket)], check=False)


def test_homes_that_begin_a_grid_at_one_moment_ask_for_each_combination_once(tmp_path: Path, server: str) -> None:
    file = write_sweep(tmp_path, sampler="grid", space={RANK: {"low": 1, "high": 40}}, budget=None)
    loaded, homes = load_sweep(file), [Home(tmp_path / name).prepare() for name in ("a", "b")]
    for uri in (f"sqlite:///{tmp_path / 'shared.db'}", server):
        with ThreadPoolExecutor(2) as pool:
            (ours,), _ = pool.map(open_studies, [loaded] * 2, homes, [uri] * 2)
        assert len(ours.all()) == 40


def test_processes_share_a_study_on_a_postgresql_server(tmp_path: Path, home: Home, server: str) -> None:
    file = write_sweep(tmp_path, budget={"trials": 6})
    with workers(file, home, 1, uri=server, seconds=0.1) as (other,):
        until(lambda: lines(home, "begun.txt"))
        (found,) = sweep(file, home, Slow(0.1), uri=server)
        assert other.wait(200) == 0
    begun = lines(home, "begun.txt")
    assert len({rate for rate, _ in begun}) == len(begun) == 6
    assert found.counts() == {"finished": 6}
    assert not (home.root / "sweeps" / "toy" / "study.db").exists()
