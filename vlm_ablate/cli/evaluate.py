"""`vlm-ablate evaluate CHECKPOINT`: score a released checkpoint, an export or a run, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm_ablate.cli.console import HomeOption, HubOption, PluginsOption, SetOption, TrackingOption
from vlm_ablate.cli.launchers import JobsOption, LauncherOption, ThreadsOption, launch, where_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlm_ablate.config.expand import LoadedExperiment
    from vlm_ablate.home import Home
    from vlm_ablate.runs.outcome import RunOutcome
    from vlm_ablate.runs.spec import RunSpec
    from vlm_ablate.runs.subject import Subject

PRECISIONS = ("auto", "fp32", "bf16")


def evaluate(
    checkpoint: Annotated[
        str,
        typer.Argument(metavar="CHECKPOINT", help="Hub id, local folder (released or exported), or run of the home."),
    ],
    table: Annotated[
        Path,
        typer.Option(
            "--table",
            "-t",
            metavar="FILE",
            help="The experiment that it becomes a row of: a file, or figure5, table8, table9 (of the papers).",
        ),
    ] = Path("figure5"),
    benchmarks: Annotated[
        str | None,
        typer.Option("--benchmarks", "-b", metavar="NAME,...", help="Instead of all that the table has."),
    ] = None,
    scale: Annotated[str, typer.Option("--scale", "-s", metavar="NAME", help="Scale of the table.")] = "paper",
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many items. Default: the table's.")] = None,
    shots: Annotated[int | None, typer.Option("--shots", min=0, help="Demonstrations. Default: the table's.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="report (the default), tune or train.")] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="chat, plain, or template (the model's own). Default: the table's.")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            metavar="FIELD=VALUE",
            help="How pictures are prepared, e.g. size=1960. Repeatable. Default: as its processor does; in tiles of"
            " the table's size, at the table's sizes.",
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="fp32 or bf16; auto: the table's on a GPU, fp32 without one.")
    ] = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Prompts at once. Default: the table's.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the row. Default: the checkpoint's.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="What the row is called. Default: its name.")] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(
            "--row",
            metavar="COLUMN=VALUE",
            help="The paper's row that it stands for, e.g. model=Idefics3-8B. Repeatable.",
        ),
    ] = None,
    sets: SetOption = None,
    launcher: LauncherOption = "local",
    jobs: JobsOption = None,
    threads: ThreadsOption = 1,
    home: HomeOption = None,
    tracking_uri: TrackingOption = None,
    allow_hub: HubOption = False,
    plugins: PluginsOption = False,
) -> None:
    """Score a model that is there already. The record becomes a row of a table, beside the paper's own.

    Example: vlm-ablate evaluate exported/my_run --benchmarks docvqa,textvqa --limit 500
    """
    from vlm_ablate.cli.console import check_lines, err, out, warn
    from vlm_ablate.cli.home import open_home
    from vlm_ablate.cli.run import look_over_material, report_failures, table_command
    from vlm_ablate.errors import UnknownNameError
    from vlm_ablate.hub import set_hub_access
    from vlm_ablate.trust import allow_plugins

    set_hub_access(allow_hub)
    allow_plugins(plugins)
    if precision not in PRECISIONS:
        raise UnknownNameError("precision", precision, PRECISIONS)
    check_lines({"--name": name, "--label": label})
    place = open_home(home)
    uri = tracking_uri or place.tracking_uri
    written = table_settings(table, scale, sets or [], benchmarks, limit, shots, split, prompt)
    where = where_to(launcher, jobs=jobs, threads=threads)
    with err().status("reading the checkpoint"):
        loaded, spec = asked(
            checkpoint, place, table, scale, written, image=fields(image or [], "--image"), precision=precision,
            batch_size=batch_size, name=name, label=label, row=fields(row or [], "--row"),
        )  # fmt: skip
    out().print(f"{spec.experiment}  {spec.label}  at scale {scale!r}, home {place.root}", soft_wrap=True)
    place.prepare()
    from vlm_ablate.runs.results import find_results

    if not find_results(spec, place).done:
        look_over_material([spec])
    (outcome,) = launch([spec], place, uri, where)
    report_failures([outcome])
    if outcome.status != "finished":
        raise typer.Exit(1)
    _show(spec, outcome, place)
    _publish(loaded, place, uri, warn)
    out().print(f"the table: {table_command(table, scale, None, written, home, tracking_uri)}", soft_wrap=True)


def table_settings(
    table: Path,
    scale: str,
    sets: Sequence[str],
    benchmarks: str | None,
    limit: int | None,
    shots: int | None,
    split: str | None,
    prompt: str | None,
) -> list[str]:
    """The options as settings of the table's file: with them, `table` shows what `evaluate` asked.

    Raises:
        UnknownNameError: a benchmark that neither the table nor the package has; a split that is none.
        VlmAblateError: `benchmarks` names none.
    """
    from vlm_ablate.cli.console import listed
    from vlm_ablate.config.expand import load_experiment
    from vlm_ablate.errors import UnknownNameError
    from vlm_ablate.registry import benchmarks as registered

    found = list(sets)
    entry: dict[str, Any] = {}
    if split is not None:
        if split not in ("train", "tune", "report"):
            raise UnknownNameError("split", split, ("train", "tune", "report"))
        entry["split"] = split
    entry |= {} if limit is None else {"limit": limit}
    found += [f"evaluation.benchmarks.*.{field}={value}" for field, value in entry.items()]
    if shots is not None:
        asked = load_experiment(table, scale=scale, sets=sets).base.evaluation
        own = any(column.shots is not None for column in asked.benchmarks.values())
        found += ["evaluation.benchmarks.*.shots=null"] if own else []
        found += [f"evaluation.shots={shots}"]
    found += [] if prompt is None else [f"evaluation.prompt={prompt}"]
    if benchmarks is None:
        return found
    wanted = listed("--benchmarks", benchmarks, "names separated by commas")
    columns = list(load_experiment(table, scale=scale, sets=sets).base.evaluation.benchmarks)
    for name in wanted:
        if name not in columns and name not in registered.names():
            raise UnknownNameError("benchmark", name, {*columns, *registered.names()})
    found += [f"evaluation.benchmarks.{name}=null" for name in columns if name not in wanted]
    more = "".join(f", {field}: {value}" for field, value in entry.items())
    new = [name for name in wanted if name not in columns]
    return found + [f"evaluation.benchmarks.{name}={{benchmark: {name}{more}}}" for name in new]


def fields(texts: Sequence[str], option: str) -> dict[str, Any]:
    """`FIELD=VALUE` of a repeatable option; values are YAML.

    Raises:
        ConfigError: one is not written so.
    """
    from vlm_ablate.config.compose import parse_sets
    from vlm_ablate.errors import ConfigError, Problem

    try:
        return parse_sets(texts).data
    except ConfigError as error:
        raise ConfigError([Problem(option, p.path, p.message) for p in error.problems]) from error


def asked(
    checkpoint: str,
    home: Home,
    table: Path,
    scale: str,
    sets: Sequence[str],
    *,
    image: dict[str, Any],
    precision: str,
    batch_size: int | None,
    name: str | None,
    label: str | None,
    row: dict[str, Any],
) -> tuple[LoadedExperiment, RunSpec]:
    """The table with the row that the checkpoint becomes, and the run that scores it.

    Raises:
        ConfigError: the table's file, or a setting, is wrong.
        UnknownNameError: no such checkpoint, run, or row of the paper.
    """
    from dataclasses import replace

    import torch
    from pydantic import ValidationError

    from vlm_ablate.cli.console import warn
    from vlm_ablate.cli.export import quiet
    from vlm_ablate.config.expand import load_experiment
    from vlm_ablate.errors import ConfigError, Problem
    from vlm_ablate.papers import CellError, find_row
    from vlm_ablate.runs.evaluated import with_row
    from vlm_ablate.runs.spec import spec_of
    from vlm_ablate.runs.subject import subject_of

    quiet()
    loaded = load_experiment(table, scale=scale, sets=sets)
    paper = loaded.experiment.paper
    if row:
        try:
            find_row(paper.key if paper else "", row)
        except (CellError, KeyError) as error:
            raise ConfigError([Problem("--row", "", getattr(error, "message", f"{table} names no table"))]) from error
    for arm in loaded.arms.values():  # one of the file's own rows
        changed = image or name or row or label or precision not in ("auto", arm.config.scoring_precision)
        if not arm.config.stages and arm.config.model.init_from == checkpoint and not changed:
            return loaded, _in_batches(spec_of(loaded, arm, loaded.experiment.seeds[0]), batch_size)
    subject = subject_of(checkpoint, home)
    warn([subject.remark] if subject.remark else [])
    _check_image(subject, image)
    chosen: Any = precision
    if precision == "auto":
        chosen = None if torch.cuda.is_available() else "fp32"
    try:
        config = subject.config(loaded.base, image=image, precision=chosen, batch_size=batch_size)
    except ValidationError as error:
        told = [
            Problem("--image" if image else str(table), ".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()
        ]
        raise ConfigError(told) from error
    called = name or _free(subject.name, {*loaded.arms, *loaded.left_out})
    new = subject.arm(config, name=called, label=label or called, cell=row or None)
    loaded = with_row(loaded, new)
    spec = spec_of(loaded, new, subject.seed)
    subject.check_weights_of(spec.stage_keys, option="--image" if image else str(table))
    plugins = tuple(dict.fromkeys((*spec.plugins, *subject.plugins)))
    return loaded, replace(spec, evaluated=True, plugins=plugins)


def _check_image(subject: Subject, image: dict[str, Any]) -> None:
    """Whether what `--image` says is a preparation of pictures.

    Raises:
        ConfigError: an unknown field, or a value that does not fit; with the nearest one.
    """
    from pydantic import ValidationError

    from vlm_ablate.config.data import ImageConfig
    from vlm_ablate.config.problems import problems_of
    from vlm_ablate.errors import ConfigError, Problem

    whole = {**subject.image.model_dump(), **image}
    try:
        found = ImageConfig.model_validate(whole)
    except ValidationError as error:
        raise ConfigError(problems_of(error, ImageConfig, whole, lambda path: ("--image", path))) from error
    if found.unfilled and {"size", "split", "tile"} & set(image):
        raise ConfigError([Problem("--image", "size", found.unfilled)])


def _in_batches(spec: RunSpec, size: int | None) -> RunSpec:
    """The same run, with so many prompts answered together; None: as many as it says."""
    from dataclasses import replace

    if size is None:
        return spec
    execution = spec.config.execution.model_copy(update={"evaluation_batch_size": size})
    return replace(spec, config=spec.config.model_copy(update={"execution": execution}))


def _free(name: str, taken: set[str]) -> str:
    """A name that no arm of the file has."""
    while name in taken:
        name = f"{name} (evaluated)"
    return name


def _show(spec: RunSpec, outcome: RunOutcome, home: Home) -> None:
    """The scores, a line each."""
    from rich.table import Table

    from vlm_ablate.cli.console import out
    from vlm_ablate.runs.results import find_results

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("benchmark", "split", "items", "score", "blind", "unread"):
        grid.add_column(column, justify="left" if column in ("benchmark", "split") else "right")
    for record in find_results(spec, home).score_records():
        if record["blind"] or record.get("described"):
            continue
        blind = outcome.blind.get(str(record["column"]))
        grid.add_row(
            str(record["column"]), str(record["split"]), f"{record['items']:,}", f"{record['score']:.1f}",
            "-" if blind is None else f"{blind:.1f}", f"{record['unparsed']:,}",
        )  # fmt: skip
    out().print(grid)


def _publish(loaded: LoadedExperiment, home: Home, uri: str, warn: Any) -> None:
    from vlm_ablate.cli.publish import publish_table
    from vlm_ablate.errors import VlmAblateError

    try:
        publish_table(loaded, home, uri)
    except VlmAblateError as error:
        warn([f"the table was not put on the tracking store: {error.message}"])
