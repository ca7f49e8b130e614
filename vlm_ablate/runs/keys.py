"""What a result is named by: everything that decides it, and nothing else.

A *stage key* covers the model, the seeds and all stages so far, each with its data: what decides the weights after that
stage. A *score key* covers the last stage's key and the protocol of one benchmark. How something is computed (the
section `execution`) and what it is called (experiment, arm, column, stage) are in neither. Files that decide are not in
the key but stand beside it as fingerprints (`fingerprints.py`), since they are known only where they are.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from vlm_ablate.config.base import Decides, Strict
from vlm_ablate.config.decides import dump
from vlm_ablate.config.model import RUN, WHOLE, ModelConfig
from vlm_ablate.config.stages import Stage, Training
from vlm_ablate.evaluation.benchmarks.configs import HubBenchmarkConfig, Use
from vlm_ablate.home import Home
from vlm_ablate.models.views import Views
from vlm_ablate.registry import benchmarks
from vlm_ablate.runs.fingerprints import Fingerprints, Part, fingerprints_of
from vlm_ablate.runs.once import once
from vlm_ablate.runs.starts import start_fingerprints

if TYPE_CHECKING:
    from vlm_ablate.config.evaluation import BenchmarkEntry
    from vlm_ablate.config.experiment import RunConfig, Seeds

NUMERICS = 1
"""Raised when a change of this package moves the digits that training or scoring gives."""
DORA_NUMERICS = 2
"""The same of stages with DoRA alone, which others' keys leave out. 2: norms in closed form; before, peft's own."""

AS_RELEASED = "released"
"""Stands for the stage of a run that trains nothing."""

Mode = Literal["seen", "blind", "described"]
"""Images shown, withheld (the blind floor), or told in words (the ceiling)."""


@dataclass(frozen=True)
class StageKey:
    """One stage of a run."""

    name: str
    index: int
    key: str
    """12 hex digits."""
    inputs: dict[str, Any]
    """What they cover, as plain data."""
    parts: dict[str, Part]
    """What -> part whose files decide: the model's, and the sources of this stage and those before."""
    model: ModelConfig

    def fingerprints(self, home: Home) -> Fingerprints:
        """Of the files of its parts, and of the runs of a home that it starts from, as they are on this machine now."""
        return fingerprints_of(self.parts) | start_fingerprints(self.model, home)


@dataclass(frozen=True)
class ScoreKey:
    """One benchmark asked in one way."""

    column: str
    mode: Mode
    key: str
    inputs: dict[str, Any]
    parts: dict[str, Part]

    def fingerprints(self) -> Fingerprints:
        """Of the benchmark's files."""
        return fingerprints_of(self.parts)


_CANONICAL = json.JSONEncoder(sort_keys=True)


def key_of(inputs: dict[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of the canonical JSON."""
    return _digest(_CANONICAL.encode(inputs))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def has_dora(stage: Stage) -> bool:
    """Whether a stage trains a backbone with DoRA."""
    return Training.dora in (stage.vision, stage.language)


def dumped(part: Strict, decides: Decides) -> dict[str, Any]:
    """`dump`, once for all seeds of an arm where many runs are read."""
    return once(("dump", id(part), decides), lambda: (part, dump(part, decides)))[1]


def stage_keys(config: RunConfig, seeds: Seeds) -> tuple[StageKey, ...]:
    """The keys of a run's stages, in order; of a run without any, the key of the checkpoint that it scores.

    No seed decides the latter, since every weight comes from there.
    """
    model = dumped(config.model, "training")
    built = {"vision": config.model.vision, "language": config.model.language}
    built |= {"connector": config.model.connector, "architecture": config.model.architecture}
    own = {name: part.numerics for name, part in built.items() if part.numerics != 1}
    parts: dict[str, Part] = {**built}
    common = {
        "numerics": NUMERICS,
        **({"part_numerics": own} if own else {}),
        "seeds": seeds.model_dump(mode="json"),
        "model": model,
        "views": asdict(Views.of(config.images())),
    }
    for part, id in config.model.starts.items():
        if not id.startswith(RUN):
            parts["init_from" if part == WHOLE else f"init_from.{part}"] = _Checkpoint(id)
    if not config.stages:
        inputs = {"numerics": NUMERICS, "model": model, "views": common["views"], "stages": []}
        return (StageKey(AS_RELEASED, 0, key_of(inputs), inputs, parts, config.model),)
    stages: list[dict[str, Any]] = []
    keys = []
    for index, (name, stage) in enumerate(config.stages.items()):
        numerics = {"dora_numerics": DORA_NUMERICS} if has_dora(stage) else {}
        stages.append(dumped(stage, "training") | numerics)
        parts = parts | {f"data {name}.{source}": entry.source for source, entry in stage.data.mixture.items()}
        inputs = {**common, "stages": list(stages)}
        keys.append(StageKey(name, index, key_of(inputs), inputs, parts, config.model))
    return tuple(keys)


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint to start from, looked at as a part: what its `id` names decides."""

    id: str
    name: str = ""
    revision: str | None = None


def score_keys(config: RunConfig, weights: str) -> tuple[ScoreKey, ...]:
    """The keys of all scores of a run: with images, blind, and in words, as the configuration asks.

    Args:
        weights: key of the last stage.
    """
    evaluation = config.evaluation
    asked: dict[Mode, bool] = {"seen": True, "blind": evaluation.blind, "described": evaluation.ceiling}
    return tuple(
        score_key(config, column, entry, mode, weights)
        for mode, wanted in asked.items()
        if wanted
        for column, entry in evaluation.benchmarks.items()
    )


def score_key(config: RunConfig, column: str, entry: BenchmarkEntry, mode: Mode, weights: str) -> ScoreKey:
    """The key of one score."""
    look = ("asked", id(config), column, mode)
    _, asked, text, parts = once(look, lambda: (config, *_of_any(config, column, entry, mode)))
    inputs = asked | {"weights": weights}
    # `key_of(inputs)`: in the order of the alphabet `weights` is the last.
    key = _digest(f'{text[:-1]}, "weights": {json.dumps(weights)}}}')
    return ScoreKey(column, mode, key, inputs, parts)


def _of_any(
    config: RunConfig, column: str, entry: BenchmarkEntry, mode: Mode
) -> tuple[dict[str, Any], str, dict[str, Part]]:
    """What a score's key covers beside the weights, which are left open; its canonical JSON without them; and what -> a
    part whose files decide."""
    precision = config.evaluation.precision
    asked: dict[str, Any] = {"numerics": NUMERICS, "weights": None, **_asked(config, column, entry), "mode": mode}
    asked |= {"precision": precision} if precision else {}
    text = _CANONICAL.encode({name: value for name, value in asked.items() if name != "weights"})
    return asked, text, {"benchmark": entry.benchmark, **_elsewhere(entry, shown=bool(asked["shots"]))}


def _elsewhere(entry: BenchmarkEntry, *, shown: bool) -> dict[str, Part]:
    """Other data sets that its split is read from, and where demonstrations are shown, the train split."""
    benchmark = entry.benchmark
    if not isinstance(benchmark, HubBenchmarkConfig):
        return {}
    splits: list[Use] = [entry.split, "train"] if shown else [entry.split]
    others = dict.fromkeys(other for split in splits if (other := benchmark.elsewhere(split)))
    return {f"benchmark {id}": benchmark.model_copy(update={"id": id, "revision": None}) for id in others}


def curve_keys(config: RunConfig) -> dict[str, str]:
    """Column -> 12 hex digits of how points of the curve ask it, whichever weights answer; none without a curve.

    Stages are named without it, so that a run may find scores along the way that were asked otherwise.
    """
    if config.evaluation.curve is None:
        return {}
    return once(("curve", id(config)), lambda: (config, _curve_keys(config)))[1]


def _curve_keys(config: RunConfig) -> dict[str, str]:
    evaluation = config.evaluation
    asked = {column: _asked(config, column, evaluation.along_the_way(column)) for column in evaluation.curve_columns}
    return {column: key_of({**how, "precision": config.scoring_precision}) for column, how in asked.items()}


def _asked(config: RunConfig, column: str, entry: BenchmarkEntry) -> dict[str, Any]:
    """How one benchmark is asked, whichever weights answer."""
    from vlm_ablate.evaluation.metrics import metrics
    from vlm_ablate.evaluation.prompts import get_template

    evaluation = config.evaluation
    kind = benchmarks[entry.benchmark.name].load()
    template, metric = kind.asked_with(entry.benchmark)
    shots = evaluation.shots if entry.shots is None else entry.shots
    return {
        "benchmark": dumped(entry, "score")["benchmark"],
        "split": entry.split,
        "limit": entry.limit,
        "shots": shots,
        "demonstrations": dumped(evaluation.demonstrations, "score") if shots else None,
        "prepared": evaluation.preparation(column).model_dump(mode="json"),
        "template": get_template(template).id,
        "scorer": f"{metrics[metric].name} {metrics[metric].version}",
    }
