"""A fully resolved run as a value: plain data, validated, hashable."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from vlm_ablate.config.experiment import RunConfig, Seeds


@dataclass(frozen=True)
class RunSpec:
    """One arm with one seed at one scale.

    `hash` covers what decides the outcome (config and seeds) and nothing else, so that two tables which need the
    same run share it. Labels (experiment, arm, paper cell, stand-ins) travel beside it.
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

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON of config and seeds."""
        body = {"config": self.config.model_dump(mode="json"), "seeds": self.seeds.model_dump(mode="json")}
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def run_name(self) -> str:
        """A name that a person can read in the MLflow UI, e.g. `ar_perceiver_lora · seed 0 · laptop`."""
        return f"{self.arm} · seed {self.seed} · {self.scale}"

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
        }
        return cls(**parsed)
