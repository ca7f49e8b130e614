"""Amounts as people read them: what was measured, to the digits that are shown, and the larger never as the smaller."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vlm_ablate.cli.console import some_of
from vlm_ablate.cli.plan_tables import _patterns, flops, size
from vlm_ablate.cli.plan_view import parse_count, rounding
from vlm_ablate.cli.prefetch import _agreed, _size
from vlm_ablate.cli.progress import _rate, duration
from vlm_ablate.papers import table, table_keys
from vlm_ablate.runs.needs import Need

BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
DECIMAL = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
COUNTS = {"": 1, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
MANY = st.floats(0, 1e19) | st.integers(0, 62).flatmap(lambda power: st.floats(2.0**power * 0.99, 2.0**power * 1.01)) \
    | st.integers(0, 18).flatmap(lambda power: st.floats(10.0**power * 0.99, 10.0**power * 1.01))  # fmt: skip


def amount(text: str, units: dict[str, int]) -> tuple[Fraction, Fraction]:
    """The number that a text shows, and how far rounding to its digits can have moved it."""
    shown = re.fullmatch(r"(\d{1,3}(?:,\d{3})*|\d+)(\.\d+)?(?: (\w+))?", text)
    assert shown, f"{text!r} is no number with a unit"
    unit = units[shown[3] or ""]
    whole, decimals = shown[1].replace(",", ""), shown[2] or ""
    return Fraction(whole + decimals) * unit, Fraction(unit, 2 * 10 ** max(len(decimals) - 1, 0))


@pytest.mark.parametrize(("show", "units"), [(size, BYTES), (flops, COUNTS), (_size, DECIMAL)])
@settings(max_examples=40, deadline=None)
@given(value=MANY)
@example(value=999.7 * 2**20)
@example(value=999.7e9)
def test_an_amount_is_what_it_was_to_the_digits_that_are_shown_and_has_no_exponent(
    show, units: dict[str, int], value: float
) -> None:
    value = round(value) if show is _size else value
    found, off = amount(show(value), units)
    bound = off if show is _size else max(Fraction(value) / 200, Fraction(1, 2))
    assert abs(found - Fraction(value)) <= bound, f"{value!r} is shown as {show(value)!r}"


@pytest.mark.parametrize(("show", "units"), [(size, BYTES), (flops, COUNTS), (_size, DECIMAL)])
@settings(max_examples=40, deadline=None)
@given(one=MANY, other=MANY)
def test_the_larger_of_two_is_never_shown_as_the_smaller(show, units: dict[str, int], one: float, other: float) -> None:
    less, more = sorted((round(one), round(other)))
    assert amount(show(less), units)[0] <= amount(show(more), units)[0]


@settings(max_examples=40, deadline=None)
@given(seconds=st.floats(0, 1e7))
@example(seconds=3600.0)
def test_a_duration_is_what_it_was_to_the_second_or_the_minute(seconds: float) -> None:
    text = duration(seconds)
    parts = re.fullmatch(r"(?:(\d+) h )?(?:(\d+) min ?)?(?:(\d+) s)?", text)
    assert parts, text
    hours, minutes, rest = (int(part or 0) for part in parts.groups())
    told = 3600 * hours + 60 * minutes + rest
    assert 0 <= round(seconds) - told < (60 if hours else 1)
    assert minutes < 60 and rest < 60 and not (hours and rest), "the next unit is used from the first that fills it"
    if " min" in text:
        assert re.search(r"(\d+ min \d\d s|\d+ h \d\d min)$", text), f"{text!r}: columns of a table stand in line"


@settings(max_examples=40, deadline=None)
@given(value=st.floats(0, 1e9))
def test_a_rate_is_what_it_was(value: float) -> None:
    text = _rate(value)
    told = float(text.removesuffix("k")) * (1000 if text.endswith("k") else 1)
    assert abs(told - value) <= (50.01 if text.endswith("k") else 0.5)


def test_every_count_that_a_paper_prints_is_read() -> None:
    printed = {
        (key, cell)
        for key in table_keys()
        for row in table(key).rows
        for column, cell in row.items()
        if column in ("total_params", "trainable_params") and cell
    }
    assert len(printed) > 8
    for key, cell in printed:
        count, off = parse_count(cell), rounding(cell)
        assert 0 < off < count / 2, f"{key}: {cell}"
        digits = len(cell[:-1].replace(".", "").strip("0"))
        assert off <= 0.5 * count / 10 ** (digits - 1), f"{key}: {cell} is taken for less than it prints"


MODULES = st.lists(
    st.tuples(st.sampled_from(["a.layers", "b.blocks"]), st.integers(0, 12), st.sampled_from(["q_proj", "mlp.3.up"])),
    unique=True, max_size=40,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(modules=MODULES, alone=st.lists(st.sampled_from(["head", "norm.out"]), unique=True))
def test_layers_shown_together_are_all_of_the_modules_and_no_others(
    modules: list[tuple[str, int, str]], alone: list[str]
) -> None:
    paths = [*(f"{where}.{layer}.{what}" for where, layer, what in sorted(modules)), *alone]
    back: list[str] = []
    for line in _patterns(paths):
        found = re.fullmatch(r"(\S+?\.)([\d,]+|\d+-\d+)(\.\S+) \((\d+)\)", line)
        if found is None:
            back.append(line)
            continue
        first, _, last = found[2].partition("-")
        layers = range(int(first), int(last) + 1) if last else map(int, found[2].split(","))
        expanded = [f"{found[1]}{layer}{found[3]}" for layer in layers]
        assert len(expanded) == int(found[4]), line
        numbers = sorted(int(layer) for layer in found[2].split(",")) if not last else [0, 2]
        assert numbers != [*range(numbers[0], numbers[-1] + 1)], f"{line}: layers without a gap are told as a span"
        back += expanded
    assert sorted(back) == sorted(paths)


@given(trials=st.lists(st.integers(0, 9999), unique=True, max_size=60), most=st.integers(1, 25))
@settings(max_examples=40, deadline=None)
def test_what_is_not_named_is_counted(trials: list[int], most: int) -> None:
    shown, _, more = some_of([*map(str, trials)], most).partition(" and ")
    named = [int(number) for number in shown.split(", ") if number]
    assert named == trials[:most]
    assert len(named) + int(more.removesuffix(" more") or 0) == len(trials)


NEEDS = st.lists(
    st.builds(
        Need, kind=st.sampled_from(["weights", "data", "benchmark"]), id=st.sampled_from(["a/b", "a/c", "/a/path"]),
        what=st.text("abc", max_size=2), config=st.none(), bytes=st.none() | st.sampled_from([0, 1, 1000, 5 * 10**8]),
    ),
    max_size=6,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(needs=NEEDS, turned=st.randoms(use_true_random=False))
def test_what_is_said_to_be_downloaded_is_enough_for_each_need_whatever_their_order(needs: list[Need], turned) -> None:
    """Two subsets of a repository are two downloads; two splits of one subset, which the hub tells one size of, one."""

    def said(order: list[Need]) -> str:
        with pytest.MonkeyPatch.context() as patch:
            lines: list[str] = []
            patch.setattr(
                "vlm_ablate.cli.console.err", lambda: type("To", (), {"print": lambda _, text: lines.append(text)})()
            )
            assert _agreed(order, yes=True) is any(need.hub for need in needs)
        return "".join(lines)

    text = said(needs)
    assert said(turned.sample(needs, len(needs))) == text
    hub = [need for need in needs if need.hub]
    if not hub:
        assert text == ""
        return
    total, off = amount(re.match(r"to download: at most (\S+ \w+)", text)[1], DECIMAL)
    assert all(total + off >= (need.bytes or 0) for need in hub)
    files = {(need.kind, need.id, need.bytes) for need in hub if need.bytes}
    assert abs(total - sum(count for *_, count in files)) <= off
    unknown = sum(need.bytes is None for need in hub)
    assert (f"and {unknown} of unknown size" in text) == bool(unknown)
