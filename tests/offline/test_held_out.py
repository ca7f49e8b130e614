"""What one split shows no other does; a source uses each item once, whatever is said of it."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from itertools import permutations

import numpy as np
import pytest

from vlm_ablate.data.sample import Text
from vlm_ablate.offline import facts, knowledge, pages, pictures, reading, tables
from vlm_ablate.offline.configs import OfflineSourceConfig, OfflineVqaConfig
from vlm_ablate.offline.pictures import SPLITS, Split, split_of
from vlm_ablate.offline.source import Offline
from vlm_ablate.offline.tasks import TASKS, share_out
from vlm_ablate.registry import benchmarks


def test_keys_fall_where_they_always_fell() -> None:
    """Weights that ship, and every kept score, were made with these splits."""
    found = "".join(split_of(f"{number:X}")[:2] for number in range(0x1F300, 0x1F700))
    assert hashlib.sha256(found.encode()).hexdigest()[:16] == "256e6ea4f84cf63a"
    known = {"1F408": "train", "map-France": "report", "page-FR": "report", "digit-0": "train"}
    assert {key: split_of(key) for key in known} == known


def test_six_tenths_of_all_keys_are_trained_on_one_is_tuned_on_and_three_are_reported() -> None:
    count = Counter(split_of(f"key-{number}") for number in range(20_000))
    for split, share in zip(SPLITS, (0.6, 0.1, 0.3), strict=True):
        assert abs(count[split] - 20_000 * share) < 5 * (20_000 * share * (1 - share)) ** 0.5, split


@pytest.mark.usefixtures("offline_material")
def test_no_two_splits_show_the_same_pixels_but_for_one_pair_of_flags() -> None:
    splits: dict[bytes, set[Split]] = defaultdict(set)
    names: dict[bytes, set[str]] = defaultdict(set)
    drawings = [(p, (pictures._folder() / f"{p.key}.svg").read_bytes()) for p in pictures.things()]
    for picture, seen in (*drawings, *((p, p.raster(24).tobytes()) for p in knowledge.known_flags(None))):
        splits[seen].add(picture.split)
        names[seen].add(picture.name)
    shared = {frozenset(names[seen]): splits[seen] for seen in splits if len(splits[seen]) > 1}
    assert shared == {frozenset({"Romania", "Chad"}): {"train", "tune"}}, "none that is reported"
    digits, labels = pictures.digits()
    assert len({digit.tobytes() for digit in digits}) == len(digits) == len(labels)


@pytest.mark.usefixtures("offline_material")
@pytest.mark.parametrize("split", SPLITS)
def test_what_an_item_shows_is_of_its_split(split: Split) -> None:
    things = {p.name for p in pictures.things(split)}
    flags = {p.name for p in knowledge.known_flags(split)}
    sheets = {c.name for c in facts.countries().values() if split_of(f"page-{c.code}") == split}
    for index in range(15):
        for task in ("vqa", "captions", "wide_vqa", "wide_captions"):
            assert {region.text for region in TASKS[task](split, index, 64).regions} <= things
        assert {region.text for region in TASKS["knowledge"](split, index, 64).regions} <= flags
        assert pages.pages(split, index, 64).regions[0].text in sheets
        asked = TASKS["vqa"](split, index, 64).question
        if asked.startswith("Is there a "):
            assert asked.removeprefix("Is there a ").rstrip("?") in things, "nor is anything else asked after"
    rows = {pair for s in tables.series(split) for pair in zip(s.labels, s.values, strict=True)}
    other = [s for name in SPLITS if name != split for s in tables.series(name)]
    others = {pair for s in other for pair in zip(s.labels, s.values, strict=True)}
    drawn = [pair for seed in range(15) for pair in reading._pick_rows(random.Random(seed), split, 3)]
    assert set(drawn) <= rows and len(set(drawn) - others) > 8


@pytest.mark.usefixtures("offline_material")
def test_every_flag_of_a_split_comes_before_any_comes_again() -> None:
    for split in SPLITS:
        count = len(knowledge.known_flags(split))
        shown = [TASKS["knowledge"](split, index, 32).regions[0].text for index in range(count + 3)]
        assert len(set(shown[:count])) == count and shown[count:] == shown[:3]


def items_of(source: Offline) -> list[list[str]]:
    return [[image.name for image in source[row].images] for row in range(len(source))]


@pytest.mark.usefixtures("offline_material")
@pytest.mark.parametrize("pictures_a_sample", [1, 3])
def test_a_source_uses_the_first_items_of_training_each_once(pictures_a_sample: int) -> None:
    shares = {"vqa": 2, "captions": 1, "lists": 1, "cards": 0}
    source = Offline(OfflineSourceConfig(rows=30, pictures=pictures_a_sample, tasks=shares, side=32))
    used = [name for names in items_of(source) for name in names]
    assert len(set(used)) == len(used) == 30 * pictures_a_sample
    count = Counter(name.rpartition("/")[0] for name in used)
    assert set(count) == {"vqa/train", "caption/train", "lists/train"}
    assert set(used) == {f"{task}/{number}" for task, n in count.items() for number in range(n)}
    assert all(len({name.partition("/")[0] for name in names}) == 1 for names in items_of(source)), "one task a sample"


@pytest.mark.usefixtures("offline_material")
def test_how_it_is_told_changes_no_picture_and_a_larger_share_describes_the_same_samples_and_more() -> None:
    def source(**how: object) -> Offline:
        return Offline(OfflineSourceConfig(rows=24, pictures=2, side=32, tasks={"vqa": 1, "captions": 1}, **how))

    def described(share: float) -> set[int]:
        made = source(described=share)
        texts = [[s.text for s in made[row].segments if isinstance(s, Text)] for row in range(24)]
        return {row for row in range(24) if not texts[row][0].startswith(("Question:", "Caption:"))}

    plain = items_of(source())
    for how in ({"described": 0.4}, {"captions": "alt_text"}, {"dialogue": True}, {"described": 1.0}):
        assert items_of(source(**how)) == plain
    few, more = described(0.3), described(0.7)
    assert described(0.0) == set() < few < more < described(1.0) == set(range(24))


def test_the_order_in_which_tasks_are_written_deals_out_the_same_items() -> None:
    """Keys of runs and fingerprints know no order of a mapping, so samples must not either."""
    written = {"receipts": 1.0, "captions": 2.0, "vqa": 3.0}
    dealt = {
        tuple(share_out(made.tasks, 50, random.Random(0)))
        for order in permutations(written)
        for made in (
            OfflineSourceConfig(tasks={k: written[k] for k in order}),
            OfflineVqaConfig(tasks={k: written[k] for k in order}),
        )
    }
    assert len(dealt) == 1 and set(next(iter(dealt))) == set(written)
    assert list(OfflineSourceConfig().tasks) == ["vqa", "knowledge", "reading", "captions"]


@pytest.mark.usefixtures("offline_material")
def test_shares_decide_by_their_ratio_alone_and_a_share_of_nought_by_nothing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        weights = {name: float(w) for name, w in zip(("vqa", "reading", "pages"), rng.random(3) + 0.01, strict=True)}
        dealt = share_out(weights, 60, random.Random(1))
        assert share_out({k: 4 * w for k, w in weights.items()}, 60, random.Random(1)) == dealt
        assert share_out({"captions": 0.0, **weights, "lists": 0.0}, 60, random.Random(1)) == dealt
    many = Counter(share_out({"vqa": 1, "reading": 3}, 4000, random.Random(0)))
    assert abs(many["reading"] - 3000) < 5 * (4000 * 0.25 * 0.75) ** 0.5


@pytest.mark.usefixtures("offline_material")
def test_a_benchmark_has_as_many_items_as_it_says_each_with_its_answer_among_its_references(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path))
    seen: set[str] = set()
    for split in SPLITS:
        found = benchmarks.build(OfflineVqaConfig(items=17, side=32, tasks={"vqa": 1, "cards": 1})).items(split)
        names = [item.id for item in found]
        assert len(names) == len(set(names)) == 17 and not seen & set(names)
        seen |= set(names)
        for item in found:
            task, of, number = item.id.split("/")
            made = TASKS[task](split, int(number), 32)
            assert of == split and item.answer in item.references
            assert (item.question, item.answer, item.description) == (made.question, made.answer, made.description)
            assert np.array_equal(item.images[0].source, made.image) and item.images[0].name == item.id
