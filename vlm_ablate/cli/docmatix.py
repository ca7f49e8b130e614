"""`vlm-ablate data build-docmatix`: PDFs to questions on their pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from vlm_ablate.docmatix.counts import PdfCounts


def build_docmatix(
    pdfs: Annotated[Path, typer.Argument(help="Folder searched for .pdf and .pdf.gz, or one file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the data set.")],
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="The endpoint's model; alone: a local language model, by folder or hub id."),
    ] = None,
    dpi: Annotated[int, typer.Option("--dpi", help="Resolution of the pages.")] = 150,
    pages_per_row: Annotated[int, typer.Option("--pages-per-row", help="Consecutive pages in a row.")] = 4,
    max_pages: Annotated[int | None, typer.Option("--max-pages", help="First pages used of a PDF.")] = None,
    max_pdfs: Annotated[int | None, typer.Option("--max-pdfs", help="PDFs used, in order of path.")] = None,
    pairs_per_page: Annotated[int, typer.Option("--pairs-per-page", help="Rules: pairs a page.")] = 4,
    styles: Annotated[int, typer.Option("--styles", help="Models: prompt styles asked a row, of five.")] = 1,
    support: Annotated[
        float, typer.Option("--support", help="Models: share of an answer's words that must stand on the pages.")
    ] = 0.75,
    temperature: Annotated[float, typer.Option("--temperature", help="Models: 0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Models: length of an answer.")] = 1024,
    seed: Annotated[int, typer.Option("--seed", help="Decides which questions and styles are drawn.")] = 0,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes, one PDF each at a time.")] = 1,
    concurrency: Annotated[int, typer.Option("--concurrency", help="Endpoint: requests at a time.")] = 8,
    timeout: Annotated[float, typer.Option("--timeout", help="Endpoint: seconds to wait for an answer.")] = 120.0,
    retries: Annotated[int, typer.Option("--retries", help="Endpoint: repetitions of a failed request.")] = 5,
    key_variable: Annotated[
        str, typer.Option("--key-variable", help="Endpoint: environment variable that holds its key.")
    ] = "OPENAI_API_KEY",
    batch: Annotated[int, typer.Option("--batch", help="Local model: rows at a time.")] = 4,
    image_format: Annotated[str, typer.Option("--image-format", help="png or jpeg.")] = "png",
    rows_per_shard: Annotated[int, typer.Option("--rows-per-shard", help="Rows in a Parquet file.")] = 500,
    licence: Annotated[str, typer.Option("--licence", help="Licence of the documents, for the data card.")] = "other",
) -> None:
    """Questions and answers on the pages of PDFs, as Parquet in Docmatix's schema. Stopped, it continues.

    Example: vlm-ablate data build-docmatix ~/papers --out data/papers
    """
    import time

    from vlm_ablate.docmatix.build import build
    from vlm_ablate.docmatix.settings import BuildSettings, ImageFormat
    from vlm_ablate.errors import UnknownNameError

    if image_format not in ("png", "jpeg"):
        raise UnknownNameError("image format", image_format, ("png", "jpeg"))
    if endpoint:
        jobs = min(jobs, concurrency)  # each process has at least one request open
    settings = BuildSettings(
        pdfs, out, dpi, pages_per_row, max_pages, max_pdfs, cast(ImageFormat, image_format), rows_per_shard, licence,
        seed, model=model, endpoint=endpoint, pairs_per_page=pairs_per_page, styles=styles, support=support,
        temperature=temperature, max_new_tokens=max_new_tokens, key_variable=key_variable, jobs=jobs,
        concurrency=concurrency, timeout=timeout, retries=retries, batch=batch,
    )
    begun = time.monotonic()
    with _bar() as on_pdf:
        built = build(settings, on_pdf)
    _report(built.counts, out, time.monotonic() - begun if built.fresh else None)


def _bar() -> AbstractContextManager[Callable[[int, int, PdfCounts], None]]:
    """A bar over the PDFs on a terminal; a line for each that is skipped, anywhere."""
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    from vlm_ablate.cli.console import err

    @contextmanager
    def bar() -> Iterator[Callable[[int, int, PdfCounts], None]]:
        columns = (SpinnerColumn(), TextColumn("PDFs"), BarColumn(), MofNCompleteColumn(),
                   TextColumn("{task.fields[info]}", markup=False))
        console = err()
        pages = pairs = 0
        with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("PDFs", total=None, info="looking for PDFs")

            def on_pdf(done: int, of: int, counts: PdfCounts) -> None:
                nonlocal pages, pairs
                pages, pairs = pages + counts.pages.get("read", 0), pairs + counts.kept
                if counts.status != "read":
                    progress.console.print(f"skipped {counts.name}: {counts.status}", soft_wrap=True)
                progress.update(task, completed=done, total=of, info=f"{pages:,} pages, {pairs:,} pairs")

            yield on_pdf

    return bar()


def _report(counts: dict[str, Any], out: Path, seconds: float | None) -> None:
    from vlm_ablate.cli.console import out as console

    pairs, written, pages = counts["pairs"], counts["written"], counts["pages"]
    say = console().print
    pdfs = ", ".join(f"{count:,} {what}" for what, count in counts["pdfs"].items() if count)
    say(f"PDFs: {pdfs}", soft_wrap=True)
    say("pages: " + ", ".join(f"{count:,} {what}" for what, count in pages.items() if count), soft_wrap=True)
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in pairs["dropped"].items()) or "none"
    say(f"pairs: {pairs['generated']:,} generated, {pairs['kept']:,} kept; "
        f"{pairs['dropped share']:.1%} dropped ({dropped})", soft_wrap=True)
    say(f"written: {written['rows']:,} rows, {written['images']:,} pages, {written['pairs']:,} pairs, "
        f"{written['bytes'] / 2**20:,.1f} MiB in {len(written['files'])} files below {out}", soft_wrap=True)
    if seconds is None:
        say("nothing to do: this was built before")
    else:
        say(f"{pages.get('read', 0) / max(seconds, 1e-9):.1f} pages a second ({seconds:.1f} s)")
