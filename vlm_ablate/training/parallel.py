"""The two ways in which the ranks of a run share a step.

`ddp`: each rank has the whole model, and gradients are averaged. `fsdp2`: each rank holds a share of every weight,
gradient and moment; layers are gathered one by one while they compute. Both give the gradient of one process.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from vlm_ablate.models.vlm import VLM
from vlm_ablate.training import shards
from vlm_ablate.training.ranks import PATIENCE, Place, Ranks
from vlm_ablate.training.scatter import deal, to_be_dealt


def trainer_options(ranks: Ranks) -> dict[str, Any]:
    """Arguments of `build_trainer`: devices, strategy and where ranks have met; none for one rank."""
    place = ranks.place
    if place.world == 1:
        return {}
    strategy: Strategy
    if ranks.writers is not None:
        strategy = Sharded(place.world, ranks.writers)
    else:
        # Gradients are views of what ranks exchange: without, a second copy of all of them, which no plan counts.
        strategy = DDPStrategy(timeout=PATIENCE, broadcast_buffers=False, gradient_as_bucket_view=True)
    return {
        "devices": place.devices or place.world,
        "num_nodes": place.nodes,
        "strategy": strategy,
        "environment": _Environment(place),
    }


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
        return self._place.local

    def node_rank(self) -> int:
        return self._place.rank // (self._place.devices or self._place.world)


class Sharded(ModelParallelStrategy):
    """FSDP2, with checkpoints in shares; it goes on from those, by any number of ranks, and from those of one process.

    Args:
        world: number of ranks.
        writers: the ranks, for the threads that write.
    """

    def __init__(self, world: int, writers: dist.ProcessGroup) -> None:
        super().__init__(
            data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=True, timeout=PATIENCE
        )
        self._writers = writers
        self.writing: Future[Any] | None = None
        """Of the checkpoint that was begun last."""

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What the module keeps, a share of it."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The optimiser's state, a share of it."""
        state: dict[str, Any] = optimizer.state_dict()
        return state

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Begin to write; see `writing`."""
        self.writing = shards.begin(checkpoint, Path(filepath), self._writers, first=self.is_global_zero)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Every rank reads the file and keeps its share, or reads its share of a folder."""
        if Path(checkpoint_path).is_dir():
            return shards.read_shares(Path(checkpoint_path), self._places, self._writers)
        loaded: dict[str, Any] = self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)
        return loaded

    def _places(self, rest: dict[str, Any]) -> shards.Place:
        """Where the tensors of a checkpoint go."""
        assert self.lightning_module is not None
        weights = self.lightning_module.state_dict()
        parameters = [self._numbered(*pair) for pair in zip(self.optimizers, rest["optimizer_states"], strict=True)]

        def place(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
            if (weight := shards.weight(name)) is not None:
                like = weights.get(weight)
            else:
                optimizer, number, _ = shards.moment(name)
                like = parameters[optimizer].get(number)
            if not isinstance(like, Tensor) or like.shape != shape:
                return torch.empty(shape, dtype=dtype)  # `TrainingModule.load_state_dict` says what does not fit
            return torch.zeros_like(like.detach(), dtype=dtype)

        return place

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Put this rank's share of the weights in their place."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        shares = {name: _share(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(shares, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Put this rank's share of the moments in their place."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            named = self._numbered(optimizer, state)
            shares = {n: {k: _share(v, named[n]) for k, v in own.items()} for n, own in state["state"].items()}
            optimizer.load_state_dict({**state, "state": shares})

    @staticmethod
    def _numbered(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[int, Tensor]:
        """Number of a parameter in the state of an optimiser -> the parameter."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        numbers = [n for group in state["param_groups"] for n in group["params"]]
        return dict(zip(numbers, parameters, strict=True))


def _share(value: Any, like: Tensor | None) -> Any:
    """The share of a whole tensor that stands where `like` does; a share, number or step counter stays what it is."""
    if isinstance(value, DTensor) or not isinstance(like, DTensor):
        return value
    if not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    # Every rank has read the same values: nothing needs to be sent.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def shard(vlm: VLM, mesh: DeviceMesh, ranks: Ranks) -> None:
    """Give each rank a share of every weight: layer by layer in both backbones, everything else in one piece.

    The first rank may be the only one that has read the weights, in its host memory, and the others hold the structure
    on the meta device: then each is sent its share (`scatter.py`).

    The connector and blocks of cross-attention stand in that piece, whole during a step, so that a rank whose
    micro-batch leaves them out has gradients of zero for them. Encoders must run equally often on all ranks; see
    `VLM.passes`.
    """
    whole = to_be_dealt(vlm, ranks)
    for layer in [*_layers(vlm.vision.backbone), *vlm.language.layers]:
        fully_shard(layer, mesh=mesh)
    fully_shard(vlm, mesh=mesh)
    if whole is not None:
        deal(vlm, whole, _device(mesh), ranks)
    vlm.passes = ranks.most


def _device(mesh: DeviceMesh) -> torch.device:
    """Where the shares of a mesh are on this rank."""
    return torch.device("cuda", torch.cuda.current_device()) if mesh.device_type == "cuda" else torch.device("cpu")


def _layers(backbone: nn.Module) -> list[nn.Module]:
    """The members of the outermost lists of modules."""
    lists = [(name, module) for name, module in backbone.named_modules() if isinstance(module, nn.ModuleList)]
    names = [name for name, _ in lists]
    outer = [module for name, module in lists if not any(name.startswith(f"{other}.") for other in names)]
    return [layer for module in outer for layer in module]
