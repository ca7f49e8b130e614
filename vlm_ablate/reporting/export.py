"""Everything that a finished experiment leaves for readers, in one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.reporting.figures import figure_paper, figure_seen
from vlm_ablate.reporting.frame import Report, sample_of
from vlm_ablate.reporting.renderers import FORMATS, SUFFIXES, render
from vlm_ablate.storage import storage_errors, write_atomically
from vlm_ablate.tracking.answers import FILE_NAME, Answers, dump_answers
from vlm_ablate.tracking.examples import keep_examples, kept_examples
from vlm_ablate.tracking.record_file import records_text
from vlm_ablate.tracking.records import History, RunRecord
from vlm_ablate.tracking.schema import EXAMPLES_FILE

FIGURE_FORMATS = ("png", "svg")
FIGURES: dict[str, Callable[[Report, Sequence[RunRecord], Mapping[str, History], str], bytes]] = {
    "figure_seen": figure_seen,
    "figure_paper": lambda report, _records, _histories, format: figure_paper(report, format),
}
AnswersOf = Mapping[str, Callable[[], Iterable[Answers]]]


def write_results(
    report: Report,
    records: Sequence[RunRecord],
    folder: Path,
    histories: Mapping[str, History] | None = None,
    answers: AnswersOf | None = None,
    examples: Mapping[str, Path] | None = None,
    *,
    again: bool = True,
) -> list[Path]:
    """Write the table in every format, the figures that the records allow, and the records that they came from.

    The same report and records give the same bytes. A figure that cannot be drawn any more is removed, so that the
    folder never shows what the records do not hold.

    Args:
        answers: run id -> reads what the run answered, to be kept beside the records.
        examples: run id -> its panel of pictures with truth and answers; that of the best arm is kept.
        again: draw pictures also where texts and records show that they are there already.

    Raises:
        StorageError: the folder cannot be written.
    """
    with storage_errors("create", folder):
        folder.mkdir(parents=True, exist_ok=True)
    shown = [r for r in records if r.run_id in report.run_ids]
    points = {r.run_id: h for r in shown if (h := (histories or {}).get(r.run_id))}
    texts = {folder / f"table.{SUFFIXES[name]}": render(report, name) for name in FORMATS if name != "png"}
    texts[folder / "records.json"] = records_text(shown, points)
    pictures = [folder / f"{name}.{format}" for name in FIGURES for format in FIGURE_FORMATS]
    sample = sample_of(report, shown, examples or {})
    panel = (examples or {}).get(sample.run_id) if sample else None
    kept = {*kept_examples(folder)}
    fits = kept == {sample.run_id} if sample and panel else kept <= report.run_ids
    drawn = (folder / "table.png").is_file() and fits
    if not again and drawn and all(_holds(path, text) for path, text in texts.items()):
        return [*texts, folder / "table.png", *(path for path in pictures if path.is_file())]
    written = [_write(path, text) for path, text in texts.items() if path.name != "records.json"]
    written.append(_write(folder / "table.png", render(report, "png")))
    for name, draw in FIGURES.items():
        for format in FIGURE_FORMATS:
            written += _figure(folder / f"{name}.{format}", partial(draw, report, records, histories or {}, format))
    given = {r.run_id: answers[r.run_id]() for r in shown if answers and r.run_id in answers}
    if dump_answers(folder / FILE_NAME, given):
        written.append(folder / FILE_NAME)
    if sample and panel and (made := keep_examples(panel, sample.run_id, folder)):
        written.append(made)
    elif not kept & report.run_ids:
        (folder / EXAMPLES_FILE).unlink(missing_ok=True)  # of a run that the table has no more
    # Last: whoever finds these records as they are now finds all that was made of them.
    return [*written, _write(folder / "records.json", texts[folder / "records.json"])]


def _holds(path: Path, text: str | bytes) -> bool:
    return path.is_file() and path.read_bytes() == (text.encode() if isinstance(text, str) else text)


def _figure(path: Path, draw: Callable[[], bytes]) -> list[Path]:
    """The file, or none where the records do not allow it."""
    try:
        return [_write(path, draw())]
    except VlmAblateError as error:
        if type(error) is not VlmAblateError:
            raise
        path.unlink(missing_ok=True)
        return []


def _write(path: Path, data: str | bytes) -> Path:
    write_atomically(path, data)
    return path
