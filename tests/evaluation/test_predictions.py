"""The predictions file read back: what is no prediction is told with its line, never taken for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.predictions import Prediction, PredictionFile, read_predictions

GOOD = {"id": "1", "question": "q", "prediction": "p", "references": ["r"], "shots": [], "score": None}


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join([json.dumps({"protocol": {"format": 1}}), *lines, ""]), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": None}, "'prediction' must be a text, not NoneType"),
        ({"id": 7}, "'id' must be a text, not int"),
        ({"references": "red"}, "'references' must be a list of texts, not str"),
        ({"references": ["red", None]}, "'references' must be a list of texts, not a list with NoneType"),
        ({"references": [["red"]]}, "'references' must be a list of texts, not a list with list"),
        ({"shots": None}, "'shots' must be a list of texts, not NoneType"),
        ({"score": float("nan")}, "'score' must be a finite number or null, not nan"),
        ({"score": float("inf")}, "'score' must be a finite number or null, not inf"),
        ({"score": "1"}, "'score' must be a finite number or null, not str"),
    ],
)
def test_a_value_of_another_type_is_one_line_with_its_number(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = written(tmp_path / "p.jsonl", json.dumps(GOOD), json.dumps({**GOOD, **change}))
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    assert str(caught.value) == f"{path}:3: {message}"


@pytest.mark.parametrize("line", ["{", "[1]", "null", "", "[" * 200_000, '{"id": ' + "7" * 5000 + "}"])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str) -> None:
    path = written(tmp_path / "p.jsonl", line, json.dumps(GOOD))
    with pytest.raises(DataError, match=r"p\.jsonl:2: not a JSON object"):
        read_predictions(path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", json.dumps({k: v for k, v in GOOD.items() if k != "question"}))
    with pytest.raises(DataError, match="'question' must be a text, not missing"):
        read_predictions(path)


def test_only_what_follows_the_last_line_end_may_be_torn(tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", json.dumps(GOOD))
    path.write_bytes(path.read_bytes() + json.dumps(GOOD).encode()[:20])
    assert [p.id for p in read_predictions(path)] == ["1"]


def test_an_evaluation_continues_before_the_first_line_that_is_no_prediction(tmp_path: Path) -> None:
    foreign = {**GOOD, "id": "2", "references": None}
    path = written(tmp_path / "p.jsonl", *map(json.dumps, (GOOD, foreign, GOOD)))
    with PredictionFile(path, {}) as file:
        assert list(file.done) == ["1"]
        file.add([Prediction("2", "q", "p", ("r",))])
    assert [p.id for p in read_predictions(path)] == ["1", "2"]
