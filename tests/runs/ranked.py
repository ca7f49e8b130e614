"""A tiny Idefics3 of two stages in which nothing is drawn: any number of ranks gives the weights of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from training.squares import save_parts

from vlm_ablate.home import Home
from vlm_ablate.runs.export import export_run
from vlm_ablate.runs.find import FinishedRun
from vlm_ablate.runs.results import find_results, find_stages
from vlm_ablate.runs.spec import RunSpec

STAGE = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3}
LORA = {"r": 2, "dropout": 0.0}


def write_experiment(
    folder: Path, *, plugin: str = "training.squares", source: str = "squares", steps: int = 3, split: str = "tiles"
) -> Path:
    """Its file, with the parts beside it."""
    save_parts(folder)
    config = folder / "lm" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"attention_dropout": 0.0}))
    experiment: dict[str, Any] = {
        "name": "tests/devices",
        "title": "Ranks",
        "plugins": [plugin],
        "seeds": [0],
        "model": {
            "vision": {"name": "siglip-native", "id": str(folder / "vision"), "patches": "any"},
            "language": {"name": "hf", "id": str(folder / "lm")},
            "connector": {"name": "pixel_shuffle", "factor": 2},
            "architecture": "autoregressive",
        },
        "data": {
            "mixture": {"one": {"source": source}},
            "image": {"size": 32, "split": split, "tile": 16},
            "sequence_length": 96,
        },
        "stages": {
            "align": STAGE | {"steps": steps, "language": "full"},
            "tune": STAGE | {"steps": steps, "language": "dora", "lora": LORA},
        },
        "execution": {"checkpoint_every": 2, "log_every": 1},
        "evaluation": {"benchmarks": {"colour": {"benchmark": "squares"}}, "shots": 0, "blind": False},
        "arms": {"only": {}},
    }
    written = folder / "devices.yaml"
    written.write_text(yaml.safe_dump(experiment, sort_keys=False))
    return written


def compare_weights(spec: RunSpec, home: Home, other: Home) -> None:
    """Both homes have all stages, with equal weights up to rounding, after the same samples."""
    for mine, theirs in zip(find_stages(spec, home), find_stages(spec, other), strict=True):
        outcome, expected = mine.outcome(), theirs.outcome()
        assert outcome is not None and expected is not None
        assert outcome["seen"] == expected["seen"] and outcome["skipped"] == 0
        weights, others = load_file(mine.weights), load_file(theirs.weights)
        assert weights.keys() == others.keys()
        for name, value in weights.items():
            torch.testing.assert_close(value, others[name], rtol=1e-5, atol=1e-5, msg=lambda m, at=name: f"{at}: {m}")


def exported(spec: RunSpec, home: Home, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the last stage as transformers' own class has them."""
    export_run(FinishedRun(spec, find_results(spec, home)), folder, check=False)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Idefics3ForConditionalGeneration"]
    return load_file(folder / "model.safetensors")


def compare_exports(spec: RunSpec, home: Home, other: Home, folder: Path) -> None:
    """What both homes export is equal within 1e-5."""
    mine, theirs = exported(spec, home, folder / "mine"), exported(spec, other, folder / "theirs")
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-5, msg=lambda m, at=name: f"{at}: {m}")
