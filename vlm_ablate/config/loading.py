"""The arms of an experiment put together one by one (merged, scaled, set by hand, validated); problems are gathered."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlm_ablate.config.base import whole_dump
from vlm_ablate.config.checks import (
    check_arms_exist,
    check_cells,
    check_claims,
    check_factor,
    check_paired,
    check_scale_names,
    check_scale_paths,
)
from vlm_ablate.config.compose import flatten, merge_documents, nest
from vlm_ablate.config.data import DataConfig
from vlm_ablate.config.document import Document, Path_, display
from vlm_ablate.config.experiment import Experiment, Tuned
from vlm_ablate.config.problems import Where, dotted, kind_of, problems_of
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.config.scale_notes import Scaled, every_place, relabelled, value_at
from vlm_ablate.config.scales import PAPER, LoadedScale, apply_scale, scale_files
from vlm_ablate.config.shared_data import SECTIONS, apply_diff, composed, covers, run_data, spellings, spread
from vlm_ablate.errors import ConfigError, Problem, UnknownNameError, nearest
from vlm_ablate.registry import load_plugins


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
    tuned: Tuned | None = None
    """Where values of this scale come from that a sweep found."""


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
        self.document, self.scale, self.sets, self.file = document, scale, sets, file
        self.shown, self.folder = display(file), file.absolute().parent
        self.problems: list[Problem] = []
        self.missing: list[str] = []
        self.hint: str | None = None
        """What the user can do about settings that fit some arms only."""
        self._of_base: set[tuple[str, str]] = set()
        self._scaled: dict[Problem, list[str]] = {}
        self._before_sets: list[dict[str, Any]] = []
        self._by_hand = {str(location) for location in sets.lines.values()}
        self.run_sets = {k: v for k, v in sets.data.items() if k in SECTIONS}
        own = {k: v for k, v in sets.data.items() if k not in SECTIONS}
        if own.pop("scales", None) is not None:
            path = next(path for path in sets.lines if path[0] == "scales")
            told = "what a scale says stands in files; set the field of the run itself, e.g. stages.*.steps=50"
            self.problems.append(Problem(str(sets.lines[path]), ".".join(path), told))
        self.data = merge_documents(document.data, own)
        self._look_for_other_arms()
        self._name_arms()
        for arm in self._arms().values():
            for diff in (arm, arm.get("tuned")) if isinstance(arm, dict) else ():
                if isinstance(diff, dict) and isinstance(diff.get("set"), dict):
                    diff["set"] = nest(diff["set"])
        self._look_for_empty()
        self.chosen = self._choose(arms)

    def _look_for_empty(self) -> None:
        """Tell of empty mappings in the arms' diffs and in settings, where merging them leaves all that is there."""
        diffs: list[tuple[Path_, Any]] = [((), self.sets.data)]
        diffs += [(("arms", str(n), "set"), arm.get("set")) for n, arm in self._arms().items() if isinstance(arm, dict)]
        for prefix, diff in diffs:
            for path, value in flatten(diff if isinstance(diff, dict) else {}).items():
                there: Any = self.data
                for key in path:
                    there = there.get(key) if isinstance(there, dict) else None
                if path and value == {} and isinstance(there, dict) and there:
                    where, shown = self._where((*prefix, *path))
                    told = "{} leaves all that is there; write {replace: true} for none, or null for a key to go"
                    self.problems.append(Problem(where, dotted(shown), told))

    def _look_for_other_arms(self) -> None:
        """Tell of settings of a part of an arm that the file does not have; a new arm is set as a whole."""
        arms = self.document.data.get("arms")
        known = [str(name) for name in arms] if isinstance(arms, dict) else []
        for path, location in self.sets.lines.items():
            if path[0] == "arms" and len(path) > 2 and path[1] not in known:
                close = nearest(path[1], known)
                self.problems.append(Problem(str(location), dotted(path), f"no arm {path[1]!r} in the file", close))

    def _name_arms(self) -> None:
        """The names of arms are texts; what YAML reads as something else is told, and goes on as its text."""
        for name in self._arms():
            if not isinstance(name, str):
                where = self.document.where(("arms", *str(name).split(".")))
                message = f"the name {name!r} is read as {kind_of(name)}; put it in quotes"
                self.problems.append(Problem(str(where or self.shown), "arms", message))
        if self._arms():
            self.data["arms"] = {str(name): arm for name, arm in self._arms().items()}

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
        whole = {**self.data, **self._base_data()}
        try:
            load_plugins(self.data.get("plugins") or [], file=self.shown, beside=self.folder)
            experiment = Experiment.model_validate(whole)
        except ConfigError as error:
            self.problems += error.problems
            return None
        except ValidationError as error:
            self._note_base(problems_of(error, Experiment, whole, self._where))
            return None
        self._note_base(_unfilled(experiment, self._where))
        return experiment

    def _note_base(self, found: list[Problem]) -> None:
        """Problems of the base, which the arms that take them over do not have once more."""
        self.problems += found
        self._of_base = {(p.path, p.message) for p in found}

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
        return composed({key: self.data[key] for key in SECTIONS if key in self.data})

    def arm(self, name: str) -> ResolvedArm | None:
        """The arm's full configuration, in the paper's words and at the scale; None when something is wrong with it."""
        arm = self.data["arms"][name]
        diff = arm.get("set")
        if isinstance(diff, dict):
            self._look_for_left_out(diff, self._base_data(), ("arms", name, "set"))
        data = apply_diff(self._base_data(), diff) if isinstance(diff, dict) else self._base_data()
        tuned = self._tuned(arm)
        resolved = self._resolve(data, name, self.run_sets if name in self.chosen else {}, tuned)
        if resolved is None:
            return None
        paper, config, scaled = resolved
        label = arm.get("label") or name
        return ResolvedArm(
            name,
            f"{label} (tuned)" if tuned else label,
            arm.get("cell"),
            arm.get("note"),
            paper,
            config,
            scaled.told(scaled.stand_ins),
            scaled.told(scaled.values),
            tuned,
        )

    def _look_for_left_out(self, diff: dict[str, Any], data: dict[str, Any], prefix: Path_ = ()) -> None:
        """Tell of stages that a diff leaves out and that are not there: mostly a name that is spelled wrongly."""
        stages, known = diff.get("stages"), data.get("stages")
        if not isinstance(stages, dict) or not isinstance(known, dict) or stages.get("replace") is True:
            return
        for name, stage in stages.items():
            if stage is None and name not in ("*", *known):
                where, shown = self._where((*prefix, "stages", str(name)))
                message = f"there is no stage {name!r} to leave out; known: {', '.join(map(str, known)) or 'none'}"
                self.problems.append(Problem(where, dotted(shown), message, nearest(str(name), map(str, known))))

    def _tuned(self, arm: dict[str, Any]) -> Tuned | None:
        """What a sweep found for an arm at this scale; what is wrong with it, the whole file's check tells."""
        try:
            tuned = Tuned.model_validate(arm["tuned"])
        except (KeyError, ValidationError):
            return None
        return tuned if tuned.scale == self.scale.scale.name else None

    def _resolve(
        self, data: dict[str, Any], arm: str | None, sets: dict[str, Any], tuned: Tuned | None = None
    ) -> tuple[RunConfig, RunConfig, Scaled] | None:
        """`data` validated as a run, then scaled, tuned, set and validated again; `arm` None: the base."""

        prefix = ("arms", arm, "set") if arm else ()

        def in_arm(path: Path_) -> tuple[str, Path_]:
            return self._in_file(path, prefix)

        def in_scale(path: Path_) -> tuple[str, Path_]:
            own = (self._set_location(path) if sets else None) or (self._tuned_location(arm, path) if tuned else None)
            return own or self.scale.made(path, value_at(final, path))

        paper, problems = _validated(data, in_arm)
        if paper is None:
            self.problems += [
                p for p in problems if (p.path.removeprefix(dotted(prefix) + "."), p.message) not in self._of_base
            ]
            return None
        scaled = apply_scale(_as_written(paper, data), self.scale.scale)
        final = apply_diff(apply_diff(scaled.config, tuned.set) if tuned else scaled.config, sets)
        stages = scaled.config.get("stages")
        known = [name for name, stage in stages.items() if stage is not None] if isinstance(stages, dict) else []
        scaled = relabelled(scaled, final)
        if arm in self.chosen:
            self._before_sets.append(scaled.config)
            self.missing += [f"{path}: {part}" for path, part in scaled.told(scaled.missing).items()]
        config, problems = _validated(final, in_scale)
        problems = self._without_stages(problems, known, sets)
        if arm or not (sets or self._scaled):  # what is wrong with the base is mostly what is wrong with an arm
            for problem in problems:
                self._scaled.setdefault(problem, []).append(arm or "the base")
        return (paper, config, scaled) if config else None

    def _without_stages(self, problems: list[Problem], known: list[str], sets: dict[str, Any]) -> list[Problem]:
        """The problems, with one for each stage of which settings give some fields and which is not there: its name is
        wrong, or the arm has left it out."""
        written = sets.get("stages")
        for name in sorted(written.keys() - {"*", *known}) if isinstance(written, dict) else ():
            below = f"stages.{name}."
            if any(problem.path.startswith(below) for problem in problems):
                where, shown = self._set_location(("stages", name)) or (self.shown, ("stages", name))
                message = f"there is no stage {name!r}; known: {', '.join(known) or 'none'}"
                problems = [problem for problem in problems if not problem.path.startswith(below)]
                problems.append(Problem(where, dotted(shown), message, nearest(name, known)))
        return problems

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
            self.hint = f"--arms restricts a setting to the arms that it fits: --arms {arms_text(fit)}"

    def _in_file(self, path: Path_, prefix: Path_ = ()) -> tuple[str, Path_]:
        """Where the file wrote what stands at `path` of a run, below `prefix`, and how it calls it."""
        known = [(*prefix, *spelled) for spelled in spellings(path)]
        full = max(reversed(known), key=lambda path: self.document.depth(path) - len(path))
        return str(self.document.where(full) or self.shown), full

    def _set_location(self, path: Path_) -> tuple[str, Path_] | None:
        """The setting that wrote the value at `path` (the longest), or else one that wrote a value below it."""
        for spelled in spellings(path):
            related = [written for written in self.sets.lines if covers(written, spelled)]
            related.sort(key=lambda w: (len(w) <= len(spelled), len(w), "*" not in w), reverse=True)
            if related:
                return str(self.sets.lines[related[0]]), spelled
        return None

    def _tuned_location(self, arm: str | None, path: Path_) -> tuple[str, Path_] | None:
        prefix = ("arms", str(arm), "tuned", "set")
        for spelled in spellings(path):
            if self.document.depth((*prefix, *spelled)) > len(prefix):
                return str(self.document.where((*prefix, *spelled))), (*prefix, *spelled)
        return None

    def check_references(self) -> None:
        """Names that must exist elsewhere: the paper's table and rows, arms, columns, fields, scales, stages."""
        diffs = [arm.get("set") for arm in self._arms().values() if isinstance(arm, dict)]
        stages = [part.get("stages") for part in (self._base_data(), *diffs) if isinstance(part, dict)]
        everywhere = [str(name) for part in stages if isinstance(part, dict) for name in part if name != "replace"]
        self._look_for_left_out(self.run_sets, {"stages": dict.fromkeys(everywhere)})
        self._look_for_idle_stars()
        for check in (check_arms_exist, check_claims, check_cells, check_paired, check_factor):
            self.problems += check(self.data, self._where)
        scale = self.scale.scale
        self.problems += check_scale_names(self.data, self._where, {*scale_files(self.file), PAPER, scale.name})
        self.problems += check_scale_paths(scale, self.scale.where)

    def _look_for_idle_stars(self) -> None:
        """Tell of settings whose `*` stands for nothing in any chosen arm: unless the section as a whole is set, too,
        or nothing is trained at all, which settings for many files may meet."""
        trained = any(config.get("stages") for config in self._before_sets)
        for path, location in self.sets.lines.items():
            if "*" not in path or path[0] not in SECTIONS or not trained:
                continue
            places = spread(path[: len(path) - path[::-1].index("*")])
            there = any(any(every_place(config, place)) for config in self._before_sets for place in places)
            if not there and (path[0], *path[path.index("*") + 1 :]) not in self.sets.lines:
                told = "nothing is there that `*` could stand for"
                self.problems.append(Problem(str(location), dotted(path), told))

    def _where(self, path: Path_) -> tuple[str, Path_]:
        for spelled in spellings(path):
            if location := self.sets.where(spelled):
                return str(location), spelled
        return self._in_file(path)


def arms_text(names: Sequence[str]) -> str:
    """Names of arms as `--arms` takes them: with commas between, and quotes where there are commas in them."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names)
    return line.getvalue()


def _validated(data: dict[str, Any], where: Where) -> tuple[RunConfig | None, list[Problem]]:
    try:
        config = RunConfig.model_validate(run_data(data))
    except ValidationError as error:
        return None, problems_of(error, RunConfig, run_data(data), where)
    problems = _unfilled(config, where)
    return None if problems else config, problems


def _unfilled(config: RunConfig, where: Where) -> list[Problem]:
    """Sizes of the evaluation's pictures that tiles do not fill."""
    told = config.evaluation.unfilled_tiles()
    places = {path: where(("evaluation", *path)) for path in told}
    return [Problem(file, dotted(shown), told[path]) for path, (file, shown) in places.items()]


def _as_written(config: RunConfig, data: dict[str, Any]) -> dict[str, Any]:
    """A run with all its values, but of what the evaluation takes over from the last stage only what is written; and
    the file's `data`, for stages that a scale or a setting brings."""
    plain: dict[str, Any] = whole_dump(config)
    try:
        plain |= {"data": whole_dump(DataConfig.model_validate(data["data"]))}
    except (KeyError, ValidationError):  # no whole by itself: every stage must say the rest
        plain |= {"data": data["data"]} if isinstance(data.get("data"), dict) else {}
    written, evaluation = data["evaluation"], plain["evaluation"]
    for key in ("image", "prompt"):
        _restore(evaluation, written, key)
    for name, entry in evaluation["benchmarks"].items():
        _restore(entry, written["benchmarks"][name], "image")
    return plain


def _restore(full: dict[str, Any], written: Any, key: str) -> None:
    """Put the value at `key` back to what is written, or away."""
    del full[key]
    if isinstance(written, dict) and written.get(key) is not None:
        full[key] = written[key]
