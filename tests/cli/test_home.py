"""`home migrate` and `home import`: results of version 0.1 under today's names, and those of records files at home."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.command import call
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.config.moved import recorded
from vlm_ablate.errors import UnknownNameError
from vlm_ablate.home import Home
from vlm_ablate.runs.migrate import OLD_HASH, old_hash
from vlm_ablate.runs.migrate_records import spec_of_record
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec, specs_of
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.record_file import dump_records, load_records
from vlm_ablate.tracking.records import RunRecord

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("in_repository")
T03 = ROOT / "experiments" / "idefics2" / "t03_architecture.yaml"
COMMITTED = ROOT / "results" / "idefics2" / "t03_architecture" / "laptop" / "records.json"


def specs() -> dict[str, RunSpec]:
    """Id -> spec of all committed runs."""
    shown = {record.id: record for record in load_records(COMMITTED).records}
    loaded = load_experiment(T03, scale="laptop")
    found = specs_of(loaded, seeds=sorted({record.seed for record in shown.values()}))
    return {spec.id: spec for spec in found if spec.id in shown}


def as_before(record: RunRecord, spec: RunSpec) -> RunRecord:
    """The record as version 0.1 wrote it."""
    config = recorded(spec.config)
    assert config is not None
    tags: Mapping[str, str] = {k: v for k, v in record.tags.items() if k not in
                               (schema.RUN, schema.STAGES, schema.EXECUTION)}  # fmt: skip
    old = {OLD_HASH: old_hash(config, spec.seeds.model_dump(mode="json"))}
    return replace(record, run_id=f"store-{record.run_id}", tags={**tags, **old}, params=schema.flatten(config))


def test_records_of_version_01_get_todays_names_and_keep_everything_else(tmp_path: Path) -> None:
    shown, known, file = load_records(COMMITTED), specs(), tmp_path / "records.json"
    histories = {f"store-{run}": history for run, history in shown.histories.items()}
    dump_records(file, [as_before(record, known[record.id]) for record in shown.records], histories)
    result = call("home", "migrate", "--records", file)
    runs = len(shown.records)
    assert result.exit_code == 0 and f"{runs} of {runs} runs taken over, none trained again" in result.stdout
    taken = load_records(file)
    assert taken.histories == shown.histories
    for one, other in zip(taken.records, shown.records, strict=True):  # 0.1 kept no note of how a run was computed
        how = {k: v for k, v in other.tags.items() if k == schema.EXECUTION}
        assert replace(one, tags={**one.tags, **how}, items=other.items) == other
    before = file.read_bytes()
    assert "nothing of version 0.1" in call("home", "migrate", "--records", file).stdout
    assert file.read_bytes() == before


def test_a_home_that_took_records_over_prints_their_numbers_and_has_nothing_to_run(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    result = call("home", "import", COMMITTED, "--home", home.root)
    shown = {record.id: record for record in load_records(COMMITTED).records}
    assert result.exit_code == 0 and f"{len(shown)} runs taken over" in result.stdout
    assert shown.keys() == specs().keys()
    for id, spec in specs().items():
        results = find_results(spec, home)
        assert results.status == "finished"
        kept = [{k: v for k, v in s.items() if k != "item_scores"} for s in results.score_records()]
        assert [{**s, "key": None} for s in kept if not s.get("described")] == [
            {**s, "key": None} for s in shown[id].scores
        ]
        assert spec_of_record(shown[id]).config.execution == spec.config.execution
    table = ("table", T03, "--format", "csv")
    rows = [call(*table, *where).stdout for where in (("--home", home.root), ("--records", COMMITTED))]
    numbers = [[line.rpartition('"{')[0] or line for line in text.splitlines()] for text in rows]
    assert numbers[0] == numbers[1] and len(numbers[0]) > 25


def test_params_that_are_no_configuration_are_told_and_the_file_stays(tmp_path: Path) -> None:
    shown, file = load_records(COMMITTED), tmp_path / "records.json"
    good = shown.records[0]
    wrong = {
        "the configuration of the record": {"stages.pretrain.weight_decay": "0.5"},
        "stages.pretrain.steps: Input should be a valid integer": {"stages.pretrain.steps": "many"},
        "siglip-nanno": {"model.vision.name": "siglip-nanno"},
        "model: Input should be": {"model": "none"},
    }
    for message, params in wrong.items():
        dump_records(file, [replace(good, params={**good.params, **params})], shown.histories)
        before = file.read_bytes()
        result = call("home", "import", file, "--home", tmp_path / "home")
        told = " ".join(result.stderr.split())
        assert result.exit_code == 1 and message in told and good.name in told and "Traceback" not in result.output
        assert file.read_bytes() == before


@pytest.mark.parametrize("words", [("explain", T03, "--seeds", "0"), ("data", "stats", T03, "-n", "1")])
def test_material_and_caches_are_in_the_home_that_a_command_is_told(
    words: tuple[str | Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[Path] = set()

    def asked(*given: object, **named: object) -> list[object]:
        seen.add(Home.default().root)
        raise UnknownNameError("x", "y", [])

    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path / "other"))
    monkeypatch.setattr("vlm_ablate.runs.spec.specs_of", asked)
    assert call(*words, "--home", tmp_path / "told").exit_code == 2
    assert seen == {tmp_path / "told"} and os.environ["VLM_ABLATE_HOME"] == str(tmp_path / "other")
