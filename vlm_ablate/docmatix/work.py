"""One PDF from file to part: read, cut into rows, ask, filter, draw. Runs in a worker process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vlm_ablate.docmatix.counts import PdfCounts
from vlm_ablate.docmatix.filters import Sieve
from vlm_ablate.docmatix.find import Pdf, printable, read_pdf
from vlm_ablate.docmatix.pair import PageRow, Pair, cut_rows
from vlm_ablate.docmatix.parquet import record, write_part
from vlm_ablate.docmatix.settings import BuildSettings
from vlm_ablate.limits import parse_json
from vlm_ablate.pdf.document import PageText, UnreadablePdf, draw_page, opened, read_page
from vlm_ablate.storage import write_atomically

if TYPE_CHECKING:
    import pypdfium2

HIDDEN = "with text that the picture does not show"
"""Pages on which something is covered, off the page, invisible, or in a font that is neither embedded nor installed."""


class Questioner(Protocol):
    """Who asks the questions."""

    def check(self) -> None:
        """Raise a `VlmAblateError` if it cannot work; called once before any PDF is read."""

    def ask(self, rows: Sequence[PageRow]) -> Iterator[tuple[int, list[Pair]]]:
        """(row's place, its pairs) for all rows of one PDF."""


def make_questioner(settings: BuildSettings, state: State) -> Questioner:
    """The questioner that the settings name."""
    if settings.questioner == "rules":
        from vlm_ablate.docmatix.rules import RuleQuestioner

        return RuleQuestioner(settings)
    if settings.questioner == "endpoint":
        from vlm_ablate.docmatix.endpoint import EndpointQuestioner

        return EndpointQuestioner(settings, state.answers)
    from vlm_ablate.docmatix.local import LocalQuestioner

    return LocalQuestioner(settings, state.answers)


@dataclass(frozen=True)
class State:
    """The folder that keeps what is done, so that a build that was killed continues."""

    root: Path

    @property
    def answers(self) -> Path:
        """Answers of a language model, one file a PDF. Kept when the build is done."""
        return self.root / "answers"

    @property
    def parts(self) -> Path:
        """Rows and counts, two files a PDF."""
        return self.root / "parts"

    def part(self, key: str) -> Path:
        """Rows of a PDF."""
        return self.parts / f"{key}.part"

    def counts(self, key: str) -> Path:
        """Counts of a PDF; written last, so where it is the part is whole."""
        return self.parts / f"{key}.json"

    def read_counts(self, key: str) -> PdfCounts | None:
        """Counts of a PDF that is done, else None."""
        try:
            return PdfCounts(**parse_json(self.counts(key).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write_counts(self, counts: PdfCounts) -> None:
        """Record that a PDF is done."""
        write_atomically(self.counts(counts.key), json.dumps(counts.to_dict(), indent=1))


def build_part(pdf: Pdf, settings: BuildSettings, state: State, questioner: Questioner) -> PdfCounts:
    """Write the part of one PDF and its counts; a PDF that cannot be read is recorded as skipped.

    Raises:
        VlmAblateError: the questioner or the disk failed; the PDF is not recorded and will be tried again.
    """
    counts = PdfCounts(pdf.name, pdf.key)
    try:
        with opened(read_pdf(pdf.path)) as document:
            _build(document, pdf, settings, state, questioner, counts)
    except UnreadablePdf as error:  # nothing of it is in the data set, whatever was counted before
        counts = PdfCounts(pdf.name, pdf.key, error.reason, error.message)
    except OSError as error:
        if error.filename is not None and Path(error.filename) != pdf.path:
            raise
        counts = PdfCounts(pdf.name, pdf.key, "unreadable", printable(str(error)))
    state.write_counts(counts)
    return counts


def _build(
    document: pypdfium2.PdfDocument,
    pdf: Pdf,
    settings: BuildSettings,
    state: State,
    questioner: Questioner,
    counts: PdfCounts,
) -> None:
    pages = _pages(document, settings, counts)
    rows = cut_rows(pdf.name, pdf.key, pages, settings.pages_per_row)
    sieve = Sieve(settings.support)
    kept: dict[int, list[Pair]] = {}
    kinds: Counter[str] = Counter()
    for number, pairs in sorted(questioner.ask(rows)) if rows else ():
        counts.generated += len(pairs)
        kept[number] = sieve.keep(rows[number], pairs)
        kinds.update(pair.kind for pair in kept[number])
    counts.dropped, counts.kinds = dict(sieve.dropped), dict(kinds)
    counts.prompts_refused = getattr(questioner, "refused", 0) if rows else 0
    counts.rows_made = len(rows)
    counts.rows_without_pairs = sum(not pairs for pairs in kept.values())

    def records() -> Iterator[dict[str, Any]]:
        for number, pairs in kept.items():
            if pairs:
                images = [_draw(document, page, settings) for page in rows[number].pages]
                yield record(rows[number], images, pairs, settings.image_format)

    write_part(state.part(pdf.key), records())


def _pages(document: pypdfium2.PdfDocument, settings: BuildSettings, counts: PdfCounts) -> list[PageText]:
    import pypdfium2

    used = min(len(document), settings.max_pages or len(document))
    pages: list[PageText] = []
    unreadable = 0
    for index in range(used):
        try:
            with closing(document[index]) as page:
                pages.append(read_page(page, index + 1))
        except pypdfium2.PdfiumError:
            unreadable += 1
    counts.pages = {
        "in the files": len(document),
        "beyond the limit": len(document) - used,
        "unreadable": unreadable,
        "without text": sum(not page.text for page in pages),
        "read": len(pages),
        HIDDEN: sum(bool(page.hidden) for page in pages),
    }
    return pages


def _draw(document: pypdfium2.PdfDocument, page: PageText, settings: BuildSettings) -> bytes:
    import pypdfium2

    try:
        with closing(document[page.number - 1]) as drawn:
            return draw_page(drawn, settings.dpi, settings.image_format)
    except pypdfium2.PdfiumError as error:
        raise UnreadablePdf("corrupt", f"page {page.number} cannot be drawn: {error}") from error
