"""A study that goes on: after interruptions, with another sampler, when it can end no other way, in two hands."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from optuna.trial import Trial

from tests.command import call
from tests.runs.disk import write_results
from tests.sweeps.toys import RANK, RATE, Oracle, sweep, write_sweep
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.errors import StorageError
from vlm_ablate.events import CurvePoint
from vlm_ablate.home import Home
from vlm_ablate.launch.base import Placement, RunFuture
from vlm_ablate.lease import LeaseLost
from vlm_ablate.lease_files import lease_file, this_owner, write_owner
from vlm_ablate.runs.outcome import RunOutcome, outcome_of
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.sweeps.config import Dimension
from vlm_ablate.sweeps.cost import Cost
from vlm_ablate.sweeps.loading import load_sweep
from vlm_ablate.sweeps.runner import SweepRunner, _Work
from vlm_ablate.sweeps.space import Space, Values, listed
from vlm_ablate.sweeps.storage import default_storage, sweep_folder
from vlm_ablate.sweeps.trials import open_studies


class Interrupted(Oracle):
    """Ctrl-C comes before anything is computed."""

    def submit(self, spec: RunSpec, placement: Placement) -> RunFuture:
        raise KeyboardInterrupt


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training takes ten operations, whatever it is."""

    class Ten:
        def __init__(self, home: Home) -> None:
            pass

        def cost(self, config: RunConfig) -> Cost:
            return Cost(10.0, 0.0, 1, 1)

    monkeypatch.setattr("vlm_ablate.sweeps.runner.Costs", Ten)


def test_a_trial_may_be_interrupted_as_often_as_one_likes(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only processes that die count against it."""
    monkeypatch.setattr("vlm_ablate.sweeps.trials.ATTEMPTS", 1)
    file = write_sweep(tmp_path, budget={"trials": 1})
    with pytest.raises(KeyboardInterrupt):
        sweep(file, home, Interrupted())
    (result,) = sweep(file, home, Oracle())
    assert result.counts() == {"finished": 1}


def test_what_a_trial_took_before_it_was_interrupted_counts_against_the_hours(tmp_path: Path, home: Home) -> None:
    class Continued(Oracle):
        def _end(self, spec: RunSpec, future: RunFuture) -> None:
            results = write_results(spec, self.context.home)
            future.set_result(outcome_of(results, trained=("train",), seconds=100.0, before=3500.0))

    file = write_sweep(tmp_path, budget={"hours": 1.0})
    with pytest.raises(KeyboardInterrupt):
        sweep(file, home, Interrupted())
    (result,) = sweep(file, home, Continued())
    assert result.counts() == {"finished": 1} and result.trials[0].seconds == 3600.0
    (result,) = sweep(write_sweep(tmp_path, budget={"trials": 1}), Home(tmp_path / "other"), Continued())
    assert result.trials[0].seconds == 100.0, "what another had begun was paid there"


def test_a_trial_that_was_left_while_its_values_were_drawn_is_still_the_file_as_it_stands(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, suggest = write_sweep(tmp_path, budget={"trials": 1}), Space.suggest

    def interrupted(space: Space, trial: Trial, untouched: Any = ()) -> Values:
        monkeypatch.setattr(Space, "suggest", suggest)
        raise KeyboardInterrupt

    monkeypatch.setattr(Space, "suggest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(file, home, Oracle())
    (result,) = sweep(file, home, Oracle())
    assert result.counts() == {"finished": 1} and result.trials[0].values == {"arm": "plain", RATE: 1e-3}


@pytest.mark.usefixtures("priced")
def test_operations_are_those_of_all_seeds(tmp_path: Path, home: Home) -> None:
    (result,) = sweep(write_sweep(tmp_path, budget={"flops": 40.0}, seeds=[0, 1]), home, launcher := Oracle())
    assert result.counts() == {"finished": 2} and len(launcher.computed) == 4


@pytest.mark.usefixtures("priced")
@pytest.mark.timeout(60)
def test_a_space_in_which_nothing_fits_ends_a_sweep_that_counts_hours(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm_ablate.sweeps.trials.INFEASIBLE_FIRST", 3)
    file = write_sweep(tmp_path, budget={"hours": 1.0}, constraints={"flops": 1.0})
    (result,) = sweep(file, home, launcher := Oracle())
    assert result.counts() == {"does not fit": 3} and launcher.computed == []


@pytest.mark.timeout(60)
def test_a_space_that_is_all_tried_ends_a_sweep_that_counts_hours(tmp_path: Path, home: Home) -> None:
    """What is there already takes no time: the hours would never be reached."""
    (result,) = sweep(write_sweep(tmp_path, budget={"hours": 9.0}, space={RANK: [8, 16]}), home, launcher := Oracle())
    assert {trial.values[RANK] for trial in result.finished} == {8, 16} and len(launcher.computed) == 2


def test_a_range_of_very_many_whole_numbers_is_searched_and_never_listed(tmp_path: Path, home: Home) -> None:
    (result,) = sweep(write_sweep(tmp_path, budget={"trials": 2}, space={RANK: {"low": 1, "high": 2**53}}), home,
                      Oracle())  # fmt: skip
    assert len(result.finished) == 2


@pytest.mark.parametrize("damaged", [b"", b"\xff\xfe", b"0123"])
def test_a_damaged_id_of_a_home_is_one_error_that_names_its_file(tmp_path: Path, home: Home, damaged: bytes) -> None:
    file = write_sweep(tmp_path, budget={"trials": 1})
    sweep(file, home, Oracle())
    (home.root / "sweeps/toy/id").write_bytes(damaged)
    with pytest.raises(StorageError, match=r"sweeps/toy/id is damaged"):
        sweep(file, home, Oracle())


def test_a_grid_goes_on_where_another_sampler_was(tmp_path: Path, home: Home) -> None:
    space = {RANK: [4, 8, 16]}
    sweep(write_sweep(tmp_path, space=space, budget={"trials": 1}), home, Oracle())
    for _ in range(2):
        (result,) = sweep(write_sweep(tmp_path, space=space, sampler="grid", budget=None), home, Oracle())
        assert sorted(trial.values[RANK] for trial in result.finished) == [4, 8, 16]


def test_values_in_steps_are_those_that_a_file_writes() -> None:
    assert list(listed(Dimension(low=0.1, high=0.5, step=0.1))) == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_homes_that_share_a_server_and_ask_at_the_same_moment_get_different_values(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, uri = load_sweep(write_sweep(tmp_path)), default_storage(home, "toy")
    (ours,), (theirs,) = (open_studies(loaded, each, uri) for each in (home, Home(tmp_path / "other")))
    begun, seen = ours.ask(), ours.all()  # the file as it stands
    first = theirs.ask()
    monkeypatch.setattr(ours, "all", lambda: seen)  # as it was before the other one asked
    second = ours.ask()
    assert first is not None and second is not None and first.values != second.values
    for trial in filter(None, (begun, first, second)):
        trial.study.leave(trial)


class Robbed(Oracle):
    """Another process takes the trial over and tells it, while this one shows no life."""

    def __init__(self, file: Path, **options: Any) -> None:
        super().__init__(**options)
        self.file = file

    def submit(self, spec: RunSpec, placement: Placement) -> RunFuture:
        if not self.computed:
            home = self.context.home
            assert spec.trial is not None
            folder = sweep_folder(home, "toy") / "trials" / str(spec.trial.number)
            write_owner(lease_file(folder, 2), this_owner(60.0))
            (study,) = open_studies(load_sweep(self.file), home, default_storage(home, "toy"))
            study.study.tell(spec.trial.number, 1.0)
        return super().submit(spec, placement)


@pytest.mark.parametrize("pruner", ["none", "median"])
def test_a_trial_that_another_process_has_told_meanwhile_is_left_to_it(tmp_path: Path, home: Home, pruner: str) -> None:
    file = write_sweep(tmp_path, budget={"trials": 2}, pruner=pruner)
    (result,) = sweep(file, home, launcher := Robbed(file, curve=pruner != "none"))
    assert result.trials[0].score is None and result.trials[1].outcome == "finished"
    assert len(launcher.computed) == 2


@pytest.mark.parametrize("at", ["note", "report", "tell"])
def test_a_trial_that_is_told_by_another_process_behind_the_look_at_its_lease_is_left_to_it(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """This one is stopped between the two, and goes on when the other has taken the trial over and told it."""
    (study,) = open_studies(load_sweep(write_sweep(tmp_path)), home, default_storage(home, "toy"))
    trial = study.ask()
    assert trial is not None
    tell, check, looks = study.study.tell, trial.lease.check, []

    def stopped() -> None:
        check()
        looks.append(at)
        if len(looks) == (2 if at == "tell" else 1):
            write_owner(lease_file(study.folder(trial.number), 2), this_owner(60.0))
            tell(trial.number, 1.0)

    monkeypatch.setattr(trial.lease, "check", stopped)
    with pytest.raises(LeaseLost):
        if at == "note":
            study.note(trial, {"seconds": 1.0})
        elif at == "report":
            study.report(trial, 1, 5.0)
        else:
            study.complete(trial, [7.0])
    assert study.all()[trial.number].value == 1.0
    study.leave(trial)


def test_a_file_that_was_changed_shows_and_applies_nothing_of_the_earlier_search(tmp_path: Path, home: Home) -> None:
    sweep(write_sweep(tmp_path, budget={"trials": 1}), home, Oracle())
    file, place = str(write_sweep(tmp_path, objective="vqa")), ("--home", str(home.root))
    for command in (("show", file), ("apply", file, str(tmp_path / "out.yaml"))):
        told = call("sweep", *command, *place)
        assert told.exit_code == 2 and "objective.score: mean there, vqa in the file" in told.output
    assert not (tmp_path / "out.yaml").exists()


def test_the_winner_names_the_revision_that_trained_it(tmp_path: Path, home: Home) -> None:
    class Earlier(Oracle):
        def _end(self, spec: RunSpec, future: RunFuture) -> None:
            results = write_results(spec, self.context.home, provenance={"vlm.git": "c0ffee"})
            future.set_result(outcome_of(results, trained=("train",), seconds=1.0))

    file, out = write_sweep(tmp_path, budget={"trials": 1}), tmp_path / "out.yaml"
    sweep(file, home, Earlier())
    assert call("sweep", "apply", str(file), str(out), "--home", str(home.root)).exit_code == 0
    assert yaml.safe_load(out.read_text())["arms"]["plain"]["tuned"]["revision"] == "c0ffee"


@pytest.mark.usefixtures("priced")
@pytest.mark.timeout(60)
def test_a_grid_is_gone_through_to_its_end_where_most_of_it_does_not_fit(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm_ablate.sweeps.trials.INFEASIBLE_FIRST", 3)
    file = write_sweep(tmp_path, space={RANK: [4, 8, 16, 32, 64]}, sampler="grid", budget=None,
                       constraints={"flops": 1.0})  # fmt: skip
    (result,) = sweep(file, home, Oracle())
    assert result.counts() == {"does not fit": 5}


def test_a_trial_that_joins_a_run_which_another_s_end_stops_begins_it_anew(tmp_path: Path) -> None:
    """Two trials of the same values are one run, as long as it goes."""
    loaded = load_sweep(write_sweep(tmp_path, pruner="median"))
    told: list[tuple[int, str]] = []

    def opened(number: int, behind: bool) -> Any:
        study = SimpleNamespace(
            report=lambda *_: behind,
            note=lambda *_: None,
            prune=lambda trial, outcome, _: told.append((trial.number, outcome)),
        )
        return SimpleNamespace(number=number, study=study, notes={}, resumed=False)

    runner, specs = SweepRunner(loaded, [], 2), loaded.specs({RATE: 1e-3}, ["plain"])
    futures = [RunFuture(specs[0], lambda future: None) for _ in range(2)]
    asked = iter(futures[1:])
    campaign: Any = SimpleNamespace(submit=lambda spec, placement: next(asked))
    first, second = (_Work(opened(number, behind=not number), specs, future=futures[0]) for number in range(2))
    runner._open = [first]
    runner._curve(CurvePoint(specs[0].id, 25, {"curve/mean": 1.0}))
    runner._open.append(second)
    futures[0].set_result(RunOutcome(specs[0].id, "", "stopped"))
    for work in (first, second):
        runner._ended(campaign, work)
    assert told == [(0, "pruned")] and second.future is futures[1]
