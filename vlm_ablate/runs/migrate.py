"""Results of earlier versions of this package under the names of this one: nothing is computed again.

Until version 0.1 one hash over the whole configuration named a run: `runs/HASH` held its weights and predictions, the
tracking store its metrics. Here the configuration is read as it was, put into today's form, and its results go where
today's keys say. What went into the keys as files was not recorded then, so it agrees with whatever is there.

Who writes holds the leases of the run, its stages and its scores, as whoever computes them; what another process
computes now is left to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from vlm_ablate.config.decides import dump
from vlm_ablate.config.experiment import Seeds
from vlm_ablate.config.moved import upgraded
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.errors import TrackingError, VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.lease import Lease, LeaseHeld
from vlm_ablate.runs.folder import StageFolder, find_stage, folders_of_version_01, leased, read_json, run_folder
from vlm_ablate.runs.keys import ScoreKey, has_dora
from vlm_ablate.runs.log import Log
from vlm_ablate.runs.outcome import note_attempt
from vlm_ablate.runs.rerun import ASIDE
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.storage import atomic_path, check_writable, file_sha256, link_or_copy, storage_errors
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import History, RunRecord
from vlm_ablate.tracking.sqlite_reader import SqliteReader

OLD_HASH = "vlm.hash"
BY_ANOTHER = "is taken over by another process"
OTHERWISE = "has DoRA, which is computed otherwise now; it is trained again"


@dataclass(frozen=True)
class Migrated:
    """One run of an earlier version."""

    old: str
    """Its hash."""
    name: str
    spec: RunSpec | None
    """None when it could not be taken over."""
    told: str
    """What was done, or why nothing was."""
    held: bool = False
    """Left to another process, which computes it now; the next time it is taken over."""


def old_hash(config: Mapping[str, Any], seeds: Mapping[str, Any]) -> str:
    """The name of a run in version 0.1."""
    body = {"config": config, "seeds": seeds}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]


def todays_spec(old: Mapping[str, Any]) -> RunSpec:
    """A spec as version 0.1 wrote it, in today's form."""
    from vlm_ablate.registry import load_plugins

    load_plugins(list(old.get("plugins", ())))
    names = ("experiment", "arm", "label", "seed", "scale", "paper", "cell", "stand_ins", "scaled")
    return RunSpec(
        **{name: old[name] for name in names},
        config=RunConfig.model_validate(upgraded(old["config"])),
        seeds=Seeds.model_validate(old["seeds"]),
        plugins=tuple(old.get("plugins", ())),
    )


def migrate_home(home: Home, notify: Callable[[str], None] = lambda message: None) -> list[Migrated]:
    """Take over every run of version 0.1 in a home. Its old folder is kept under `runs/earlier`.

    Raises:
        StorageError: the home cannot be written.
        LeaseLost: another process takes them over now, as this one showed no life.
    """
    done = []
    for root in folders_of_version_01(home):
        found = _migrate_folder(root, home, notify)
        done.append(found)
        notify(f"{found.name}: {found.told}")
    return done


def _migrate_folder(root: Path, home: Home, notify: Callable[[str], None]) -> Migrated:
    try:
        old = yaml.safe_load((root / "artifacts" / schema.CONFIG_FILE).read_text(encoding="utf-8"))
        spec = todays_spec(old)
        outcome = read_json(root / "outcome.json")
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, VlmAblateError) as error:
        told = f"left as it is: {str(error).partition(chr(10))[0]}" if root.is_dir() else BY_ANOTHER
        return Migrated(root.name, root.name, None, told)
    name = f"{spec.experiment} {spec.run_name}"
    if outcome is None or outcome.get("status") not in schema.DONE:
        return Migrated(root.name, name, None, "had not ended; it is trained again" if root.is_dir() else BY_ANOTHER)
    if trained_otherwise(spec):
        return Migrated(root.name, name, None, OTHERWISE)
    kept = home.runs / ASIDE / root.name
    with Lease.acquire(kept.parent, waiting=lambda owner: notify(f"waits for {owner or 'another process'}")):
        if not root.is_dir():
            return Migrated(root.name, name, None, BY_ANOTHER)
        record, history = _tracked(home, spec, root.name)
        try:
            take_over(spec, home, root, outcome, record, history)
        except LeaseHeld as held:
            return left_to(held, root.name, name)
        with storage_errors("move", root):
            check_writable(kept)
            os.rename(root, kept)
    return Migrated(root.name, name, spec, f"is {spec.id} now, its weights {spec.stage_keys[-1].key}")


def left_to(held: LeaseHeld, old: str, name: str) -> Migrated:
    """A run that another process has now."""
    return Migrated(old, name, None, f"left for now: {held}", held=True)


def trained_otherwise(spec: RunSpec) -> bool:
    """Whether version 0.1 computed such a run in a way that its key of today does not stand for."""
    return any(has_dora(stage) for stage in spec.config.stages.values())


def _tracked(home: Home, spec: RunSpec, old: str) -> tuple[RunRecord | None, History]:
    """What the home's own store has of a run."""
    if not home.database.exists():
        return None, {}
    try:
        reader = SqliteReader(home.database)
        records = [r for r in reader.runs(spec.experiment) if r.tags.get(OLD_HASH) == old and r.arm == spec.arm]
        if not records:
            return None, {}
        return records[-1], reader.history(records[-1].run_id, list(records[-1].metrics))
    except TrackingError:
        return None, {}


def take_over(
    spec: RunSpec, home: Home, root: Path | None, outcome: Mapping[str, Any], record: RunRecord | None, history: History
) -> None:
    """Put the results of one run where its keys say. What is there already stays; where it was ended, it goes on.

    Raises:
        LeaseHeld: another process computes the run or a part of it now.
        LeaseLost: another process has taken a part of it, as this one showed no life.
        StorageError: the home cannot be written.
    """
    before: StageFolder | None = None
    with Lease.acquire(run_folder(home, spec.id).root, wait=False):
        for index, key in enumerate(spec.stage_keys):
            parent = before.root.name if before else None
            with leased(partial(find_stage, home, key.key, {}, parent), wait=False) as stage:
                if stage.outcome() is None:
                    stage.describe({"stage": key.name, "before": parent, "inputs": key.inputs, "fingerprints": {}})
                    last = index == len(spec.stage_keys) - 1
                    if last:
                        _weights(root, stage)
                        _log(stage, history)
                    ended = outcome if last else {"status": schema.FINISHED}
                    stage.end(_stage_outcome(spec, index, stage, ended, record))
            before = stage
        assert before is not None
        if outcome["status"] == schema.FINISHED:
            for score in spec.score_keys:
                _score(score, before, root, record, outcome)
        note_attempt(spec, home, str(outcome["status"]), str(outcome.get("message", "")))


def _weights(root: Path | None, stage: StageFolder) -> None:
    file = root / "artifacts" / schema.WEIGHTS_DIR / "trained.safetensors" if root else None
    if file is not None and file.is_file():
        link_or_copy(file, stage.weights)


def _copy(file: Path, target: Path) -> None:
    with atomic_path(target) as partial_file:
        shutil.copyfile(file, partial_file)


def _log(stage: StageFolder, history: History) -> None:
    """Training metrics and points of the curve from the store's history."""
    by_step: dict[tuple[int, int], dict[str, float]] = {}
    for key, points in history.items():
        if key.startswith(("train/", "seen/", schema.CURVE)):
            for point in points:
                by_step.setdefault((point.step, point.time_ms), {})[key] = point.value
    check_writable(stage.log)
    stage.log.unlink(missing_ok=True)
    with closing(Log(stage.log)) as log:
        for (step, time_ms), values in sorted(by_step.items()):
            log.add(values, step, time_ms=time_ms)


def _stage_outcome(
    spec: RunSpec, index: int, stage: StageFolder, outcome: Mapping[str, Any], record: RunRecord | None
) -> dict[str, Any]:
    metrics, tags = (record.metrics, record.tags) if record else ({}, {})
    sizes = {key: value for key, value in metrics.items() if key.startswith("model/")}
    provenance = {
        key: tags[key] for key in (schema.GIT, schema.MACHINE, schema.THREADS, schema.VERSIONS) if key in tags
    }
    seen = {
        "images": int(metrics.get(schema.SEEN_IMAGES, 0)),
        "text_tokens": int(metrics.get(schema.SEEN_TEXT_TOKENS, 0)),
        "visual_tokens": int(metrics.get(schema.SEEN_VISUAL_TOKENS, 0)),
        "flops": float(metrics.get(schema.SEEN_FLOPS, 0.0)),
        "sequences": sum(s.steps * s.batch_size for s in list(spec.config.stages.values())[: index + 1]),
    }
    body = {
        "status": outcome["status"],
        "message": outcome.get("message", ""),
        "stage": spec.stage_keys[index].name,
        "seen": seen,
        "sizes": sizes,
        "provenance": provenance,
        "execution": execution_of(spec, spec.stage_keys[index].name),
        "data_fingerprint": tags.get(schema.DATA_FINGERPRINT, ""),
        "licences": schema.read_json_tag(tags, schema.LICENCES, []),
        "skipped": int(metrics.get(schema.DATA_SKIPPED, 0)),
        "seconds": float(metrics.get(schema.WALL_SECONDS, outcome.get("seconds", 0.0))),
        "started_ms": record.start_time if record else None,
        "ended_ms": record.end_time if record else None,
        "migrated": True,
    }
    if origin := schema.read_json_tag(tags, schema.INIT_FROM):
        body["init_from"] = origin
    if stage.weights.is_file():
        body["weights_sha256"] = file_sha256(stage.weights)
    return body


def execution_of(spec: RunSpec, stage: str) -> dict[str, Any]:
    """How a stage was computed."""
    return dump(spec.config.execution.of_stage(stage), "execution")


def _score(
    key: ScoreKey, stage: StageFolder, root: Path | None, record: RunRecord | None, outcome: Mapping[str, Any]
) -> None:
    """One score, from the record's or (without a store) from the predictions file."""
    suffix = {"seen": "", "blind": ".blind", "described": ".described"}[key.mode]
    file = root / "predictions" / f"{key.column}{suffix}.jsonl" if root else None
    body = _score_record(key, file, record, outcome)
    if body is None:
        return
    with leased(partial(stage.score, key.key, {}), wait=False) as folder:
        if folder.outcome() is not None:
            return
        folder.describe({"inputs": key.inputs, "fingerprints": {}})
        if file is not None and file.is_file():
            _copy(file, folder.predictions)
            body["predictions_sha256"] = file_sha256(folder.predictions)
        folder.end(body)


def _score_record(
    key: ScoreKey, file: Path | None, record: RunRecord | None, outcome: Mapping[str, Any]
) -> dict[str, Any] | None:
    blind, described = key.mode == "blind", key.mode == "described"
    for score in record.scores if record else ():
        if (score["column"], bool(score["blind"]), described) == (key.column, blind, False):
            items = record.items.get(key.column) if record and not blind else None
            return dict(score) | ({"item_scores": items} if items else {})
    protocol = _protocol(file) if file is not None else None
    if described and record is not None:
        value = schema.ceiling_of(record.metrics, key.column)
        seen = next((s for s in record.scores if s["column"] == key.column and not s["blind"]), None)
        if value is not None and (protocol or seen):
            return {**(seen or {}), **(protocol or {}), "score": value, "described": True, "blind": False}
    value = outcome.get("blind" if blind else "scores", {}).get(key.column)
    if protocol is not None and value is not None and not described:
        return {"unparsed": 0, **protocol, "score": value}
    return None


def _protocol(file: Path) -> dict[str, Any] | None:
    """The head of a predictions file, as far as it is of a score record."""
    try:
        with open(file, encoding="utf-8") as opened:
            head = json.loads(opened.readline())["protocol"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    names = ("benchmark", "column", "split", "split_hash", "template", "shots", "demonstration_seed", "scorer",
             "scorer_version", "items", "blind", "demonstrations", "described")  # fmt: skip
    return {name: head[name] for name in names if name in head}
