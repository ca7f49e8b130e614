"""A plan made on the meta device agrees with what real models do, and with the papers' columns."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    Idefics2ForConditionalGeneration,
    LlamaConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.models.conftest import save_lm
from vlm_ablate.config.data import DataConfig, ImageConfig
from vlm_ablate.config.experiment import RunConfig
from vlm_ablate.config.model import ModelConfig
from vlm_ablate.config.stages import Stage, language_in_bf16
from vlm_ablate.errors import ModelError
from vlm_ablate.models.accounting import SampleShape, Sharding, plan_model, short_count, visual_tokens_of
from vlm_ablate.models.accounting.measure import layers_of
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.batch import IGNORE, Batch
from vlm_ablate.models.hub import bundled_config
from vlm_ablate.models.vlm import build_vlm

SIGLIP = {"name": "hf", "id": "google/siglip-so400m-patch14-384"}
MISTRAL = {"name": "hf", "id": "mistralai/Mistral-7B-v0.1"}
PERCEIVER = {"name": "perceiver"}  # the defaults are Idefics2's
IDEFICS1_RESAMPLER = {"name": "perceiver", "projection": "none", "depth": 6, "kv_heads": 16}
CROSS_ATTENTION = {"name": "cross_attention", "every": 3}


def run_config(model, image=None, *, sequence_length=128, **stage) -> RunConfig:
    """A run without data sources and benchmarks, which a plan does not read."""
    return RunConfig.model_construct(
        model=ModelConfig.model_validate(model),
        data=DataConfig.model_construct(image=ImageConfig(**image or {}), sequence_length=sequence_length),
        stages={"train": Stage(**{"steps": 1, "batch_size": 2, **stage})},
        evaluation=None,
    )


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
    assert (plan.visual_tokens_per_image, plan.text_tokens_per_image) == (visual, text)
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
    assert plan.visual_tokens_per_image == plan.text_tokens_per_image == 17 * 169
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


TINY_TEXT = dict(
    hidden_size=128, intermediate_size=320, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2
)  # fmt: skip
TINY_VISION = dict(
    hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, image_size=64, patch_size=8
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folders of a vision tower and a language model, large enough for activations to count."""
    folder = tmp_path_factory.mktemp("tiny")
    SiglipVisionModel(SiglipVisionConfig(**TINY_VISION)).save_pretrained(folder / "vision")
    save_lm(folder / "language", LlamaConfig(**TINY_TEXT, tie_word_embeddings=False), padded=1000)
    return {part: {"name": "hf", "id": str(folder / part)} for part in ("vision", "language")}


TINY_PERCEIVER = {"name": "perceiver", "latents": 8, "depth": 2, "heads": 4, "head_dim": 16, "kv_heads": 2}
ASSEMBLIES = {
    "linear": ({"name": "linear"}, "autoregressive"),
    "perceiver": (TINY_PERCEIVER, "autoregressive"),
    "pixel_shuffle": ({"name": "pixel_shuffle"}, "autoregressive"),
    "mapping_network": ({"name": "mapping_network", "tokens": 6, "depth": 2, "heads": 4}, "autoregressive"),
    "cross_attention": ({**TINY_PERCEIVER, "projection": "none"}, {"name": "cross_attention", "every": 2}),
}
TEXT = 40


def batch_of(vlm, plan, size):
    """`size` samples shaped as the plan's: an image first, then supervised text."""
    places = plan.text_tokens_per_image
    ids = torch.randint(4, 20, (size, plan.sequence))
    ids[:, :places] = vlm.image_token_id
    labels = ids.masked_fill(torch.arange(plan.sequence) < places, IGNORE)
    return Batch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        labels=labels,
        pixel_values=torch.randn(size, 3, 64, 64),
        pixel_mask=None,
        view_sample=torch.arange(size),
        sample_ids=[str(i) for i in range(size)],
        images=size,
    )


def planned_and_real(tiny, assembly, **stage):
    connector, architecture = ASSEMBLIES[assembly]
    model = {**tiny, "connector": connector, "architecture": architecture}
    config = run_config(model, {"size": 64}, sequence_length=1, **stage)
    half = language_in_bf16(config.stages.values())
    vlm = build_vlm(config.model, config.data.image, language_dtype=torch.bfloat16 if half else torch.float32)
    apply_training(vlm, config.stages["train"])
    return plan_model(config, sample=SampleShape(text_tokens=TEXT)), vlm.train()


STAGES = {
    "frozen": {},
    "lora": {"vision": "lora", "language": "lora", "lora": {"r": 8}},
    "dora_language": {"language": "dora", "lora": {"r": 8}},
    "full": {"vision": "full", "language": "full"},
}
DORA = {"vision": "dora", "language": "dora", "lora": {"r": 8}}


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


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensor storages that are alive, and their peak; the model's own are there from the start."""

    def __init__(self, model):
        super().__init__()
        self.now = self.peak = 0
        self.known = {}
        for tensor in (*model.parameters(), *model.buffers()):
            self.see(tensor)

    def see(self, tensor):
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.known:
            size = storage.nbytes()
            self.known[key] = weakref.finalize(storage, self.gone, key, size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def gone(self, key, size):
        self.now -= size
        del self.known[key]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.see(leaf)
        return out


def two_steps(vlm, plan, size, *, bf16=False):
    """Train; the first step makes the moments."""
    optimizer = torch.optim.AdamW([p for p in vlm.parameters() if p.requires_grad])
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = vlm(batch_of(vlm, plan, size)).loss_sum
        loss.backward()
        del loss
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("stage", ["frozen", "lora", "full"])
@pytest.mark.parametrize("assembly", ["linear", "perceiver", "cross_attention"])
def test_peak_memory_is_that_of_a_real_step(tiny, assembly, stage, checkpointing):
    size = 16
    options = {**STAGES[stage], "batch_size": size, "gradient_checkpointing": checkpointing}
    plan, vlm = planned_and_real(tiny, assembly, **options)
    with LiveBytes(vlm) as live:
        two_steps(vlm, plan, size)
    print(f"planned / measured = {plan.last.memory.peak / live.peak:.3f}")
    assert plan.last.memory.peak == pytest.approx(live.peak, rel=0.15), plan.last.memory


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("assembly", "stage"),
    [("linear", "lora"), ("linear", "full"), ("linear", "dora"), ("cross_attention", "lora"), ("perceiver", "frozen")],
)
def test_peak_memory_in_bf16_is_that_of_a_real_step(tiny, assembly, stage, checkpointing):
    size = 16
    options = {**({**STAGES, "dora": DORA}[stage]), "batch_size": size, "gradient_checkpointing": checkpointing}
    plan, vlm = planned_and_real(tiny, assembly, precision="bf16", **options)
    with LiveBytes(vlm) as live:
        two_steps(vlm, plan, size, bf16=True)
    print(f"planned / measured = {plan.last.memory.peak / live.peak:.3f}")
    assert plan.last.memory.peak == pytest.approx(live.peak, rel=0.15), plan.last.memory


class ResizedBytes(TorchDispatchMode):
    """As `LiveBytes`, but looks at the storages again and again, since FSDP resizes them to nothing."""

    def __init__(self, model):
        super().__init__()
        self.known, self.peak = {}, 0
        for tensor in (*model.parameters(), *model.buffers()):
            self.see(tensor)

    def see(self, tensor):
        storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()
        if storage._cdata not in self.known:
            self.known[storage._cdata] = weakref.ref(storage)
            weakref.finalize(storage, self.known.pop, storage._cdata)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.see(leaf)
        self.peak = max(self.peak, sum(s.nbytes() for ref in list(self.known.values()) if (s := ref()) is not None))
        return out


@pytest.fixture
def four_devices():
    """A mesh of four devices of which this process plays one; the others answer nothing, in no time."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield init_device_mesh("cpu", (4,))
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module:UserWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("stage", ["frozen", "full"])
def test_peak_memory_under_fsdp_is_that_of_a_real_step(tiny, four_devices, stage, checkpointing):
    size = 4
    options = {**STAGES[stage], "batch_size": size, "gradient_checkpointing": checkpointing}
    _, vlm = planned_and_real(tiny, "linear", **options)
    config = run_config(
        {**tiny, "connector": {"name": "linear"}, "architecture": "autoregressive"},
        {"size": 64}, sequence_length=1, **{**options, "micro_batch_size": size, "batch_size": 4 * size},
    )  # fmt: skip
    plan = plan_model(config, sample=SampleShape(text_tokens=TEXT), shards=4)
    for layer in (layer for layers in layers_of(vlm).values() for layer in layers):
        fully_shard(layer, mesh=four_devices)
    fully_shard(vlm, mesh=four_devices)
    with ResizedBytes(vlm) as live:
        two_steps(vlm, plan, size)
    print(f"planned / measured = {plan.last.memory.peak / live.peak:.3f}")
    assert plan.last.memory.peak == pytest.approx(live.peak, rel=0.15), plan.last.memory


def test_checkpoint_holds_trained_parameters_and_moments(tiny):
    plan, vlm = planned_and_real(tiny, "linear", **STAGES["lora"])
    trained = sum(p.numel() for p in vlm.parameters() if p.requires_grad)
    assert plan.last.trainable_parameters == trained
    assert plan.last.checkpoint_bytes == 12 * trained


def test_a_language_model_that_no_stage_trains_is_held_in_bf16(tiny):
    model = {**tiny, "connector": {"name": "linear"}, "architecture": "autoregressive"}

    def memory(**stage):
        return plan_model(run_config(model, {"size": 64}, **stage)).last

    full, half, mixed = memory(), memory(precision="bf16"), memory(precision="bf16", language="full")
    new_rows = half.trainable["embeddings"]
    language = half.total["language"] + half.total["embeddings"] - new_rows
    assert full.memory.weights - half.memory.weights == 2 * language
    assert mixed.memory.weights == full.memory.weights
    assert half.memory.copies < mixed.memory.copies


@pytest.mark.parametrize(
    ("sharding", "shared"),
    [("zero1", {"moments"}), ("zero2", {"moments", "gradients"}), ("zero3", {"moments", "gradients", "weights"})],
)
def test_shards_share_what_is_asked_but_not_activations(tiny, sharding, shared):
    model = {**tiny, "connector": {"name": "linear"}, "architecture": "autoregressive"}
    config = run_config(model, {"size": 64}, language="full")
    one, four = (plan_model(config, shards=n, sharding=Sharding(sharding)).last.memory for n in (1, 4))
    for part in ("weights", "moments", "gradients"):
        whole = getattr(one, part)
        assert getattr(four, part) == (-(-whole // 4) if part in shared else whole)
    assert four.activations == one.activations
    assert (four.gathered > 0) is (sharding == "zero3") and one.gathered == 0


def test_gpu_hours_follow_from_operations(tiny):
    plan, _ = planned_and_real(tiny, "linear", steps=1000, batch_size=10)
    assert plan.last.gpu_hours(mfu=0.5, peak=1e12) == pytest.approx(plan.last.flops * 10_000 / 5e11 / 3600)


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
