"""Everything that can be wrong with what a user gives, one by one: a clear message, an exit code, nothing lost.

Here what is wrong goes through the command line, into worker processes and the store. Elsewhere, closer to the code:

- unknown key, wrong type, paper cell that does not exist: config/test_bad_input.py, cli/test_commands.py
- connector that cannot fit: models/test_connectors.py, models/test_parts.py
- LoRA pattern that matches nothing: models/test_adapters.py, accounting/test_accounting.py, cli/test_plan.py
- stages that train nothing, tiles that do not divide, sequences shorter than an image:
  accounting/test_what_cannot_be_trained.py; ranks that disagree: runs/test_devices.py
- missing or corrupt image: data/test_decode.py, data/test_module.py (replaced and counted, or too many)
- empty data set: data/test_mixture.py, evaluation/test_benchmarks.py
- columns that are missing, empty strings, image addresses, damaged shards: data/test_sources.py
- mixture weight of zero or below: data/test_mixture.py, data/test_sources.py
- text with another number of image tokens than images: data/test_encode.py
- benchmark without references, without a column or a split: evaluation/test_benchmarks.py
- answers that cannot be scored: evaluation/test_score_file.py; scores that are unlike: reporting/test_report.py
- PDFs that are damaged, locked or without text, folders without any: docmatix/test_build.py
- endpoint that cannot be reached, refuses the key, lacks the model or dies: docmatix/test_endpoint.py
- checkpoints that are damaged, do not fit or are not here: cli/test_parity.py, checkpoints/test_init_from.py,
  checkpoints/test_export.py; parts and runs to start from that are not there or do not fit: runs/test_starts.py
- runs that cannot be exported, folders that cannot be written to: cli/test_export.py
- launchers that do not exist or do not take a setting: cli/test_launchers.py; clusters that do not answer, do not have
  what is asked for, or do not see the home: launch/test_ray.py, launch/test_slurm.py, launch/test_engine.py
- tracking server: tracking/test_store.py (down at the start), tracking/test_publish.py (gone while a run goes)
- full disk, read-only folder: runs/test_continued.py, test_home.py, tracking/test_store.py, evaluation/test_evaluate.py
- interruption, kill: runs/test_continued.py, launch/test_local.py, training/test_stages.py, evaluation/test_evaluate.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from training.squares import EXECUTION, STAGE, square
from typer.testing import Result

from tests.command import call
from vlm_ablate.home import Home
from vlm_ablate.models.connectors.linear import LinearConnector
from vlm_ablate.runs.catalogue import asked_for
from vlm_ablate.runs.live import read_live
from vlm_ablate.tracking.read import read_records
from vlm_ablate.tracking.records import RunRecord

NAME = "bad_input"
pytestmark = pytest.mark.usefixtures("own_cache")


def write(folder: Path, parts: Path, arms: dict[str, dict[str, Any]], **stage: Any) -> Path:
    """An experiment of two steps on squares, with these arms."""
    experiment = {
        "name": NAME,
        "title": "Bad input",
        "plugins": ["training.squares"],
        "seeds": [0],
        "model": {
            "vision": {"name": "siglip-native", "id": str(parts / "vision")},
            "language": {"name": "hf", "id": str(parts / "lm")},
            "connector": "linear",
            "architecture": "autoregressive",
        },
        "data": {"mixture": {"one": {"source": "squares"}}, "image": {"size": 16}, "sequence_length": 64},
        "stages": {"train": STAGE | {"steps": 2} | stage},
        "evaluation": {"benchmarks": {"colour": {"benchmark": "squares"}}, "shots": 1, "blind": False},
        "execution": EXECUTION,
        "arms": {name: {"set": changes} for name, changes in arms.items()},
    }
    file = folder / "bad.yaml"
    file.write_text(yaml.safe_dump(experiment, sort_keys=False))
    return file


def pairs(folder: Path, name: str, broken: int, whole: int) -> dict[str, Any]:
    """A data section of pictures of which the first are missing or corrupt, alternately."""
    (folder / name).mkdir()
    rows = []
    for i in range(broken + whole):
        colour, ref = square(i)
        if i >= broken:
            ref.load().save(folder / name / f"{i}.png")
        elif i % 2:
            (folder / name / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
        rows.append(json.dumps({"image": f"{i}.png", "text": colour}))
    (folder / name / "rows.jsonl").write_text("\n".join(rows))
    source = {"name": "pairs", "id": str(folder / name / "rows.jsonl")}
    return {"data.mixture.one.source": source, "execution.max_skipped": 1.0}


def questions(folder: Path) -> dict[str, Any]:
    """A benchmark whose last picture is missing."""
    (folder / "questions").mkdir()
    for split in ("train", "validation"):
        rows = [{"image": f"{i}.png", "question": "what colour", "answers": ["red"] * 10, "question_id": i,
                 "image_id": f"{split}{i}"} for i in range(4)]  # fmt: skip
        (folder / "questions" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for i in range(3):
        Image.new("RGB", (16, 16), "red").save(folder / "questions" / f"{i}.png")
    splits = {"train": "train", "report": "validation"}
    return {"evaluation.benchmarks.colour.benchmark":
            {"name": "textvqa", "id": str(folder / "questions"), "splits": splits}}  # fmt: skip


def records_of(home: Home) -> dict[str, RunRecord]:
    return {record.arm: record for record in read_records(home.tracking_uri, NAME)}


def run(file: Path, home: Home) -> tuple[Result, dict[str, RunRecord]]:
    """The command's result, and the records by arm."""
    result = call("run", file, "--scale", "paper", "--home", home.root, "--jobs", "1")
    return result, records_of(home)


UNFIT = {"model.connector": {"name": "perceiver", "projection": "none", "heads": 2, "head_dim": 8, "kv_heads": 1}}
NOWHERE = {"stages.train": {"language": "lora", "lora": {"language_targets": ["nowhere"]}}}


def test_what_is_wrong_with_material_is_said_at_once_and_nothing_is_trained(
    parts: Path, tmp_path: Path, home: Home
) -> None:
    (tmp_path / "empty.jsonl").touch()
    arms = {
        "good": {},
        "empty": {"data.mixture.one.source": {"name": "pairs", "id": str(tmp_path / "empty.jsonl")}},
        "unlike": questions(tmp_path),
    }
    result, records = run(write(tmp_path, parts, arms), home)
    assert result.exit_code == 1 and "Traceback" not in result.output
    told = " ".join(result.stderr.split())
    assert "empty.jsonl' is empty" in told and "column 'colour' would hold scores that no table compares" in told
    assert not records and not list(home.stages.glob("*"))


def test_each_bad_arm_ends_with_its_message_and_the_good_ones_are_kept(
    parts: Path, tmp_path: Path, home: Home
) -> None:
    arms = {
        "good": {},
        "unfit": UNFIT,
        "nowhere": NOWHERE,
        "broken": pairs(tmp_path, "broken", 4, 0),
        "patchy": pairs(tmp_path, "patchy", 3, 9),
        "no_asset": {"data.mixture.one.source": {"name": "squares", "missing": True}},
    }
    result, records = run(write(tmp_path, parts, arms), home)
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert {arm: record.status for arm, record in records.items()} == {
        "good": "finished", "unfit": "failed", "nowhere": "failed", "broken": "failed", "patchy": "finished",
        "no_asset": "skipped",
    }  # fmt: skip
    messages = {
        "unfit": "features are 16 wide and the architecture asks for 32",
        "nowhere": "the language LoRA targets ['nowhere'] match no module",
        "broken": "none of 4 rows in a row can be used",
        "no_asset": "the squares are not installed",
    }
    told = " ".join(result.stderr.split())
    for arm, message in messages.items():
        assert message in records[arm].message and message in told
    assert re.search(r"\d\.png of rows.jsonl:\d (is not an image|does not exist)", records["broken"].message)
    # Where the run can go on, it does, and says so.
    assert records["patchy"].metrics["data/skipped"] >= 1 and records["good"].metrics["data/skipped"] == 0
    assert "samples cannot be used; others took their place" in " ".join(result.stdout.split())
    # The same command tries again what failed, and nothing else.
    again, records = run(tmp_path / "bad.yaml", home)
    assert again.exit_code == 1
    assert "(2 recorded earlier)" in again.stdout


def test_a_question_whose_picture_is_missing_fails_the_run_and_its_weights_are_kept(
    parts: Path, tmp_path: Path, home: Home
) -> None:
    result, records = run(write(tmp_path, parts, {"unreadable": questions(tmp_path)}), home)
    assert result.exit_code == 1 and records["unreadable"].status == "failed"
    assert "image 3.png of textvqa/3 does not exist" in records["unreadable"].message
    shutil.copyfile(tmp_path / "questions" / "0.png", tmp_path / "questions" / "3.png")
    (weights,) = home.stages.rglob("weights.safetensors")
    before = weights.stat().st_mtime_ns
    result, records = run(tmp_path / "bad.yaml", home)
    assert result.exit_code == 0 and records["unreadable"].status == "finished"
    assert weights.stat().st_mtime_ns == before, "only the scores were missing"


def test_parts_that_cannot_fit_are_found_by_plan(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, parts, {"good": {}, "unfit": UNFIT, "nowhere": NOWHERE})
    result = call("plan", file, "--scale", "paper")
    assert result.exit_code == 1
    told = " ".join(result.stderr.split())
    assert "unfit: perceiver without projection: features are 16 wide and the architecture asks for 32" in told
    assert "nowhere: the language LoRA targets ['nowhere'] match no module" in told and "good:" not in told
    # A connector of one's own that breaks its word
    linear = LinearConnector.forward
    monkeypatch.setattr(LinearConnector, "forward", lambda self, *a: torch.cat([linear(self, *a)] * 2, dim=-1))
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path / "without_plans"))
    result = call("plan", file, "--scale", "paper", "--arms", "good")
    assert result.exit_code == 1
    told = " ".join(result.stderr.split())
    assert "good: connector 'linear' gives 4 x 64 a view, where 4 visual tokens of width 32 are expected" in told


@pytest.mark.parametrize("command", ["run", "table"])
def test_a_tracking_server_that_is_down(command: str, parts: Path, tmp_path: Path) -> None:
    file = write(tmp_path, parts, {"good": {}})
    options = ["--scale", "paper", "--home", tmp_path / "home", "--tracking-uri", "http://127.0.0.1:9"]
    result = call(command, file, *options)
    assert result.exit_code == 1
    assert "127.0.0.1:9" in result.stderr and "does not answer" in result.stderr
    assert not list((tmp_path / "home").glob("stages/*"))


def _trains(arm: str, home: Home) -> bool:
    """Whether a run of the arm has made some steps."""
    live = [read_live(folder) for folder, body in asked_for(home) if body["spec"]["arm"] == arm]
    return any(run is not None and run.doing == "training" and run.step > 5 for run in live)


def test_after_ctrl_c_what_is_done_is_kept_and_a_checkpoint_stays(parts: Path, tmp_path: Path, home: Home) -> None:
    arms = {"first": {}, "long": {"stages.train.steps": 100_000, "execution.checkpoint_every": 100_000}}
    file = write(tmp_path, parts, arms)
    command = [sys.executable, "-m", "vlm_ablate", "run", str(file), "--scale", "paper", "--home", str(home.root)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    going = subprocess.Popen(
        [*command, "--jobs", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert going.stderr is not None
    until = time.monotonic() + 200
    while not _trains("long", home):
        assert going.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    going.send_signal(signal.SIGINT)
    told = going.stderr.read()
    assert going.wait() == 130, told
    assert "interrupted: 1 of 2 runs are done" in told and "the same command continues" in " ".join(told.split())
    records = records_of(home)
    assert (records["first"].status, records["long"].status) == ("finished", "running")
    assert list(home.stages.rglob("*.ckpt")), "a checkpoint to go on from"


def test_a_home_that_is_full_or_cannot_be_written(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, parts, {"good": {}})
    (tmp_path / "file").touch()
    result = call("run", file, "--scale", "paper", "--home", tmp_path / "file" / "home")
    assert result.exit_code == 1 and "a part of the path is a file" in " ".join(result.stderr.split())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=2**20))
    result = call("run", file, "--scale", "paper", "--home", tmp_path / "home")
    assert result.exit_code == 1 and "only 1 MiB are free" in " ".join(result.stderr.split())
