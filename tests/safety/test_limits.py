"""Small files that become large, or deep: one clear error, in bounded memory."""

from __future__ import annotations

import gzip
import json
import struct
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from vlm_ablate.docmatix.find import read_pdf
from vlm_ablate.errors import DataError
from vlm_ablate.limits import ALWAYS_ALLOWED, Bounded, gunzipped, most_unpacked, parse_json


def test_a_gzipped_file_is_unpacked_only_as_far_as_a_document_may_be_packed(tmp_path: Path) -> None:
    path = tmp_path / "x.pdf.gz"
    path.write_bytes(gzip.compress(bytes(4 * ALWAYS_ALLOWED), 1))
    assert path.stat().st_size * 200 < 4 * ALWAYS_ALLOWED
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"x\.pdf\.gz unpacks to more than \d+ MiB"):
            gunzipped(path)
        assert tracemalloc.get_traced_memory()[1] < 3.2 * most_unpacked(path.stat().st_size)
    finally:
        tracemalloc.stop()
    with pytest.raises(OSError, match="unpacks to more than"):
        read_pdf(path)


def test_what_is_packed_as_documents_are_comes_out_whole(tmp_path: Path) -> None:
    text = "".join(f"{i} lines of text\n" for i in range(5000)).encode()
    (tmp_path / "x.pdf.gz").write_bytes(gzip.compress(text))
    assert read_pdf(tmp_path / "x.pdf.gz") == text


def test_no_more_than_a_byte_beyond_the_limit_is_ever_asked_for() -> None:
    asked: list[int] = []

    class Endless:
        def read(self, size: int = -1, /) -> bytes:
            asked.append(size)
            return bytes(size)

    stream = Bounded(Endless(), 1000, "it")
    assert stream.read(600) == bytes(600)
    with pytest.raises(DataError):
        stream.read()
    assert asked == [600, 401]


@pytest.mark.parametrize("text", ["[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000, "[" * 100_000])
def test_json_of_too_many_levels_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json(text)
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json(text.encode())


def test_json_says_what_pythons_own_reader_says() -> None:
    random, numbers = Random(0), ["1e400", "-0", "-0.0", "5e-324", "NaN", "-Infinity", "9007199254740993.0", "01", "1."]
    for _ in range(2000):
        number = struct.unpack("d", random.randbytes(8))[0]
        between = (Decimal(1 + random.random()) + Decimal(2)) / 2  # longer than a float is
        numbers += [repr(number), f"{number:.30e}", str(between), str(random.getrandbits(80))]
    texts = ['{"a": 1, "a": 2}', r'["\ud800", "\ud83d\ude00"]', '"\ud800"', "\ufeff[1]", '["a\n"]', "[1,]", " [1]\n x"]
    encoded = [b"\xff", b"\xef\xbb\xbf[1]", "[1]".encode("utf-16")]
    for text in [*numbers, *texts, *encoded, "[" * 300 + "]" * 300, '"é"']:
        assert _said_by(parse_json, text) == _said_by(json.loads, text), text


def _said_by(read: Callable[[str | bytes], object], text: str | bytes) -> str:
    try:
        return repr(read(text))
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
