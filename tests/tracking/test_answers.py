"""The compressed file of what the models of a table answered."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from vlm_ablate.errors import TrackingError
from vlm_ablate.tracking.answers import FILE_NAME, Answers, dump_answers, load_answers, load_item_scores
from vlm_ablate.tracking.record_file import dump_records, load_records
from vlm_ablate.tracking.records import RunRecord

RUN = RunRecord("a0", "e", "a · seed 0", "finished", {}, {}, {}, "a", 0, "laptop")
ROWS = (("1", "what?", ("a cat", "cat"), "a cat", 1.0), ("2", "where?", ("here",), "élan", None))


def test_scores_by_item_come_back_with_the_records_beside_them(tmp_path: Path) -> None:
    dump_records(tmp_path / "records.json", [RUN])
    assert load_records(tmp_path / "records.json").records[0].items == {}
    other = tuple((*row[:3], "dog", 0.0) for row in ROWS)
    assert dump_answers(tmp_path / FILE_NAME, {"a0": [Answers("vqa", False, ROWS), Answers("vqa", True, other)]})
    read = load_records(tmp_path / "records.json")
    assert read.records[0].items == {"vqa": [1.0, None]}
    assert list(read.answers["a0"]()) == [Answers("vqa", False, ROWS), Answers("vqa", True, other)]


def test_a_question_stands_once_however_many_runs_answered_it(tmp_path: Path) -> None:
    many = {f"run{i}": [Answers("vqa", False, ROWS)] for i in range(50)}
    dump_answers(tmp_path / FILE_NAME, many)
    assert lzma.decompress((tmp_path / FILE_NAME).read_bytes()).count(b"what?") == 1
    unlike = {"a": [Answers("vqa", False, ROWS)], "b": [Answers("vqa", False, ROWS[:1])]}
    dump_answers(tmp_path / FILE_NAME, unlike)
    found = load_item_scores(tmp_path / FILE_NAME)
    assert found == {"a": {"vqa": [1.0, None]}, "b": {"vqa": [1.0]}}
    assert {run: load_answers(tmp_path / FILE_NAME, run) for run in unlike} == unlike
    assert load_answers(tmp_path / FILE_NAME, "c") == load_answers(tmp_path / "nowhere", "a") == []


@pytest.mark.parametrize(
    ("item", "answer"),
    [
        (["1", "what?", "cat"], ["a cat", 1.0]),
        (["1", "what?", ["cat", None]], ["a cat", 1.0]),
        (["1", None, ["cat"]], ["a cat", 1.0]),
        (["1", "what?", ["cat"]], [None, 1.0]),
        (["1", "what?", ["cat"]], ["a cat", "1"]),
    ],
)
def test_what_is_no_text_is_not_made_one(tmp_path: Path, item: list[object], answer: list[object]) -> None:
    body = {"format": 1, "columns": {"vqa": [item]}, "runs": {"a": {"vqa": [answer]}}}
    (tmp_path / FILE_NAME).write_bytes(lzma.compress(json.dumps(body).encode()))
    with pytest.raises(TrackingError, match=FILE_NAME):
        load_answers(tmp_path / FILE_NAME, "a")


def test_nothing_answered_leaves_no_file(tmp_path: Path) -> None:
    assert not dump_answers(tmp_path / FILE_NAME, {"a": []})
    assert not (tmp_path / FILE_NAME).exists() and load_item_scores(tmp_path / FILE_NAME) == {}


@pytest.mark.parametrize(
    "body",
    [
        b"no archive",
        lzma.compress(b"[]"),
        lzma.compress(b'{"format": 9, "runs": {}}'),
        lzma.compress(b'{"format": 1, "runs": {"a": {"vqa": [["x", "1"]]}}}'),
        lzma.compress(b'{"format": 1, "runs": {"a": {"vqa": ["x"]}}}'),
        lzma.compress(b'{"format": 1}'),
    ],
)
def test_a_foreign_file_is_one_line_that_names_it(tmp_path: Path, body: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(body)
    with pytest.raises(TrackingError, match=FILE_NAME):
        load_item_scores(tmp_path / FILE_NAME)
    with pytest.raises(TrackingError, match=FILE_NAME):
        load_answers(tmp_path / FILE_NAME, "a")
