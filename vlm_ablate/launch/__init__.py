"""Where RunSpecs run. Launchers are named, so that a command line or a file can choose one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from vlm_ablate.errors import UnknownNameError
from vlm_ablate.launch.base import Interrupted, Launcher

LAUNCHERS = {"local": "vlm_ablate.launch.local:LocalLauncher"}
"""Name -> class, imported when asked for."""


def launcher(name: str = "local", **options: Any) -> Launcher:
    """The launcher of that name; `options` go to its constructor.

    Raises:
        UnknownNameError: no launcher has that name.
    """
    if name not in LAUNCHERS:
        raise UnknownNameError("launcher", name, LAUNCHERS)
    module, _, attribute = LAUNCHERS[name].partition(":")
    return getattr(import_module(module), attribute)(**options)


__all__ = ["LAUNCHERS", "Interrupted", "Launcher", "launcher"]
