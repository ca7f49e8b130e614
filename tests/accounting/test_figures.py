"""The figures of a plan hang together: laws of what is worked out from operations, bytes and lengths. No torch here."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest

from vlm_ablate.accounting import (
    GPUS,
    Lengths,
    MemoryPlan,
    ModelPlan,
    SampleShape,
    StagePlan,
    check_fits,
    plan_features,
    short_count,
)
from vlm_ablate.accounting.features import WORTH
from vlm_ablate.accounting.gpus import gpu_called
from vlm_ablate.config.data import DataConfig
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.run_config import RunStage
from vlm_ablate.errors import ModelError

PARTS = ("vision", "connector", "cross_attention", "language")
MIXTURE = {"any": {"source": "offline"}}
FROZEN = RunStage(steps=1, batch_size=1, data=DataConfig.model_validate({"mixture": MIXTURE}))


def a_stage(draw: random.Random, **changes: Any) -> StagePlan:
    """A plan with figures as they may come: causal attention is some of the language model's operations."""
    spent = {part: draw.uniform(1e6, 1e12) for part in PARTS}
    again = {part: draw.choice([0.0, draw.random() / 3]) * n for part, n in spent.items()}
    causal = draw.random() * (spent["language"] - again["language"])
    memory = MemoryPlan(*(draw.randrange(10**9) for _ in range(7)), accumulates=draw.random() < 0.5)
    images = draw.randint(1, 4)
    return StagePlan(
        name="train", total={}, trainable={}, matched={}, training_flops=spent, views=draw.uniform(1, 17),
        sequence=draw.uniform(10, 3000), memory=memory, checkpoint_bytes=0, samples=draw.randint(1, 10**6),
        recomputed=again, causal=causal, causal_recomputed=draw.random() * again["language"], sample_images=images,
        feature_bytes=draw.uniform(1e3, 1e8), **changes,
    )  # fmt: skip


def stages(count: int = 40, **changes: Any) -> Iterator[StagePlan]:
    draw = random.Random(6)
    return (a_stage(draw, **changes) for _ in range(count))


def test_a_short_count_is_the_number_to_three_digits() -> None:
    draw = random.Random(0)
    sizes = {"k": 3, "M": 6, "B": 9, "T": 12}
    numbers = [math.floor(10 ** draw.uniform(3, 14.9)) for _ in range(500)]
    numbers += [step * 10**power + off for step in (1, 10) for power in range(3, 14) for off in (-51, -50, -1, 0, 1)]
    read = []
    for number in sorted(n for n in numbers if n >= 1000):
        text = short_count(number)
        digits, unit = text[:-1], text[-1]
        assert len(digits.replace(".", "")) == 3, text
        back = float(digits) * 10.0 ** sizes[unit]
        last = 10 ** (len(str(number)) - 3)
        assert abs(back - number) <= last / 2, text
        read.append(back)
    assert read == sorted(read), "a larger number is no smaller one"
    assert [short_count(n) for n in (0, 7, 999)] == ["0", "7", "999"]


def test_the_peak_is_the_most_that_is_held_at_any_time_of_a_step() -> None:
    for stage in stages():
        memory = stage.memory
        fixed = memory.weights + memory.moments
        step = memory.activations + memory.transient + memory.copies + memory.gathered
        before = memory.gradients if memory.accumulates else 0  # of an earlier micro-batch
        assert memory.peak == max(fixed + step + before, fixed + memory.gradients)
        for part in fields(memory):
            if part.type == "int":
                more = replace(memory, **{part.name: getattr(memory, part.name) + 10})
                assert memory.peak <= more.peak <= memory.peak + 10
        assert replace(memory, accumulates=True).peak >= replace(memory, accumulates=False).peak


def test_what_a_batch_is_worth_adds_up_to_the_sample() -> None:
    for stage in stages():
        of_view, of_token, of_pair = stage.model_rates
        views = stage.sample_images * stage.views
        whole = views * of_view + stage.sequence * of_token + stage.sequence**2 * of_pair
        assert stage.model_flops == pytest.approx(whole)
        again = sum(stage.recomputed.values())
        assert stage.flops == pytest.approx(stage.model_flops + again + stage.causal / 2)


def test_hours_are_those_of_the_models_own_operations() -> None:
    for stage in stages():
        hours = stage.gpu_hours(mfu=0.5, peak=1e15)
        assert hours == pytest.approx(stage.model_flops * stage.samples / (0.5 * 1e15) / 3600), "a row is the sample"
        assert stage.gpu_hours(mfu=0.25, peak=1e15) == pytest.approx(2 * hours)
        assert stage.gpu_hours(mfu=0.5, peak=4e15) == pytest.approx(hours / 4)
        assert replace(stage, samples=3 * stage.samples).gpu_hours(mfu=0.5, peak=1e15) == pytest.approx(3 * hours)
        flops = {part: n - stage.recomputed[part] for part, n in stage.training_flops.items()}
        plain = replace(stage, training_flops=flops, recomputed={}, causal_recomputed=0.0)
        assert plain.gpu_hours(mfu=0.5, peak=1e15) == pytest.approx(hours), "what is done twice is no work of the model"
        assert plain.hardware_share == 1 <= stage.hardware_share
        assert stage.hardware_share * stage.model_flops == pytest.approx(
            stage.model_flops + sum(stage.recomputed.values()) - stage.causal_recomputed / 2
        )


def test_samples_cost_the_same_in_rows_that_they_fill_and_rows_that_are_longer_cost_more() -> None:
    draw = random.Random(8)
    for stage in stages():
        count, stage = draw.randint(2, 9), replace(stage, sequence=float(draw.randint(10, 500)))
        packed = replace(stage, row_samples=count, row_tokens=int(count * stage.sequence))
        assert packed.gpu_hours() == pytest.approx(stage.gpu_hours())
        assert packed.hardware_share == pytest.approx(stage.hardware_share)
        lengths = sorted(draw.randint(1, 5000) for _ in range(6))
        hours = [replace(stage, row_tokens=length).gpu_hours() for length in lengths]
        assert hours == sorted(hours)
        one_long = replace(stage, row_tokens=packed.row_tokens)
        images = sum(n - stage.recomputed[p] for p, n in stage.training_flops.items() if p in ("vision", "connector"))
        less = (count - 1) * images * stage.samples / count
        more = stage.causal / 2 * (count - 1) * stage.samples
        # As many tokens in one document: the images of one sample instead of all, and each token sees all before it.
        rows = replace(one_long, samples=stage.samples // count * count)
        again = replace(packed, samples=rows.samples)
        assert rows.gpu_hours() / count - again.gpu_hours() == pytest.approx(
            (more - less) * rows.samples / stage.samples / (0.4 * GPUS["h100"].flops) / 3600
        )


def test_features_pay_up_to_the_length_that_is_told() -> None:
    draw, seen = random.Random(9), set()
    for stage in stages(120):
        flops = 10 ** draw.uniform(8, 15)
        views = draw.choice([0.5, 1, 3]) * stage.views * stage.sample_images

        def planned(tokens: float, execution: Execution, stage=stage, flops=flops, views=views):
            lengths = Lengths(tokens, views, images=2.0)
            return plan_features(FROZEN, execution, stage, flops=flops, lengths=lengths)

        auto = Execution(features_gib=1e9)
        first = planned(100, auto)
        told = re.search(r"pays up to (\d+)", first.reason)
        seen.add(bool(told))
        assert not (first.on and first.most)
        if first.most:
            assert told and float(told[1]) == pytest.approx(first.most, abs=0.5)
            assert planned(1.98 * first.most, auto).on and not planned(2.02 * first.most, auto).on
        if told is None:
            assert "never pays" in first.reason and not planned(1, auto).on
            continue
        most = 2 * int(told.group(1))  # two pictures a sample
        assert planned(most + 2, auto).gain < WORTH and not planned(most + 2, auto).on
        if most > 2:
            assert planned(most - 2, auto).gain >= WORTH and planned(most - 2, auto).on
        gains = [planned(tokens, auto).gain for tokens in (1, 10, 100, 1000, 10_000)]
        assert gains == sorted(gains, reverse=True), "text dilutes what is saved"
        assert planned(most + 2, Execution(features="on")).on and not planned(1, Execution(features="off")).on
    assert seen == {True, False}


def test_the_bytes_of_features_are_those_of_the_pictures_once_each() -> None:
    for stage in stages():
        size, count = stage.feature_bytes / stage.sample_images, stage.samples * stage.sample_images
        for pictures in (None, 1, 17, 10 * count):
            kept = plan_features(FROZEN, Execution(), stage, flops=1e12, pictures=pictures)
            assert kept.bytes == pytest.approx(size * min(count, pictures or count))
            assert ("if no picture comes twice" in kept.reason) is (pictures is None)
        tight = kept.bytes / 2**30
        for room, fits in ((1.01 * tight, True), (0.99 * tight, False)):
            found = plan_features(FROZEN, Execution(features_gib=room), stage, flops=1e12, pictures=10 * count)
            assert ("more than features_gib" not in found.reason) is (fits or found.gain < WORTH)
        refused = replace(stage, features_refused="it cannot")
        assert plan_features(FROZEN, Execution(features="on"), refused, flops=1e12).on is False
        several = plan_features(FROZEN, Execution(features="on", devices=2), stage, flops=1e12)
        assert (several.on, several.reason) == (False, "several ranks")


def test_a_device_holds_what_it_holds() -> None:
    draw = random.Random(10)
    for _ in range(60):
        several = {name: replace(a_stage(draw), name=name) for name in ("a", "b", "c")}
        plan = ModelPlan({}, 1, 1, 1, SampleShape(), 1, {}, several)
        memory = draw.randrange(10**8, 7 * 10**9)
        held = {n: s.memory.weights + s.memory.moments + s.memory.gradients for n, s in several.items()}
        if any(needed > memory for needed in held.values()):
            with pytest.raises(ModelError, match="weights, moments and gradients take"):
                check_fits(plan, memory, "card")
        else:
            tight = [name for name, stage in several.items() if stage.memory.peak > memory]
            told = check_fits(plan, memory, "card")
            assert [re.search(r"'(\w)'", text).group(1) for text in told] == tight  # type: ignore[union-attr]


def test_every_gpu_is_known_by_its_title_and_by_no_other() -> None:
    for gpu in GPUS.values():
        assert gpu_called(f"NVIDIA {gpu.title}") is gpu
        assert gpu_called(f"NVIDIA G{gpu.title}") is None and gpu_called(f"NVIDIA {gpu.title} MIG 1g.10gb") is None
