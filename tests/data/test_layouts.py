"""Folders as programs write them and people download them: the records are found, or asked for; bounded streams."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.data import records
from tests.data.test_sources import shown, source
from vlm_ablate.data.mixture import Mixture
from vlm_ablate.data.sources.base import STREAM_WINDOW
from vlm_ablate.data.sources.lines import LineStream
from vlm_ablate.data.sources.streams import StreamRows
from vlm_ablate.errors import DataError

pytestmark = pytest.mark.usefixtures("own_cache")


def tar(file: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(file, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def img2dataset(folder: Path) -> Path:
    """What img2dataset writes for one shard."""
    folder.mkdir(exist_ok=True)
    rows = [{"url": "https://example.org/a", "caption": "red", "key": "000000000", "status": "success"}]
    records.write(rows, "parquet", folder)
    (folder / "train-00000.parquet").rename(folder / "00000.parquet")
    (folder / "00000_stats.json").write_text(json.dumps({"count": 1, "successes": 1}))
    body = {"000000000.jpg": records.png("red"), "000000000.txt": b"a red square",
            "000000000.json": json.dumps({"caption": "red", "__key__": "x", "__files__": "y"}).encode()}  # fmt: skip
    tar(folder / "00000.tar", body)
    return folder


def test_shards_are_found_among_the_files_that_are_written_beside_them(tmp_path: Path) -> None:
    opened = source("pairs", img2dataset(tmp_path))
    assert [shown(opened[i]) for i in range(len(opened))] == ["<RED>[a red square]"]
    (tmp_path / "00000.parquet").unlink()
    assert shown(source("pairs", tmp_path)[0]) == "<RED>[a red square]"


def test_records_of_two_formats_ask_which_is_meant(tmp_path: Path) -> None:
    img2dataset(tmp_path)
    (tmp_path / "captions.jsonl").write_text(json.dumps({"image": "a.png", "text": "x"}))
    with pytest.raises(DataError, match=r"several formats: 00000.tar, .*captions.jsonl") as caught:
        source("pairs", tmp_path)
    assert "`format`" in caught.value.hint
    assert len(source("pairs", tmp_path, format="jsonl")) == 2, "the statistics count: they were asked for"
    assert len(source("pairs", tmp_path, format="webdataset")) == 1


def test_files_about_a_data_set_are_not_its_records(tmp_path: Path) -> None:
    records.write(records.PAIRS, "parquet", tmp_path)
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert len(source("pairs", tmp_path)) == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_a_caption_that_is_not_utf8_is_an_error_or_in_the_declared_encoding(streaming: bool, tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", {"0.png": records.png("red"), "0.txt": "café".encode("latin-1")})
    with pytest.raises(DataError, match=r"0.txt in .*a.tar is not utf-8: byte 0xe9 at 3"):
        source("pairs", tmp_path, streaming=streaming, rows=1)[0]
    opened = source("pairs", tmp_path, encoding="latin-1", streaming=streaming, rows=1)
    assert shown(opened[0]) == "<RED>[café]"


@pytest.mark.parametrize("streaming", [False, True])
def test_json_lines_that_are_not_utf8_are_an_error_or_in_the_declared_encoding(streaming: bool, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"instruction": "é?", "output": "é"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"a.jsonl:1 is not utf-8"):
        source("text_instructions", tmp_path, streaming=streaming, rows=1)
    opened = source("text_instructions", tmp_path, encoding="latin-1", streaming=streaming, rows=1)
    assert shown(opened[0]) == "é?[é]"


@pytest.mark.parametrize("streaming", [False, True])
def test_one_damaged_line_is_the_only_one_lost(streaming: bool, tmp_path: Path) -> None:
    good = json.dumps({"instruction": "a", "output": "b"})
    (tmp_path / "a.jsonl").write_text(f"\ufeff{good}\n\n{{broken\n[1]\n{good}", encoding="utf-8")
    opened = source("text_instructions", tmp_path, streaming=streaming, rows=4)
    assert shown(opened[0]) == shown(opened[3]) == "a[b]"
    for row, reason in ((1, "a.jsonl:3 is not valid JSON"), (2, "a.jsonl:4 is list")):
        with pytest.raises(DataError, match=reason):
            opened[row]


def test_a_json_array_is_a_file_of_records(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "a", "output": i} for i in range(3)], indent=1))
    assert shown(source("text_instructions", tmp_path)[2]) == "a[2]"
    assert shown(source("text_instructions", tmp_path, streaming=True, rows=3)[2]) == "a[2]"


def instruction(number: int, size: int) -> str:
    return json.dumps({"instruction": str(number), "output": "x" * size})


def stream(folder: Path, sizes: list[int], window_bytes: int) -> StreamRows:
    (folder / "a.jsonl").write_text("\n".join(instruction(i, size) for i, size in enumerate(sizes)))
    return StreamRows(LineStream([folder / "a.jsonl"]), length=len(sizes), window_bytes=window_bytes, name="s",
                      fingerprint="", licence="")  # fmt: skip


def test_the_rows_of_a_window_follow_from_bytes(tmp_path: Path) -> None:
    assert stream(tmp_path, [10] * 100, 64 << 20).window == STREAM_WINDOW
    assert 5 <= stream(tmp_path, [10_000] * 100, 100_000).window <= 10
    assert stream(tmp_path, [10_000] * 4, 100).window == 1


@pytest.mark.parametrize("sizes", [[10_000] * 120, [100] * 64 + [20_000] * 60])
def test_a_stream_never_keeps_more_than_four_windows_of_bytes(sizes: list[int], tmp_path: Path) -> None:
    opened = stream(tmp_path, sizes, 100_000)
    for index, size in enumerate(sizes):
        assert opened[index] == {"instruction": str(index), "output": "x" * size}
        assert opened.kept_bytes <= 4 * 100_000
    assert opened[3]["instruction"] == "3", "going back starts again"


@pytest.mark.parametrize("kind", ["parquet", "tar.gz"])
def test_a_stream_that_breaks_says_at_every_row_behind_why(kind: str, tmp_path: Path) -> None:
    """What comes after a damaged file is not the end of the stream, and no error but this project's own leaves it."""
    rows = [{"text": f"a {i}", "image": records.png("red")} for i in range(40)]
    for name in ("train-0", "train-1"):
        file = tmp_path / f"{name}.{kind}"
        if kind == "parquet":
            records.write(rows, kind, tmp_path / "made").joinpath("train-00000.parquet").rename(file)
        else:
            file.write_bytes(gzip.compress((records.write(rows, "webdataset", tmp_path / "made") /
                                            "train-000.tar").read_bytes()))  # fmt: skip
    (tmp_path / "made" / "train-000.tar").unlink(missing_ok=True)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    opened = source("pairs", tmp_path, streaming=True, rows=80, window_bytes=1000)
    assert shown(opened[0]) == "<RED>[a 0]"
    for row in (77, 77, 78, 79, 77):
        with pytest.raises(DataError, match=r"cannot be read"):
            opened[row]
    assert shown(opened[1]) == "<RED>[a 1]", "what lies before the damage can still be read"


def test_a_mixture_shuffles_a_stream_within_its_windows(tmp_path: Path) -> None:
    rows = [{"instruction": str(i), "output": "x" * 10_000} for i in range(60)]
    opened = source("text_instructions", records.write(rows, "jsonl", tmp_path), streaming=True, rows=60,
                    window_bytes=100_000)  # fmt: skip
    mixture, window = Mixture({"s": opened}, {"s": 1.0}, seed=0), opened.window
    order = [mixture[i][1] for i in range(60)]
    assert sorted(order) == list(range(60)) and order != sorted(order) and window < 12
    assert all(row // window == place // window for place, row in enumerate(order))


@pytest.mark.parametrize("streaming", [False, True])
def test_the_picture_of_a_row_of_a_shard_is_the_one_of_its_plain_name(streaming: bool, tmp_path: Path) -> None:
    """Maps of depth and masks stand beside it under names that come before its own."""
    members = {"0.depth.png": records.png("green"), "0.mask.png": records.png("blue"), "0.png": records.png("red"),
               "0.txt": b"a red square", "1.0.png": records.png("green"), "1.1.png": records.png("blue"),
               "1.txt": b"two squares"}  # fmt: skip
    tar(tmp_path / "train.tar", members)
    opened = source("pairs", tmp_path, streaming=streaming, rows=2)
    assert [shown(opened[i]) for i in range(2)] == ["<RED>[a red square]", "<GREEN>[two squares]"]


def test_who_names_the_column_of_addresses_of_downloaded_pictures_is_told_where_these_are(tmp_path: Path) -> None:
    told = json.dumps({"url": "https://a.b/c.png", "vlm_caption": "a red square"}).encode()
    tar(tmp_path / "00000.tar", {"0.png": records.png("red"), "0.json": told})
    with pytest.raises(DataError, match="stands in the column 'image'"):
        source("pairs", tmp_path, image="url", text="vlm_caption")[0]
    assert shown(source("pairs", tmp_path, text="vlm_caption")[0]) == "<RED>[a red square]"
