"""A score's record and its predictions: every field counts, nothing damaged is read, nothing of another protocol is
continued."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.predictions import Prediction, PredictionFile, read_predictions
from vlm_ablate.evaluation.record import ScoreRecord

RECORD = ScoreRecord("vqav2", "VQAv2", "report", "0" * 16, "vqa/1+plain", 4, 0, "vqa_accuracy", "1", 500, 3, 51.25,
                     False, "nearest:hf", True)  # fmt: skip
OTHER = {"str": "another", "int": 77, "float": 12.5, "bool": None}
FIELDS = {field.name: field for field in fields(ScoreRecord)}
OUTCOME = {"score", "unparsed"}


def another(name: str) -> Any:
    return not getattr(RECORD, name) if FIELDS[name].type == "bool" else OTHER[str(FIELDS[name].type)]


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_of_a_record_comes_back_and_all_but_the_outcome_must_agree(name: str) -> None:
    other = replace(RECORD, **{name: another(name)})
    assert ScoreRecord.from_dict(json.loads(json.dumps(other.to_dict()))) == other != RECORD
    pair = (getattr(RECORD, name), another(name))
    assert RECORD.differences(other) == ({} if name in OUTCOME else {name: pair})
    assert other.differences(RECORD) == ({} if name in OUTCOME else {name: pair[::-1]})
    assert (RECORD.protocol() == other.protocol()) == (name in OUTCOME)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_not_there_or_of_another_kind_is_named(name: str) -> None:
    body = RECORD.to_dict()
    without = {key: value for key, value in body.items() if key != name}
    if FIELDS[name].default is MISSING:
        with pytest.raises(DataError, match=f"has no '{name}'"):
            ScoreRecord.from_dict(without)
    else:
        assert ScoreRecord.from_dict(without) == replace(RECORD, **{name: FIELDS[name].default})
    wrong = {"str": [3, None], "int": ["3", True, 3.5, None], "float": ["3", True, float("nan"), float("inf"), None],
             "bool": [0, 1, "no", None]}  # fmt: skip
    for value in wrong[str(FIELDS[name].type)]:
        with pytest.raises(DataError, match=f"record's '{name}' must be a .*not {value!r}"):
            ScoreRecord.from_dict(body | {name: value})


def test_a_field_of_a_later_version_is_ignored_and_a_whole_score_is_a_score() -> None:
    assert ScoreRecord.from_dict(RECORD.to_dict() | {"later": [1]}) == RECORD
    assert ScoreRecord.from_dict(RECORD.to_dict() | {"score": 50}).score == 50


TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["a\nb", "a\u2028b", '"', "\\", "\x85", ""])
PREDICTIONS = st.lists(
    st.builds(Prediction, id=TEXT, question=TEXT, prediction=TEXT, references=st.lists(TEXT, max_size=3).map(tuple),
              shots=st.lists(TEXT, max_size=2).map(tuple)),
    min_size=1, max_size=4, unique_by=lambda prediction: prediction.id,
)  # fmt: skip
PROTOCOL = {"benchmark": "b", "shots": 4, "stop": ["\n"], "state": "x"}


@given(predictions=PREDICTIONS)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_predictions_come_back_whatever_their_texts(
    predictions: list[Prediction], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("predictions") / "p.jsonl"
    for prediction in predictions:  # an evaluation that is started again after each
        with PredictionFile(path, PROTOCOL) as file:
            file.add([prediction])
    assert read_predictions(path) == predictions
    order = [prediction.id for prediction in predictions][::-1]
    scores = [None, 0.0, 1.0, 0.3][: len(order)]
    with PredictionFile(path, PROTOCOL) as file:
        finished = file.finish(order, scores)
    assert read_predictions(path) == finished
    assert [(p.id, p.score) for p in finished] == list(zip(order, scores, strict=True))
    with PredictionFile(path, PROTOCOL) as file:
        assert list(file.done.values()) == finished


def written(path: Path) -> tuple[bytes, list[Prediction]]:
    """A file of three predictions."""
    predictions = [Prediction(f"i{n}", "who?", f"answer {n}", ("a", "b"), ("t1",)) for n in range(3)]
    path.unlink(missing_ok=True)
    with PredictionFile(path, PROTOCOL) as file:
        file.add(predictions)
    return path.read_bytes(), predictions


def test_cut_off_anywhere_a_file_keeps_its_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    whole, predictions = written(path)
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    for length in sorted({*range(0, len(whole), 8), *ends[:-1], *(end - 1 for end in ends)}):
        path.write_bytes(whole[:length])
        kept = max(0, sum(end <= length for end in ends) - 1)
        with PredictionFile(path, PROTOCOL) as file:
            assert list(file.done.values()) == predictions[:kept]
            file.add(predictions[kept:])
        assert path.read_bytes() == whole, "it goes on as if it had not been cut"


def test_one_changed_bit_anywhere_is_never_taken_for_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    whole, predictions = written(path)
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 7
        path.write_bytes(damaged)
        line = whole[:place].count(b"\n")
        with PredictionFile(path, PROTOCOL) as file:
            found = list(file.done.values())
        assert found == predictions[: len(found)] and len(found) >= line - 1


@pytest.mark.parametrize("name", PROTOCOL)
def test_a_protocol_that_differs_in_anything_is_started_anew(name: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    written(path)
    value = PROTOCOL[name]
    changed = {**PROTOCOL, name: [*value, "x"] if isinstance(value, list) else value * 2}
    for other in (changed, {k: v for k, v in PROTOCOL.items() if k != name}, {**PROTOCOL, "more": None}):
        written(path)
        with PredictionFile(path, other) as file:
            assert not file.done
        assert read_predictions(path) == []
