"""The arms of an experiment put together one by one (merged, scaled, set by hand, validated); problems are gathered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlm_ablate.config.checks import check_arms_exist, check_cells, check_claims, check_factor
from vlm_ablate.config.compose import merge, nest
from vlm_ablate.config.document import Document, Path_, display
from vlm_ablate.config.experiment import Experiment, RunConfig
from vlm_ablate.config.problems import Where, problems_of
from vlm_ablate.config.scales import LoadedScale, Scaled, apply_scale, relabelled
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


class Loading:
    """Gathers the problems of one experiment instead of stopping at the first.

    Args:
        sets: settings of the command line; those of a run's fields go to the chosen arms only.
        arms: names of the chosen ones; None: all.

    Raises:
        UnknownNameError: an arm that the file does not have.
    """

    def __init__(
        self, file: Path, document: Document, scale: LoadedScale, sets: Document, arms: Sequence[str] | None = None
    ) -> None:
        self.document, self.scale, self.sets = document, scale, sets
        self.shown = display(file)
        self.problems: list[Problem] = []
        self.missing: list[str] = []
        self.hint: str | None = None
        """What the user can do about settings that fit some arms only."""
        self._of_base: set[tuple[Path_, str]] = set()
        self._scaled: dict[Problem, list[str]] = {}
        self._by_hand = {str(location) for location in sets.lines.values()}
        self.run_sets = {k: v for k, v in sets.data.items() if k in RUN_KEYS}
        own = {k: v for k, v in sets.data.items() if k not in RUN_KEYS}
        self.data = merge(document.data, own)
        for arm in self._arms().values():
            if isinstance(arm, dict) and isinstance(arm.get("set"), dict):
                arm["set"] = nest(arm["set"])
        self.chosen = self._choose(arms)

    def _arms(self) -> dict[Any, Any]:
        arms = self.data.get("arms")
        return arms if isinstance(arms, dict) else {}

    def _choose(self, arms: Sequence[str] | None) -> list[str]:
        known = [str(name) for name in self._arms()]
        for name in arms or ():
            if known and name not in known:  # a file without arms has a problem of its own
                raise UnknownNameError("arm", name, known)
        return [name for name in known if arms is None or name in arms]

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
        """All arms that are mappings, chosen or not."""
        return [str(name) for name, arm in self._arms().items() if isinstance(arm, dict)]

    def base(self) -> RunConfig | None:
        """The base with the settings; without them where they fit only parts that arms put in place of the base's."""
        for sets in (self.run_sets, {}) if self.run_sets else ({},):
            if resolved := self._resolve(self._base_data(), None, sets):
                return resolved[1]
        return None

    def _base_data(self) -> dict[str, Any]:
        return {key: self.data[key] for key in RUN_KEYS if key in self.data}

    def arm(self, name: str) -> ResolvedArm | None:
        """The arm's full configuration, in the paper's words and at the scale; None when something is wrong with it."""
        arm = self.data["arms"][name]
        diff = arm.get("set")
        data = merge(self._base_data(), diff) if isinstance(diff, dict) else self._base_data()
        resolved = self._resolve(data, name, self.run_sets if name in self.chosen else {})
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

    def _resolve(
        self, data: dict[str, Any], arm: str | None, sets: dict[str, Any]
    ) -> tuple[RunConfig, RunConfig, Scaled] | None:
        """`data` validated as a run, then scaled, set and validated again; `arm` None: the base."""

        def in_arm(path: Path_) -> tuple[str, Path_]:
            prefix = ("arms", arm, "set") if arm else ()
            return str(self.document.where((*prefix, *path)) or self.shown), (*prefix, *path)

        def in_scale(path: Path_) -> tuple[str, Path_]:
            return (self._set_location(path) if sets else None) or self._scale_location(path), path

        paper, problems = _validated(data, in_arm)
        if paper is None:
            depth = len(("arms", arm, "set")) if arm else 0
            self.problems += [p for p in problems if (tuple(p.path.split("."))[depth:], p.message) not in self._of_base]
            return None
        scaled = apply_scale(paper.model_dump(mode="json"), self.scale.scale)
        self.missing += scaled.missing if arm in self.chosen else ()
        final = merge(scaled.config, sets)
        scaled = relabelled(scaled, final)
        config, problems = _validated(final, in_scale)
        if arm or not (sets or self._scaled):  # what is wrong with the base is mostly what is wrong with an arm
            for problem in problems:
                self._scaled.setdefault(problem, []).append(arm or "the base")
        return (paper, config, scaled) if config else None

    def report_scaled(self) -> None:
        """Problems of the scale and the settings, once each, naming the arms that have them where not all do."""
        unfit: dict[str, None] = {}
        for problem, arms in self._scaled.items():
            by_hand = problem.file in self._by_hand
            names = self.chosen if by_hand else self.arm_names()
            what = ("does not fit " if by_hand else "in ") + ", ".join(arms) + ": " if len(arms) < len(names) else ""
            self.problems.append(replace(problem, message=what + problem.message))
            unfit |= dict.fromkeys(arms if by_hand else ())
        fit = [name for name in self.chosen if name not in unfit]
        if unfit and fit:
            self.hint = f"--arms restricts a setting to the arms that it fits: --arms {','.join(fit)}"

    def _set_location(self, path: Path_) -> str | None:
        """The setting that wrote the value at `path` (the longest), or else one that wrote a value below it."""
        related = [w for w in self.sets.lines if all(k in ("*", p) for k, p in zip(w, path, strict=False))]
        related.sort(key=lambda w: (len(w) <= len(path), len(w), "*" not in w), reverse=True)
        return str(self.sets.lines[related[0]]) if related else None

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
