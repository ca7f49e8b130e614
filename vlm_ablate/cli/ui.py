"""`vlm-ablate ui`: the MLflow UI over the local store."""

from __future__ import annotations

from typing import Annotated

import typer

from vlm_ablate.cli.console import HomeOption

HOST = "127.0.0.1"


def ui(
    port: Annotated[int, typer.Option(help="Port; the next free one is taken if it is in use.")] = 5000,
    home: HomeOption = None,
) -> None:
    """Open the records in the MLflow UI on 127.0.0.1 and print the address; Ctrl-C stops it."""
    import subprocess

    from vlm_ablate.cli.console import err, out
    from vlm_ablate.cli.home import open_home
    from vlm_ablate.errors import TrackingError

    place = open_home(home)
    if not place.database.is_file():
        raise TrackingError(
            f"no records yet: {place.database} does not exist", hint="run an experiment first, or name its folder with --home"
        )
    free = free_port(port)
    server = subprocess.Popen(server_command(place.tracking_uri, place.artifacts.as_uri(), free), env=server_environment())
    out().print(f"MLflow UI: [bold]http://{HOST}:{free}[/]  (ready in about 15 s; Ctrl-C stops it)")
    try:
        code = server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        raise typer.Exit(0) from None
    if code:
        err().print(f"[bold red]error:[/] the MLflow server ended with code {code}")
    raise typer.Exit(code)


def free_port(wanted: int, tries: int = 50) -> int:
    """`wanted`, or the next port above it that is free on this machine.

    Raises:
        TrackingError: none of the next `tries` ports is free.
    """
    import socket

    from vlm_ablate.errors import TrackingError

    for port in range(wanted, wanted + tries):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise TrackingError(f"no free port from {wanted} to {wanted + tries - 1}")


def server_command(tracking_uri: str, artifacts_uri: str, port: int) -> list[str]:
    """How the server is started: on the loopback address only, with one worker."""
    import sys

    arguments = ["--backend-store-uri", tracking_uri, "--default-artifact-root", artifacts_uri]
    return [sys.executable, "-m", "mlflow", "server", *arguments, "--host", HOST, "--port", str(port), "--workers", "1"]


def server_environment() -> dict[str, str]:
    """The environment of the server; its job consumers (eight idle processes, 0.7 GB) stay off."""
    import os

    return {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
