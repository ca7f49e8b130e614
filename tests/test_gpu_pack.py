"""The pack of checks and measurements for a GPU runs on a CPU at tiny size, and writes what it finds part by part."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "gpu" / "run.py"


def run(out: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[int, dict]:
    monkeypatch.setattr(sys, "argv", [str(FILE), "--out", str(out), "--size", "tiny", *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FILE), run_name="__main__")
    return int(ended.value.code or 0), json.loads((out / "results.json").read_text())["parts"]


def test_every_part_of_the_pack_runs_at_tiny_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, parts = run(tmp_path, monkeypatch, "--minutes", "5")
    assert status == 0 and not {name: part for name, part in parts.items() if "found" not in part}
    assert max(parts["checks"]["found"].values()) < 1e-4
    assert list(parts)[:3] == ["checks", "idefics3_8b dora", "idefics3_8b dora transformers"]
    assert parts["switch padded"]["found"]["attention"] == "padded"
    assert all(part["found"]["tokens_per_s"] > 0 for name, part in parts.items() if name != "checks")


def test_what_there_is_no_time_for_is_said_to_be_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, parts = run(tmp_path, monkeypatch, "--minutes", "-1")
    assert status == 1 and all("skipped" in part for part in parts.values())
