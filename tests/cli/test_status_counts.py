"""`status`: what is shown is what `--json` knows, and a longer look back shows no less."""

from __future__ import annotations

import json
import os
import random
import time

import pytest

from tests.cli.test_status import says
from tests.command import call
from tests.runs.disk import write_results
from tests.tracking.specs import make_spec
from vlm_ablate.cli.progress import duration
from vlm_ablate.cli.status import MOST_ENDED, known
from vlm_ablate.home import Home
from vlm_ablate.lease import Lease
from vlm_ablate.runs.folder import run_folder

HOUR = 3600


def status(home: Home, *options: str) -> str:
    result = call("status", "--home", home.root, *options)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_each_run_that_goes_is_a_row_with_what_json_says_of_it(home: Home) -> None:
    draw = random.Random(1)
    for number in range(5):
        total = draw.choice([0, 10, 4000])
        spec = make_spec(f"arm{number}", number)
        says(spec, home, step=draw.randint(0, total), total=total, doing=draw.choice(["training", "answering"]),
             detail=f"column{number}", launcher=draw.choice(["local", "ray", "slurm"]))  # fmt: skip
    with Lease.acquire(run_folder(home, make_spec("arm2", 2).id).root):
        text, rows = status(home), json.loads(status(home, "--json"))["running"]
    assert len(rows) == 5 and [row["started_ms"] for row in rows] == sorted(row["started_ms"] for row in rows)
    shown = [" ".join(line.split()) for line in text.splitlines()[1:]]
    joined = " ".join(shown)
    for row in rows:
        assert row["state"] == ("alive" if row["arm"] == "arm2" else "lost")
        place = joined.index(row["name"])
        about = joined[place:]
        assert about.startswith(f"{row['name']} {row['experiment']} {row['doing']}")
        assert not row["total"] or f" {row['step']}/{row['total']} " in about
        assert (f" {row['stage']} " in about) if row["doing"] == "training" else (f" {row['detail']} " in about)
    assert joined.count("gone: run it again") == 4 and joined.count("/0 ") == 0


@pytest.mark.parametrize("count", [0, 1, MOST_ENDED - 1, MOST_ENDED, MOST_ENDED + 1, MOST_ENDED + 3])
def test_of_runs_that_ended_badly_all_are_shown_or_counted(count: int, home: Home) -> None:
    for seed in range(count):
        write_results(
            make_spec("bad", seed), home, status="failed" if seed % 2 else "stopped", message=f"no. {seed}\nx"
        )
    write_results(make_spec("good"), home)
    lines = status(home).splitlines()
    assert lines[0] == f"nothing runs in {home.root}" and len(known(home, 24)["ended"]) == count
    ended = [line for line in lines[1:] if line.startswith(("failed", "stopped"))]
    assert len(ended) == min(count, MOST_ENDED) and len({line.partition("no. ")[2] for line in ended}) == len(ended)
    rest = [line for line in lines[1:] if line not in ended]
    assert rest == ([f"and {count - MOST_ENDED} more; --json shows all"] if count > MOST_ENDED else [])


def test_a_longer_look_back_shows_no_less_and_the_latest_come_first(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, draw = time.time(), random.Random(2)
    ages = sorted(draw.sample(range(1, 100), 8), reverse=True)
    for seed, hours in enumerate(ages):
        monkeypatch.setattr("vlm_ablate.runs.outcome.time.time_ns", lambda then=now - hours * HOUR: int(then * 1e9))
        monkeypatch.setattr("vlm_ablate.runs.outcome.time.time", lambda then=now - hours * HOUR: then)
        write_results(make_spec("bad", seed), home, status="failed", message="x")
    monkeypatch.undo()
    before: list[str] = []
    for hours in (0, *range(1, 120, 7), 87_600):
        ended = known(home, hours)["ended"]
        assert len(ended) == sum(age < hours for age in ages)
        assert [row["ended_ms"] for row in ended] == sorted((row["ended_ms"] for row in ended), reverse=True)
        ids = [row["id"] for row in ended]
        assert ids[: len(before)] == before
        before = ids
    assert f"  {duration(ages[-1] * HOUR)[:3]}" in status(home, "--hours", "100")
    assert not os.path.exists(home.root / "tables")
