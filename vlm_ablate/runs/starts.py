"""Runs that other runs start from, wholly or with one part: `model.init_from: run:NAME`. No torch here."""

from __future__ import annotations

import hashlib
import json
from functools import partial

from vlm_ablate.config.model import RUN, WHOLE, ModelConfig
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.errors import UnknownNameError, VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.runs.fingerprints import MISSING
from vlm_ablate.runs.folder import StageFolder, variants
from vlm_ablate.runs.names import RunNotUsable, named_run
from vlm_ablate.runs.once import once
from vlm_ablate.tracking import schema


def field_of(part: str) -> str:
    """The field of a configuration that says where a part starts from."""
    return "model.init_from" if part == WHOLE else f"model.init_from.{part}"


def run_named(id: str) -> str | None:
    """The name of the run that an `init_from` names; None: it names a folder or a hub id."""
    return id.removeprefix(RUN).strip() if id.startswith(RUN) else None


def stage_of(name: str, home: Home) -> StageFolder:
    """The last stage of a finished run of that name, with its weights.

    Raises:
        UnknownNameError: no such run.
        RunNotUsable: several runs of that name, or one without trained weights.
    """
    body = named_run(name, home)
    called, key = f"{body['spec']['arm']} seed {body['spec']['seed']}", body["stages"][-1]
    done = _trained(key, home)
    if len(done) == 1:
        return done[0]
    if done:
        places = ", ".join(str(folder.root) for folder in done)
        raise RunNotUsable(
            f"the run {called!r} was trained from {len(done)} versions of its files: {places}",
            hint="move those away that are not meant",
        )
    raise RunNotUsable(
        f"the run {called!r} ({body.get('status')}) has no trained weights in {home.stages / key}",
        hint="let it finish first: vlm-ablate run FILE",
    )


def _trained(key: str, home: Home) -> list[StageFolder]:
    """The finished stages of a key that have weights, each of other files, in the order in which they were begun."""
    folders = [StageFolder(root) for root in variants(home.stages, key)]
    return [f for f in folders if (f.outcome() or {}).get("status") == schema.FINISHED and f.weights.is_file()]


def start_fingerprints(model: ModelConfig, home: Home) -> dict[str, str]:
    """Field -> digest of the run's weights that it takes, and of what these are a change of; MISSING: not here."""
    found = {}
    for part, id in model.starts.items():
        if (name := run_named(id)) is not None:
            what = field_of(part).removeprefix("model.")
            found[what] = once(("start", name, home.root), partial(_digest_or_missing, name, home))
    return found


def _digest_or_missing(name: str, home: Home) -> str:
    """Of the last of several: what another one was taken for is no result of the run as it is now."""
    try:
        done = _trained(named_run(name, home)["stages"][-1], home)
        return digest_of(done[-1]) if done else MISSING
    except VlmAblateError:
        return MISSING  # whoever starts from it says what is wrong


def digest_of(stage: StageFolder) -> str:
    """16 hex digits of the weights after a stage: what training made, and the files that it was made from."""
    kept = (stage.manifest() or {}).get("fingerprints", {})
    files = {what: digest for what, digest in kept.items() if not what.startswith("data ")}
    body = {"weights": (stage.outcome() or {}).get("weights_sha256", ""), "files": files}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def placed(model: ModelConfig, home: Home) -> ModelConfig:
    """The model with the folders of the runs that it starts from in the place of their names.

    Raises:
        UnknownNameError: no such run; the message names the field.
        RunNotUsable: it has no weights to give.
    """
    folders = {}
    for part, id in model.starts.items():
        if (name := run_named(id)) is None:
            continue
        where = field_of(part)
        try:
            folders[id] = str(stage_of(name, home).root)
        except UnknownNameError as error:
            error.message = f"{where}: {error.message}"
            error.args = (error.message,)
            raise
        except RunNotUsable as error:
            raise RunNotUsable(f"{where}: {error.message}", hint=error.hint) from error
    return model.starting_from(folders)


def placed_run(config: RunConfig, home: Home) -> RunConfig:
    """The same of a run's whole configuration, for a plan of it."""
    model = placed(config.model, home)
    return config if model is config.model else config.model_copy(update={"model": model})


def noted(model: ModelConfig, home: Home) -> dict[str, str]:
    """`run:NAME` -> name of the folder below `stages` that it stands for: what a stage's manifest keeps."""
    names = {id: run_named(id) for id in model.starts.values()}
    return {id: stage_of(name, home).root.name for id, name in names.items() if name is not None}
