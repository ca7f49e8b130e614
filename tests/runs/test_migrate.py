"""Runs of version 0.1 under today's keys: every value as it was, and nothing trained again."""

from __future__ import annotations

import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from vlm_ablate.cli.app import app
from vlm_ablate.config.moved import recorded
from vlm_ablate.home import Home
from vlm_ablate.lease import Lease, LeaseLost
from vlm_ablate.runs import migrate
from vlm_ablate.runs.find import find_run
from vlm_ablate.runs.folder import StageFolder, folders_of_version_01, run_folder
from vlm_ablate.runs.migrate import BY_ANOTHER, OLD_HASH, OTHERWISE, Migrated, migrate_home, old_hash, todays_spec
from vlm_ablate.runs.migrate_records import import_records, migrate_records
from vlm_ablate.runs.names import asked_for
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.view import record_of
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.record_file import dump_records, load_records

OLD = Path(__file__).parent / "version_0_1"
"""A run of Table 3 as version 0.1 recorded it: what was run, how it ended, and its record."""
HASH = "64c84e771493"
PROTOCOL = {
    "benchmark": "offline_vqa", "split": "report", "split_hash": "1817d128ceaf44e1", "template": "vqa/1+plain",
    "shots": 4, "demonstration_seed": 0, "scorer": "vqa_accuracy", "scorer_version": "1", "items": 300,
    "demonstrations": "random", "described": False, "batch_size": 32, "format": 1,
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of version 0.1 with one finished run; its store is gone."""
    home = Home(tmp_path / "home").prepare(minimum_free=0)
    root = home.runs / HASH
    (root / "artifacts" / "weights").mkdir(parents=True)
    (root / "predictions").mkdir()
    shutil.copyfile(OLD / "config.yaml", root / "artifacts" / "config.yaml")
    shutil.copyfile(OLD / "outcome.json", root / "outcome.json")
    save_file({"connector.weight": torch.arange(6.0)}, root / "artifacts" / "weights" / "trained.safetensors")
    for column in ("coco", "okvqa", "textvqa", "vqav2"):
        for blind in (False, True):
            head = {"protocol": PROTOCOL | {"column": column, "blind": blind}}
            lines = [head, {"id": "vqa/report/0", "prediction": "red", "score": 1.0}]
            file = root / "predictions" / f"{column}{'.blind' if blind else ''}.jsonl"
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return home


def test_the_old_hash_is_that_of_the_configuration_as_it_was() -> None:
    old = yaml.safe_load((OLD / "config.yaml").read_text())
    assert old_hash(old["config"], old["seeds"]) == HASH
    assert recorded(todays_spec(old).config) == old["config"]


def test_a_home_is_taken_over_without_training(home: Home) -> None:
    (done,) = migrate_home(home)
    assert done.old == HASH and done.spec is not None and done.spec.id in done.told
    results = find_results(done.spec, home)
    assert results.status != "diverged" and len(results.outcomes) == len(results.stages) == 1
    scored = {(key.column, key.mode) for key, _ in results.scores}
    missing = {(key.column, key.mode) for key in done.spec.score_keys} - scored
    assert {mode for _, mode in missing} == {"described"}  # what only the lost store knew is scored, not trained, again
    old = json.loads((OLD / "outcome.json").read_text())
    scores = {(key.column, key.mode): (folder.outcome() or {})["score"] for key, folder in results.scores}
    assert scores == {(c, "seen"): v for c, v in old["scores"].items()} | {
        (c, "blind"): v for c, v in old["blind"].items()
    }
    found = find_run("cross_attention_frozen seed 0", home)
    assert torch.equal(load_file(found.weights)["connector.weight"], torch.arange(6.0))
    assert len(list(results.stages[-1].scores.rglob("predictions.jsonl"))) == 8


def test_what_was_there_is_kept_and_a_second_time_does_nothing(home: Home) -> None:
    migrate_home(home)
    kept = home.runs / "earlier" / HASH
    assert (kept / "artifacts" / "weights" / "trained.safetensors").is_file()
    assert migrate_home(home) == []
    assert len(list(asked_for(home))) == 1


def test_a_run_that_had_not_ended_is_left(home: Home) -> None:
    (home.runs / HASH / "outcome.json").unlink()
    (done,) = migrate_home(home)
    assert (done.spec, done.told) == (None, "had not ended; it is trained again")
    assert (home.runs / HASH).is_dir()


def test_a_run_with_dora_is_left_since_it_is_computed_otherwise_now(home: Home) -> None:
    file = home.runs / HASH / "artifacts" / "config.yaml"
    old = yaml.safe_load(file.read_text())
    next(iter(old["config"]["stages"].values()))["language"] = "dora"
    file.write_text(yaml.safe_dump(old))
    (done,) = migrate_home(home)
    assert (done.spec, done.told) == (None, OTHERWISE)
    assert (home.runs / HASH).is_dir() and not list(asked_for(home))


def test_a_folder_that_cannot_be_read_is_named_and_left(home: Home) -> None:
    (home.runs / HASH / "artifacts" / "config.yaml").write_text("config: [")
    (done,) = migrate_home(home)
    assert done.spec is None and done.told.startswith("left as it is: ")


# --- two who want the same run ----------------------------------------------------------------------------------------


def spec_of_the_run() -> RunSpec:
    return todays_spec(yaml.safe_load((OLD / "config.yaml").read_text()))


def stage_of_the_run(home: Home) -> StageFolder:
    """Its only one."""
    return StageFolder(home.stages / spec_of_the_run().stage_keys[0].key)


@pytest.mark.parametrize("part", ["run", "stage"])
def test_a_run_that_another_process_computes_is_left_to_it(home: Home, part: str) -> None:
    spec = spec_of_the_run()
    folder = run_folder(home, spec.id).root if part == "run" else stage_of_the_run(home).root
    with Lease.acquire(folder):
        (done,) = migrate_home(home)
        assert done.held and f"left for now: {folder} is written by another process" in done.told
        assert not list(asked_for(home)) and not list(home.stages.rglob("*.json"))
    (done,) = migrate_home(home)
    assert done.spec is not None and find_results(spec, home).outcomes


def test_who_lost_a_stage_while_taking_it_over_writes_nothing_more(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_of_the_run(home)

    def slow(root: Path | None, stage: StageFolder) -> None:
        (stage.root / ".lease-9").write_text("{}")

    monkeypatch.setattr(migrate, "_weights", slow)
    with pytest.raises(LeaseLost):
        migrate_home(home)
    assert stage.outcome() is None and not stage.log.exists() and not list(asked_for(home))
    assert folders_of_version_01(home), "what was there before is where it was"


def test_of_two_at_once_one_does_it(home: Home) -> None:
    done: list[Migrated] = []
    threads = [threading.Thread(target=lambda: done.extend(migrate_home(home))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.told for each in done if each.spec is None] in ([], [BY_ANOTHER])
    assert len([each for each in done if each.spec is not None]) == 1
    assert {path.name for path in home.runs.iterdir()} == {"earlier", spec_of_the_run().id}


def test_one_that_was_ended_half_way_is_taken_over_by_the_next(home: Home) -> None:
    """Killed when the weights were there already, under both names."""
    stage = stage_of_the_run(home)
    stage.root.mkdir(parents=True)
    os.link(home.runs / HASH / "artifacts" / "weights" / "trained.safetensors", stage.weights)
    stage.log.write_text("half a line")
    (done,) = migrate_home(home)
    assert done.spec is not None
    assert torch.equal(load_file(stage.weights)["connector.weight"], torch.arange(6.0))


def test_records_of_a_run_that_another_process_computes_are_left(home: Home, tmp_path: Path) -> None:
    with Lease.acquire(run_folder(home, spec_of_the_run().id).root):
        (done,) = import_records(OLD / "records.json", home)
        assert done.spec is None and "is written by another process now" in done.told
    (done,) = import_records(OLD / "records.json", home)
    assert done.spec is not None


def test_the_command_says_what_it_did(home: Home) -> None:
    told = CliRunner().invoke(app, ["home", "migrate", "--home", str(home.root)])
    assert told.exit_code == 0
    assert f"{HASH}  idefics2/t03_architecture cross_attention_frozen · seed 0 · laptop: is " in told.output
    assert "1 of 1 runs taken over, none trained again" in told.output


def test_table_takes_them_over_by_itself(home: Home) -> None:
    experiment = Path(__file__).parents[2] / "experiments" / "idefics2" / "t03_architecture.yaml"
    told = CliRunner().invoke(app, ["table", str(experiment), "--home", str(home.root), "--seeds", "0"])
    assert "a run of version 0.1 was taken over: idefics2/t03_architecture cross_attention_frozen" in told.stderr
    assert not folders_of_version_01(home)


def test_table_names_what_another_process_has(home: Home) -> None:
    experiment = Path(__file__).parents[2] / "experiments" / "idefics2" / "t03_architecture.yaml"
    with Lease.acquire(run_folder(home, spec_of_the_run().id).root):
        told = CliRunner().invoke(app, ["table", str(experiment), "--home", str(home.root), "--seeds", "0"])
    assert "is not among these: idefics2/t03_architecture cross_attention_frozen" in told.stderr


def test_records_keep_their_values_to_the_last_digit(tmp_path: Path) -> None:
    file = tmp_path / "records.json"
    shutil.copyfile(OLD / "records.json", file)
    before = load_records(file)
    (done,) = migrate_records(file)
    after = load_records(file)
    assert done.spec is not None
    old, new = before.records[0], after.records[0]
    assert (new.scores, new.metrics, new.status) == (old.scores, old.metrics, old.status)
    assert new.id == done.spec.id and OLD_HASH not in new.tags
    assert list(after.histories.values()) == list(before.histories.values())
    assert migrate_records(file) == []


def test_records_of_a_home_and_of_a_file_become_the_same_run(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "records.json"
    shutil.copyfile(OLD / "records.json", file)
    (in_file,), (in_home,) = migrate_records(file), migrate_home(home)
    assert in_file.spec is not None and in_home.spec is not None
    assert in_file.spec.id == in_home.spec.id


def test_records_are_taken_into_a_home_for_run_and_table(tmp_path: Path) -> None:
    file = tmp_path / "records.json"
    shutil.copyfile(OLD / "records.json", file)
    migrate_records(file)
    home = Home(tmp_path / "home").prepare(minimum_free=0)
    (done,) = import_records(file, home)
    assert done.spec is not None
    results = find_results(done.spec, home)
    assert results.done
    mine, theirs = record_of(results), load_records(file).records[0]
    key = "score/mean"
    assert mine.metrics[key] == theirs.metrics[key]
    assert mine.tags[schema.RUN] == theirs.tags[schema.RUN]


def test_records_of_other_scores_than_a_home_has_are_not_called_taken_over(tmp_path: Path) -> None:
    home, other = Home(tmp_path / "home").prepare(minimum_free=0), tmp_path / "other.json"
    read = load_records(OLD / "records.json")
    scores = [score | {"score": score["score"] + (score["column"] == "vqav2")} for score in read.records[0].scores]
    dump_records(other, [replace(read.records[0], scores=scores)])
    assert [done.spec is None for done in import_records(OLD / "records.json", home)] == [False]
    assert [done.spec is None for done in import_records(OLD / "records.json", home)] == [False], "they are the same"
    (done,) = import_records(other, home)
    assert done.spec is None and "with other scores, which stay: vqav2 " in done.told
    assert "okvqa" not in done.told and "vqav2 (blind) " in done.told
