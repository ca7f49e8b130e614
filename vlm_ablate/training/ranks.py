"""The processes that train one run together: where each stands, and how they agree."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

PATIENCE = timedelta(days=7)
"""A rank waits as long as another is at work: a dead one is noticed by who has started it, not by the clock."""


@dataclass(frozen=True)
class Place:
    """Where a rank stands in its group."""

    rank: int = 0
    world: int = 1
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    """Means nothing to a rank that is alone."""
    devices: int | None = None
    """Ranks on each machine, in whose order they stand; None: all are on one."""
    near: bool = True
    """Whether all ranks are to talk over this machine's own loopback."""

    @property
    def local(self) -> int:
        """Number among the ranks of its machine: of its GPU."""
        return self.rank % (self.devices or self.world)

    @property
    def nodes(self) -> int:
        """Number of machines."""
        return self.world // (self.devices or self.world)


class Ranks:
    """The group of ranks that train one run, as one of them sees it. Everything here is called by all of them.

    Args:
        place: of this rank. A rank that is alone needs no store and asks nobody.
        store: that all ranks reach.
    """

    def __init__(self, place: Place = Place(), store: Store | None = None) -> None:
        self.place, self._store, self._said = place, store, 0
        self.writers: dist.ProcessGroup | None = None
        """The ranks once more, of a model that they share out, for threads that write checkpoints."""
        if place.world > 1:
            assert store is not None
            if place.near and "lo" in (name for _, name in socket.if_nameindex()):
                os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            if torch.cuda.is_available():
                torch.cuda.set_device(place.local)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE,
                store=PrefixStore("group", store), rank=place.rank, world_size=place.world,
            )  # fmt: skip
            if self.sharded:
                self.writers = dist.new_group(backend="gloo", timeout=PATIENCE)

    @property
    def first(self) -> bool:
        """Whether this rank records, reports and writes."""
        return self.place.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether a rank holds only its share of the weights while it trains."""
        return self.place.world > 1 and self.place.strategy == "fsdp2"

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over the ranks of numbers in the host's memory: no step waits for a GPU."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def any(self, flag: bool) -> bool:
        """Whether it holds on any rank."""
        return bool(self.total([float(flag)])[0])

    def most(self, number: int) -> int:
        """The largest over the ranks."""
        return int(self._reduced([number], dist.ReduceOp.MAX)[0])

    def said_by_first(self, value: Any) -> Any:
        """What the first rank says, plain data; what the others say is not heard."""
        if self._store is None:
            return value
        key, self._said = f"said/{self._said}", self._said + 1
        if self.first:
            self._store.set(key, json.dumps(value))
        return json.loads(self._store.get(key))

    def close(self) -> None:
        """Leave the group."""
        if self.place.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _reduced(self, values: Sequence[float], how: Any) -> list[float]:
        if self.place.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, op=how)
        found: list[float] = tensor.tolist()
        return found
