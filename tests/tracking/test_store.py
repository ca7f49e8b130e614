"""The store is made once, whoever comes first, and one that cannot be used is one clear error within seconds."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from vlm_ablate.config.expand import load_experiment
from vlm_ablate.errors import StorageError, TrackingError
from vlm_ablate.home import Home
from vlm_ablate.tracking import schema, store, summary
from vlm_ablate.tracking.mlflow_run import runs_tagged
from vlm_ablate.tracking.read import read_records
from vlm_ablate.tracking.summary import record_sweep, record_table, register_experiment


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:9",
        "http://someone:secret@no-such-host.invalid:5000",
        "./mlruns",
        "file:///tmp/mlruns",
        "foo://bar",
    ],
)
def test_a_store_that_cannot_be_used_is_one_clear_error_within_seconds(uri: str) -> None:
    started = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        store.ensure_store(uri)
    assert time.monotonic() - started < 100
    assert "secret" not in str(caught.value) and caught.value.hint


def test_a_store_in_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"mlflow\.db"):
        store.ensure_store(f"sqlite:///{tmp_path}/file/mlflow.db")
    (tmp_path / "other.db").write_text("something else entirely")
    with pytest.raises(TrackingError, match="not a SQLite database"):
        store.ensure_store(f"sqlite:///{tmp_path}/other.db")


def _create(uri: str, template: str, messages: multiprocessing.Queue) -> None:
    import os

    os.environ[store.TEMPLATE_VARIABLE] = template
    store.ensure_store(uri)
    client = store.connect(uri)
    messages.put(store.open_experiment(client, uri, "demo/t01"))


def test_processes_that_start_at_once_share_one_store_and_one_experiment(tmp_path: Path, store_template: Path) -> None:
    context = multiprocessing.get_context("fork")
    messages = context.Queue()
    uri = f"sqlite:///{tmp_path}/home/mlflow.db"
    processes = [context.Process(target=_create, args=(uri, str(store_template), messages)) for _ in range(4)]
    for process in processes:
        process.start()
    ids = {messages.get(timeout=200) for _ in processes}
    for process in processes:
        process.join()
    assert len(ids) == 1 and [process.exitcode for process in processes] == [0] * 4
    assert not list((tmp_path / "home").glob(".mlflow.db.[0-9]*"))


def _opens(uri: str, experiment: str, barrier: Barrier) -> None:
    barrier.wait()
    store.connect(uri).create_experiment(experiment)


def test_processes_that_open_a_store_right_when_it_vanished_have_one_whole_store(tmp_path: Path) -> None:
    """Each finds no file behind the check that there is one: whoever opens it first builds it, and the others wait."""
    fork, uri, names = multiprocessing.get_context("fork"), f"sqlite:///{tmp_path}/mlflow.db", ["a", "b", "c"]
    store.connect(f"sqlite:///{tmp_path}/warm.db")  # imports, so that the processes meet
    barrier = fork.Barrier(len(names))
    processes = [fork.Process(target=_opens, args=(uri, name, barrier)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert {found.name for found in store.connect(uri).search_experiments()} == {"Default", *names}


def test_the_empty_file_that_a_connection_leaves_is_no_store(home: Home) -> None:
    (home.root / "mlflow.db").unlink()
    (home.root / "mlflow.db").touch()
    store.ensure_store(home.tracking_uri)
    assert store.connect(home.tracking_uri).search_experiments()


def test_an_experiment_is_described_and_comes_back_when_deleted(home: Home) -> None:
    first = register_experiment(
        home.tracking_uri, "demo/t01", {schema.DESCRIPTION: "What it asks", schema.PAPER: "idefics2"}
    )
    client = store.connect(home.tracking_uri)
    client.delete_experiment(first)
    assert register_experiment(home.tracking_uri, "demo/t01", {schema.DESCRIPTION: "What it asks now"}) == first
    found = client.get_experiment(first)
    assert found.lifecycle_stage == "active" and found.tags[schema.DESCRIPTION] == "What it asks now"
    assert found.tags[schema.PAPER] == "idefics2"
    assert found.artifact_location == (home.artifacts / "demo" / "t01").as_uri()


def test_the_note_of_an_experiment_says_which_scores_are_no_percentages() -> None:
    file = Path(__file__).parents[2] / "experiments" / "idefics2" / "t03_architecture.yaml"
    note = store.describe_experiment(load_experiment(file).experiment)[schema.DESCRIPTION]
    assert "0-100; but CIDEr is 100 times its mean and can pass 100" in note


def test_an_experiment_that_is_a_figure_is_called_so() -> None:
    file = Path(__file__).parents[2] / "experiments" / "idefics2" / "f04_training.yaml"
    note = store.describe_experiment(load_experiment(file).experiment)[schema.DESCRIPTION]
    assert "Regenerates Figure 4 of" in note and "beside the numbers of Table 3" in note


def test_the_table_run_is_one_and_is_brought_up_to_date(home: Home, tmp_path: Path) -> None:
    (tmp_path / "table.md").write_text("| arm |")
    for verdict in ("not separable", "agrees"):
        run = record_table(home.tracking_uri, "demo/t01", [tmp_path / "table.md"], markdown="| arm |", scale="laptop",
                           claims=[{"text": "mlp is better", "verdict": verdict}])  # fmt: skip
    assert read_records(home.tracking_uri, "demo/t01") == []
    (record,) = read_records(home.tracking_uri, "demo/t01", kind=schema.TABLE_KIND)
    assert (record.run_id, record.name, record.scale) == (run, "table · laptop", "laptop")
    assert schema.read_json_tag(record.tags, schema.CLAIMS) == [{"text": "mlp is better", "verdict": "agrees"}]
    assert (home.artifacts / "demo/t01" / run / "artifacts" / "table" / "table.md").exists()


def test_who_records_a_sweep_at_the_same_moment_has_the_same_run(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    first = record_sweep(home.tracking_uri, "sweeps/toy")
    answers = [[]]  # nobody has made one yet
    monkeypatch.setattr(summary, "runs_tagged", lambda *at: answers.pop() if answers else runs_tagged(*at))
    assert record_sweep(home.tracking_uri, "sweeps/toy") == first
    client = store.connect(home.tracking_uri)
    experiment = store.open_experiment(client, home.tracking_uri, "sweeps/toy")
    assert len(runs_tagged(client, experiment, {schema.KIND: schema.SWEEP_KIND})) == 1
