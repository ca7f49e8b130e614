"""The names of everything a run records: tags, params, metrics, artifacts. No other file spells them out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vlm_ablate.limits import parse_json

# --- tags of a run ---------------------------------------------------------------------------------------------------
KIND = "vlm.kind"
RUN = "vlm.run"
"""Id of the run: experiment, arm, seed, scale and everything that decides its results."""
STAGES = "vlm.stages"
"""JSON list of the keys of its stages."""
EXECUTION = "vlm.execution"
"""JSON: how it was computed (micro batches, workers, ...): what decides no result."""
ARM = "vlm.arm"
LABEL = "vlm.label"
SEED = "vlm.seed"
SCALE = "vlm.scale"
PAPER = "vlm.paper"
TABLE = "vlm.table"
CELL = "vlm.cell"
STAND_INS = "vlm.stand_ins"
SCALED = "vlm.scaled"
"""JSON: dotted path -> "paper's value -> value at this scale", for fields that a scale changed beside the parts."""
STATUS = "vlm.status"
MESSAGE = "vlm.message"
DATA_FINGERPRINT = "vlm.data_fingerprint"
LICENCES = "vlm.licences"
SCORES = "vlm.scores"
"""JSON list of score records: the only thing a table's scores are computed from."""
INIT_FROM = "vlm.init_from"
"""JSON: the checkpoint that the model started from: id, type, sha256 (see `checkpoints/released.py`)."""
GIT = "vlm.git"
VERSIONS = "vlm.versions"
MACHINE = "vlm.machine"
THREADS = "vlm.threads"
SEVERAL = " and "
"""Between the values of `GIT`, `MACHINE` or `THREADS`, where stages of the run were trained with several."""
CLAIMS = "vlm.claims"
"""On the table run: JSON list of claim verdicts."""
SWEEP = "vlm.sweep"
TRIAL = "vlm.trial"
"""Of a run that is a trial: its sweep, and its number there."""
SEARCHED = "vlm.searched"
"""On the sweep's run: JSON list of the dotted fields of its space; a `*` stands for every stage."""
OBJECTIVE = "vlm.objective"
"""On the sweep's run: column of the score that counts."""
PARENT = "mlflow.parentRunId"
"""The UI shows a run below the one that this names."""
QUESTION = "vlm.question"
LINK = "vlm.link"
DESCRIPTION = "mlflow.note.content"

RUN_KIND = "run"
EARLIER_KIND = "earlier"
"""A run's results from before `run --rerun`, beside which its new ones are a run of their own."""
TABLE_KIND = "table"
SWEEP_KIND = "sweep"

# --- statuses --------------------------------------------------------------------------------------------------------
RUNNING, FINISHED, DIVERGED, FAILED, SKIPPED = "running", "finished", "diverged", "failed", "skipped"
STOPPED = "stopped"
"""Stopped early on request, e.g. because others were better; it can be continued."""
DONE = frozenset({FINISHED, DIVERGED})
"""Statuses that are results: such a run is not trained again."""
MLFLOW_STATUS = {RUNNING: "RUNNING", FINISHED: "FINISHED", DIVERGED: "FINISHED", FAILED: "FAILED", SKIPPED: "KILLED",
                 STOPPED: "KILLED"}  # fmt: skip

# --- params: the flattened config, and these three first -------------------------------------------------------------
PARAM_ARM, PARAM_SEED, PARAM_SCALE = "arm", "seed", "scale"

# --- metrics ("/" makes sections in the MLflow UI) -------------------------------------------------------------------
TRAIN_LOSS = "train/loss"
TRAIN_LR = "train/lr"
TRAIN_GRAD_NORM = "train/grad_norm"
TRAIN_TOKENS_PER_S = "train/tokens_per_s"
TRAIN_MFU = "train/mfu"
"""Share of a GPU's peak that is put to use: the model's own operations, without what checkpointing does a second time
and with half of causal attention. Of a GPU whose peak is known."""
TRAIN_HFU = "train/hfu"
"""The same with what checkpointing does a second time."""
SEEN_IMAGES = "seen/images"
SEEN_TEXT_TOKENS = "seen/text_tokens"
SEEN_VISUAL_TOKENS = "seen/visual_tokens"
SEEN_FLOPS = "seen/flops"
"""Operations up to a step as torch's counter counts them: recomputation under checkpointing included, attention with
every key, also of a frozen encoder whose output is stored. (`train/mfu` counts otherwise.)"""
SEEN = (SEEN_IMAGES, SEEN_TEXT_TOKENS, SEEN_VISUAL_TOKENS, SEEN_FLOPS)
PARAMS_TOTAL = "model/params_total"
PARAMS_TRAINABLE = "model/params_trainable"
VISUAL_TOKENS = "model/visual_tokens"
FLOPS_PER_SAMPLE = "model/flops_per_sample"
DATA_SKIPPED = "data/skipped"
WALL_SECONDS = "time/wall_s"
CPU_SECONDS = "time/cpu_s"
"""Of the process that ran it (of several ranks: the first); not told where a part was computed by a version that did
not measure."""
WAITING = "time/waiting_for_data"
"""Share of the seconds between two tracked steps in which training waited for its next micro-batch, 0..1."""
MEAN = "mean"

# --- artifacts -------------------------------------------------------------------------------------------------------
CONFIG_FILE = "config.yaml"
PLAN_FILE = "plan.json"
PREDICTIONS_DIR = "predictions"
EXAMPLES_FILE = "examples.png"
WEIGHTS_DIR = "weights"

TAG_LIMIT = 7500
"""Characters of one tag value; MLflow and its databases refuse more than 8000."""
PARAM_LIMIT = 6000
"""Characters of one param value that MLflow accepts."""


def score_metric(column: str, *, blind: bool = False) -> str:
    """Metric name of a benchmark's score on 0..100, e.g. `score/vqa`; `score_blind/vqa` when images are withheld.

    The UI orders its chart sections by name: so the blind floors come right after the scores.
    """
    return f"{'score_blind' if blind else 'score'}/{column}"


CURVE = "curve/"
"""Prefix of the scores along the way, on a part of the tune split."""


def curve_metric(column: str) -> str:
    """Metric name of a score along the way (0..100), e.g. `curve/vqa`; `curve/mean` is the mean over the columns."""
    return f"{CURVE}{column}"


def ceiling_metric(column: str) -> str:
    """Metric name of what the run's language model scores when it is told in words what the images show (0..100).

    A run's page orders its charts by name alone: the curve is first, then sizes, scores, floors and ceilings.
    """
    return f"score_ceiling/{column}"


def ceiling_of(metrics: Mapping[str, float], column: str) -> float | None:
    """A run's ceiling, also from records in which the metric had its earlier name."""
    return metrics.get(ceiling_metric(column), metrics.get(f"ceiling/{column}"))


def json_tag(key: str, value: Any) -> dict[str, str]:
    """`value` as JSON under `key`; a long one continues under `key.1`, `key.2`, ..."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    parts = [text[i : i + TAG_LIMIT] for i in range(0, len(text), TAG_LIMIT)]
    return {key if i == 0 else f"{key}.{i}": part for i, part in enumerate(parts)}


def read_json_tag(tags: Mapping[str, str], key: str, default: Any = None) -> Any:
    """The inverse of `json_tag`; `default` when the tag is absent or cut short."""
    if key not in tags:
        return default
    parts, i = [tags[key]], 1
    # A continuation is only read after a full part: a rewritten, shorter value may leave an old tail behind.
    while len(parts[-1]) == TAG_LIMIT and f"{key}.{i}" in tags:
        parts.append(tags[f"{key}.{i}"])
        i += 1
    try:
        return parse_json("".join(parts))
    except ValueError:
        return default


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted paths -> text, as ordered; lists stay JSON, empty and None values are left out."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{path}.")
        elif value is not None and value != [] and value != "":
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            flat[path] = text if len(text) <= PARAM_LIMIT else text[: PARAM_LIMIT - 3] + "..."
    return flat
