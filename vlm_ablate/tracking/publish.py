"""Shows a run in an MLflow store: brings the store's run up to what is on disk, in order, each thing once.

What has been given is noted in a file beside the run, so a store that fails or vanishes, runs that are deleted and
another store are all the same case: the next call goes on from the note, or begins anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_ablate.lease import LeaseLost
from vlm_ablate.sealed import sealed, unsealed
from vlm_ablate.storage import check_writable, write_atomically
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.mlflow_run import Metrics, MlflowRun, active_run, delete_runs, runs_tagged
from vlm_ablate.tracking.store import (
    connect,
    ensure_store,
    forget_connections,
    open_experiment,
    sqlite_identity,
    tracking_errors,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

Notice = Callable[[str], None]


@dataclass(frozen=True)
class RunView:
    """A run as a store shows it. Everything but `points` is what holds now; points are only ever added."""

    id: str
    """Tells the run again among the store's."""
    experiment: str
    name: str
    status: str
    """finished | diverged | failed | skipped | running"""
    start_ms: int
    end_ms: int | None
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    points: Sequence[Metrics] = ()
    """In the order in which they came to be."""
    artifacts: Sequence[tuple[Path, str]] = ()
    """(file or folder, folder of the run's artifacts)."""
    datasets: Sequence[tuple[str, str]] = ()
    """(name, digest)."""


@dataclass
class _Note:
    """What a store has been given."""

    run_id: str = ""
    store: str = ""
    """Identity of a local database file: a file that was replaced has nothing."""
    points: int = 0
    params: list[str] = field(default_factory=list)
    tags: str = ""
    artifacts: dict[str, str] = field(default_factory=dict)
    datasets: list[str] = field(default_factory=list)
    status: str = ""
    again: bool = False
    """The run is computed again: what the store has are its earlier results."""


_opened: dict[str, str] = {}
"""URI of a local store -> the database file that this process has connections to."""


def note_file(folder: Path, tracking_uri: str) -> Path:
    """The note on what the store at that URI has been given; the URI, which may hold a password, is not in it."""
    return folder / f"{hashlib.sha256(tracking_uri.encode()).hexdigest()[:12]}.json"


def is_published(view_status: str, folder: Path, tracking_uri: str, known_runs: set[str] | None = None) -> bool:
    """Whether the store has everything of a run that has ended so, as far as the note tells.

    Args:
        known_runs: ids of the runs that the store has; None: not looked up.
    """
    note = _read(note_file(folder, tracking_uri))
    if note.status != view_status or note.store != sqlite_identity(tracking_uri):
        return False
    return known_runs is None or note.run_id in known_runs


def begin_again(folder: Path) -> None:
    """Note for every store that what it was given of a run are its earlier results; the store itself is not asked.

    Raises:
        StorageError: a note cannot be written.
    """
    for path in folder.glob("*.json"):
        note = _read(path)
        note.again, note.status = True, ""
        write_atomically(path, sealed(asdict(note), indent=1))


def publish(
    view: RunView,
    tracking_uri: str,
    folder: Path,
    notice: Notice = lambda message: None,
    allowed: Callable[[], None] = lambda: None,
) -> str:
    """Give the store what it lacks of a run; returns the id of the store's run.

    Args:
        folder: where the note is kept.
        notice: hears of single values that the store refuses.
        allowed: asked before each request, beside the lease; raises LeaseLost when nothing more is to be given.

    Raises:
        LeaseLost: another process has the run now and shows it; this one gives nothing more.
        TrackingError: the store fails; what was given is noted, and the next call goes on from there.
        StorageError: a local store cannot be created, or the note cannot be written.
    """
    ensure_store(tracking_uri)
    allowed()
    path = note_file(folder, tracking_uri)
    note = _read(path)
    if note.store != sqlite_identity(tracking_uri):
        note = _Note(store=sqlite_identity(tracking_uri))

    again = note.again

    def ask() -> None:
        allowed()
        check_writable(path)

    try:
        with tracking_errors(tracking_uri):
            _bring_up(view, note, tracking_uri, notice, ask)
    finally:
        allowed()
        if _read(path).again and not again:  # the results were put aside since (`begin_again`)
            note.again, note.status = True, ""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, sealed(asdict(note), indent=1))
    return note.run_id


def _bring_up(view: RunView, note: _Note, tracking_uri: str, notice: Notice, allowed: Callable[[], None]) -> None:
    client = connect(tracking_uri)
    if _opened.setdefault(tracking_uri, note.store) != note.store:
        forget_connections(client)  # they lead to a file that was moved away
        _opened[tracking_uri] = note.store
    there = note.run_id and active_run(client, note.run_id) is not None
    if there and note.again:
        MlflowRun(client, note.run_id, notice, allowed).tags({schema.KIND: schema.EARLIER_KIND})
    if not there or note.again:
        note.__dict__.update(asdict(_Note(store=note.store)))
    if not note.run_id:
        note.run_id = _found_or_created(client, open_experiment(client, tracking_uri, view.experiment), view, allowed)
    run = MlflowRun(client, note.run_id, notice, allowed)
    if note.status and note.status != view.status:
        allowed()
        client.update_run(note.run_id, status="RUNNING", name=view.name)  # an earlier attempt had ended otherwise
        if note.status not in (schema.RUNNING, schema.FINISHED) and schema.MESSAGE not in view.tags:
            run.tags({schema.MESSAGE: ""})  # why that one ended so
    _give_values(view, note, run)
    _give_artifacts(view, note, run)
    if view.status != schema.RUNNING and note.status != view.status:
        run.tags({schema.STATUS: view.status})  # after everything else: a run that is cut short is not taken for done
        run.end(schema.MLFLOW_STATUS[view.status], view.end_ms)
    note.status = view.status


def _found_or_created(client: MlflowClient, experiment: str, view: RunView, allowed: Callable[[], None]) -> str:
    """The store's run. Whoever was stopped before it made one may wake up beside another that has made it since, and
    whoever was stopped right after may have left it to another that shows the run in it now."""
    own = {schema.KIND: schema.RUN_KIND, schema.RUN: view.id}
    if found := runs_tagged(client, experiment, own):
        return str(found[0].info.run_id)
    tags = {**own, schema.STATUS: schema.RUNNING}
    made = str(client.create_run(experiment, start_time=view.start_ms, tags=tags, run_name=view.name).info.run_id)
    lost = None
    try:
        allowed()
    except LeaseLost as lease:
        lost = lease
    ids = [str(run.info.run_id) for run in runs_tagged(client, experiment, own)]
    if lost is None:
        delete_runs(client, [run_id for run_id in ids if run_id != made])
        return made
    if len(ids) > 1:  # a single one is what the run's owner has found or will find
        delete_runs(client, [made])
    raise lost


def _give_values(view: RunView, note: _Note, run: MlflowRun) -> None:
    tags = {key: value[: schema.TAG_LIMIT] for key, value in view.tags.items()} | {schema.STATUS: schema.RUNNING}
    digest = hashlib.sha256(json.dumps(tags, sort_keys=True).encode()).hexdigest()[:16]
    if note.tags != digest:
        run.tags(tags)
        note.tags, note.status = digest, "" if view.status != schema.RUNNING else note.status
    missing = {key: value for key, value in view.params.items() if key not in note.params}
    if missing:
        run.params(missing)
        note.params += list(missing)
    for name, data_digest in view.datasets:
        if name not in note.datasets:
            run.dataset(name, data_digest)
            note.datasets.append(name)
    if len(view.points) > note.points:
        run.points(view.points[note.points :])
        note.points = len(view.points)


def _give_artifacts(view: RunView, note: _Note, run: MlflowRun) -> None:
    for path, folder in view.artifacts:
        if not path.exists():
            continue
        stat = path.stat()
        mark, name = f"{stat.st_size} {stat.st_mtime_ns}", f"{folder}/{path.name}"
        if note.artifacts.get(name) != mark:
            run.artifact(path, folder)
            note.artifacts[name] = mark


def _read(path: Path) -> _Note:
    """The note; an empty one when there is none, or none that can be read: then the store is asked again."""
    try:
        body = unsealed(path.read_bytes())
        known = {name: body[name] for name in _Note.__dataclass_fields__ if name in body}
        note = _Note(**known)
        if not isinstance(note.points, int) or not isinstance(note.artifacts, dict):
            return _Note()
        return note
    except (OSError, ValueError, TypeError, AttributeError):
        return _Note()
