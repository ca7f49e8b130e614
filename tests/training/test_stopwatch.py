"""What a stage costs, over all processes that worked on it."""

from __future__ import annotations

import time

from vlm_ablate.training.counters import Stopwatch


def test_it_counts_working_as_cpu_time_and_waiting_not() -> None:
    stopwatch = Stopwatch()
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    worked = stopwatch.spent()
    time.sleep(0.3)
    waited = stopwatch.spent()
    assert worked["cpu_seconds"] >= 0.2 and worked["seconds"] >= 0.19
    assert waited["seconds"] >= worked["seconds"] + 0.29
    assert waited["cpu_seconds"] < worked["cpu_seconds"] + 0.25


def test_what_processes_before_spent_is_added_as_far_as_they_told() -> None:
    stopwatch = Stopwatch()
    stopwatch.go_on({"seconds": 1000.0, "cpu_seconds": 700.0, "window": 3.0})
    told = stopwatch.spent()
    assert told["seconds"] >= 1000.0 and 700.0 <= told["cpu_seconds"] < 1000.0
    assert told.keys() == {"seconds", "cpu_seconds"}
    stopwatch.go_on({"seconds": 1000.0})  # of a version that did not measure CPU time
    assert stopwatch.spent().keys() == {"seconds"} and stopwatch.before == 1000.0
    stopwatch.go_on({})
    assert stopwatch.before == 0.0
