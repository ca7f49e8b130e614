"""`vlm-ablate list [KIND]`: what exists, one line each, with its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm_ablate.errors import UnknownNameError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from vlm_ablate.registry import Registry

Row = tuple[str, str, str]
"""Name, summary, parameters."""


def list_parts(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="vision, language, connectors, architectures, sources, tasks, benchmarks, metrics, launchers, "
            "experiments, scales or papers. Default: all."
        ),
    ] = None,
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="Module whose parts to include.")] = None,
) -> None:
    """What exists, one line each, with its parameters.

    Example: vlm-ablate list connectors
    """
    from vlm_ablate.cli.console import out
    from vlm_ablate.registry import load_plugins

    if kind is not None and kind not in KINDS:
        raise UnknownNameError("kind of part", kind, KINDS)
    load_plugins(plugin or [], file="--plugin")
    console = out()
    for name in [kind] if kind else KINDS:
        _print(console, name, list(KINDS[name]()))


def _print(console: Console, kind: str, rows: list[Row]) -> None:
    """One line each; where a terminal is too narrow for that, the parameters stand below what they belong to."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(kind, style="bold"))
    name, summary = (max((len(row[i]) for row in rows), default=0) for i in (0, 1))
    fits = not console.is_terminal or all(name + summary + len(row[2]) + 6 <= console.width for row in rows)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    for part, what, parameters in rows:
        if fits:
            line = Text.assemble((part.ljust(name), "cyan"), "  ", what.ljust(summary), "  ", (parameters, "dim"))
            line.rstrip()
            console.print(line, soft_wrap=True)
        else:
            below = ("\n" if parameters else "") + parameters
            table.add_row(part, Text.assemble(what, (below, "dim")))
    if not fits:
        console.print(table)
    console.print()


def _parts(choose: Callable[[], Registry[Any]]) -> Callable[[], Iterable[Row]]:
    def rows() -> Iterable[Row]:
        for entry in choose():
            yield entry.name, entry.summary, parameters(entry.config)

    return rows


def parameters(config: type[BaseModel]) -> str:
    """The fields of a part as a person would write them: `latents=64, depth=3, id`."""
    shown = []
    for name, field in config.model_fields.items():
        if name != "name":
            default = field.get_default(call_default_factory=True)
            shown.append(name if field.is_required() else f"{name}={_plain(default)}")
    return ", ".join(shown)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_plain(v)}" for key, v in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else "none" if value is None else str(value)


def _registry(name: str) -> Callable[[], Registry[Any]]:
    def get() -> Registry[Any]:
        from vlm_ablate import registry

        found: Registry[Any] = getattr(registry, name)
        return found

    return get


def _tasks() -> Iterable[Row]:
    from vlm_ablate.errors import AssetMissing
    from vlm_ablate.offline.tasks import TASKS

    for task in TASKS.values():
        try:
            material = ", ".join(dict.fromkeys(record.package for record in task.licence_records()))
        except AssetMissing as missing:
            material = f"not here: {missing.hint}"
        yield task.name, task.summary, material


def _metrics() -> Iterable[Row]:
    from vlm_ablate.evaluation.metrics import metrics

    for name in metrics.names():
        metric = metrics[name]
        yield name, (type(metric).__doc__ or "").strip().partition("\n")[0], f"version {metric.version}"


def _experiments() -> Iterable[Row]:
    from vlm_ablate.cli.console import counted
    from vlm_ablate.config.compose import load_document
    from vlm_ablate.config.expand import experiment_files
    from vlm_ablate.config.shipped import experiment_name
    from vlm_ablate.errors import ConfigError

    for file in experiment_files():
        short = experiment_name(file)
        try:
            data = load_document(file).data
        except ConfigError as error:
            yield short, str(error.problems[0]), ""
            continue
        written = data.get("arms")
        arms = written if isinstance(written, dict) else {}
        yield short, str(data.get("title", "")), f"{counted(len(arms), 'arm')}: {', '.join(map(str, arms))}"


def _scales() -> Iterable[Row]:
    from vlm_ablate.config.scales import PAPER, read_scale, scale_files
    from vlm_ablate.config.shipped import experiments_root
    from vlm_ablate.errors import ConfigError

    for name, file in sorted(scale_files(experiments_root()).items(), key=lambda item: (item[0] == PAPER, item[0])):
        try:
            scale = read_scale(file).scale
        except ConfigError as error:
            yield name, str(error.problems[0]), ""
            continue
        stand_ins = [str(s.use.get("name")) for table in (scale.vision, scale.language) for s in table.values()]
        yield name, scale.summary, ", ".join(dict.fromkeys(stand_ins))


def _papers() -> Iterable[Row]:
    from vlm_ablate.papers import table, table_keys

    for key in table_keys():
        found = table(key)
        yield key, found.caption, f"{found.number}, {len(found.rows)} rows: {', '.join(found.columns)}"


KINDS: dict[str, Callable[[], Iterable[Row]]] = {
    "vision": _parts(_registry("vision_encoders")),
    "language": _parts(_registry("language_models")),
    "connectors": _parts(_registry("connectors")),
    "architectures": _parts(_registry("architectures")),
    "sources": _parts(_registry("sources")),
    "tasks": _tasks,
    "benchmarks": _parts(_registry("benchmarks")),
    "metrics": _metrics,
    "launchers": _parts(_registry("launchers")),
    "experiments": _experiments,
    "scales": _scales,
    "papers": _papers,
}
