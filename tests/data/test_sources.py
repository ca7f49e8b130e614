"""Every schema in every format becomes the same samples; wrong columns, cells and files are named."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from tests.data import records
from tests.data.conftest import data_config
from tests.docmatix import pdfs
from vlm_ablate.config.data import ImageConfig
from vlm_ablate.data.dataset import MixtureDataset, build_mixture
from vlm_ablate.data.encode import Encoder
from vlm_ablate.data.sample import Image, Sample, UnusableSample
from vlm_ablate.data.sources.base import STREAM_WINDOW, Source
from vlm_ablate.data.sources.lines import LineStream
from vlm_ablate.data.sources.shards import TarStream
from vlm_ablate.errors import AssetMissing, ConfigError, DataError
from vlm_ablate.registry import sources as registry

FORMATS = ["parquet", "saved", "jsonl", "webdataset"]
pytestmark = pytest.mark.usefixtures("own_cache")


def source(name: str, id: Path | str, **fields: Any) -> Source:
    entry = registry[name]
    return registry.build(entry.config.model_validate({"name": name, "id": str(id), **fields}))


def shown(sample: Sample) -> str:
    """The sample as a line: pictures as the colour of their corner, learned text in brackets."""
    names = {(255, 0, 0): "RED", (0, 128, 0): "GREEN", (0, 0, 255): "BLUE"}
    return "".join(
        f"<{names[s.ref.load().getpixel((0, 0))]}>"
        if isinstance(s, Image)
        else f"[{s.text}]" if s.supervised else s.text
        for s in sample.segments
    )


SCHEMAS = [
    ("cauldron", records.CAULDRON, {}, ["<RED>What colour?[Red.]Sure?[Yes.]", "<GREEN><BLUE>Same?[No.]"]),
    ("docmatix", records.CAULDRON, {"max_pages": 2}, ["<RED>What colour?[Red.]Sure?[Yes.]", "<GREEN><BLUE>Same?[No.]"]),
    ("obelics", records.OBELICS, {}, ["[A story. ]<RED>[ The end.]", UnusableSample, "[Two: ]<BLUE><RED>[done]"]),
    ("obelics", records.OBELICS, {"max_images": 1},
     ["[A story. ]<RED>[ The end.]", UnusableSample, "[Two: ]<BLUE>[done]"]),
    ("pairs", records.PAIRS, {}, ["<RED>[IMG_001]", UnusableSample]),
    ("pairs", records.PAIRS, {"synthetic": "top_caption", "caption": "synthetic"},
     ["<RED>[a red square]", "<BLUE>[a blue square]"]),
    ("websight", records.WEBSIGHT, {}, ["<RED>[<html>red</html>]"]),
    ("rendered_text", records.RENDERED, {}, ["<RED>[hello\nworld]"]),
    ("pages", records.PAGES, {}, ["<RED>[line 1\nline 2\n]<BLUE>[page two]"]),
    ("pages", records.PAGES, {"max_pages": 1}, ["<RED>[line 1\nline 2]"]),
    ("text_instructions", records.MESSAGES, {}, ["2 + 2?[4]"]),
    ("text_instructions", records.SHAREGPT, {}, ["Be brief.\n\nHi[Hello]"]),
    ("text_instructions", records.ALPACA, {}, ["Add.\n\n2, 2[4]"]),
]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("name", "rows", "fields", "expected"), SCHEMAS)
def test_schema_in_every_format(
    name: str, rows: list, fields: dict, expected: list, kind: str, tmp_path: Path
) -> None:
    opened = source(name, records.write(rows, kind, tmp_path), **fields)
    opened = pickle.loads(pickle.dumps(opened))
    assert len(opened) == len(expected)
    for index, want in enumerate(expected):
        if isinstance(want, str):
            assert shown(opened[index]) == want
        else:
            with pytest.raises(want, match=r"no text to learn"):
                opened[index]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "webdataset"])
@pytest.mark.parametrize(("name", "rows", "fields", "expected"), SCHEMAS)
def test_streaming_gives_the_same_samples(
    name: str, rows: list, fields: dict, expected: list, kind: str, tmp_path: Path
) -> None:
    folder = records.write(rows, kind, tmp_path)
    stream = pickle.loads(pickle.dumps(source(name, folder, streaming=True, rows=len(rows), **fields)))
    assert stream.sequential and len(stream) == len(expected)
    for index in (*reversed(range(len(expected))), 0):
        if isinstance(expected[index], str):
            assert shown(stream[index]) == expected[index]
        else:
            with pytest.raises(expected[index], match=r"no text to learn"):
                stream[index]
    with pytest.raises(DataError, match=rf"ended after {len(rows)} rows"):
        source(name, folder, streaming=True, rows=5)[4]


@pytest.mark.parametrize(("name", "rows", "fields", "expected"), SCHEMAS)
def test_rows_that_datasets_made_of_shards(
    name: str, rows: list, fields: dict, expected: list, tmp_path: Path
) -> None:
    """As it reads WebDataset repositories of the hub: a column a member, the JSON not merged."""
    import datasets

    folder = records.write(rows[:1], "webdataset", tmp_path / "tar")
    data = datasets.load_dataset("webdataset", data_files=str(folder / "*.tar"), split="train")
    assert {"__key__", "__url__", "json"} <= set(data.column_names)
    data.to_parquet(tmp_path / "made" / "train.parquet")
    for streaming in (False, True):
        opened = source(name, tmp_path / "made", streaming=streaming, rows=1, **fields)
        assert shown(opened[0]) == expected[0]


def test_compressed_shards_are_read_as_streams(tmp_path: Path) -> None:
    tar = records.write(records.CAULDRON, "webdataset", tmp_path / "a") / "train-000.tar"
    packed = tmp_path / "b.tar.gz"
    packed.write_bytes(gzip.compress(tar.read_bytes()))
    opened = source("cauldron", packed, streaming=True, rows=2)
    assert [shown(opened[i]) for i in (1, 0)] == [shown(source("cauldron", tar)[i]) for i in (1, 0)]
    with pytest.raises(DataError, match=r"not a plain tar file") as caught:
        source("cauldron", packed)
    assert "`streaming: true`" in caught.value.hint
    packed.write_bytes(packed.read_bytes()[:200])
    with pytest.raises(DataError, match=r"shard .*b.tar.gz cannot be read"):
        source("cauldron", packed, streaming=True, rows=2)


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.tar.gz"])
def test_what_a_compressed_file_unpacks_to_has_a_limit(name: str, tmp_path: Path) -> None:
    rows = records.write(records.CAULDRON[:1], "webdataset", tmp_path / "a") / "train-000.tar"
    file, blank = tmp_path / name, b" " * 2**20
    with gzip.open(file, "wb", compresslevel=1) as packed:
        if name == "rows.tar.gz":
            info = tarfile.TarInfo("1.json")
            info.size = 65 * 2**20
            packed.write(rows.read_bytes().rstrip(b"\0") + b"\0" * (-len(rows.read_bytes().rstrip(b"\0")) % 512))
            packed.write(info.tobuf())
        for _ in range(65):
            packed.write(blank)
    with pytest.raises(DataError, match=rf"{name} unpacks to more than 64 MiB"):
        list(TarStream([file]) if name == "rows.tar.gz" else LineStream([file]))


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.tar.gz"])
def test_damaged_compression_is_one_error_that_names_its_file(name: str, tmp_path: Path) -> None:
    shard = records.write(records.CAULDRON, "webdataset", tmp_path / "a") / "train-000.tar"
    rng = np.random.default_rng(0)
    lines = b"".join(json.dumps({"text": rng.bytes(200).hex()}).encode() + b"\n" for _ in range(50))
    whole = gzip.compress(shard.read_bytes() if name == "rows.tar.gz" else lines)
    file = tmp_path / name
    for place in range(12, len(whole), len(whole) // 40):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        file.write_bytes(damaged)
        with contextlib.suppress(DataError):
            list(TarStream([file]) if name == "rows.tar.gz" else LineStream([file]))


def test_a_damaged_row_of_a_stream_is_the_only_one_lost(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, body in enumerate((b'{"messages": []}', b"{broken", json.dumps(records.MESSAGES[0]).encode())):
            info = tarfile.TarInfo(f"{number}.json")
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    for streaming in (False, True):
        opened = source("text_instructions", tmp_path, streaming=streaming, rows=3)
        with pytest.raises(DataError, match=r"1.json in .*a.tar is not valid JSON"):
            opened[1]
        assert shown(opened[2]) == "2 + 2?[4]"


def test_a_stream_of_unknown_length_asks_for_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"length of the stream") as caught:
        source("cauldron", records.write(records.CAULDRON, "jsonl", tmp_path), streaming=True)
    assert "`rows`" in caught.value.hint


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_streams_can_be_entered_anywhere(kind: str, tmp_path: Path) -> None:
    rows = [{"instruction": "count", "output": str(i)} for i in range(3 * STREAM_WINDOW)]
    folder = records.write(rows, kind, tmp_path)
    stream = source("text_instructions", folder, streaming=True, rows=len(rows))
    for index in (5, 0, 2 * STREAM_WINDOW + 7, 2 * STREAM_WINDOW, STREAM_WINDOW + 3, 4):
        assert shown(stream[index]) == f"count[{index}]"
    assert len(stream.rows._kept) <= 2 * STREAM_WINDOW + 1


@pytest.mark.parametrize("kind", FORMATS)
def test_missing_columns_are_named_beside_what_was_found(kind: str, tmp_path: Path) -> None:
    folder = records.write([{"image": records.png("red"), "caption": "x"}], kind, tmp_path)
    with pytest.raises(DataError, match=r"column 'text' is missing; found: .*caption"):
        source("pairs", folder)
    with pytest.raises(DataError, match=r"column .*'texts' is missing; found: "):
        source("cauldron", folder)
    with pytest.raises(DataError, match=r"'instruction' and 'output' is missing"):
        source("text_instructions", folder)


def test_pages_from_tiff_and_pdf(tmp_path: Path) -> None:
    two = [{"text": ["one"]}, {"text": ["two"]}]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        members = {"x.tif": records.tiff("red", "blue"), "x.json": b'{"pages": [{"text": ["one"]}, {"text": ["two"]}]}'}
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert shown(source("pages", tmp_path)[0]) == "<RED>[one\n]<BLUE>[two]"

    pytest.importorskip("pypdfium2")
    pdf = io.BytesIO()
    pages = [records.PilImage.new("RGB", (72, 36), c) for c in ("red", "blue")]
    pages[0].save(pdf, "PDF", save_all=True, append_images=pages[1:], resolution=72)
    folder = records.write([{"pdf": "x", "pages": two}], "parquet", tmp_path / "pdf")
    opened = source("pages", folder, dpi=144)
    with pytest.raises(UnusableSample, match=r"pdf is not bytes"):
        opened[0]
    found = opened.segments({"pdf": pdf.getvalue(), "pages": two}, "doc")
    assert [s.ref.size() for s in found[::2]] == [(144, 72)] * 2
    with pytest.raises(UnusableSample, match=r"doc.*cannot be opened"):
        opened.segments({"pdf": b"%PDF-nonsense", "pages": two}, "doc")


def test_a_document_that_is_transcribed_in_part_is_unusable(tmp_path: Path) -> None:
    """Which of its pages the texts belong to is not said."""
    (tmp_path / "three.tif").write_bytes(records.tiff("red", "green", "blue"))
    (tmp_path / "one.tif").write_bytes(records.tiff("red"))
    told = "".join(
        json.dumps(row) + "\n" for row in (
            {"image": "three.tif", "pages": ["one", "three"]}, {"image": "three.tif", "pages": ["one"]},
            {"image": "three.tif", "pages": ["one", "two", "three"]}, {"image": "one.tif", "pages": ["one"]},
        )
    )
    (tmp_path / "train.jsonl").write_text(told)
    opened = source("pages", tmp_path, max_pages=2)
    for row, text in ((0, "3 pages are drawn, 2 transcribed"), (1, "3 pages are drawn, 1 transcribed")):
        with pytest.raises(UnusableSample, match=text):
            opened[row]
    assert [shown(opened[row]) for row in (2, 3)] == ["<RED>[one\n]<GREEN>[two]", "<RED>[one]"]

    (tmp_path / "text.jsonl").write_text(json.dumps({"image": "three.tif", "text": "one two three"}) + "\n")
    with pytest.raises(UnusableSample, match="3 pages are drawn, 1 transcribed"):
        source("pages", tmp_path / "text.jsonl")[0]

    pytest.importorskip("pypdfium2")
    pdf = io.BytesIO()
    pages = [records.PilImage.new("RGB", (72, 36), c) for c in ("red", "blue")]
    pages[0].save(pdf, "PDF", save_all=True, append_images=pages[1:], resolution=72)
    opened = source("pages", records.write([{"pdf": "x", "pages": []}], "jsonl", tmp_path / "pdf"))
    with pytest.raises(UnusableSample, match="2 pages are drawn, 1 transcribed"):
        opened.segments({"pdf": pdf.getvalue(), "pages": ["one"]}, "doc")


def test_pages_of_a_pdf_show_what_fills_their_forms_and_are_no_larger_than_can_be_used(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2")
    opened = source("pages", records.write([{"pdf": "x", "pages": []}], "jsonl", tmp_path))

    def drawn(**how: str) -> np.ndarray:
        found = opened.segments({"pdf": pdfs.pdf_bytes([pdfs.page("A form.")], **how), "pages": ["A form."]}, "doc")
        return np.asarray(found[0].ref.load())

    assert (drawn(field="Jane Doe") != drawn()).any()
    assert max(drawn(box="0 0 9000 4500").shape) <= 4096
    with pytest.raises(UnusableSample, match="a page cannot be drawn: it has no area"):
        drawn(entries="/CropBox [900 900 950 950]")


def test_image_addresses_are_refused_with_advice(tmp_path: Path) -> None:
    rows = [{"URL": "https://example.org/a.png", "TEXT": "x"}]
    opened = source("pairs", records.write(rows, "jsonl", tmp_path), image="URL", text="TEXT")
    with pytest.raises(UnusableSample, match=r"address .*img2dataset"):
        opened[0]


def test_missing_image_file_is_named_when_loaded(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [{"image": "pictures/gone.png", "text": "x"}]
    sample = source("pairs", records.write(rows, "jsonl", tmp_path))[0]
    with pytest.raises(UnusableSample, match=r"gone.png"):
        Encoder(tokenizer, data_config(image=ImageConfig(size=16)), 2)(sample)


def test_splits_and_subsets_of_a_folder(tmp_path: Path) -> None:
    records.write(records.ALPACA, "parquet", tmp_path / "math/train")
    records.write(records.ALPACA * 2, "parquet", tmp_path / "math/validation")
    records.write(records.ALPACA * 3, "parquet", tmp_path / "code")
    lengths = [
        len(source("text_instructions", tmp_path, **f))
        for f in ({"subset": "math"}, {"subset": "math", "split": "validation"}, {"subset": "code"}, {"rows": 1})
    ]
    assert lengths == [1, 2, 3, 1]
    assert len(source("text_instructions", tmp_path / "**/*.parquet", subset=None, rows=2)) == 2


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["v[12]", "v*", "v?"])
def test_a_folder_may_be_called_as_a_pattern_is(name: str, streaming: bool, tmp_path: Path) -> None:
    records.write(records.CAULDRON[1:], "parquet", tmp_path / "v1")
    records.write(records.CAULDRON[:1], "parquet", tmp_path / name)
    found = source("cauldron", tmp_path / name, streaming=streaming, rows=1)
    assert (len(found), shown(found[0])) == (1, "<RED>What colour?[Red.]Sure?[Yes.]")


def test_a_split_that_a_folder_lacks_is_not_another_one(tmp_path: Path) -> None:
    for name, rows in {"train-0": 1, "test-0": 2, "testmini-0": 3}.items():
        (tmp_path / f"{name}.jsonl").write_text((json.dumps(records.ALPACA[0]) + "\n") * rows)
    lengths = {s: len(source("text_instructions", tmp_path, split=s)) for s in ("train", "test", "testmini")}
    assert lengths == {"train": 1, "test": 2, "testmini": 3}
    with pytest.raises(DataError, match=r"no files of the split 'validation'; found: test-0.jsonl, testmini-0"):
        source("text_instructions", tmp_path, split="validation")
    assert len(source("text_instructions", tmp_path / "test-0.jsonl")) == 2, "a file that is named is the one meant"


@pytest.mark.parametrize(("folder", "own"), [("training_set", 9), ("train_data", 9), ("train", 15)])
def test_a_folder_whose_name_begins_as_a_split_may_hold_files_of_others(folder: str, own: int, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    for name, rows in {"train": 1, "val": 2, "test-00": 4, "part-of-it": 8}.items():
        (tmp_path / folder / f"{name}.jsonl").write_text((json.dumps(records.ALPACA[0]) + "\n") * rows)
    lengths = {s: len(source("text_instructions", tmp_path, split=s)) for s in ("train", "val", "test")}
    assert lengths == {"train": own, "val": 2, "test": 4}


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"does not exist"):
        source("cauldron", tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(DataError, match=r"holds no .* files; found: notes.txt"):
        source("cauldron", tmp_path)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match=r"cannot be read as parquet"):
        source("cauldron", tmp_path)
    (tmp_path / "a.tar").write_bytes(gzip.compress(b"x" * 2000))
    with pytest.raises(DataError, match=r"not a plain tar file"):
        source("cauldron", tmp_path, format="webdataset")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_files_without_a_row_are_empty(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"none.{kind}"
    file.touch()
    if kind == "parquet":
        pq.write_table(pa.table({"image": pa.array([], pa.string()), "text": pa.array([], pa.string())}), file)
    with pytest.raises(DataError, match=rf"none.{kind}' is empty"):
        source("pairs", file)


def test_hub_ids_fail_fast_and_clearly_without_network() -> None:
    with pytest.raises(AssetMissing, match=r"HuggingFaceM4/the_cauldron.*not on this machine"):
        source("cauldron", "HuggingFaceM4/the_cauldron", subset="vqav2")


def test_fingerprint_follows_rows_and_settings_not_the_place(tmp_path: Path) -> None:
    here = source("cauldron", records.write(records.CAULDRON, "webdataset", tmp_path / "a"))
    there = source("cauldron", records.write(records.CAULDRON, "webdataset", tmp_path / "b"))
    assert here.fingerprint == there.fingerprint
    assert source("docmatix", tmp_path / "a").fingerprint != here.fingerprint
    other = source("cauldron", records.write(records.CAULDRON[:1], "webdataset", tmp_path / "c"))
    assert other.fingerprint != here.fingerprint


def test_licence_comes_from_the_data_card(tmp_path: Path) -> None:
    folder = records.write(records.CAULDRON, "jsonl", tmp_path)
    assert source("cauldron", folder).licences[0].licence == "unknown"
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    assert source("cauldron", folder).licences[0].licence == "cc-by-4.0"


def test_a_mixture_of_schemas_by_epochs(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    ids = {
        "talk": records.write(records.CAULDRON, "parquet", tmp_path / "talk"),
        "web": records.write(records.OBELICS, "webdataset", tmp_path / "web"),
    }
    config = data_config(
        image=ImageConfig(size=16),
        mixture={
            "talk": {"source": {"name": "cauldron", "id": str(ids["talk"])}, "epochs": 3},
            "web": {"source": {"name": "obelics", "id": str(ids["web"])}, "epochs": 1},
        },
    )
    mixture = build_mixture(config, 0)
    assert dict(zip(mixture.names, mixture.shares, strict=True)) == {"talk": 6 / 9, "web": 3 / 9}
    dataset = MixtureDataset(mixture, Encoder(tokenizer, config, 2), max_skipped=1.0)
    seen = {dataset[i].id for i in range(60)}
    assert len(seen) == 4 and dataset.skips.skipped > 0


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"a": {"source": {"name": "websight"}, "weight": 0}}, "greater than 0"),
        ({"a": {"source": {"name": "websight"}, "weight": -2}}, "greater than 0"),
        ({"a": {"source": {"name": "webside"}}}, "websight"),
        ({"a": {"source": {"name": "pairs", "id": "x", "caption": "synthetic"}}}, "needs `synthetic`"),
        ({"a": {"source": "websight", "epochs": 1}, "b": {"source": "websight"}}, "for all sources or for none"),
    ],
)
def test_bad_mixtures(mixture: dict, message: str) -> None:
    with pytest.raises((ValueError, ConfigError), match=message):
        data_config(mixture=mixture)
