"""Composed pictures: the same on every call, exact, and never shared between splits."""

from __future__ import annotations

import re

import numpy as np
import pytest

from vlm_ablate.data.offline import facts, knowledge, pictures, reading, scenes, tables
from vlm_ablate.data.offline.pictures import SPLITS
from vlm_ablate.data.offline.store import TASKS, item_store, licence_records

pytestmark = pytest.mark.usefixtures("offline_material")


@pytest.mark.parametrize("task", TASKS)
def test_an_item_is_a_function_of_its_arguments(task: str) -> None:
    first, again = TASKS[task]("report", 7, 64), TASKS[task]("report", 7, 64)
    assert np.array_equal(first.image, again.image)
    assert (first.question, first.answer, first.references) == (again.question, again.answer, again.references)
    assert not np.array_equal(first.image, TASKS[task]("report", 8, 64).image)


@pytest.mark.parametrize("task", TASKS)
def test_the_description_holds_what_the_answer_needs(task: str) -> None:
    if task == "knowledge":
        pytest.skip("the answer is not in the picture; that is the point of the task")
    for index in range(60):
        item = TASKS[task]("train", index, 64)
        counted = item.question.startswith(("How many", "Is there", "Which colour"))
        assert counted or all(word in item.description for word in re.findall(r"\w+", item.answer)[-1:]), item


def test_splits_share_no_picture_no_flag_no_table_and_no_digit() -> None:
    for kind in (pictures.things, knowledge.known_flags):
        keys = [{p.key for p in kind(split)} for split in SPLITS]
        assert all(keys) and not (keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2])
    used = [{s.table for s in tables.series(split)} for split in SPLITS]
    assert all(used) and not (used[0] & used[1] or used[0] & used[2] or used[1] & used[2])
    drawn = [set(reading._digits_of(split)) for split in SPLITS]
    assert all(drawn) and not (drawn[0] & drawn[2] or drawn[0] & drawn[1] or drawn[1] & drawn[2])


def test_scene_questions_are_answered_by_the_scene() -> None:
    for index in range(200):
        rng = scenes.item_rng("test", "train", index)
        scene = scenes.sample_scene(rng, "train")
        question, answer = scenes.ask_scene(scene, rng, "train")
        names = [p.name for _, p in scene.placed]
        if question.startswith("How many"):
            assert answer == scenes.NUMBERS[len(names) - 1]
        elif question.startswith("Is there a "):
            assert answer == ("yes" if question[len("Is there a ") : -1] in names else "no")
        elif question.startswith("Where is the "):
            assert (answer, question[len("Where is the ") : -1]) in {(place, p.name) for place, p in scene.placed}
        elif question.startswith("What is at the "):
            assert (question[len("What is at the ") : -1], answer) in {(place, p.name) for place, p in scene.placed}
        else:
            assert answer == scene.ground


def test_country_facts_are_right_where_we_know_them() -> None:
    known = facts.countries()
    assert (known["FR"].capital, known["FR"].continent, known["FR"].demonym) == ("Paris", "Europe", "French")
    assert known["BR"].capital == "Brasilia" and known["BR"].continent == "South America"
    assert known["MX"].continent == "North America" and known["JP"].capital == "Tokyo"


def test_tables_are_the_real_ones() -> None:
    symbols = next(s for s in tables.series("train") if (s.table, s.title) == ("elements", "number"))
    assert dict(zip(symbols.labels, symbols.values, strict=True))["Ar"] == 18
    gold = next(s for s in tables.series("report") if (s.table, s.title) == ("olympics2014", "gold"))
    assert dict(zip(gold.labels, gold.values, strict=True))["DEU"] == 8


def test_every_source_states_its_licence_and_checksum() -> None:
    records = licence_records()
    assert len(records) > 10
    assert all(r.licence and r.licence != "unknown" for r in records)
    assert all(re.fullmatch(r"[0-9a-f]{64}", r.sha256) for r in records if r.package != "scikit-learn")


def test_a_store_is_made_once_and_read_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path))
    item_store.cache_clear()
    made = item_store("captions", "tune", 5, 64)
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"}
    item_store.cache_clear()
    again = item_store("captions", "tune", 5, 64)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"} == files
    assert np.array_equal(made.images, again.images) and made.rows == again.rows
    assert np.array_equal(again.images[3], TASKS["captions"]("tune", 3, 64).image)
    item_store.cache_clear()


def test_an_interrupted_store_is_made_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path))
    item_store.cache_clear()
    item_store("vqa", "tune", 3, 64)
    items = next(tmp_path.rglob("items.jsonl"))
    whole = items.read_text()
    items.unlink()
    item_store.cache_clear()
    item_store("vqa", "tune", 3, 64)
    assert items.read_text() == whole
    item_store.cache_clear()
