"""The command line, `vlm-ablate`. Commands are thin, one file each; what is heavy is imported inside them."""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script."""
    from vlm_ablate.cli.app import app
    from vlm_ablate.cli.streams import finish

    finish(app)
