"""Records files under today's ids, and taken into a home. There are no weights in them: scores and curves only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlm_ablate.config.moved import recorded, upgraded
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.errors import StorageError, VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.lease import LeaseHeld
from vlm_ablate.runs.migrate import (
    OLD_HASH,
    OTHERWISE,
    Migrated,
    execution_of,
    left_to,
    old_hash,
    take_over,
    trained_otherwise,
)
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.view import spec_params, spec_tags
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.record_file import RecordFile, dump_records, load_records
from vlm_ablate.tracking.records import RunRecord


def migrate_records(path: Path) -> list[Migrated]:
    """Rewrite a records file of version 0.1 with today's ids and params. Scores and metrics stay as they are.

    Raises:
        TrackingError: it is no records file.
        StorageError: a record's configuration cannot be told from its params; the file is as it was.
    """
    read = load_records(path)
    done, records, renamed = [], [], {}
    for record in read.records:
        if OLD_HASH not in record.tags:
            records.append(record)
            continue
        spec = spec_of_record(record)
        if trained_otherwise(spec):
            records.append(record)
            done.append(Migrated(record.tags[OLD_HASH], record.name, None, OTHERWISE))
            continue
        renamed[record.run_id] = spec.id
        records.append(_rekeyed(record, spec))
        done.append(Migrated(record.tags[OLD_HASH], record.name, spec, f"is {spec.id} now"))
    if done:
        dump_records(path, records, {renamed.get(run, run): history for run, history in read.histories.items()})
    return done


def import_records(path: Path, home: Home) -> list[Migrated]:
    """Take the runs of a records file over into a home: their scores and curves, for there are no weights in it.

    A run that another process computes now is left to it, and what the home has already stays.

    Raises:
        TrackingError: it is no records file.
        StorageError: the home cannot be written, or a record's configuration cannot be told.
    """
    read: RecordFile = load_records(path)
    done = []
    for record in read.records:
        if record.status not in schema.DONE:
            continue
        spec = spec_of_record(record)
        if OLD_HASH in record.tags and trained_otherwise(spec):
            done.append(Migrated(record.tags[OLD_HASH], record.name, None, OTHERWISE))
            continue
        history = read.histories.get(record.run_id, {})
        outcome = {"status": record.status, "message": record.message}
        old = record.tags.get(OLD_HASH, record.id)
        try:
            take_over(spec, home, None, outcome, record, history)
        except LeaseHeld as held:
            done.append(left_to(held, old, record.name))
            continue
        if others := _other_scores(record, spec, home):
            told = f"left: {spec.id} is in this home with other scores, which stay: {'; '.join(others)}"
            done.append(Migrated(old, record.name, None, told))
            continue
        done.append(Migrated(old, record.name, spec, f"is {spec.id} in this home"))
    return done


def _other_scores(record: RunRecord, spec: RunSpec, home: Home) -> list[str]:
    """Scores of a home's run that are not those of its record, in words."""
    records = find_results(spec, home).score_records()
    there = {(r["column"], bool(r["blind"])): r for r in records if not r.get("described")}
    told = []
    for score in record.scores:
        column, blind, value = score["column"], bool(score["blind"]), score["score"]
        if (known := there.get((column, blind))) and known["score"] != value:
            told.append(f"{column}{' (blind)' if blind else ''} {known['score']:g} and not {value:g}")
    return told


def spec_of_record(record: RunRecord) -> RunSpec:
    """The spec of a record, its configuration read from the params. The hash or id in its tags proves it right.

    Raises:
        StorageError: no configuration that could be read has this hash or id.
    """
    from vlm_ablate.runs.spec import seeds_from

    seeds = seeds_from(record.seed)
    labels: dict[str, Any] = {
        "experiment": record.experiment,
        "arm": record.arm,
        "label": record.label,
        "seed": record.seed,
        "scale": record.scale,
        "paper": "_".join(filter(None, (record.tags.get(schema.PAPER), record.tags.get(schema.TABLE)))) or None,
        "cell": record.cell,
        "stand_ins": record.stand_ins,
        "scaled": record.scaled,
    }
    try:
        spec = RunSpec(**labels, config=_config_of(record), seeds=seeds)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StorageError(f"the params of the record {record.name!r} are wrong: {place}: {first['msg']}") from error
    except (ValueError, TypeError, KeyError, AttributeError, VlmAblateError) as error:
        reason = str(error).partition("\n")[0]
        raise StorageError(f"the params of the record {record.name!r} are no configuration: {reason}") from error
    if OLD_HASH in record.tags:
        old = recorded(spec.config)
        proved = old is not None and old_hash(old, seeds.model_dump(mode="json")) == record.tags[OLD_HASH]
    else:
        proved = spec.id == record.id
    if not proved:
        raise StorageError(f"the configuration of the record {record.name!r} cannot be told from its params")
    return spec


AS_IT_WAS = frozenset({"attention", "stored_features", "strategy"})
"""What a record tells of how it was computed in the end, where the configuration may have left it open."""


def _config_of(record: RunRecord) -> RunConfig:
    config = upgraded(_nested(record.params))
    if how := schema.read_json_tag(record.tags, schema.EXECUTION):
        config["execution"] = {key: value for key, value in how.items() if key not in AS_IT_WAS}
    return RunConfig.model_validate(config)


def _nested(params: Mapping[str, str]) -> dict[str, Any]:
    """The configuration that params were flattened from, but what is empty or null, which they leave out."""
    nested: dict[str, Any] = {}
    for path, text in params.items():
        keys = path.split(".")
        if keys[0] not in ("model", "data", "stages", "evaluation"):
            continue
        at = nested
        for key in keys[:-1]:
            at = at.setdefault(key, {})
        at[keys[-1]] = _typed(text)
    return nested


def _typed(text: str) -> Any:
    """Params are texts: what reads as JSON is that, all else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _rekeyed(record: RunRecord, spec: RunSpec) -> RunRecord:
    own = {k: v for k, v in record.tags.items() if k not in (OLD_HASH, "vlm.reused_from")}
    tags = own | {k: v for k, v in spec_tags(spec).items() if not k.startswith("mlflow.")}
    tags |= schema.json_tag(schema.EXECUTION, execution_of(spec, spec.stage_keys[-1].name))
    return replace(
        record, run_id=spec.id, tags=dict(sorted(tags.items())), params=dict(sorted(spec_params(spec).items()))
    )
