"""Planned memory agrees with what is alive at the peak of a real step: in fp32, in bf16, checkpointed and sharded."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.accounting.planned import DORA, STAGES, TEXT, batch_of, planned_and_real, run_config
from vlm_ablate.accounting import SampleShape, Sharding, plan_model
from vlm_ablate.accounting.measure import layers_of
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import build_vlm


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


def test_a_backbone_that_no_stage_trains_in_full_is_held_in_bf16(tiny):
    model = {**tiny, "connector": {"name": "linear"}, "architecture": "autoregressive"}

    def memory(**stage):
        return plan_model(run_config(model, {"size": 64}, **stage)).last

    full, mixed = memory(vision="full"), memory(precision="bf16", vision="full", language="full")
    language, encoder = (memory(precision="bf16", **{part: "full"}) for part in ("vision", "language"))
    new_rows = language.trainable["embeddings"]
    parameters = language.total["language"] + language.total["embeddings"] - new_rows
    assert full.memory.weights - language.memory.weights == 2 * parameters
    assert mixed.memory.weights == full.memory.weights
    assert language.memory.copies < mixed.memory.copies
    tower = build_vlm(run_config(model, {"size": 64}).model, Views(64), load_weights=False).vision
    rounded = sum(p.numel() for n, p in tower.named_parameters() if "norm" not in n and "position" not in n)
    assert 0.9 < rounded / encoder.total["vision"] < 1
    assert full.memory.weights - encoder.memory.weights == 2 * rounded
    both = memory(precision="bf16")
    assert full.memory.weights - both.memory.weights == 2 * (parameters + rounded)


@pytest.mark.parametrize(
    ("sharding", "shared"),
    [("zero1", {"moments"}), ("zero2", {"moments", "gradients"}), ("zero3", {"moments", "gradients", "weights"})],
)
def test_shards_share_what_is_asked_but_not_activations(tiny, sharding, shared):
    model = {**tiny, "connector": {"name": "linear"}, "architecture": "autoregressive"}
    config = run_config(model, {"size": 64}, language="full", micro_batch_size=2)
    one, four = (plan_model(config, shards=n, sharding=Sharding(sharding)).last.memory for n in (1, 4))
    for part in ("weights", "moments", "gradients"):
        whole = getattr(one, part)
        assert getattr(four, part) == (-(-whole // 4) if part in shared else whole)
    assert four.activations == one.activations
    assert (four.gathered > 0) is (sharding == "zero3") and one.gathered == 0
