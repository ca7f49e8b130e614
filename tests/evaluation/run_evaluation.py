"""Evaluates the tiny model in a process of its own, and stands still half-way: `run_evaluation.py CHECKPOINTS OUT`."""

import sys
import time
from pathlib import Path

import torch

import conftest
from vlm_ablate.config.data import DataConfig, ImageConfig
from vlm_ablate.config.evaluation import BenchmarkEntry, EvaluationConfig
from vlm_ablate.evaluation.evaluate import evaluate

torch.set_num_threads(1)
checkpoints, out = Path(sys.argv[1]), Path(sys.argv[2])
data = DataConfig.model_construct(mixture={}, image=ImageConfig(size=16), sequence_length=64, prompt="plain")
entry = BenchmarkEntry.model_validate({"benchmark": "test_squares"})
cfg = EvaluationConfig.model_validate({"benchmarks": {"s": entry}, "shots": 2})
vlm = conftest.tiny_vlm(checkpoints, data.image)
evaluate(vlm, "s", entry, cfg, data, batch_size=2, blind=False, out=out,
         progress=lambda done, total: time.sleep(600 if done >= total // 2 else 0))  # fmt: skip
