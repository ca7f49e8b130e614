"""`vlm-ablate report`: pages to read over all that was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_ablate.cli.console import HomeOption, few_collections

RESULTS = Path("results")
"""Where the records lie that come with a checkout; it need not be there."""


@few_collections()
def report(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the pages: empty, or of an earlier report.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Experiment files that are not below experiments/.", show_default=False),
    ] = None,
    scale: Annotated[
        str | None, typer.Option("--scale", "-s", metavar="NAME", help="Only what was run at this scale.")
    ] = None,
    results: Annotated[
        Path, typer.Option("--results", help="Folder of records.json files that are read besides the home.")
    ] = RESULTS,
    home: HomeOption = None,
) -> None:
    """Write a site of static pages: all claims with their verdicts, and a page, CSV and LaTeX for each table.

    It is made from records only, opens from a file and needs no script. Nothing is trained.

    Example: vlm-ablate report --out report
    """
    from vlm_ablate.cli.console import check_lines, err, warn
    from vlm_ablate.cli.home import open_home, take_over_earlier
    from vlm_ablate.cli.report_entries import gather
    from vlm_ablate.reporting.site import check_folder, write_site
    from vlm_ablate.runs.once import looking_once

    check_lines({"--scale": scale})
    check_folder(out)
    if results != RESULTS and not results.is_dir():
        warn([f"{results} is no folder: no records are read from there"])
    place = open_home(home)
    take_over_earlier(place)
    with err().status("reading records") as status, looking_once():
        entries, not_run = gather(place, results, files or [], scale, lambda name: status.update(f"reading {name}"))
        written = write_site(entries, not_run, out, lambda name: status.update(f"writing {name}"))
    pages = sum(path.suffix == ".html" for path in written)
    typer.echo(f"wrote {pages} page{'s' * (pages != 1)}; the first is {out / 'index.html'}", err=True)
