"""A fully resolved run as a value: plain data, validated, with the keys of its results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from vlm_ablate.config.expand import LoadedExperiment
from vlm_ablate.config.experiment import RunConfig, Seeds
from vlm_ablate.config.loading import ResolvedArm
from vlm_ablate.config.shared_data import short
from vlm_ablate.runs.keys import ScoreKey, StageKey, dumped, key_of, score_keys, stage_keys
from vlm_ablate.runs.once import once


@dataclass(frozen=True)
class Trial:
    """What a run is in a sweep; like all labels it decides nothing."""

    sweep: str
    number: int
    parent: str = ""
    """The sweep's run in the tracking store."""


@dataclass(frozen=True)
class RunSpec:
    """One arm with one seed at one scale.

    Its results are named by keys that cover what decides them and nothing else, so that tables which need the same
    weights or scores share them. Labels (experiment, arm, paper cell, stand-ins) travel beside it.
    """

    experiment: str
    arm: str
    label: str
    seed: int
    scale: str
    config: RunConfig
    seeds: Seeds
    plugins: tuple[str, ...] = ()
    paper: str | None = None
    cell: dict[str, Any] | None = None
    stand_ins: dict[str, str] = field(default_factory=dict)
    """Dotted path -> "paper's name -> stand-in (note)"."""
    scaled: dict[str, str] = field(default_factory=dict)
    """Dotted path -> "paper's value -> value at this scale", for every other field that the scale changed."""
    trial: Trial | None = None
    """Of which sweep it is a trial."""
    evaluated: bool = False
    """Asked for by `vlm-ablate evaluate`: a row beside the arms that the experiment's file has."""

    @cached_property
    def stage_keys(self) -> tuple[StageKey, ...]:
        """Names of the weights after each stage."""
        return stage_keys(self.config, self.seeds)

    @cached_property
    def score_keys(self) -> tuple[ScoreKey, ...]:
        """Names of the scores of the last stage's weights."""
        return score_keys(self.config, self.stage_keys[-1].key)

    @cached_property
    def id(self) -> str:
        """12 hex digits that tell this run: what it is called, and everything that decides its results."""
        labels = {"experiment": self.experiment, "arm": self.arm, "seed": self.seed, "scale": self.scale}
        asked = dumped(self.config.evaluation, "score")
        return key_of({**labels, "weights": self.stage_keys[-1].key, "evaluation": asked})

    def shown_config(self) -> dict[str, Any]:
        """What decides the results, as people read it: data that all stages share stands once."""
        return {section: value for section, value in short(self.config).items() if section != "execution"}

    @property
    def run_name(self) -> str:
        """A name that a person can read in the MLflow UI, e.g. `ar_perceiver_lora · seed 0 · laptop`."""
        scale = f"trial {self.trial.number}" if self.trial else self.scale
        return f"{self.arm} · seed {self.seed} · {scale}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for another process, a file or a queue."""
        return {
            "experiment": self.experiment,
            "arm": self.arm,
            "label": self.label,
            "seed": self.seed,
            "scale": self.scale,
            "config": self.config.model_dump(mode="json"),
            "seeds": self.seeds.model_dump(mode="json"),
            "plugins": list(self.plugins),
            "paper": self.paper,
            "cell": self.cell,
            "stand_ins": self.stand_ins,
            "scaled": self.scaled,
            **({"trial": asdict(self.trial)} if self.trial else {}),
            **({"evaluated": True} if self.evaluated else {}),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RunSpec:
        """The inverse of `to_dict`; plug-ins are loaded first so that their parts validate."""
        from vlm_ablate.registry import load_plugins

        load_plugins(list(data["plugins"]))
        parsed = {
            **data,
            "config": RunConfig.model_validate(data["config"]),
            "seeds": Seeds.model_validate(data["seeds"]),
            "plugins": tuple(data["plugins"]),
            "trial": Trial(**data["trial"]) if data.get("trial") else None,
            "evaluated": data.get("evaluated") is True,
        }
        return cls(**parsed)


def specs_of(
    loaded: LoadedExperiment, *, arms: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> list[RunSpec]:
    """One RunSpec for each arm and seed, seed by seed, so that a whole table exists as early as possible.

    Raises:
        UnknownNameError: an arm that the file does not have.
    """
    chosen = loaded.select(arms)
    numbers = list(dict.fromkeys(loaded.experiment.seeds if seeds is None else seeds))
    return [spec_of(loaded, arm, seed) for seed in numbers for arm in chosen]


def spec_of(loaded: LoadedExperiment, arm: ResolvedArm, seed: int) -> RunSpec:
    """The run of one arm with one seed; where many runs are read, the same object with its keys."""
    return once(("spec", id(loaded), id(arm), seed), lambda: (loaded, arm, _spec_of(loaded, arm, seed)))[2]


def _spec_of(loaded: LoadedExperiment, arm: ResolvedArm, seed: int) -> RunSpec:
    experiment = loaded.experiment
    return RunSpec(
        experiment=experiment.name,
        arm=arm.name,
        label=arm.label,
        seed=seed,
        scale=loaded.scale.name,
        config=arm.config,
        seeds=seeds_from(seed),
        plugins=tuple(experiment.plugins),
        paper=experiment.paper.key if experiment.paper else None,
        cell=arm.cell,
        stand_ins=dict(arm.stand_ins),
        scaled=dict(arm.scaled),
    )


def seeds_from(number: int) -> Seeds:
    """Independent seeds for the streams of run `number`; they depend on nothing else: all arms share the data order."""

    def stream(name: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{name}:{number}".encode()).digest()[:4], "big") >> 1

    return Seeds(**{name: stream(name) for name in Seeds.model_fields})
