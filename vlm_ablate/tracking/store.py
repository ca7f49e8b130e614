"""The tracking store: opening it, creating it once, its experiments, and one clear error when it is not there."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vlm_ablate.errors import TrackingError
from vlm_ablate.lease import LeaseLost
from vlm_ablate.masking import masked
from vlm_ablate.storage import locked, storage_errors
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.sqlite_reader import sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from vlm_ablate.config.experiment import Experiment

TEMPLATE_VARIABLE = "VLM_ABLATE_STORE_TEMPLATE"
"""Names an empty MLflow SQLite database to copy instead of building the schema (which takes seconds)."""
SERVERS = ("http", "https")
PROBE_SECONDS = 5.0
_MLFLOW_SETTINGS = {
    # A run whose server is out of reach goes on, all being on disk, so waiting long for one request only delays runs.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # MLflow reports its use to its makers by default; runs here tell nobody.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

Notify = Callable[[str], None]


def ensure_store(tracking_uri: str, notify: Notify = lambda message: None) -> None:
    """Prove that the store answers, creating a local one on first use. Call it before anything expensive.

    Safe to call from several processes at once. Costs nothing (no mlflow import) when a local store exists.

    Raises:
        TrackingError: a server that does not answer, or a URI that is no tracking store.
        StorageError: the local store cannot be created.
    """
    path = sqlite_path(tracking_uri)
    if path is not None:
        if not _has_content(path):
            _create_sqlite(path, notify)
        _check_sqlite(path)
        return
    scheme = scheme_of(tracking_uri)
    if scheme in SERVERS:
        check_server(tracking_uri)
    elif scheme in ("", "file"):
        raise TrackingError(
            f"{masked(tracking_uri)} is a folder; MLflow keeps no runs in plain folders any more",
            hint="use sqlite:////absolute/path/mlflow.db or http://host:port",
        )
    else:
        with tracking_errors(tracking_uri):
            connect(tracking_uri).search_experiments(max_results=1)


def sqlite_identity(tracking_uri: str) -> str:
    """Which file a local store is, as long as it is not replaced; "" for any other store."""
    path = sqlite_path(tracking_uri)
    if path is None:
        return ""
    try:
        found = path.stat()
    except OSError:
        return "gone"
    return f"{found.st_dev}:{found.st_ino}"


def connect(tracking_uri: str) -> MlflowClient:
    """A client of an existing store, with short timeouts and MLflow's chatter turned off.

    Raises:
        TrackingError: mlflow does not know such a URI.
    """
    _prepare_mlflow()
    import mlflow

    path = sqlite_path(tracking_uri)
    # One that vanished since `ensure_store`, as importing MLflow takes seconds: two that open nothing at once would
    # build it there, and leave half a schema for good.
    if path is not None and not _has_content(path) and os.access(path.parent, os.W_OK):
        _create_sqlite(path, lambda message: None)
    with tracking_errors(tracking_uri):
        return mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def forget_connections(client: MlflowClient) -> None:
    """Close a database client's pooled connections, so that the next request opens the file that is there now."""
    engine = getattr(client._tracking_client.store, "engine", None)
    if engine is not None:
        engine.dispose()


@contextmanager
def tracking_errors(tracking_uri: str) -> Iterator[None]:
    """Turn whatever mlflow and its transports raise into one `TrackingError` that names the store."""
    try:
        yield
    except (TrackingError, LeaseLost):
        raise
    except Exception as error:
        reason = masked(str(error).strip().partition("\n")[0]) or type(error).__name__
        hint = "check the address, or leave the tracking URI out for a local store"
        if "out-of-date database schema" in str(error):
            hint = f"it was made by another MLflow version: mlflow db upgrade {masked(tracking_uri)}"
        raise TrackingError(f"the tracking store {masked(tracking_uri)} failed: {reason[:300]}", hint=hint) from error


def open_experiment(client: MlflowClient, tracking_uri: str, name: str, tags: Mapping[str, str] | None = None) -> str:
    """Id of the experiment of that name, created (or restored) if need be, with these tags set.

    Raises:
        TrackingError: the store fails.
    """
    with tracking_errors(tracking_uri):
        found = client.get_experiment_by_name(name)
        if found is None:
            found_id = _create_experiment(client, tracking_uri, name)
            present: Mapping[str, str] = {}
        else:
            found_id, present = found.experiment_id, found.tags
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(found_id)
        for key, value in (tags or {}).items():
            if present.get(key) != value:
                client.set_experiment_tag(found_id, key, value)
    return found_id


def describe_experiment(experiment: Experiment) -> dict[str, str]:
    """Tags of an experiment file's MLflow experiment: paper, table, question, and the description that the UI shows."""
    from vlm_ablate import papers

    key = experiment.paper.key if experiment.paper else ""
    paper, _, table = key.partition("_")
    lines, link = [experiment.title, "", experiment.question, ""], ""
    if key:
        source = papers.table(key)
        link = f"https://arxiv.org/abs/{source.arxiv}"
        what = papers.regenerated(source, experiment.name)
        beside = "" if what == source.number else f", beside the numbers of {source.number}"
        lines.append(f"Regenerates {what} of [{source.title}]({link}){beside}: {source.caption}.")
    lines += [
        "",
        "One run per arm and seed. `score/*`: what each benchmark gives (0-100; but CIDEr is 100 times its mean and "
        "can pass 100); `score_blind/*`: the same model with every image withheld; `score_ceiling/*`: the same "
        "language model told in words what the image shows; `curve/*`: "
        "scores on the tune split during training; `seen/*`: images, tokens and FLOPs up to a step. The run named "
        "`table` carries the table.",
        "",
        *(f"- `{name}`: {arm.label or name}" for name, arm in experiment.arms.items()),
    ]
    tags = {schema.DESCRIPTION: "\n".join(lines), schema.QUESTION: experiment.question, schema.PAPER: paper}
    return {k: v for k, v in {**tags, schema.TABLE: table, schema.LINK: link}.items() if v}


def artifact_location(tracking_uri: str, experiment: str) -> str | None:
    """Where artifacts of an experiment go: beside a SQLite file; a server decides for itself (None)."""
    path = sqlite_path(tracking_uri)
    return (path.absolute().parent / "artifacts" / experiment).as_uri() if path is not None else None


def ui_command(tracking_uri: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the MLflow UI on 127.0.0.1 over a store."""
    root = artifact_location(tracking_uri, "")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking_uri, "--host", "127.0.0.1",
               "--port", str(port), "--workers", "1"]  # fmt: skip
    if root is not None:
        command += ["--default-artifact-root", root]
    # The job consumers of the server (prompt optimisation and the like) cost 8 processes and half a minute.
    return command, {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def _prepare_mlflow() -> None:
    for name, value in _MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  (sets up its loggers, which are then turned down)

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Logs a traceback for every locked or unwritable database; the caller reports that in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _create_experiment(client: MlflowClient, tracking_uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return client.create_experiment(name, artifact_location=artifact_location(tracking_uri, name))
    except MlflowException as error:
        # Another process was first.
        existing = client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
        if existing is None:
            raise
        return existing.experiment_id


def _create_sqlite(path: Path, notify: Notify) -> None:
    with storage_errors("create the tracking store", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(f".{path.name}.lock")):
            if _has_content(path):
                return
            # Built aside and renamed, so that nobody ever opens a store with half a schema.
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as aside:
                building = Path(aside) / path.name
                template = os.environ.get(TEMPLATE_VARIABLE)
                if template and Path(template).exists():
                    shutil.copyfile(template, building)
                else:
                    _build_schema(building, path, notify)
                os.replace(building, path)


def _has_content(path: Path) -> bool:
    """Whether there is a store: a connection to one that vanished leaves an empty file."""
    try:
        return path.stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def _check_sqlite(path: Path) -> None:
    with storage_errors("open the tracking store", path), open(path, "r+b") as file:
        start = file.read(16)
    if start != b"SQLite format 3\0":
        raise TrackingError(
            f"{path} is not a SQLite database", hint="move it away; a new store is created on the next run"
        )


def _build_schema(building: Path, path: Path, notify: Notify) -> None:
    notify(f"creating the tracking store {path} (once, a few seconds)")
    started = time.monotonic()
    _prepare_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with tracking_errors(f"sqlite:///{path}"):
        store = SqlAlchemyStore(f"sqlite:///{building}", artifact_location(f"sqlite:///{path}", "default"))
        store.engine.dispose()
    notify(f"tracking store ready ({time.monotonic() - started:.0f} s)")


def check_server(tracking_uri: str) -> None:
    """Prove that a server answers; other stores pass.

    Raises:
        TrackingError: it does not.
    """
    if scheme_of(tracking_uri) in SERVERS:
        _probe(tracking_uri)


def _probe(url: str) -> None:
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=PROBE_SECONDS):
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:
            return  # Something answers there; whether it lets us in shows at the first request.
        reason = f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        reason = masked(str(getattr(error, "reason", error)))
    raise TrackingError(
        f"the tracking server {masked(url)} does not answer: {reason}",
        hint="start it, correct the address, or leave the tracking URI out for a local store",
    )


def scheme_of(tracking_uri: str) -> str:
    """What stands before `://`.

    Raises:
        TrackingError: it is no address at all.
    """
    try:
        parts = urlsplit(tracking_uri)
        if parts.scheme in SERVERS:
            known = (parts.hostname, parts.port)  # read here, since a wrong one raises when it is read
            if not known[0]:
                raise ValueError("it names no host")
        return parts.scheme
    except ValueError as error:
        raise TrackingError(
            f"the tracking address {masked(tracking_uri)!r} cannot be read: {error}",
            hint="http://host:port, or leave the tracking URI out for a local store",
        ) from error
