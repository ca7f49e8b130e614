"""Demonstrations of a file, and what they may not hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.ask import read_shots


def written(folder: Path, *rows: object) -> Path:
    file = folder / "shots.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    return file


def test_only_a_line_end_ends_a_demonstration(tmp_path: Path) -> None:
    answers = ["a\u2028b", "a\u0085b", "a\u000bb\u001cc"]
    shots = read_shots(written(tmp_path, *({"image": "a.png", "question": "q", "answer": a} for a in answers)))
    assert [shot.answer for shot in shots] == answers


def test_values_of_demonstrations_are_read_as_everywhere(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "question": 2, "answer": 4},
            {"images": ["a.png", "b.png"], "question": "q", "answer": "x"},
            {"images": "a.png", "question": "q", "answer": "x"}]  # fmt: skip
    shots = read_shots(written(tmp_path, *rows))
    assert (shots[0].question, shots[0].answer) == ("2", "4")
    assert [[path.name for path in shot.images] for shot in shots[1:]] == [["a.png", "b.png"], ["a.png"]]


@pytest.mark.parametrize("wrong", [{"answer": None}, {"answer": ""}, {"question": None}, {"image": None},
                                   {"answer": ["a"]}, {"image": 3.5, "answer": True}])  # fmt: skip
def test_a_demonstration_without_question_answer_or_picture_is_refused(wrong: dict, tmp_path: Path) -> None:
    file = written(tmp_path, {"image": "a.png", "question": "q", "answer": "x"} | wrong)
    with pytest.raises(DataError, match=r"shots.jsonl:1 is no demonstration"):
        read_shots(file)


def test_the_mark_that_some_editors_put_before_the_first_line_is_none_of_it(tmp_path: Path) -> None:
    file = written(tmp_path, {"image": "a.png", "question": "q", "answer": "x"})
    file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert [shot.answer for shot in read_shots(file)] == ["x"]
