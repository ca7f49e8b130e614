"""A real MLflow server that can be killed and started again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.waiting import patient_with_stores, wait_for
from vlm_ablate.errors import TrackingError
from vlm_ablate.tracking.store import ensure_store


class Server:
    """A real MLflow server (its WSGI app, one process) over a SQLite store, that can be killed and started again."""

    def __init__(self, folder: Path, template: Path) -> None:
        shutil.copyfile(template, folder / "server.db")
        self._folder, self._process = folder, None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        code = (
            "from mlflow.server import app; from werkzeug.serving import run_simple; "
            f"run_simple('127.0.0.1', {self._port}, app, threaded=True)"
        )
        environment = os.environ | {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{self._folder}/server.db",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self._folder / "artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        }
        self._process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
        wait_for(self._answers, 200)

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "the MLflow server has ended"
        try:
            ensure_store(self.uri)
        except TrackingError:
            return False
        return True

    def kill(self) -> None:
        """Make it go away at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def failing(self) -> Iterator[list[str]]:
        """In its place one that answers every request with status 500; the paths that were asked for."""
        asked: list[str] = []

        class Fails(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_error(500)

            do_POST = do_PATCH = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", self._port), Fails) as broken:
            thread = threading.Thread(target=broken.serve_forever)
            thread.start()
            try:
                yield asked
            finally:
                broken.shutdown()
                thread.join()


@pytest.fixture(scope="session", autouse=True)
def patient() -> Iterator[None]:
    """What is read from a store after a run is there."""
    with patient_with_stores():
        yield


@pytest.fixture
def server(tmp_path: Path, store_template: Path) -> Iterator[Server]:
    """A server that is not started yet."""
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder, store_template)
    yield server
    server.kill()
