"""Plans of real assemblies: the same however they are asked for, as large as the model, and growing as it grows."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from tests.accounting.planned import ASSEMBLIES, DORA, STAGES, run_config
from vlm_ablate.accounting import ModelPlan, Planner, SampleShape, StagePlan, plan_model
from vlm_ablate.accounting.measure import views_of
from vlm_ablate.accounting.plan import _least_tokens, _shares
from vlm_ablate.config.data import MAX_TILES
from vlm_ablate.config.run_config import RunConfig, RunStage
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.trained_state import _trained
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import build_vlm

SHORT = SampleShape(text_tokens=20)
MIXTURE = {"any": {"source": "offline"}}


def a_run(tiny: dict[str, Any], assembly: str = "linear", image: dict[str, Any] | None = None, **stage: Any):
    connector, architecture = ASSEMBLIES[assembly]
    model = {**tiny, "connector": connector, "architecture": architecture}
    return run_config(model, {"size": 64, **(image or {})}, **stage)


def with_stages(config: RunConfig, **stages: dict[str, Any]) -> RunConfig:
    plain = config.model_dump(mode="json")
    own = plain["stages"]["train"]
    return RunConfig.model_validate({**plain, "stages": {name: {**own, **stage} for name, stage in stages.items()}})


def runs(tiny: dict[str, Any]) -> list[RunConfig]:
    """Runs whose parts and stages are alike in some things and unlike in others."""
    return [
        a_run(tiny, **STAGES["lora"]),
        a_run(tiny, **STAGES["lora"], gradient_checkpointing=True),
        with_stages(a_run(tiny, precision="bf16"), a=STAGES["lora"], b={"language": "full"}),
        a_run(tiny, "cross_attention"),
    ]


def test_what_a_planner_says_does_not_hang_on_what_it_planned_before(tiny) -> None:
    configs = runs(tiny)
    one, other = Planner(sample=SHORT), Planner(sample=SHORT)
    before = [one.plan(config) for config in configs]
    after = [other.plan(config) for config in reversed(configs)]
    assert after[::-1] == before and one.plan(configs[0]) == before[0]


def test_a_stage_costs_the_same_under_any_name_on_any_data_beside_any_other(tiny) -> None:
    alone = plan_model(a_run(tiny, **STAGES["lora"]), sample=SHORT).last
    several = with_stages(a_run(tiny), first={"language": "full", "steps": 7}, second=STAGES["lora"], third={})
    second = plan_model(several, sample=SHORT).stages["second"]
    own = {"name": "", "weights_bytes": 0}  # the file holds what the first stage trained, too
    assert {**vars(second), **own} == {**vars(alone), **own}


@pytest.mark.parametrize(
    ("assembly", "stage"),
    [("linear", "full"), ("perceiver", "frozen"), ("mapping_network", "lora"), ("cross_attention", "dora")],
)
def test_parameters_are_those_of_the_model_part_by_part(tiny, assembly: str, stage: str) -> None:
    config = a_run(tiny, assembly, **({**STAGES, "dora": DORA}[stage]))
    plan = plan_model(config, sample=SHORT)
    vlm = build_vlm(config.model, Views.of(config.images()), load_weights=False)
    assert plan.total_parameters == sum(p.numel() for p in vlm.parameters())
    apply_training(vlm, config.stages["train"])
    last, parameters = plan.last, [*vlm.parameters()]
    assert last.total_parameters == sum(p.numel() for p in parameters)
    assert last.trainable_parameters == sum(p.numel() for p in parameters if p.requires_grad)
    adapters = sum(p.numel() for n, p in vlm.named_parameters() if ".lora_" in n)
    assert plan.final_parameters - plan.total_parameters == last.total["adapters"] == adapters
    for part, count in last.trainable.items():
        assert 0 <= count <= last.total[part]
        assert part == "adapters" or last.total[part] == plan.parameters[part]
    new = {"connector", "cross_attention"}
    assert all(last.trainable[part] == last.total[part] for part in new)
    kept = sum(p.numel() for n, p in vlm.named_parameters()
               if p.requires_grad or n.startswith(("connector.", "architecture.")))  # fmt: skip
    assert last.weights_bytes == 4 * kept
    assert last.checkpoint_bytes == 12 * last.trainable_parameters


CHAINS = [
    ("lora", "dora"), ("lora", "frozen", "dora"), ("dora", "full", "lora"), ("frozen", "lora", "frozen"),
    ("full", "frozen"),
]  # fmt: skip


@pytest.mark.parametrize("chain", CHAINS)
def test_a_stage_is_planned_as_those_before_it_leave_the_model(tiny, chain: tuple[str, ...]) -> None:
    kinds = {**STAGES, "dora": DORA}
    config = with_stages(a_run(tiny), **{f"s{number}": kinds[kind] for number, kind in enumerate(chain)})
    plan, vlm = plan_model(config, sample=SHORT), build_vlm(config.model, Views.of(config.images()), load_weights=False)
    for name, stage in config.stages.items():
        apply_training(vlm, stage)
        planned, parameters = plan.stages[name], [*vlm.parameters()]
        assert planned.total_parameters == sum(p.numel() for p in parameters)
        assert planned.trainable_parameters == sum(p.numel() for p in parameters if p.requires_grad)
        buffers = {n for n, _ in vlm.named_buffers()}
        file = {n: t for n, t in _trained(vlm).items() if n not in buffers}
        assert planned.weights_bytes == sum(t.numel() * t.element_size() for t in file.values())


def spent(plan: ModelPlan | StagePlan) -> dict[str, float]:
    return plan.forward_flops if isinstance(plan, ModelPlan) else plan.training_flops


@pytest.mark.parametrize("assembly", ["linear", "cross_attention"])
def test_more_images_and_more_text_cost_more_where_they_are_read(tiny, assembly: str) -> None:
    config = a_run(tiny, assembly, **STAGES["lora"])
    one, two, longer = (plan_model(config, sample=SampleShape(images=images, text_tokens=text))
                        for images, text in ((1, 20), (2, 20), (1, 40)))  # fmt: skip
    assert one.sequence == 20 + one.placeholders_per_image and two.sequence == 20 + 2 * one.placeholders_per_image
    assert longer.sequence == one.sequence + 20
    for first, second, third in ((one, two, longer), (one.last, two.last, longer.last)):
        for part in ("vision", "connector"):
            assert spent(second)[part] == 2 * spent(first)[part] and spent(third)[part] == spent(first)[part]
        assert spent(first)["language"] < min(spent(second)["language"], spent(third)["language"])
    assert one.last.feature_bytes * 2 == two.last.feature_bytes


def test_memory_grows_with_the_micro_batch_and_the_length_and_what_is_trained(tiny) -> None:
    def memory(**stage: Any):
        return plan_model(a_run(tiny, **{"batch_size": 8, **stage}), sample=SHORT).last.memory

    one, two, four = (memory(micro_batch_size=size) for size in (1, 2, 4))
    assert two.activations == 2 * one.activations and four.activations == 4 * one.activations
    assert four.transient == pytest.approx(4 * one.transient, abs=4)
    assert (one.weights, one.moments, one.gradients) == (four.weights, four.moments, four.gradients)
    assert one.accumulates and not memory().accumulates and memory() == memory(micro_batch_size=8)
    peaks = [memory(sequence_length=length).peak for length in (64, 256)]
    assert peaks == sorted(set(peaks))
    frozen, lora, full = (memory(**STAGES[name]) for name in ("frozen", "lora", "full"))
    assert frozen.moments < lora.moments < full.moments == 2 * full.gradients
    assert memory(**STAGES["full"], gradient_checkpointing=True).activations < full.activations


def test_steps_and_batch_size_change_nothing_but_how_many_samples_there_are(tiny) -> None:
    base, more = (plan_model(a_run(tiny, steps=steps, batch_size=size, micro_batch_size=2), sample=SHORT).last
                  for steps, size in ((10, 2), (70, 6)))  # fmt: skip
    assert (base.samples, more.samples) == (20, 420)
    assert more.gpu_hours() == pytest.approx(21 * base.gpu_hours())
    assert more.training_flops == base.training_flops and more.checkpoint_bytes == base.checkpoint_bytes


def test_a_stage_whose_images_grow_is_the_mean_of_its_steps(tiny) -> None:
    """Operations, tokens and features by the steps of each size; memory at the steps that need most."""
    steps, climb = 20, {5: 64, 15: 96, 30: 128}
    data = {"mixture": MIXTURE, "image": {"size": 32}, "sequence_length": 256}
    grown = plan_model(a_run(tiny, data={**data, "climb": climb}, steps=steps, vision="full"), sample=SHORT).last
    sized = {}
    for size in (32, 64, 96):
        constant = {**data, "image": {"size": size}, "climb": {0: size, 30: 128}}
        sized[size] = plan_model(a_run(tiny, data=constant, steps=steps, vision="full"), sample=SHORT).last
    share = {32: 5 / 20, 64: 10 / 20, 96: 5 / 20}
    for part in grown.training_flops:
        expected = sum(share[size] * plan.training_flops[part] for size, plan in sized.items())
        assert grown.training_flops[part] == pytest.approx(expected)
    for figure in ("views", "sequence", "feature_bytes", "causal"):
        mean = sum(share[size] * getattr(plan, figure) for size, plan in sized.items())
        assert getattr(grown, figure) == pytest.approx(mean)
    assert grown.memory == max((plan.memory for plan in sized.values()), key=lambda memory: memory.peak)
    assert grown.image_tokens == {size: plan.image_tokens[size] for size, plan in sized.items()}
    assert grown.least_image_tokens == max(plan.least_image_tokens for plan in sized.values())
    assert grown.samples == sized[32].samples


@pytest.mark.parametrize("packing", ["none", "rows"])
def test_attention_costs_the_same_a_pair_of_tokens_in_a_growing_stage(tiny, packing: str) -> None:
    """Pairs go by the square of the tokens, whose mean is above the square of their mean."""
    data = {"mixture": MIXTURE, "image": {"size": 32}, "sequence_length": 256, "packing": packing}
    grown = plan_model(a_run(tiny, data={**data, "climb": {5: 64, 15: 96}}, steps=20), sample=SHORT).last
    large = plan_model(a_run(tiny, data={**data, "climb": {0: 96}}, steps=20), sample=SHORT).last
    assert grown.model_rates[2] == pytest.approx(large.model_rates[2])
    if packing == "none":  # rows of one length, whatever the images are
        assert hours_of_attention(grown) == pytest.approx(hours_of_attention(large))


def hours_of_attention(stage: StagePlan) -> float:
    flops = {**stage.training_flops, "language": stage.training_flops["language"] - stage.causal}
    return stage.gpu_hours() - replace(stage, training_flops=flops, causal=0.0).gpu_hours()


def test_shares_of_a_growing_stage_are_counted_step_by_step() -> None:
    draw = random.Random(4)
    for _ in range(60):
        steps = draw.randint(1, 40)
        climb = {draw.randint(0, 50): draw.choice([32, 64, 96]) for _ in range(draw.randint(0, 5))}
        data = {"mixture": MIXTURE, "image": {"size": 32}, "climb": climb}
        stage = RunStage.model_validate({"steps": steps, "batch_size": 1, "data": data})
        seen = [max((s, size) for s, size in {-1: 32, **climb}.items() if s <= step)[1] for step in range(steps)]
        assert {image.size: round(share * steps, 6) for image, share in _shares(stage).items()} == {
            size: seen.count(size) for size in seen
        }
        assert stage.image_at_end.size == seen[-1]
        evaluation = {"benchmarks": {"any": {"benchmark": "offline_vqa"}}}
        model = {
            "vision": "siglip-nano",
            "language": "llama-nano",
            "connector": "linear",
            "architecture": "autoregressive",
        }
        for last in (
            stage,
            {"steps": steps, "batch_size": 1, "data": {**data, "climb": {str(k): v for k, v in climb.items()}}},
        ):
            whole = {**model, "architecture": "autoregressive"}
            config = RunConfig.model_validate({"model": whole, "stages": {"s": last}, "evaluation": evaluation})
            assert config.evaluation.image.size == seen[-1] == config.shown_image.size


@pytest.mark.parametrize(
    "image",
    [
        {},
        {"resize": "native", "size": 64},
        {"resize": "native", "size": 96, "shortest": 32},
        {"split": "crops"},
        {"split": "tiles", "size": 96, "tile": 32},
        {"split": "tiles", "size": 64, "tile": 64},
    ],
    ids=str,
)
def test_no_image_takes_fewer_tokens_than_are_promised(tiny, image: dict[str, Any]) -> None:
    """But one that is more than `MAX_TILES` times as long as it is wide, or smaller than that share of `size`."""
    config = a_run(tiny, "linear", image)
    draw, shown = random.Random(7), config.shown_image
    vlm = build_vlm(config.model, Views.of(config.images()), load_weights=False)
    least = _least_tokens(vlm, shown)
    sides = [(side, draw.randint(-(-side // MAX_TILES), side)) for side in (12, 16, 32, 33, 60, 300, 301, 600)]
    for width, height in [size for pair in sides for size in (pair, pair[::-1])] + [(600, 100), (32, 32), (100, 600)]:
        if min(width, height) >= shown.size // MAX_TILES:
            views, size = views_of(shown, width, height)
            assert views * vlm.visual_tokens(*size) >= least > 0, (width, height)
