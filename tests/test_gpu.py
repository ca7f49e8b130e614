"""What only a GPU can show; left out where there is none. `benchmarks/gpu/run.py` does the same without pytest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vlm_ablate.registry import load_plugins

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The checks of the pack."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks" / "gpu"))
    load_plugins()
    import checks

    yield checks
    for name in ("checks", "steps", "batches", "shapes"):
        sys.modules.pop(name, None)


def test_documents_in_one_row_read_as_padded_ones_in_bf16_by_every_kernel(checks: Any) -> None:
    found = checks.attention()
    assert any("varlen" in name or "flash_attn" in name for name in found), "there is a kernel of flash attention"


def test_flash_attention_is_what_computes(checks: Any) -> None:
    assert all(checks.flash_is_used().values())


def test_laptop_runs_rank_as_on_a_cpu(checks: Any, tmp_path: Path) -> None:
    checks.laptop(tmp_path, seconds=600)
