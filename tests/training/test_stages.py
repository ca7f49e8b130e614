"""Stages in order, continued from anywhere with the very same result; divergence; progress."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from vlm_ablate.config.execution import Execution
from vlm_ablate.config.stages import Stage, Training
from vlm_ablate.errors import Diverged, ModelError, StorageError
from vlm_ablate.events import Checkpointed, StageStarted, StepDone
from vlm_ablate.training.interruption import StopRequested
from vlm_ablate.training.module import TrainingModule
from vlm_ablate.training.stages import TrainingJob, curve_steps, steps_done, train_stages

from .rows import RowData, SmallVLM, sample_row


def adapt(vlm, stage, execution=None):
    """Freeze and unfreeze by part: enough to tell stages apart."""
    vlm.requires_grad_(False)
    vlm.connector.requires_grad_(stage.connector == "full")
    vlm.language.requires_grad_(stage.language is Training.full)
    vlm.vision.requires_grad_(stage.vision is Training.full)


STAGES = {
    "align": Stage(steps=6, batch_size=4, warmup_steps=2, learning_rate=1e-2, schedule="cosine", neftune_alpha=5.0),
    "tune": Stage(steps=5, batch_size=4, learning_rate=1e-3, language="full", vision="full", weight_decay=0.1),
}  # fmt: skip
EXECUTION = Execution(checkpoint_every=2, log_every=3, stages={"align": {"micro_batch_size": 2}})


def data_of(stages):
    """The data of a stage by its name, as a run gives it."""

    def data(name, start):
        return RowData(stages[name], start, EXECUTION.of_stage(name).micro_batch_size)

    return data


def make_plan(folder: Path, events=None, stages=None, **values) -> TrainingJob:
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    events = [] if events is None else events
    defaults = dict(
        vlm=SmallVLM(), stages=stages or STAGES, data=data_of(stages or STAGES), apply_training=adapt, folder=folder,
        run="r", execution=EXECUTION,
        init_seed=1, dropout_seed=2, reporter=events.append, track=events.append,
    )  # fmt: skip
    return TrainingJob(**(defaults | values))


def weights(plan: TrainingJob) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in plan.vlm.state_dict().items()}


def assert_bit_equal(mine, theirs):
    assert mine.keys() == theirs.keys()
    different = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert not different


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    events = []
    plan = make_plan(tmp_path_factory.mktemp("straight"), events)
    seen = train_stages(plan)
    return weights(plan), seen, events


def stop_after(step: int, plan: TrainingJob):
    """A reporter that asks to stop when the checkpoint before `step` is done."""

    def report(event):
        if isinstance(event, StepDone) and event.step >= step:
            plan.interruption.request()

    return report


@pytest.mark.parametrize("step", [1, 4, 6, 7, 9])
def test_stopped_and_continued_equals_uninterrupted(tmp_path, straight, step, monkeypatch):
    monkeypatch.setattr("vlm_ablate.training.callbacks.Monitor.event_interval", 0.0)
    holder = []
    plan = make_plan(tmp_path, reporter=lambda event: stop_after(step, holder[0])(event))
    holder.append(plan)
    with pytest.raises(StopRequested):
        train_stages(plan)
    # A stop asked for in the last step of a stage is honoured after the first step of the next one.
    assert steps_done(plan) == (step if step != 6 else 7)
    events = []
    again = make_plan(tmp_path, events)
    seen = train_stages(again)
    assert_bit_equal(weights(again), straight[0])
    assert seen == straight[1]
    tracked = {e.step: (e.loss, e.grad_norm, e.learning_rate) for e in events if hasattr(e, "grad_norm")}
    expected = {e.step: (e.loss, e.grad_norm, e.learning_rate) for e in straight[2] if hasattr(e, "grad_norm")}
    assert tracked
    assert tracked.items() <= expected.items()


def test_between_stages(tmp_path, straight):
    plan = make_plan(tmp_path)

    def refuse(stage, start):
        if start:
            raise RuntimeError("killed between stages")
        return data_of(STAGES)(stage, start)

    with pytest.raises(RuntimeError):
        train_stages(make_plan(tmp_path, data=refuse))
    assert steps_done(plan) == 6
    train_stages(plan)
    assert_bit_equal(weights(plan), straight[0])


def test_a_finished_run_is_only_loaded(tmp_path, straight):
    train_stages(make_plan(tmp_path))
    events = []
    plan = make_plan(tmp_path, events, data=None)
    seen = train_stages(plan)
    assert seen == straight[1]
    assert not events
    assert_bit_equal(weights(plan), straight[0])


KILLED = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import torch; torch.set_num_threads(1)
    from training.test_stages import make_plan, train_stages
    from vlm_ablate.training.callbacks import Monitor
    Monitor.event_interval = 0.0
    def die(event):
        if getattr(event, "step", 0) == {step} and type(event).__name__ == "StepDone":
            os.kill(os.getpid(), signal.SIGKILL)
    train_stages(make_plan(Path({folder!r}), reporter=die))
"""


def test_killed_and_continued_equals_uninterrupted(tmp_path, straight):
    """SIGKILL in step 10, two steps after a checkpoint was due; the partial step is lost, the result is not."""
    code = textwrap.dedent(KILLED).format(tests=str(Path(__file__).parents[1]), step=9, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr
    plan = make_plan(tmp_path)
    assert steps_done(plan) == 8
    train_stages(plan)
    assert_bit_equal(weights(plan), straight[0])


def test_what_is_random_elsewhere_changes_nothing(tmp_path, straight):
    """A curve evaluation that draws random numbers and sets modes leaves training as it was."""
    points = []

    def measure(step, seen):
        torch.rand(3)
        points.append((step, seen.sequences))

    plan = make_plan(tmp_path, measure=measure, curve_steps=curve_steps(11, 3))
    train_stages(plan)
    assert points == [(4, 16), (7, 28), (11, 44)]
    assert_bit_equal(weights(plan), straight[0])


def test_events_and_counts(straight):
    _, seen, events = straight
    assert [e.stage for e in events if isinstance(e, StageStarted)] == ["align", "tune"]
    assert [e.step for e in events if isinstance(e, Checkpointed)] == [2, 4, 8, 10]
    assert [e.step for e in events if hasattr(e, "grad_norm")] == [3, 6, 9, 11]
    assert (seen.sequences, seen.images, seen.visual_tokens) == (44, 44, 176)
    rows = [sample_row(i) for i in range(44)]
    assert seen.text_tokens == sum(int(row["mask"].sum()) for row in rows) - 176
    assert seen.supervised_tokens == sum(int((row["labels"] != -100).sum()) for row in rows)
    last = [e for e in events if isinstance(e, StepDone)][-1]
    assert (last.step, last.steps) == (11, 11)


def test_checkpoints_hold_only_what_is_trained(tmp_path):
    plan = make_plan(tmp_path)
    adapt(plan.vlm, STAGES["align"])
    names = set(TrainingModule(plan.vlm, STAGES["align"]).state_dict())
    assert {n for n in names if "running" not in n and "num_batches" not in n} == {
        "vlm.connector.weight", "vlm.connector.bias",
    }  # fmt: skip


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    plan = make_plan(tmp_path)
    adapt(plan.vlm, STAGES["align"])
    with pytest.raises(ModelError, match=r"connector\.bias"):
        TrainingModule(plan.vlm, STAGES["align"]).load_state_dict({})


def test_exploding_loss_is_divergence(tmp_path):
    stages = {"only": Stage(steps=30, batch_size=4, learning_rate=5.0, gradient_clip=None, language="full")}
    with pytest.raises(Diverged, match="times the first loss 4"):
        train_stages(make_plan(tmp_path, stages=stages))


def test_not_finite_is_divergence(tmp_path):
    plan = make_plan(tmp_path)
    with torch.no_grad():
        plan.vlm.connector.weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match="not finite at step 1"):
        train_stages(plan)


@pytest.mark.parametrize("name", ["stage-0-last.ckpt", "stage-0-final.pt"])
def test_full_disk_while_saving(tmp_path, name):
    plan = make_plan(tmp_path)
    (tmp_path / f".{name}.{os.getpid()}.partial").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=f"cannot write .*{name}: the disk is full"):
        train_stages(plan)
    assert not (tmp_path / name).exists()


def test_damaged_state_is_named(tmp_path):
    train_stages(make_plan(tmp_path))
    plan = make_plan(tmp_path)
    plan.final_path(0).write_bytes(plan.final_path(0).read_bytes()[:100])
    with pytest.raises(StorageError, match="stage-0-final"):
        train_stages(plan)
