"""The pack of checks and measurements for a GPU runs on a CPU at tiny size, and writes what it finds part by part."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlm_ablate.registry import load_plugins

FILE = Path(__file__).parents[1] / "benchmarks" / "gpu" / "run.py"
OWN = ("checks", "steps", "batches", "shapes", "summary")


def run(out: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[int, dict]:
    monkeypatch.setattr(sys, "argv", [str(FILE), "--out", str(out), "--size", "tiny", *options])
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(FILE), run_name="__main__")
    finally:
        for name in OWN:
            sys.modules.pop(name, None)
    return int(ended.value.code or 0), json.loads((out / "results.json").read_text())


def test_every_part_of_the_pack_runs_at_tiny_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, results = run(tmp_path, monkeypatch, "--minutes", "5")
    parts = results["parts"]
    assert status == 0 and not {name: part for name, part in parts.items() if "found" not in part}
    assert max(parts["checks"]["found"].values()) < 2e-4
    forms = ["idefics3_8b dora", "idefics3_8b lora", "smolvlm_256m lora", "idefics2_8b lora"]
    expected = [name + whose for name in forms for whose in ("", " transformers")]
    assert list(parts)[: len(expected) + 1] == ["checks", *expected]
    switches = {name.removeprefix("switch "): part["found"] for name, part in parts.items() if "switch" in name}
    assert {"as it is", "padded", "attention documents", "logits everywhere", "stored features"} < set(switches)
    assert switches["padded"]["attention"] == "padded" and switches["padded"]["fill"] < 1
    assert switches["as it is"]["fill"] == 1 and switches["compiled"]["compiled_layers"] == 4
    assert all(part["found"]["tokens_per_s"] > 0 for name, part in parts.items() if name != "checks")
    assert set(results["summary"]) == {*forms, *(f"switch {name}" for name in switches if name != "as it is")}
    page = (tmp_path / "results.md").read_text()
    assert ("MFU is not told" in page) == (parts["idefics3_8b lora"]["found"]["mfu"] is None)
    assert all(f"| {name} |" in page for name in parts)


def test_what_there_is_no_time_for_is_said_to_be_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, results = run(tmp_path, monkeypatch, "--minutes", "-1")
    assert status == 1 and all("skipped" in part for part in results["parts"].values())
    assert "0 s were left" in (tmp_path / "results.md").read_text()


def test_a_part_that_is_at_work_when_the_time_is_up_ends_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FILE.parent))
    load_plugins()
    pack = runpy.run_path(str(FILE))["Pack"](tmp_path, minutes=1 / 120)
    for name in OWN:
        sys.modules.pop(name, None)
    pack.run("slow", lambda: [sum(range(10**6)) for _ in range(10**6)], 0.0)
    pack.run("next", lambda: 1, 0.0)
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert "TimeoutError: not done in the 0 s" in parts["slow"]["failed"]
    assert "skipped" in parts["next"]


def test_a_pack_that_lost_its_gpu_goes_on_with_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, before = run(tmp_path, monkeypatch, "--minutes", "-1")
    kept = before | {"parts": {name: part for name, part in before["parts"].items() if name != "checks"}}
    (tmp_path / "results.json").write_text(json.dumps(kept))
    status, results = run(tmp_path, monkeypatch, "--minutes", "5", "--again")
    assert status == 0 and "found" in results["parts"].pop("checks")
    assert results["parts"] == kept["parts"]


def test_a_gpu_that_repeats_its_error_is_of_no_use_to_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FILE.parent))
    usable = runpy.run_path(str(FILE))["usable"]
    for name in OWN:
        sys.modules.pop(name, None)

    def repeat() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    assert usable()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.synchronize", repeat)
    assert not usable()


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FILE.parent))
    load_plugins()
    import checks

    yield checks
    for name in OWN:
        sys.modules.pop(name, None)


def test_the_encoders_own_flash_attention_does_not_pass_for_the_documents(
    checks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "kernels", lambda: ["documents", "varlen"])  # which takes nothing of a CPU's
    with pytest.raises(AssertionError, match="varlen with full: no flash attention was called for the documents"):
        checks.flash_is_used()


def test_laptop_runs_that_take_too_long_are_interrupted_not_left_behind(checks: Any, tmp_path: Path) -> None:
    told = tmp_path / "told"
    stops = f"trap 'echo stopped > {told}; exit 1' INT; while :; do sleep 0.05; done"
    with pytest.raises(subprocess.TimeoutExpired):
        checks._told(["sh", "-c", stops], 2)
    assert told.read_text() == "stopped\n"
