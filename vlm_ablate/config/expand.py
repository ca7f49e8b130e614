"""A validated experiment at one scale: the one entry point of every command that takes an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from vlm_ablate.config.compose import flatten, load_document, parse_sets
from vlm_ablate.config.diff import fairness_warnings
from vlm_ablate.config.document import Document, display
from vlm_ablate.config.experiment import Experiment, RunConfig
from vlm_ablate.config.loading import Loading, ResolvedArm
from vlm_ablate.config.scale import Scale
from vlm_ablate.config.scales import load_scale, scale_of
from vlm_ablate.config.shipped import OWN, experiments_root, shipped_experiments
from vlm_ablate.errors import ConfigError, UnknownNameError

EVALUATIONS = Path(str(files("vlm_ablate") / "assets" / "evaluations"))
"""Tables of the papers whose rows are released models: experiments without a stage, for `vlm-ablate evaluate`."""


@dataclass(frozen=True)
class LoadedExperiment:
    """A validated experiment at one scale: all of it, or some of its arms as if the file had no others."""

    file: Path
    experiment: Experiment
    """The file as written; only the arms asked for, and the claims among them."""
    scale: Scale
    base: RunConfig
    """The base at the scale, without any arm's diff."""
    arms: dict[str, ResolvedArm]
    sets: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    """Arms of the file that were not asked for -> label."""
    missing_stand_ins: tuple[str, ...] = ()
    inherited_arms: dict[str, str] = field(default_factory=dict)
    """Arm that a base brings beside the file's own -> the base."""

    @property
    def warnings(self) -> list[str]:
        """What a reader should know before running: unfair comparisons, parts without a stand-in."""
        lacking = [
            f"scale {self.scale.name!r} has no stand-in for {m}; it is used as written" for m in self.missing_stand_ins
        ]
        configs = {name: arm.config for name, arm in self.arms.items()}
        brought: dict[str, list[str]] = {}
        for arm, base in self.inherited_arms.items():
            brought.setdefault(base, []).append(arm)
        inherited = [
            f"{', '.join(arms)}: arms of {base} beside this file's own; `replace: true` in `arms` leaves them out"
            for base, arms in brought.items()
        ]
        factor = [*self.experiment.factor, *self.scale.tuned_fields]
        return fairness_warnings(configs, factor) + lacking + inherited + self._tuned_elsewhere() + self._not_reached()

    def _not_reached(self) -> list[str]:
        """Sizes of images that a stage is too short to come to."""
        found: dict[str, list[str]] = {}
        for name, arm in self.arms.items():
            for stage, config in arm.config.stages.items():
                for step, size in config.data.climb.items():
                    if step >= config.steps:
                        told = f"stages.{stage}.data.climb.{step}: images never grow to {size} px, for the stage ends"
                        found.setdefault(f"{told} after {config.steps:,} steps", []).append(name)
        return [f"{told} ({', '.join(arms)})" if len(arms) < len(self.arms) else told for told, arms in found.items()]

    def _tuned_elsewhere(self) -> list[str]:
        """Arms that a sweep tuned at another scale: what it found holds there."""
        scales: dict[str, list[str]] = {}
        for name, arm in self.experiment.arms.items():
            if arm.tuned and arm.tuned.scale != self.scale.name:
                scales.setdefault(arm.tuned.scale, []).append(name)
        return [
            f"{', '.join(names)}: tuned at scale {scale!r}; at {self.scale.name!r} it is as the file has it"
            for scale, names in scales.items()
        ]

    def select(self, arms: Sequence[str] | None) -> list[ResolvedArm]:
        """The named arms in the order of the file; None: all.

        Raises:
            UnknownNameError: an arm that the file does not have.
        """
        for name in arms or ():
            if name not in self.arms:
                raise UnknownNameError("arm", name, self.arms)
        return [arm for name, arm in self.arms.items() if arms is None or name in arms]


def load_experiment(
    path: str | Path, *, scale: str = "laptop", sets: Sequence[str] | Document = (), arms: Sequence[str] | None = None
) -> LoadedExperiment:
    """Read, compose and validate an experiment file at a scale.

    Args:
        sets: `a.b=value`, or nested with the places where they are written; applied last, to every arm that is asked
            for and to no other.
        arms: names of the arms asked for; None: all. The others must be valid as the file has them.

    Raises:
        ConfigError: all problems of the file, its arms, the scale and the settings at once.
        UnknownNameError: no scale, or no arm, of that name.
    """
    file = find_experiment(path)
    document = load_document(file)
    overrides = sets if isinstance(sets, Document) else parse_sets(sets)
    loaded_scale = scale_of(document, load_scale(scale, file))
    work = Loading(file, document, loaded_scale, overrides, arms)
    experiment = work.experiment()
    resolved = {name: work.arm(name) for name in work.arm_names()}
    base = work.base()
    work.report_scaled()
    work.check_references()
    if work.problems:
        raise ConfigError(list(dict.fromkeys(work.problems)), hint=work.hint)
    assert experiment is not None and base is not None
    return LoadedExperiment(
        file=file,
        experiment=restricted(experiment, work.chosen),
        scale=loaded_scale.scale,
        base=base,
        arms={name: arm for name, arm in resolved.items() if arm and name in work.chosen},
        sets=_told(sets),
        left_out={name: arm.label for name, arm in resolved.items() if arm and name not in work.chosen},
        missing_stand_ins=tuple(dict.fromkeys(work.missing)),
        inherited_arms={name: base for name, base in document.inherited_arms.items() if name in work.chosen},
    )


def _told(sets: Sequence[str] | Document) -> tuple[str, ...]:
    if not isinstance(sets, Document):
        return tuple(sets)
    return tuple(f"{'.'.join(path)}={value}" for path, value in flatten(sets.data).items())


def restricted(experiment: Experiment, arms: Sequence[str]) -> Experiment:
    """The experiment with some of its arms, and the claims among them."""
    claims = [claim for claim in experiment.table.claims if set(claim.arms) <= set(arms)]
    kept = {name: arm for name, arm in experiment.arms.items() if name in arms}
    return experiment.model_copy(
        update={"arms": kept, "table": experiment.table.model_copy(update={"claims": claims})}
    )


def find_experiment(path: str | Path) -> Path:
    """The file itself, or that of `experiments/` here or of the package: `idefics2/t03_architecture` is enough.

    `figure5`, `table8` and `table9` are evaluations that the package brings (`EVALUATIONS`).

    Raises:
        UnknownNameError: neither exists.
    """
    given = Path(path)
    brought = EVALUATIONS / f"{given.name}.yaml"
    within = given.relative_to(OWN) if given.is_relative_to(OWN) else given
    roots = [root for root in (OWN, shipped_experiments()) if root is not None]
    for candidate in (given, *(root / name for root in roots for name in (within, f"{within}.yaml"))):
        if candidate.is_file():
            return candidate
    if given == Path(given.name) and brought.is_file():
        return brought
    known = [display(f) for f in experiment_files()] + [f.stem for f in sorted(EVALUATIONS.glob("*.yaml"))]
    raise UnknownNameError("experiment file", str(path), known)


def experiment_files(root: Path | None = None) -> list[Path]:
    """Experiment files of `experiments/` here, else of the package; fragments (`_name.yaml`), scales and sweeps are
    not experiments."""
    root = root or experiments_root()
    found = [f for f in sorted(root.rglob("*.yaml")) if not f.name.startswith("_")]
    return [f for f in found if f.parent.name not in ("scales", "sweeps")]
