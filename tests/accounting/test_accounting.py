"""A plan made on the meta device agrees with what real models do, and with the papers' columns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    Idefics2ForConditionalGeneration,
)

from tests.accounting.planned import ASSEMBLIES, STAGES, TEXT, batch_of, planned_and_real, run_config
from vlm_ablate.accounting import GPUS, SampleShape, plan_model, short_count, visual_tokens_of
from vlm_ablate.errors import ModelError
from vlm_ablate.models.pretrained import bundled_config
from vlm_ablate.training.counters import document_lengths, flops_by_rates

SIGLIP = {"name": "hf", "id": "google/siglip-so400m-patch14-384"}
MISTRAL = {"name": "hf", "id": "mistralai/Mistral-7B-v0.1"}
PERCEIVER = {"name": "perceiver"}  # the defaults are Idefics2's
IDEFICS1_RESAMPLER = {"name": "perceiver", "projection": "none", "depth": 6, "kv_heads": 16}
CROSS_ATTENTION = {"name": "cross_attention", "every": 3}


def paper(connector, architecture="autoregressive", **stage):
    model = {"vision": SIGLIP, "language": MISTRAL, "connector": connector, "architecture": architecture}
    return plan_model(run_config(model, {"size": 384}, sequence_length=2048, precision="bf16", **stage))


LORA = {"vision": "lora", "language": "lora"}


@pytest.mark.parametrize(
    ("connector", "architecture", "stage", "total", "trainable", "visual", "text"),
    [
        ({"name": "linear", "bias": False}, "autoregressive", {}, (7.6e9, 7.7e9), (4.7e6, 5e6), 729, 729),
        (PERCEIVER, "autoregressive", {}, (8.3e9, 8.4e9), (740e6, 745e6), 64, 64),
        (PERCEIVER, "autoregressive", LORA, (8.3e9, 8.4e9), (940e6, 950e6), 64, 64),
        (IDEFICS1_RESAMPLER, CROSS_ATTENTION, {}, (9.5e9, 10.5e9), (2.25e9, 2.35e9), 64, 1),
        (IDEFICS1_RESAMPLER, CROSS_ATTENTION, LORA, (9.5e9, 10.5e9), (2.45e9, 2.55e9), 64, 1),
    ],
    ids=["ar_linear", "ar_perceiver", "ar_perceiver_lora", "cross_attention", "cross_attention_lora"],
)
def test_parameter_columns_of_idefics2_table_3(connector, architecture, stage, total, trainable, visual, text):
    plan = paper(connector, architecture, **stage)
    assert total[0] <= plan.total_parameters < total[1]
    assert trainable[0] <= plan.last.trainable_parameters < trainable[1]
    assert (plan.visual_tokens_per_image, plan.placeholders_per_image) == (visual, text)
    if stage:
        assert plan.last.trainable["adapters"] == 202_553_344  # r 64 on every linear layer of both backbones
        assert len(plan.last.matched["vision"]) == 27 * 6
        assert len(plan.last.matched["language"]) == 32 * 7


def test_parts_of_idefics2_sum_to_the_released_model():
    model = {
        "vision": {"name": "siglip-native", "id": "HuggingFaceM4/idefics2-8b"},
        "language": MISTRAL,
        "connector": PERCEIVER,
        "architecture": "autoregressive",
    }
    plan = plan_model(run_config(model, {"resize": "native", "size": 980, "shortest": 378}))
    assert plan.parameters["vision"] == 417_792_240
    assert plan.parameters["connector"] == 91_750_400 + 651_468_800
    assert plan.parameters["language"] == 6_979_588_096
    assert plan.parameters["embeddings"] == 2 * 131_084_288
    assert plan.total_parameters == 8_402_768_112


def test_parts_of_idefics3_differ_from_the_released_model_by_its_token_rows_only():
    model = {
        "vision": {"name": "siglip-native", "id": "HuggingFaceM4/Idefics3-8B-Llama3"},
        "language": {"name": "hf", "id": "meta-llama/Llama-3.1-8B-Instruct"},
        "connector": {"name": "pixel_shuffle"},
        "architecture": "autoregressive",
    }
    config = run_config(model, {"split": "tiles", "size": 1456, "tile": 364})
    plan = plan_model(config, sample=SampleShape(text_tokens=16))
    assert plan.parameters["vision"] == 412_926_192
    assert plan.parameters["connector"] == 18_874_368
    # The released table has 3 rows more than Llama's; position tokens are ordinary reserved rows there, new ones here.
    rows = plan.parameters["embeddings"] // 4096 - 2 * 128_256
    assert plan.total_parameters - rows * 4096 + 2 * 3 * 4096 == 8_462_086_384
    assert plan.visual_tokens_per_image == plan.placeholders_per_image == 17 * 169
    assert visual_tokens_of(config, 364, 364) == 17 * 169  # small images are enlarged to the longest side
    assert visual_tokens_of(config, 1820, 910) == (4 * 2 + 1) * 169


def test_the_released_idefics3_is_counted_to_the_last_parameter():
    released = "HuggingFaceM4/Idefics3-8B-Llama3"
    model = {
        "vision": {"name": "siglip-native", "id": released},
        "language": {"name": "hf", "id": released},
        "connector": {"name": "pixel_shuffle"},
        "architecture": "autoregressive",
        "init_from": released,
    }
    plan = plan_model(run_config(model, {"split": "tiles", "size": 364}), sample=SampleShape(text_tokens=8))
    assert plan.parameters["embeddings"] == 2 * 128_259 * 4096
    assert plan.total_parameters == 8_462_086_384


def test_idefics2_on_a_70b_language_model_is_what_transformers_builds():
    language = "meta-llama/Meta-Llama-3-70B-Instruct"
    model = {
        "vision": {"name": "siglip-native", "id": "HuggingFaceM4/idefics2-8b"},
        "language": {"name": "hf", "id": language},
        "connector": PERCEIVER,
        "architecture": "autoregressive",
    }
    image = {"resize": "native", "size": 980, "shortest": 378}
    plan = plan_model(run_config(model, image), sample=SampleShape(text_tokens=8))
    theirs = AutoConfig.from_pretrained(bundled_config("HuggingFaceM4/idefics2-8b"))
    theirs.text_config = AutoConfig.from_pretrained(bundled_config(language), vocab_size=128_256 + 3)
    theirs.perceiver_config.hidden_size = 8192
    with torch.device("meta"):
        total = sum(p.numel() for p in Idefics2ForConditionalGeneration(theirs).parameters())
    assert plan.total_parameters == total == 73_783_386_352


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("assembly", ASSEMBLIES)
def test_operations_are_those_of_a_real_step(tiny, assembly, stage):
    plan, vlm = planned_and_real(tiny, assembly, **STAGES[stage])
    batch = batch_of(vlm, plan, 1)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = vlm(batch).loss_sum
        forward = counter.get_total_flops()
        loss.backward()
    assert plan.last.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    if not plan.last.matched:
        assert plan.flops == pytest.approx(forward, rel=0.01)


def test_operations_of_a_known_layer_stack(tiny):
    """By hand: 2 a weight and token in the decoder layers, 4 * length^2 * width of attention in each."""
    plan, _ = planned_and_real(tiny, "perceiver")
    h, i, layers, n = 128, 320, 4, plan.sequence
    weights = layers * (h * h * 2 + 2 * h * (h // 2) + 3 * h * i)
    head = (plan.parameters["embeddings"] // 2) * TEXT * 2
    assert plan.forward_flops["language"] == 2 * weights * n + layers * 4 * n * n * h + head


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_mfu_and_hfu_count_by_hand(tiny, checkpointing):
    """Of 4 layers of width 128: 4 * length^2 * width of attention forward, twice that backward, half of it masked."""
    plan, _ = planned_and_real(tiny, "perceiver", **STAGES["full"], gradient_checkpointing=checkpointing)
    stage, forward = plan.last, 4 * 4 * plan.sequence**2 * 128
    assert stage.causal == 3 * forward and stage.causal_recomputed == checkpointing * forward
    again = sum(stage.recomputed.values()) - checkpointing * forward / 2
    short = replace(stage, row_tokens=0)  # a row is the sample
    assert short.hardware_share == pytest.approx(1 + again / stage.model_flops)
    plain, _ = planned_and_real(tiny, "perceiver", **STAGES["full"])
    assert stage.model_flops == plain.last.flops - 3 * forward / 2 == plain.last.model_flops


def test_operations_of_a_batch_go_by_its_documents(tiny):
    """A batch like the plan's sample has its operations; in one row or padded, documents do not see each other."""
    plan, vlm = planned_and_real(tiny, "linear", **STAGES["lora"])
    useful = flops_by_rates(*plan.last.model_rates)
    batch = batch_of(vlm, plan, 3)
    assert useful(batch) == pytest.approx(3 * plan.last.model_flops)
    lengths = (plan.sequence, plan.sequence - 5, 7)
    real = torch.arange(plan.sequence) < torch.tensor(lengths)[:, None]
    padded = replace(batch, segment=batch.segment * real)
    numbers = (torch.arange(1, 4)[:, None] * real)[real][None]
    row = replace(batch, input_ids=batch.input_ids[real][None], segment=numbers, documents=lengths)
    assert document_lengths(padded) == document_lengths(row) == document_lengths(replace(row, documents=None))
    assert useful(padded) == useful(row)
    whole = replace(row, documents=(sum(lengths),))
    pairs = sum(lengths) ** 2 - sum(length**2 for length in lengths)
    assert useful(whole) - useful(row) == pytest.approx(plan.last.model_rates[2] * pairs)


@pytest.mark.parametrize("stage", ["frozen", "lora", "full"])
@pytest.mark.parametrize("assembly", ["linear", "perceiver", "cross_attention"])
def test_checkpointing_costs_a_second_forward_of_the_layers(tiny, assembly, stage):
    plain, _ = planned_and_real(tiny, assembly, **STAGES[stage])
    checkpointed, vlm = planned_and_real(tiny, assembly, **STAGES[stage], gradient_checkpointing=True)
    assert checkpointed.last.memory.activations < 0.6 * plain.last.memory.activations
    batch = batch_of(vlm, checkpointed, 1)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        vlm(batch).loss_sum.backward()
    assert checkpointed.last.flops == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_checkpoint_holds_trained_parameters_and_moments(tiny):
    plan, vlm = planned_and_real(tiny, "linear", **STAGES["lora"])
    trained = sum(p.numel() for p in vlm.parameters() if p.requires_grad)
    assert plan.last.trainable_parameters == trained
    assert plan.last.checkpoint_bytes == 12 * trained


def test_gpu_hours_follow_from_operations_of_full_rows(tiny):
    def last(**stage):
        config = {**tiny, **dict(zip(("connector", "architecture"), ASSEMBLIES["linear"], strict=True))}
        fields = {"steps": 1000, "batch_size": 10, "language": "full", "vision": "full", **stage}
        return plan_model(run_config(config, {"size": 64}, **fields), sample=SampleShape(text_tokens=TEXT)).last

    short, full = last(sequence_length=1), last(sequence_length=400)
    assert short.gpu_hours(mfu=0.5, peak=1e12) == pytest.approx(short.model_flops * 10_000 / 5e11 / 3600)
    spent, longer = full.training_flops, 400 / full.sequence
    row = spent["vision"] + spent["connector"] + (spent["language"] - full.causal) * longer
    row += full.causal / 2 * longer**2
    assert full.gpu_hours(mfu=0.5, peak=1e12) == pytest.approx(row * 10_000 / 5e11 / 3600)
    again = last(sequence_length=400, gradient_checkpointing=True)
    assert again.flops > full.flops and again.gpu_hours() == pytest.approx(full.gpu_hours())
    assert full.hardware_share == 1 < again.hardware_share < 4 / 3


def test_a_packed_row_costs_as_many_samples_as_it_holds(tiny):
    model = {**tiny, **dict(zip(("connector", "architecture"), ASSEMBLIES["linear"], strict=True))}
    sample = SampleShape(text_tokens=TEXT)
    loose, packed, limited = (
        plan_model(run_config(model, vision="full", data=data, batch_size=4), sample=sample).last
        for data in (a_row(), a_row(packing="rows"), a_row(packing="rows", row_views=2))
    )
    assert loose.row_samples == 1 and packed.row_samples == 400 // int(packed.sequence) > 2
    assert limited.row_samples == 2
    assert packed.samples == loose.samples * packed.row_samples and packed.flops == loose.flops
    images = packed.training_flops["vision"] + packed.training_flops["connector"]
    longer = 400 / loose.sequence
    more = images * (packed.row_samples - 1)  # both rows are full, one of more images and shorter documents
    more += loose.causal / 2 * longer**2 * (1 / packed.row_samples - 1)
    hours = more * loose.samples / (0.4 * GPUS["h100"].flops) / 3600
    assert packed.gpu_hours() == pytest.approx(loose.gpu_hours() + hours)
    assert packed.memory.activations > loose.memory.activations


def a_row(**fields):
    return {"mixture": {"any": {"source": "offline"}}, "image": {"size": 64}, "sequence_length": 400, **fields}


def test_targets_that_match_nothing_stop_the_plan(tiny):
    model = {**tiny, "connector": {"name": "linear"}, "architecture": "autoregressive"}
    with pytest.raises(ModelError, match="match no module"):
        plan_model(run_config(model, {"size": 64}, language="lora", lora={"language_targets": ["query_key_value"]}))


@pytest.mark.parametrize(
    ("number", "text"),
    [(7_659_462_512, "7.66B"), (743_243_776, "743M"), (4_743_168, "4.74M"), (9_913_755_668, "9.91B"), (12, "12"),
     (999_900, "1.00M"), (10_125_767_942, "10.1B")],
)  # fmt: skip
def test_short_counts(number, text):
    assert short_count(number) == text
