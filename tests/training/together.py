"""Ranks as forked processes of a test: each calls the same function, the first one's answer comes back."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from vlm_ablate.training.ranks import Place, Ranks

SECONDS = 240.0


def together(
    function: Callable[[Ranks], Any], folder: Path, strategy: Literal["ddp", "fsdp2"], world: int = 2, *,
    dying: bool = False,
) -> list[Any]:  # fmt: skip
    """What `function(ranks)` gives on each rank.

    Args:
        dying: a rank is killed; then all of them end, with an error or killed, and nothing is given.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("fork")
    places = [Place(rank, world, strategy) for rank in range(world)]
    processes = [
        context.Process(target=_rank, args=(function, place, store.port, folder), daemon=True) for place in places
    ]
    for process in processes:
        process.start()
    until = time.monotonic() + SECONDS
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    left = [process.kill() for process in processes if process.is_alive()]
    said = [file for rank in range(world) if (file := folder / f"failed-{rank}").exists()]
    failed = [file.read_text() for file in said]
    for file in said:
        file.unlink()
    if dying:
        assert not left and len(failed) + sum(process.exitcode == -signal.SIGKILL for process in processes) == world
        return []
    assert not failed and not left, "\n".join(failed) or "ranks hang"
    return [torch.load(folder / f"answer-{rank}", weights_only=False) for rank in range(world)]


def settle_threads() -> None:
    """In a forked process, before anything: torch makes its pool of threads anew, which fails where several threads are
    the first to ask for it (transformers reads weights with some)."""
    torch.set_num_threads(torch.get_num_threads())


def _rank(function: Callable[[Ranks], Any], place: Place, port: int, folder: Path) -> None:
    settle_threads()
    try:
        ranks = Ranks(place, dist.TCPStore("127.0.0.1", port, timeout=timedelta(seconds=SECONDS)))
        torch.save(function(ranks), folder / f"answer-{place.rank}")
        ranks.close()
    except BaseException:
        (folder / f"failed-{place.rank}").write_text(traceback.format_exc())
    finally:
        os._exit(0)  # nothing of the test's process is to be closed twice
