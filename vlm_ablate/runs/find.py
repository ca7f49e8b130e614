"""Finding a run that has ended, by name, key or folder, and its model as it was when it ended."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_ablate.errors import ModelError, StorageError
from vlm_ablate.home import Home
from vlm_ablate.runs.fingerprints import differences
from vlm_ablate.runs.folder import RunFolder, StageFolder, variants
from vlm_ablate.runs.names import RunNotUsable, asked_for, named_run, names_run
from vlm_ablate.runs.results import check_weights, find_results, is_finished
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.view import Results, record_of
from vlm_ablate.tracking import schema
from vlm_ablate.trust import load_plugins_of

if TYPE_CHECKING:
    import torch

    from vlm_ablate.models.vlm import VLM
    from vlm_ablate.tracking.records import RunRecord


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
    def home(self) -> Home:
        """Where it is."""
        return Home(self.results.folder.root.parent.parent)

    @property
    def record(self) -> RunRecord:
        """What tables are computed from."""
        return record_of(self.results)


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
        if changed := _changed(spec, home):
            raise RunNotUsable(
                f"{spec.run_name!r} was made of other files than are here now: {', '.join(changed)}",
                hint="put them back; `vlm-ablate run FILE` trains a model of those that are here",
            )
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


def _changed(spec: RunSpec, home: Home) -> list[str]:
    """What a run's finished stages were made of that is other files now; nothing where none of them is there."""
    found: dict[str, None] = {}
    for key in spec.stage_keys:
        stages = [StageFolder(root) for root in variants(home.stages, key.key)]
        prints = key.fingerprints(home)
        unlike = [differences(prints, stage.fingerprints() or {}) for stage in stages]
        if any(map(is_finished, stages)) and all(unlike):
            found |= dict.fromkeys(what for each in unlike for what in each)
    return [*found]


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
    from vlm_ablate.runs.starts import placed

    config = found.spec.config
    if config.model.init_from:
        _check_origin(found)
    check_weights(found.results.stages[-1])
    vlm = started_vlm(placed(config.model, found.home), Views.of(config.images()), seed=found.spec.seeds.init)
    if config.stages:
        load_trained(vlm, found.weights)
    return vlm.to(device).eval().requires_grad_(False)


def _check_origin(found: FinishedRun) -> None:
    """What the run kept is its difference from where it started; from elsewhere it would be another model."""
    from vlm_ablate.runs.started import started

    then: dict[str, Any] = found.results.outcomes[0].get("init_from") or {}
    if not then:
        return
    now = started(found.spec.config.model, found.home)
    if then == now:
        return
    parts = [""] if "id" in then else [part for part in then if then[part] != now.get(part)]
    old, new = (told[parts[0]] if parts[0] else told for told in (then, now))
    raise ModelError(
        f"{found.spec.run_name!r} started from other weights than those that are in {old['id']!r} now"
        f" (sha256 {old['sha256']} then, {new['sha256']} now)",
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
    body = named_run(name, home)
    return files[body["id"]], body
