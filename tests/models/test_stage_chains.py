"""Stages one after another: what is frozen stays as it is to the bit, and reading a state back between any two of them
changes nothing of what follows."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models.support import a_batch, a_vlm
from tests.models.test_adapters import stage
from vlm_ablate.config.stages import Stage
from vlm_ablate.errors import ModelError
from vlm_ablate.models.adapters import apply_training, count_parameters, merge_adapters, take_out_adapters
from vlm_ablate.models.trained_state import (
    adapter_metadata,
    load_trainable_state_dict,
    load_trained,
    save_trained,
    trainable_state_dict,
)
from vlm_ablate.models.vlm import VLM

KINDS = ["frozen", "lora", "dora", "full"]


def some_stage(rng: random.Random) -> Stage:
    return stage(
        {"r": rng.choice([1, 2]), "language_targets": rng.choice(["all-linear", ["q_proj", "v_proj"]])},
        vision=rng.choice(KINDS), language=rng.choice(KINDS), connector=rng.choice(["full", "full", "frozen"]),
    )  # fmt: skip


def step(vlm: VLM, seed: int = 0) -> None:
    """One step of an optimiser that decays everything it is given."""
    vlm.zero_grad()
    vlm.train()(a_batch(vlm, seed=seed)).loss_sum.backward()
    torch.optim.AdamW([p for p in vlm.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1).step()
    vlm.eval()


def everything(vlm: VLM) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in (*vlm.named_parameters(), *vlm.named_buffers())}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def touched(vlm: VLM) -> set[str]:
    """What was trained of the backbones; by it answers are shared among arms."""
    return {name for name in vlm.touched if name.startswith(("vision.", "language."))}


CASES = [("frozen", "frozen", "autoregressive"), ("frozen", "lora", "cross_attention"),
         ("dora", "frozen", "autoregressive"), ("lora", "full", "cross_attention"),
         ("full", "dora", "autoregressive")]  # fmt: skip


@pytest.mark.parametrize(("vision", "language", "architecture"), CASES)
def test_what_a_stage_does_not_train_keeps_every_bit(vision, language, architecture, llama, siglip) -> None:
    vlm = a_vlm(siglip, llama, architecture=architecture)
    report = apply_training(vlm, stage(vision=vision, language=language, connector="frozen"))
    before, trained = everything(vlm), {n for n, p in vlm.named_parameters() if p.requires_grad}
    step(vlm)
    after = everything(vlm)
    assert after.keys() == before.keys()
    assert {name for name in before if not torch.equal(after[name], before[name])} <= trained
    for part, count in report.trainable.items():
        assert count <= report.total[part] and (count > 0) == (
            part == "tokens" or {"vision": vision, "language": language}.get(part, "frozen") != "frozen"
        )
    assert sum(report.total.values()) == sum(p.numel() for p in vlm.parameters())
    assert count_parameters(vlm) == report.total and count_parameters(vlm, trainable=True) == report.trainable


@pytest.mark.parametrize("seed", [1])
def test_a_state_that_is_read_back_between_stages_changes_nothing(seed: int, llama, siglip, tmp_path: Path) -> None:
    rng = random.Random(seed)
    stages = [some_stage(rng) for _ in range(3)]
    going = a_vlm(siglip, llama)
    for number, next_stage in enumerate(stages):
        save_trained(going, file := tmp_path / f"{number}.safetensors")
        read = a_vlm(siglip, llama)
        load_trained(read, file)
        assert_same(trainable_state_dict(read), trainable_state_dict(going))
        assert adapter_metadata(read) == adapter_metadata(going)
        for vlm in (going, read):
            report = apply_training(vlm, next_stage)
            again = apply_training(vlm, next_stage)
            assert again == report, "asking twice for the same is asking once"
            torch.manual_seed(number)
            step(vlm, seed=number)
        assert_same(trainable_state_dict(read), trainable_state_dict(going))
        assert touched(read) == touched(going)
    for vlm in (going, read):
        merge_adapters(vlm)
    assert not going.adapters and not any("lora_" in name for name in everything(going))
    assert_same(trainable_state_dict(read), trainable_state_dict(going))
    save_trained(going, tmp_path / "merged.safetensors")
    fresh = a_vlm(siglip, llama)
    load_trained(fresh, tmp_path / "merged.safetensors")
    assert_same(everything(fresh), everything(going))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters_that_are_taken_out_leave_no_trace(kind: str, llama, siglip) -> None:
    vlm = a_vlm(siglip, llama)
    before = everything(vlm)
    apply_training(vlm, stage(vision=kind, language=kind, connector="frozen"))
    step(vlm)
    rows = {name: tensor for name, tensor in everything(vlm).items() if "trainable_tokens" in name}
    take_out_adapters(vlm)
    assert not vlm.adapters and not any("lora_" in name for name in vlm.touched)
    assert_same(everything(vlm), before | rows)


def test_a_state_of_another_model_is_refused_before_anything_is_copied(llama, siglip) -> None:
    vlm = a_vlm(siglip, llama)
    whole = {name: tensor + 1 for name, tensor in trainable_state_dict(vlm).items()}
    some = sorted(whole)[len(whole) // 2]
    wrong = {
        "missing": {name: tensor for name, tensor in whole.items() if name != some},
        "surplus": whole | {"connector.nowhere": torch.zeros(1)},
        "of another shape": whole | {some: torch.cat([whole[some], whole[some]])},
    }
    before = everything(vlm)
    for what, state in wrong.items():
        with pytest.raises(ModelError, match=f"another configuration: .*{what} \\['[a-z]"):
            load_trainable_state_dict(vlm, state)
        assert_same(everything(vlm), before)
    load_trainable_state_dict(vlm, whole)
    assert_same(trainable_state_dict(vlm), whole)
