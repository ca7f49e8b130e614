"""From an experiment file to RunSpecs: the one entry point of every command that takes an experiment."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlm_ablate.config.checks import check_arms_exist, check_cells, check_claims, check_factor
from vlm_ablate.config.compose import load_document, merge, nest, parse_sets
from vlm_ablate.config.document import Document, Path_, display
from vlm_ablate.config.experiment import Experiment, RunConfig, Seeds
from vlm_ablate.config.problems import Where, problems_of
from vlm_ablate.config.scale import Scale
from vlm_ablate.config.scales import LoadedScale, Scaled, apply_scale, load_scale, relabelled
from vlm_ablate.config.spec import RunSpec
from vlm_ablate.errors import ConfigError, Problem, UnknownNameError
from vlm_ablate.registry import load_plugins

RUN_KEYS = tuple(RunConfig.model_fields)
"""Sections of an experiment file that decide the outcome of a run."""


@dataclass(frozen=True)
class ResolvedArm:
    """One arm with all its values, in the paper's words and at the scale."""

    name: str
    label: str
    cell: dict[str, Any] | None
    note: str | None
    paper_config: RunConfig
    config: RunConfig
    stand_ins: dict[str, str] = field(default_factory=dict)
    scaled: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedExperiment:
    """A validated experiment at one scale."""

    file: Path
    experiment: Experiment
    scale: Scale
    base: RunConfig
    """The base at the scale, without any arm's diff."""
    arms: dict[str, ResolvedArm]
    sets: tuple[str, ...] = ()
    missing_stand_ins: tuple[str, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """What a reader should know before running: unfair comparisons, parts without a stand-in."""
        from vlm_ablate.config.diff import fairness_warnings

        lacking = [
            f"scale {self.scale.name!r} has no stand-in for {m}; it is used as written" for m in self.missing_stand_ins
        ]
        return fairness_warnings(self) + lacking

    def select(self, arms: Sequence[str] | None) -> list[ResolvedArm]:
        """The named arms in the order of the file; None: all.

        Raises:
            UnknownNameError: an arm that the file does not have.
        """
        for name in arms or ():
            if name not in self.arms:
                raise UnknownNameError("arm", name, self.arms)
        return [arm for name, arm in self.arms.items() if arms is None or name in arms]

    def specs(self, *, arms: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> list[RunSpec]:
        """One RunSpec for each arm and seed, seed by seed, so that a whole table exists as early as possible.

        Raises:
            UnknownNameError: an arm that the file does not have.
        """
        chosen = self.select(arms)
        numbers = list(dict.fromkeys(self.experiment.seeds if seeds is None else seeds))
        return [self._spec(arm, seed) for seed in numbers for arm in chosen]

    def _spec(self, arm: ResolvedArm, seed: int) -> RunSpec:
        return RunSpec(
            experiment=self.experiment.name,
            arm=arm.name,
            label=arm.label,
            seed=seed,
            scale=self.scale.name,
            config=arm.config,
            seeds=seeds_from(seed),
            plugins=tuple(self.experiment.plugins),
            paper=self.experiment.paper.key if self.experiment.paper else None,
            cell=arm.cell,
            stand_ins=dict(arm.stand_ins),
            scaled=dict(arm.scaled),
        )


def seeds_from(number: int) -> Seeds:
    """Independent seeds for the streams of run `number`; they depend on nothing else: all arms share the data order."""

    def stream(name: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{name}:{number}".encode()).digest()[:4], "big") >> 1

    return Seeds(**{name: stream(name) for name in Seeds.model_fields})


def load_experiment(path: str | Path, *, scale: str = "laptop", sets: Sequence[str] = ()) -> LoadedExperiment:
    """Read, compose and validate an experiment file at a scale; `sets` (`a.b=value`) are applied last, to every arm.

    Raises:
        ConfigError: all problems of the file, its arms, the scale and the settings at once.
        UnknownNameError: no scale of that name.
    """
    file = find_experiment(path)
    document = load_document(file)
    overrides = parse_sets(sets)
    loaded_scale = load_scale(scale, file)
    work = _Loading(file, document, loaded_scale, overrides)
    experiment = work.experiment()
    arms = {name: work.arm(name) for name in work.arm_names()}
    base = work.resolve(work.base_data(), arm=None)
    work.report_scaled()
    work.check_references()
    if work.problems:
        raise ConfigError(list(dict.fromkeys(work.problems)))
    assert experiment is not None and base is not None
    return LoadedExperiment(
        file=file,
        experiment=experiment,
        scale=loaded_scale.scale,
        base=base[1],
        arms={name: arm for name, arm in arms.items() if arm},
        sets=tuple(sets),
        missing_stand_ins=tuple(dict.fromkeys(work.missing)),
    )


def find_experiment(path: str | Path) -> Path:
    """The file itself, or `experiments/PATH.yaml` in the working directory: `idefics2/t03_architecture` is enough.

    Raises:
        UnknownNameError: neither exists.
    """
    given = Path(path)
    for candidate in (given, Path("experiments") / given, Path("experiments") / f"{given}.yaml"):
        if candidate.is_file():
            return candidate
    raise UnknownNameError("experiment file", str(path), [display(f) for f in experiment_files()])


def experiment_files(root: Path | None = None) -> list[Path]:
    """Experiment files below `experiments/`; fragments (`_name.yaml`) and scales are not experiments."""
    root = root or Path("experiments")
    return [f for f in sorted(root.rglob("*.yaml")) if not f.name.startswith("_") and f.parent.name != "scales"]


class _Loading:
    """Gathers the problems of one experiment instead of stopping at the first."""

    def __init__(self, file: Path, document: Document, scale: LoadedScale, sets: Document) -> None:
        self.document, self.scale, self.sets = document, scale, sets
        self.shown = display(file)
        self.problems: list[Problem] = []
        self.missing: list[str] = []
        self._of_base: set[tuple[Path_, str]] = set()
        self._scaled: dict[Problem, list[str]] = {}
        self.run_sets = {k: v for k, v in sets.data.items() if k in RUN_KEYS}
        own = {k: v for k, v in sets.data.items() if k not in RUN_KEYS}
        self.data = merge(document.data, own)
        arms = self.data.get("arms")
        for arm in arms.values() if isinstance(arms, dict) else ():
            if isinstance(arm, dict) and isinstance(arm.get("set"), dict):
                arm["set"] = nest(arm["set"])

    def experiment(self) -> Experiment | None:
        """The file as written, in the paper's words."""
        try:
            load_plugins(self.data.get("plugins") or [], file=self.shown)
            return Experiment.model_validate(self.data)
        except ConfigError as error:
            self.problems += error.problems
        except ValidationError as error:
            found = problems_of(error, Experiment, self.data, self._where)
            self.problems += found
            self._of_base = {(tuple(p.path.split(".")), p.message) for p in found}
        return None

    def arm_names(self) -> list[str]:
        arms = self.data.get("arms")
        return [str(n) for n, a in arms.items() if isinstance(a, dict)] if isinstance(arms, dict) else []

    def base_data(self) -> dict[str, Any]:
        return {key: self.data[key] for key in RUN_KEYS if key in self.data}

    def arm(self, name: str) -> ResolvedArm | None:
        """The arm's full configuration, in the paper's words and at the scale; None when something is wrong with it."""
        arm = self.data["arms"][name]
        diff = arm.get("set")
        data = merge(self.base_data(), diff) if isinstance(diff, dict) else self.base_data()
        resolved = self.resolve(data, arm=name)
        if resolved is None:
            return None
        paper, config, scaled = resolved
        return ResolvedArm(
            name,
            arm.get("label") or name,
            arm.get("cell"),
            arm.get("note"),
            paper,
            config,
            scaled.stand_ins,
            scaled.values,
        )

    def resolve(self, data: dict[str, Any], arm: str | None) -> tuple[RunConfig, RunConfig, Scaled] | None:
        """`data` validated as a run, then scaled, set and validated again."""

        def in_arm(path: Path_) -> tuple[str, Path_]:
            prefix = ("arms", arm, "set") if arm else ()
            return str(self.document.where((*prefix, *path)) or self.shown), (*prefix, *path)

        def in_scale(path: Path_) -> tuple[str, Path_]:
            for end in range(len(path), 0, -1):
                if path[:end] in self.sets.lines:
                    return str(self.sets.lines[path[:end]]), path
            starred = self._starred_set(path)
            return starred or self._scale_location(path), path

        paper, problems = _validated(data, in_arm)
        if paper is None:
            depth = len(("arms", arm, "set")) if arm else 0
            self.problems += [p for p in problems if (tuple(p.path.split("."))[depth:], p.message) not in self._of_base]
            return None
        scaled = apply_scale(paper.model_dump(mode="json"), self.scale.scale)
        self.missing += scaled.missing
        final = merge(scaled.config, self.run_sets)
        scaled = relabelled(scaled, final)
        config, problems = _validated(final, in_scale)
        for problem in problems if arm else ():
            self._scaled.setdefault(problem, []).append(arm)
        return (paper, config, scaled) if config else None

    def report_scaled(self) -> None:
        """Problems of the scale and the settings, once each, naming the arms that have them where not all do."""
        names = self.arm_names()
        for problem, arms in self._scaled.items():
            only = "" if len(arms) == len(names) else f", in {', '.join(arms)}"
            self.problems.append(replace(problem, message=problem.message + only))

    def _starred_set(self, path: Path_) -> str | None:
        for written, location in self.sets.lines.items():
            if len(written) <= len(path) and all(w in ("*", p) for w, p in zip(written, path, strict=False)):
                return str(location)
        return None

    def _scale_location(self, path: Path_) -> str:
        places = (("overrides", *path), ("values", *path), (path[1] if len(path) > 1 else "", "use"))
        found = next((w for p in places if (w := self.scale.document.where(p)) is not None), None)
        return str(found or self.scale.file)

    def check_references(self) -> None:
        """Names in the file that must exist elsewhere: the paper's table and rows, arms, columns, fields."""
        for check in (check_arms_exist, check_claims, check_cells, check_factor):
            self.problems += check(self.data, self._where)

    def _where(self, path: Path_) -> tuple[str, Path_]:
        location = self.sets.where(path) or self.document.where(path)
        return str(location or self.shown), path


def _validated(data: dict[str, Any], where: Where) -> tuple[RunConfig | None, list[Problem]]:
    try:
        return RunConfig.model_validate(data), []
    except ValidationError as error:
        return None, problems_of(error, RunConfig, data, where)
