"""What was written once tells when it was damaged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_ablate.errors import DataError, StorageError
from vlm_ablate.evaluation.predictions import Prediction, PredictionFile, read_predictions
from vlm_ablate.runs.folder import read_json, write_json
from vlm_ablate.runs.log import Log, read_log
from vlm_ablate.sealed import sealed, unsealed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
BODY = {"score": 41.25, "column": "vqa", "seen": {"images": 64, "flops": 1.5e300}, "blind": False}


@settings(max_examples=30, deadline=None)
@given(body=st.dictionaries(st.text().filter(lambda name: name != "sum"), VALUES), indent=st.sampled_from([None, 1]))
def test_what_is_whole_comes_back(body: dict[str, object], indent: int | None) -> None:
    text = sealed(body, indent=indent)
    assert unsealed(text) == unsealed((text + "\n").encode()) == json.loads(json.dumps(body))
    assert list(json.loads(text))[-1] == "sum"


def test_half_a_surrogate_pair_comes_back() -> None:
    assert unsealed(sealed({"answer": "\ud800"}).encode()) == {"answer": "\ud800"}


@pytest.mark.parametrize("other", ["0.5", "-0.0", "0", "false", "null", "NaN", '"0.0"', "[]", "0.0 "])
def test_nothing_else_goes_through_in_the_place_of_a_number(other: str) -> None:
    text = sealed({"scores": [0.0, 1.0, 0.0], "beside": [{"b": 1, "a": None}]})
    assert unsealed(text)["scores"] == [0.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="damaged"):
        unsealed(text.replace("1.0", other))


@pytest.mark.parametrize("more", [', "score": 0.0}', ', "sum": ""}', '} {"score": 0.0}', "x"])
def test_nothing_goes_through_behind_the_checksum(more: str) -> None:
    text = sealed({"score": 41.25})
    with pytest.raises(ValueError):
        unsealed(text.removesuffix("}") + more if more.startswith(",") else text + more)


def test_the_checksum_of_the_content_that_earlier_versions_wrote_is_compared_too() -> None:
    earlier = '{"score": 41.25, "column": "vqa", "sum": "0e51f5e717643f80"}'
    assert unsealed(earlier) == {"score": 41.25, "column": "vqa"}
    assert unsealed(json.dumps(json.loads(earlier), indent=4, sort_keys=True)) == {"score": 41.25, "column": "vqa"}
    with pytest.raises(ValueError, match="damaged"):
        unsealed(earlier.replace("41.25", "41.5"))


def test_what_has_no_checksum_is_taken_as_it_is() -> None:
    assert unsealed('{"a": Infinity}') == {"a": math.inf}


def flips_of(data: bytes) -> list[bytes]:
    """Copies with one bit flipped each, at places all over."""
    flips = []
    for place in range(0, 8 * len(data), 5):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        flips.append(bytes(flipped))
    return flips


def test_no_flipped_bit_of_a_record_goes_through(tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    write_json(path, BODY)
    for damaged in flips_of(path.read_bytes()):
        path.write_bytes(damaged)
        try:
            read = read_json(path)
        except StorageError as error:
            assert str(path) in error.message
        else:  # in a space, or in the name of the checksum: nothing that is told has changed
            assert read is not None and {name: read.get(name) for name in BODY} == BODY


def test_no_flipped_bit_of_a_log_or_of_predictions_goes_through(tmp_path: Path) -> None:
    log, predictions = tmp_path / "log.jsonl", tmp_path / "predictions.jsonl"
    Log(log).add({"train/loss": 2.25}, 7, time_ms=1)
    Log(log).add({"train/loss": 2.5}, 8, time_ms=2)
    wanted = read_log(log)
    given = [Prediction("1", "how many", "3", ("3", "three"), ("9",), 1.0)]
    with PredictionFile(predictions, {"split": "tune"}) as file:
        file.add(given)
    first = log.read_bytes().partition(b"\n")[0]
    for damaged in flips_of(first):
        log.write_bytes(damaged + log.read_bytes()[len(first) :])
        try:
            assert read_log(log) == wanted
        except StorageError as error:
            assert f"{log}:" in error.message
    head, line, _ = predictions.read_bytes().split(b"\n")
    for damaged in flips_of(line):
        predictions.write_bytes(head + b"\n" + damaged + b"\n")
        try:
            assert read_predictions(predictions) == given
        except DataError as error:
            assert f"{predictions}:2" in error.message
