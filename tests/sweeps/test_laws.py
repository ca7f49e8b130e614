"""What holds for every sweep, shown with a launcher that computes runs at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.browser import columns, needs_browser, served, shown
from tests.sweeps.toys import RANK, RATE, Oracle, Watched, quality, sweep, write_sweep
from vlm_ablate.cli.app import app
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.home import Home
from vlm_ablate.launch.base import Placement, RunFuture
from vlm_ablate.launch.campaign import Campaign
from vlm_ablate.reporting.statistics import Estimate
from vlm_ablate.runs.outcome import RunOutcome
from vlm_ablate.runs.results import find_results, is_finished
from vlm_ablate.runs.spec import RunSpec, spec_of, specs_of
from vlm_ablate.sweeps.config import Objective
from vlm_ablate.sweeps.cost import Cost
from vlm_ablate.sweeps.loading import load_sweep
from vlm_ablate.sweeps.results import StudyResult, TrialRecord
from vlm_ablate.sweeps.runner import FAILURES
from vlm_ablate.sweeps.storage import StudyDiffers, default_storage
from vlm_ablate.sweeps.trials import TooManyFailures, open_studies
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.read import read_records
from vlm_ablate.tracking.shared_view import RUNS_VIEW, decoded, tag
from vlm_ablate.tracking.sqlite_reader import SqliteReader
from vlm_ablate.tracking.summary import record_sweep
from vlm_ablate.tracking.ui import write_views


def rate(spec: RunSpec) -> float:
    return spec.config.stages["train"].learning_rate


def test_the_first_trial_is_the_file_as_it_stands(tmp_path: Path, home: Home) -> None:
    launcher = Oracle()
    (result,) = sweep(write_sweep(tmp_path), home, launcher)
    as_it_stands = spec_of(loaded := load_experiment(tmp_path / "toy.yaml", scale="paper"), loaded.arms["plain"], 0)
    assert launcher.computed[0].stage_keys == as_it_stands.stage_keys
    assert result.trials[0].values == {"arm": "plain", RATE: 1e-3}


def test_trials_are_asked_on_the_tune_split_alone(tmp_path: Path, home: Home) -> None:
    launcher = Oracle()
    sweep(write_sweep(tmp_path, set={"evaluation.blind": True}), home, launcher)
    assert launcher.computed
    for spec in launcher.computed:
        assert {entry.split for entry in spec.config.evaluation.benchmarks.values()} == {"tune"}
        assert {key.mode for key in spec.score_keys} == {"seen"}


def test_a_resumed_study_repeats_no_trial(tmp_path: Path, home: Home) -> None:
    launcher = Oracle()
    for trials in (4, 4, 8):
        (result,) = sweep(write_sweep(tmp_path, budget={"trials": trials}, sampler="tpe"), home, launcher)
        assert len(result.trials) == trials
    rates = [rate(spec) for spec in launcher.computed]
    assert len(rates) == len(set(rates)) == 8


def test_scoring_the_winner_on_report_trains_nothing(tmp_path: Path, home: Home) -> None:
    """Its weights are there; what is missing are the scores of the other split."""
    (result,) = sweep(write_sweep(tmp_path), home, Oracle())
    best = result.finished[0]
    setting = f"{RATE}={best.values[RATE]!r}"
    winner = load_experiment(tmp_path / "toy.yaml", scale="paper", sets=[setting], arms=["plain"])
    (spec,) = specs_of(winner, seeds=[0])
    found = find_results(spec, home)
    assert not found.done and [is_finished(stage) for stage in found.stages] == [True]


def test_what_a_table_has_computed_is_not_computed_for_a_trial(tmp_path: Path, home: Home) -> None:
    file, launcher = write_sweep(tmp_path, sampler="grid", space={RANK: [8, 16]}, budget=None), Oracle()
    sweep(file, home, launcher)
    again = write_sweep(tmp_path, name="other", sampler="grid", space={RANK: [8, 16, 32]}, budget=None)
    sweep(again, home, launcher)
    assert [spec.config.stages["train"].lora.r for spec in launcher.computed] == [8, 16, 32]


def test_a_grid_ends_when_all_is_asked(tmp_path: Path, home: Home) -> None:
    space = {"model.connector.name": ["mlp", "linear"], RANK: {"low": 4, "high": 12, "step": 4}}
    launcher = Oracle()
    (result,) = sweep(write_sweep(tmp_path, sampler="grid", space=space, budget=None), home, launcher)
    assert len(result.trials) == 6 and result.trials[0].values[RANK] == 8
    assert len({spec.id for spec in launcher.computed}) == 6


def test_a_field_is_searched_only_under_its_condition(tmp_path: Path, home: Home) -> None:
    space = {RANK: {"choices": [4, 8], "when": {"arm": "lora"}}, RATE: [1e-3, 1e-2]}
    experiment = {"file": "toy.yaml", "arms": ["plain", "lora"], "scale": "paper"}
    file = write_sweep(tmp_path, sampler="grid", space=space, budget=None, experiment=experiment)
    (result,) = sweep(file, home, Oracle())
    told = sorted((trial.arm, RANK in trial.values) for trial in result.trials)
    assert told == [("lora", True)] * 4 + [("plain", False)] * 2
    assert [trial.arm for trial in result.trials[:2]] == ["plain", "lora"], "each arm as the file has it comes first"


def test_each_arm_gets_the_whole_budget(tmp_path: Path, home: Home) -> None:
    experiment = {"file": "toy.yaml", "arms": ["plain", "lora"], "scale": "paper", "per_arm": True}
    space = {RATE: {"low": 1e-4, "high": 1e-1, "log": True}, RANK: {"choices": [4, 8], "when": {"arm": "lora"}}}
    results = sweep(write_sweep(tmp_path, experiment=experiment, space=space, budget={"trials": 3}), home, Oracle())
    assert [(r.name, len(r.trials)) for r in results] == [("toy/plain", 3), ("toy/lora", 3)]
    assert RANK in results[1].trials[0].values and RANK not in results[0].trials[0].values


def test_arms_of_which_one_had_fewer_trials_are_not_tuned_alike(tmp_path: Path, home: Home) -> None:
    arms = {"file": "toy.yaml", "arms": ["plain", "lora"], "scale": "paper", "per_arm": True}
    file = write_sweep(tmp_path, experiment=arms, budget={"trials": 2})
    *_, last = sweep(file, home, Oracle())
    for number, told in enumerate((False, True)):
        out = str(tmp_path / f"{number}.yaml")
        result = CliRunner().invoke(app, ["sweep", "apply", str(file), out, "--home", str(home.root)])
        assert result.exit_code == 0
        assert ("not tuned alike: of trials they had plain 2, lora 3" in result.output) is told
        write_sweep(tmp_path, experiment=arms, budget={"trials": 4})
        loaded = load_sweep(file)
        trials = open_studies(loaded, home, default_storage(home, loaded.sweep.name))[1]
        more = trials.ask()
        assert last.tried == 2 and more is not None
        trials.complete(more, [1.0])


def test_the_objective_is_the_mean_over_seeds_with_an_interval(tmp_path: Path, home: Home) -> None:
    (result,) = sweep(write_sweep(tmp_path, seeds=[0, 1, 2], budget={"trials": 2}), home, launcher := Oracle())
    assert len(launcher.computed) == 6
    best = result.finished[0]
    assert set(best.scores) == {0, 1, 2} and best.score is not None and best.score.half_width
    assert best.objectives[0] == pytest.approx(best.score.mean) == max(t.objectives[0] for t in result.finished)


def test_a_pruned_trial_stops_at_the_point_at_which_it_is_behind(tmp_path: Path, home: Home) -> None:
    file = write_sweep(tmp_path, sampler="random", budget={"trials": 8}, pruner={"name": "median", "startup": 2})
    launcher = Oracle(curve=True)
    (result,) = sweep(file, home, launcher)
    pruned = [trial for trial in result.trials if trial.outcome == "pruned"]
    assert pruned and {run for trial in pruned for run in trial.runs} == set(launcher.stopped)
    assert set(launcher.stopped.values()) == {1}, "at the first point of the curve, not at the end"
    assert all(trial.score is None for trial in pruned)


@pytest.mark.timeout(180)
def test_nothing_is_pruned_at_the_points_of_the_warmup(tmp_path: Path, home: Home) -> None:
    pruner = {"name": "median", "startup": 2, "warmup": 2}
    file = write_sweep(tmp_path, sampler="random", budget={"trials": 8}, pruner=pruner)
    sweep(file, home, launcher := Oracle(curve=True))
    assert set(launcher.stopped.values()) == {3}


def test_hyperband_gives_the_whole_training_to_few_and_the_best_is_among_them(tmp_path: Path, home: Home) -> None:
    file = write_sweep(tmp_path, budget={"trials": 12}, pruner={"name": "hyperband", "reduction": 2})
    (result,) = sweep(file, home, launcher := Oracle(curve=True))
    counts = result.counts()
    assert counts.keys() == {"finished", "pruned"} and counts["finished"] < 12
    assert {point for point in launcher.stopped.values()} <= {1, 2}, "at the rungs below the whole"
    best = max(launcher.computed, key=quality)
    assert result.finished[0].values[RATE] == rate(best)


def test_nsga2_breeds_generations_and_keeps_a_front(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each trial is asked for by a sampler of its own, as after a restart: generations are the study's."""

    class Ranks:
        def __init__(self, home: Home) -> None:
            pass

        def cost(self, config: RunConfig) -> Cost:
            return Cost(float(config.stages["train"].lora.r), 0.0, 1, 1)

    monkeypatch.setattr("vlm_ablate.sweeps.runner.Costs", Ranks)
    file = write_sweep(
        tmp_path,
        space={RATE: {"low": 1e-4, "high": 1e-1, "log": True}, RANK: [4, 8, 16, 32]},
        sampler={"name": "nsga2", "startup": 4},
        objective={"score": "mean", "against": "flops"},
        budget={"trials": 12},
    )  # fmt: skip
    (result,) = sweep(file, home, Oracle(lambda spec: quality(spec) + spec.config.stages["train"].lora.r))
    assert result.counts() == {"finished": 12}
    assert [trial.objectives[1] for trial in result.front] == sorted({t.objectives[1] for t in result.front})
    for kept in result.front:
        score, cost = kept.objectives
        assert not any(t.objectives[0] > score and t.objectives[1] <= cost for t in result.trials)
    (study,) = open_studies(load_sweep(file), home, default_storage(home, "toy"))
    generations = [trial.system_attrs["NSGAIISampler:generation"] for trial in study.all()[1:]]  # 0 is the file's
    assert generations == sorted(generations) and {*generations} == {0, 1, 2}


class Held(Oracle):
    """Ends a run when the next one is asked for, the first and the last at once."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.seconds = 0.01
        self.last, self.held = last, list[tuple[RunSpec, RunFuture]]()

    def _end(self, spec: RunSpec, future: RunFuture) -> None:
        self.held.append((spec, future))
        at_once = len(self.computed) in (1, self.last)
        ending, self.held = (self.held, []) if at_once else (self.held[:-1], self.held[-1:])
        for each in ending:
            super()._end(*each)


@pytest.mark.timeout(60)
def test_where_trials_are_short_the_next_is_ready_before_a_place_is_free(tmp_path: Path, home: Home) -> None:
    (result,) = sweep(write_sweep(tmp_path), home, Held(5))
    assert result.counts() == {"finished": 5}


def test_wilcoxon_ends_a_trial_between_its_seeds(tmp_path: Path, home: Home) -> None:
    file = write_sweep(tmp_path, seeds=list(range(6)), pruner="wilcoxon", budget={"trials": 3})
    (result,) = sweep(file, home, launcher := Oracle(lambda spec: quality(spec) if rate(spec) == 1e-3 else 1.0))
    assert result.counts() == {"finished": 1, "pruned": 2}
    assert len(launcher.computed) < 3 * 6


def test_two_objectives_leave_a_front(tmp_path: Path, home: Home) -> None:
    points = [(50.0, 5.0), (40.0, 1.0), (45.0, 6.0), (60.0, 9.0), (40.0, 2.0)]
    trials = tuple(TrialRecord(i, "finished", {}, Estimate(p[0], None, 1), p) for i, p in enumerate(points))
    result = StudyResult("front", Objective(against="flops"), trials)
    assert [trial.number for trial in result.front] == [1, 0, 3]
    assert [trial.number for trial in result.finished] == [3, 0, 2, 1, 4]


def test_a_diverged_trial_is_one_that_the_sampler_learns_from(tmp_path: Path, home: Home) -> None:
    class Diverging(Oracle):
        def submit(self, spec: RunSpec, placement: Placement) -> RunFuture:
            if rate(spec) < 5e-3:
                return super().submit(spec, placement)
            future = RunFuture(spec, lambda _: None)
            future.set_running_or_notify_cancel()
            future.set_result(RunOutcome(spec.id, spec.run_name, "diverged", message="the loss is not finite"))
            return future

    (result,) = sweep(write_sweep(tmp_path, budget={"trials": 8}), home, Diverging())
    assert result.counts().keys() == {"finished", "diverged"}
    assert all(trial.score is None for trial in result.trials if trial.outcome == "diverged")


class Failing(Oracle):
    """Every run dies, `times` times; then it is computed."""

    def __init__(self, times: int, *, died: bool = True) -> None:
        super().__init__()
        self.left, self.died, self.asked = times, died, 0

    def submit(self, spec: RunSpec, placement: Placement) -> RunFuture:
        self.asked += 1
        if not self.left:
            return super().submit(spec, placement)
        self.left -= 1
        future = RunFuture(spec, lambda _: None)
        future.set_running_or_notify_cancel()
        future.set_result(RunOutcome(spec.id, spec.run_name, "failed", message="killed", died=self.died))
        return future


def test_a_run_whose_process_died_is_given_to_another(tmp_path: Path, home: Home) -> None:
    (result,) = sweep(write_sweep(tmp_path, budget={"trials": 1}), home, launcher := Failing(1))
    assert result.counts() == {"finished": 1} and launcher.asked == 2


def test_one_failure_after_another_ends_the_sweep(tmp_path: Path, home: Home) -> None:
    file, launcher = write_sweep(tmp_path, budget={"trials": 50}), Failing(10**6, died=False)
    with pytest.raises(TooManyFailures, match="the last with: killed"):
        sweep(file, home, launcher)
    assert launcher.asked == FAILURES


def test_an_interrupted_trial_goes_on_under_its_number(tmp_path: Path, home: Home) -> None:
    class Interrupted(Oracle):
        def submit(self, spec: RunSpec, placement: Placement) -> RunFuture:
            if len(self.computed) == 2:
                raise KeyboardInterrupt
            return super().submit(spec, placement)

    file = write_sweep(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        sweep(file, home, Interrupted())
    (result,) = sweep(file, home, launcher := Oracle())
    assert [trial.number for trial in result.trials] == [0, 1, 2, 3, 4]
    assert result.counts() == {"finished": 5} and len(launcher.computed) == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"space": {RATE: {"low": 1e-4, "high": 0.2, "log": True}}}, f"space.{RATE}.high: 0.1 there, 0.2 in the file"),
        ({"seeds": [0, 1]}, r"seeds: \[0\] there, \[0, 1\] in the file"),
        ({"objective": "vqa"}, "objective.score: mean there, vqa in the file"),
        ({"set": {"stages.train.steps": 50}}, "arms.plain.stages.train.steps: 100 there, 50 in the file"),
    ],
)
def test_a_study_of_another_search_is_not_mixed_with(
    tmp_path: Path, home: Home, change: dict[str, Any], told: str
) -> None:
    sweep(write_sweep(tmp_path, budget={"trials": 1}), home, Oracle())
    with pytest.raises(StudyDiffers, match=told):
        sweep(write_sweep(tmp_path, **change), home, launcher := Oracle())
    assert launcher.computed == []


@pytest.fixture
def recorded(tmp_path: Path, home: Home, published: None) -> str:
    """A sweep of two trials in the tracking store; the id of its own run there."""
    loaded = load_sweep(write_sweep(tmp_path, budget={"trials": 2}))
    studies = open_studies(loaded, home, default_storage(home, "toy"))
    told: dict[str, Any] = {"scale": "paper", "searched": ["stages.*.learning_rate", RANK], "objective": "ocr"}
    parent = record_sweep(home.tracking_uri, loaded.tracked_as, **told)
    runner = Watched(loaded, studies, 1, parent=parent)
    with Campaign(Oracle(), home, runner.hear) as campaign:
        runner.work(campaign)
    record_sweep(home.tracking_uri, loaded.tracked_as, markdown="best: 0", finished=True, **told)
    return parent


def test_trials_stand_below_the_sweep_in_the_store(home: Home, recorded: str) -> None:
    records = read_records(home.tracking_uri, "sweeps/toy")
    assert [r.tags[schema.TRIAL] for r in sorted(records, key=lambda r: r.tags[schema.TRIAL])] == ["0", "1"]
    assert {r.tags[schema.PARENT] for r in records} == {recorded}
    write_views(home.tracking_uri)
    reader = SqliteReader(home.database)
    (number,) = [number for number, name in reader.experiments() if name == "sweeps/toy"]
    view = decoded(reader.experiment_tag(number, tag(RUNS_VIEW)) or "")
    assert view["selectedColumns"][:4] == [
        "tags.`vlm.trial`", "metrics.`score/ocr`", f"params.`{RATE}`", f"params.`{RANK}`"]  # fmt: skip


@needs_browser
@pytest.mark.usefixtures("recorded")
def test_a_sweep_opens_with_its_trials_their_scores_and_what_was_searched(home: Home, tmp_path: Path) -> None:
    with served(str(home.root), 19100) as links:
        runs, charts = shown(links["runs"], tmp_path / "runs"), shown(links["charts"], tmp_path / "charts")
    for trial in ("trial 0", "trial 1"):
        assert f"plain · seed 0 · {trial}" in runs
    own = [name for name in columns(runs) if "`" in name and "Run Name" not in name]
    assert own[:4] == ["tags.`vlm.trial`", "metrics.`score/ocr`", f"params.`{RATE}`", f"params.`{RANK}`"]
    sections = [charts.index(name) for name in ("Trials", "Parallel Coordinates", "Each field", "Cost")]
    assert sections == sorted(sections)
