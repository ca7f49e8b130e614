"""Whose code may run: what a folder of another maker names is loaded only when the user says so. No torch here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from vlm_ablate.errors import ModelError
from vlm_ablate.hub import is_yes

ALLOW_PLUGINS = "VLM_ABLATE_ALLOW_PLUGINS"
"""Environment variable; "1" lets the code that a folder names run."""


def plugins_allowed() -> bool:
    """Whether the user lets folders name code to run."""
    return is_yes(os.environ.get(ALLOW_PLUGINS, ""))


def allow_plugins(allow: bool) -> None:
    """Let them, whatever was set before; else it is up to the environment. Workers inherit it."""
    if allow:
        os.environ[ALLOW_PLUGINS] = "1"


def load_plugins_of(file: Path, modules: Sequence[str], config: Any) -> None:
    """Load the plug-ins that a file from anywhere names.

    Those that are loaded already, or installed as plug-ins, are the user's own. Others, and configurations that let
    transformers run a checkpoint's code, need `--allow-plugins`.

    Args:
        file: that names them, in messages.
        modules: their names.
        config: parts of a model, as plain data.

    Raises:
        ModelError: the file would have code run that the user did not allow. Nothing was imported.
        ConfigError: a plug-in cannot be imported.
    """
    from vlm_ablate.registry import PLUGIN_GROUP, load_plugins  # not at once: `--help` needs no pydantic

    installed = {point.module for point in entry_points(group=PLUGIN_GROUP)}
    strange = [f"the plug-in {module!r}" for module in modules if module not in installed | set(sys.modules)]
    strange += [f"code of the checkpoint ({path}: true)" for path in _trusting(config)]
    if strange and not plugins_allowed():
        raise ModelError(f"{file} would run {', '.join(strange)}",
                         hint=f"if you trust who made it: `vlm-ablate --allow-plugins ...`, or {ALLOW_PLUGINS}=1")
    load_plugins(modules, file=str(file))


def _trusting(config: Any, path: str = "") -> Iterator[str]:
    """Dotted paths at which a configuration says `trust_remote_code: true`."""
    if isinstance(config, dict):
        for key, value in config.items():
            inner = f"{path}.{key}".removeprefix(".")
            if key == "trust_remote_code" and value not in (False, None):
                yield inner
            yield from _trusting(value, inner)
    elif isinstance(config, list):
        for number, value in enumerate(config):
            yield from _trusting(value, f"{path}[{number}]")
