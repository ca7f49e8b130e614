"""`vlm-ablate data ...`: commands about data sources and material."""

from __future__ import annotations

import typer

app = typer.Typer(help="Data sources and the material on this machine.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Data sources and the material on this machine."""
