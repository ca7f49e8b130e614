"""What a value from a file is: texts, lists, answers, pictures, turns; in every source."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data import records
from tests.data.test_sources import shown, source
from vlm_ablate.data.sample import UnusableSample
from vlm_ablate.data.values import (
    Picture,
    answers_of,
    cells_of,
    content_of,
    key_of,
    records_of,
    text_of,
    texts_of,
)
from vlm_ablate.errors import DataError

pytestmark = pytest.mark.usefixtures("own_cache")

RED = records.png("red")


@pytest.mark.parametrize(
    ("value", "text"),
    [("three", "three"), (" a ", " a "), (3, "3"), (0, "0"), (3.0, "3"), (2.5, "2.5"), (-0.25, "-0.25"),
     (1e300, "1e+300"), (Decimal("1.50"), "1.50"), ("é".encode(), "é"), (None, ""), (float("nan"), "")],
)  # fmt: skip
def test_texts_stay_numbers_become_their_text_and_what_is_absent_is_empty(value: object, text: str) -> None:
    assert text_of(value, "answer") == text


@pytest.mark.parametrize("value", [True, ["a"], {"text": "a"}, datetime.date(2020, 1, 2), b"\xe9", object(),
                                   "cat \ud83d", "\udc80"])  # fmt: skip
def test_what_is_no_text_is_refused_with_the_name_of_its_field(value: object) -> None:
    with pytest.raises(DataError, match=r"^answer "):
        text_of(value, "answer")


def test_a_string_is_one_text_wherever_a_list_is_meant() -> None:
    assert texts_of("red", "answers") == ["red"] and cells_of("a.png") == ["a.png"]
    assert texts_of(["red", None, 3, float("nan")], "answers") == ["red", "3"]
    assert texts_of(None, "answers") == [] == cells_of(None)
    assert cells_of([None, "a"]) == [None, "a"], "in parallel lists None has its place"
    with pytest.raises(DataError, match="answers is dict"):
        texts_of([{"a": 1}], "answers")


@pytest.mark.parametrize(
    ("value", "answers"),
    [("red", ("red",)), (3, ("3",)), (["red", 3, None], ("red", "3")),
     ([{"answer": "red"}, {"answer": None}], ("red",)),
     ({"answer": "red"}, ("red",)), ({"answer": ["red", "blue"], "answer_id": [1, 2]}, ("red", "blue")),
     (None, ())],
)  # fmt: skip
def test_answers_come_in_every_form_and_none_is_no_answer(value: object, answers: tuple[str, ...]) -> None:
    assert answers_of(value, "answers") == answers


ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
KEYS = st.sampled_from(["answer", "text", "type", "image"])


@given(st.recursive(ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner)))
def test_any_value_is_read_or_refused_by_one_error(value: object) -> None:
    for read in (text_of, texts_of, answers_of, content_of, records_of):
        try:
            found = read(value, "field")
        except DataError as error:
            assert "\n" not in error.message
        else:
            assert found == value or "None" not in (found if isinstance(found, str) else list(found))


def test_what_can_be_missing_is_no_key() -> None:
    assert key_of(7) == "7" and key_of("d", 1) == "d/1"
    assert key_of(None) == key_of("d", None) == key_of(float("nan"), 1) == key_of("") == ""


def test_turns_may_be_a_mapping_of_lists() -> None:
    assert records_of({"user": ["a", "b"], "assistant": ["c", "d"]}, "texts") == [
        {"user": "a", "assistant": "c"}, {"user": "b", "assistant": "d"},
    ]  # fmt: skip
    for wrong in ("a turn", ["a turn"], [None], {"user": ["a"], "assistant": []}):
        with pytest.raises(DataError, match="texts"):
            records_of(wrong, "texts")


def test_content_is_a_text_or_parts_in_any_spelling() -> None:
    assert content_of("hi", "content") == ["hi"] and content_of(None, "content") == []
    parts = [{"type": "image"}, {"type": "text", "text": "what?", "image": None}, "and",
             {"type": "image_url", "image_url": {"url": "a.png"}}, {"image": "b.png"}, {"text": 3}]  # fmt: skip
    assert content_of(parts, "content") == [Picture(), "what?", "and", Picture("a.png"), Picture("b.png"), "3"]
    with pytest.raises(DataError, match="part of type 'audio'"):
        content_of([{"type": "audio", "audio": b""}], "content")


def lines(folder: Path, *rows: Any) -> Path:
    """A JSONL file as others write it, and two pictures beside it."""
    for name in ("red", "blue"):
        (folder / f"{name}.png").write_bytes(records.png(name))
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_json_values_of_mixed_types_are_what_is_written(streaming: bool, tmp_path: Path) -> None:
    answers = [3, "three", 2.5, "2020-01-02", "x\u2028y\u0085z"]
    rows = [{"images": ["red.png"], "texts": [{"user": "How many?", "assistant": a}]} for a in answers]
    opened = source("cauldron", lines(tmp_path, *rows), streaming=streaming, rows=len(rows))
    assert [shown(opened[i]) for i in range(len(rows))] == [f"<RED>How many?[{a}]" for a in answers]


def test_tables_that_store_mixed_types_as_json_text_give_the_values(tmp_path: Path) -> None:
    rows = [[{"user": "How many?", "assistant": a}] for a in (3, "three")]
    table = datasets.Dataset.from_dict({"images": [[{"bytes": RED, "path": None}]] * 2, "texts": rows},
                                       on_mixed_types="use_json")  # fmt: skip
    table.to_parquet(tmp_path / "train.parquet")
    for streaming in (False, True):
        opened = source("cauldron", tmp_path, streaming=streaming, rows=2)
        assert [shown(opened[i]) for i in (0, 1)] == ["<RED>How many?[3]", "<RED>How many?[three]"]


def test_one_picture_is_a_list_of_one(tmp_path: Path) -> None:
    rows = [{"images": "red.png", "texts": [{"user": "a?", "assistant": "b"}]}]
    assert shown(source("cauldron", lines(tmp_path, *rows))[0]) == "<RED>a?[b]"


PARTS = [{"type": "text", "text": "What"}, {"type": "image"}, {"type": "text", "text": "is it?"}]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Capital?"}]},
                       {"role": "assistant", "content": [{"type": "text", "text": "Paris"}]}]}, "Capital?[Paris]"),
        ({"images": ["red.png"], "messages": [{"role": "user", "content": PARTS},
                                              {"role": "assistant", "content": "a square"}]},
         "What<RED>is it?[a square]"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "image": "blue.png"}, "what?"]},
                       {"role": "assistant", "content": "blue"}]}, "<BLUE>what?[blue]"),
        ({"image": "red.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"},
                                                {"from": "gpt", "value": "red"}]}, "<RED>\nWhat?[red]"),
        ({"image": "red.png", "conversations": [{"from": "human", "value": "What?"},
                                                {"from": "gpt", "value": "red"}]}, "<RED>What?[red]"),
        ({"image": None, "conversations": [{"from": "human", "value": "What is <image> in HTML?"},
                                           {"from": "gpt", "value": "no tag"}]}, "What is <image> in HTML?[no tag]"),
        ({"instruction": 2, "input": None, "output": 4}, "2[4]"),
        ({"messages": [{"role": "system", "content": ["Be brief.", " "]}, {"role": "user", "content": [" ", " Hi"]},
                       {"role": "assistant", "content": ["Hello", " ", "you"]}]}, "Be brief.\n\nHi[Hello you]"),
        ({"messages": [{"role": "user", "content": ["one", "\n"]}, {"role": "user", "content": "two"},
                       {"role": "assistant", "content": "three"}]}, "one\n\ntwo[three]"),
    ],
)  # fmt: skip
def test_content_of_turns_is_text_or_parts_with_their_pictures(row: dict, expected: str, tmp_path: Path) -> None:
    assert shown(source("text_instructions", lines(tmp_path, row))[0]) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": None}, "no text to learn"),
        ({"messages": [None]}, "NoneType, not a mapping"),
        ({"messages": "[{}]"}, "str, not a mapping"),
        ({"messages": [{"role": None, "content": "x"}]}, "role ''"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "content is dict"),
        ({"messages": [{"role": "assistant", "content": True}]}, "content is bool"),
        ({"messages": [{"role": "user", "content": PARTS}]}, "more pictures than its 0"),
        ({"images": ["red.png"] * 2, "messages": [{"role": "user", "content": PARTS}]}, "do not place all of its 2"),
    ],
)
def test_turns_that_are_none_are_unusable_rows(row: dict, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableSample, match=reason):
        source("text_instructions", lines(tmp_path, row))[0]


@pytest.mark.parametrize(
    ("name", "fields", "row"),
    [
        ("cauldron", {}, {"images": None, "texts": None}),
        ("cauldron", {}, {"images": [None], "texts": [{"user": "a", "assistant": None}]}),
        ("docmatix", {}, {"images": ["red.png"], "texts": [None]}),
        ("obelics", {}, {"images": ["red.png", None], "texts": "one string"}),
        ("obelics", {}, {"images": None, "texts": [["nested"]]}),
        ("pairs", {}, {"image": "red.png", "text": None}),
        ("pairs", {}, {"image": None, "text": "x"}),
        ("pairs", {}, {"image": "red.png", "text": ["a", "b"]}),
        ("websight", {}, {"image": ["red.png"], "text": "x"}),
        ("rendered_text", {}, {"image": "red.png", "text": [None]}),
        ("pages", {}, {"images": None, "pages": None}),
        ("pages", {}, {"images": ["red.png"], "pages": [None]}),
        ("pages", {}, {"images": ["red.png", "blue.png"], "pages": [{"text": "one"}]}),
        ("pages", {}, {"images": ["red.png"], "pages": [{"lines": {"bbox": []}}]}),
        ("pages", {}, {"images": ["red.png"], "pages": ["one", "two"]}),
    ],
)
def test_rows_of_none_and_of_wrong_types_are_unusable_in_every_source(
    name: str, fields: dict, row: dict, tmp_path: Path
) -> None:
    with pytest.raises(UnusableSample):
        source(name, lines(tmp_path, row), **fields)[0]


def test_numbers_are_learned_as_their_text_in_every_source(tmp_path: Path) -> None:
    rows = {
        "pairs": {"image": "red.png", "text": 7},
        "websight": {"image": "red.png", "text": 7},
        "rendered_text": {"image": "red.png", "text": [7]},
        "obelics": {"images": ["red.png", None], "texts": [None, 7]},
        "pages": {"images": ["red.png"], "pages": [{"lines": [7]}]},
    }
    for name, row in rows.items():
        (tmp_path / name).mkdir()
        assert shown(source(name, lines(tmp_path / name, row))[0]) == "<RED>[7]"


def test_a_key_that_only_some_rows_have_is_absent_in_the_others(tmp_path: Path) -> None:
    opened = source("pairs", lines(tmp_path, {"image": "red.png"}, {"image": "red.png", "text": "red"}))
    assert shown(opened[1]) == "<RED>[red]"
    with pytest.raises(UnusableSample, match="no text to learn"):
        opened[0]


def test_a_document_above_max_pages_is_left_out_with_its_answers(tmp_path: Path) -> None:
    turns = [{"user": "On page 2?", "assistant": "blue"}]
    rows = [{"images": ["red.png", "blue.png"], "texts": turns}, {"images": ["red.png"], "texts": turns}]
    opened = source("docmatix", lines(tmp_path, *rows), max_pages=1)
    with pytest.raises(UnusableSample, match="2 pages, above max_pages = 1") as caught:
        opened[0]
    assert caught.value.reason == "too many pages"
    assert shown(opened[1]) == "<RED>On page 2?[blue]"


@pytest.mark.parametrize("path", ["/etc/hostname", "../secret.png", "sub/../../secret.png", "\0"])
def test_a_record_reaches_only_what_lies_below_its_source(path: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(RED)
    (tmp_path / "data").mkdir()
    for cell in (path, {"bytes": None, "path": path}):
        rows = [{"image": cell, "text": "x"}]
        opened = source("pairs", lines(tmp_path / "data", *rows))
        with pytest.raises(UnusableSample, match="lies outside"):
            opened[0]
    inside = str(tmp_path / "data" / "sub" / ".." / "red.png")
    assert shown(source("pairs", lines(tmp_path / "data", {"image": inside, "text": "x"}))[0]) == "<RED>[x]"


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (["u Two?", "a ", "u Three?", "a Yes."], "Two?\n\nThree?[Yes.]"),
        (["u Two?", "a Yes.", "a And more.", "u Four?", "a No."], "Two?[Yes.\n\n][And more.]Four?[No.]"),
        (["s Be brief.", "u ", "u Two?", "u Three?", "a Yes."], "Be brief.\n\nTwo?\n\nThree?[Yes.]"),
    ],
)  # fmt: skip
def test_turns_of_one_side_do_not_run_into_each_other(turns: list[str], expected: str, tmp_path: Path) -> None:
    roles = {"u": "user", "a": "assistant", "s": "system"}
    row = {"messages": [{"role": roles[turn[0]], "content": turn[2:]} for turn in turns]}
    assert shown(source("text_instructions", lines(tmp_path, row))[0]) == expected


def test_texts_of_a_document_do_not_run_into_each_other_where_no_picture_is_shown(tmp_path: Path) -> None:
    rows = [
        {"images": ["red.png", None, "blue.png", None], "texts": [None, "It ends.", None, "It begins."]},
        {"images": ["red.png", None, None, None], "texts": [None, "It ends.", " It goes on.", "It begins."]},
    ]
    opened = source("obelics", lines(tmp_path, *rows), max_images=1)
    assert shown(opened[0]) == "<RED>[It ends.][\n\nIt begins.]"
    assert shown(opened[1]) == "<RED>[It ends.][ It goes on.][\n\nIt begins.]"
    assert shown(source("obelics", lines(tmp_path, *rows))[0]) == "<RED>[It ends.]<BLUE>[It begins.]"


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("cauldron", {"texts": [{"user": "The first?", "assistant": "red"}]}),
        ("docmatix", {"texts": [{"user": "The first?", "assistant": "red"}]}),
        ("text_instructions", {"instruction": "The first?", "output": "red"}),
    ],
)
def test_a_picture_that_is_missing_among_others_is_not_passed_over(name: str, row: dict, tmp_path: Path) -> None:
    rows = [{**row, "images": images} for images in ([None, "blue.png"], [None, None], ["blue.png"], None)]
    opened = source(name, lines(tmp_path, *rows))
    with pytest.raises(UnusableSample, match="of its 2 pictures 1 are None"):
        opened[0]
    assert shown(opened[1]) == shown(opened[3]) == "The first?[red]"
    assert shown(opened[2]) == "<BLUE>The first?[red]"
