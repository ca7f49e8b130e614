"""What a campaign does for any launcher, shown with one that runs nothing by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.runs.disk import write_results
from tests.tracking.specs import make_spec
from vlm_ablate.errors import StorageError, TrackingError, VlmAblateError
from vlm_ablate.events import Event, RunFinished, StageFinished, StepDone
from vlm_ablate.home import Home
from vlm_ablate.launch.base import Context, Placement, RunFuture
from vlm_ablate.launch.campaign import Campaign
from vlm_ablate.runs.outcome import RunOutcome, outcome_of
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.read import read_records


class FakeLauncher:
    """Holds runs until the test finishes them. It is all that a launcher must be: no reuse, no store, no order."""

    def __init__(self) -> None:
        self.submitted: list[RunFuture] = []
        self.placements: list[Placement] = []
        self.stopped: list[str] = []
        self.closed = False

    def open(self, context: Context) -> None:
        self.context = context

    def submit(self, spec: RunSpec, placement: Placement) -> RunFuture:
        if (placement.nodes or 1) > 1:
            raise VlmAblateError("no such node")
        future = RunFuture(spec, lambda future: self.stopped.append(future.spec.arm))
        future.set_running_or_notify_cancel()
        self.submitted.append(future)
        self.placements.append(placement)
        return future

    def close(self, grace_seconds: float = 0.0) -> int:
        self.closed = True
        return 0

    @property
    def arms(self) -> list[str]:
        return [future.spec.arm for future in self.submitted]

    def finish(self, number: int, *, score: float = 50.0) -> None:
        """Leave the results of a run that was submitted, as its process would."""
        future = self.submitted[number]
        results = write_results(future.spec, self.context.home, score=score)
        future.set_result(outcome_of(results))

    def finish_stage(self, number: int, index: int) -> None:
        spec = self.submitted[number].spec
        key = spec.stage_keys[index]
        self.context.on_event(StageFinished(spec.id, key.name, key.key))


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@contextmanager
def campaign(launcher: FakeLauncher, home: Home, events: list[Event] | None = None) -> Iterator[Campaign]:
    heard = events if events is not None else []
    with Campaign(launcher, home, heard.append) as opened:
        yield opened


def test_more_runs_may_be_asked_for_while_others_go_on(home: Home, launcher: FakeLauncher) -> None:
    with campaign(launcher, home) as asked:
        first = asked.submit(make_spec("a"))
        launcher.finish(0)
        assert first.result(5).status == "finished"
        second = asked.submit(make_spec("b"), Placement(devices=1))
        assert launcher.arms == ["a", "b"] and launcher.placements[1] == Placement(1, 1)
        launcher.finish(1)
        assert second.result(5).name == make_spec("b").run_name
    assert launcher.closed


def test_the_same_run_asked_for_twice_is_one(home: Home, launcher: FakeLauncher) -> None:
    with campaign(launcher, home) as asked:
        assert asked.submit(make_spec("a")) is asked.submit(make_spec("a"))
        assert launcher.arms == ["a"]


def test_what_is_there_is_handed_back_and_not_submitted(home: Home, launcher: FakeLauncher) -> None:
    write_results(make_spec("a"), home)
    events: list[Event] = []
    with campaign(launcher, home, events) as asked:
        twin = make_spec("elsewhere", experiment="demo/t02", note="a")
        outcomes = asked.run([make_spec("a"), twin])
    assert [(o.status, o.reused, o.mean) for o in outcomes] == [("finished", True, 50.0)] * 2
    assert [o.name for o in outcomes] == [make_spec("a").run_name, twin.run_name]
    assert launcher.arms == []
    assert [e.reused for e in events if isinstance(e, RunFinished)] == [True, True]
    assert [r.arm for r in read_records(home.tracking_uri, "demo/t02")] == ["elsewhere"]


def test_arms_that_are_the_same_run_are_computed_once(home: Home, launcher: FakeLauncher) -> None:
    with campaign(launcher, home) as asked:
        futures = [asked.submit(make_spec(arm, 3, note="same")) for arm in "ab"]
        assert launcher.arms == ["a"]
        launcher.finish(0, score=3.0)
        assert [f.result(5).mean for f in futures] == [3.0, 3.0]
        assert launcher.arms == ["a"] and futures[1].result().reused
    assert {r.arm: r.metrics["score/vqa"] for r in read_records(home.tracking_uri, "demo/t01")}.keys() >= {"b"}


def two_stages(arm: str, steps: int) -> RunSpec:
    stages = {"first": {"steps": 5, "batch_size": 4}, "second": {"steps": steps, "batch_size": 4}}
    return make_spec(arm, stages=stages, note="shared")


def test_arms_that_share_their_first_stage_wait_until_it_is_trained(home: Home, launcher: FakeLauncher) -> None:
    one, two = two_stages("one", 6), two_stages("two", 7)
    assert one.stage_keys[0].key == two.stage_keys[0].key and one.stage_keys[1].key != two.stage_keys[1].key
    with campaign(launcher, home) as asked:
        asked.submit(one), asked.submit(two)
        assert launcher.arms == ["one"]
        launcher.finish_stage(0, 0)
        assert launcher.arms == ["one", "two"]


def test_a_run_that_waits_goes_on_when_the_one_before_it_fails(home: Home, launcher: FakeLauncher) -> None:
    with campaign(launcher, home) as asked:
        futures = [asked.submit(make_spec(arm, note="same")) for arm in "ab"]
        launcher.submitted[0].set_result(RunOutcome(futures[0].spec.id, "a", "failed", message="out of memory"))
        assert futures[0].result(5).status == "failed"
        assert launcher.arms == ["a", "b"]


def test_what_cannot_be_placed_after_its_wait_is_an_error_of_its_own(home: Home, launcher: FakeLauncher) -> None:
    with campaign(launcher, home) as asked:
        futures = [asked.submit(make_spec("a", note="same"))]
        futures += [asked.submit(make_spec(arm, note="same"), Placement(nodes=n)) for arm, n in (("b", 2), ("c", 1))]
        launcher.submitted[0].set_result(RunOutcome(futures[0].spec.id, "a", "failed", message="out of memory"))
        with pytest.raises(VlmAblateError, match="no such node"):
            futures[1].result(5)
        assert launcher.arms == ["a", "c"]
        assert asked.submit(make_spec("b", note="same")) is not futures[1]


def test_one_run_is_stopped_early_and_the_others_go_on(home: Home, launcher: FakeLauncher) -> None:
    with campaign(launcher, home) as asked:
        futures = [asked.submit(make_spec(arm)) for arm in "ab"]
        futures[0].stop()
        assert launcher.stopped == ["a"]
        launcher.submitted[0].set_result(RunOutcome(futures[0].spec.id, "a", "stopped"))
        assert futures[0].result(5).status == "stopped" and not futures[1].done()
        # It can be asked for again, and goes on from its checkpoint.
        asked.submit(make_spec("a"))
        assert launcher.arms == ["a", "b", "a"]


def test_events_of_runs_are_heard_as_they_come(home: Home, launcher: FakeLauncher) -> None:
    events: list[Event] = []
    with campaign(launcher, home, events) as asked:
        asked.submit(make_spec("a"))
        launcher.context.on_event(StepDone("a", 1, 2, 0.5, 1.0))
    assert events[-1] == StepDone("a", 1, 2, 0.5, 1.0)


def test_what_no_node_can_run_is_an_error_at_once(home: Home, launcher: FakeLauncher) -> None:
    with campaign(launcher, home) as asked:
        for _ in range(2):  # and it is forgotten: it may be asked for otherwise
            with pytest.raises(VlmAblateError, match="no such node"):
                asked.submit(make_spec("a"), Placement(nodes=2))
        asked.submit(make_spec("a"))
        assert launcher.arms == ["a"]


def test_a_store_or_folder_that_cannot_be_used_is_an_error_before_anything_starts(
    home: Home, launcher: FakeLauncher, tmp_path: Path
) -> None:
    with (
        pytest.raises(TrackingError, match="does not answer"),
        Campaign(launcher, home, print, tracking_uri="http://127.0.0.1:9"),
    ):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError), Campaign(launcher, Home(tmp_path / "file" / "home"), print):
        pass
    assert not hasattr(launcher, "context")


def test_a_store_lost_between_two_commands_is_filled_again(home: Home, launcher: FakeLauncher) -> None:
    write_results(make_spec("a"), home)
    with campaign(launcher, home) as asked:
        asked.run([make_spec("a")])
    home.database.unlink()
    with campaign(launcher, home) as asked:
        asked.run([make_spec("a")])
    (record,) = read_records(home.tracking_uri, "demo/t01")
    assert (record.status, record.metrics["score/vqa"]) == (schema.FINISHED, 50.0)
    assert launcher.arms == []
