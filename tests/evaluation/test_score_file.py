"""`vlm-ablate score`: answers from anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm_ablate.cli.score import score
from vlm_ablate.errors import DataError
from vlm_ablate.evaluation.score_file import score_file

GOOD = """{"prediction": "cat", "references": ["cat", "dog"], "id": 1}

{"prediction": "\\u2028", "references": ["a"]}
"""


def test_prints_mean_count_and_unparsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(GOOD, encoding="utf-8")
    score("exact_match", file)
    out = capsys.readouterr().out
    assert "50.00" in out and "items 2" in out and "unparsed 0" in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "a.jsonl:2: not a JSON object"),
        ("[1]", "a.jsonl:2: not a JSON object"),
        ('{"prediction": "x", "refs": []}', "no 'references'; found: 'prediction', 'refs'"),
        ('{"prediction": 5, "references": ["5"]}', "must be a text, not int"),
        ('{"prediction": "x", "references": "x"}', "must be a list of texts"),
        ('{"prediction": "x", "references": []}', "nothing to score against"),
        ('{"prediction": null, "references": ["5"]}', "a.jsonl:2: 'prediction' must be a text, not NoneType"),
        ('{"prediction": NaN, "references": ["5"]}', "a.jsonl:2: 'prediction' must be a text, not float"),
        ('{"prediction": "x", "references": ["5", null]}', "a list of texts; one is NoneType"),
        ('{"prediction": "x", "references": [["5"]]}', "a.jsonl:2: 'references' must be a list of texts; one is list"),
        ('{"prediction": ' + "7" * 5000 + ', "references": ["5"]}', "a.jsonl:2: cannot be read as JSON"),
        ("[" * 200_000, "a.jsonl:2: cannot be read as JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prediction": "x", "references": ["x"]}\n' + line, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        score_file("anls", file)
    assert message in str(caught.value)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        score_file("anls", tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="nothing to score"):
        score_file("anls", tmp_path / "empty.jsonl")


def test_the_mark_that_some_editors_put_before_the_first_line_is_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prediction": "x", "references": ["x"]}\n', encoding="utf-8-sig")
    assert score_file("anls", tmp_path / "a.jsonl").mean == 100
