"""How a process that computed a run ended, in words."""

from __future__ import annotations

import signal

from vlm_ablate.runs.folder import RunFolder

INTERRUPTED = "stopped by a signal; it continues from its checkpoint on the next run"


def exit_message(status: int, folder: RunFolder) -> str:
    """What the exit status of a worker process tells, with the last line that its run printed.

    Args:
        status: as `subprocess` gives it; negative: minus the number of a signal.
        folder: of the run.
    """
    if status < 0:
        name = signal.Signals(-status).name
        hint = ": killed from outside, or out of memory" if name == "SIGKILL" else ""
        text = f"the worker process was ended by {name}{hint}"
    else:
        text = f"the worker process exited with status {status}"
    try:
        last = folder.output.read_text(errors="replace").strip().split("\n")[-1][:200]
    except OSError:
        last = ""
    return f"{text} (last line of its log: {last})" if last else text
