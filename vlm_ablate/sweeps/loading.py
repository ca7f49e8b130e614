"""A sweep file read and checked together with its experiment, before anything is started; and what a trial runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlm_ablate.config.compose import flatten, nest
from vlm_ablate.config.decides import dump
from vlm_ablate.config.document import Document, Location, Path_, display, read_document
from vlm_ablate.config.expand import LoadedExperiment, find_experiment, load_experiment
from vlm_ablate.config.problems import problems_of
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.config.shared_data import spread
from vlm_ablate.config.shipped import OWN, experiments_root, shipped_experiments
from vlm_ablate.errors import ConfigError, Problem, UnknownNameError, nearest
from vlm_ablate.runs.spec import RunSpec, spec_of
from vlm_ablate.sweeps.config import ARM, Sweep, Value, conditions, holds
from vlm_ablate.sweeps.space import MOST_COMBINATIONS, Space, Values, extremes

SEARCHED = ("model", "stages", "data")
"""Sections of a run that decide its weights."""
ON_TUNE = {"evaluation.benchmarks.*.split": "tune", "evaluation.blind": False, "evaluation.ceiling": False}
"""How trials are scored: with images, on the tune split."""


@dataclass(frozen=True)
class StudyPlan:
    """One study of a sweep: over all its arms, or over one of them."""

    name: str
    """In the storage."""
    arms: tuple[str, ...]
    space: Space
    written: Mapping[str, Mapping[str, Value]]
    """Arm -> its values of the space's fields in the file at the scale; a field is absent where the file has none."""

    def first_trials(self) -> list[tuple[Values, list[str]]]:
        """For each arm: the file as it stands, and fields which it has at no value of the space (unset, `null`)."""
        found = []
        for arm in self.arms:
            values: Values = {ARM: arm} if len(self.arms) > 1 else {}
            there = self.written[arm]
            untouched = []
            for name in self.space.dimensions:
                if name != ARM and self.space.active(name, values):
                    if name in there:
                        values[name] = there[name]
                    else:
                        untouched.append(name)
            found.append((values, untouched))
        return found


@dataclass(frozen=True)
class LoadedSweep:
    """A validated sweep."""

    file: Path
    sweep: Sweep
    experiment_file: Path
    document: Document
    studies: tuple[StudyPlan, ...]
    base: LoadedExperiment
    """The experiment with the sweep's `set`, as its trials run it but for their values."""

    @property
    def tracked_as(self) -> str:
        """The experiment in the tracking store."""
        return f"sweeps/{self.sweep.name}"

    def experiment(self, arm: str, values: Mapping[str, Value]) -> LoadedExperiment:
        """The experiment with one arm, as a trial with these values runs it.

        Raises:
            ConfigError: these values do not go together.
        """
        return _load(self.experiment_file, self.sweep, self.document, [arm], values)

    def specs(self, values: Mapping[str, Value], arms: Sequence[str]) -> list[RunSpec]:
        """The runs of a trial, a seed each.

        Args:
            arms: of its study; the trial's own where there is but one.

        Raises:
            ConfigError: these values do not go together.
        """
        arm = str(values.get(ARM, arms[0]))
        loaded = self.experiment(arm, {name: value for name, value in values.items() if name != ARM})
        specs = [spec_of(loaded, loaded.arms[arm], seed) for seed in self.sweep.seeds]
        return [replace(spec, experiment=self.tracked_as) for spec in specs]

    @cached_property
    def curve_points(self) -> int:
        """Scores along the way of one run; 0 without."""
        curve = self.base.base.evaluation.curve
        return curve.points if curve else 0


def load_sweep(path: str | Path) -> LoadedSweep:
    """Read a sweep file, and check it and every value of its space alone against the experiment.

    Raises:
        ConfigError: all problems of the file at once.
        UnknownNameError: no such file, experiment, arm or scale.
    """
    file = find_sweep(path)
    document = read_document(file)
    try:
        sweep = Sweep.model_validate(document.data)
    except ValidationError as error:

        def where(at: Path_) -> tuple[str, Path_]:
            return str(document.where(_split(at)) or display(file)), at

        raise ConfigError(problems_of(error, Sweep, document.data, where)) from error
    problems = _misplaced(sweep, document, display(file))
    if problems:
        raise ConfigError(problems)
    named = Path(sweep.experiment.file)
    beside = file.parent / named
    experiment_file = beside if beside.is_file() else find_experiment(named)
    base = _load(experiment_file, sweep, document, sweep.experiment.arms, {})
    problems = [*_check_objective(sweep, base, document, file), *_check_values(sweep, experiment_file, document)]
    if problems:
        raise ConfigError(problems)
    groups = [(arm,) for arm in sweep.experiment.arms] if sweep.experiment.per_arm else [tuple(sweep.experiment.arms)]
    studies = []
    for arms in groups:
        written = {arm: _written(sweep, base, arm, document, file, problems) for arm in arms}
        name = f"{sweep.name}/{arms[0]}" if sweep.experiment.per_arm else sweep.name
        studies.append(StudyPlan(name, arms, Space.of(sweep.space, arms), written))
    if sweep.sampler.name == "grid" and any(study.space.combinations(MOST_COMBINATIONS) is None for study in studies):
        message = f"a grid of more than {MOST_COMBINATIONS:,} combinations; name fewer values, or take random"
        problems.append(Problem(str(document.where(("sampler",)) or display(file)), "sampler", message))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return LoadedSweep(file, sweep, experiment_file, document, tuple(studies), base)


def find_sweep(path: str | Path) -> Path:
    """The file itself, or `sweeps/NAME.yaml` of `experiments/` here or of the package.

    Raises:
        UnknownNameError: neither exists.
    """
    given = Path(path)
    folders = [root / "sweeps" for root in (OWN, shipped_experiments()) if root is not None]
    for candidate in (given, *(folder / name for folder in folders for name in (given, f"{given}.yaml"))):
        if candidate.is_file():
            return candidate
    known = [display(f) for f in sorted((experiments_root() / "sweeps").glob("*.yaml"))]
    raise UnknownNameError("sweep file", str(path), known)


def definition(loaded: LoadedSweep, study: StudyPlan) -> dict[str, Any]:
    """What makes the trials of a study comparable, as plain data: a study that has another one is another study."""
    sweep = loaded.sweep
    space = {name: d.model_dump(mode="json", exclude_defaults=True) for name, d in study.space.dimensions.items()}
    arms = {}
    for arm in study.arms:
        config = loaded.base.arms[arm].config
        sections = {key: {**dump(config, key)} for key in ("training", "score")}
        arms[arm] = {".".join(path): value for section in sections.values() for path, value in flatten(section).items()}
    return {
        "experiment": loaded.base.experiment.name,
        "scale": sweep.experiment.scale,
        "space": space,
        "objective": sweep.objective.model_dump(mode="json"),
        "seeds": sweep.seeds,
        "arms": json.loads(json.dumps(arms)),
    }


def _load(
    file: Path, sweep: Sweep, document: Document, arms: Sequence[str], values: Mapping[str, Value]
) -> LoadedExperiment:
    flat: dict[str, Any] = {**sweep.set, **values, **ON_TUNE}
    lines: dict[Path_, Location] = {}
    for section, names in (("set", sweep.set), ("space", values), ("objective", ON_TUNE)):
        for name in names:
            place = document.where((section, *name.split("."))) or document.where((section,))
            lines[tuple(name.split("."))] = place or document.lines.get(("name",)) or Location(display(file))
    return load_experiment(file, scale=sweep.experiment.scale, sets=Document(nest(flat), lines), arms=arms)


def _misplaced(sweep: Sweep, document: Document, shown: str) -> list[Problem]:
    """Fields of the space and of `set` that a sweep must not touch."""
    problems = []
    for section, fields in (("space", list(sweep.space)), ("set", _flat_names(sweep.set))):
        for field in fields:
            where, top = str(document.where((section, *field.split("."))) or shown), field.split(".")[0]
            message, near = "", None
            if section == "space" and top in ("evaluation", "execution"):
                what = "how a model is asked" if top == "evaluation" else "how a run is computed"
                message = f"is {what}, which decides nothing of its weights; a space is over {', '.join(SEARCHED)}"
            elif top not in (*SEARCHED, "evaluation", "execution"):
                near = nearest(top, SEARCHED)
                message = f"is no field of a run; they begin with {', '.join(SEARCHED)}"
            elif section == "set" and field.startswith("evaluation.") and field.endswith(".split"):
                message = "a sweep is scored on the tune split"
            elif section == "set" and field in sweep.space:
                message = "stands in the space, too"
            if message:
                problems.append(Problem(where, f"{section}.{field}", message, near))
    return problems


def _flat_names(sets: Mapping[str, Any]) -> list[str]:
    """Dotted fields of a mapping that is nested, dotted, or both."""
    return [".".join(path) for path in flatten(nest(sets)) if path]


def _check_objective(sweep: Sweep, base: LoadedExperiment, document: Document, file: Path) -> list[Problem]:
    """The objective is evaluated, and what the pruner looks at is there."""
    problems = []

    def add(path: tuple[str, ...], message: str, near: str | None = None) -> None:
        problems.append(Problem(str(document.where(path) or display(file)), ".".join(path), message, near))

    score, evaluation = sweep.objective.score, base.base.evaluation
    columns = ["mean", *evaluation.benchmarks]
    if score not in columns:
        near = nearest(score, columns)
        add(("objective",), f"{score!r} is not evaluated; the columns are {', '.join(columns)}", near)
    wants_curve, curve = sweep.pruner.name in ("median", "hyperband"), evaluation.curve
    if wants_curve and curve is None:
        message = f"{sweep.pruner.name} looks at scores along the way, and `evaluation.curve` is not set"
        add(("pruner",), f"{message}; e.g. set: {{evaluation.curve: {{points: 4, limit: 50}}}}")
    elif wants_curve and curve is not None and curve.benchmarks and score not in ("mean", *curve.benchmarks):
        add(("pruner",), f"`evaluation.curve` does not score {score!r} along the way")
    return problems


def _check_values(sweep: Sweep, file: Path, document: Document) -> list[Problem]:
    """Every choice and both ends of every range, each put into the arms that have it, with the rest as in the file."""
    problems: list[Problem] = []
    for name, dimension in sweep.space.items():
        space = Space.of(sweep.space, sweep.experiment.arms)
        needed = space.enabling(name)
        arms = conditions(sweep.space, name).get(ARM, sweep.experiment.arms)
        found: list[LoadedExperiment] = []
        for value in extremes(dimension):
            values = {k: v for k, v in needed.items() if k != ARM} | {name: value}
            try:
                found.append(_load(file, sweep, document, [str(arm) for arm in arms], values))
            except ConfigError as error:
                problems += error.problems
        for arm in map(str, arms) if len(found) > 1 and len({*extremes(dimension)}) > 1 else ():
            first, *rest = (loaded.arms[arm].config for loaded in found)
            if all(config == first for config in rest):
                where = str(document.where(("space", *name.split("."))) or display(file))
                message = f"changes nothing of arm {arm!r}: a field of the arm or of `set` that stands nearer is kept"
                problems.append(Problem(where, f"space.{name}", message))
    return list(dict.fromkeys(problems))


def _written(
    sweep: Sweep, base: LoadedExperiment, arm: str, document: Document, file: Path, problems: list[Problem]
) -> dict[str, Value]:
    """An arm's own values of the space's fields. What a first trial cannot have is a problem, but for `null`."""
    found: dict[str, Value] = {}
    for name, dimension in sweep.space.items():
        if arm not in conditions(sweep.space, name).get(ARM, [arm]):
            continue
        there = values_at(base.arms[arm].config, name)
        message = ""
        if len(there) > 1:
            shown = ", ".join(map(str, there))
            message = f"stands for several values in arm {arm!r} ({shown}); name one stage"
        elif there and holds(dimension, there[0]):
            found[name] = there[0]
        elif there and there[0] is not None and not dimension.when:
            message = f"leaves out {there[0]!r}, which arm {arm!r} has: the first trial is the file as it stands"
        if message:
            where = document.where(("space", *name.split("."))) or display(file)
            problems.append(Problem(str(where), f"space.{name}", message))
    return found


def values_at(config: RunConfig, field: str) -> list[Any]:
    """The different values that a dotted field, perhaps with `*`, has in a run's configuration."""
    plain = config.model_dump(mode="json")
    found: list[Any] = []
    for place in spread(tuple(field.split(".")))[:1]:
        for value in _at(plain, place):
            if value not in found:
                found.append(value)
    return found


def _at(data: Any, path: Path_) -> list[Any]:
    if not path:
        return [data]
    if not isinstance(data, dict):
        return []
    keys = list(data) if path[0] == "*" else [path[0]] if path[0] in data else []
    return [value for key in keys for value in _at(data[key], path[1:])]


def _split(path: Path_) -> Path_:
    return tuple(piece for key in path for piece in key.split("."))
