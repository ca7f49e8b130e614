"""Drawing SVGs that strangers made: in a process of its own, with limits, and without files of this machine."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from vlm_ablate.errors import AssetMissing
from vlm_ablate.offline.assets import INSTALL
from vlm_ablate.offline.debian import svg_worker

_LIMITS = f"it takes more than {svg_worker.SECONDS} s, or more than {svg_worker.MEMORY // 2**30} GiB"


def svg_to_png(data: bytes, width: int, **options: Any) -> bytes:
    """An SVG drawn `width` pixels wide, as PNG. References to other files are not followed.

    Args:
        options: of `resvg_py.svg_to_bytes`.

    Raises:
        ValueError: it is broken, or drawing it takes more than the limits.
        AssetMissing: the package that draws is not installed.
    """
    global _drawer
    if importlib.util.find_spec("resvg_py") is None:
        raise AssetMissing("the package 'resvg-py' is not installed", hint=INSTALL)
    with _lock:
        _drawer = _drawer or _Drawer()
        try:
            return _drawer.draw(data, width, options)
        except (EOFError, BrokenPipeError) as error:
            _drawer.close()
            _drawer = None
            raise ValueError(f"the process that drew it died: {_LIMITS}") from error


class _Drawer:
    """The other process; it ends when its pipe is closed, so also when this process dies."""

    def __init__(self) -> None:
        # -P: the script's folder holds modules of this package, which must not take the place of others.
        self._process = subprocess.Popen([sys.executable, "-P", str(Path(svg_worker.__file__))], cwd="/",
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def draw(self, data: bytes, width: int, options: dict[str, Any]) -> bytes:
        """One picture.

        Raises:
            EOFError, BrokenPipeError: the process has died.
            ValueError: it says that it cannot draw this.
        """
        asked, answer = self._process.stdin, self._process.stdout
        assert asked and answer
        asked.write(json.dumps({"size": len(data), "width": width, "options": options}).encode() + b"\n" + data)
        asked.flush()
        line = answer.readline()
        head = json.loads(line) if line.endswith(b"\n") else {"size": -1}
        if "error" in head:
            raise ValueError(head["error"])
        png = answer.read(head["size"]) if head["size"] >= 0 else b""
        if not png or len(png) < head["size"]:
            raise EOFError
        return png

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self.let_go()
        self._process.wait()

    def let_go(self) -> None:
        """Close this side of its pipes."""
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe:
                    pipe.close()
            except BrokenPipeError:  # what was not sent any more
                continue


_lock = threading.Lock()
_drawer: _Drawer | None = None
_of_parents: list[_Drawer] = []


def _after_fork() -> None:
    """A child draws with a process of its own: answers to two would mix."""
    global _lock, _drawer
    _lock = threading.Lock()
    if _drawer:
        _of_parents.append(_drawer)  # kept, or it would be taken for one of ours that was forgotten
        _drawer.let_go()
        _drawer = None


def _at_exit() -> None:
    if _drawer:
        _drawer.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
