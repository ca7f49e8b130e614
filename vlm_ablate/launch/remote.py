"""On the machine that computes: one run that was handed over, in a process of its own, and who looks after it.

An engine's job calls `attend`, which starts `python -m vlm_ablate.launch.remote TASK` and stays until it has ended.
Both share a pipe: when the attendant wants the run to stop, or is gone itself, the pipe closes, and the run leaves a
checkpoint and ends. So nothing computes on unseen when an engine takes a job away.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from vlm_ablate.events import RunFinished
from vlm_ablate.home import Home
from vlm_ablate.launch.devices import thread_variables
from vlm_ablate.launch.handover import Saying, Task
from vlm_ablate.launch.wire import Message
from vlm_ablate.launch.worker import serve
from vlm_ablate.lease import holder
from vlm_ablate.runs.endings import exit_message
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.live import LAUNCHER_VARIABLE
from vlm_ablate.storage import HOME_VARIABLE

Ended = Literal["ended", "interrupted", "died"]
LOOK_SECONDS = 0.2
GRACE_SECONDS = 60.0
"""How long a run that was asked to leave may take for its checkpoint."""
KINDS = (signal.SIGTERM, signal.SIGINT)
_IN_STEP_SECONDS = 0.5
"""An engine's signal to all processes of a job arrives at the run and at its attendant within this time."""


def attend(task: Task, *, leave: Callable[[], bool], without_gpus: bool = False) -> Ended:
    """Compute a run in a process of its own, and stay with it. For the job of an engine.

    Args:
        leave: asked all the time; True: the run is to stop, with a checkpoint.
        without_gpus: hide the GPUs of the machine.

    Returns:
        "ended": the process has said how; "interrupted": it stopped on request and can go on from there, here or
        elsewhere; "died": it has said nothing, but the launcher was told so.
    """
    if task.withdrawn:
        return "ended"
    data = task.read()
    parent = os.getppid()
    child = subprocess.Popen(
        [sys.executable, "-m", "vlm_ablate.launch.remote", str(task.root)],
        env=_environment(data, without_gpus), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert child.stdin is not None
    asked: float | None = None
    try:
        while child.poll() is None:
            # Another parent: the engine's daemon here is gone, and the run is given to another machine.
            if asked is None and (leave() or task.withdrawn or os.getppid() != parent):
                asked = time.monotonic()
                child.stdin.close()
            if asked is not None and time.monotonic() - asked > GRACE_SECONDS:
                break
            time.sleep(LOOK_SECONDS)
    finally:
        child.stdin.close()
        if child.poll() is None and asked is None:  # this process itself is told to end, by an exception
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(GRACE_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # with what it started: data loaders would keep the GPU
        status = child.wait()
    if status == 0:
        return "ended"
    if asked is not None or status == 130:
        return "interrupted"
    message = exit_message(status, run_folder(Home(Path(data["home"])), data["id"]))
    Saying(task).send(("died", f"{message}, on {socket.gethostname()}"))
    return "died"


def _environment(data: dict[str, Any], without_gpus: bool) -> dict[str, str]:
    """Of the process: as many threads as the launcher says, its module path, the home, which has the caches, too."""
    paths = [*(path for path in data["path"] if path and os.path.exists(path)), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | thread_variables(data["threads"])
    environment |= {HOME_VARIABLE: data["home"], LAUNCHER_VARIABLE: data["launcher"]}
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))
    if without_gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


def main() -> int:
    """Compute the run of the folder that is named; 0: it has said how it ended, 130: it was interrupted."""
    # Engines send these to every process of a job; here they mean nothing. A run is stopped early by a file.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
    for kind in KINDS:
        signal.signal(kind, _interrupt)
    _watch()
    task = Task(Path(sys.argv[1]))
    said = _Said(Saying(task))
    try:
        data = task.read()
        sys.path[:] = list(dict.fromkeys([*sys.path, *data["path"]]))
        said.send(("begun",))
        home = Home(Path(data["home"]))
        outcome = serve(data, data["target"], home, data["tracking_uri"], said)
        if outcome.status == "failed" and holder(run_folder(home, data["id"]).root) is not None:
            said.send(("elsewhere", outcome.message))
        else:
            said.end()
            said.send(("done", outcome))
        return 0
    except KeyboardInterrupt:
        said.send(("interrupted",))
        return 130


class _Said:
    """Passes on what is said, except the end of the run: only once it is known that this process decides it."""

    def __init__(self, saying: Saying) -> None:
        self._saying = saying
        self._last: Message | None = None

    def send(self, message: Message) -> None:
        if message[0] == "event" and isinstance(message[1], RunFinished):
            self._last = message
        else:
            self._saying.send(message)

    def end(self) -> None:
        if self._last is not None:
            self._saying.send(self._last)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _watch() -> None:
    """When the attendant closes the pipe on stdin or is gone, stop as on SIGTERM, unless that has come already.

    A second signal would not wait for the checkpoint; engines that signal all processes of a job send the first.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def signalled(timeout: float | None) -> bool:
        ready, _, _ = select.select([read, *([0] if timeout is None else [])], [], [], timeout)
        return read in ready and bool({*os.read(read, 4096)} & {*KINDS})

    def watch() -> None:
        while not signalled(None):
            if select.select([0], [], [], 0)[0] and not os.read(0, 4096):
                if not signalled(_IN_STEP_SECONDS):
                    os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, name="attendant", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
