"""`vlm-ablate prefetch FILE`: what runs need of the hub, brought here before, or checked without a network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlm_ablate.cli.console import ArmsOption, HomeOption, ScaleOption, SetOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlm_ablate.runs.needs import Need


def prefetch(
    file: Annotated[Path, typer.Argument(help="Experiment file.")],
    scale: ScaleOption = "gpu",
    arms: ArmsOption = None,
    sets: SetOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is here and what is missing; nothing is downloaded.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
    home: HomeOption = None,
) -> None:
    """Download exactly what the runs of a file read: weights, data, benchmarks; sizes are shown before.

    Workers then need no network. Offline (HF_HUB_OFFLINE=1, or --check) it says what is here and what is missing.
    Exit code 1: something is missing.

    Example: vlm-ablate prefetch idefics2/t04_visual_tokens --scale gpu
    """
    from vlm_ablate.cli.console import arm_list, err, out, warn
    from vlm_ablate.cli.home import open_home
    from vlm_ablate.hub import hub_allowed, offline_by_hand, set_hub_access

    open_home(home)
    offline = check or (offline_by_hand() and not hub_allowed())
    set_hub_access(not offline)
    from vlm_ablate.cli.export import quiet
    from vlm_ablate.config.expand import load_experiment

    loaded = load_experiment(file, scale=scale, sets=sets or [], arms=arm_list(arms))
    warn(loaded.warnings)
    with err().status("looking at what is here") as status:
        from vlm_ablate.runs.needs import looked_at, needs_of, size_on_hub

        quiet()
        found = []
        for need in needs_of({name: arm.config for name, arm in loaded.arms.items()}):
            status.update(f"looking at {need.id}")
            found.append(_offline(looked_at, need))
        if not offline:
            found = [need if need.here or not need.hub else size_on_hub(need) for need in found]
    _show(found)
    missing = [need for need in found if not need.here]
    if missing and not offline and _agreed(missing, yes):
        missing = _fetch(missing)
    if missing:
        gone = ", ".join(dict.fromkeys(f"{need.id} ({need.what})" for need in missing))
        out().print(f"missing: {gone}", soft_wrap=True)
        for problem in dict.fromkeys(need.problem for need in missing if need.problem):
            err().print(problem, soft_wrap=True)
        raise typer.Exit(1)
    out().print("all is here" if found else "nothing but the package itself is read")


def _offline(action: object, need: Need) -> Need:
    """Look at one need without a network, whatever is allowed."""
    import datasets.config
    import huggingface_hub.constants

    from vlm_ablate.hub import ALLOW_HUB

    places: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)  # both are read when they are called
    before, allowed = [place.HF_HUB_OFFLINE for place in places], os.environ.pop(ALLOW_HUB, None)
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        assert callable(action)
        looked: Need = action(need)
        return looked
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value
        if allowed is not None:
            os.environ[ALLOW_HUB] = allowed


def _show(needs: Sequence[Need]) -> None:
    from rich.table import Table

    from vlm_ablate.cli.console import out

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("kind", "id", "what", "size", "here"):
        grid.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    for need in needs:
        grid.add_row(need.kind, need.id, need.what, _size(need.bytes), "yes" if need.here else "no")
    out().print(grid)


def _size(count: int | None) -> str:
    if count is None:
        return "?"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def _agreed(missing: Sequence[Need], yes: bool) -> bool:
    """Whether to download, as far as the hub has it at all."""
    from vlm_ablate.cli.console import err

    hub = [need for need in missing if need.hub]
    if not hub:
        return False
    # Needs of one size are the same files of a repository, as of two splits; others are other files, as of two subsets.
    files = {(need.kind, need.id, need.bytes or 0) for need in hub}
    unknown = sum(need.bytes is None for need in hub)
    text = f"to download: at most {_size(sum(count for *_, count in files))}"
    text += f", and {unknown} of unknown size (a stream's first rows, mostly)" if unknown else ""
    err().print(text)
    return yes or typer.confirm("download?", default=True)


def _fetch(missing: Sequence[Need]) -> list[Need]:
    """Those that cannot be had; a line for each that can."""
    from dataclasses import replace

    from vlm_ablate.cli.console import err, out
    from vlm_ablate.errors import VlmAblateError
    from vlm_ablate.runs.needs import fetched

    failed = []
    for need in missing:
        with err().status(f"fetching {need.id}") as status:

            def told(done: int, total: int, id: str = need.id) -> None:
                status.update(f"fetching {id}: {done:,} of {total:,} rows")

            try:
                new = fetched(need, told) if need.hub else need
            except VlmAblateError as error:
                new = replace(need, problem=error.message)
        if new.here:
            out().print(f"fetched  {new.id}  {new.what}  {_size(new.bytes)}", soft_wrap=True)
        else:
            failed.append(new)
    return failed
