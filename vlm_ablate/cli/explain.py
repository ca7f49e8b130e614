"""`vlm-ablate explain RUN`: why a run is reused, or in what it differs from the nearest one that is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_ablate.cli.console import ArmsOption, HomeOption, PluginsOption, ScaleOption, SeedsOption, SetOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from vlm_ablate.home import Home
    from vlm_ablate.runs.explain import Explained
    from vlm_ablate.runs.spec import RunSpec

MOST = 12
"""Differences that are printed of one result."""


def explain(
    what: Annotated[
        str, typer.Argument(metavar="FILE|RUN", help="Experiment file, or a run: arm and seed, key, or folder.")
    ],
    scale: ScaleOption = "laptop",
    arms: ArmsOption = None,
    seeds: SeedsOption = None,
    sets: SetOption = None,
    home: HomeOption = None,
    plugins: PluginsOption = False,
) -> None:
    """What is there of each run, under which key; and why what is missing is not reused from the nearest result.

    A key covers what decides a result: model, seeds, stages with their data; a score's also the benchmark's protocol.
    Where and how it is computed (`execution`) is in no key.

    Example: vlm-ablate explain "ar_perceiver_lora seed 0"
    """
    from vlm_ablate.cli.console import out
    from vlm_ablate.cli.home import open_home
    from vlm_ablate.runs.explain import explain as told
    from vlm_ablate.trust import allow_plugins

    allow_plugins(plugins)
    place = open_home(home)
    console = out()
    for spec in _specs(what, scale, arms, seeds, sets, place):
        console.print(f"{spec.experiment}  {spec.run_name}  (run {spec.id})", style="bold", soft_wrap=True)
        _print(console, told(spec, place))


def _specs(
    what: str, scale: str, arms: str | None, seeds: str | None, sets: list[str] | None, home: Home
) -> Sequence[RunSpec]:
    from vlm_ablate.cli.console import arm_list, seed_list, usage_error
    from vlm_ablate.config.expand import find_experiment, load_experiment
    from vlm_ablate.errors import UnknownNameError
    from vlm_ablate.runs.find import find_asked
    from vlm_ablate.runs.spec import specs_of

    try:
        file: Path | None = find_experiment(what)
    except UnknownNameError:
        if what.endswith((".yaml", ".yml")):
            raise
        file = None
    if file is None:
        given = {"--arms": arms, "--seeds": seeds, "--set": sets}
        if unread := [option for option, value in given.items() if value]:
            raise usage_error(f"{', '.join(unread)}: of experiment files only, and {what!r} is none")
        return [find_asked(what, home)]
    loaded = load_experiment(file, scale=scale, sets=sets or [], arms=arm_list(arms))
    return specs_of(loaded, seeds=seed_list(seeds))


def _print(console: Console, told: list[Explained]) -> None:
    from rich.text import Text

    styles = {"finished": "green", "diverged": "yellow", "begun": "cyan", "missing": "red"}
    for item in told:
        line = Text.assemble("  ", item.what.ljust(28), (item.state.ljust(10), styles[item.state]), item.key)
        if item.folder and item.folder != item.key:
            line.append(f" (folder {item.folder})")
        if item.where:
            line.append(f"  {item.where}", style="dim")
        console.print(line, soft_wrap=True)
        if item.nearest is None:
            continue
        count = len(item.differing)
        console.print(f"      the nearest is {item.nearest}; it differs in {count} place{'s' * (count != 1)}:")
        for path, here, there in item.differing[:MOST]:
            console.print(Text(f"        {path}: {here!r} here, {there!r} there"), soft_wrap=True)
        if count > MOST:
            console.print(f"        and {count - MOST} more")
