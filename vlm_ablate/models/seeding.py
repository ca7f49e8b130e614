"""Initialisation seeds: each new part draws from a generator of its own, whatever stands beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import torch


@contextmanager
def seeded(seed: int, part: str) -> Iterator[None]:
    """Within the block torch's CPU generator is seeded by (seed, part); afterwards it is what it was before."""
    with torch.random.fork_rng(devices=[]):
        # torch's CPU generator reads 32 bits of its seed, so both must be mixed into these.
        torch.manual_seed(crc32(f"{seed}/{part}".encode()))
        yield
