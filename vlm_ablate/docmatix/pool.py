"""Many PDFs in worker processes. A PDF that kills its process (a damaged file can) is found and skipped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from vlm_ablate.docmatix.counts import PdfCounts
from vlm_ablate.docmatix.find import Pdf
from vlm_ablate.docmatix.settings import BuildSettings
from vlm_ablate.docmatix.work import Questioner, State, build_part, make_questioner

CRASHED = "crashed the reader"

_settings: BuildSettings
_state: State
_questioner: Questioner


def build_parts(pdfs: Sequence[Pdf], settings: BuildSettings, state: State) -> Iterator[PdfCounts]:
    """Counts of each PDF as it is done, in any order.

    Raises:
        VlmAblateError: the questioner or the disk failed; what is done is kept.
    """
    suspects: list[Pdf] = []
    todo = list(pdfs)[::-1]
    while todo:
        # Of those at work when a process died any may have killed it: they are tried again one at a time.
        yield from _round(todo, settings.jobs, settings, state, suspects)
        for pdf in suspects:
            again: list[Pdf] = []
            yield from _round([pdf], 1, settings, state, again)
            if again:
                counts = PdfCounts(pdf.name, pdf.key, CRASHED, "a worker process died twice while reading it")
                state.write_counts(counts)
                yield counts
        suspects.clear()


def _round(
    todo: list[Pdf], jobs: int, settings: BuildSettings, state: State, suspects: list[Pdf]
) -> Iterator[PdfCounts]:
    """Empties `todo` from its end; stops early when a process died, with those then at work in `suspects`."""
    with _executor(min(jobs, len(todo)), settings, state) as pool:
        running: dict[Future[PdfCounts], Pdf] = {}
        while todo or running:
            try:
                while todo and len(running) < jobs:
                    running[pool.submit(_build, todo[-1])] = todo[-1]
                    todo.pop()
            except BrokenProcessPool:
                pass  # the futures at work say it as well
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                pdf = running.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    suspects += [pdf, *running.values()]
                    return


@contextmanager
def _executor(jobs: int, settings: BuildSettings, state: State) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare, initargs=(settings, state)
    )
    try:
        yield pool
    except BaseException:
        # Ctrl-C or an error: what the processes are doing is not waited for.
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _prepare(settings: BuildSettings, state: State) -> None:
    global _settings, _state, _questioner
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _settings, _state = settings, state
    _questioner = make_questioner(settings, state)


def _end_with_parent() -> None:
    """A killed parent cannot tell its processes to stop."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _build(pdf: Pdf) -> PdfCounts:
    return build_part(pdf, _settings, _state, _questioner)
