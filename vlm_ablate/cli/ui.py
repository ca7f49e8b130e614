"""`vlm-ablate ui`: the MLflow UI over the local store."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from vlm_ablate.cli.console import HomeOption

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

    from vlm_ablate.tracking.ui import Pages

HOST = "127.0.0.1"
LOG_FILE = "mlflow_ui.log"
"""Under the home folder: what the server says."""


def ui(
    port: Annotated[
        int, typer.Option(min=1, max=65_535, help="Port; the next free one is taken if it is in use.")
    ] = 5000,
    home: HomeOption = None,
) -> None:
    """Open the records in the MLflow UI on 127.0.0.1 and print the address; Ctrl-C stops it.

    Example: vlm-ablate ui
    """
    import subprocess

    from vlm_ablate.cli.console import err
    from vlm_ablate.cli.home import open_home
    from vlm_ablate.errors import TrackingError
    from vlm_ablate.runs.publishing import publish_missing
    from vlm_ablate.storage import fresh_file
    from vlm_ablate.tracking.store import ensure_store, ui_command
    from vlm_ablate.tracking.ui import ui_pages, write_views

    place = open_home(home)
    if place.runs.is_dir():  # the store is only a view of them: it may be lost, or lack those that were imported
        with err().status("bringing the store up to date"):
            ensure_store(place.tracking_uri)
            publish_missing(place, place.tracking_uri, err().print)
    if not place.database.is_file():
        raise TrackingError(
            f"no records yet: {place.database} does not exist",
            hint="run an experiment first, or name its folder with --home",
        )
    free = free_port(port)
    address = f"http://{HOST}:{free}"
    write_views(place.tracking_uri)
    pages = ui_pages(place.tracking_uri, address)
    command, environment = ui_command(place.tracking_uri, free)
    log = place.root / LOG_FILE
    try:
        with fresh_file(log, private=True) as output, _stopped_by_signals():
            # A session of its own: its workers are stopped with it, and Ctrl-C reaches this process alone.
            server = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                with err().status("starting the MLflow server (about 15 s)"):
                    wait_until_open(server, free)
                if server.poll() is None:
                    _print_pages(pages, address)
                code = server.wait()
            finally:
                stop(server)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    if code:
        last = log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise TrackingError(f"the MLflow server ended with code {code}: {last}", hint=f"its messages are in {log}")


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Within this block what asks a process to end (SIGTERM, a terminal that closes) does what Ctrl-C does."""
    import signal

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(server: subprocess.Popen[bytes], patience: float = 5.0) -> None:
    """End a server that leads a session, and every process that it has started.

    Args:
        patience: seconds that they have to end by themselves, and once more to be gone when they are killed.
    """
    import signal
    import time

    begun = time.monotonic()
    _signal(server, signal.SIGTERM)
    while _signal(server, 0) and (waited := time.monotonic() - begun) < 2 * patience:
        if waited > patience:
            _signal(server, signal.SIGKILL)
        server.poll()  # or it would stay in its group as a zombie
        time.sleep(0.1)
    server.wait()


def _signal(server: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to all processes of its session's group; False when there is none any more."""
    import os

    try:
        os.killpg(server.pid, number)
    except ProcessLookupError:
        return False
    return True


def _print_pages(pages: Sequence[Pages], address: str) -> None:
    """The server's address, and where each experiment's runs, charts and comparison are: its front page shows none."""
    from rich.text import Text

    from vlm_ablate.cli.console import out

    console = out()
    console.print(f"MLflow UI: {address}  (Ctrl-C stops it)")
    for page in pages:
        console.print(Text(f"\n{page.experiment}", style="bold"))
        for name, link in (("runs", page.runs), ("charts", page.charts), ("compare", page.compare)):
            console.print(f"  {name:<8} {link}", soft_wrap=True)


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

    last = min(wanted + tries, 65_536) - 1
    for port in range(wanted, last + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise TrackingError(f"no free port from {wanted} to {last}", hint="name a lower one with --port")
