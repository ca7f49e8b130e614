"""What a run tells while it goes: events that survive the way between processes, and listeners that hear their own."""

from __future__ import annotations

import os
import pickle
import threading
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_ablate import events
from vlm_ablate.events import Event, Throttle, listening, preparing, remark

KINDS = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]


def example(kind: type[Event]) -> Event:
    """With another value in every field."""
    values: dict[str, Any] = {"str": "text", "int": 7, "float": 1.5, "bool": True, "Status": "failed"}
    made = {f.name: values.get(str(f.type).partition(" |")[0], "warning" if f.name == "level" else {"a": 1.0})
            for f in fields(kind)}  # fmt: skip
    return kind(**made)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_event_comes_out_of_another_process_as_it_went_in_and_cannot_be_changed(kind: type[Event]) -> None:
    event = example(kind)
    assert pickle.loads(pickle.dumps(event)) == event
    with pytest.raises(AttributeError):
        event.run = "another"  # type: ignore[misc]  # the promise


def test_the_innermost_listener_hears_and_the_outer_one_again_after_it() -> None:
    heard: list[tuple[str, object]] = []

    def to(name: str) -> Any:
        return lambda *what: heard.append((name, what[0]))

    preparing("nobody", 0, 1)
    with listening(to("outer"), to("outer")):
        preparing("a", 0, 1)
        with pytest.raises(ValueError, match="in between"), listening(to("inner")):
            preparing("b", 0, 1)
            raise ValueError("in between")
        preparing("c", 1, 1)
        remark("d")
    preparing("nobody", 1, 1)
    assert heard == [("outer", "a"), ("inner", "b"), ("outer", "c"), ("outer", "d")]


def test_threads_and_forked_children_do_not_write_to_the_listener(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []
    with listening(lambda what, done, total: heard.append(what), heard.append):
        thread = threading.Thread(target=preparing, args=("in a thread", 1, 1))
        thread.start()
        thread.join()
        assert heard == []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)  # as a forked child finds itself
            preparing("in a child", 1, 1)
            remark("in a child")
        preparing("here", 1, 1)
    assert heard == ["here"] and caplog.messages == ["in a child"], "what a person should know goes to the log"


@settings(max_examples=40, deadline=None)
@given(waits=st.lists(st.floats(0, 1), max_size=50), interval=st.floats(0, 0.6))
def test_a_throttle_lets_the_first_through_and_then_one_an_interval(waits: list[float], interval: float) -> None:
    now, passed = 5.0, []
    throttle = Throttle(interval)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events.time, "monotonic", lambda: now)
        for wait in [0.0, *waits]:
            now += wait
            before = passed[-1] if passed else None
            assert throttle() == (before is None or now - before >= interval)
            if before is None or now - before >= interval:
                passed.append(now)
    assert passed[0] == 5.0
