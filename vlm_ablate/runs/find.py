"""Finding a run that has ended, by hash, name or folder, and its model as it was when it ended."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_ablate.errors import ModelError, StorageError, TrackingError, UnknownNameError, VlmAblateError
from vlm_ablate.home import Home, RunFolder
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking import schema

if TYPE_CHECKING:
    import torch

    from vlm_ablate.models.vlm import VLM
    from vlm_ablate.tracking.records import RunRecord

WEIGHTS_FILE = "trained.safetensors"
_HASH = re.compile(r"[0-9a-f]{2,12}")


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended well, and what it left."""

    spec: RunSpec
    weights: Path
    """What training made, as safetensors; see `models/trained_state.py`."""
    record: RunRecord | None = None
    """Its record in the tracking store; None when the store is away or does not have it."""


class RunNotUsable(VlmAblateError):
    """A run that exists but has no model to give."""


def find_run(name: str, home: Home, tracking_uri: str | None = None) -> FinishedRun:
    """The finished run of that name.

    Args:
        name: a hash or the unique beginning of one, arm and seed (`ar_perceiver_lora seed 0`, also with the scale, as
            the progress display and MLflow write it), or the run's folder.
        home: where runs are looked for.
        tracking_uri: store of the records; None: the home's own.

    Raises:
        UnknownNameError: no such run.
        RunNotUsable: several runs of that name, or one that has not finished.
        StorageError: its weights are not there any more.
    """
    folder = _folder(name, home)
    spec = _spec(folder)
    outcome = folder.read_outcome() or {}
    status = outcome.get("status")
    if spec is None or status != schema.FINISHED:
        shown = spec.run_name if spec else folder.root.name
        why = f"{status}: {outcome['message']}" if outcome.get("message") else status
        raise RunNotUsable(
            f"the run {shown!r} ended as {why}; it has no trained model" if status else f"{shown!r} has not ended yet",
            hint=None if status else "the command that started it continues it: vlm-ablate run FILE",
        )
    record = _record(spec, tracking_uri or home.tracking_uri)
    return FinishedRun(spec, _weights(folder, spec, record), record)


def load_run(found: FinishedRun, *, device: torch.device | str = "cpu") -> VLM:
    """The run's model as it was when training ended, in float32 and evaluation mode.

    Raises:
        AssetMissing: a part that the run started from is not on this machine any more.
        ModelError: the weights cannot be read, or are of another configuration.
    """
    from vlm_ablate.checkpoints.start_from import started_vlm
    from vlm_ablate.models.trained_state import load_trained
    from vlm_ablate.models.views import Views

    config = found.spec.config
    if config.model.init_from:
        _check_origin(found, config.model.init_from)
    vlm = started_vlm(config.model, Views.of(config.images()), seed=found.spec.seeds.init)
    load_trained(vlm, found.weights)
    return vlm.to(device).eval().requires_grad_(False)


def _check_origin(found: FinishedRun, id: str) -> None:
    """What the run kept is its difference from where it started; from elsewhere it would be another model."""
    from vlm_ablate.checkpoints.released import started_from

    then = schema.read_json_tag(found.record.tags, schema.INIT_FROM) if found.record else None
    if then and then != (now := started_from(id)):
        raise ModelError(
            f"{found.spec.run_name!r} started from other weights than those that are in {id!r} now"
            f" (sha256 {then['sha256']} then, {now['sha256']} now)",
            hint="put the checkpoint back that it started from",
        )


def _folder(name: str, home: Home) -> RunFolder:
    given = Path(name).expanduser()
    if (given / "artifacts").is_dir():
        return RunFolder(given.absolute())
    folders = [RunFolder(p) for p in sorted(home.runs.iterdir()) if p.is_dir()] if home.runs.is_dir() else []
    found = [f for f in folders if f.root.name.startswith(name)] if _HASH.fullmatch(name) else []
    known = {f.root.name: _spec(f) for f in folders} if not found else {}
    if not found:
        wanted = _words(name)
        called = [(f, spec) for f in folders if (spec := known[f.root.name])]
        found = [f for f, s in called if _words(s.run_name)[: len(wanted)] == wanted or _label(s) == name.strip()]
    if len(found) == 1:
        return found[0]
    if found:
        names = [f"{f.root.name} ({spec.run_name})" if (spec := _spec(f)) else f.root.name for f in found]
        raise RunNotUsable(f"{name!r} names {len(found)} runs: {', '.join(names)}", hint="write more of it, or a hash")
    names = [f"{s.arm} seed {s.seed}" for s in known.values() if s]
    raise UnknownNameError(f"run (in {home.runs})", name, names)


def _label(spec: RunSpec) -> str:
    return f"{spec.label} · seed {spec.seed}"


def _words(name: str) -> list[str]:
    """`arm · seed 0 · laptop`, `arm seed 0`, `arm/0` -> [arm, 0, ...]."""
    plain = re.sub(r"\bseed[\s=:_-]*(\d+)", r" \1", name)
    return [word for word in re.split(r"[\s·/,@]+", plain) if word]


def _spec(folder: RunFolder) -> RunSpec | None:
    """The run as it was started; None when it never got so far."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        written = yaml.load((folder.artifacts / schema.CONFIG_FILE).read_text(), Loader=loader)
    except OSError:
        return None
    return RunSpec.from_dict(written)


def _record(spec: RunSpec, uri: str) -> RunRecord | None:
    from vlm_ablate.tracking.records import find_done

    try:
        records = find_done(uri, [spec.hash]).get(spec.hash, [])
    except TrackingError:
        return None
    own = [record for record in records if (record.experiment, record.arm) == (spec.experiment, spec.arm)]
    return (own or records or [None])[-1]


def _weights(folder: RunFolder, spec: RunSpec, record: RunRecord | None) -> Path:
    from vlm_ablate.tracking.operations import local_folder

    places = [folder.artifacts]
    if record and (stored := local_folder(record.artifact_uri)):
        places.append(stored)
    files = [place / schema.WEIGHTS_DIR / WEIGHTS_FILE for place in places]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise StorageError(
            f"the weights of {spec.run_name!r} are gone: {' and '.join(map(str, files))}"
            f" {'does' if len(files) == 1 else 'do'} not exist",
            hint="put the file back; or delete the run's record (vlm-ablate ui) and its folder, and run it again",
        )
    return found
