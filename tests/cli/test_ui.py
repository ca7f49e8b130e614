"""The UI command's choice of port and its waiting."""

from __future__ import annotations

import socket
import subprocess
import sys

from vlm_ablate.cli.ui import HOST, free_port, wait_until_open


def test_next_free_port_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port(port) <= port + 50


def test_waiting_ends_when_the_port_opens_or_the_server_dies() -> None:
    port = free_port(18500)
    command = [sys.executable, "-m", "http.server", str(port), "--bind", HOST]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_open(server, port)
        with socket.create_connection((HOST, port), timeout=5):
            pass
    finally:
        server.kill()
        server.wait()
    wait_until_open(server, port)
