"""A sweep of real runs from its file to its winner's score on the report split, as a person does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.pruners import ThresholdPruner

from tests.command import call
from vlm_ablate.cli.plan import plan_arms
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.home import Home
from vlm_ablate.launch.base import RunFuture
from vlm_ablate.runs.folder import StageFolder
from vlm_ablate.runs.log import read_log
from vlm_ablate.sweeps.cost import Costs
from vlm_ablate.sweeps.loading import load_sweep
from vlm_ablate.sweeps.trials import OpenTrial, StudyTrials
from vlm_ablate.training.checkpoint import CheckpointFiles

ROOT = Path(__file__).parents[2]
ARM = "ar_linear_frozen"
RATE = "stages.pretrain.learning_rate"
ASKED = {
    "evaluation.benchmarks.*.benchmark.items": 12,
    "evaluation.benchmarks.*.limit": 4,
    "evaluation.curve": {"points": 2, "limit": 2},
}
TINY = {"stages.*.steps": 4, "stages.*.warmup_steps": 0, "data.mixture.*.source.rows": 32, **ASKED}

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.usefixtures("offline_material", "published"),
    pytest.mark.timeout(900),
]


def write(folder: Path, **changes: Any) -> str:
    body: dict[str, Any] = {
        "name": "tiny",
        "experiment": {"file": "idefics2/t03_architecture", "arms": ARM, "scale": "laptop"},
        "set": TINY,
        "space": {RATE: [1.5e-3, 5e-3]},
        "sampler": "grid",
    }
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**body, **changes}))
    return str(file)


def test_from_a_sweep_file_to_its_winner(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    file, place = write(tmp_path), ("--home", str(home.root))

    planned = call("sweep", "plan", file)
    assert planned.exit_code == 0, planned.output
    assert "2 trials of 1 seed, 2 runs at most" in planned.stdout and "as the file has it" in planned.stdout

    ran = call("sweep", file, "--jobs", "1", *place)
    assert ran.exit_code == 0, ran.output
    assert "2 finished" in ran.stdout
    again = call("sweep", file, "--jobs", "1", *place)
    assert again.exit_code == 0 and "trial 0" not in again.stdout, "nothing is left to do"

    shown = call("sweep", "show", file, *place)
    assert "2 finished" in shown.stdout and "as the file has it" in shown.stdout and "one seed a trial" in shown.stdout
    drawn = call("sweep", "plots", file, "--out", str(tmp_path / "plots"), *place)
    assert drawn.exit_code == 0, drawn.output
    assert {path.name for path in (tmp_path / "plots").glob("*.png")} == {"history.png", "slice.png"}

    tuned = tmp_path / "tuned.yaml"
    applied = call("sweep", "apply", file, str(tuned), *place)
    assert applied.exit_code == 0, applied.output
    assert call("sweep", "apply", file, str(tuned), *place).exit_code == 1, "a file that is there stays"
    arm = load_experiment(tuned).arms[ARM]
    assert arm.label.endswith("(tuned)") and arm.tuned is not None and arm.tuned.sweep == "tiny"
    assert arm.config.stages["pretrain"].learning_rate in (1.5e-3, 5e-3)
    elsewhere = load_experiment(tuned, scale="paper")
    assert elsewhere.arms[ARM].tuned is None and any("tuned at scale 'laptop'" in w for w in elsewhere.warnings)

    before = {folder.name for folder in home.stages.iterdir()}
    sets = [part for field, value in ASKED.items() for part in ("--set", f"{field}={value}".replace("'", ""))]
    command = (str(tuned), "--arms", ARM, "--seeds", "0", *sets, *place)
    scored = call("run", *command, "--jobs", "1")
    assert scored.exit_code == 0, scored.output
    assert {folder.name for folder in home.stages.iterdir()} == before, "the winner is scored, not trained"
    table = call("table", *command, "--format", "markdown")
    assert "(tuned)" in table.stdout and "of the sweep tiny" in table.stdout


@pytest.mark.expensive
def test_a_pruned_run_stops_within_a_step_and_a_later_command_goes_on_from_its_checkpoint(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker process trains on while the pruner is asked; after its answer it may end the step in progress."""
    monkeypatch.chdir(ROOT)
    asked = TINY | {
        "stages.*.steps": 120, "stages.*.batch_size": 4, "data.mixture.*.source.rows": 480, "execution.log_every": 1,
        "evaluation.curve": {"points": 3, "limit": 1},
    }  # fmt: skip
    file = write(
        tmp_path, set=asked, pruner="median", space={RATE: {"low": 1e-3, "high": 5e-3}}, sampler="random",
        budget={"trials": 1},
    )  # fmt: skip
    monkeypatch.setattr("vlm_ablate.sweeps.storage.pruner_of", lambda loaded: ThresholdPruner(upper=-1.0))
    report, stop, seen = StudyTrials.report, RunFuture.stop, dict[str, int]()

    def steps() -> int:
        (stage,) = home.stages.iterdir()
        return max(entry.step for entry in read_log(StageFolder(stage).log))

    def reported(self: StudyTrials, trial: OpenTrial, step: int, value: float) -> bool:
        behind = report(self, trial, step, value)
        seen["when it was decided"] = steps()
        return behind

    def stopped(self: RunFuture) -> None:
        stop(self)
        seen["when the process was told"] = steps()

    monkeypatch.setattr(StudyTrials, "report", reported)
    monkeypatch.setattr(RunFuture, "stop", stopped)
    ran = call("sweep", file, "--jobs", "1", "--home", str(home.root))
    assert ran.exit_code == 0 and "1 pruned" in ran.output, ran.output
    (stage,) = home.stages.iterdir()
    ((step, _),) = CheckpointFiles(stage).found()
    assert 40 <= seen["when it was decided"] <= seen["when the process was told"] <= step == steps() < 80, seen
    assert step - seen["when the process was told"] <= 1, "it ends the step in progress"
    assert step - seen["when it was decided"] <= 2, "at most one other ends on the way to the process"
    assert not (stage / "outcome.json").exists()

    sets = [part for field, value in asked.items() for part in ("--set", f"{field}={value}".replace("'", ""))]
    later = call("run", "idefics2/t03_architecture", "--arms", ARM, "--seeds", "0", "--jobs", "1", *sets,
                 "--home", str(home.root))  # fmt: skip
    assert later.exit_code == 0 and f"continuing from step {step}" in later.output, later.output
    assert [folder.name for folder in home.stages.iterdir()] == [stage.name] and steps() == 120


def test_hours_of_a_trial_are_those_that_plan_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlm_ablate.accounting import SampleShape, Sharding

    monkeypatch.chdir(ROOT)
    loaded = load_sweep(write(tmp_path))
    arm = loaded.base.arms[ARM]
    plans, errors = plan_arms([arm], sample=SampleShape(), sharding=Sharding("zero3"))
    assert errors == {}
    hours = sum(stage.gpu_hours() for stage in plans[ARM].stages.values())
    assert hours > 0 and Costs().cost(arm.config).gpu_hours == hours


def test_a_trial_that_cannot_fit_is_never_started(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    file = write(tmp_path, constraints={"peak_memory_gib": 1e-3})
    ran = call("sweep", file, "--jobs", "1", "--home", str(home.root))
    assert ran.exit_code == 0, ran.output
    assert "2 does not fit" in ran.stdout
    assert list(home.stages.iterdir()) == []
