"""What is on disk of a run, found by its keys. It does not matter which experiment or arm computed it."""

from __future__ import annotations

from vlm_ablate.checkpoints import trained
from vlm_ablate.home import Home
from vlm_ablate.runs.folder import ScoreFolder, StageFolder, find_stage, run_folder
from vlm_ablate.runs.keys import ScoreKey
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.view import Results
from vlm_ablate.tracking import schema


def find_results(spec: RunSpec, home: Home) -> Results:
    """The stages and scores of a run that are there, as far as the chain of its stages goes.

    Raises:
        StorageError: a file that tells of them cannot be read.
    """
    stages = find_stages(spec, home)
    finished = len(stages) == len(spec.stage_keys) and is_finished(stages[-1])
    scores = find_scores(spec, stages[-1]) if finished else ()
    folder = run_folder(home, spec.id)
    return Results(spec, folder, stages, scores, folder.read() or {})


def find_stages(spec: RunSpec, home: Home) -> tuple[StageFolder, ...]:
    """The folders of its stages, up to and with the first that is not finished."""
    found: list[StageFolder] = []
    for key in spec.stage_keys:
        before = found[-1].root.name if found else None
        stage = find_stage(home, key.key, key.fingerprints(home), before)
        if not stage.root.is_dir():
            break
        found.append(stage)
        if not is_finished(stage):
            break
    return tuple(found)


def find_scores(spec: RunSpec, last: StageFolder) -> tuple[tuple[ScoreKey, ScoreFolder], ...]:
    """The scores of the last stage's weights that are done."""
    asked = ((key, last.score(key.key, key.fingerprints())) for key in spec.score_keys)
    return tuple((key, score) for key, score in asked if score.outcome())


def is_finished(stage: StageFolder) -> bool:
    """Whether the stage's weights are there to start from, or were when it was recorded."""
    outcome = stage.outcome()
    return outcome is not None and outcome["status"] == schema.FINISHED


def check_weights(stage: StageFolder) -> None:
    """Compare the file of a finished stage's weights with the checksum in its record.

    Raises:
        ModelError: it was changed or damaged since it was written.
    """
    trained.check_weights(stage.root)
