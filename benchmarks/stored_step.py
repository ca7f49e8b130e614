"""A training step with a frozen encoder whose output is read from disk, against transformers' step, which computes it.

Two forms with random weights in the proportions of small models: Idefics3's (tiles, sixteen patches to a visual token)
and Idefics2's (crops, a Perceiver). Both backbones are frozen and the connector is trained, on the same padded batches
with the same weights; that both compute the same loss is checked first.

What can be saved at most follows from operations: all of transformers' step over those without its encoder, counted by
torch. Aim: 90 % of that bound.

    python benchmarks/stored_step.py [--rounds 7] [--steps 3] [--json benchmarks/results/stored_step.json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent / "gpu"))

import torch
from batches import documents_of, padded, theirs_of
from shapes import Shape, build, device_of
from steps import features, trainer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, SiglipVisionConfig

from vlm_ablate.checkpoints.to_transformers import to_transformers
from vlm_ablate.models.batch import Batch
from vlm_ablate.models.vlm import VLM
from vlm_ablate.provenance import library_versions, machine
from vlm_ablate.registry import load_plugins
from vlm_ablate.storage import write_atomically
from vlm_ablate.training.fit import configure_threads

SHARE = 0.9
"""Of the bound, at least."""
_VISION = SiglipVisionConfig(
    hidden_size=144, intermediate_size=576, num_hidden_layers=7, num_attention_heads=6, image_size=128, patch_size=8
)
_LANGUAGE = LlamaConfig(
    hidden_size=192, intermediate_size=576, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=3,
    vocab_size=2000, tie_word_embeddings=False,
)  # fmt: skip
FORMS = {
    "idefics3": Shape(
        _VISION, _LANGUAGE, {"name": "pixel_shuffle", "factor": 4}, 128, (1, 2, 5), (20, 120), 8,
        image={"split": "tiles", "tile": 128, "size": 640},
    ),
    "idefics2": Shape(
        _VISION, _LANGUAGE, {"name": "perceiver", "latents": 16, "depth": 2, "heads": 4, "head_dim": 48, "kv_heads": 2},
        128, (1, 5), (20, 120), 8, "full", {"split": "crops", "size": 128},
    ),
}  # fmt: skip
Step = Callable[[Sequence[Batch]], None]


def transformers_model(vlm: VLM) -> nn.Module:
    """transformers' model with the same weights, of which the connector is trained."""
    model: nn.Module = to_transformers(vlm).to(device_of())
    model.requires_grad_(False)
    model.model.connector.requires_grad_(True)
    model.train()
    model.model.vision_model.eval()
    return model


def their_loss(model: nn.Module, vlm: VLM, shape: Shape) -> Callable[[Batch], torch.Tensor]:
    """The summed loss of transformers' model on a padded batch."""
    tokens, image_id = vlm.placeholders(shape.side, shape.side), vlm.image_token_id

    def loss(batch: Batch) -> torch.Tensor:
        output = model(**theirs_of(batch, image_id, tokens), use_cache=False)
        value: torch.Tensor = output.loss * batch.supervised_tokens
        return value

    return loss


def bound(step: Step, batch: Batch) -> float:
    """Operations of a step of transformers' model over those without its encoder."""
    with FlopCounterMode(display=False) as counter:
        step([batch])
    counts = counter.get_flop_counts()
    total = sum(counts["Global"].values())
    encoder = next(sum(found.values()) for name, found in counts.items() if name.endswith(".vision_model"))
    return total / (total - encoder)


def cpu_seconds(step: Step, batches: Sequence[Batch]) -> float:
    """Of a step on each batch."""
    started = time.process_time()
    for batch in batches:
        step([batch])
    return time.process_time() - started


def measured(shape: Shape, rounds: int, steps: int) -> dict[str, Any]:
    """Ratios of the rounds, in which the two take turns, and the bound.

    Raises:
        SystemExit: they do not compute the same loss.
    """
    vlm = build(shape, "frozen")
    vlm.attend_by("padded")
    model = transformers_model(vlm)
    loss = their_loss(model, vlm, shape)
    batches = [padded(documents_of(vlm, shape, seed=number)) for number in range(steps)]
    with torch.no_grad():
        mine, base = float(vlm(batches[0].to(device_of())).loss_sum), float(loss(batches[0].to(device_of())))
    if abs(mine - base) > 1e-4 * abs(base):
        raise SystemExit(f"they do not compute the same loss: {mine} and {base}")
    their_step, ratios = trainer(model, loss), []
    at_most = bound(their_step, batches[0])
    with features(vlm, batches):
        our_step = trainer(vlm, lambda batch: vlm(batch).loss_sum)
        for number in range(rounds + 1):
            turns = [lambda: cpu_seconds(their_step, batches), lambda: cpu_seconds(our_step, batches)]
            order = (0, 1) if number % 2 else (1, 0)
            spent = dict(sorted((which, turns[which]()) for which in order))
            if number:  # the first round warms up
                ratios.append(spent[0] / spent[1])
        store = vlm.features.store if vlm.features else None
        if store is None or store.counts.read < rounds * steps:
            raise SystemExit("the encoder's output was not read from disk")
    return {"ratio": median(ratios), "bound": at_most, "share": median(ratios) / at_most, "ratios": ratios}


def main() -> None:
    """Print the medians; exit status 1 below the aim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="of eight documents, a turn")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    load_plugins()
    configure_threads()
    found = {name: measured(shape, asked.rounds, asked.steps) for name, shape in FORMS.items()}
    for name, each in found.items():
        told = f"{each['ratio']:.2f}x, {each['share']:.0%} of the bound of {each['bound']:.2f}x"
        print(f"{name}: {told} (at least {SHARE:.0%})")
    if asked.json:
        body = {"forms": found, "aim": SHARE, "steps": asked.steps}
        body |= {"machine": machine(), "versions": library_versions()}
        write_atomically(asked.json, json.dumps(body, indent=1) + "\n")
    raise SystemExit(any(each["share"] < SHARE for each in found.values()))


if __name__ == "__main__":
    main()
