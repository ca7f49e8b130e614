"""The papers' benchmarks from tiny local copies in their official schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from vlm_ablate.errors import AssetMissing, DataError, UnknownNameError
from vlm_ablate.evaluation.benchmarks.base import Benchmark
from vlm_ablate.evaluation.metrics import metrics
from vlm_ablate.evaluation.prompts import build_prompt, get_template
from vlm_ablate.registry import benchmarks

SHIPPED = [entry for entry in benchmarks if isinstance(entry.target, str)]
"""Plug-ins, which other tests bring along, register their class itself."""


pytestmark = pytest.mark.usefixtures("own_cache")


def picture(shade: int = 0) -> Image.Image:
    return Image.new("RGB", (12, 8), (shade % 256, 100, 50))


def vqa_row(i: int) -> dict[str, Any]:
    answers = ["red"] * 7 + ["blue"] * 3
    return {
        "question_id": 1000 + i,
        "image_id": i // 2,
        "question": f"What colour is thing {i}?",
        "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": n + 1} for n, a in enumerate(answers)],
        "question_type": "what colour",
        "image": picture(i),
    }


def docvqa_row(i: int) -> dict[str, Any]:
    return {
        "questionId": str(i), "question": "Who signed?", "image": picture(i), "docId": i,
        "answers": ["A. Smith", "Smith"], "ucsf_document_id": f"d{i}", "ucsf_document_page_no": "1",
    }


def mmmu_row(i: int) -> dict[str, Any]:
    row = {
        "id": f"validation_Art_{i}", "question": "Compare <image 2> with <image 1>.",
        "options": "['same', 'it\\'s new']", "answer": "B", "question_type": "multiple-choice",
        "image_1": picture(1), "image_2": picture(2),
    }
    row |= {f"image_{n}": None for n in range(3, 8)}
    if i == 1:
        row |= {"question_type": "open", "options": "[]", "answer": "['7', 'seven']", "question": "How many? <image 1>"}
    return row


def mathvista_row(i: int) -> dict[str, Any]:
    row = {"pid": str(i), "question": "How long?", "image": "images/1.jpg", "decoded_image": picture(i), "unit": None}
    if i % 2:
        return row | {"choices": None, "answer": "1.2", "question_type": "free_form", "precision": 1.0}
    return row | {"choices": ["3 m", "4 m"], "answer": "4 m", "question_type": "multi_choice", "precision": None}


def mmbench_row(i: int) -> dict[str, Any]:
    return {
        "index": i, "question": "Which?", "hint": "Look closely." if i else "nan", "answer": "C", "A": "cat",
        "B": "dog", "C": "cow", "D": "nan", "category": "x", "image": picture(i),
    }


ROWS = {
    "vqav2": ("validation", vqa_row),
    "okvqa": ("val2014", lambda i: {k: v for k, v in vqa_row(i).items() if k != "image_id"}),
    "textvqa": ("validation", lambda i: vqa_row(i) | {"image_id": f"x{i}", "answers": ["stop"] * 10}),
    "coco_captions": ("test", lambda i: {"image": picture(i), "cocoid": i, "sentences_raw": ["A cat.", "One cat."]}),
    "docvqa": ("validation", docvqa_row),
    "chartqa": ("test", lambda i: {"image": picture(i), "query": "How much?", "label": [str(10 + i)]}),
    "mmmu": ("validation", mmmu_row),
    "mathvista": ("testmini", mathvista_row),
    "mmstar": ("val", lambda i: {"index": i, "question": "Which? A: x, B: y", "image": picture(i), "answer": "B"}),
    "mmbench": ("dev", mmbench_row),
}
IMAGES = {"mmmu": [f"image_{n}" for n in range(1, 8)], "mathvista": ["decoded_image"]}


def write(folder: Path, name: str, split: str, count: int = 2, **changes: Any) -> None:
    """A Parquet file of some rows; a change of None drops the column."""
    made = [ROWS[name][1](i) for i in range(count)]
    rows = {key: [row[key] for row in made] for key in made[0]}
    for column, value in changes.items():
        rows.pop(column) if value is None else rows.update({column: [value] * count})
    table = datasets.Dataset.from_dict(rows)
    for column in set(IMAGES.get(name, ["image"])) & set(table.column_names):
        table = table.cast_column(column, datasets.Image())
    folder.mkdir(exist_ok=True)
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def build(name: str, folder: Path, **changes: Any) -> Benchmark:
    return benchmarks.build(benchmarks[name].config.model_validate({"name": name, "id": str(folder), **changes}))


@pytest.mark.parametrize("name", ROWS)
def test_official_schema_gives_items_that_can_be_asked_and_scored(name: str, tmp_path: Path) -> None:
    write(tmp_path, name, ROWS[name][0])
    benchmark = build(name, tmp_path)
    items = benchmark.checked_items("report")
    assert len(items) == 2 and len({i.id for i in items}) == 2
    for item in items:
        assert item.images[0].load().size == (12, 8)
        sample = build_prompt(item, [], get_template(benchmark.template), "plain")
        assert len(sample.images) == len(item.images)
        chat = build_prompt(item, [items[0]], get_template(benchmark.template), "chat")
        assert chat.dialogue and any(getattr(s, "supervised", False) for s in chat.segments)
        if name != "coco_captions":
            assert benchmark.metric.score(item.answer, item.references).value == 1
    assert benchmark.split_hash("report") == build(name, tmp_path).split_hash("report")
    assert benchmark.split_hash("report") != benchmark.split_hash("report", 1)


def test_every_hub_benchmark_is_tested() -> None:
    hub = {e.name for e in SHIPPED if "offline" not in e.name}
    assert hub == set(ROWS)


def test_vqa_demonstration_shows_the_most_common_answer(tmp_path: Path) -> None:
    write(tmp_path, "vqav2", "validation")
    item = build("vqav2", tmp_path).items("report")[0]
    assert (item.answer, len(item.references), item.image_key) == ("red", 10, "0")


def test_mmmu_places_its_images_and_reads_open_questions(tmp_path: Path) -> None:
    write(tmp_path, "mmmu", "validation")
    choice, open_question = build("mmmu", tmp_path).items("report")
    sample = build_prompt(choice, [], get_template("choices"), "plain")
    assert [s.ref.load().getpixel((0, 0))[0] for s in sample.segments if hasattr(s, "ref")] == [2, 1]
    assert choice.references == ("B", "A. same", "B. it's new")
    assert open_question.references == ("7", "seven") and not open_question.choices
    blind = build_prompt(open_question, [], get_template("choices"), "plain", blind=True)
    text = "".join(s.text for s in blind.segments)
    assert "image" not in text and "single word" in text and "Choices" not in text


def test_mmmu_images_are_those_of_their_columns_where_one_between_is_missing(tmp_path: Path) -> None:
    def shown(question: str) -> list[int]:
        write(tmp_path, "mmmu", "validation", count=1, question=question, image_3=picture(3), image_2=None)
        (item,) = build("mmmu", tmp_path).items("report")
        segments = build_prompt(item, [], get_template("choices"), "plain").segments
        return [s.ref.load().getpixel((0, 0))[0] for s in segments if hasattr(s, "ref")]

    assert shown("Compare <image 3> with <image 1>.") == [3, 1] and shown("Compare <image 1>.") == [3, 1]
    with pytest.raises(DataError, match="speaks of <image 2> and has no image_2"):
        shown("Compare <image 1> with <image 2>.")


def test_mmmu_answers_that_are_kept_secret_are_none(tmp_path: Path) -> None:
    write(tmp_path, "mmmu", "validation", answer="?", question_type="open")
    with pytest.raises(DataError, match="has no references"):
        build("mmmu", tmp_path).checked_items("report")


def test_splits_by_use_share_no_picture(tmp_path: Path) -> None:
    write(tmp_path, "vqav2", "train", count=400)
    benchmark = build("vqav2", tmp_path)
    train, tune = benchmark.items("train"), benchmark.items("tune")
    assert len(train) + len(tune) == 400 and 0 < len(tune) < 60
    assert {i.image_key for i in train}.isdisjoint(i.image_key for i in tune)
    assert [i.id for i in train[:3]] == [train[k].id for k in range(3)]


@pytest.mark.parametrize("name", ["vqav2", "okvqa"])
def test_train_rows_of_another_copy_name_their_columns_otherwise(name: str, tmp_path: Path) -> None:
    answers = vqa_row(0)["answers"]
    write(tmp_path, "vqav2", "train", image_id=None, id_image=7, answers=["red", "blue"], answers_original=answers)
    items = build(name, tmp_path, splits={"train": "someone/else:train"}).items("train")
    assert items[0].image_key == "7" and len(items[0].references) == 10 and items[0].answer == "red"


def test_a_split_may_be_of_another_hub_data_set() -> None:
    benchmark = build("vqav2", Path("someone/nothing-like-this"))
    with pytest.raises(AssetMissing, match="split 'train' of 'Multimodal-Fatima/VQAv2_train' is not on this machine"):
        benchmark.items("train")
    with pytest.raises(AssetMissing, match="split 'validation' of 'someone/nothing-like-this'"):
        benchmark.items("report")
    with pytest.raises(DataError, match="is not `name`"):
        build("vqav2", Path("someone/nothing-like-this"), splits={"train": "a:b:c"}).items("train")


def test_no_train_split_is_said(tmp_path: Path) -> None:
    write(tmp_path, "mmstar", "val")
    with pytest.raises(DataError, match="has no 'train' split\n  hint: score it with shots: 0"):
        build("mmstar", tmp_path).items("train")


def test_jsonl_with_images_beside_it(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    picture(9).save(tmp_path / "img" / "a.png")
    row = {"image": "img/a.png", "query": "How much?", "label": ["12"]}
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    item = build("chartqa", tmp_path).items("report")[0]
    assert item.images[0].load().getpixel((0, 0)) == (9, 100, 50)
    assert item.references == ("12",)


@pytest.mark.parametrize("name", ROWS)
def test_missing_column_is_named_with_what_was_found(name: str, tmp_path: Path) -> None:
    column = benchmarks[name].load().columns[-1]
    write(tmp_path, name, ROWS[name][0], **{column: None})
    with pytest.raises(DataError, match=f"has no column '{column}'; found: "):
        build(name, tmp_path).items("report")


@pytest.mark.parametrize(("name", "column", "empty"), [("vqav2", "answers", []), ("docvqa", "answers", []),
                                                       ("chartqa", "label", []), ("mmstar", "answer", ""),
                                                       ("coco_captions", "sentences_raw", [])])
def test_benchmark_without_references_is_refused(name: str, column: str, empty: object, tmp_path: Path) -> None:
    write(tmp_path, name, ROWS[name][0], **{column: empty})
    with pytest.raises(DataError, match="has no references"):
        build(name, tmp_path).checked_items("report")


def test_missing_split_folder_and_hub_id(tmp_path: Path) -> None:
    write(tmp_path, "vqav2", "train")
    with pytest.raises(DataError, match="has no split 'validation'"):
        build("vqav2", tmp_path).items("report")
    with pytest.raises(AssetMissing, match="is not on this machine"):
        build("vqav2", Path("someone/nothing-like-this")).items("report")


def test_empty_and_broken_files(tmp_path: Path) -> None:
    (tmp_path / "test.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="cannot be read"):
        build("chartqa", tmp_path).items("report")
    empty = datasets.Dataset.from_dict({"image": [b"x"], "query": ["q"], "label": [["1"]]}).select([])
    empty.to_parquet(tmp_path / "test.parquet")
    with pytest.raises(DataError, match="is empty"):
        build("chartqa", tmp_path).checked_items("report")


def test_undecodable_image_is_named(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"image": [{"bytes": b"junk", "path": None}], "query": ["q"], "label": [["1"]]})
    table.to_parquet(tmp_path / "test.parquet")
    item = build("chartqa", tmp_path).items("report")[0]
    with pytest.raises(DataError, match="chartqa/report/0"):
        item.images[0].load()


def test_reading_texts_touches_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "vqav2", "validation")
    benchmark = build("vqav2", tmp_path)
    monkeypatch.setattr(type(benchmark), "_image", lambda *a: pytest.fail("an image was read"))
    benchmark.split_hash("report")
    benchmark.checked_items("report")


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("textvqa", "Answer the following question about the image using as few words as possible.", "-Do not apply"),
        ("docvqa", "Give a short and terse answer to the following question.", "without additional explanation."),
    ],
)
def test_gemini_style_prompts_are_named_and_versioned(name: str, first: str, last: str, tmp_path: Path) -> None:
    write(tmp_path, name, "validation")
    benchmark = build(name, tmp_path, template=f"{name}_gemini")
    assert get_template(benchmark.template).id == f"{name}_gemini/1"
    item = benchmark.items("report")[0]
    for form in ("plain", "chat"):
        _image, text = build_prompt(item, [], get_template(benchmark.template), form).segments
        assert text.text.startswith(first) and last in text.text and item.question in text.text
    with pytest.raises(UnknownNameError, match=f"did you mean '{name}_gemini'"):
        build(name, tmp_path, template=f"{name}_gemeni")


def test_metrics_of_benchmarks_exist() -> None:
    assert {e.load().metric_name for e in SHIPPED} <= set(metrics.names())


def lines(folder: Path, split: str, *rows: dict[str, Any]) -> Path:
    """A JSONL copy as others write it, with one picture a row."""
    (folder / "img").mkdir(parents=True, exist_ok=True)
    for i, _ in enumerate(rows):
        picture(i).save(folder / "img" / f"{i}.png")
    named = ({"image": f"img/{i}.png", "decoded_image": f"img/{i}.png", "image_1": f"img/{i}.png"} | row
             for i, row in enumerate(rows))  # fmt: skip
    (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in named) + "\n")
    return folder


def vqa(i: int, **changes: Any) -> dict[str, Any]:
    return {k: v for k, v in vqa_row(i).items() if k != "image"} | changes


@pytest.mark.parametrize(
    ("answers", "references"),
    [("red", ("red",)), (["red", None, 3], ("red", "3")), ([{"answer": "red"}, {"answer": None}], ("red",)),
     ({"answer": ["red", "blue"]}, ("red", "blue")), ("2020-01-02", ("2020-01-02",)), (3, ("3",)), (0, ("0",))],
)  # fmt: skip
def test_answers_are_read_in_every_form(answers: object, references: tuple[str, ...], tmp_path: Path) -> None:
    folder = lines(tmp_path, "validation", vqa(0, answers=answers), vqa(1, answers=["x"]))
    assert build("vqav2", folder).checked_items("report")[0].references == references
    label = lines(tmp_path / "chart", "test", {"query": "q", "label": answers})
    assert build("chartqa", label).checked_items("report")[0].references == references


REQUIRED = {"vqav2": ["question_id", "question"], "docvqa": ["questionId", "question"], "chartqa": ["query"],
            "coco_captions": ["cocoid"], "mmmu": ["id", "question"], "mathvista": ["pid", "question"],
            "mmstar": ["index", "question"], "mmbench": ["index", "question"]}  # fmt: skip


@pytest.mark.parametrize("name", REQUIRED)
def test_a_row_without_question_or_id_is_named_and_refused(name: str, tmp_path: Path) -> None:
    split, make = ROWS[name]
    for column in REQUIRED[name]:
        row = {k: v for k, v in make(0).items() if not isinstance(v, Image.Image)} | {column: None}
        with pytest.raises(DataError, match=rf"benchmark '{name}', row with .*: it has no {column}"):
            build(name, lines(tmp_path / column, split, row)).checked_items("report")


@pytest.mark.parametrize(
    ("name", "change"),
    [("vqav2", {"image_id": None}), ("textvqa", {"image_id": None}), ("okvqa", {"image_id": None}),
     ("docvqa", {"ucsf_document_page_no": None}), ("docvqa", {"ucsf_document_id": None})],
)  # fmt: skip
def test_pictures_without_an_identity_share_nothing(name: str, change: dict, tmp_path: Path) -> None:
    split, make = ROWS[name]
    rows = [{k: v for k, v in make(i).items() if k != "image"} | change for i in range(3)]
    items = build(name, lines(tmp_path, split, *rows)).items("report")
    assert [item.image_key for item in items] == [""] * 3
    assert len({item.picture_key("report") for item in items}) == 3


def test_equal_ids_of_two_splits_are_not_one_picture(tmp_path: Path) -> None:
    for split in ("train", "test"):
        lines(tmp_path, split, {"query": "q", "label": "1"})
    benchmark = build("chartqa", tmp_path)
    keys = {benchmark.items(split)[0].picture_key(split) for split in ("train", "report")}
    assert len(keys) == 2 == len({benchmark.items(split)[0].id for split in ("train", "report")})


def bench(i: int, **changes: Any) -> dict[str, Any]:
    return {k: v for k, v in mmbench_row(i).items() if k != "image"} | changes


@pytest.mark.parametrize("missing", ["nan", "", None, float("nan")])
def test_a_missing_option_moves_no_letter(missing: object, tmp_path: Path) -> None:
    folder = lines(tmp_path, "dev", bench(0, B=missing, D="fish"), bench(1, A=missing, B="Two", answer="B"))
    second, first = build("mmbench", folder).checked_items("report")[1], build("mmbench", folder).items("report")[0]
    assert first.references == ("C", "A. cat", "C. cow", "D. fish")
    assert second.references == ("B", "B. Two", "C. cow")
    asked = build_prompt(first, [], get_template("choices"), "plain").segments[-1].text
    assert "A. cat\nC. cow\nD. fish" in asked and "B." not in asked
    assert build("mmbench", folder).metric.score("C", first.references).value == 1


def test_numbers_are_options(tmp_path: Path) -> None:
    folder = lines(tmp_path, "dev", bench(0, A=1, B=2.5, C=3, D=None), bench(1, A="one", B=2, C=3, D=None))
    first, second = build("mmbench", folder).checked_items("report")
    assert first.choices == ("1", "2.5", "3") and second.choices == ("one", "2", "3")
    row = {k: v for k, v in mathvista_row(0).items() if k != "decoded_image"}
    folder = lines(tmp_path / "math", "testmini", row | {"choices": [0, 1], "answer": 0},
                   mathvista_row(1) | {"pid": "1", "answer": 0, "decoded_image": "img/1.png"})  # fmt: skip
    first, second = build("mathvista", folder).checked_items("report")
    assert first.references == ("A", "A. 0", "B. 1") and second.references == ("0",)


def test_a_right_letter_without_an_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row with index 0: the right answer 'D' is not among the choices A, B, C"):
        build("mmbench", lines(tmp_path, "dev", bench(0, D=None, answer="D"))).checked_items("report")


def test_the_right_option_is_one_even_if_its_text_was_taken_for_a_gap(tmp_path: Path) -> None:
    item = build("mmbench", lines(tmp_path, "dev", bench(0, A="nan", answer="A"))).checked_items("report")[0]
    assert item.references == ("A", "A. nan", "B. dog", "C. cow")


def test_records_reach_only_pictures_below_their_folder(tmp_path: Path) -> None:
    for path in ("/etc/hostname", "../a.png"):
        folder = lines(tmp_path / "data", "validation", vqa(0, image=path))
        with pytest.raises(DataError, match=r"the image of vqav2/1000 is .* outside"):
            build("vqav2", folder).items("report")[0]


def test_copies_are_found_as_they_are_downloaded(tmp_path: Path) -> None:
    write(tmp_path / "MMStar", "mmstar", "mmstar")
    (tmp_path / "MMStar/mmstar-00000-of-00001.parquet").rename(tmp_path / "MMStar/mmstar.parquet")
    assert len(build("mmstar", tmp_path / "MMStar").checked_items("report")) == 2
    (tmp_path / "MMBench").mkdir()
    write(tmp_path / "MMBench/en", "mmbench", "dev")
    write(tmp_path / "MMBench/cn", "mmbench", "dev", count=1)
    assert len(build("mmbench", tmp_path / "MMBench").checked_items("report")) == 2
    assert len(build("mmbench", tmp_path / "MMBench", subset="cn").checked_items("report")) == 1
    beside = lines(tmp_path / "folder" / "validation", "metadata", vqa(0))
    assert build("vqav2", beside.parent).items("report")[0].images[0].load().size == (12, 8)


def test_a_layout_that_is_not_known_is_listed_with_the_setting_that_names_it(tmp_path: Path) -> None:
    write(tmp_path, "vqav2", "all")
    with pytest.raises(DataError, match=r"no split 'validation'; found: all-00000-of-00001.parquet") as caught:
        build("vqav2", tmp_path).items("report")
    assert "`splits: {report: NAME}`" in caught.value.hint and "`subset`" in caught.value.hint
    assert len(build("vqav2", tmp_path, splits={"report": "all"}).items("report")) == 2
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", "mmstar", "test")
    with pytest.raises(DataError, match="no split 'val'; found: test-"):
        build("mmstar", tmp_path / "other").items("report")
