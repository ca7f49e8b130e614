"""Specs and scores for tests that need a run but no training."""

from __future__ import annotations

from typing import Any

from vlm_ablate.runs.spec import RunSpec

PLUGIN = "tests.tracking.stub_parts"


def make_spec(
    arm: str = "mlp", seed: int = 0, *, experiment: str = "demo/t01", note: str = "", **changes: Any
) -> RunSpec:
    """A valid spec; `note` ends up in its data and so in its keys."""
    stages = changes.get("stages", {"train": {"steps": 10, "batch_size": 4}})
    return RunSpec.from_dict(
        {
            "experiment": experiment,
            "arm": arm,
            "label": changes.get("label", arm.upper()),
            "seed": seed,
            "scale": "laptop",
            "config": {
                "model": {"vision": "siglip-nano", "language": {"name": "hf", "id": "x/y"}, "connector": "mlp",
                          "architecture": "autoregressive"},
                "stages": {name: {**stage, "data": {"mixture": {"stub": {
                    "source": {"name": "stub-source", "note": note or arm}}}}} for name, stage in stages.items()},
                "evaluation": {"benchmarks": {"vqa": {"benchmark": "stub-benchmark"}}},
            },
            "seeds": {"init": seed, "data": seed, "dropout": seed},
            "plugins": [PLUGIN],
            "paper": "idefics2_t03",
            "cell": {"connector": "mlp"},
            "stand_ins": {"model.vision": "SigLIP-SO400M -> siglip-nano (small)"},
            "scaled": {"stages.train.steps": "6000 -> 10"},
        }
    )  # fmt: skip


def make_scores(score: float = 50.0) -> list[dict[str, Any]]:
    """Score records of two columns, with and without images."""
    common = {"split": "report", "split_hash": "abc", "template": "vqa/1", "shots": 4, "demonstration_seed": 0,
              "scorer": "accuracy", "scorer_version": "1", "items": 300, "unparsed": 0,
              "demonstrations": "random"}  # fmt: skip
    return [
        {"benchmark": column, "column": column, "score": value, "blind": blind, **common}
        for column, value, blind in (
            ("vqa", score, False),
            ("ocr", score / 2, False),
            ("vqa", 10.0, True),
            ("ocr", 2.0, True),
        )
    ]
