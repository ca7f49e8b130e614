"""The lease of a folder: one holder at a time, a number that only rises, and no write by who has lost it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.waiting import wait_for
from vlm_ablate import lease as lease_module
from vlm_ablate.errors import StorageError
from vlm_ablate.lease import Lease, LeaseHeld, LeaseLost, holder
from vlm_ablate.storage import write_atomically

ROOT = Path(__file__).parents[1]
_NO_LINKS = """
import errno, os
def refuse(*arguments, **options):
    raise OSError(errno.EPERM, "no hard links here")
os.link = refuse
"""
_NO_LOCKS = """
import errno, fcntl
def refuse(*arguments, **options):
    raise OSError(errno.ENOLCK, "no locks here")
fcntl.flock = fcntl.lockf = refuse
"""
_TAKE_TURNS = """
import sys, time
from pathlib import Path
from vlm_ablate.lease import Lease
folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(rounds):
    with Lease.acquire(folder, ttl=30) as lease:
        with open(folder / "turns", "a") as turns:
            turns.write(f"{lease.token} begins\\n")
            turns.flush()
            time.sleep(0.01)
            lease.check()
            turns.write(f"{lease.token} ends\\n")
"""
_HOLD = """
import sys
from pathlib import Path
from vlm_ablate.lease import Lease, LeaseLost
from vlm_ablate.storage import write_atomically
folder = Path(sys.argv[1])
with Lease.acquire(folder, ttl=float(sys.argv[2])) as lease:
    print(lease.token, flush=True)
    for line in sys.stdin:
        try:
            write_atomically(folder / "below" / "result", line)
            print("written", flush=True)
        except LeaseLost as lost:
            print(lost.message, flush=True)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs `code`."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@contextmanager
def holding(folder: Path, ttl: float) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease, and writes each line it is told into `below/result`."""
    (folder / "below").mkdir(parents=True)
    process = start(_HOLD, folder, ttl)
    assert process.stdout and process.stdout.readline() == "1\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def tell(process: subprocess.Popen[str], text: str) -> str:
    """Have the other process write `text`; what it says."""
    assert process.stdin and process.stdout
    process.stdin.write(f"{text}\n")
    process.stdin.flush()
    return process.stdout.readline()


def leave(folder: Path, *, age: float, **changed: object) -> Path:
    """The lease of a process that left it `age` seconds ago without giving it back."""
    with Lease.acquire(folder, ttl=1) as lease:
        owner = replace(lease.owner, **changed)  # type: ignore[arg-type]
    file = folder / f".lease-{lease.token + 1}"
    file.write_text(json.dumps(asdict(owner)))
    os.utime(file, (time.time() - age,) * 2)
    return file


@pytest.mark.parametrize("hindrance", ["", _NO_LINKS, _NO_LOCKS], ids=["plain", "no links", "no locks"])
def test_processes_take_turns_and_the_number_rises(hindrance: str, tmp_path: Path) -> None:
    workers = [start(hindrance + _TAKE_TURNS, tmp_path, 4) for _ in range(4)]
    for worker in workers:
        assert worker.stdout and worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.communicate("go\n", timeout=200)
        assert worker.returncode == 0
    turns = (tmp_path / "turns").read_text().splitlines()
    tokens = [int(turn.split()[0]) for turn in turns[::2]]
    assert turns == [f"{token} {what}" for token in tokens for what in ("begins", "ends")]
    assert tokens == sorted(set(tokens)) and len(tokens) == 16
    assert [p.name for p in tmp_path.iterdir() if p.name != "turns"] == [f".lease-{tokens[-1]}-free"]


def test_of_two_that_find_it_expired_one_gets_it(tmp_path: Path) -> None:
    leave(tmp_path, age=100, system="another")
    got: list[int] = []
    barrier = threading.Barrier(8)

    def take() -> None:
        barrier.wait()
        try:
            got.append(Lease.acquire(tmp_path, ttl=30, wait=False).token)
        except LeaseHeld:
            got.append(0)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [0] * 7 + [3]


def test_who_does_not_wait_is_told_who_has_it_and_who_waits_is_called(tmp_path: Path) -> None:
    heard = threading.Event()
    with Lease.acquire(tmp_path) as first:
        with pytest.raises(LeaseHeld, match=f"process {os.getpid()} on"):
            Lease.acquire(tmp_path, wait=False)
        assert holder(tmp_path) == first.owner
        second: list[Lease] = []
        thread = threading.Thread(
            target=lambda: second.append(Lease.acquire(tmp_path, waiting=lambda owner: heard.set()))
        )
        thread.start()
        assert heard.wait(60) and not second
        first.check()
    thread.join(60)
    assert second[0].token > first.token
    second[0].release()
    assert holder(tmp_path) is None


def test_that_of_a_dead_process_of_this_machine_is_taken_at_once(tmp_path: Path) -> None:
    with holding(tmp_path, 3600), pytest.raises(LeaseHeld):
        Lease.acquire(tmp_path, wait=False)
    with Lease.acquire(tmp_path, ttl=3600, wait=False) as lease:
        assert lease.token == 2


def test_a_number_of_a_process_that_was_used_again_is_not_taken_for_its_holder(tmp_path: Path) -> None:
    leave(tmp_path, age=0, started=1)
    assert holder(tmp_path) is None
    assert Lease.acquire(tmp_path, wait=False).token == 3


def test_that_of_another_machine_is_left_until_it_expires_and_no_longer(tmp_path: Path) -> None:
    leave(tmp_path / "old", age=100, system="another", pid=1)
    assert Lease.acquire(tmp_path / "old", wait=False).token == 3
    new = leave(tmp_path / "new", age=0, system="another", pid=1, ttl=3600)
    with pytest.raises(LeaseHeld, match="process 1 on"):
        Lease.acquire(tmp_path / "new", wait=False)
    before = time.monotonic()
    os.utime(new, (time.time() - 3599,) * 2)
    assert Lease.acquire(tmp_path / "new").token == 3
    assert 0.8 < time.monotonic() - before < 200


def test_a_clock_that_is_ahead_keeps_nobody_out_for_ever(tmp_path: Path) -> None:
    leave(tmp_path, age=-100_000, system="another")
    assert Lease.acquire(tmp_path).token == 3


@pytest.mark.parametrize("skew", [-3_600, 3_600])
def test_who_holds_one_does_not_depend_on_the_clock_of_this_machine(
    skew: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    leave(tmp_path / "held", age=0, system="another", ttl=30)
    leave(tmp_path / "over", age=60, system="another", ttl=30)
    monkeypatch.setattr(time, "time", lambda: right() + skew)
    assert holder(tmp_path / "held") is not None and holder(tmp_path / "over") is None


def test_a_renewed_one_does_not_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder renews it all the time, while by the clock of who waits a minute goes by with each look."""
    now, looks, got = [1000.0], list[int](), list[Lease]()
    monkeypatch.setattr(lease_module, "_now", lambda: now[0])

    def fail(lease: Lease) -> None:
        raise ZeroDivisionError

    def waiting(owner: object) -> None:
        wait_for(lambda: lease._renewed == now[0] or lease._ended.is_set())
        looks.append(1)
        now[0] += 50

    with Lease.acquire(tmp_path, ttl=60, heartbeat=0.02, on_beat=fail) as lease:
        waits = threading.Thread(target=lambda: got.append(Lease.acquire(tmp_path, waiting=waiting)))
        waits.start()
        wait_for(lambda: got or len(looks) > 4)
        assert not got
        lease.check()
    waits.join(120)
    got[0].release()


def test_a_holder_that_was_stopped_wakes_up_and_does_not_write(tmp_path: Path) -> None:
    with holding(tmp_path, 1) as other:
        assert tell(other, "first") == "written\n"
        other.send_signal(signal.SIGSTOP)
        with Lease.acquire(tmp_path, ttl=1) as lease:
            assert lease.token == 2
            write_atomically(tmp_path / "below" / "result", "mine")
            other.send_signal(signal.SIGCONT)
            assert f"is written by another process now (process {os.getpid()} on" in tell(other, "second")
            assert (tmp_path / "below" / "result").read_text() == "mine"
            assert {path.name for path in (tmp_path / "below").iterdir()} == {"result"}
            lease.check()
        assert "is written by another process" in tell(other, "third"), "lost is lost, also when it is free again"


def test_a_holder_that_was_stopped_goes_on_when_nobody_took_it(tmp_path: Path) -> None:
    with holding(tmp_path, 1) as other:
        other.send_signal(signal.SIGSTOP)
        time.sleep(1.2)
        other.send_signal(signal.SIGCONT)
        assert tell(other, "late") == "written\n"


def test_a_folder_that_was_moved_is_lost(tmp_path: Path) -> None:
    with Lease.acquire(tmp_path / "folder") as lease:
        (tmp_path / "folder").rename(tmp_path / "aside")
        with pytest.raises(LeaseLost):
            lease.check()


def test_that_of_a_folder_that_was_moved_is_not_taken_for_that_of_the_new_one(tmp_path: Path) -> None:
    with Lease.acquire(tmp_path / "folder") as lease:
        (tmp_path / "folder").rename(tmp_path / "aside")
        with Lease.acquire(tmp_path / "folder") as other:
            assert other.token == lease.token
            with pytest.raises(LeaseLost):
                lease.check()
            other.check()


def test_that_of_the_new_folder_is_not_given_back_by_who_held_the_moved_one(tmp_path: Path) -> None:
    lease = Lease.acquire(tmp_path / "folder")
    (tmp_path / "folder").rename(tmp_path / "aside")
    with Lease.acquire(tmp_path / "folder") as other:
        assert other.token == lease.token
        lease.release()
        other.check()


def test_a_look_is_as_old_as_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is stopped in the middle of one has seen nothing of the time since."""
    now, real = [1000.0], lease_module.highest_of
    monkeypatch.setattr(lease_module, "_now", lambda: now[0])
    with Lease.acquire(tmp_path, heartbeat=3600) as lease:

        def stopped(folder: Path) -> tuple[int, bool]:
            seen = real(folder)
            (tmp_path / f".lease-{lease.token + 1}").write_text("{}")
            now[0] += 100
            return seen

        monkeypatch.setattr(lease_module, "highest_of", stopped)
        lease.check()
        with pytest.raises(LeaseLost):
            lease.check(recent=1.0)


def test_only_what_is_below_the_folder_asks(tmp_path: Path) -> None:
    with Lease.acquire(tmp_path / "mine") as lease:
        (tmp_path / "mine" / f".lease-{lease.token + 5}").write_text("{}")
        write_atomically(tmp_path / "other", "")
        with pytest.raises(LeaseLost):
            write_atomically(tmp_path / "mine" / "result", "")
    write_atomically(tmp_path / "mine" / "result", "")


def test_a_slow_taker_does_not_get_a_number_that_was_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks, sleeps while two others come and go, and makes the number that it had in mind."""
    real, slept = lease_module.highest_of, []

    def slow(folder: Path) -> tuple[int, bool]:
        seen = real(folder)
        if not slept:
            slept.append(True)
            for _ in range(3):
                Lease.acquire(folder, wait=False).release()
        return seen

    monkeypatch.setattr(lease_module, "highest_of", slow)
    with Lease.acquire(tmp_path) as lease:
        assert lease.token == 4
        assert [path.name for path in tmp_path.iterdir()] == [".lease-4"]


def test_a_number_that_another_made_this_moment_is_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, others = lease_module.highest_of, []

    def slow(folder: Path) -> tuple[int, bool]:
        seen = real(folder)
        if not others:
            others.append(None)
            others.append(Lease.acquire(folder, wait=False))
        return seen

    monkeypatch.setattr(lease_module, "highest_of", slow)
    with pytest.raises(LeaseHeld):
        Lease.acquire(tmp_path, wait=False)
    others[1].check()
    others[1].release()


def test_what_is_no_lease_is_taken_over_once_it_is_old(tmp_path: Path) -> None:
    for number, text in enumerate(["", "[1]", '{"host": 1}', json.dumps({"pid": "x"})], 1):
        (tmp_path / f".lease-{number}").write_text(text)
    with pytest.raises(LeaseHeld, match="cannot be read"):
        Lease.acquire(tmp_path, ttl=3600, wait=False)
    assert Lease.acquire(tmp_path, ttl=1).token == 5


def test_refusals_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot take the lease of .*: a "):
        Lease.acquire(tmp_path / "file" / "below")
    monkeypatch.setenv("VLM_ABLATE_LEASE_SECONDS", "soon")
    with pytest.raises(StorageError, match="VLM_ABLATE_LEASE_SECONDS is 'soon'"):
        Lease.acquire(tmp_path)


def test_a_share_that_is_away_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    def away(*_: object) -> None:
        tried.set()
        raise OSError(errno.EIO, "away")

    with Lease.acquire(tmp_path, heartbeat=0.05) as lease:
        with monkeypatch.context() as patched:
            patched.setattr(os, "utime", away)
            assert tried.wait(60)
            time.sleep(0.1)  # what was renewed before is old now
            with pytest.raises(StorageError, match="input/output error"):
                lease.check()
        lease.check()
