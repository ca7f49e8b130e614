"""A device that is too small is told before weights are read, and no plan promises what `run` would refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.accounting.planned import ASSEMBLIES, run_config
from vlm_ablate.accounting import SampleShape, check_fits, plan_model, shards_of
from vlm_ablate.accounting.fits import micro_batch
from vlm_ablate.accounting.gpus import GPUS, gpu_called
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.errors import ModelError
from vlm_ablate.launch.promises import refused


def a_run(tiny, **execution) -> RunConfig:
    model = {**tiny, **dict(zip(("connector", "architecture"), ASSEMBLIES["linear"], strict=True))}
    return run_config(model, {"size": 64}, language="full", batch_size=8, **execution)


def test_what_does_not_fit_is_an_error_and_what_may_not_is_told(tiny) -> None:
    plan = plan_model(a_run(tiny), sample=SampleShape(text_tokens=8))
    memory = plan.last.memory
    held = memory.weights + memory.moments + memory.gradients
    assert check_fits(plan, memory.peak, "card") == []
    assert held < memory.peak
    (told,) = check_fits(plan, memory.peak - 1, "card")
    assert "'train'" in told and "card has" in told and "micro_batch_size" in told
    with pytest.raises(ModelError, match=r"weights, moments and gradients take .* card has"):
        check_fits(plan, held - 1, "card")


def test_a_rank_plans_its_own_share_of_a_batch(tiny) -> None:
    alone, two, shared = (a_run(tiny), a_run(tiny, devices=2), a_run(tiny, devices=2, strategy="fsdp2"))
    assert [shards_of(config.execution) for config in (alone, two, shared)] == [1, 1, 2]
    stage = alone.stages["train"]
    assert [micro_batch(stage, config.execution) for config in (alone, two)] == [8, 4]
    assert micro_batch(stage, Execution(), shards=4) == 2 and micro_batch(stage, Execution(micro_batch_size=1)) == 1
    sample = SampleShape(text_tokens=8)
    plans = [plan_model(c, sample=sample, shards=shards_of(c.execution)).last.memory for c in (alone, two, shared)]
    assert plans[0].weights == plans[1].weights == pytest.approx(2 * plans[2].weights, abs=1)
    assert plans[0].activations > plans[1].activations


def test_what_run_refuses_is_not_promised(tiny) -> None:
    assert refused(a_run(tiny)) is None and refused(a_run(tiny, devices=2)) is None
    assert refused(replace_execution(a_run(tiny), nodes=2)) is None
    assert "zero1" in (refused(a_run(tiny), shards=2, sharding="zero1") or "")
    assert "zero1" in (refused(a_run(tiny, devices=2, strategy="fsdp2"), sharding="zero1") or "")
    assert refused(a_run(tiny, devices=2, strategy="fsdp2")) is None
    assert refused(a_run(tiny), shards=2) is None
    assert "cannot be dealt to 3 ranks" in (refused(a_run(tiny), shards=3) or "")


def replace_execution(config: RunConfig, **fields) -> RunConfig:
    return config.model_copy(update={"execution": config.execution.model_copy(update=fields)})


def test_gpus_are_known_by_their_drivers_names() -> None:
    names = {"NVIDIA H100 80GB HBM3": "h100", "NVIDIA A100-SXM4-80GB": "a100", "NVIDIA GeForce RTX 4090": "rtx4090",
             "NVIDIA H200": "h200", "NVIDIA L40S": "l40s"}  # fmt: skip
    assert {name: gpu_called(name) for name in names} == {name: GPUS[key] for name, key in names.items()}
    for other in ("NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GH200 480GB", "Tesla T4", "",
                  "NVIDIA H200 NVL", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU"):
        assert gpu_called(other) is None


def test_a_stage_knows_its_share_of_a_gpu(tiny) -> None:
    from vlm_ablate.runs.speed import speed_on

    plan = plan_model(a_run(tiny, gradient_checkpointing=True), sample=SampleShape(text_tokens=8)).last
    speed = speed_on("NVIDIA H100 80GB HBM3", plan, stored=False)
    assert speed is not None and speed_on("cpu", plan, stored=False) is None
    mfu, hfu = speed.metrics(GPUS["h100"].flops / 2).values()
    assert mfu == 0.5 and hfu == pytest.approx(0.5 * plan.hardware_share) and hfu > mfu
    assert replace(plan, recomputed={}, causal_recomputed=0.0).hardware_share == 1
