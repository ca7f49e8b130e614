"""Checkpoints in which each rank has written its share, in torch's distributed format; any number of ranks reads them.

A folder holds the shares of weights and moments (`__RANK_N.distcp`), where each of their parts is (`.metadata`), and
everything else, plain (`rest.ckpt`, by the first rank).
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path, PurePath
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor

from vlm_ablate.errors import StorageError
from vlm_ablate.storage import atomic_file, file_sha256, storage_errors
from vlm_ablate.training.disk import save

REST = "rest.ckpt"
_PLACES = ".metadata"
OWN = re.compile(r"__\d+_\d+\.distcp|\.metadata|rest\.ckpt")
"""Names of files that belong to a checkpoint; others, of network file systems for one, mean nothing."""
_WEIGHTS, _MOMENTS = "weights", "moments"

Place = Callable[[str, torch.Size, torch.dtype], Tensor]
"""(name of a tensor in the checkpoint, whole shape, type) -> the tensor that is to be filled."""


def begin(checkpoint: Mapping[str, Any], folder: Path, group: ProcessGroup, *, first: bool) -> Future[Any]:
    """Write a checkpoint of Lightning's; called by all ranks. It is copied now and written by a thread.

    Args:
        checkpoint: with shares of weights and moments; training may go on and change them.
        folder: the first rank makes it.
        group: of all ranks, used by nothing else: its thread talks there while training goes on.
        first: whether this rank writes what is not shared out.

    Raises:
        StorageError: the first rank cannot write.
    """
    rest, shares = _split(checkpoint)
    if first:
        with storage_errors("create", folder):
            folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / REST) as file:
            save(rest, file)
    begun: Future[Any] = async_save(shares, checkpoint_id=folder, process_group=group)  # type: ignore[assignment]  # of this stager
    return begun


def written_by(folder: Path, rank: int) -> dict[str, str]:
    """Name -> SHA-256 of the files that a rank has written."""
    own = [*folder.glob(f"__{rank}_*.distcp"), *((folder / _PLACES, folder / REST) if rank == 0 else ())]
    return {file.name: file_sha256(file) for file in own}


def read_whole(folder: Path) -> dict[str, Any]:
    """The checkpoint as one process would have written it. No rank takes part but this one.

    Raises:
        StorageError: it cannot be read.
    """
    return _read(folder, lambda name, shape, dtype: torch.empty(shape, dtype=dtype), None)


def read_shares(folder: Path, places: Callable[[dict[str, Any]], Place], group: ProcessGroup) -> dict[str, Any]:
    """The checkpoint with this rank's shares; called by all ranks, of whatever number.

    Args:
        places: given the checkpoint without weights and moments, says where these go.

    Raises:
        StorageError: it cannot be read.
    """
    return _read(folder, None, group, places)


def weight(name: str) -> str | None:
    """The parameter or buffer whose values a tensor of a checkpoint has; None: a moment."""
    kind, _, rest = name.partition("/")
    return rest if kind == _WEIGHTS else None


def moment(name: str) -> tuple[int, int, str]:
    """(optimiser, number of the parameter, which moment)."""
    _, optimizer, number, key = name.split("/", 3)
    return int(optimizer), int(number), key


def _read(
    folder: Path, place: Place | None, group: ProcessGroup | None,
    places: Callable[[dict[str, Any]], Place] | None = None,
) -> dict[str, Any]:  # fmt: skip
    reader = _Reader(folder)
    kept = reader.read_metadata().state_dict_metadata
    rest: dict[str, Any] = torch.load(folder / REST, map_location="cpu", weights_only=True)
    if place is None:
        assert places is not None
        place = places(rest)
    shares: dict[str, Any] = {
        name: place(name, entry.size, entry.properties.dtype)
        for name, entry in kept.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # it is meant to be
        load(shares, storage_reader=reader, process_group=group, no_dist=group is None)
    for name, value in shares.items():
        if (of := weight(name)) is not None:
            rest["state_dict"][of] = value
        else:
            optimizer, number, key = moment(name)
            rest["optimizer_states"][optimizer]["state"].setdefault(number, {})[key] = value
    return rest


def _split(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, DTensor]]:
    """What is plain, and the shares by their names in the checkpoint."""
    shares = {f"{_WEIGHTS}/{n}": v for n, v in checkpoint["state_dict"].items() if isinstance(v, DTensor)}
    rest = dict(checkpoint) | {"state_dict": _plain(checkpoint["state_dict"]), "optimizer_states": []}
    for index, state in enumerate(checkpoint["optimizer_states"]):
        for number, own in state["state"].items():
            shares |= {f"{_MOMENTS}/{index}/{number}/{k}": v for k, v in own.items() if isinstance(v, DTensor)}
        plain = {number: _plain(own) for number, own in state["state"].items()}
        rest["optimizer_states"].append({**state, "state": plain})
    return rest, shares


def _plain(values: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: value for name, value in values.items() if not isinstance(value, DTensor)}


class _Reader(FileSystemReader):
    """Reads the list of parts without running what somebody may have put there: torch would unpickle anything."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The list of parts."""
        file = Path(self.path) / _PLACES
        try:
            found = _Metadata(io.BytesIO(file.read_bytes())).load()
        except (OSError, pickle.UnpicklingError, AttributeError, EOFError) as error:
            raise StorageError(f"{file} cannot be read: {error}", hint="move the checkpoint's folder away") from error
        if not isinstance(found, Metadata):
            raise StorageError(f"{file} is no list of a checkpoint's parts", hint="move the checkpoint's folder away")
        if found.storage_meta is None:
            found.storage_meta = StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class _Metadata(pickle.Unpickler):
    """Makes torch's own plain classes of checkpoints only."""

    def find_class(self, module: str, name: str) -> Any:
        if "." not in name and module.partition(".")[0] in ("torch", "pathlib"):
            found = super().find_class(module, name)
            if isinstance(found, type) and issubclass(found, PurePath):
                return found
            ours = module.startswith("torch.distributed.checkpoint.") and isinstance(found, type)
            if ours or found is torch.Size or isinstance(found, torch.dtype | torch.layout):
                return found
            if (module, name) == ("torch.serialization", "_get_layout"):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} does not belong there")


def failure(error: BaseException, folder: Path) -> BaseException:
    """What is to be raised when a checkpoint could not be written: the ranks' own reason, not that one has failed."""
    found = [cast(BaseException, each[0]) for each in getattr(error, "failures", {}).values()]
    if not found:
        return error
    why = next((each for each in found if isinstance(each, OSError)), found[0])
    return why if isinstance(why, OSError) else StorageError(f"cannot write {folder}: {type(why).__name__}: {why}")
