"""One RunSpec from start to finish: its stages trained, its scores computed, all on disk; continued from anywhere."""

from __future__ import annotations

import time
import traceback

from vlm_ablate.errors import AssetMissing, Diverged, StorageError, VlmAblateError
from vlm_ablate.events import Notice, Preparing, Reporter, RunFinished, Throttle, listening, silent
from vlm_ablate.home import Home
from vlm_ablate.masking import masked
from vlm_ablate.registry import load_plugins
from vlm_ablate.runs import artifacts
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.outcome import RunOutcome, note_attempt, outcome_of
from vlm_ablate.runs.publishing import Publishing
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.score import Scoring
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.train import StageRunner
from vlm_ablate.storage import locked, write_atomically
from vlm_ablate.tracking import schema
from vlm_ablate.training.fit import configure_threads
from vlm_ablate.training.interruption import Interruption, StopRequested

TRACEBACK_FILE = "traceback.txt"


def execute(spec: RunSpec, *, home: Home, reporter: Reporter = silent, tracking_uri: str | None = None) -> RunOutcome:
    """Run a spec, or continue it, or hand back what is there.

    What goes wrong within the run is its outcome: a missing optional asset skips it, a diverged loss is recorded as
    such, any other error fails it with the message and the traceback as an artifact.

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
    with interruption.handling_signals(), locked(folder.root / ".lock"):
        outcome = _Run(spec, home, reporter, tracking_uri or home.tracking_uri, interruption).complete()
    reporter(
        RunFinished(spec.id, outcome.status, outcome.mean, outcome.message, outcome.seconds, reused=outcome.reused)
    )
    return outcome


class _Run:
    """The state of one execution."""

    def __init__(
        self, spec: RunSpec, home: Home, reporter: Reporter, tracking_uri: str, interruption: Interruption
    ) -> None:
        self.spec, self.home, self.reporter, self.uri = spec, home, reporter, tracking_uri
        self.folder = run_folder(home, spec.id)
        self.interruption = interruption
        self.started = time.monotonic()
        self.trained: tuple[str, ...] = ()
        self._due = Throttle()

    def complete(self) -> RunOutcome:
        """Everything, ending in an outcome."""
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
        return outcome_of(find_results(self.spec, self.home), seconds=seconds, trained=self.trained)

    def _attempt(self) -> tuple[str, str]:
        try:
            self._work()
            return schema.FINISHED, ""
        except StopRequested as stop:
            if self.interruption.early:
                return schema.STOPPED, str(stop)
            raise KeyboardInterrupt(str(stop)) from None
        except AssetMissing as error:
            return schema.SKIPPED, str(error)
        except Diverged as error:
            return schema.DIVERGED, error.message
        except VlmAblateError as error:
            return schema.FAILED, str(error)
        except Exception as error:
            self._keep_traceback()
            return schema.FAILED, masked(f"{type(error).__name__}: {error}")

    def _work(self) -> None:
        configure_threads()
        artifacts.write_config(self.spec, self.folder.artifacts / schema.CONFIG_FILE)
        scoring = Scoring(self.spec, self.reporter)  # a missing asset shows now, not after training
        runner = StageRunner(self.spec, self.home, scoring, self.folder, self.reporter, self.interruption)
        last = runner.run()
        self.trained = runner.trained
        if scoring.missing(last):
            scoring.score(runner.model(last), last)
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

    def _notice(self, message: str) -> None:
        self.reporter(Notice(self.spec.id, message, "warning"))
