"""Whether a run keeps its encoder's output, and where; decided by its plan, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from vlm_ablate.accounting import CPU_FLOPS, GPU_FLOPS, FeaturePlan, Lengths, ModelPlan, plan_features
from vlm_ablate.accounting.features import GIB, GPU_MFU
from vlm_ablate.accounting.gpus import gpu_called
from vlm_ablate.config.stages import Training
from vlm_ablate.data.encode import Encoder, stage_encoder
from vlm_ablate.data.mixture import Mixture
from vlm_ablate.errors import DataError
from vlm_ablate.home import Home
from vlm_ablate.models.feature_store import features_folder
from vlm_ablate.models.features import StoredFeatures, refusal
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM
from vlm_ablate.runs.fingerprints import MISSING, fingerprints_of
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.speed import device_name
from vlm_ablate.training.fit import training_device

LOOKED_AT = 32
"""Samples by which it is decided."""


@dataclass(frozen=True)
class Decision:
    """Whether features are kept in a stage."""

    on: bool
    reason: str


class Features:
    """Gives a run's model its store, or none."""

    def __init__(self, spec: RunSpec, home: Home) -> None:
        self._spec, self._root = spec, features_folder(home)
        self._planned: dict[str, Callable[..., FeaturePlan]] = {}
        """Stage -> `plan_features` of its plan."""
        self.decisions: dict[str, Decision] = {}
        """Stage -> what follows; without a plan, nothing is kept unless it was asked for."""

    def plan(self, plan: ModelPlan) -> None:
        """Decide by this plan from now on."""
        reached, config = _reached(), self._spec.config
        for name, stage in plan.stages.items():
            execution = config.execution.of_stage(name)
            self._planned[name] = partial(plan_features, config.stages[name], execution, stage, flops=reached)

    def decision(self, name: str) -> Decision:
        """Of one stage."""
        asked = self._spec.config.execution.of_stage(name).features
        return self.decisions.get(name) or Decision(asked == "on", "no plan" if asked == "auto" else "asked for")

    def attach_for(self, vlm: VLM, name: str, mixture: Mixture, start: int) -> Decision:
        """As `attach`, for a stage that is to be trained: decided by its first samples.

        Args:
            start: index of the first one.
        """
        stage = self._spec.config.stages[name]
        if name in self._planned and name not in self.decisions:
            encoder = stage_encoder(
                vlm.tokenizer, stage.data, vlm.placeholders, start=start, batch_size=stage.batch_size
            )
            lengths = mean_lengths(encoder, mixture, start)
            pictures = round(sum(len(source) for source in mixture.sources) * lengths.images)
            plan = self._planned[name](lengths=lengths, pictures=pictures)
            self.decisions[name] = Decision(plan.on, plan.reason)
        return self.attach(vlm, name)

    def recall(self, name: str, outcome: Mapping[str, Any] | None) -> None:
        """Take the decision of a finished stage from its record, where no plan was made and `auto` leaves it open."""
        if self._spec.config.execution.of_stage(name).features != "auto":
            return
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
        known = MISSING not in files.values()
        digest = " ".join(f"{what} {files[what]}" for what in sorted(files)) if known else ""
        if reason := refusal(vlm.vision, padded=Views.of(config.images()).padded, files=digest):
            return Decision(False, reason)
        limit = int(config.execution.features_gib * GIB)
        vlm.features = StoredFeatures(vlm.vision, self._root, limit=limit, files=digest)
        return decision


def _reached() -> float:
    """Operations a second that a run is taken to reach here: the share of the GPU's peak that plans assume."""
    if training_device().type != "cuda":
        return CPU_FLOPS
    gpu = gpu_called(device_name())
    return GPU_FLOPS if gpu is None else GPU_MFU * gpu.flops


def mean_lengths(encoder: Encoder, mixture: Mixture, start: int) -> Lengths:
    """Of the first samples from an index on; of none where none can be used."""
    layouts = []
    for index in range(start, start + LOOKED_AT):
        which, row = mixture[index]
        with suppress(DataError):
            layouts.append(encoder.at(index).layout(mixture.sources[which][row]))
    tokens, views = sum(len(each.input_ids) for each in layouts), sum(len(each.view_sizes) for each in layouts)
    count = max(len(layouts), 1)
    return Lengths(tokens / count, views / count, sum(each.images for each in layouts) / count)
