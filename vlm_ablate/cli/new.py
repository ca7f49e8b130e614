"""`vlm-ablate new NAME --factor FIELD`: an experiment to begin with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def new(
    name: Annotated[str, typer.Argument(help="Of the experiment, and of its file: NAME.yaml.")],
    factor: Annotated[
        str, typer.Option("--factor", metavar="FIELD", help="What the arms differ in, e.g. model.connector.latents.")
    ] = "model.connector.latents",
    values: Annotated[
        str | None,
        typer.Option("--values", metavar="VALUE,...", help="One arm each. Default: the base's and half of it."),
    ] = None,
    base: Annotated[
        str, typer.Option("--base", help="What all the rest is taken from: a name (`list experiments`) or a file.")
    ] = "idefics2/_lora",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write. Default: NAME.yaml here.")] = None,
) -> None:
    """Write a commented experiment that validates, plans and runs at the laptop scale.

    Example: vlm-ablate new my_ablation --factor model.connector.latents
    """
    from vlm_ablate.cli.console import check_lines, usage_error
    from vlm_ablate.cli.new_experiment import draft
    from vlm_ablate.errors import StorageError
    from vlm_ablate.storage import write_atomically

    file = out or Path(f"{name.rpartition('/')[2]}.yaml")
    check_lines({"NAME": name, "--factor": factor, "--values": values, "--base": base, "--out": str(file)})
    if file.exists():
        raise StorageError(f"{file} is there already", hint="name another file with --out")
    words = None if values is None else [word.strip() for word in values.split(",")]
    if words is not None and (not all(words) or len(set(words)) < len(words)):
        raise usage_error(f"--values {(values or '')[:60]!r} does not name each value once", "write them as 64,32")
    write_atomically(file.absolute(), draft(name, factor, words, base, file))
    typer.echo(f"wrote {file}", err=True)
    for command in ("validate", "plan", "run", "table"):
        typer.echo(f"  vlm-ablate {command} {shlex.quote(str(file))}", err=True)
