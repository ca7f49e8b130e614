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
