"""A small valid experiment with a scale beside it, and a way to write broken ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

EXPERIMENT = """\
name: demo/depth
title: Depth of the resampler
paper: {key: idefics2_t12}
factor: [model.connector.depth]
seeds: [0, 1]
model:
  vision: {name: hf, id: google/siglip-so400m-patch14-384}
  language: {name: hf, id: mistralai/Mistral-7B-v0.1}
  connector: {name: perceiver, latents: 64, depth: 3}
  architecture: autoregressive
data:
  mixture:
    web: {source: {name: pairs, id: laion/laion-coco}}
stages:
  pretrain: {steps: 6000, batch_size: 16}
evaluation:
  benchmarks:
    vqav2: {benchmark: vqav2}
arms:
  one: {cell: {perceiver_layers: 1}, set: {model.connector.depth: 1}}
  three: {cell: {perceiver_layers: 3}}
table:
  claims:
    - {text: depth hardly matters, better: one, worse: three, relation: similar}
"""

SCALE = """\
name: tiny
vision:
  google/siglip-so400m-patch14-384: {use: {name: siglip-nano}, note: small}
language:
  mistralai/Mistral-7B-v0.1: {use: {name: llama-nano, quality: good}}
benchmarks:
  vqav2: {use: {name: offline_vqa}}
values:
  model.connector.latents: {64: 8}
  stages.*.steps: {6000: 30, "*": 10}
overrides:
  data: {mixture: {replace: true, offline: {source: offline}}}
  stages: {"*": {batch_size: 4}}
note: composed pictures
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes `experiments/demo.yaml` (the valid one with text replaced) and `experiments/scales/tiny.yaml`."""

    def put(*edits: tuple[str, str], name: str = "demo.yaml", text: str = EXPERIMENT, scale: str = SCALE) -> Path:
        folder = tmp_path / "experiments"
        (folder / "scales").mkdir(parents=True, exist_ok=True)
        (folder / "scales" / "tiny.yaml").write_text(scale)
        for old, new in edits:
            assert old in text, old
            text = text.replace(old, new)
        (folder / name).write_text(text)
        return folder / name

    return put


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages name files relative to the working directory."""
    monkeypatch.chdir(tmp_path)
