"""`vlm-ablate data ...`: what the model will see, and counts over many samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_ablate.cli import docmatix
from vlm_ablate.cli.console import LARGEST_SEED, HomeOption, HubOption, ScaleOption, SetOption
from vlm_ablate.cli.fetch import fetch

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from vlm_ablate.config.run_config import RunStage
    from vlm_ablate.data.deal import Size
    from vlm_ablate.data.inspect import Shown, SourceStats
    from vlm_ablate.data.mixture import Mixture
    from vlm_ablate.runs.spec import RunSpec

app = typer.Typer(help="Data sources and the material on this machine.", no_args_is_help=True)

app.command("build-docmatix")(docmatix.build_docmatix)
app.command("fetch")(fetch)

FileArgument = Annotated[Path, typer.Argument(help="Experiment file.")]
StageOption = Annotated[str | None, typer.Option("--stage", help="Begin where this stage begins; default: the first.")]
ArmOption = Annotated[
    str | None,
    typer.Option(
        "--arm", "--arms", metavar="NAME",
        help="Arm whose data and model to use; --set reaches no other. Default: the first.",
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed", "--seeds", min=0, max=LARGEST_SEED, help="Seed of the order; default: the file's first."
    ),
]


@app.callback()
def data() -> None:
    """Data sources and the material on this machine."""


@app.command()
def show(
    file: FileArgument,
    stage: StageOption = None,
    count: Annotated[int, typer.Option("-n", min=1, max=1_000, help="Samples to show.")] = 4,
    draw: Annotated[Path, typer.Option("--draw", help="Picture to write.")] = Path("data_show.png"),
    arm: ArmOption = None,
    seed: SeedOption = None,
    scale: ScaleOption = "laptop",
    sets: SetOption = None,
    home: HomeOption = None,
    allow_hub: HubOption = False,
) -> None:
    """Print and draw the first samples of a stage: colours for text, image and supervised tokens.

    Example: vlm-ablate data show idefics2/t03_architecture
    """
    from vlm_ablate.cli.console import out
    from vlm_ablate.cli.home import open_home
    from vlm_ablate.hub import set_hub_access

    set_hub_access(allow_hub)
    open_home(home)
    spec = _spec(file, scale, sets, arm, seed)
    from vlm_ablate.data.draw import draw as draw_samples
    from vlm_ablate.data.inspect import open_data, stage_start

    start = stage_start(spec.config, stage)
    samples = list(open_data(spec.config, spec.seeds.data, stage).show(start, count))
    for sample in samples:
        out().print(_coloured(sample), soft_wrap=True)
    draw_samples(samples, draw)
    out().print(f"drawn in {draw}", style="dim")


@app.command()
def stats(
    file: FileArgument,
    stage: StageOption = None,
    count: Annotated[int, typer.Option("-n", min=1, max=100_000_000, help="Samples to count.")] = 1000,
    arm: ArmOption = None,
    seed: SeedOption = None,
    scale: ScaleOption = "laptop",
    sets: SetOption = None,
    home: HomeOption = None,
    allow_hub: HubOption = False,
) -> None:
    """Images, tokens, supervised tokens and shares by source; truncated and dropped samples, and why.

    Example: vlm-ablate data stats idefics2/t03_architecture
    """
    from vlm_ablate.cli.console import err, out
    from vlm_ablate.cli.home import open_home
    from vlm_ablate.hub import set_hub_access

    set_hub_access(allow_hub)
    open_home(home)
    spec = _spec(file, scale, sets, arm, seed)
    from vlm_ablate.data.inspect import open_data, stage_start

    start = stage_start(spec.config, stage)
    with err().status("reading samples") as status:
        inspector = open_data(spec.config, spec.seeds.data, stage)
        sizes: list[Size] = []
        found = inspector.stats(start, count, lambda done: status.update(f"{done} of {count} samples"), sizes)
    _print_table(_table(found, inspector.encoder.limit))
    name = stage or next(iter(spec.config.stages))
    micro = spec.config.execution.of_stage(name).micro_batch_size
    out().print(_fill(spec.config.stages[name], micro, sizes, inspector.mixture), soft_wrap=True)
    for name, stats in found.items():
        for reason, number in stats.dropped.most_common():
            out().print(f"{name}: {number} of {stats.samples} dropped: {reason}")


def _print_table(table: Table) -> None:
    """Where a terminal is too narrow for its columns, a paragraph for each row."""
    from rich.measure import Measurement

    from vlm_ablate.cli.console import out

    console = out()
    if Measurement.get(console, console.options.update_width(10_000), table).minimum <= console.width:
        console.print(table)
        return
    console.print(table.title)
    heads = [str(column.header) for column in table.columns]
    for name, *values in zip(*(column.cells for column in table.columns), strict=True):
        pairs = zip(heads[1:], values, strict=True)
        console.print(f"{name}: " + ", ".join(f"{head} {value}" for head, value in pairs))


def _fill(stage: RunStage, micro: int | None, sizes: list[Size], mixture: Mixture) -> str:
    """How much of what is computed are tokens of samples."""
    from vlm_ablate.data.pack import fill_of, padded_share, window_of

    data, micro = stage.data, micro or stage.batch_size
    if data.packing == "rows":
        fill = fill_of(sizes, data.sequence_length, data.row_views, window_of(mixture))
        each = fill.samples / max(fill.rows, 1)
        return (
            f"packed: {fill.samples:,} samples in {fill.rows:,} rows of {data.sequence_length:,} tokens, "
            f"{fill.share:.1%} full: {each:.1f} samples a row, at most {fill.most_views} views"
        )
    return (
        f"padded in micro-batches of {micro}, {padded_share(sizes, micro):.1%} of the tokens are real "
        "(all of them with execution.attention: documents)"
    )


def _spec(file: Path, scale: str, sets: list[str] | None, arm: str | None, seed: int | None) -> RunSpec:
    from vlm_ablate.config.expand import load_experiment
    from vlm_ablate.runs.spec import specs_of

    loaded = load_experiment(file, scale=scale, sets=sets or [], arms=[arm] if arm else None)
    return specs_of(loaded, seeds=None if seed is None else [seed])[0]


def _coloured(sample: Shown) -> Text:
    from rich.text import Text

    from vlm_ablate.data.draw import headline

    text = Text(headline(sample) + "\n", style="bold red" if sample.problem else "bold")
    if sample.problem:
        return text.append(sample.problem + "\n", style="red")
    styles = {"text": "default", "image": "magenta", "supervised": "bold green"}
    for run in sample.runs:
        text.append(run.text, style=styles[run.kind])
    return text.append("\n")


def _table(found: dict[str, SourceStats], limit: int | None) -> Table:
    from rich.table import Table

    table = Table("source", title=f"sequences of at most {limit} tokens")
    columns = ("samples", "share", "images", "views", "tokens", "share of tokens", "visual", "supervised", "truncated",
               "images cut", "dropped")
    for column in columns:
        table.add_column(column, justify="right")
    samples, tokens = (sum(getattr(s, k) for s in found.values()) or 1 for k in ("samples", "tokens"))
    for name, s in found.items():
        table.add_row(
            name, f"{s.samples:,}", f"{s.samples / samples:.1%}", f"{s.images:,}", f"{s.views:,}", f"{s.tokens:,}",
            f"{s.tokens / tokens:.1%}", f"{s.visual_tokens:,}", f"{s.supervised_tokens:,}", f"{s.truncated:,}",
            f"{s.images_cut:,}", f"{s.dropped.total():,}",
        )
    return table
