"""A step (forward and backward) of one linear layer with DoRA: norms in closed form against peft's own layer.

    python benchmarks/dora.py [--tokens 256 1024] [--rounds 15] [--json FILE]

Both take turns on the same input, so that whatever else the machine does hits both; printed are medians of process CPU
time, and the median of the rounds' ratios. `frozen` is the linear layer without adapters. On a GPU (`--device cuda`)
the clock is wall time after a synchronisation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from vlm_ablate.models.dora import in_closed_form

TARGETS = {(256, 0.0): 1.7, (1024, 0.0): 1.3}
"""(Tokens, dropout) -> how much faster than peft's at least."""
OUT, IN, RANK = 1024, 2048, 16


def layers(dropout: float, device: str) -> dict[str, nn.Module]:
    """The layer as it is, with peft's DoRA, and with ours, all of the same values."""
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Linear(IN, OUT)).requires_grad_(False)
    config = LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=dropout, use_dora=True, target_modules=["0"])
    theirs = inject_adapter_in_model(config, deepcopy(frozen))
    with torch.no_grad():
        theirs[0].lora_B["default"].weight.normal_(std=0.02)
    ours = deepcopy(theirs)
    in_closed_form(ours)
    return {name: model.to(device).train() for name, model in (("frozen", frozen), ("peft", theirs), ("ours", ours))}


def seconds(model: nn.Module, x: torch.Tensor, grad: torch.Tensor, repeats: int) -> float:
    """Of one step."""
    cuda = x.is_cuda
    clock: Callable[[], float] = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize()
    start = clock()
    for _ in range(repeats):
        model.zero_grad()
        model(x.detach().requires_grad_()).backward(grad)
    if cuda:
        torch.cuda.synchronize()
    return (clock() - start) / repeats


def compare(tokens: int, dropout: float, *, rounds: int, repeats: int, device: str) -> dict[str, Any]:
    """Medians over the rounds, the first of which is not counted."""
    models = layers(dropout, device)
    x, grad = torch.randn(tokens, IN, device=device), torch.randn(tokens, OUT, device=device)
    taken: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            spent = seconds(model, x, grad, repeats)
            if turn:
                taken[name].append(spent)
    eval_difference = (models["ours"].eval()(x) - models["peft"].eval()(x)).abs().max().item()
    ratio = median(p / o for p, o in zip(taken["peft"], taken["ours"], strict=True))
    return {
        "tokens": tokens,
        "dropout": dropout,
        **{f"{name}_ms": round(1000 * median(values), 2) for name, values in taken.items()},
        "ratio": round(ratio, 2),
        "target": TARGETS.get((tokens, dropout)),
        "largest_difference": eval_difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=3, help="steps of each in a round")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    print(f"DoRA on a {OUT} x {IN} layer, r {RANK}, forward and backward, {machine}")
    print(f"{'tokens':>7}{'dropout':>9}{'frozen':>10}{'peft':>10}{'ours':>10}{'peft/ours':>11}  at least")
    results = []
    for tokens in options.tokens:
        for dropout in options.dropout:
            found = compare(tokens, dropout, rounds=options.rounds, repeats=options.repeats, device=options.device)
            results.append(found)
            times = "".join(f"{found[f'{name}_ms']:>7.1f} ms" for name in ("frozen", "peft", "ours"))
            print(f"{tokens:>7}{dropout:>9}{times}{found['ratio']:>10.2f}x  {found['target'] or ''}", flush=True)
    if options.json:
        body = {"machine": machine, "torch": torch.__version__, "layer": [OUT, IN], "rank": RANK, "results": results}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
