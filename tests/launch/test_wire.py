"""What processes tell each other over a folder arrives as it was said, or is refused; nothing in between."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracking.specs import make_spec
from vlm_ablate.events import Event, Status
from vlm_ablate.home import Home
from vlm_ablate.launch.wire import from_line, to_line
from vlm_ablate.runs.folder import run_folder
from vlm_ablate.runs.outcome import RunOutcome, note_attempt

ODD = st.sampled_from(["", "\n", '"\\', "\u2028", "\udcff"])
TEXTS = st.builds("{}{}{}".format, st.text(max_size=3), ODD, st.text(max_size=3))
"""Names of files are not always text: what cannot be decoded comes as half of a surrogate pair."""
NUMBERS = st.floats(allow_nan=False)
OF_TYPE: dict[str, Any] = {
    "str": TEXTS, "int": st.integers(-(2**40), 2**40), "float": NUMBERS, "bool": st.booleans(),
    "float | None": st.none() | NUMBERS, "Mapping[str, float]": st.dictionaries(TEXTS, NUMBERS, max_size=3),
    "tuple[str, ...]": st.lists(TEXTS, max_size=3).map(tuple), "Status": st.sampled_from(get_args(Status)),
    "Literal['info', 'warning']": st.sampled_from(["info", "warning"]),
}  # fmt: skip


def values(kind: type) -> Any:
    return st.builds(kind, **{field.name: OF_TYPE[str(field.type).replace('"', "'")] for field in fields(kind)})


EVENTS = st.one_of(*(values(kind) for kind in Event.__subclasses__()))
MESSAGES = st.one_of(
    st.tuples(st.just("event"), EVENTS), st.tuples(st.just("done"), values(RunOutcome)), st.just(("begun",)),
    st.tuples(st.sampled_from(["elsewhere", "died"]), TEXTS), st.just(("interrupted",)),
)  # fmt: skip


@given(messages=st.lists(MESSAGES, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_messages_are_lines_and_each_comes_back_with_every_value_and_type(messages: list[tuple[Any, ...]]) -> None:
    told = b"".join(to_line(message) for message in messages).splitlines(keepends=True)
    assert [from_line(line) for line in told] == messages
    for line, message in zip(told, messages, strict=True):
        for value in from_line(line)[1:]:
            kinds = {type(getattr(value, f.name)) for f in fields(value)} if not isinstance(value, str) else {str}
            assert not kinds & {list}, message


@given(message=MESSAGES)
@settings(max_examples=30, deadline=None)
def test_a_line_that_was_cut_anywhere_is_refused(message: tuple[Any, ...]) -> None:
    line = to_line(message)
    for end in range(len(line) - 1):
        with pytest.raises(ValueError):
            from_line(line[:end])


@given(body=st.recursive(st.none() | st.integers() | TEXTS, lambda inner: st.lists(inner, max_size=3)
                         | st.dictionaries(st.sampled_from(["kind", "type", "value", "text"]), inner)))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_what_is_no_message_is_refused_and_never_fails_otherwise(body: Any) -> None:
    try:
        kind, *rest = from_line(json.dumps(body).encode())
    except ValueError:
        return
    assert isinstance(kind, str) and len(rest) <= 1


def test_what_a_later_version_says_in_addition_is_passed_by() -> None:
    outcome = RunOutcome("a", "b", "finished")
    body = json.loads(to_line(("done", outcome)))
    body["value"]["colour"] = "red"
    assert from_line(json.dumps(body).encode()) == ("done", outcome)


@given(message=TEXTS)
@settings(max_examples=30, deadline=None)
def test_why_a_run_failed_is_kept_whatever_it_names(tmp_path_factory: pytest.TempPathFactory, message: str) -> None:
    home, spec = Home(Path(tmp_path_factory.mktemp("home"))), make_spec()
    note_attempt(spec, home, "failed", message)
    assert (run_folder(home, spec.id).read() or {})["message"] == message
