"""One spec from start to finish: recorded, never run twice, continued to the bit, and every way it can end."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training.squares import STAGE, make_spec, save_parts

from vlm_ablate import storage
from vlm_ablate.errors import StorageError
from vlm_ablate.events import (
    CurvePoint,
    EvaluationProgress,
    Notice,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    StepDone,
)
from vlm_ablate.home import Home
from vlm_ablate.lease import Lease, Owner
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.folder import StageFolder, run_folder
from vlm_ablate.runs.live import LiveRun, ask_to_stop, read_live
from vlm_ablate.runs.log import read_log
from vlm_ablate.runs.outcome import note_from_outside
from vlm_ablate.runs.publishing import publish_missing
from vlm_ablate.runs.results import find_results, find_stages
from vlm_ablate.runs.view import record_of
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.read import read_history, read_records


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    save_parts(folder)
    return folder


def new_home(folder: Path, store: Path) -> Home:
    home = Home(folder).prepare(minimum_free=0)
    shutil.copyfile(store, home.database)
    return home


@pytest.fixture(scope="module")
def straight(tmp_path_factory, parts, store_template):
    """An uninterrupted run: (home, spec, outcome, events)."""
    home, events = new_home(tmp_path_factory.mktemp("straight"), store_template), []
    spec = make_spec(parts, curve={"points": 2, "limit": 4})
    outcome = execute(spec, home=home, reporter=events.append)
    assert outcome.status == "finished", outcome.message
    return home, spec, outcome, events


def stages(home: Home, spec) -> tuple[StageFolder, ...]:
    return find_stages(spec, home)


def weights(home: Home, spec) -> dict[str, torch.Tensor]:
    return load_file(stages(home, spec)[-1].weights)


def predictions(home: Home, spec) -> dict[str, bytes]:
    """Answers of the scores and of the points of the curve."""
    files = [p for stage in stages(home, spec) for p in sorted(stage.root.rglob("*.jsonl")) if p.name != "log.jsonl"]
    return {str(p.relative_to(home.stages)): p.read_bytes() for p in files}


def logged(home: Home, spec) -> list[tuple[int, dict[str, float]]]:
    """Everything that was logged but how fast it went."""
    entries = [entry for stage in stages(home, spec) for entry in read_log(stage.log)]
    by_clock = {schema.TRAIN_TOKENS_PER_S, schema.WAITING}
    return [(e.step, {k: v for k, v in e.values.items() if k not in by_clock}) for e in entries]


def last_record(home, spec):
    return next(r for r in read_records(home.tracking_uri, spec.experiment) if r.id == spec.id)


def assert_same_result(mine, theirs):
    ours, others = weights(*mine), weights(*theirs)
    assert ours.keys() == others.keys()
    assert not [name for name in ours if not torch.equal(ours[name], others[name])]
    assert predictions(*mine) == predictions(*theirs)
    assert logged(*mine) == logged(*theirs)


def test_a_run_is_recorded(straight):
    home, spec, outcome, events = straight
    record = read_records(home.tracking_uri, spec.experiment)[0]
    assert (record.status, record.arm, record.seed, record.id) == ("finished", spec.arm, 0, spec.id)
    assert {(s["column"], s["blind"]) for s in record.scores} == {("colour", False), ("colour", True)}
    assert record.metrics["score/mean"] == outcome.mean == outcome.scores["colour"]
    # Else equal predictions would prove little.
    assert outcome.scores["colour"] > 0
    assert record.tags["vlm.data_fingerprint"]
    assert json.loads(record.tags["vlm.licences"])[0]["licence"] == "CC0-1.0"
    assert record.params["stages.tune.lora.r"] == "2"
    assert record.metrics["seen/images"] == 64
    assert record.metrics["model/params_trainable"] < record.metrics["model/params_total"]
    assert record.metrics["seen/flops"] > 0
    assert outcome.trained == ("align", "tune")
    kinds = [type(e) for e in events]
    assert kinds.count(StageStarted) == kinds.count(StageFinished) == 2
    assert (kinds[0], kinds[-1]) == (RunStarted, RunFinished)
    assert {e.column for e in events if isinstance(e, EvaluationProgress)} == {"colour"}
    assert [e.step for e in events if isinstance(e, CurvePoint)] == [6, 12, 14, 16]


def test_history_against_steps_and_what_was_seen(straight):
    home, spec, *_ = straight
    run = last_record(home, spec).run_id
    history = read_history(home.tracking_uri, run, ["train/loss", "curve/mean", "seen/images"])
    assert [p.step for p in history["train/loss"]] == list(range(2, 17, 2))
    assert [p.step for p in history["curve/mean"]] == [6, 12, 14, 16]
    assert {p.step: p.value for p in history["seen/images"]} == {step: 4 * step for step in range(2, 17, 2)}
    waiting = read_history(home.tracking_uri, run, [schema.WAITING])[schema.WAITING]
    assert [p.step for p in waiting] == list(range(2, 17, 2)) and all(0 < p.value < 1 for p in waiting)


def test_artifacts(straight):
    home, spec, *_ = straight
    record = read_records(home.tracking_uri, spec.experiment)[0]
    root = Path(record.artifact_uri.removeprefix("file://"))
    names = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    assert names >= {"config.yaml", "plan.json", "examples.png", "predictions/predictions.csv"}
    table = (root / "predictions" / "predictions.csv").read_text().splitlines()
    assert len(table) == 1 + 2 * 8
    assert (root / "examples.png").read_bytes().startswith(b"\x89PNG")
    names = set(weights(home, spec))
    assert any("lora_A" in name for name in names)
    assert not any(name.startswith("vision.") for name in names)  # frozen all along


def test_a_finished_run_is_not_run_again(straight, parts):
    home, spec, outcome, _ = straight
    events = []
    again = execute(spec, home=home, reporter=events.append)
    assert again.reused
    assert (again.scores, again.blind) == (outcome.scores, outcome.blind)
    assert [type(e) for e in events] == [RunFinished]
    assert len(read_records(home.tracking_uri, spec.experiment)) == 1


def test_another_table_that_needs_the_same_run_gets_its_results(straight, parts):
    home, spec, outcome, _ = straight
    twin = make_spec(parts, curve={"points": 2, "limit": 4}, experiment="tests/other", arm="the_same")
    assert twin.id != spec.id and twin.stage_keys[-1].key == spec.stage_keys[-1].key
    again = execute(twin, home=home)
    assert again.scores == outcome.scores and again.reused
    assert publish_missing(home, home.tracking_uri, print) == 1
    (record,) = read_records(home.tracking_uri, "tests/other")
    assert record.arm == "the_same" and record.metrics["score/mean"] == outcome.mean


def test_two_runs_of_one_seed_are_equal_to_the_bit(straight, home):
    _, spec, *_ = straight
    execute(spec, home=home)
    assert_same_result((home, spec), straight[:2])


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


def assert_continues(home: Home, straight, step: int) -> None:
    """The unfinished run is recorded as such; continued from `step` it gives what the uninterrupted one gave."""
    _, spec, outcome, _ = straight
    record = record_of(find_results(spec, home))
    assert (record.status, record.scores) == ("running", [])
    events = []
    assert execute(spec, home=home, reporter=events.append).scores == outcome.scores
    assert not [p for p in home.stages.rglob("checkpoint-*") if p.is_file()]
    assert next(e for e in events if isinstance(e, RunStarted)).resumed_step == step
    assert_same_result((home, spec), straight[:2])
    assert len(read_records(home.tracking_uri, spec.experiment)) == 1


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


def test_arms_of_one_seed_see_the_same_data(parts, home, monkeypatch):
    from vlm_ablate.training.module import TrainingModule

    shown: list[list[str]] = []
    step = TrainingModule.training_step
    monkeypatch.setattr(
        TrainingModule, "training_step", lambda self, b, i: (shown[-1].extend(b.sample_ids), step(self, b, i))[1]
    )
    short = {"only": STAGE | {"steps": 2}}
    for arm in (
        make_spec(parts, stages=short, blind=False),
        make_spec(parts, stages=short, blind=False, connector={"name": "mlp"}, architecture="cross_attention"),
        make_spec(parts, stages={"only": short["only"] | {"language": "lora"}}, blind=False),
        make_spec(parts, stages=short, blind=False, seed=1),
    ):
        shown.append([])
        outcome = execute(arm, home=home)
        assert outcome.status == "finished", outcome.message
    assert len(shown[0]) == 8
    assert shown[0] == shown[1] == shown[2] != shown[3]


def test_diverged_is_recorded_as_a_result(parts, home):
    wild = {"only": STAGE | {"steps": 30, "learning_rate": 1e6, "gradient_clip": None, "divergence_loss_ratio": 1.5}}
    spec = make_spec(parts, stages=wild)
    outcome = execute(spec, home=home)
    assert outcome.status == last_record(home, spec).status == "diverged"
    assert "step" in outcome.message
    assert not outcome.scores
    assert execute(spec, home=home).reused


def test_a_missing_asset_skips_the_run(parts, home):
    spec = make_spec(parts, source={"missing": True})
    outcome = execute(spec, home=home)
    assert outcome.status == last_record(home, spec).status == "skipped"
    assert "install the squares" in outcome.message
    # Installed later, the run is made.
    assert not execute(spec, home=home).reused


def test_a_failure_is_recorded_with_its_traceback(parts, home):
    spec = make_spec(parts, stages={"only": STAGE | {"language": "lora", "lora": {"language_targets": ["nowhere"]}}})
    outcome = execute(spec, home=home)
    assert outcome.status == last_record(home, spec).status == "failed"
    assert "match no module" in outcome.message


def test_an_unexpected_failure_keeps_its_traceback(parts, home, monkeypatch):
    monkeypatch.setattr("vlm_ablate.runs.train.train_stage", lambda job: 1 / 0)
    spec = make_spec(parts)
    outcome = execute(spec, home=home)
    assert outcome.status == "failed"
    assert outcome.message == "ZeroDivisionError: division by zero"
    root = Path(last_record(home, spec).artifact_uri.removeprefix("file://"))
    assert "1 / 0" in (root / "traceback.txt").read_text()


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


def test_a_folder_that_cannot_be_written_is_one_clear_error(parts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        execute(make_spec(parts), home=Home(tmp_path / "file" / "home"))


def test_too_little_space_is_one_clear_error(tmp_path):
    with pytest.raises(StorageError, match="are needed"):
        Home(tmp_path).prepare(minimum_free=2**60)


# --- two who want the same run ----------------------------------------------------------------------------------------

STOPPED = """
    import os, signal
    from pathlib import Path
    from training.squares import make_spec
    from vlm_ablate.events import StepDone
    from vlm_ablate.home import Home
    from vlm_ablate.runs.execute import execute
    from vlm_ablate.training.callbacks import Monitor
    Monitor.event_interval = 0.0
    def pause(event):
        if isinstance(event, StepDone) and event.step == 9:
            print("stops", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
    outcome = execute(make_spec(Path({parts!r}), curve={{"points": 2, "limit": 4}}), home=Home(Path({home!r})),
                      reporter=pause)
    print(outcome.status, outcome.message, flush=True)
"""


def left_by(folder: Path, token: int, **owner: object) -> None:
    """The lease of a process that did not give it back."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {"host": "afar", "pid": 7, "started": 1, "system": "another", "id": "x", "ttl": 1.0}
    (folder / f".lease-{token}").write_text(json.dumps(asdict(Owner(**(known | owner)))))


def contents(home: Home, spec) -> dict[Path, bytes]:
    """All that is written of a run, by file."""
    roots = [run_folder(home, spec.id).root, *(stage.root for stage in stages(home, spec))]
    return {path: path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file()}


def test_an_owner_that_was_stopped_wakes_up_and_writes_nothing(straight, parts, home, monkeypatch):
    """SIGSTOP in step 9; meanwhile another goes on from the checkpoint of step 8."""
    monkeypatch.setenv("VLM_ABLATE_LEASE_SECONDS", "2")
    code = textwrap.dedent(STOPPED).format(parts=str(parts), home=str(home.root))
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1]}{os.pathsep}{Path(__file__).parents[2]}"}
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert other.stdout and other.stdout.readline() == "stops\n"
        events = []
        outcome = execute(straight[1], home=home, reporter=events.append)
        assert (outcome.status, outcome.scores) == ("finished", straight[2].scores)
        assert f"waits for process {other.pid}" in next(e.message for e in events if isinstance(e, Notice))
        assert next(e for e in events if isinstance(e, RunStarted)).resumed_step == 8
        before = contents(home, straight[1])
        other.send_signal(signal.SIGCONT)
        said = other.communicate(timeout=120)[0]
    finally:
        other.kill()
    assert said.startswith("failed ") and "is written by another process now" in said
    assert contents(home, straight[1]) == before
    assert_same_result((home, straight[1]), straight[:2])
    assert len(read_records(home.tracking_uri, straight[1].experiment)) == 1


def test_a_machine_that_died_and_a_file_system_without_locks_keep_nobody_out(straight, home, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    folder, events = run_folder(home, straight[1].id).root, []
    left_by(folder, 4)
    assert execute(straight[1], home=home, reporter=events.append).status == "finished"
    assert "waits for process 7 on afar" in next(e.message for e in events if isinstance(e, Notice))
    assert [file.name for file in folder.glob(".lease-*")] == [".lease-5-free"]
    assert_same_result((home, straight[1]), straight[:2])


def test_a_stage_that_another_run_took_over_is_waited_for_and_continued(straight, home, monkeypatch):
    monkeypatch.setattr("vlm_ablate.training.callbacks.Monitor.event_interval", 0.0)
    monkeypatch.setattr("vlm_ablate.runs.log._RECENT", 0.0)
    events = []

    def lose(event):
        events.append(event)
        if isinstance(event, StepDone) and event.step == 15 and len(events) < 40:
            left_by(stages(home, straight[1])[-1].root, 9)
            events.extend([event] * 40)

    assert execute(straight[1], home=home, reporter=lose).scores == straight[2].scores
    told = [event.message for event in events if isinstance(event, Notice)]
    assert any("is written by another process now (process 7 on afar)" in message for message in told), told
    assert [event.resumed_step for event in events if isinstance(event, RunStarted)] == [0, 14]
    assert_same_result((home, straight[1]), straight[:2])


def test_a_file_stops_a_run_early_and_another_tells_where_it_is(straight, home, monkeypatch):
    monkeypatch.setattr("vlm_ablate.training.callbacks.Monitor.event_interval", 0.0)
    monkeypatch.setattr("vlm_ablate.runs.execute.BEAT_SECONDS", 0.02)
    monkeypatch.setattr("vlm_ablate.runs.live.WRITE_SECONDS", 0.0)
    monkeypatch.setenv("VLM_ABLATE_LAUNCHER", "a test")
    spec, seen = straight[1], []
    folder = run_folder(home, spec.id)

    def ask(event):
        if isinstance(event, StepDone):
            time.sleep(0.2)
            seen.append(read_live(folder))
            if event.step == 3:
                ask_to_stop(folder)
                time.sleep(0.5)

    outcome = execute(spec, home=home, reporter=ask)
    assert (outcome.status, outcome.message) == ("stopped", "stopped after step 3")
    live = seen[-1]
    assert isinstance(live, LiveRun) and live.age_seconds < 60
    assert (live.run, live.pid, live.launcher, live.token) == (spec.id, os.getpid(), "a test", 1)
    assert (live.doing, live.stage, live.step, live.total) == ("training", "align", 3, 16)
    assert not folder.live.exists() and not folder.stop.exists() and read_live(folder) is None
    assert stages(home, spec)[0].root.joinpath("log.jsonl").exists()
    assert execute(spec, home=home).scores == straight[2].scores
    assert_same_result((home, spec), straight[:2])


def test_who_does_not_compute_a_run_does_not_say_how_it_ended(straight, home):
    spec = straight[1]
    folder = run_folder(home, spec.id)
    with Lease.acquire(folder.root):
        note_from_outside(spec, home, "failed", "its worker is gone")
        assert folder.read() is None
    note_from_outside(spec, home, "failed", "its worker is gone")
    assert folder.read()["status"] == "failed"


def test_a_run_of_packed_rows_without_padding_says_so(parts, home):
    """How attention is computed is recorded and in no key; what is packed is in the key."""
    packed = {"align": STAGE | {"steps": 2, "data": {"packing": "rows", "sequence_length": 24}}}
    specs = [
        make_spec(parts, stages=packed, execution={"attention": attention}) for attention in ("documents", "padded")
    ]
    assert specs[0].stage_keys[0].key == specs[1].stage_keys[0].key
    loose = make_spec(parts, stages={"align": STAGE | {"steps": 2, "data": {"sequence_length": 24}}})
    assert loose.stage_keys[0].key != specs[0].stage_keys[0].key
    assert execute(specs[0], home=home).status == "finished"
    ended = stages(home, specs[0])[0].outcome()
    assert ended["execution"]["attention"] == "documents"
    assert ended["seen"]["sequences"] > 2 * STAGE["batch_size"], "rows hold several samples each"
