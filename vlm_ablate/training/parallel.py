"""One run over several ranks: how they meet and agree, and the two ways in which they share a step.

`ddp`: each rank has the whole model, and gradients are averaged. `fsdp2`: each rank holds a share of every weight,
gradient and moment; layers are gathered one by one while they compute. Both give the gradient of one process.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vlm_ablate.models.vlm import VLM

PATIENCE = timedelta(days=7)
"""A rank waits as long as another is at work: a dead one is noticed by who has started it, not by the clock."""


@dataclass(frozen=True)
class Place:
    """Where a rank stands in its group."""

    rank: int = 0
    world: int = 1
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    """Means nothing to a rank that is alone."""


class Ranks:
    """The group of ranks that train one run, as one of them sees it. Everything here is called by all of them.

    Args:
        place: of this rank. A rank that is alone needs no store and asks nobody.
        store: that all ranks reach.
    """

    def __init__(self, place: Place = Place(), store: Store | None = None) -> None:
        self.place, self._store, self._said = place, store, 0
        if place.world > 1:
            assert store is not None
            if "lo" in (name for _, name in socket.if_nameindex()):
                os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the ranks of one machine
            if torch.cuda.is_available():
                torch.cuda.set_device(place.rank)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE,
                store=PrefixStore("group", store), rank=place.rank, world_size=place.world,
            )  # fmt: skip

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

    def trainer_options(self) -> dict[str, Any]:
        """Arguments of `build_trainer`: devices, strategy and where ranks have met; none for one rank."""
        if self.place.world == 1:
            return {}
        strategy: Strategy = (
            Sharded(self.place.world) if self.sharded else DDPStrategy(timeout=PATIENCE, broadcast_buffers=False)
        )
        return {"devices": self.place.world, "strategy": strategy, "environment": _Environment(self.place)}

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


class _Environment(ClusterEnvironment):
    """Tells Lightning that the ranks are there and have met."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return "127.0.0.1"  # nobody is to be met any more

    @property
    def main_port(self) -> int:
        return 0

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._place.world

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self._place.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self._place.rank

    def node_rank(self) -> int:
        return 0


class Sharded(ModelParallelStrategy):
    """FSDP2, with the checkpoints of one process: whole tensors, so that any number of ranks, or one, goes on."""

    def __init__(self, world: int) -> None:
        super().__init__(
            data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=PATIENCE
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What the module keeps, whole, on the first rank; empty values elsewhere."""
        assert self.lightning_module is not None
        return {name: self._whole(value) for name, value in self.lightning_module.state_dict().items()}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The optimiser's state, whole, on the first rank."""
        state = optimizer.state_dict()
        moments = {n: {k: self._whole(v) for k, v in own.items()} for n, own in state["state"].items()}
        return {**state, "state": moments}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Every rank reads the file, and keeps its share."""
        loaded: dict[str, Any] = self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)
        return loaded

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Put this rank's share of the weights in their place."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        shares = {name: _share(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(shares, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Put this rank's share of the moments in their place."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            numbers = [n for group in state["param_groups"] for n in group["params"]]
            named = dict(zip(numbers, parameters, strict=True))
            shares = {n: {k: _share(v, named[n]) for k, v in own.items()} for n, own in state["state"].items()}
            optimizer.load_state_dict({**state, "state": shares})

    def _whole(self, value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        whole = value.full_tensor()
        return whole.cpu() if self.is_global_zero else whole.new_empty(0)


def _share(value: Any, like: Tensor | None) -> Any:
    """The share of a whole tensor that stands where `like` does; a number or step counter stays what it is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    # Every rank has read the same values: nothing needs to be sent.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def shard(vlm: VLM, mesh: DeviceMesh, ranks: Ranks) -> None:
    """Give each rank a share of every weight: layer by layer in both backbones, everything else in one piece.

    The connector and blocks of cross-attention stand in that piece, whole during a step, so that a rank whose
    micro-batch leaves them out has gradients of zero for them. Encoders must run equally often on all ranks; see
    `VLM.passes`.
    """
    for layer in [*_layers(vlm.vision.backbone), *vlm.language.layers]:
        fully_shard(layer, mesh=mesh)
    fully_shard(vlm, mesh=mesh)
    vlm.passes = ranks.most


def _layers(backbone: nn.Module) -> list[nn.Module]:
    """The members of the outermost lists of modules."""
    lists = [(name, module) for name, module in backbone.named_modules() if isinstance(module, nn.ModuleList)]
    names = [name for name, _ in lists]
    outer = [module for name, module in lists if not any(name.startswith(f"{other}.") for other in names)]
    return [layer for module in outer for layer in module]
