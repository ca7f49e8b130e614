"""Whether a GPU computes what a CPU does: attention without padding by every kernel, and how laptop runs rank."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from batches import documents_of, padded
from shapes import SHAPES, build, device_of
from steps import autocast, kernels
from torch import Tensor

from vlm_ablate.models.batch import Batch
from vlm_ablate.models.documents import Kernel
from vlm_ablate.models.vlm import VLM

BF16, FP32 = 2e-2, 1e-4
"""Largest difference of logits, over the largest logit; of gradients (by their norm) it may be twice as much."""
RECORDS = Path(__file__).parents[2] / "results" / "idefics2" / "t03_architecture" / "laptop" / "records.json"
ARMS = ("ar_perceiver_frozen", "ar_linear_frozen", "ar_perceiver_full")
"""Of Idefics2's table 3: their scores on a CPU are far apart."""
STOPS_IN = 60.0
"""Seconds in which runs that are interrupted write their checkpoints."""


def attention() -> dict[str, float]:
    """Differences of padded batches and of each kernel's, for the forms that training takes.

    Raises:
        AssertionError: one is above the limit of its precision.
    """
    found: dict[str, float] = {}
    limit = BF16 if device_of().type == "cuda" else FP32
    for name in ("tiny_idefics3", "tiny_idefics2"):
        for training, checkpointing in (("full", False), ("lora", False), ("dora", True)):
            differences = of_form(name, training, checkpointing)
            found |= {f"{name} {training} {what}": value for what, value in differences.items()}
    wrong = {what: value for what, value in found.items() if not value <= limit * (1 + what.endswith("gradients"))}
    assert not wrong, f"above {limit}: {wrong}"
    return found


def of_form(name: str, training: str, checkpointing: bool) -> dict[str, float]:
    """Differences of one model: kernel and quantity -> relative difference to the padded batch's."""
    shape = replace(SHAPES[name], documents=6)
    vlm, found = build(shape, training, checkpointing=checkpointing), {}
    with torch.no_grad():
        for parameter_name, parameter in vlm.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(std=0.02, generator=torch.Generator(device_of()).manual_seed(1))
    row = documents_of(vlm, shape, seed=0)
    vlm.attention = "padded"
    expected = outcome(vlm, padded(row))
    for kernel in kernels():
        assert vlm.attend_by(kernel), f"{kernel} is not used"
        own = outcome(vlm, row)
        for what in expected:
            difference = (own[what] - expected[what]).norm() if what == "gradients" else _largest(own, expected, what)
            scale = expected[what].norm() if what == "gradients" else expected[what].abs().max()
            found[f"{kernel} {what}"] = float(difference / scale)
    return found


def _largest(own: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> Tensor:
    return (own[what] - expected[what]).abs().max()


def outcome(vlm: VLM, batch: Batch) -> dict[str, Tensor]:
    """Logits at real positions, the loss, and all gradients one after another, in fp32."""
    batch = batch.to(device_of())
    vlm.zero_grad(set_to_none=True)
    with autocast():
        with torch.no_grad():
            logits = vlm.logits(batch)
        loss = vlm(batch).loss_sum
    loss.backward()
    gradients = [p.grad.float().flatten() for p in vlm.parameters() if p.grad is not None]
    return {
        "logits": logits[batch.attention_mask].float(),
        "loss": loss.detach().float()[None],
        "gradients": torch.cat(gradients),
    }


def flash_is_used() -> dict[str, list[str]]:
    """Kernel -> the documents' kernels that a training step really called, of those that flash attention has.

    Raises:
        AssertionError: a step that is to use flash attention computes otherwise.
    """
    found: dict[str, list[str]] = {}
    shape = SHAPES["tiny_idefics3"]
    for kernel in [kernel for kernel in kernels() if kernel != "documents"]:
        for training in ("full", "lora"):
            vlm = build(shape, training)
            assert vlm.attend_by(kernel), f"{kernel} is not used"
            with torch.profiler.profile() as profile:
                outcome(vlm, documents_of(vlm, shape, seed=0))
            # The encoder's own attention is called flash, too.
            called = [event.key for event in profile.key_averages() if "varlen" in event.key.lower()]
            found[f"{kernel} {training}"] = sorted(called)
            assert called, f"{kernel} with {training}: no flash attention was called for the documents"
    return found


def laptop(folder: Path, *, seconds: float, sets: tuple[str, ...] = (), arms: tuple[str, ...] = ARMS) -> dict[str, Any]:
    """Scores of laptop runs on this machine's device beside the committed ones of a CPU; their ranking must agree.

    Args:
        folder: home of the runs.
        seconds: that they may take.
        sets: settings by hand.
        arms: that are run, seed 0.

    Raises:
        AssertionError: the ranking differs.
        TimeoutExpired: it took longer.
    """
    code = (
        "import json, sys, vlm_ablate as va\n"
        "folder, arms, sets = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])\n"
        "study = va.load('idefics2/t03_architecture', arms=arms, sets=sets, home=folder)\n"
        "ended = study.run(seeds=[0], jobs=len(arms))\n"
        "table = study.report(seeds=[0])\n"
        "print(json.dumps({row.arm: row.score().mean for row in table.rows if row.score() is not None}))\n"
    )
    command = [sys.executable, "-c", code, str(folder), json.dumps(arms), json.dumps(sets)]
    here: dict[str, float] = json.loads(_told(command, seconds).strip().splitlines()[-1])
    records = json.loads(RECORDS.read_text())["records"]
    cpu = {r["arm"]: r["metrics"]["score/mean"] for r in records if r["seed"] == 0 and r["arm"] in arms}
    found = {"here": here, "cpu": cpu}
    assert sorted(here, key=here.__getitem__) == sorted(cpu, key=cpu.__getitem__), f"rankings differ: {found}"
    return found


def _told(command: list[str], seconds: float) -> str:
    """What a command printed. One that takes longer is interrupted, so that its workers have ended before anything else
    is measured.

    Raises:
        AssertionError: it failed.
        TimeoutExpired: it took longer.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, problem = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=STOPS_IN)
            process.kill()
            raise
    assert process.returncode == 0, problem[-2000:]
    return out


__all__ = ["Kernel", "attention", "flash_is_used", "laptop"]
