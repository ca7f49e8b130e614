"""What holds of a campaign whatever happens in whatever order: nothing twice, nobody waits for nothing, all end."""

from __future__ import annotations

import random
import threading
from concurrent.futures import wait
from pathlib import Path

import pytest

from tests.launch.test_campaign import FakeLauncher
from tests.runs.disk import write_log, write_results
from tests.tracking.specs import make_spec
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.events import Event, RunFinished, StageFinished
from vlm_ablate.home import Home
from vlm_ablate.launch.base import Placement, RunFuture
from vlm_ablate.launch.campaign import Campaign
from vlm_ablate.runs.outcome import RunOutcome, outcome_of
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec


@pytest.fixture(autouse=True)
def unpublished(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store: what it is given is watched elsewhere."""
    monkeypatch.setattr("vlm_ablate.launch.campaign.publish_missing", lambda *arguments: 0)
    monkeypatch.setattr("vlm_ablate.launch.campaign.ensure_store", lambda *arguments: None)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare(0)


def score_of(spec: RunSpec) -> float:
    """Follows from the weights: who is handed another run's score has the wrong one."""
    return int(spec.stage_keys[-1].key[:2], 16) / 4


class World(FakeLauncher):
    """Runs that end as chance will have it, and what must be so whenever one is handed over."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.training: dict[str, set[str]] = {}
        """Id of a run that goes on -> keys of the stages that it has to train still."""
        self.failed: set[str] = set()

    def submit(self, spec: RunSpec, placement: Placement) -> RunFuture:
        future = super().submit(spec, placement)
        found = find_results(spec, self.context.home)
        assert not found.done, "what is there is not run again"
        missing = {key.key for key in spec.stage_keys[len(found.outcomes) :]}
        assert spec.id not in self.training, "a run runs once at a time"
        assert not missing & set[str]().union(*self.training.values()), "a stage is trained by one"
        self.training[spec.id] = missing
        return future

    @property
    def going(self) -> list[RunFuture]:
        return [future for future in self.submitted if not future.done()]

    def step(self) -> None:
        """Something happens to a run that goes on."""
        future = self.rng.choice(self.going)
        spec, home = future.spec, self.context.home
        match self.rng.choice(["stage", "finished", "finished", "diverged", "failed", "raised"]):
            case "stage" if len(spec.stage_keys) > 1 and spec.stage_keys[0].key in self.training[spec.id]:
                write_log(spec, home, [])
                key = spec.stage_keys[0]
                self.training[spec.id].discard(key.key)
                self.context.on_event(StageFinished(spec.id, key.name, key.key))
            case "finished" | "stage":
                results = write_results(spec, home, score=score_of(spec))
                self._end(future, outcome_of(results))
            case "diverged":
                self._end(future, outcome_of(write_results(spec, home, status="diverged", message="not finite")))
            case "failed":
                self.failed.add(spec.id)
                self._end(future, RunOutcome(spec.id, spec.run_name, "failed", message="out of memory"))
            case "raised":
                self.failed.add(spec.id)
                del self.training[spec.id]
                future.set_exception(VlmAblateError("the launcher is gone"))

    def _end(self, future: RunFuture, outcome: RunOutcome) -> None:
        del self.training[future.spec.id]  # before it is told: others are handed over at once then
        future.set_result(outcome)


def pool(rng: random.Random) -> list[RunSpec]:
    """Runs that share first stages, or all, under different names."""
    found = []
    for arm in rng.sample("abcdefghij", 8):
        stages = {"first": {"steps": rng.choice([5, 6]), "batch_size": 4}}
        if rng.random() < 0.7:
            stages["second"] = {"steps": rng.choice([7, 8]), "batch_size": 4}
        found.append(make_spec(arm, note="shared", stages=stages))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_each_stage_is_trained_by_one_and_every_run_ends_as_its_weights_did(
    home: Home, seed: int
) -> None:
    world, events = World(seed), list[Event]()
    specs, futures = pool(world.rng), dict[str, RunFuture]()
    with Campaign(world, home, events.append) as campaign:
        waiting = [*specs]
        while waiting or any(not future.done() for future in futures.values()):
            if waiting and (world.rng.random() < 0.5 or not world.going):
                spec = waiting.pop()
                future = futures[spec.id] = campaign.submit(spec)
                assert future.done() or campaign.submit(spec) is future
            else:
                assert world.going, "somebody is waited for who is not there"
                world.step()
            held = set[str]().union(*world.training.values())
            for spec in specs:
                if spec.id in futures and not futures[spec.id].done() and spec.id not in world.training:
                    assert {key.key for key in spec.stage_keys} & held, "it waits for a stage that nobody trains"
    for spec in specs:
        if (error := futures[spec.id].exception()) is not None:
            assert spec.id in world.failed and str(error).startswith("the launcher is gone")
            continue
        outcome = futures[spec.id].result()
        assert outcome.run == spec.id
        assert (outcome.status == "failed") == (spec.id in world.failed)
        if outcome.status == "finished":
            assert outcome.scores == {"vqa": score_of(spec)}
        found = find_results(spec, home)
        assert outcome.status in ("failed", found.status)
    reused = [event.run for event in events if isinstance(event, RunFinished)]
    assert len(reused) == len({*reused}), "of each that was there it is told once"


def test_the_order_in_which_runs_are_asked_for_changes_no_outcome(home: Home, tmp_path: Path) -> None:
    rng = random.Random(5)
    specs = pool(rng)
    told = []
    for number in range(3):
        order = rng.sample(specs, len(specs))
        own, world = Home(tmp_path / str(number)).prepare(0), FakeLauncher()
        with Campaign(world, own, lambda event: None) as campaign:
            futures = {spec.id: campaign.submit(spec) for spec in order}
            while not all(future.done() for future in futures.values()):
                number = next(i for i, future in enumerate(world.submitted) if not future.done())
                world.finish(number, score=score_of(world.submitted[number].spec))
        trained = {future.spec.stage_keys[-1].key for future in world.submitted}
        told.append(({id: future.result().scores for id, future in futures.items()}, trained))
    assert told[0] == told[1] == told[2]


def test_a_run_that_waits_and_is_cancelled_is_over_for_all_who_wait_for_it_and_holds_nobody_up(home: Home) -> None:
    launcher = FakeLauncher()
    with Campaign(launcher, home, lambda event: None) as campaign:
        first, second, third = (campaign.submit(make_spec(arm, note="same")) for arm in "abc")
        second.stop()
        assert wait([second], timeout=60).done == {second} and second.cancelled()
        assert second.outcome().status == "stopped" and launcher.stopped == []
        second.stop()  # and once more: nothing happens
        again = campaign.submit(make_spec("b", note="same"))
        assert again is not second
        launcher.finish(0)
        assert [each.result(5).status for each in (first, third, again)] == ["finished"] * 3
        assert launcher.arms == ["a"]


class Told(Campaign):
    """Tells when the last of its runs was asked for by another thread than the main one."""

    asked = threading.Event()

    def submit(self, spec: RunSpec, placement: Placement | None = None) -> RunFuture:
        future = super().submit(spec, placement)
        if spec.arm == "b" and threading.current_thread() is not threading.main_thread():
            self.asked.set()
        return future


def test_a_command_ends_when_somebody_else_has_cancelled_one_of_its_runs(home: Home) -> None:
    launcher, specs = FakeLauncher(), [make_spec(arm, note="same") for arm in "ab"]
    with Told(launcher, home, lambda event: None) as campaign:
        told: list[list[RunOutcome]] = []
        command = threading.Thread(target=lambda: told.append(campaign.run(specs)), daemon=True)
        command.start()
        assert campaign.asked.wait(60)
        campaign.submit(specs[1]).stop()
        launcher.finish(0)
        command.join(60)
    ((one, other),) = told
    assert (one.status, other.status, other.message) == ("finished", "stopped", "stopped before it began")
