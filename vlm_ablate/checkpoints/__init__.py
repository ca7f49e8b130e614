"""Import from and export to transformers' own checkpoints, and a folder of our own where they have no class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm_ablate.checkpoints.own import load_checkpoint

__all__ = ["load_checkpoint"]


def __getattr__(name: str) -> Any:
    """`load_checkpoint`, imported when it is first asked for: the modules here import each other."""
    if name == "load_checkpoint":
        from vlm_ablate.checkpoints.own import load_checkpoint

        return load_checkpoint
    raise AttributeError(name)
