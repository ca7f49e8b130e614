"""Records of one experiment that are, by their keys, runs of another; `tests/cli/test_reproduce.py` has the command."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.tracking.specs import make_spec
from vlm_ablate.runs.recorded import shared_records
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.record_file import RecordFile
from vlm_ablate.tracking.records import RunRecord


def record_of(spec: RunSpec, **changed: Any) -> RunRecord:
    """As a records file has it of a run that scored under the spec's keys."""
    seen = (key for key in spec.score_keys if key.mode != "described")
    told: dict[str, Any] = {
        "run_id": "other", "experiment": "other", "name": "n", "status": schema.FINISHED, "params": {}, "metrics": {},
        "tags": {schema.STAGES: json.dumps([key.key for key in spec.stage_keys])}, "arm": "a", "seed": spec.seed,
        "scale": "laptop", "scores": [{"column": key.column, "key": key.key, "score": 1.0} for key in seen],
    }  # fmt: skip
    return RunRecord(**(told | changed))


def test_a_run_of_the_same_keys_is_found_under_the_names_of_the_other_experiment() -> None:
    spec = make_spec()
    (found,) = shared_records([spec], [RecordFile([record_of(spec)])]).records
    assert (found.id, found.run_id, found.arm, found.experiment) == (spec.id, spec.id, spec.arm, spec.experiment)


@pytest.mark.parametrize(
    "changed",
    [
        {"status": schema.DIVERGED}, {"seed": 9}, {"tags": {}}, {"tags": {schema.STAGES: "5"}},
        {"tags": {schema.STAGES: '["another"]'}}, {"tags": {schema.STAGES: "[[1]]"}}, {"scores": []},
        {"scores": [{"column": "vqa", "key": ["a"]}]}, {"scores": [{"column": None, "score": 1.0}]},
    ],
)  # fmt: skip
def test_what_is_another_run_or_does_not_say_which_is_not_taken(changed: dict[str, Any]) -> None:
    spec = make_spec()
    assert shared_records([spec], [RecordFile([record_of(spec, **changed)])]).records == []


def test_two_arms_of_the_same_keys_are_both_found() -> None:
    specs = [make_spec("mlp", note="same"), make_spec("twin", note="same")]
    assert specs[0].stage_keys[-1].key == specs[1].stage_keys[-1].key and specs[0].id != specs[1].id
    found = shared_records(specs, [RecordFile([record_of(specs[0])])])
    assert [(record.id, record.arm) for record in found.records] == [(spec.id, spec.arm) for spec in specs]
