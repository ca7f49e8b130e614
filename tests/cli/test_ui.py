"""The UI command: its choice of port, its waiting, what it prints, and its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys

import psutil
import pytest
from typer.testing import CliRunner

from tests.waiting import wait_for
from vlm_ablate.cli.app import app
from vlm_ablate.cli.ui import HOST, LOG_FILE, free_port, wait_until_open
from vlm_ablate.home import Home
from vlm_ablate.tracking.summary import record_table


def a_port() -> int:
    """One that is free, and that no test beside this one looks for, either."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def test_next_free_port_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port(port) <= port + 50


def test_waiting_ends_when_the_port_opens_or_the_server_dies() -> None:
    port = a_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", HOST]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_open(server, port)
        with socket.create_connection((HOST, port), timeout=60):
            pass
    finally:
        server.kill()
        server.wait()
    wait_until_open(server, port)


@pytest.fixture
def with_experiment(home: Home) -> Home:
    record_table(home.tracking_uri, "demo/t01", [])
    return home


def server(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """A small server in the place of MLflow's, which takes many seconds to start."""

    def command(uri: str, port: int) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, *(argument.format(port=port) for argument in arguments)], dict(os.environ)

    monkeypatch.setattr("vlm_ablate.tracking.store.ui_command", command)


def test_address_and_pages_are_printed_when_the_server_answers(
    with_experiment: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import socket, time; s = socket.create_server(('127.0.0.1', {port})); s.accept(); time.sleep(5)"
    server(monkeypatch, "-c", code)
    result = CliRunner().invoke(app, ["ui", "--home", str(with_experiment.root), "--port", str(a_port())])
    assert result.exit_code == 0, result.output
    address = re.search(rf"http://{HOST}:\d+", result.stdout).group()
    lines = [line.split() for line in result.stdout.splitlines() if line]
    assert lines[0][:3] == ["MLflow", "UI:", address] and lines[1] == ["demo/t01"]
    base = f"{address}/#/experiments/1/runs?workflowType=machine_learning"
    assert lines[2] == ["runs", f"{base}&viewStateShareKey=vlm-ablate"]
    assert lines[3] == ["charts", f"{base}&compareRunsMode=CHART&viewStateShareKey=vlm-ablate"]
    assert lines[4] == ["compare", f"{base}&compareRunsMode=CHART&viewStateShareKey=vlm-ablate-compare"]


def test_a_server_that_ends_is_one_error_that_names_its_log(
    with_experiment: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    server(monkeypatch, "-c", "print('starting'); raise SystemExit('database is locked')")
    result = CliRunner().invoke(app, ["ui", "--home", str(with_experiment.root), "--port", str(a_port())])
    assert result.exit_code != 0 and "error: the MLflow server ended with code 1: database is locked" in result.stderr
    assert (with_experiment.root / LOG_FILE).read_text().splitlines() == ["starting", "database is locked"]


_UI = """
import sys
from vlm_ablate.tracking import store
from vlm_ablate.cli import main

code = (
    "import os, signal, socket, subprocess, sys, time; "
    "s = socket.create_server(('127.0.0.1', {port})); "
    "c = subprocess.Popen([sys.executable, '-c', 'import signal, time; "
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(300)'], stdout=subprocess.PIPE); "
    "c.stdout.readline(); time.sleep(300)"
)
store.ui_command = lambda uri, port: ([sys.executable, "-c", code.replace("{port}", str(port))], None)
sys.argv = ["vlm-ablate", "ui", "--port", sys.argv[2], "--home", sys.argv[1]]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_by_any_signal_it_leaves_no_process_of_the_server(
    with_experiment: Home, number: signal.Signals
) -> None:
    home = str(with_experiment.root)
    command = subprocess.Popen([sys.executable, "-c", _UI, home, str(a_port())], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    address = re.search(r"http://[\d.]+:(\d+)", command.stdout.readline())
    assert address
    server = psutil.Process(command.pid).children()[0]
    wait_for(lambda: server.children(recursive=True))
    below = server.children(recursive=True)
    command.send_signal(number)
    assert command.wait(120) == 0
    assert not [p for p in (server, *below) if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
