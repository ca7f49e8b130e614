"""Records read back equal what was written, by either reader and through a file."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs.disk import write_log, write_results
from tests.tracking.specs import make_spec
from vlm_ablate.errors import TrackingError
from vlm_ablate.home import Home
from vlm_ablate.reporting.notes import _told as told
from vlm_ablate.runs.catalogue import recorded_of
from vlm_ablate.runs.keys import curve_keys
from vlm_ablate.runs.log import Log
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.view import Results, history_of, made_by, view_of
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.client_reader import ClientReader
from vlm_ablate.tracking.publish import publish
from vlm_ablate.tracking.read import read_history, read_records
from vlm_ablate.tracking.record_file import dump_records, load_records
from vlm_ablate.tracking.records import Point, RunRecord, make_record
from vlm_ablate.tracking.shared_view import COMPARE_VIEW, RUNS_VIEW
from vlm_ablate.tracking.sqlite_reader import SqliteReader, sqlite_path
from vlm_ablate.tracking.ui import ui_pages

LOSS = schema.TRAIN_LOSS


@pytest.fixture
def recorded(home: Home) -> Home:
    """Two finished runs, one diverged with a NaN, one still going; and one of another experiment; all in the store."""
    points = [(step, {LOSS: 3.0 - step / 100, schema.SEEN_IMAGES: step * 4}) for step in range(0, 50, 10)]
    for spec in (make_spec("mlp", 0), make_spec("mlp", 1), make_spec("other", 0, experiment="demo/t02")):
        show(write_results(spec, home, score=40.0 + spec.seed, points=points), home)
    nan = [*points, (50, {LOSS: math.nan})]
    show(write_results(make_spec("full"), home, status="diverged", message="loss is nan", points=nan), home)
    write_log(make_spec("mlp", 2), home, points)
    show(find_results(make_spec("mlp", 2), home), home)
    return home


def show(results: Results, home: Home) -> None:
    publish(view_of(results), home.tracking_uri, results.folder.published)


def by_name(records: list[RunRecord]) -> dict[str, RunRecord]:
    return {f"{record.arm} {record.seed}": record for record in records}


def test_both_readers_give_equal_records(recorded: Home) -> None:
    client = ClientReader(recorded.tracking_uri)
    records = read_records(recorded.tracking_uri, "demo/t01")
    assert len(records) == 4
    assert records == client.runs("demo/t01")
    for record in records:
        keys = [LOSS, schema.SEEN_IMAGES, "never/logged"]
        assert read_history(recorded.tracking_uri, record.run_id, keys) == client.history(record.run_id, keys)


def test_the_disk_and_the_store_tell_the_same(recorded: Home) -> None:
    """A table is the same whether its records come from the home or from the store that shows it."""
    specs = [make_spec("mlp", 0), make_spec("mlp", 1), make_spec("full"), make_spec("mlp", 2)]
    disk = by_name([record for _, record in recorded_of(specs, recorded, pytest.fail)])
    stored = by_name(read_records(recorded.tracking_uri, "demo/t01"))
    assert disk.keys() == stored.keys() == {"mlp 0", "mlp 1", "mlp 2", "full 0"}
    for name, mine in disk.items():
        other = stored[name]
        assert (mine.id, mine.status, mine.message, mine.name) == (other.id, other.status, other.message, other.name)
        assert mine.scores == other.scores and mine.params == other.params
        assert mine.metrics.keys() == other.metrics.keys()
        assert repr(mine.metrics) == repr(other.metrics)
        own = {k: v for k, v in other.tags.items() if not k.startswith("mlflow.")}
        assert {k: v for k, v in mine.tags.items() if not k.startswith("mlflow.")} == own


def test_a_record_tells_what_the_run_said(recorded: Home) -> None:
    records = by_name(read_records(recorded.tracking_uri, "demo/t01"))
    first, second, full = records["mlp 0"], records["mlp 1"], records["full 0"]
    assert (first.arm, first.seed, first.scale, first.label, first.status) == ("mlp", 0, "laptop", "MLP", "finished")
    assert first.id == make_spec("mlp", 0).id
    assert first.name == "mlp · seed 0 · laptop"
    assert first.cell == {"connector": "mlp"}
    assert first.stand_ins == {"model.vision": "SigLIP-SO400M -> siglip-nano (small)"}
    assert first.scaled == {"stages.train.steps": "6000 -> 10"}
    assert [(s["column"], s["score"], s["blind"]) for s in first.scores] == [("vqa", 40.0, False), ("vqa", 10.0, True)]
    assert second.metrics["score/mean"] == 41.0 and second.metrics["score_blind/mean"] == 10.0
    assert first.params["model.connector.name"] == "mlp" and first.params["arm"] == "mlp"
    assert full.status == "diverged" and full.message == "loss is nan" and math.isnan(full.metrics[LOSS])
    assert records["mlp 2"].status == "running" and records["mlp 2"].scores == []
    assert read_records(recorded.tracking_uri, "no/such") == []


def test_a_run_whose_seed_somebody_wrote_as_a_word_is_named() -> None:
    with pytest.raises(TrackingError, match=r"run 'mine' \(r1\) of demo/t01: its tag vlm\.seed .* not 'first'"):
        make_record("r1", "demo/t01", "mine", "FINISHED", {schema.SEED: "first"}, {}, {}, 0, 0, "")


def test_a_run_tells_all_that_its_stages_were_trained_with() -> None:
    """Also of a stage that another run trained, with other code on another machine."""
    first = {schema.GIT: "a" * 40, schema.MACHINE: "Intel", schema.THREADS: "1", schema.VERSIONS: {"torch": "2.12"}}
    last = first | {schema.GIT: "b" * 40 + "+changes", schema.MACHINE: "AMD", schema.VERSIONS: {"torch": "2.13"}}
    tags = made_by([{"provenance": first}, {"provenance": last}])
    assert tags[schema.MACHINE] == "Intel and AMD" and tags[schema.THREADS] == "1"
    assert schema.read_json_tag(tags, schema.VERSIONS) == {"torch": "2.13"}
    assert told(schema.GIT, tags[schema.GIT]) == f"{'a' * 12} and {'b' * 12} with changes"
    assert made_by([{}]) == {} and made_by([{}, {"provenance": first}])[schema.GIT] == "a" * 40


@pytest.mark.parametrize("text", ["[1]", '{"model.vision": 3}'])
def test_a_mapping_that_somebody_wrote_otherwise_is_named(text: str) -> None:
    record = make_record("r1", "demo/t01", "mine", "FINISHED", {schema.STAND_INS: text}, {}, {}, 0, 0, "")
    with pytest.raises(TrackingError, match=r"run 'mine': its tag vlm\.stand_ins must be a JSON object of texts"):
        record.stand_ins  # noqa: B018


def test_records_survive_a_file_and_keep_nothing_of_the_machine(recorded: Home, tmp_path: Path) -> None:
    records = read_records(recorded.tracking_uri, "demo/t01")
    histories = {r.run_id: read_history(recorded.tracking_uri, r.run_id, [LOSS]) for r in records}
    path = tmp_path / "results" / "records.json"
    dump_records(path, records, histories)
    assert str(tmp_path) not in path.read_text()
    loaded = load_records(path)
    assert repr(loaded.histories) == repr(histories)
    assert [r.scores for r in loaded.records] == [r.scores for r in records]
    assert repr([r.metrics for r in loaded.records]) == repr([r.metrics for r in records])
    dump_records(tmp_path / "again.json", loaded.records, loaded.histories)
    assert (tmp_path / "again.json").read_text() == path.read_text()


def test_a_records_file_is_replaced_in_one_go(tmp_path: Path) -> None:
    """Another name of what was there keeps it: nobody wrote into the file itself."""
    path, before = tmp_path / "records.json", tmp_path / "before.json"
    path.write_text("all that there is")
    before.hardlink_to(path)
    dump_records(path, [])
    assert before.read_text() == "all that there is" and load_records(path).records == []


def test_a_file_that_is_no_records_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"records": 3')
    with pytest.raises(TrackingError, match=r"bad\.json"):
        load_records(tmp_path / "bad.json")


def a_file_with(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A records file of one run with one score, after a change by hand."""
    score = {"column": "vqa", "blind": False, "score": 50.0}
    record = RunRecord("r", "e", "n", "finished", {}, {}, {"m": float("nan")}, "a", 0, "tiny", [score])
    dump_records(path, [record], {"r": {"m": [Point(0, 1.0, 2)]}})
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))
    return path


FOREIGN: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda b: b["records"][0].update(seed="zero"), r"records\[0\]\.seed: .*'zero'"),
    (lambda b: b["records"][0].update(seed=None), r"records\[0\]\.seed: .*None"),
    (lambda b: b["records"][0].update(scores="[]"), r"records\[0\]\.scores: .*'\[\]'"),
    (lambda b: b["records"][0].update(scores=[["vqa"]]), r"records\[0\]\.scores\[0\]: "),
    (lambda b: b["records"][0]["scores"][0].update(score=float("nan")), r"records\[0\]\.scores\[0\]\.score: .*nan"),
    (lambda b: b["records"][0]["scores"][0].update(score=float("inf")), r"records\[0\]\.scores\[0\]\.score: .*inf"),
    (lambda b: b["records"][0]["scores"][0].update(score="high"), r"records\[0\]\.scores\[0\]\.score: .*'high'"),
    (lambda b: b["records"][0]["scores"][0].pop("column"), r"records\[0\]\.scores\[0\] has no 'column'"),
    (lambda b: b["records"][0].update(metrics={"m": "much"}), r"records\[0\]\.metrics\.m: .*'much'"),
    (lambda b: b["records"][0].update(new=1), r"records\[0\]: unknown field 'new'"),
    (lambda b: b["records"][0].pop("arm"), r"records\[0\] has no 'arm'"),
    (lambda b: b["records"].append(None), r"records\[1\] must be an object"),
    (lambda b: b.update(records=None), "records must be a list"),
    (lambda b: b.update(format=2), "records of format 2"),
    (lambda b: b.update(histories={"r": {"m": [[0, "x", 1]]}}), r"histories\.r\.m\[0\]: .*'x'"),
    (lambda b: b.update(histories={"r": {"m": [[0]]}}), r"histories\.r\.m\[0\] must be"),
    (lambda b: b.update(histories=[]), "histories must be an object"),
]


@pytest.mark.parametrize(("change", "message"), FOREIGN, ids=[message for _, message in FOREIGN])
def test_foreign_contents_are_one_line_that_names_the_value(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(TrackingError, match=rf"bad\.json: cannot be read as a records file \({message}") as caught:
        load_records(a_file_with(tmp_path / "bad.json", change))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "[" * 200_000, '{"format": ' + "7" * 5000 + "}"])
def test_what_is_no_records_file_at_all_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(TrackingError, match=r"bad\.json: cannot be read as a records file"):
        load_records(tmp_path / "bad.json")


def test_reading_a_local_store_imports_neither_mlflow_nor_torch(recorded: Home) -> None:
    code = (
        "import sys; from vlm_ablate.tracking.read import read_records; "
        f"assert len(read_records({recorded.tracking_uri!r}, 'demo/t01')) == 4; "
        "assert not {'mlflow', 'torch', 'pandas', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_long_json_tags_are_split_and_joined() -> None:
    value = [{"column": f"benchmark {i}", "score": i / 7} for i in range(600)]
    tags = schema.json_tag(schema.SCORES, value)
    assert len(tags) > 1 and all(len(text) <= 8000 for text in tags.values())
    assert schema.read_json_tag(tags, schema.SCORES) == value
    # A shorter value written over it leaves the old tail, which is then ignored.
    assert schema.read_json_tag(tags | schema.json_tag(schema.SCORES, [1]), schema.SCORES) == [1]


def test_ui_pages_name_every_experiment_and_open_the_view_written_for_it(recorded: Home) -> None:
    pages = {page.experiment: page for page in ui_pages(recorded.tracking_uri, "http://127.0.0.1:5000")}
    assert set(pages) == {"demo/t01", "demo/t02"}
    file = sqlite_path(recorded.tracking_uri)
    assert file is not None
    numbers = {name: number for number, name in SqliteReader(file).experiments()}
    for name, page in pages.items():
        for link, key in ((page.runs, RUNS_VIEW), (page.charts, RUNS_VIEW), (page.compare, COMPARE_VIEW)):
            assert f"/experiments/{numbers[name]}/runs?" in link and link.endswith(f"viewStateShareKey={key}")


def test_a_missing_store_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no tracking store"):
        read_records(f"sqlite:///{tmp_path}/mlflow.db", "demo/t01")


def test_scores_along_the_way_of_another_table_that_shares_a_stage_are_not_this_ones(home: Home) -> None:
    """A stage that two tables share is scored along the way for the one that trains it: its columns, and their mean."""
    points = [
        (10, {LOSS: 3.0, "curve/other": 70.0, "curve/mean": 70.0}),
        (20, {LOSS: 2.0, "curve/vqa": 20.0, "curve/other": 60.0, "curve/mean": 40.0}),
        (30, {LOSS: 1.0, "curve/vqa": 30.0, "curve/mean": 30.0}),
    ]
    results = write_results(make_spec(), home, points=points)
    history = history_of(results, [LOSS, "curve/vqa", "curve/other", "curve/mean"])
    told = {name: [(p.step, p.value) for p in found] for name, found in history.items()}
    assert told["curve/vqa"] == told["curve/mean"] == [(20, 20.0), (30, 30.0)]
    assert not told["curve/other"] and len(told[LOSS]) == 3
    shown = {(key, step): value for key, value, _, step in view_of(results).points if key.startswith("curve/")}
    assert shown == {(name, step): 10.0 * (step // 10) for name in ("curve/vqa", "curve/mean") for step in (20, 30)}


def test_scores_along_the_way_that_were_asked_otherwise_are_not_this_runs(home: Home) -> None:
    """Those of an arm that has the same weights, and is asked with other pictures, shots or items."""
    plain = make_spec()

    def scored(limit: int, **changes: Any) -> RunSpec:
        asked = {"benchmarks": {"vqa": {"benchmark": "stub-benchmark"}}, "curve": {"points": 2, "limit": limit}}
        given = plain.to_dict()
        return RunSpec.from_dict({**given, "config": {**given["config"], "evaluation": asked | changes}})

    first, other = scored(4), [scored(5), scored(4, shots=1), scored(4, image={"size": 24})]
    asked = {f"curve/{column}": key for column, key in curve_keys(first.config).items()}
    log = Log(write_log(first, home, []).log)
    log.add({LOSS: 2.0, "curve/vqa": 20.0, "curve/mean": 20.0}, 10, asked=asked)
    log.add({LOSS: 1.0, "curve/vqa": 30.0, "curve/mean": 30.0}, 20)  # as earlier versions logged them
    log.rewind(30)
    log.close()
    for spec, steps in ((first, [10, 20]), (plain, [10, 20]), *((spec, [20]) for spec in other)):
        assert spec.stage_keys[-1].key == first.stage_keys[-1].key
        history = history_of(find_results(spec, home), [LOSS, "curve/vqa", "curve/mean"])
        assert [p.step for p in history["curve/vqa"]] == [p.step for p in history["curve/mean"]] == steps
        assert len(history[LOSS]) == 2
