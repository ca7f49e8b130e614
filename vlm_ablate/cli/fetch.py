"""`vlm-ablate data fetch`: the richer pictures, maps and documents of the workstation scale."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm_ablate.cli.console import HomeOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress, TaskID

    from vlm_ablate.home import Home
    from vlm_ablate.offline.debian.catalogue import Collection, Package
    from vlm_ablate.offline.debian.fetch import Fetched

MIB = 2**20


def fetch(
    collections: Annotated[
        list[str] | None,
        typer.Argument(metavar="COLLECTION", help="stamps, clip_art, maps, documents, wordnet. Default: the first "
                       "four, which the workstation scale uses."),
    ] = None,
    debs: Annotated[
        Path | None, typer.Option("--debs", help="Folder with the .deb files; nothing is downloaded.")
    ] = None,
    mirror: Annotated[
        str | None, typer.Option("--mirror", metavar="URL", help="Debian mirror to ask instead of apt-get.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show what there is and what is here; fetch nothing.")] = False,
    home: HomeOption = None,
) -> None:
    """Fetch packages of Debian as data: photos with sentences, clip art, maps, real pages. Nothing is installed.

    Example: vlm-ablate data fetch --list
    """
    from vlm_ablate.errors import UnknownNameError
    from vlm_ablate.home import Home
    from vlm_ablate.offline.debian.catalogue import COLLECTIONS, packages

    known = {str(collection): collection for collection in COLLECTIONS}
    place = Home.at(home)
    for name in collections or ():
        if name not in known:
            raise UnknownNameError("collection", name, COLLECTIONS)
    if show:
        _list([c for c in COLLECTIONS if not collections or c in collections], place)
        return
    chosen = [known[name] for name in collections] if collections else [c for c in COLLECTIONS if c != "wordnet"]
    wanted = [package for collection in chosen for package in packages(collection)]
    try:
        _fetch(wanted, place, debs, mirror)
    except KeyboardInterrupt:
        from vlm_ablate.cli.console import err

        err().print("stopped: what is fetched stays, the same command goes on from there")
        raise typer.Exit(130) from None


def _fetch(wanted: Sequence[Package], home: Home, debs: Path | None, mirror: str | None) -> None:
    """All of them, with a bar over the bytes and a line for each; one that cannot be had does not stop the rest."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from vlm_ablate.cli.console import err, out
    from vlm_ablate.errors import AssetMissing, DataError
    from vlm_ablate.offline.debian.fetch import fetch

    console, failed = err(), []
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[info]}", markup=False), console=console, transient=True,
                  disable=not console.is_terminal) as bar:
        for package in wanted:
            task = bar.add_task(package.name, total=package.bytes, info="")
            try:
                found = fetch(package, home=home, debs=debs, mirror=mirror, progress=partial(_show, bar, task))
                out().print(_line(found, home), soft_wrap=True)
            except (AssetMissing, DataError) as error:
                console.print(f"not fetched: {error}", soft_wrap=True)
                failed.append(package.name)
            bar.remove_task(task)
    if failed:
        raise AssetMissing(f"{len(failed)} of {len(wanted)} packages not fetched: {', '.join(failed)}")


def _show(bar: Progress, task: TaskID, what: str, done: int) -> None:
    bar.update(task, completed=done, info=what)


def _line(found: Fetched, home: Home) -> str:
    tried = "" if found.as_tried else f"  (tried with {found.package.version}; this one was not compared)"
    what, package = "fetched" if found.fresh else "is here", found.package
    where = package.folder(home)
    files = "1 file" if found.files == 1 else f"{found.files:,} files"
    return f"{what}  {package.name} {found.version}  {files}  {package.licence}  {where}{tried}"


def _list(collections: Sequence[Collection], home: Home) -> None:
    """What each collection holds, then the packages; names whole in 80 columns."""
    from rich.table import Table
    from rich.text import Text

    from vlm_ablate.cli.console import out
    from vlm_ablate.offline.debian.catalogue import packages, summary

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("package", "MiB", "collection", "licence", "here"):
        table.add_column(column, justify="right" if column == "MiB" else "left", no_wrap=True)
    for collection in collections:
        out().print(Text.assemble((collection.ljust(10), "cyan"), f" {summary(collection)}"), soft_wrap=True)
        for package in packages(collection):
            here = (package.manifest(home) or {}).get("version", "-")
            table.add_row(package.name, f"{package.bytes / MIB:.1f}", collection, package.licence, here)
    out().print()
    out().print(table)
