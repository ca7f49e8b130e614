"""Whether a run keeps its encoder's output, and where; decided by its plan, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlm_ablate.config.stages import Training
from vlm_ablate.home import Home
from vlm_ablate.models.features import StoredFeatures, refusal
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM
from vlm_ablate.runs.fingerprints import fingerprints_of
from vlm_ablate.runs.spec import RunSpec

FOLDER = "features"
"""In the home's cache."""
_GIB = 2**30


@dataclass(frozen=True)
class Decision:
    """Whether features are kept in a stage."""

    on: bool
    reason: str


class Features:
    """Gives a run's model its store, or none."""

    def __init__(self, spec: RunSpec, home: Home) -> None:
        self._spec, self._root = spec, home.cache / FOLDER
        self.decisions: dict[str, Decision] = {}
        """Stage -> what the plan says; without one, nothing is kept unless it was asked for."""

    def decision(self, name: str) -> Decision:
        """Of one stage."""
        asked = self._spec.config.execution.of_stage(name).features
        return self.decisions.get(name) or Decision(asked == "on", "asked for" if asked == "on" else "no plan")

    def recall(self, name: str, outcome: Mapping[str, Any] | None) -> None:
        """Take the decision of a finished stage from its record, where no plan was made."""
        told = (outcome or {}).get("execution", {}).get("stored_features")
        if name not in self.decisions and isinstance(told, Mapping):
            self.decisions[name] = Decision(told.get("on") is True, str(told.get("why", "")))

    def attach(self, vlm: VLM, name: str) -> Decision:
        """Have the model look its encoder's output up, or not, as in stage `name`; says why."""
        vlm.features = None
        decision, config = self.decision(name), self._spec.config
        if not decision.on:
            return decision
        if config.stages[name].vision is not Training.frozen:
            return Decision(False, "the encoder is trained")
        files = fingerprints_of({"vision": config.model.vision})
        digest = " ".join(f"{what} {files[what]}" for what in sorted(files))
        if reason := refusal(vlm.vision, padded=Views.of(config.images()).padded, files=digest):
            return Decision(False, reason)
        limit = int(config.execution.features_gib * _GIB)
        vlm.features = StoredFeatures(vlm.vision, self._root, limit=limit, files=digest)
        return decision
