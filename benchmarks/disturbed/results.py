"""Everything that runs leave and that must be equal, whatever happened on the way."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

from disturbed.processes import specs

NOT_COMPARED = {"train/tokens_per_s", "time/wall_s", "time/waiting_for_data"}


def results_in(home: Path, parts: Path) -> dict[str, Any]:
    """Everything of the runs in a home that must be equal, by name."""
    from vlm_ablate.home import Home
    from vlm_ablate.runs.results import find_results
    from vlm_ablate.storage import file_sha256

    found: dict[str, Any] = {}
    for spec in specs(parts):
        results = find_results(spec, Home(home))
        found[f"{spec.arm} status"] = results.status
        for stage in results.stages:
            name = f"{spec.arm} {(stage.manifest() or {}).get('stage')}"
            found[f"{name} weights"] = file_sha256(stage.weights) if stage.weights.exists() else None
            for file in sorted(stage.curve.glob("*.jsonl")):
                found[f"{name} {file.name}"] = file.read_text()
        entries = [(e.step, {k: v for k, v in e.values.items() if k not in NOT_COMPARED}) for e in results.entries()]
        found[f"{spec.arm} log"] = repr(entries)
        for key, score in results.scores:
            body = {k: v for k, v in (score.outcome() or {}).items() if k not in ("seconds", "ended_ms")}
            found[f"{spec.arm} {key.column} {key.mode} score"] = body
            found[f"{spec.arm} {key.column} {key.mode} predictions"] = score.predictions.read_text()
        found |= {f"{spec.arm} store {k}": v for k, v in _in_store(home, spec.id).items()}
    return found


def _in_store(home: Path, id: str) -> dict[str, Any]:
    with sqlite3.connect(f"file:{home}/mlflow.db?mode=ro", uri=True) as db:
        runs = db.execute(
            "SELECT r.run_uuid, r.status FROM runs r JOIN tags t ON r.run_uuid = t.run_uuid"
            " WHERE t.key = 'vlm.run' AND t.value = ? AND r.lifecycle_stage = 'active'", (id,)).fetchall()  # fmt: skip
        if len(runs) != 1:
            return {"runs": runs}
        query = "SELECT DISTINCT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY key, step, value"
        points = [row for row in db.execute(query, (runs[0][0],)) if row[0] not in NOT_COMPARED]
    return {"status": runs[0][1], "points": repr(points)}


def new_home(folder: Path, template: Path) -> Path:
    """A home with an empty store."""
    folder.mkdir(parents=True)
    shutil.copyfile(template, folder / "mlflow.db")
    return folder
