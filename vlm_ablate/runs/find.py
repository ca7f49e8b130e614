"""Finding a run that has ended, by name, key or folder, and its model as it was when it ended."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_ablate.errors import ModelError, StorageError, UnknownNameError, VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.runs.catalogue import asked_for, names_run
from vlm_ablate.runs.folder import RunFolder
from vlm_ablate.runs.results import check_weights, find_results
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.view import Results, record_of
from vlm_ablate.tracking import schema
from vlm_ablate.trust import load_plugins_of

if TYPE_CHECKING:
    import torch

    from vlm_ablate.models.vlm import VLM
    from vlm_ablate.tracking.records import RunRecord

_KEY = re.compile(r"[0-9a-f]{2,12}")
_LAST_KEY = re.compile(r"(?P<name>.*\S)\s+[(\[]?(?P<key>[0-9a-f]{4,12})[)\]]?\s*")
"""A name with a key behind it, in brackets or not. Shorter ones are seeds."""
SHOWN = 8
"""Digits of an id that messages show; enough to name it."""


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended well, and what it left."""

    spec: RunSpec
    results: Results

    @property
    def weights(self) -> Path:
        """What training made, as safetensors; see `models/trained_state.py`."""
        return self.results.stages[-1].weights

    @property
    def record(self) -> RunRecord:
        """What tables are computed from."""
        return record_of(self.results)


class RunNotUsable(VlmAblateError):
    """A run that exists but has no model to give."""


def find_run(name: str, home: Home) -> FinishedRun:
    """The finished run of that name.

    Args:
        name: words of experiment, arm, seed and scale in that order, any but the arm left out (`ar_perceiver_lora
            seed 0`, `idefics2/t03_architecture ar_perceiver_lora seed 0 laptop`); an id or key, or the beginning of
            one, alone or behind such words (`ar_perceiver_lora seed 0 86aa05dc`); or the run's folder. Runs that are
            the same weights count as one.
        home: where runs are looked for.

    Raises:
        UnknownNameError: no such run.
        RunNotUsable: several runs of that name, or one that has not finished.
        StorageError: its weights are not there any more.
    """
    spec = find_asked(name, home)
    results = find_results(spec, home)
    trained = len(results.outcomes) == len(spec.stage_keys) and results.status != schema.DIVERGED
    if not trained:
        status, message = results.status, results.message
        if status == schema.RUNNING:
            raise RunNotUsable(
                f"{spec.run_name!r} has not ended yet",
                hint="the command that started it continues it: vlm-ablate run FILE",
            )
        why = f"{status}: {message}" if message else status
        raise RunNotUsable(f"the run {spec.run_name!r} ended as {why}; it has no trained model")
    found = FinishedRun(spec, results)
    if spec.config.stages and not found.weights.is_file():
        raise StorageError(
            f"the weights of {spec.run_name!r} are gone: {found.weights} does not exist",
            hint="put the file back, or train again with `vlm-ablate run FILE --rerun`",
        )
    return found


def find_asked(name: str, home: Home) -> RunSpec:
    """The run of that name, as it was asked for, finished or not; see `find_run`.

    Raises:
        UnknownNameError: no such run.
        RunNotUsable: several runs of that name.
        StorageError: what the run's folder says cannot be read.
        ModelError: a folder from elsewhere would run code that the user did not allow.
    """
    file, body = _found(name, home)
    spec = body["spec"]
    plugins, config = spec.get("plugins"), spec.get("config")
    if not (isinstance(plugins, list) and isinstance(config, dict)):
        raise StorageError(f"{file} cannot be read as a run: it has no `plugins` or no `config`")
    if not file.resolve().is_relative_to(home.root.resolve()):
        load_plugins_of(file, plugins, config)  # of whoever sent the folder
    try:
        return RunSpec.from_dict(spec)
    except (TypeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StorageError(f"{file} cannot be read as a run: {reason}") from error


def load_run(found: FinishedRun, *, device: torch.device | str = "cpu") -> VLM:
    """The run's model as it was when training ended, in float32 and evaluation mode.

    Raises:
        AssetMissing: a part that the run started from is not on this machine any more.
        ModelError: the weights cannot be read, are damaged, or are of another configuration.
    """
    from vlm_ablate.checkpoints.start_from import started_vlm
    from vlm_ablate.models.trained_state import load_trained
    from vlm_ablate.models.views import Views

    config = found.spec.config
    if config.model.init_from:
        _check_origin(found, config.model.init_from)
    check_weights(found.results.stages[-1])
    vlm = started_vlm(config.model, Views.of(config.images()), seed=found.spec.seeds.init)
    if config.stages:
        load_trained(vlm, found.weights)
    return vlm.to(device).eval().requires_grad_(False)


def _check_origin(found: FinishedRun, id: str) -> None:
    """What the run kept is its difference from where it started; from elsewhere it would be another model."""
    from vlm_ablate.checkpoints.released import started_from

    then: dict[str, Any] = found.results.outcomes[0].get("init_from") or {}
    if then and then != (now := started_from(id)):
        raise ModelError(
            f"{found.spec.run_name!r} started from other weights than those that are in {id!r} now"
            f" (sha256 {then['sha256']} then, {now['sha256']} now)",
            hint="put the checkpoint back that it started from",
        )


def _found(name: str, home: Home) -> tuple[Path, dict[str, Any]]:
    """The run's `run.json`, and what it says."""
    given = RunFolder(Path(os.path.expanduser(name)).absolute())
    if os.path.isfile(given.file):
        body = given.read() or {}
        if not names_run(body):
            raise StorageError(f"{given.file} names no run", hint="give the folder of a run, as it is below `runs`")
        return given.file, body
    files = {body["id"]: folder.file for folder, body in asked_for(home)}
    body = _body(name, home)
    return files[body["id"]], body


def _body(name: str, home: Home) -> dict[str, Any]:
    """What `run.json` says of the run of that name in a home."""
    bodies = [body for _, body in asked_for(home)]
    found = [b for b in bodies if _has_key(b, name) or _is_called(b["spec"], name)]
    if not found and (parts := _LAST_KEY.fullmatch(name)):
        found = [b for b in bodies if _has_key(b, parts["key"]) and _is_called(b["spec"], parts["name"])]
    different = {tuple(body["stages"]): body for body in sorted(found, key=_preference)}
    if len(different) == 1:
        return next(iter(different.values()))
    if found:
        names = "; ".join(f"{full_name(body['spec'])} {body['id'][:SHOWN]}" for body in different.values())
        raise RunNotUsable(f"{name!r} names {len(different)} runs: {names}", hint="write one of these, or its key")
    known = [full_name(body["spec"]) for body in bodies] + [
        f"{b['spec']['arm']} seed {b['spec']['seed']}" for b in bodies
    ]
    raise UnknownNameError(f"run (in {home.runs})", name, dict.fromkeys(known))


def _preference(body: dict[str, Any]) -> tuple[bool, int]:
    """Of runs with the same weights the last one that ended well is taken."""
    return body.get("status") == schema.FINISHED, int(body.get("started_ms") or 0)


def full_name(spec: dict[str, Any]) -> str:
    """A name that tells a run from all others but those with other settings: experiment, arm, seed, scale."""
    return f"{spec['experiment']} {spec['arm']} seed {spec['seed']} {spec['scale']}"


def _has_key(body: dict[str, Any], key: str) -> bool:
    """Whether the run's id, or the key of its weights, begins so."""
    return bool(_KEY.fullmatch(key)) and any(known.startswith(key) for known in (body["id"], *body["stages"][-1:]))


def _is_called(spec: dict[str, Any], name: str) -> bool:
    """Whether the words of `name` stand in the full name (or the label and seed), in order and without a gap."""
    if name.strip() == f"{spec['label']} · seed {spec['seed']}":
        return True
    wanted, whole = _words(name), _words(full_name(spec))
    short = [_words(spec["experiment"].rpartition("/")[2]), _words(spec["experiment"])]
    rest = whole[len(short[1]) :]
    return bool(wanted) and any((start + rest)[: len(wanted)] == wanted for start in ([], *short))


def _words(name: str) -> list[str]:
    """`arm · seed 0 · laptop`, `arm seed 0`, `arm/0` -> [arm, 0, ...]."""
    plain = re.sub(r"\bseed[\s=:_-]*(\d+)", r" \1", name)
    return [word for word in re.split(r"[\s·/,@]+", plain) if word]
