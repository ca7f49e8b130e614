"""How a process that computed a run ended, in words."""

from __future__ import annotations

import signal

from vlm_ablate.runs.folder import RunFolder

INTERRUPTED = "stopped by a signal; it continues from its checkpoint on the next run"


def ending(status: int) -> str:
    """What an exit status tells.

    Args:
        status: as `subprocess` gives it; negative: minus the number of a signal.
    """
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal: most of them have no name
        name = f"signal {-status}"
    return f"was ended by {name}" + (": killed from outside, or out of memory" if name == "SIGKILL" else "")


def exit_message(status: int, folder: RunFolder) -> str:
    """What the exit status of a worker process tells, with the last line that its run printed.

    Args:
        status: see `ending`.
        folder: of the run.
    """
    text = f"the worker process {ending(status)}"
    try:
        last = folder.output.read_text(errors="replace").strip().split("\n")[-1][:200]
    except OSError:
        last = ""
    return f"{text} (last line of its log: {last})" if last else text
