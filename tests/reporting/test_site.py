"""The report's pages: what they say, that they stand alone, and what they say where something is missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vlm_ablate.config.experiment import Experiment
from vlm_ablate.errors import StorageError
from vlm_ablate.reporting import report
from vlm_ablate.reporting.finding import finding
from vlm_ablate.reporting.site import Entry, write_site
from vlm_ablate.reporting.site.svg import inline
from vlm_ablate.tracking.answers import Answers
from vlm_ablate.tracking.records import History, RunRecord

LARGEST = 400_000
COMMANDS = ("vlm-ablate run mine/t03", "vlm-ablate table mine/t03")


@pytest.fixture
def entry(experiment: Experiment, runs: list[RunRecord], histories: dict[str, History]) -> Entry:
    rows = tuple((str(i), f"What <b> is {i}?", ("two",), "two" if i % 2 else "", i % 2 * 1.0) for i in range(9))
    answers = {r.run_id: lambda: [Answers("vqa", False, rows), Answers("vqa", True, rows)] for r in runs}
    made = report(experiment, runs, histories=histories)
    return Entry("test/t03", "laptop", made.title, made, runs, histories, answers, {}, COMMANDS)


def pages(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.glob("*.html")}


def test_a_page_over_all_and_one_a_table_with_csv_and_latex_beside(entry: Entry, tmp_path: Path) -> None:
    write_site([entry], [], tmp_path / "out")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    stem = "test-t03-laptop"
    assert names == {"index.html", "report.json", f"{stem}.html", f"{stem}.csv", f"{stem}.tex"}
    assert r"\toprule" in (tmp_path / "out" / f"{stem}.tex").read_text()
    found = pages(tmp_path / "out")
    assert f'href="{stem}.html"' in found["index.html"] and 'href="index.html"' in found[f"{stem}.html"]
    assert entry.report is not None
    for claim in entry.report.claims:
        assert claim.text in found["index.html"] and claim.text in found[f"{stem}.html"]


def test_pages_are_small_and_need_nothing_else(entry: Entry, tmp_path: Path) -> None:
    write_site([entry], [], tmp_path)
    for text in pages(tmp_path).values():
        assert len(text.encode()) < LARGEST
        assert "<script" not in text and "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
        for address in re.findall(r'(?:href|src)="([^"#]+)"', text):
            assert (tmp_path / address).is_file()
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert len(ids) == len(set(ids)) and set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_a_page_has_question_finding_figures_answers_cost_and_commands(entry: Entry, tmp_path: Path) -> None:
    write_site([entry], [], tmp_path)
    text = pages(tmp_path)["test-t03-laptop.html"]
    assert entry.report is not None and entry.report.question in text and finding(entry.report) in text
    assert text.count("<svg") == 3 and all(command in text for command in COMMANDS)
    assert "What &lt;b&gt; is 0?" in text and "What &lt;b&gt; is 4?" not in text and "15 runs" in text


def test_the_finding_counts_the_verdicts(entry: Entry) -> None:
    assert entry.report is not None
    text = finding(entry.report)
    assert text.startswith("Of 4 claims, ") and "points" in text
    assert sum(map(int, re.findall(r"(?:, | and )(\d) ", text.partition(";")[0]))) == 4


def test_figures_take_the_page_s_colours() -> None:
    raw = b'<?xml version="1.0"?><svg width="4pt"><path id="a" style="fill: #0072b2; stroke: #1d1f23"/></svg>'
    made = inline(raw, 'a "name"', "x")
    ElementTree.fromstring(made)
    assert "var(--c0)" in made and "var(--ink)" in made and 'id="x-a"' in made and "width=" not in made


def test_nothing_recorded_says_what_brings_it(tmp_path: Path) -> None:
    write_site([], [Entry("idefics2/a", "laptop", "A title", commands=("vlm-ablate run idefics2/a",))], tmp_path)
    text = pages(tmp_path)["index.html"]
    assert "Nothing is recorded here yet" in text and "vlm-ablate reproduce" in text
    assert "A title" in text and "vlm-ablate run idefics2/a" in text


def test_a_table_without_its_file_and_one_without_scores_say_so(
    experiment: Experiment, run: Callable[..., RunRecord], tmp_path: Path
) -> None:
    gone = Entry("mine/gone", "laptop", problem="3 runs, no file", commands=("vlm-ablate report FILE.yaml",))
    failed = [run("ca", 0, status="failed")]
    bare = Entry("test/t03", "laptop", "t", report(experiment, failed), failed, commands=COMMANDS)
    write_site([gone, bare], [], tmp_path)
    found = pages(tmp_path)
    assert "3 runs, no file" in found["index.html"] and "vlm-ablate report FILE.yaml" in found["mine-gone-laptop.html"]
    text = found["test-t03-laptop.html"]
    assert "No run of this experiment has ended with a score" in text and COMMANDS[0] in text
    assert "<svg" not in text and text.count("<figcaption>") == 3  # each says why there is none, and what brings it


def test_other_folders_are_refused_and_an_earlier_report_is_replaced(entry: Entry, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(StorageError, match="not empty"):
        write_site([entry], [], tmp_path / "mine")
    write_site([entry], [], tmp_path / "out")
    (tmp_path / "out/notes.txt").write_text("kept")
    write_site([], [], tmp_path / "out")
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"index.html", "report.json", "notes.txt"}
