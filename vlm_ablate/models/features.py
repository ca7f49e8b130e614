"""A frozen encoder whose output is kept on disk: computed once for all arms, seeds, curve points and evaluations.

What is read back is bit for bit what was computed. A view's output is computed at its own size, without padding, and in
one of two manners: together with other views, where the first views of a store show that this gives a view the same
digits as alone (on a CPU most transformers do so); else alone. So it depends on the view only, not on what was there
before. Where nothing is padded and views may go together, that is what computing gives without a store, to the last
digit; otherwise it agrees up to the rounding of another order of sums (1e-5 of the largest value in fp32).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vlm_ablate.errors import StorageError
from vlm_ablate.events import remark
from vlm_ablate.models import promises
from vlm_ablate.models.batch import sizes_of
from vlm_ablate.models.feature_store import KEY_BYTES, FeatureStore, Stored
from vlm_ablate.models.vision.base import VisionEncoder, VisionFeatures
from vlm_ablate.provenance import library_versions, machine, threads
from vlm_ablate.storage import locked, write_atomically

FORMAT = 1
_KINDS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_MANNER = "manner.json"


def view_key(view: np.ndarray) -> bytes:
    """16 bytes that name the content of a view (height, width, 3) uint8: the picture as its preparation left it."""
    digest = hashlib.blake2b(repr(view.shape).encode(), digest_size=KEY_BYTES)
    digest.update(np.ascontiguousarray(view).data)
    return digest.digest()


def state_digest(module: nn.Module, leave_out: str | None = None) -> str:
    """32 hex digits over names, kinds and values of all parameters and buffers of a module.

    Args:
        leave_out: part of the names of those that do not count.
    """
    digest = hashlib.blake2b(digest_size=16)
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in tensors:
        if leave_out is None or leave_out not in name:
            values = tensor.detach().to("cpu").contiguous()
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
            digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def precision() -> str:
    """What a forward pass computes in now."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "as the weights"


def numerics() -> dict[str, str]:
    """What decides the last digits of a forward pass beside weights and input."""
    kept = ("torch", "transformers")
    libraries = {name: number for name, number in library_versions().items() if name in kept}
    return {**libraries, "machine": machine(), "threads": threads(), "precision": precision()}


def refusal(vision: VisionEncoder, *, padded: bool, files: str = "") -> str:
    """Why an encoder's output cannot be kept; "" where it can.

    Args:
        padded: whether views of several sizes come in one batch.
        files: digest of the files that decide its output, where there is one.
    """
    if padded and vision.sees_padding:
        return "views are padded, and the encoder sees the padding"
    own = type(vision).__module__.partition(".")[0] == __name__.partition(".")[0]
    if not (files or own or next(vision.parameters(), None) is not None):
        return "nothing says which weights the encoder has"
    return ""


class StoredFeatures:
    """Looks an encoder's output up, and computes and keeps what is not there.

    Args:
        vision: the encoder, frozen from now on.
        root: folder of all encoders' output.
        limit: bytes of all encoders' output.
        files: digest of files beside the weights that decide the output, e.g. of a plug-in's code.
    """

    def __init__(self, vision: VisionEncoder, root: Path, *, limit: int, files: str = "") -> None:
        self._root, self._limit = root, limit
        self._encoder = {
            "format": FORMAT,
            "class": f"{type(vision).__module__}.{type(vision).__qualname__}",
            "config": vision.config.model_dump(mode="json"),
            "normalisation": [list(vision.mean), list(vision.std)],
            "attention": getattr(getattr(vision.backbone, "config", None), "_attn_implementation", None),
            "weights": state_digest(vision),
            "files": files,
        }
        self._stores: dict[object, FeatureStore] = {}
        self._together: dict[str, bool] = {}
        self._refused = False

    @property
    def store(self) -> FeatureStore:
        """Of the numerics that hold now."""
        now = (precision(), torch.get_num_threads())
        if now not in self._stores:
            described = json.dumps({**self._encoder, "numerics": numerics()}, sort_keys=True)
            name = hashlib.sha256(described.encode()).hexdigest()[:16]
            self._stores[now] = FeatureStore(self._root, name, limit=self._limit)
        return self._stores[now]

    def ahead(self, precision: str) -> Callable[[Iterable[bytes]], None]:
        """What is told the keys that steps of a stage of this precision will ask for soon.

        Their store is named here, in the process that trains: batches are read outside of autocast, and by processes
        that have another number of threads and may see no GPU.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return self.store.expect

    def see(
        self, vision: VisionEncoder, pixel_values: Tensor, pixel_mask: Tensor | None, keys: Sequence[bytes]
    ) -> VisionFeatures:
        """The encoder's output for views (views, 3, height, width), from the store as far as it is there.

        Args:
            pixel_mask: as of the encoder; views are seen without their padding, and padded with zeros afterwards.
            keys: `view_key` of each view.
        """
        try:
            return self._see(vision, pixel_values, pixel_mask, keys)
        except _Masked:
            if not self._refused:
                self._refused = True
                remark(f"vision encoder {vision.config.name!r} masks patches of whole views: its output is not kept")
            seen: VisionFeatures = vision(pixel_values, pixel_mask)
            return seen

    def _see(
        self, vision: VisionEncoder, pixel_values: Tensor, pixel_mask: Tensor | None, keys: Sequence[bytes]
    ) -> VisionFeatures:
        store, sizes = self.store, sizes_of(pixel_values, pixel_mask)
        found = dict(zip(keys, store.read(keys), strict=True))
        missing = {key: place for place, key in enumerate(keys) if found[key] is None}
        for height, width in sorted({sizes[place] for place in missing.values()}):
            chosen = {key: place for key, place in missing.items() if sizes[place] == (height, width)}
            pixels = pixel_values[list(chosen.values()), :, :height, :width]
            found |= zip(chosen, _stored(self._compute(vision, pixels)), strict=True)
        store.add([(key, stored) for key in missing if (stored := found[key]) is not None])
        views = [stored for key in keys if (stored := found[key]) is not None]
        values = [_value(stored).to(pixel_values.device) for stored in views]
        if pixel_mask is None:
            return VisionFeatures(torch.stack(values), None, vision.grid(*pixel_values.shape[-2:]))
        return _padded(vision, values, sizes, pixel_values.shape[-2:])

    def _compute(self, vision: VisionEncoder, pixels: Tensor) -> Tensor:
        """(views, patches, width) of views of one size, without padding."""
        store = self.store
        known = self._together.get(store.folder.name, _read_manner(store.folder))
        if known is None and len(pixels) > 1:
            seen = _features(vision, pixels)
            ends = (0, len(pixels) - 1)
            known = all(torch.equal(_features(vision, pixels[i : i + 1])[0], seen[i]) for i in ends)
            known = _write_manner(store.folder, known)
        if known is not None:
            self._together[store.folder.name] = known
        if known:
            return _features(vision, pixels)
        return torch.cat([_features(vision, view[None]) for view in pixels])


class _Masked(Exception):
    """Features came with a mask although nothing was padded."""


def _features(vision: VisionEncoder, pixels: Tensor) -> Tensor:
    seen: VisionFeatures = vision(pixels, None)
    promises.check_features(vision, seen, pixels)
    if seen.mask is not None:
        raise _Masked
    return seen.features


def _padded(
    vision: VisionEncoder, values: list[Tensor], sizes: list[tuple[int, int]], whole: torch.Size
) -> VisionFeatures:
    """Features of views of several sizes on one grid, each in its top left corner."""
    rows, columns = vision.grid(*whole)
    width = values[0].shape[-1]
    features = values[0].new_zeros(len(values), rows, columns, width)
    mask = torch.zeros(len(values), rows, columns, dtype=torch.bool, device=features.device)
    for place, (value, size) in enumerate(zip(values, sizes, strict=True)):
        tall, wide = vision.grid(*size)
        features[place, :tall, :wide] = value.view(tall, wide, width)
        mask[place, :tall, :wide] = True
    return VisionFeatures(features.flatten(1, 2), mask.flatten(1), (rows, columns))


def _stored(features: Tensor) -> list[Stored]:
    """Each view's part of (views, patches, width)."""
    whole = features.detach().to("cpu").contiguous()
    return [Stored(view.view(torch.uint8).numpy(), _KINDS.index(view.dtype)) for view in whole]


def _value(stored: Stored) -> Tensor:
    return torch.from_numpy(stored.values).view(_KINDS[stored.kind])


def _read_manner(folder: Path) -> bool | None:
    """Whether views may be computed together; None where no process has found out."""
    try:
        said = json.loads((folder / _MANNER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    together = said.get("together") if isinstance(said, dict) else None
    return together if isinstance(together, bool) else None


def _write_manner(folder: Path, together: bool) -> bool:
    """Note it, and give what holds: what another process noted first, else this."""
    try:
        with locked(folder.parent / ".lock"):
            noted = _read_manner(folder)
            if noted is None:
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / _MANNER, json.dumps({"together": together}))
            return together if noted is None else noted
    except (OSError, StorageError):
        return together
