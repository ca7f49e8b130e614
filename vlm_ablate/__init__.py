"""Ablation harness for vision-language models: does this design choice matter, and by how much?

`load` and `Study` (`vlm_ablate.api`) are imported when they are asked for.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load` and `Study`: the command line must not wait for what they need."""
    if name in ("load", "Study"):
        from importlib import import_module

        return getattr(import_module("vlm_ablate.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
