"""A run as its record and as a tracking store's view, put together from what is on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from vlm_ablate.evaluation.predictions import read_predictions
from vlm_ablate.runs.folder import RunFolder, ScoreFolder, StageFolder
from vlm_ablate.runs.keys import ScoreKey, curve_keys
from vlm_ablate.runs.log import LogLine, read_log
from vlm_ablate.runs.once import once
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.answers import Answers
from vlm_ablate.tracking.mlflow_run import Metrics
from vlm_ablate.tracking.publish import RunView
from vlm_ablate.tracking.records import History, Point, RunRecord, make_record


@dataclass(frozen=True)
class Results:
    """What is on disk of one run: the folders of its stages and scores, and how the last attempt ended."""

    spec: RunSpec
    folder: RunFolder
    stages: tuple[StageFolder, ...] = ()
    """In order; fewer than the run has when a stage is not there yet."""
    scores: tuple[tuple[ScoreKey, ScoreFolder], ...] = ()
    """Those that are done, in the order of the run's keys."""
    attempt: Mapping[str, Any] = field(default_factory=dict)
    """What `run.json` says: status, message, times."""

    @cached_property
    def outcomes(self) -> list[dict[str, Any]]:
        """How the stages that have ended did so."""
        return [outcome for stage in self.stages if (outcome := stage.outcome())]

    @cached_property
    def status(self) -> str:
        """finished when every stage and score is there; diverged when a stage did; else how the last attempt ended."""
        outcomes = self.outcomes
        if any(outcome["status"] == schema.DIVERGED for outcome in outcomes):
            return schema.DIVERGED
        if len(outcomes) == len(self.spec.stage_keys) and len(self.scores) == len(self.spec.score_keys):
            return schema.FINISHED
        status = str(self.attempt.get("status", schema.RUNNING))
        # An attempt that ended well, of whose results something is not there: put aside, or made from other files.
        return schema.RUNNING if status in schema.DONE else status

    @property
    def done(self) -> bool:
        """Whether nothing is left to compute."""
        return self.status in schema.DONE

    @property
    def message(self) -> str:
        """Why it diverged, failed or was skipped."""
        diverged = next((o.get("message", "") for o in self.outcomes if o["status"] == schema.DIVERGED), "")
        if self.status == schema.FINISHED:
            return ""
        return str(diverged or self.attempt.get("message", ""))

    def score_records(self) -> list[dict[str, Any]]:
        """The score records, with images first, then blind, then in words."""
        return list(self._records)

    @cached_property
    def _records(self) -> list[dict[str, Any]]:
        # The same protocol may stand in another column of another table.
        return [{**record, "column": key.column, "key": key.key} for key, _, record in self._ended if record]

    @cached_property
    def _ended(self) -> list[tuple[ScoreKey, ScoreFolder, dict[str, Any] | None]]:
        """The scores with what their files say, read once."""
        return [(key, score, score.outcome()) for key, score in self.scores]

    def item_scores(self) -> dict[str, list[float | None]]:
        """Column -> score of each item with images, in the benchmark's order."""
        found: dict[str, list[float | None]] = {}
        for key, score, record in self._ended:
            if record and not record["blind"] and not record.get("described"):
                values = record.get("item_scores")  # earlier versions kept them among the predictions only
                found[key.column] = _scores(score.predictions) if values is None else values
        return {column: values for column, values in found.items() if values}

    def answers(self) -> Iterator[Answers]:
        """What was answered, with images and blind, as far as the files of predictions are there."""
        for key, score, record in self._ended:
            if record and not record.get("described") and score.predictions.is_file():
                rows = read_predictions(score.predictions)
                told = tuple((p.id, p.question, p.references, p.prediction, p.score) for p in rows)
                yield Answers(key.column, bool(record["blind"]), told)

    def entries(self) -> list[LogLine]:
        """The logs of all stages, in order."""
        return [entry for entries in self.logs for entry in entries]

    @cached_property
    def logs(self) -> list[list[LogLine]]:
        """Stage -> its log, as they were when they were first asked for."""
        return [[self._own(entry) for entry in read_log(stage.log)] for stage in self.stages]

    @cached_property
    def _along(self) -> dict[str, str]:
        """Metrics of the run's own scores along the way -> how they are asked; "" where it asks for no curve."""
        config = self.spec.config
        keys = curve_keys(config) or dict.fromkeys(config.evaluation.curve_columns, "")
        return {schema.curve_metric(column): key for column, key in keys.items()}

    def _own(self, entry: LogLine) -> LogLine:
        """Without scores along the way in columns of another run, for which the stage was trained first, or that were
        asked for that one otherwise than this one asks."""
        along = [name for name in entry.values if name.startswith(schema.CURVE)]
        if not along:
            return entry
        mean = schema.curve_metric(schema.MEAN)
        found = {name for name in along if name != mean}
        if not found:
            return entry
        own, told = self._along, entry.asked or {}
        kept = {name for name in found & own.keys() if not own[name] or told.get(name, own[name]) == own[name]}
        if found == kept == own.keys():
            return entry
        values = {name: value for name, value in entry.values.items() if name not in {mean, *(found - kept)}}
        if kept == own.keys():
            values[mean] = fmean(values[name] for name in own)
        return entry._replace(values=values)


def _scores(predictions: Path) -> list[float | None]:
    return [p.score for p in read_predictions(predictions)] if predictions.is_file() else []


def score_metrics(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Score records -> metrics: one a column and the unweighted mean, with and without images; ceilings by column."""
    values: dict[str, float] = {}
    told = list(records)
    for blind in (False, True):
        scores = {r["column"]: float(r["score"]) for r in told if bool(r["blind"]) == blind and not r.get("described")}
        values |= {schema.score_metric(column, blind=blind): score for column, score in scores.items()}
        if scores:
            values[schema.score_metric(schema.MEAN, blind=blind)] = sum(scores.values()) / len(scores)
    return values | {schema.ceiling_metric(r["column"]): float(r["score"]) for r in told if r.get("described")}


def _last_metrics(results: Results) -> dict[str, float]:
    """Metrics that hold for the whole run; they are points at its last step."""
    outcomes = results.outcomes
    values = score_metrics(results.score_records()) if results.status == schema.FINISHED else {}
    if outcomes:
        parts = [*outcomes, *results.score_records()]
        values[schema.WALL_SECONDS] = sum(float(part.get("seconds", 0.0)) for part in parts)
        if all("cpu_seconds" in part for part in parts):
            values[schema.CPU_SECONDS] = sum(float(part["cpu_seconds"]) for part in parts)
        values[schema.DATA_SKIPPED] = float(sum(int(o.get("skipped", 0)) for o in outcomes))
    return values


def record_of(results: Results) -> RunRecord:
    """The record that tables are computed from."""
    spec, attempt, outcomes = results.spec, results.attempt, results.outcomes
    metrics: dict[str, float] = {}
    for entry in results.entries():
        metrics |= entry.values
    metrics |= {k: float(v) for outcome in outcomes for k, v in outcome.get("sizes", {}).items()}
    metrics |= _last_metrics(results)
    times = [int(o["started_ms"]) for o in outcomes if o.get("started_ms")]
    ends = [int(o["ended_ms"]) for o in [*outcomes, *results.score_records()] if o.get("ended_ms")]
    start = min([*times, *([int(attempt["started_ms"])] if attempt.get("started_ms") and not times else [])], default=0)
    record = make_record(
        run_id=spec.id,
        experiment=spec.experiment,
        name=spec.run_name,
        mlflow_status="",
        tags=tags_of(results),
        params=spec_params(spec),
        metrics=metrics,
        start_time=start,
        end_time=max(*ends, start) if results.done and ends else None,  # the clock may have gone back
        artifact_uri=results.folder.artifacts.absolute().as_uri(),
    )
    return replace(record, items=results.item_scores()) if results.status == schema.FINISHED else record


def history_of(results: Results, keys: Sequence[str]) -> History:
    """Metric -> its points, in order of step."""
    wanted: History = {key: [] for key in keys}
    for entry in results.entries():
        for key in wanted.keys() & entry.values.keys():
            wanted[key].append(Point(entry.step, entry.values[key], entry.time_ms))
    return wanted


def view_of(results: Results, *, with_weights: bool = False) -> RunView:
    """What a tracking store shows of the run; with its weights where the store is what others have of it."""
    record = record_of(results)
    steps = sum(stage.steps for stage in results.spec.config.stages.values())
    end = record.end_time or max([record.start_time, *(e.time_ms for e in results.entries())])
    points: list[Metrics] = []
    for stage, entries in zip(results.stages, results.logs, strict=True):
        sizes = (stage.outcome() or {}).get("sizes", {})
        for entry in entries:
            points += [(key, value, entry.time_ms, entry.step) for key, value in entry.values.items()]
        # Known when the stage has ended: behind what a store may have been given of it already.
        points += [
            (key, float(value), entry.time_ms, entry.step) for entry in entries[:1] for key, value in sizes.items()
        ]
    if results.done:
        points += [(key, value, end, steps) for key, value in _last_metrics(results).items()]
    artifacts = [(path, path.name if path.is_dir() else "") for path in _files(results.folder.artifacts)]
    if with_weights and results.done and results.stages[-1].weights.exists():
        artifacts.append((results.stages[-1].weights, schema.WEIGHTS_DIR))
    return RunView(
        id=results.spec.id,
        experiment=results.spec.experiment,
        name=results.spec.run_name,
        status=results.status,
        start_ms=record.start_time or end,
        end_ms=end if results.status != schema.RUNNING else None,
        tags={k: v for k, v in record.tags.items() if k != schema.STATUS} | {"mlflow.source.type": "LOCAL"},
        params=record.params,
        points=points,
        artifacts=artifacts,
        datasets=[(name, digest) for o in results.outcomes for name, digest in o.get("datasets", {}).items()],
    )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def tags_of(results: Results) -> dict[str, str]:
    """Tags of a run: what it is, where it was computed, what it was made of, its scores."""
    spec, outcomes, scores = results.spec, results.outcomes, results.score_records()
    tags = spec_tags(spec)
    if outcomes:
        tags |= made_by(outcomes)
        prints = [str(o["data_fingerprint"]) for o in outcomes if o.get("data_fingerprint")]
        tags[schema.DATA_FINGERPRINT] = ",".join(prints)
        tags |= schema.json_tag(schema.EXECUTION, outcomes[-1].get("execution", {}))
        if started := outcomes[0].get("init_from"):
            tags |= schema.json_tag(schema.INIT_FROM, started)
    licences = [r for source in (*outcomes, *scores) for r in source.get("licences", ())]
    if licences:
        tags |= schema.json_tag(schema.LICENCES, list({str(r): r for r in licences}.values()))
    if results.status == schema.FINISHED:
        kept = [{k: v for k, v in s.items() if k in _SCORE_FIELDS} for s in scores if not s.get("described")]
        tags |= schema.json_tag(schema.SCORES, kept)
    tags[schema.STATUS] = results.status
    tags |= {schema.MESSAGE: results.message[: schema.TAG_LIMIT]} if results.message else {}
    return {key: value for key, value in tags.items() if value}


def made_by(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """With which code and libraries and on what machine stages were trained: tags of the last one, and where an earlier
    one, which another run may have trained, had other code, machine or threads, of these all that there were."""
    tags: dict[str, str] = {}
    for name, value in outcomes[-1].get("provenance", {}).items():
        tags |= {name: value} if isinstance(value, str) else schema.json_tag(name, value)
    for name in (schema.GIT, schema.MACHINE, schema.THREADS):
        found = dict.fromkeys(str(o["provenance"][name]) for o in outcomes if name in o.get("provenance", {}))
        tags |= {name: schema.SEVERAL.join(found)} if found else {}
    return tags


_SCORE_FIELDS = frozenset({
    "benchmark", "column", "split", "split_hash", "template", "shots", "demonstration_seed", "scorer", "scorer_version",
    "items", "unparsed", "score", "blind", "demonstrations", "described", "key",
})  # fmt: skip


def spec_tags(spec: RunSpec) -> dict[str, str]:
    """Tags that follow from the spec alone."""
    paper, _, table = (spec.paper or "").partition("_")
    tags = {
        schema.KIND: schema.RUN_KIND,
        schema.RUN: spec.id,
        schema.ARM: spec.arm,
        schema.LABEL: spec.label,
        schema.SEED: str(spec.seed),
        schema.SCALE: spec.scale,
        schema.PAPER: paper,
        schema.TABLE: table,
        schema.DESCRIPTION: _description(spec),
    }
    tags |= schema.json_tag(schema.STAGES, [stage.key for stage in spec.stage_keys])
    tags |= schema.json_tag(schema.STAND_INS, spec.stand_ins) | schema.json_tag(schema.SCALED, spec.scaled)
    if spec.trial is not None:
        tags |= {schema.SWEEP: spec.trial.sweep, schema.TRIAL: str(spec.trial.number), schema.PARENT: spec.trial.parent}
    if spec.cell is not None:
        tags |= schema.json_tag(schema.CELL, spec.cell)
    return {key: value for key, value in tags.items() if value}


def spec_params(spec: RunSpec) -> dict[str, str]:
    """Arm, the paper's row, seed and scale, then the flattened config: the UI's columns and its compare view.

    That view opens with the first three params in the order of the alphabet that differ: so the row is `arm.*`.
    """
    first = {schema.PARAM_ARM: spec.arm, schema.PARAM_SEED: str(spec.seed), schema.PARAM_SCALE: spec.scale}
    first |= schema.flatten({schema.PARAM_ARM: spec.cell or {}})
    config = spec.config  # kept beside, so that no other takes its id while this is remembered
    _, told = once(("params", id(config)), lambda: (config, schema.flatten(spec.shown_config())))
    return first | told


def _description(spec: RunSpec) -> str:
    """What the run's page in the UI opens with."""
    lines = [f"**{spec.label}**, seed {spec.seed}, at scale `{spec.scale}`."]
    if spec.cell:
        lines += ["", "Stands for the paper's row: " + ", ".join(f"{k} = {v}" for k, v in spec.cell.items()) + "."]
    lines += ["", *(f"- `{path}`: {text}" for path, text in spec.stand_ins.items())]
    return "\n".join(lines)[: schema.TAG_LIMIT]
