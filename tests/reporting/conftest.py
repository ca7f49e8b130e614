"""Synthetic records, plainly test data: scores are made up, and no such record is ever written under results/."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from vlm_ablate.config.evaluation import EvaluationConfig
from vlm_ablate.config.experiment import Arm, Claim, Experiment, PaperRef, TableConfig
from vlm_ablate.evaluation.record import ScoreRecord
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import History, Point, RunRecord

COLUMNS = ("vqa", "knowledge", "text", "captions")
PERCEIVER, CROSS = "Fully autoregressive (Perceiver)", "Cross-attention"
CELLS = {
    "ar_linear": {"architecture": "Fully autoregressive, no Perceiver", "backbones": "frozen"},
    "ar_perceiver": {"architecture": PERCEIVER, "backbones": "frozen"},
    "ca": {"architecture": CROSS, "backbones": "frozen"},
    "ca_lora": {"architecture": CROSS, "backbones": "LoRA"},
    "ar_lora": {"architecture": PERCEIVER, "backbones": "LoRA"},
}
LEVELS = {"ar_linear": 21.0, "ar_perceiver": 34.0, "ca": 31.5, "ca_lora": 37.0, "ar_lora": 44.0}
STAND_INS = {
    "model.language": "mistralai/Mistral-7B-v0.1 -> llama-nano (1.9M parameters, pretrained on public-domain text)",
    "model.vision": "google/siglip-so400m-patch14-384 -> siglip-nano (1.1M parameters)",
    "evaluation.benchmarks.vqa.benchmark": "HuggingFaceM4/VQAv2 -> offline_vqa (composed scenes)",
}


@pytest.fixture
def experiment() -> Experiment:
    """The paper's Table 3 with the fields that a report reads; models and data are left out."""
    labels = {arm: ", ".join(cell.values()) for arm, cell in CELLS.items()}
    claims = [
        Claim(text="Cross-attention wins with frozen backbones", better="ca", worse="ar_perceiver"),
        Claim(text="Autoregressive wins once backbones are adapted", better="ar_lora", worse="ca_lora"),
        Claim(text="A Perceiver helps", better="ar_perceiver", worse="ar_linear", paper_gain=8.5),
        Claim(text="LoRA hardly changes cross-attention", better="ca_lora", worse="ca", relation="similar"),
    ]
    return Experiment.model_construct(
        name="test/t03",
        title="Fusion architecture and training of the backbones (synthetic test data)",
        question="Does cross-attention or full autoregression fuse better, with frozen and with adapted backbones?",
        paper=PaperRef(key="idefics2_t03"),
        plugins=[],
        seeds=[0, 1, 2],
        arms={arm: Arm(label=labels[arm], cell=cell) for arm, cell in CELLS.items()},
        evaluation=EvaluationConfig.model_construct(benchmarks=dict.fromkeys(COLUMNS)),
        table=TableConfig(claims=claims),
    )


def score(column: str, value: float, **changes: Any) -> dict[str, Any]:
    """A score record as a run's tag holds it."""
    protocol: dict[str, Any] = {
        "benchmark": f"offline_{column}",
        "column": column,
        "split": "report",
        "split_hash": f"{COLUMNS.index(column):016x}",
        "template": "caption/1" if column == "captions" else "vqa/1",
        "shots": 4,
        "demonstration_seed": 0,
        "scorer": "cider" if column == "captions" else "vqa_accuracy",
        "scorer_version": "1",
        "items": 400,
        "unparsed": 0,
        "score": value,
        "blind": False,
    }
    return ScoreRecord(**protocol | changes).to_dict()


def make_run(arm: str, seed: int = 0, *, scale: str = "laptop", status: str = "finished", **changes: Any) -> RunRecord:
    """One run's record; `scores` and tags may be given."""
    noise = random.Random(f"{arm}{seed}").gauss
    common = random.Random(seed).gauss(0, 2.0)
    level = LEVELS.get(arm, 30.0)
    scores = [score(c, level + common + 6 * i - 9 + noise(0, 0.7)) for i, c in enumerate(COLUMNS)]
    scores += [score(c, 9.0 + 2 * i + noise(0, 0.4), blind=True) for i, c in enumerate(COLUMNS)]
    tags = {
        schema.ARM: arm,
        schema.SEED: str(seed),
        schema.SCALE: scale,
        schema.RUN: f"{arm}-{seed}",
        schema.DATA_FINGERPRINT: "0123456789abcdef",
        schema.STAND_INS: json.dumps(STAND_INS),
        schema.LICENCES: json.dumps([{"name": "OpenMoji", "licence": "CC BY-SA 4.0"}]),
    }
    cross = arm.startswith("ca")
    metrics = {schema.PARAMS_TOTAL: 3.4e6 if cross else 3.05e6, schema.PARAMS_TRAINABLE: 412e3 if cross else 98.4e3}
    fields: dict[str, Any] = {
        "run_id": f"{arm}-{seed}-{scale}",
        "experiment": "test/t03",
        "name": f"{arm} · seed {seed} · {scale}",
        "status": status,
        "tags": tags | changes.pop("tags", {}),
        "params": {"arm": arm, "seed": str(seed), "scale": scale, "stages.train.steps": "400"},
        "metrics": metrics,
        "arm": arm,
        "seed": seed,
        "scale": scale,
        "scores": scores if status == "finished" else [],
        "start_time": 1000 + seed,
    }
    return RunRecord(**fields | changes)


def make_history(record: RunRecord, points: int = 6) -> History:
    """A score that rises to about the level of the arm, and counters that differ between architectures."""
    noise, level = random.Random(record.run_id).gauss, LEVELS.get(record.arm, 30.0)
    per_step = {schema.SEEN_IMAGES: 64.0, schema.SEEN_TEXT_TOKENS: 900.0 if record.arm.startswith("ca") else 1400.0}
    per_step |= {schema.SEEN_VISUAL_TOKENS: 500.0, schema.SEEN_FLOPS: 2.1e11 if record.arm.startswith("ca") else 1.7e11}
    steps = [round(400 * i / points) for i in range(1, points + 1)]
    history = {m: [Point(s, s * each, 0) for s in steps] for m, each in per_step.items()}
    history["curve/mean"] = [Point(s, 8 + (level - 8) * (1 - 2.718 ** (-s / 130)) + noise(0, 0.9), 0) for s in steps]
    return history


@pytest.fixture
def runs() -> list[RunRecord]:
    """Five arms with three seeds each."""
    return [make_run(arm, seed) for seed in range(3) for arm in CELLS]


@pytest.fixture
def run() -> Callable[..., RunRecord]:
    """Makes one record."""
    return make_run


@pytest.fixture
def score_of() -> Callable[..., dict[str, Any]]:
    """Makes one score record as plain data."""
    return score


@pytest.fixture
def history() -> Callable[..., History]:
    """Makes the histories of one record."""
    return make_history


@pytest.fixture
def histories(runs: list[RunRecord]) -> dict[str, History]:
    """Run id -> histories."""
    return {r.run_id: make_history(r) for r in runs}
