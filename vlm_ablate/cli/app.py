"""The commands put together, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vlm_ablate import __version__
from vlm_ablate.cli import (
    data,
    explain,
    export,
    generate,
    home,
    list_,
    parity,
    plan,
    pretrain,
    run,
    schema,
    score,
    table,
    ui,
    validate,
)
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.hub import set_hub_access


class Commands(TyperGroup):
    """Turns the errors a user can meet into one clean message on stderr and the error's exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command; `--debug` lets errors through with their traceback."""
        try:
            return super().invoke(ctx)
        except VlmAblateError as error:
            if ctx.params.get("debug"):
                raise
            from vlm_ablate.cli.console import print_error

            print_error(error)
            raise typer.Exit(error.exit_code) from error


app = typer.Typer(
    name="vlm-ablate",
    cls=Commands,
    help="Does this design choice of a vision-language model matter, and by how much?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"vlm-ablate {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show errors with their traceback.")] = False,
    allow_hub: Annotated[
        bool, typer.Option("--allow-hub", help="Let models and data sets be downloaded from the hub.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Set the environment that the libraries read when they are imported."""
    set_hub_access(allow_hub)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


app.command("list")(list_.list_parts)
app.command("validate")(validate.validate)
app.command("plan")(plan.plan)
app.command("run")(run.run)
app.command("table")(table.table)
app.command("explain")(explain.explain)
app.command("ui")(ui.ui)
app.command("schema")(schema.schema)
app.command("score")(score.score)
app.command("export")(export.export)
app.command("generate")(generate.generate)
app.command("parity")(parity.parity)
app.add_typer(data.app, name="data")
app.add_typer(home.app, name="home")
app.add_typer(pretrain.app, name="pretrain")
