"""What a worker process does in tests of a reader that brings its process down, and of a build that is killed; imports
as little as a worker."""

from __future__ import annotations

import os
import signal
import time

from vlm_ablate.docmatix import pool
from vlm_ablate.docmatix.counts import PdfCounts
from vlm_ablate.docmatix.find import Pdf


def build_or_die(pdf: Pdf) -> PdfCounts:
    """As the pool's own, but one PDF ends the process."""
    if pdf.name == "beta.pdf.gz":
        os.kill(os.getpid(), signal.SIGKILL)
    return pool.build_part(pdf, pool._settings, pool._state, pool._questioner)


def build_few(pdf: Pdf) -> PdfCounts:
    """As the pool's own, but once one PDF is done, what is begun does not come to an end."""
    if any(pool._state.parts.glob("*.json")):
        time.sleep(600)
    return pool.build_part(pdf, pool._settings, pool._state, pool._questioner)
