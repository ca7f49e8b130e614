"""A worker process: imports the training libraries once and serves run after run.

Started as `python -m vlm_ablate.launch.worker FD`, FD being one end of a socket pair. Messages are tuples:
to the worker ("setup", {...}), ("run", spec), ("stop",); back ("event", Event), ("done", RunOutcome), ("interrupted",).
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.events import Event, RunFinished
from vlm_ablate.home import Home
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.outcome import RunOutcome, failed, note_from_outside
from vlm_ablate.runs.spec import RunSpec


def main() -> int:
    """Serve until told to stop, until interrupted, or until the parent is gone."""
    link = Connection(int(sys.argv[1]))
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # asks one run to stop; between runs there is none
    try:
        _, setup = link.recv()
        sys.path[:] = setup["path"]
        home = Home(Path(setup["home"]))
        while True:
            message = link.recv()
            if message[0] == "stop":
                return 0
            link.send(("done", serve(message[1], setup["target"], home, setup["tracking_uri"], link)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return 0  # The parent is gone.
    except KeyboardInterrupt:
        _tell(link, ("interrupted",))
        return 130


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


class Link(Protocol):
    """Where a worker says how it goes."""

    def send(self, message: tuple[Any, ...], /) -> None:
        """
        Raises:
            OSError: nobody hears it any more.
        """


def serve(data: dict[str, Any], target: str, home: Home, tracking_uri: str, link: Link) -> RunOutcome:
    """Run one spec; whatever goes wrong becomes a failed outcome, except an interruption.

    Args:
        data: `id` and `name` of the run, and the `spec` itself as plain data.
        target: `module:function` that runs it.
        link: is told the events.
    """
    _log_to(run_folder(home, data["id"]).output)
    spec: RunSpec | None = None
    try:
        spec = RunSpec.from_dict(data["spec"])
        return _load(target)(spec, home=home, reporter=_reporter(link), tracking_uri=tracking_uri)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        message = str(error) if isinstance(error, VlmAblateError) else f"{type(error).__name__}: {error}"
        outcome = RunOutcome(data["id"], data["name"], "failed", message=message)
        if spec is not None:
            outcome = failed(spec, message)
            with suppress(VlmAblateError):
                note_from_outside(spec, home, "failed", message)
        _tell(link, ("event", RunFinished(outcome.run, "failed", message=message)))
        return outcome


def _load(target: str) -> Callable[..., RunOutcome]:
    module, _, attribute = target.partition(":")
    loaded: Callable[..., RunOutcome] = getattr(import_module(module), attribute)
    return loaded


def _reporter(link: Link) -> Callable[[Event], None]:
    orphaned = False

    def report(event: Event) -> None:
        nonlocal orphaned
        try:
            link.send(("event", event))
        except OSError:
            # Nobody is left to hear it: stop as on Ctrl-C, with a checkpoint, instead of training on unseen.
            # Only once: a second signal would not wait for the checkpoint.
            if not orphaned:
                orphaned = True
                os.kill(os.getpid(), signal.SIGTERM)

    return report


def _tell(link: Link, message: tuple[Any, ...]) -> None:
    with suppress(OSError):
        link.send(message)


def _log_to(path: Path) -> None:
    """Send this process's output, and that of its libraries and children, to the run's log."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    except OSError:
        return  # The run itself reports a folder that cannot be written.
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


if __name__ == "__main__":
    sys.exit(main())
