"""The folder of a run's trained stage as something that another model starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlm_ablate.config.model import ModelConfig
from vlm_ablate.errors import ModelError
from vlm_ablate.models.pretrained import read_json
from vlm_ablate.models.views import Views
from vlm_ablate.sealed import unsealed
from vlm_ablate.storage import file_sha256

MANIFEST, WEIGHTS, _OUTCOME = "stage.json", "weights.safetensors", "outcome.json"


@dataclass(frozen=True)
class TrainedStage:
    """What is needed to build its model."""

    weights: Path
    """What training made, as `models/trained_state.py` writes it."""
    model: ModelConfig
    """The assembly that training began with."""
    views: Views
    seed: int
    """Of parameters that no file brings."""


def is_trained_stage(folder: Path) -> bool:
    """Whether a folder is that of a stage, with its weights."""
    return (folder / MANIFEST).is_file() and (folder / WEIGHTS).is_file()


def check_weights(folder: Path) -> None:
    """Compare the weights of a stage with the checksum that was recorded when they were written, if any was.

    Raises:
        ModelError: they were changed or damaged since, or the record cannot be read.
    """
    file = folder / _OUTCOME
    recorded = read_json(file).get("weights_sha256") if file.is_file() else None
    if recorded and file_sha256(folder / WEIGHTS) != recorded:
        raise ModelError(
            f"{folder / WEIGHTS} is damaged: its checksum is not that of what was trained",
            hint="put the file back, or train again with `vlm-ablate run FILE --rerun`",
        )


def read_trained_stage(folder: Path, *, check: bool = True) -> TrainedStage:
    """What the folder says of itself.

    Args:
        check: compare the file of weights with the checksum that was recorded.

    Raises:
        ModelError: it is damaged, or names parts that are not registered here.
    """
    file = folder / MANIFEST
    if check:
        check_weights(folder)
    try:
        body = unsealed(file.read_bytes())
        inputs = body["inputs"]
        model = ModelConfig.model_validate(inputs["model"])
        model = model.starting_from({id: str(_beside(folder, name)) for id, name in body.get("starts", {}).items()})
        return TrainedStage(folder / WEIGHTS, model, Views(**inputs["views"]), int(inputs["seeds"]["init"]))
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{file} cannot be read: {' '.join(str(error).split())[:300]}",
            hint="parts of a plug-in are known when `plugins:` names it",
        ) from error


def _beside(folder: Path, name: str) -> Path:
    """The folder of another stage of the same home.

    Raises:
        ValueError: the name leads elsewhere.
    """
    if name in ("", "..") or Path(name).name != name:
        raise ValueError(f"it started from {name!r}, which is no folder beside it")
    return folder.parent / name
