"""One spec disturbed at any moment: continued to the bit, nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from training.squares import make_spec

from tests.runs.executed import assert_continues, assert_same_result, logged, stages
from tests.waiting import wait_for
from vlm_ablate import storage
from vlm_ablate.events import EvaluationProgress, StageFinished, StepDone
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.live import LiveRun, ask_to_stop, read_live
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.view import record_of
from vlm_ablate.tracking import schema

KILLED = """
    import os, signal
    from pathlib import Path
    from training.squares import make_spec
    from vlm_ablate.home import Home
    from vlm_ablate.runs.execute import execute
    from vlm_ablate.training.callbacks import Monitor
    Monitor.event_interval = 0.0
    def die(event):
        if type(event).__name__ == "StepDone" and event.step == 15:
            os.kill(os.getpid(), signal.SIGKILL)
    execute(make_spec(Path({parts!r}), curve={{"points": 2, "limit": 4}}), home=Home(Path({home!r})), reporter=die)
"""


def test_killed_and_continued_equals_uninterrupted(straight, parts, home):
    """SIGKILL in step 15, one step after a checkpoint."""
    code = textwrap.dedent(KILLED).format(parts=str(parts), home=str(home.root))
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1]}{os.pathsep}{Path(__file__).parents[2]}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert_continues(home, straight, 14)


def test_what_was_logged_after_the_last_checkpoint_is_logged_once(straight, parts, home, monkeypatch):
    monkeypatch.setattr("vlm_ablate.training.callbacks.Monitor.event_interval", 0.0)

    def fail(event):
        if isinstance(event, StepDone) and event.step == 9:
            raise RuntimeError("step 8 is logged, and the last checkpoint is of step 5")

    spec = make_spec(parts, curve={"points": 2, "limit": 4}, execution={"checkpoint_every": 5})
    assert execute(spec, home=home, reporter=fail).status == "failed"
    assert execute(spec, home=home).status == "finished"
    assert logged(home, spec) == logged(*straight[:2])


def test_sigterm_while_training_stops_after_a_checkpoint(straight, home, monkeypatch):
    monkeypatch.setattr("vlm_ablate.training.callbacks.Monitor.event_interval", 0.0)

    def stop(event):
        if isinstance(event, StepDone) and event.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
        execute(straight[1], home=home, reporter=stop)
    assert_continues(home, straight, 3)


def test_what_a_stopped_process_worked_counts_for_the_stage(straight, home, monkeypatch):
    monkeypatch.setattr("vlm_ablate.training.callbacks.Monitor.event_interval", 0.0)
    spec, away, began_cpu = straight[1], 1.5, time.process_time()

    def stop(event):
        if isinstance(event, StepDone) and event.step == 3:
            time.sleep(away)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        execute(spec, home=home, reporter=stop)
    time.sleep(away)  # nobody works
    began = time.monotonic()
    outcome = execute(spec, home=home)
    took = time.monotonic() - began
    first, second = (stage.outcome()["seconds"] for stage in stages(home, spec))
    assert away <= outcome.before <= first <= outcome.before + outcome.seconds
    assert outcome.seconds <= took and second <= took
    assert all(0 < stage.outcome()["cpu_seconds"] <= time.process_time() - began_cpu for stage in stages(home, spec))
    assert record_of(find_results(spec, home)).metrics[schema.CPU_SECONDS] > 0


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_between_micro_batches_waits_for_the_step(kind, straight, home, monkeypatch):
    from vlm_ablate.training.module import TrainingModule

    step = TrainingModule.training_step

    def stop(module, batch, index):
        if module.trainer.global_step == 2 and module.micro_batch == 0:
            os.kill(os.getpid(), kind)
        return step(module, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", stop)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
        execute(straight[1], home=home)
    monkeypatch.undo()
    assert_continues(home, straight, 3)


def test_sigterm_before_the_first_step(straight, home, monkeypatch):
    from vlm_ablate.data.module import VLMDataModule

    loader = VLMDataModule.train_dataloader
    monkeypatch.setattr(
        VLMDataModule, "train_dataloader", lambda self: (os.kill(os.getpid(), signal.SIGTERM), loader(self))[1]
    )
    with pytest.raises(KeyboardInterrupt, match="before the first step"):
        execute(straight[1], home=home)
    monkeypatch.undo()
    assert_continues(home, straight, 0)


def test_ctrl_c_while_evaluating_keeps_the_answers(straight, home):
    def stop(event):
        if isinstance(event, EvaluationProgress) and event.blind:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        execute(straight[1], home=home, reporter=stop)
    assert list(stages(home, straight[1])[-1].scores.glob("*/predictions.jsonl"))
    assert_continues(home, straight, 16)


def test_a_full_disk_fails_the_run_and_loses_nothing(parts, home, straight, monkeypatch):
    _, spec, outcome, _ = straight
    made = storage._new_partial

    def full(path, mode):
        """A new file whose disk is full, where a checkpoint is written."""
        if not path.name.startswith("checkpoint-"):
            return made(path, mode)
        return path.with_name("full"), os.open("/dev/full", os.O_WRONLY)

    def fill(event):
        if isinstance(event, StageFinished) and event.stage == "align":
            monkeypatch.setattr(storage, "_new_partial", full)

    failed = execute(spec, home=home, reporter=fill)
    assert failed.status == "failed"
    assert "the disk is full" in failed.message
    assert stages(home, spec)[0].done
    monkeypatch.setattr(storage, "_new_partial", made)
    again = execute(spec, home=home)
    assert again.scores == outcome.scores and again.trained == ("tune",)


def test_a_file_stops_a_run_early_and_another_tells_where_it_is(straight, home, monkeypatch):
    monkeypatch.setattr("vlm_ablate.training.callbacks.Monitor.event_interval", 0.0)
    monkeypatch.setattr("vlm_ablate.runs.execute.BEAT_SECONDS", 0.02)
    monkeypatch.setattr("vlm_ablate.runs.live.WRITE_SECONDS", 0.0)
    monkeypatch.setenv("VLM_ABLATE_LAUNCHER", "a test")
    spec, seen = straight[1], []
    folder = run_folder(home, spec.id)

    def ask(event):
        if isinstance(event, StepDone):
            wait_for(lambda: (live := read_live(folder)) is not None and live.step == event.step)
            seen.append(read_live(folder))
            if event.step == 3:
                ask_to_stop(folder)
                wait_for(lambda: not folder.stop.exists())  # it was heard

    outcome = execute(spec, home=home, reporter=ask)
    assert (outcome.status, outcome.message) == ("stopped", "stopped after step 3")
    live = seen[-1]
    assert isinstance(live, LiveRun) and live.started_ms <= live.updated_ms <= time.time() * 1000
    assert (live.run, live.pid, live.launcher, live.token) == (spec.id, os.getpid(), "a test", 1)
    assert (live.doing, live.stage, live.step, live.total) == ("training", "align", 3, 16)
    assert not folder.live.exists() and not folder.stop.exists() and read_live(folder) is None
    assert stages(home, spec)[0].root.joinpath("log.jsonl").exists()
    assert execute(spec, home=home).scores == straight[2].scores
    assert_same_result((home, spec), straight[:2])
