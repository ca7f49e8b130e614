"""Lines of a log, whatever comes at whatever time: nothing that has ended is lost, and none comes too early."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_ablate.cli import lines
from vlm_ablate.cli.lines import IMPORTANT, LINE_SECONDS, NOTICES, WORDS, SteadyLines

KINDS = [*IMPORTANT, *NOTICES, "preparing", "going"]
STEPS = st.lists(st.tuples(st.sampled_from([*KINDS, None]), st.floats(0, 1.5)), max_size=60)


def told(steps: list[tuple[str | None, float]]) -> list[tuple[float, str]]:
    """(when, text) of what is shown; a step is a line of that kind, or a tick, and the time until the next."""
    now, shown = [100.0], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines.time, "monotonic", lambda: now[0])
        steady = SteadyLines(lambda text, style: shown.append((now[0], text)))
        for number, (kind, wait) in enumerate(steps):
            if kind is None:
                steady.tick()
            else:
                steady.add(kind, f"#{kind}#{number}")
            now[0] += wait
        now[0] = -1.0
        steady.flush()
    return shown


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_every_end_is_shown_or_counted_once_and_every_notice_is_shown(steps: list[tuple[str | None, float]]) -> None:
    shown = told(steps)
    found: Counter[str] = Counter(re.match("#(.*)#", text)[1] for _, text in shown)
    back = {WORDS.get(kind, kind): kind for kind in IMPORTANT}
    for _, text in shown:
        for count, word in re.findall(r"(\d+) ([a-z ]+)(?=[,)])", text.partition("  (and ")[2]):
            found[back[word]] += int(count)
    given_ = Counter(kind for kind, _ in steps if kind)
    for kind in (*IMPORTANT, *NOTICES):
        assert found[kind] == given_[kind], kind
    assert all(found[kind] <= given_[kind] for kind in KINDS)
    assert len({text.partition("  (and")[0] for _, text in shown}) == len(shown), "no line comes twice"


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_no_line_comes_within_a_second_of_another_but_at_the_end(steps: list[tuple[str | None, float]]) -> None:
    times = [time for time, _ in told(steps) if time >= 0]
    assert all(later - before >= LINE_SECONDS for before, later in pairwise(times))
    if any(kind for kind, _ in steps):
        assert times[0] == 100.0 + sum(wait for _, wait in steps[: next(i for i, (k, _) in enumerate(steps) if k)])


@settings(max_examples=40, deadline=None)
@given(kinds=st.lists(st.sampled_from(KINDS), min_size=2, max_size=10))
def test_of_lines_that_wait_together_the_gravest_is_the_one_that_is_shown(kinds: list[str]) -> None:
    _, (_, text), *_ = told([("started", 0.0), *((kind, 0.0) for kind in kinds)])
    grave = (IMPORTANT[0], *NOTICES, *IMPORTANT[1:], "preparing", "going")
    best = min(kinds, key=lambda kind: min(grave.index(kind), len(IMPORTANT) + len(NOTICES)))
    assert text.startswith(f"#{best}#{kinds.index(best) + 1}")
