"""Records of another experiment's runs that are, by their keys, runs of this one: trained and scored once for both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.view import spec_params, spec_tags
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.record_file import RecordFile
from vlm_ablate.tracking.records import RunRecord


def shared_records(specs: Sequence[RunSpec], files: Iterable[RecordFile]) -> RecordFile:
    """What files of other experiments tell of runs that trained the same stages and gave the same scores as these.

    Args:
        specs: the runs that are looked for, each found once.
    """
    found = RecordFile([])
    histories, answers, examples = dict(found.histories), dict(found.answers), dict(found.examples)
    wanted: dict[_Keys, list[RunSpec]] = {}
    for spec in specs:
        wanted.setdefault(_keys(spec), []).append(spec)
    for file in files:
        for record in file.records:
            keys = _recorded_keys(record)
            for spec in [s for s in wanted.get(keys, ()) if _scored_alike(s, record)] if keys is not None else ():
                wanted[_keys(spec)].remove(spec)
                found.records.append(_as_of(spec, record))
                if record.run_id in file.histories:
                    histories[spec.id] = file.histories[record.run_id]
                if record.run_id in file.answers:
                    answers[spec.id] = file.answers[record.run_id]
                if record.run_id in file.examples:
                    examples[spec.id] = file.examples[record.run_id]
    return replace(found, histories=histories, answers=answers, examples=examples)


_Keys = tuple[int, tuple[str, ...], frozenset[tuple[str, str]]]
"""Seed, keys of the stages, and (column, key) of the scores with images and without."""


def _keys(spec: RunSpec) -> _Keys:
    scores = ((key.column, key.key) for key in spec.score_keys if key.mode != "described")
    return spec.seed, tuple(key.key for key in spec.stage_keys), frozenset(scores)


def _recorded_keys(record: RunRecord) -> _Keys | None:
    """None: it did not finish, or does not say under which keys."""
    stages = schema.read_json_tag(record.tags, schema.STAGES, [])
    scores = [(s.get("column"), s.get("key")) for s in record.scores if not s.get("described")]
    told = [*stages, *(text for score in scores for text in score)] if isinstance(stages, list) else [None]
    if record.status != schema.FINISHED or not stages or not all(isinstance(text, str) for text in told):
        return None
    return record.seed, tuple(stages), frozenset((str(column), str(key)) for column, key in scores)


def _scored_alike(spec: RunSpec, record: RunRecord) -> bool:
    """Whether the record has the ceilings that the run asks for; they have no key there."""
    asked = {schema.ceiling_metric(key.column) for key in spec.score_keys if key.mode == "described"}
    return asked <= record.metrics.keys()


def _as_of(spec: RunSpec, record: RunRecord) -> RunRecord:
    """The record under the names of the other experiment."""
    own = {schema.ARM, schema.CELL, schema.LABEL, schema.PAPER, schema.TABLE, schema.DESCRIPTION}
    tags = {key: value for key, value in record.tags.items() if key not in own} | spec_tags(spec)
    return replace(
        record, run_id=spec.id, experiment=spec.experiment, name=spec.run_name, arm=spec.arm, scale=spec.scale,
        tags=tags, params=spec_params(spec),
    )  # fmt: skip
