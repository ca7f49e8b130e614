"""Logs cut anywhere and damaged records: what is read is what was written, or an error with its place."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runs.disk import write_results
from tests.tracking.specs import make_spec
from vlm_ablate.errors import StorageError
from vlm_ablate.home import Home
from vlm_ablate.runs.folder import Keyed, write_json
from vlm_ablate.runs.log import Log, LogLine, read_log
from vlm_ablate.runs.results import find_results

NAMES = st.text('aé/"\\\n _', min_size=1, max_size=4)
ENTRIES = st.tuples(
    st.integers(0, 40), st.dictionaries(NAMES, st.floats(allow_nan=False), max_size=3),
    st.none() | st.dictionaries(NAMES, st.text(max_size=3), max_size=2),
)  # fmt: skip
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), ENTRIES),
        st.tuples(st.just("rewind"), st.integers(-1, 40)),
        st.tuples(st.just("killed"), st.integers(1, 60)),
    ),
    max_size=12,
)


@given(events=EVENTS)
@settings(max_examples=40, deadline=None)
def test_a_log_is_the_list_of_what_was_added_less_what_was_taken_back_or_torn(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, Any]]
) -> None:
    """As training uses it: after a kill, which may tear the last line, it is wound back before anything is added."""
    log, known = Log(tmp_path_factory.mktemp("log") / "log.jsonl"), list[LogLine]()
    for kind, what in events:
        if kind == "add":
            step, values, asked = what
            log.add(values, step, time_ms=1000 + step, asked=asked)
            known.append(LogLine(step, 1000 + step, values, asked))
        elif kind == "rewind":
            log.rewind(what)
            known = [entry for entry in known if entry.step <= what]
        elif known:
            log.close()
            whole = log.path.read_bytes()
            last = len(whole.splitlines(keepends=True)[-1])
            cut = min(what, last)
            log.path.write_bytes(whole[:-cut])
            known = known[:-1] if cut > 1 else known
            assert read_log(log.path) == known
            log.rewind(40)
        assert read_log(log.path) == known
    log.close()


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 1e999, "time_ms": 1, "values": {}}', '{"step": 1, "time_ms": Infinity, "values": {}}',
        '{"step": 1, "time_ms": 1, "values": {"a": 1%s}}' % ("0" * 400), '{"step": "x", "time_ms": 1, "values": {}}',
        '{"step": 1, "time_ms": 1, "values": {"a": null}}', '{"step": 1, "time_ms": 1, "values": {}, "asked": 3}',
        "null", "[" * 5000, '{"step": 1, "time_ms": 1, "values": {}, "sum": "0"}',
    ],
    ids=lambda line: line[:50],
)  # fmt: skip
def test_a_line_by_hand_that_is_no_entry_is_told_and_at_the_end_dropped(tmp_path: Path, line: str) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.add({"loss": 1.0}, 1)
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + line.encode() + b"\n" + whole)
    with pytest.raises(StorageError, match=r"log\.jsonl:2 is no entry"):
        read_log(log.path)
    log.path.write_bytes(whole + line.encode())
    assert [entry.step for entry in read_log(log.path)] == [1]


def test_numbers_that_json_does_not_have_come_back(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl")
    log.add({"a": math.inf, "b": -math.inf, "c": math.nan, "d": -0.0, "e": 5e-324}, 1)
    ((_, _, values, _),) = read_log(log.path)
    assert math.isnan(values.pop("c")) and values == {"a": math.inf, "b": -math.inf, "d": 0.0, "e": 5e-324}
    assert math.copysign(1, values["d"]) == -1


@pytest.mark.parametrize("name", ["stage.json", "outcome.json", "protocol.json", "score.json", "run.json"])
def test_a_record_of_a_run_that_is_damaged_is_one_error_that_names_it_and_moved_away_it_is_missing(
    tmp_path: Path, name: str
) -> None:
    home, spec = Home(tmp_path).prepare(0), make_spec()
    write_results(spec, home)
    assert find_results(spec, home).status == "finished"
    file = sorted(home.root.rglob(name))[0]
    for damage in (b"", b"{", b"[]", b"\xff", file.read_bytes()[:-20], file.read_bytes().replace(b": ", b": 1", 1)):
        kept = file.read_bytes()
        file.write_bytes(damage)
        with pytest.raises(StorageError) as caught:
            find_results(spec, home)
        assert str(file) in caught.value.message and "move it away" in (caught.value.hint or "")
        file.write_bytes(kept)
    shutil.move(file, tmp_path / "moved")
    found = find_results(spec, home)
    assert found.status == ("finished" if name in ("protocol.json", "run.json", "stage.json") else "running")


@pytest.mark.parametrize("body", [{}, {"status": 3}, {"status": None}])
def test_a_record_without_what_each_must_say_is_an_error_and_not_another_end(tmp_path: Path, body: Any) -> None:
    folder = Keyed(tmp_path)
    write_json(tmp_path / "outcome.json", body)
    with pytest.raises(StorageError, match="does not say `status`"):
        folder.outcome()
