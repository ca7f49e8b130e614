"""`vlm-ablate ui`: the MLflow UI over the local store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vlm_ablate.cli.console import HomeOption

if TYPE_CHECKING:
    import subprocess

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
    from vlm_ablate.tracking.store import ui_command

    place = open_home(home)
    if not place.database.is_file():
        raise TrackingError(
            f"no records yet: {place.database} does not exist",
            hint="run an experiment first, or name its folder with --home",
        )
    free = free_port(port)
    command, environment = ui_command(place.tracking_uri, free)
    server = subprocess.Popen(command, env=environment)
    try:
        with err().status("starting the MLflow server (about 15 s)"):
            wait_until_open(server, free)
        out().print(f"MLflow UI: [bold]http://{HOST}:{free}[/]  (Ctrl-C stops it)")
        code = server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        raise typer.Exit(0) from None
    if code:
        err().print(f"[bold red]error:[/] the MLflow server ended with code {code}")
    raise typer.Exit(code)


def wait_until_open(server: subprocess.Popen[bytes], port: int) -> None:
    """Return when the port accepts connections, or when the server has ended."""
    import socket
    import time

    while server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.25)


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
