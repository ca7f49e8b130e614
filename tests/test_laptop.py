"""The laptop experiment from its file to its table, as a person does it, with two steps and a handful of items."""

from __future__ import annotations

import csv
import io
import re
import shlex
from pathlib import Path

import pytest

from tests.command import call
from vlm_ablate.home import Home
from vlm_ablate.tracking.read import read_records

ROOT = Path(__file__).parents[1]
NAME = "idefics2/t03_architecture"
AR = {"ar_linear_frozen", "ar_perceiver_frozen", "ar_perceiver_lora", "ar_perceiver_full"}
ARMS = AR | {"cross_attention_frozen", "cross_attention_lora"}
COLUMNS = ("vqav2", "okvqa", "textvqa", "coco")
TINY = [
    "stages.*.steps=2",
    "stages.*.warmup_steps=0",
    "data.mixture.*.source.rows=16",
    "evaluation.benchmarks.*.benchmark.items=12",
    "evaluation.benchmarks.*.limit=6",
    "evaluation.curve={points: 1, limit: 4}",
]

pytestmark = [pytest.mark.end_to_end, pytest.mark.usefixtures("offline_material"), pytest.mark.timeout(900)]


def state(home: Home) -> dict[str, int]:
    """Every file of the home and when it was written."""
    return {str(p): p.stat().st_mtime_ns for p in home.root.rglob("*") if p.is_file() and p.name != ".lock"}


def test_from_one_yaml_file_to_the_table(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    command = ["run", f"experiments/{NAME}.yaml", "--seeds", "0", "--jobs", "2", "--home", str(home.root)]
    command += [part for setting in TINY for part in ("--set", setting)]
    result = call(*command)
    assert result.exit_code == 0, result.output
    assert "6 finished" in result.stdout

    records = read_records(home.tracking_uri, NAME)
    assert {r.arm for r in records} == ARMS and {r.status for r in records} == {"finished"}
    for record in records:
        assert {(s["column"], s["items"]) for s in record.scores} == {(c, 6) for c in COLUMNS}
        assert "siglip-nano" in record.stand_ins["model.vision"] and record.scaled["data.image.size"] == "384 -> 64"
        assert record.metrics["seen/images"] > 0 and record.metrics["data/skipped"] == 0
    assert len({r.tags["vlm.data_fingerprint"] for r in records}) == 1, "all arms see the same data"

    # The command says how to print the table; every format comes from the records.
    (told,) = re.findall(r"^the table: vlm-ablate (.*)$", result.stdout, re.MULTILINE)
    table = shlex.split(told)
    text = {kind: call(*table, "--format", kind).stdout for kind in ("markdown", "latex", "csv", "html")}
    for kind, found in text.items():
        assert "69.5" in found and "siglip-nano" in found, f"{kind}: the paper's number and our stand-in"
    rows = list(csv.DictReader(io.StringIO(text["csv"])))
    assert {row["arm"] for row in rows} == ARMS
    assert call(*table, "--out", str(tmp_path / "table.png")).exit_code == 0
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")
    assert call(*table, "--out", str(tmp_path / "results")).exit_code == 0
    assert {"records.json", "table.md", "table.tex", "table.csv", "table.html", "table.png"} <= {
        path.name for path in (tmp_path / "results").rglob("*")
    }

    # The same command again does nothing.
    before = state(home)
    again = call(*command)
    assert again.exit_code == 0
    assert "(6 recorded earlier)" in again.stdout
    assert state(home) == before
