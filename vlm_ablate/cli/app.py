"""The commands put together, and the one place where an error becomes a message and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vlm_ablate import __version__
from vlm_ablate.cli import (
    data,
    evaluate,
    explain,
    export,
    generate,
    home,
    list_,
    new,
    parity,
    plan,
    prefetch,
    pretrain,
    report,
    reproduce,
    run,
    schema,
    score,
    status,
    sweep,
    table,
    ui,
    validate,
)
from vlm_ablate.cli.streams import READER_LEFT, forgiving
from vlm_ablate.hub import set_hub_access
from vlm_ablate.trust import allow_plugins


class Commands(TyperGroup):
    """Turns errors into one clean message on stderr and an exit code: 1 failed, 2 asked wrongly, 130 interrupted."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Read the command line, help and errors of usage included."""
        forgiving()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command; `--debug` lets errors through with their traceback."""
        try:
            with home.own_home():
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except BrokenPipeError as error:
            raise typer.Exit(READER_LEFT) from error
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            from vlm_ablate.cli.console import print_error
            from vlm_ablate.cli.faults import interrupted, message_of

            if interrupted(error):
                raise KeyboardInterrupt from error
            told = message_of(error)
            print_error(told)
            raise typer.Exit(told.exit_code) from error
        finally:
            _warn_of_plugins()


_warned: set[str] = set()


def _warn_of_plugins() -> None:
    """Name the installed plug-ins that could not be imported, once: their parts are missing from every list."""
    registry = sys.modules.get("vlm_ablate.registry")
    found: dict[str, str] = getattr(registry, "broken_plugins", {})
    new = {name: why for name, why in found.items() if name not in _warned}
    if new:
        from vlm_ablate.cli.console import warn

        _warned.update(new)
        warn([f"the installed plug-in {name} is left out: {why}" for name, why in new.items()])


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
    plugins: Annotated[
        bool, typer.Option("--allow-plugins", help="Let plug-ins run that a checkpoint's or run's folder names.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Set the environment that the libraries read when they are imported."""
    set_hub_access(allow_hub)
    allow_plugins(plugins)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


app.command("list")(list_.list_parts)
app.command("new")(new.new)
app.command("validate")(validate.validate)
app.command("plan")(plan.plan)
app.command("run")(run.run)
app.command("status")(status.status)
app.command("table")(table.table)
app.command("report")(report.report)
app.command("reproduce")(reproduce.reproduce)
app.command("explain")(explain.explain)
app.command("ui")(ui.ui)
app.command("prefetch")(prefetch.prefetch)
app.command("schema")(schema.schema)
app.command("score")(score.score)
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("generate")(generate.generate)
app.command("parity")(parity.parity)
app.add_typer(data.app, name="data")
app.add_typer(home.app, name="home")
app.add_typer(pretrain.app, name="pretrain")
app.add_typer(sweep.app, name="sweep")
