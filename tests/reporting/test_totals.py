"""Pages over many tables: what they count is the sum of what the tables say, and every page is there and reachable."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from itertools import permutations
from pathlib import Path

import pytest

from tests.reporting.reading import ReadHtml
from vlm_ablate.config.expand import restricted
from vlm_ablate.config.experiment import Claim, Experiment, PaperRef, TableConfig
from vlm_ablate.reporting import Report, report
from vlm_ablate.reporting.agreement import agreement
from vlm_ablate.reporting.overview import describe_agreement, overview
from vlm_ablate.reporting.renderers import html, markdown
from vlm_ablate.reporting.site import Entry, write_site
from vlm_ablate.reporting.site.tables import cost, table_page
from vlm_ablate.reporting.statistics import Verdict
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import RunRecord

Run = Callable[..., RunRecord]


@pytest.fixture
def reports(experiment: Experiment, runs: list[RunRecord], run: Run) -> list[Report]:
    """Tables of all kinds: whole, some arms, other claims, of no paper, with an arm without a score, never run."""
    few = ["ca", "ar_perceiver", "ar_lora"]
    other = [
        Claim(text="own", better="ar_lora", worse="ca", source="here"),
        Claim(text="void", better="ar_lora", worse="ca", untested={"laptop": "alike here"}),
        Claim(text="line", order=["ar_lora", "ca_lora", "ca"]),
    ]
    lost = [r for r in runs if r.arm != "ca_lora"] + [run("ca_lora", 0, status="failed")]

    def named(name: str, made: Report) -> Report:
        return replace(made, experiment=name)

    return [
        named("a/whole", report(experiment, runs)),
        named("a/some", report(restricted(experiment, few), runs)),
        named("a/claims", report(experiment.model_copy(update={"table": TableConfig(claims=other)}), lost)),
        named("a/own", report(experiment.model_copy(update={"paper": None, "table": TableConfig()}), runs)),
        named("a/t01", report(experiment.model_copy(update={
            "paper": PaperRef(key="idefics2_t01"), "arms": {"x": experiment.arms["ca"].model_copy(update={
                "cell": {"llm": "Mistral-7B"}})}, "table": TableConfig()}), [])),
    ]  # fmt: skip


def entries_of(reports: list[Report], records: list[RunRecord], scale: str = "laptop") -> list[Entry]:
    return [
        Entry(r.experiment, scale, r.title, r, records, commands=(f"vlm-ablate run {r.experiment}",)) for r in reports
    ]


def test_verdicts_of_all_tables_add_up_in_every_place(reports: list[Report]) -> None:
    layout = overview(reports, "laptop")
    claims = [claim for made in reports for claim in made.claims]
    counted = Counter(claim.verdict for claim in claims)
    keys = [column.key for column in layout.table.columns]
    for made, row in zip(reports, layout.table.rows, strict=True):
        cells = dict(zip(keys, row, strict=True))
        of = Counter(claim.verdict for claim in made.claims)
        assert {v: int(cells[str(v)].text or 0) for v in Verdict} == {v: of[v] for v in Verdict}
        scored = [r.score().n for r in made.rows if r.score()]
        assert cells["arms"].text == f"{len(scored)} of {len(made.rows)}"
        assert cells["seeds"].text == ("–" if not scored else f"{min(scored)}" if len(set(scored)) == 1 else
                                       f"{min(scored)}–{max(scored)}")  # fmt: skip
        assert cells["order"].text == (f"{made.order.concordant} of {made.order.told}" if made.order else "–")
    told = re.findall(r"(\d+) (\w[\w ]*)", layout.subtitle.partition(": ")[2].partition(" ·")[0])
    assert layout.subtitle.startswith(f"{len(claims)} claims: ")
    assert {verdict: int(n) for n, verdict in told} == {str(v): n for v, n in counted.items()}
    steps = sum(len(claim.comparisons) if len(claim.comparisons) > 1 else 0 for claim in claims)
    assert len(layout.claims.rows) == len(claims) + steps
    assert len(counted) >= 4
    silent = dict(layout.notes)["Says nothing"]
    assert all(claim.reason in silent for claim in claims if claim.verdict == Verdict.says_nothing)
    lost = dict(layout.notes)["Without a score"]
    assert lost.count("(") == sum(not row.score() for made in reports for row in made.rows)


def test_the_agreement_is_of_tables_none_of_which_another_one_holds(reports: list[Report]) -> None:
    whole, _, _, own, never = reports
    told = describe_agreement(agreement([whole.order]))
    for some in permutations((whole, reports[1], own, never)):
        assert overview(some, "laptop").order == told
    assert overview([own, never], "laptop").order == ""
    # The third has no score of one arm, and so lies within the first.
    assert overview([reports[2], whole], "laptop").order == told
    alone = overview([reports[2]], "laptop").order
    assert f"{reports[2].order.concordant} of {reports[2].order.told} pairs" in alone


def test_one_more_table_changes_no_row_of_another(reports: list[Report]) -> None:
    for left_out in range(len(reports)):
        kept = reports[:left_out] + reports[left_out + 1 :]
        rows = [row for i, row in enumerate(overview(reports, "laptop").table.rows) if i != left_out]
        assert list(overview(kept, "laptop").table.rows) == rows
    markdown.render(overview(reports, "laptop"))
    assert len(ReadHtml(html.render(overview(reports, "laptop"))).tables) == 2


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_each_table_has_files_of_its_own_and_every_link_leads_to_one(
    reports: list[Report], runs: list[RunRecord], tmp_path: Path
) -> None:
    """Also where names differ in a dash alone, and a table was run at two scales."""
    reports.append(replace(reports[0], experiment="a-whole", title="Another with nearly the same name"))
    gone = Entry("a/gone", "laptop", problem="no file", commands=("vlm-ablate report FILE",))
    entries = [
        *entries_of(reports, runs),
        gone,
        *entries_of(reports[:1], runs, "paper"),
        *entries_of(reports[:1], runs, "lap-top"),
    ]
    asked = [Entry("a/later", "laptop", "Later", commands=("vlm-ablate run a/later",))]
    written = write_site(entries, asked, tmp_path)
    assert len({path.name for path in written}) == len(written)
    assert len(written) == sum(3 if entry.report else 1 for entry in entries) + 1
    assert names_in(tmp_path) == {path.name for path in written} | {"report.json"}
    index = (tmp_path / "index.html").read_text()
    for entry in entries:
        page = (tmp_path / f"{entry.stem}.html").read_text()
        assert (entry.title or entry.experiment) in page and "index.html" in page
        assert entry.report is None or f'href="{entry.stem}.html"' in index
    for path in tmp_path.glob("*.html"):
        assert all(
            (tmp_path / address).is_file() for address in re.findall(r'(?:href|src)="([^"#]+)"', path.read_text())
        )
    assert index.count("<h2>Findings</h2>") == 3 and "vlm-ablate run a/later" in index and "no file" in index


def test_a_report_that_was_interrupted_is_taken_up_again_and_leaves_nothing_behind(
    reports: list[Report], runs: list[RunRecord], tmp_path: Path
) -> None:
    entries = entries_of(reports[:3], runs)

    class Stopped(Exception):
        pass

    for at in range(len(entries)):
        folder = tmp_path / str(at)

        def stop(name: str, at: int = at) -> None:
            if name == entries[at].experiment:
                raise Stopped

        with pytest.raises(Stopped):
            write_site(entries, [], folder, stop)
        write_site(entries[:1], [], folder)
        fresh = tmp_path / f"fresh {at}"
        write_site(entries[:1], [], fresh)
        assert {n: (folder / n).read_bytes() for n in names_in(folder)} == {
            n: (fresh / n).read_bytes() for n in names_in(fresh)
        }


def test_the_cost_is_that_of_the_runs_of_the_table_alone(experiment: Experiment, run: Run) -> None:
    timed = [
        run(arm, seed, metrics={schema.WALL_SECONDS: 60.0 * (i + 1)}, tags={schema.MACHINE: f"CPU {i % 2}"})
        for i, (arm, seed) in enumerate((arm, seed) for arm in ("ca", "ar_lora") for seed in range(2))
    ]
    other = run("ca_lora", 0, scale="paper", metrics={schema.WALL_SECONDS: 1e6}, tags={schema.MACHINE: "GPU"})
    entry = Entry("e", "laptop", "t", report(experiment, [*timed, other], "laptop"), [*timed, other])
    assert cost(entry).startswith("4 runs, 10.0 min of computing (4.0 min the longest run)")
    assert cost(entry).endswith("Machine: CPU 0; CPU 1.")
    one = Entry("e", "laptop", "t", report(experiment, timed[:1]), timed)
    assert cost(one).startswith("1 run, 1.0 min of computing (1.0 min the longest run); a stage")
    measured = run("ca", 1, metrics={schema.WALL_SECONDS: 60.0, schema.CPU_SECONDS: 90.0})
    both = Entry("e", "laptop", "t", report(experiment, [timed[0], measured]), [timed[0], measured])
    assert "(1.0 min the longest run), 1.5 min of CPU time a run (1 told); a stage" in cost(both)
    begun = run("ca", 1, status="running", metrics={schema.WALL_SECONDS: 30.0, schema.CPU_SECONDS: 20.0})
    first = replace(timed[0], metrics={schema.WALL_SECONDS: 60.0, schema.CPU_SECONDS: 90.0})
    going = Entry("e", "laptop", "t", report(experiment, [first, begun]), [first, begun])
    told = "2 runs (1 not ended), 1.5 min of computing (1.0 min the longest run), 1.5 min of CPU time a run; a stage"
    assert cost(going).startswith(told)


def test_a_run_that_goes_on_is_one_of_the_file_s_configuration(experiment: Experiment, run: Run) -> None:
    records = [run("ca", 0, status="running"), *(run("ca", seed, tags={schema.RUN: f"old {seed}"}) for seed in (1, 2))]
    entry = Entry("e", "laptop", "t", report(experiment, records, ids={"ca-0"}), records)
    assert "No run of this experiment has ended with a score." in table_page(entry)
    none = Entry("e", "laptop", "t", report(experiment, records, ids={"other"}), records)
    assert "3 runs were recorded with another configuration than the file's now, and" in unescape(table_page(none))
