"""One RunSpec from start to finish: its stages trained, its scores computed, all on disk; continued from anywhere."""

from __future__ import annotations

import time
import traceback
from typing import Literal

from vlm_ablate.errors import AssetMissing, Diverged, StorageError, VlmAblateError
from vlm_ablate.events import Notice, Preparing, Reporter, RunFinished, Throttle, listening, silent
from vlm_ablate.home import Home
from vlm_ablate.lease import Lease, LeaseLost
from vlm_ablate.lease_files import Owner
from vlm_ablate.masking import masked
from vlm_ablate.models.feature_store import answers_folder
from vlm_ablate.registry import load_plugins
from vlm_ablate.runs import artifacts
from vlm_ablate.runs.explain import explain
from vlm_ablate.runs.fingerprints import look_again
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.live import BEAT_SECONDS, Live
from vlm_ablate.runs.outcome import RunOutcome, failed, note_attempt, outcome_of
from vlm_ablate.runs.publishing import Publishing
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.score import Scoring
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.train import StageRunner
from vlm_ablate.storage import write_atomically
from vlm_ablate.tracking import schema
from vlm_ablate.training.fit import configure_threads
from vlm_ablate.training.interruption import Interruption, StopRequested

TRACEBACK_FILE = "traceback.txt"


def execute(spec: RunSpec, *, home: Home, reporter: Reporter = silent, tracking_uri: str | None = None) -> RunOutcome:
    """Run a spec, or continue it, or hand back what is there.

    What goes wrong within the run is its outcome: a missing optional asset skips it, a diverged loss is recorded as
    such, any other error fails it with the message and the traceback as an artifact. A process that finds that another
    has the run now (it was stopped or cut off for longer than its lease lasts) ends with a failed outcome that says so,
    and has written nothing since: the run itself goes on there.

    While it goes, `live.json` in the run's folder says where it is, and a file `stop` there stops it early (`live.py`).

    Args:
        spec: what to run.
        home: where results are kept.
        reporter: hears the events.
        tracking_uri: None: the home's own store.

    Raises:
        StorageError: before anything expensive, when the home cannot be written.
        KeyboardInterrupt: on SIGINT or SIGTERM, after a checkpoint.
    """
    load_plugins(list(spec.plugins))
    folder = run_folder(home.prepare(), spec.id)
    folder.prepare()
    interruption = Interruption()
    live = Live(spec, folder, interruption, reporter)
    run = _Run(spec, home, live, tracking_uri or home.tracking_uri, interruption)
    try:
        with (
            interruption.handling_signals(),
            Lease.acquire(folder.root, heartbeat=BEAT_SECONDS, waiting=run.waiting, on_beat=live.beat) as lease,
        ):
            try:
                outcome = run.complete(lease)
            finally:
                live.end(lease)
    except LeaseLost as lost:
        outcome = failed(spec, str(lost))
    except StopRequested as stop:
        outcome = RunOutcome(spec.id, spec.run_name, "stopped", message=str(stop))
    reporter(
        RunFinished(spec.id, outcome.status, outcome.mean, outcome.message, outcome.seconds, reused=outcome.reused)
    )
    return outcome


class _Run:
    """The state of one execution."""

    def __init__(self, spec: RunSpec, home: Home, live: Live, tracking_uri: str, interruption: Interruption) -> None:
        self.spec, self.home, self.live, self.uri = spec, home, live, tracking_uri
        self.reporter: Reporter = live.hear
        self.folder = run_folder(home, spec.id)
        self.interruption = interruption
        self.started = time.monotonic()
        self.trained: tuple[str, ...] = ()
        self.before = 0.0
        self._due = Throttle()
        self._waited_for: str | None = None

    def waiting(self, owner: Owner | None) -> None:
        """Another process has the run, or a stage or score of it: say so once, and hear a request to stop.

        Raises:
            StopRequested: an early stop was asked for.
        """
        if self.interruption.early:
            raise StopRequested("stopped while it waited for another process")
        who = str(owner or "another process")
        self.live.waiting(who)
        if who != self._waited_for:
            self._waited_for = who
            self._notice(f"{self.spec.run_name}: waits for {who}, which computes it or a part of it now", "info")

    def complete(self, lease: Lease) -> RunOutcome:
        """Everything, ending in an outcome.

        Raises:
            LeaseLost: another process has the run now.
        """
        self._lease = lease
        found = find_results(self.spec, self.home)
        if found.done:
            if found.attempt.get("status") != found.status:  # another arm or table has computed it all
                note_attempt(self.spec, self.home, found.status, found.message)
            return outcome_of(found, reused=True)
        note_attempt(self.spec, self.home, schema.RUNNING)
        with Publishing(self.spec, self.home, self.uri, self._notice), listening(self._preparing, self._notice):
            status, message = self._attempt()
            note_attempt(self.spec, self.home, status, message)
        seconds = time.monotonic() - self.started
        results = find_results(self.spec, self.home)
        return outcome_of(results, seconds=seconds, before=self.before, trained=self.trained)

    def _attempt(self) -> tuple[str, str]:
        try:
            while not self._worked():
                continue
            return self._ended()
        except StopRequested as stop:
            if self.interruption.early:
                return schema.STOPPED, str(stop)
            raise KeyboardInterrupt(str(stop)) from None
        except LeaseLost:
            raise
        except AssetMissing as error:
            return schema.SKIPPED, str(error)
        except Diverged as error:
            return schema.DIVERGED, error.message
        except VlmAblateError as error:
            return schema.FAILED, str(error)
        except Exception as error:
            self._keep_traceback()
            return schema.FAILED, masked(f"{type(error).__name__}: {error}")

    def _ended(self) -> tuple[str, str]:
        """Finished, unless files that decide have changed since: what was computed is a result of those that were."""
        look_again()
        if find_results(self.spec, self.home).done:
            return schema.FINISHED, ""
        differing = [name for each in explain(self.spec, self.home) for name, *_ in each.differing]
        changed = ", ".join(dict.fromkeys(differing)) or "files"
        message = f"changed on the disk while the run went on: {changed}; leave them as they are and run again"
        return schema.FAILED, message

    def _worked(self) -> bool:
        """Do the work; False when another run took over a stage or a score of it: then it is waited for, or done anew.

        Raises:
            LeaseLost: it is the run itself that another process has now.
        """
        try:
            self._work()
        except LeaseLost as lost:
            self._lease.check()
            self._notice(str(lost))
            return False
        return True

    def _work(self) -> None:
        configure_threads()
        artifacts.write_config(self.spec, self.folder.artifacts / schema.CONFIG_FILE)
        # A missing asset shows now, not after training.
        scoring = Scoring(self.spec, self.reporter, answers_folder(self.home))
        runner = StageRunner(self.spec, self.home, scoring, self.folder, self.reporter, self.interruption, self.waiting)
        try:
            last = runner.run()
        finally:
            self.trained, self.before = runner.trained, runner.before
        if scoring.missing(last):
            scoring.score(runner.model(last), last, self.waiting)
        answered = list(scoring.answered(last))
        table = self.folder.artifacts / schema.PREDICTIONS_DIR / "predictions.csv"
        table.parent.mkdir(exist_ok=True)
        artifacts.write_predictions(answered, table)
        title = f"{self.spec.label or self.spec.arm} · seed {self.spec.seed}"
        artifacts.write_examples(answered, self.folder.artifacts / schema.EXAMPLES_FILE, title)

    def _preparing(self, what: str, done: int, total: int) -> None:
        if self._due() or done == total:
            self.reporter(Preparing(self.spec.id, what, done, total))

    def _keep_traceback(self) -> None:
        try:
            write_atomically(self.folder.artifacts / TRACEBACK_FILE, masked(traceback.format_exc()), private=True)
        except StorageError:
            return

    def _notice(self, message: str, level: Literal["info", "warning"] = "warning") -> None:
        self.reporter(Notice(self.spec.id, message, level))
