"""A stage continued from anywhere with the very same result; damaged checkpoints; divergence; progress."""

import math
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vlm_ablate import storage
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.stages import Stage, Training
from vlm_ablate.errors import Diverged, ModelError, StorageError
from vlm_ablate.events import Checkpointed, StepDone
from vlm_ablate.training.callbacks import CurvePoints, DivergenceDetector, Monitor
from vlm_ablate.training.checkpoint import CheckpointFiles
from vlm_ablate.training.counters import Seen
from vlm_ablate.training.interruption import StopRequested
from vlm_ablate.training.module import TrainingModule
from vlm_ablate.training.shards import begin
from vlm_ablate.training.stages import StageJob, curve_steps, prepare, train_stage

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


@dataclass
class Trained:
    """A model brought through stages in a folder, as far as it came."""

    folder: Path
    stages: dict = field(default_factory=lambda: STAGES)
    events: list = field(default_factory=list)
    tracked: list = field(default_factory=list)
    notices: list = field(default_factory=list)
    stop_at: int | None = None
    job: dict = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)

    def __post_init__(self):
        torch.manual_seed(0)
        self.vlm = SmallVLM()

    def files(self, name):
        return CheckpointFiles(self.folder / name, self.notices.append)

    def prepare(self, name):
        prepare(self.vlm, self.stages[name], list(self.stages).index(name), 1, adapt)

    def stage_job(self, name) -> StageJob:
        stage, names = self.stages[name], list(self.stages)
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        execution = EXECUTION.of_stage(name)
        job = StageJob(
            vlm=self.vlm, stage=stage, execution=execution, index=names.index(name),
            data=RowData(stage, self.seen.sequences, execution.micro_batch_size), checkpoints=self.files(name), run="r",
            dropout_seed=2, first_step=sum(self.stages[n].steps for n in names[: names.index(name)]),
            total_steps=sum(s.steps for s in self.stages.values()), seen=self.seen,
            reporter=lambda event: self.report(job, event), track=self.tracked.append, **self.job,
        )  # fmt: skip
        return job

    def report(self, job, event):
        self.events.append(event)
        if self.stop_at is not None and isinstance(event, StepDone) and event.step >= self.stop_at:
            job.interruption.request()

    def train(self):
        for name in self.stages:
            self.prepare(name)
            self.seen = train_stage(self.stage_job(name))
        return self

    def weights(self):
        return {k: v.clone() for k, v in self.vlm.state_dict().items()}


def assert_bit_equal(mine, theirs):
    assert mine.keys() == theirs.keys()
    different = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert not different


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("straight")).train()


@pytest.mark.parametrize("step", [1, 4, 6, 7, 9])
def test_stopped_and_continued_equals_uninterrupted(tmp_path, straight, step, monkeypatch):
    monkeypatch.setattr("vlm_ablate.training.callbacks.Monitor.event_interval", 0.0)
    with pytest.raises(StopRequested):
        Trained(tmp_path, stop_at=step).train()
    again = Trained(tmp_path).train()
    assert_bit_equal(again.weights(), straight.weights())
    assert again.seen == straight.seen
    tracked = {m.step: (m.loss, m.grad_norm, m.learning_rate) for m in again.tracked}
    expected = {m.step: (m.loss, m.grad_norm, m.learning_rate) for m in straight.tracked}
    assert tracked
    assert tracked.items() <= expected.items()


def test_a_stop_keeps_the_step_it_came_in(tmp_path, monkeypatch):
    monkeypatch.setattr("vlm_ablate.training.callbacks.Monitor.event_interval", 0.0)
    stopped = Trained(tmp_path, stop_at=3)
    with pytest.raises(StopRequested):
        stopped.train()
    assert stopped.files("align").step() == 3


def test_a_checkpoint_of_any_step_has_the_losses_that_are_still_on_the_gpu():
    counter = SimpleNamespace(seen=Seen(), settle=lambda total: None)
    monitor = Monitor(
        counter, lambda metrics: None, lambda event: None, run="r", first_step=0, total_steps=9, divergence_ratio=9.0,
        waited=lambda: 0.0, stopwatch=SimpleNamespace(spent=lambda: {"seconds": 0.0}),
    )  # fmt: skip
    module = SimpleNamespace(
        step_loss=torch.tensor(2.0), step_norm=torch.tensor(1.0), stage=SimpleNamespace(steps=9),
        execution=Execution(log_every=5, checkpoint_every=5), device=SimpleNamespace(type="cuda"),
    )  # fmt: skip
    for step in (1, 2):
        monitor.on_step_end(None, module, step)
    state = monitor.state_dict()
    assert state["window"] == [[2.0, 1.0]] * 2 and state["detector"]["first"] == 2.0
    assert monitor.state_dict() == state


class Clock:
    """Seconds go by where they are said to, whatever the machine takes."""

    now = 1000.0

    def perf_counter(self):
        return self.now

    def __getattr__(self, name):
        return getattr(time, name)

    def wait(self, seconds):
        self.now += seconds


class SlowData(RowData):
    """Each micro-batch comes so many seconds late."""

    seconds, clock = 0.0, Clock()

    def train_dataloader(self):
        loader = super().train_dataloader()
        make = loader.collate_fn

        def late(rows):
            self.clock.wait(self.seconds)
            return make(rows)

        loader.collate_fn = late
        return loader


@pytest.mark.parametrize("where", ["data", "model"])
def test_a_stage_says_whether_it_waits_for_its_data(tmp_path, where, monkeypatch):
    stage = Stage(steps=4, batch_size=4, learning_rate=1e-3)
    trained = Trained(tmp_path, stages={"align": stage})
    trained.prepare("align")
    job = trained.stage_job("align")
    data, clock = SlowData(stage, 0, 4), SlowData.clock
    for module in ("waiting", "callbacks"):
        monkeypatch.setattr(f"vlm_ablate.training.{module}.time", clock)
    if where == "data":
        monkeypatch.setattr(data, "seconds", 0.1)
    else:
        trained.vlm.register_forward_hook(lambda *_: clock.wait(0.1))
    train_stage(replace(job, data=data, execution=Execution(log_every=2)))
    shares = [metrics.waiting for metrics in trained.tracked]
    assert len(shares) == 2 and all(share > 0.5 if where == "data" else share < 0.5 for share in shares)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import torch; torch.set_num_threads(1)
    from training.test_stages import Trained
    from vlm_ablate.training.callbacks import Monitor
    Monitor.event_interval = 0.0
    class Killed(Trained):
        def report(self, job, event):
            if getattr(event, "step", 0) == {step} and type(event).__name__ == "StepDone":
                os.kill(os.getpid(), signal.SIGKILL)
    Killed(Path({folder!r})).train()
"""


def test_killed_and_continued_equals_uninterrupted(tmp_path, straight):
    """SIGKILL in the third step of the second stage; the step after the checkpoint is lost, the result is not."""
    code = textwrap.dedent(KILLED).format(tests=str(Path(__file__).parents[1]), step=9, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL, done.stderr
    again = Trained(tmp_path)
    assert again.files("tune").step() == 2
    assert_bit_equal(again.train().weights(), straight.weights())


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, straight, monkeypatch):
    monkeypatch.setattr("vlm_ablate.training.callbacks.Monitor.event_interval", 0.0)
    with pytest.raises(StopRequested):
        Trained(tmp_path, stop_at=5).train()
    again = Trained(tmp_path)
    assert [step for step, _ in again.files("align").found()] == [4, 5]
    last = again.files("align").found()[-1][1]
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    assert again.files("align").step() == 4
    assert again.notices == [f"the checkpoint {last} of step 5 is damaged; the one before it is used"]
    assert last.with_suffix(".damaged").exists()
    assert_bit_equal(again.train().weights(), straight.weights())


def test_two_checkpoints_are_kept(straight):
    assert [step for step, _ in straight.files("align").found()] == [2, 4]
    straight.files("align").clear()
    assert straight.files("align").step() == 0


def test_what_is_random_elsewhere_changes_nothing(tmp_path, straight):
    """A curve evaluation that draws random numbers and sets modes leaves training as it was."""
    points = []

    def measure(step, seen):
        torch.rand(3)
        points.append((step, seen.sequences))

    measured = Trained(tmp_path, job={"measure": measure, "curve_steps": curve_steps(6, 3)})
    measured.train()
    assert points == [(2, 8), (4, 16), (6, 24), (8, 32), (10, 40)]
    assert_bit_equal(measured.weights(), straight.weights())


def test_curve_steps_end_with_the_stage():
    assert curve_steps(100, 4) == (25, 50, 75, 100)
    assert curve_steps(3, 10) == (1, 2, 3)


def test_a_point_of_the_curve_is_measured_without_dropout_and_leaves_the_modes_as_they_were():
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout()))
    module[1].eval()  # a frozen encoder
    seen = []
    point = CurvePoints([2], lambda step: seen.append((step, [part.training for part in module.modules()])), 10)
    for step in (1, 2):
        point.on_step_end(None, module, step)
    assert seen == [(12, [False] * 4)]
    assert [part.training for part in module.modules()] == [True, True, False, False]


def test_events_and_counts(straight):
    assert [e.step for e in straight.events if isinstance(e, Checkpointed)] == [2, 4, 8, 10]
    assert [m.step for m in straight.tracked] == [3, 6, 9, 11]
    seen = straight.seen
    assert (seen.sequences, seen.images, seen.visual_tokens) == (44, 44, 176)
    rows = [sample_row(i) for i in range(44)]
    assert seen.text_tokens == sum(int(row["mask"].sum()) for row in rows) - 176
    assert seen.supervised_tokens == sum(int((row["labels"] != -100).sum()) for row in rows)
    last = [e for e in straight.events if isinstance(e, StepDone)][-1]
    assert (last.step, last.steps) == (11, 11)


def test_what_is_not_repeated_is_safe_before_a_checkpoint(tmp_path):
    order = []
    trained = Trained(tmp_path, stages={"align": replace_steps(4)}, job={"saving": lambda: order.append("saving")})
    trained.report = lambda job, event: order.append("kept") if isinstance(event, Checkpointed) else None
    trained.train()
    assert order == ["saving", "kept"]


def replace_steps(steps):
    return STAGES["align"].model_copy(update={"steps": steps})


def test_checkpoints_hold_only_what_is_trained(tmp_path):
    trained = Trained(tmp_path)
    trained.prepare("align")
    names = set(TrainingModule(trained.vlm, STAGES["align"]).state_dict())
    assert {n for n in names if "running" not in n and "num_batches" not in n} == {
        "vlm.connector.weight", "vlm.connector.bias",
    }  # fmt: skip


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    trained = Trained(tmp_path)
    trained.prepare("align")
    with pytest.raises(ModelError, match=r"connector\.bias"):
        TrainingModule(trained.vlm, STAGES["align"]).load_state_dict({})


def test_exploding_loss_is_divergence(tmp_path):
    stages = {"only": Stage(steps=30, batch_size=4, learning_rate=5.0, gradient_clip=None, language="full")}
    with pytest.raises(Diverged, match="times the first loss 4"):
        Trained(tmp_path, stages=stages).train()


def test_not_finite_is_divergence(tmp_path):
    trained = Trained(tmp_path)
    with torch.no_grad():
        trained.vlm.connector.weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match="not finite at step 1"):
        trained.train()


@pytest.mark.parametrize(
    ("loss", "norm", "what"), [(math.nan, 1.0, "loss"), (math.inf, 1.0, "loss"), (1.0, math.nan, "gradient norm")]
)
def test_what_is_not_finite_is_said(loss: float, norm: float, what: str) -> None:
    detector = DivergenceDetector(ratio=2.0)
    detector.update(4.0, 1.0, 1)
    with pytest.raises(Diverged, match=rf"the {what} is not finite at step 2 \(smoothed loss before: 4\)"):
        detector.update(loss, norm, 2)


def test_a_small_loss_that_rises_is_no_divergence() -> None:
    detector = DivergenceDetector(ratio=3.0)
    for step in range(1, 200):
        detector.update(0.01 if step == 1 else 2.9, 1.0, step)
    with pytest.raises(Diverged, match="exceeds 3 times one nat"):
        for step in range(200, 300):
            detector.update(3.5, 1.0, step)


def test_full_disk_while_saving(tmp_path, monkeypatch):
    trained = Trained(tmp_path)
    full = tmp_path / "full"
    monkeypatch.setattr(storage, "_new_partial", lambda path, mode: (full, os.open("/dev/full", os.O_WRONLY)))
    with pytest.raises(StorageError, match=r"cannot write .*checkpoint-writing-.*: the disk is full"):
        trained.train()
    assert trained.files("align").found() == []


def test_full_disk_while_the_first_rank_writes_what_is_not_shared_out(tmp_path, monkeypatch):
    checkpoint = {"state_dict": {}, "optimizer_states": []}
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot create .*: a part of the path is a file"):
        begin(checkpoint, tmp_path / "file" / "shares", None, first=True)
    full = tmp_path / "full"
    monkeypatch.setattr(storage, "_new_partial", lambda path, mode: (full, os.open("/dev/full", os.O_WRONLY)))
    with pytest.raises(StorageError, match=r"cannot write .*rest.ckpt: the disk is full"):
        begin(checkpoint | {"padding": torch.zeros(2**16)}, tmp_path / "shares", None, first=True)


class Evil:
    """Runs code in whoever unpickles it."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_checkpoint_cannot_run_code(tmp_path):
    trained = Trained(tmp_path)
    files = trained.files("align")
    files.folder.mkdir()
    torch.save({"state_dict": Evil(tmp_path / "ran")}, files.writing)
    files.keep(2)
    with pytest.raises(pickle.UnpicklingError):
        trained.train()
    assert not (tmp_path / "ran").exists()


def test_what_killed_writers_left_is_removed_with_the_next_checkpoint_and_at_the_end(tmp_path):
    files = CheckpointFiles(tmp_path)
    left = ["checkpoint-writing-dead.ckpt", ".checkpoint-writing-dead.ckpt.12345678.partial"]
    for end in (lambda: files.keep(2), files.clear):
        for name in left:
            (tmp_path / name).touch()
        files.writing.write_bytes(b"whole")
        end()
        assert not [name for name in left if (tmp_path / name).exists()]
    assert not list(tmp_path.iterdir())
