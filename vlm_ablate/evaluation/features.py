"""Images encoded once: a bounded cache of visual tokens, and pooled features that rank images (RICES)."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vlm_ablate.config.data import ImageConfig
from vlm_ablate.data.images import load_views
from vlm_ablate.data.normalise import Normaliser
from vlm_ablate.data.sample import ImageRef
from vlm_ablate.models.feature_store import KEY_BYTES
from vlm_ablate.models.features import view_key

if TYPE_CHECKING:
    from vlm_ablate.models.vision.base import VisionEncoder
    from vlm_ablate.models.vlm import VLM

_VIEWS_AT_ONCE = 64
_PIXELS_AT_ONCE = 64 * 384 * 384


def chunks_of_size(views: Iterable[np.ndarray]) -> list[list[int]]:
    """Positions of views that can be encoded together unpadded: equal sizes, at most 64 and 64 x 384 x 384 px."""
    groups: dict[tuple[int, int], list[int]] = {}
    for position, view in enumerate(views):
        groups.setdefault(view.shape[:2], []).append(position)
    chunks = []
    for (height, width), positions in groups.items():
        step = max(1, min(_VIEWS_AT_ONCE, _PIXELS_AT_ONCE // (height * width)))
        chunks += [positions[i : i + step] for i in range(0, len(positions), step)]
    return chunks


def _pixels(views: list[np.ndarray], normalise: Normaliser, device: torch.device) -> Tensor:
    """(views, 3, height, width) float32 on the device; all views of one size."""
    return torch.from_numpy(np.stack([normalise(view) for view in views])).to(device)


class VisualCache:
    """Visual tokens by image. The least recently used leave when `budget` bytes are passed.

    Views are encoded in groups of equal size, so that no padding enters and an image's tokens do not depend on which
    other images are encoded beside it.

    Args:
        by_content: keep tokens under what an image shows after its preparation instead of its key, so that images of
            several benchmarks, or under several keys, are encoded once.
    """

    def __init__(self, vlm: VLM, image: ImageConfig, *, budget: int = 2**30, by_content: bool = False) -> None:
        self._vlm, self._image, self._budget, self._by_content = vlm, image, budget, by_content
        self._normalise = Normaliser(vlm.vision.mean, vlm.vision.std)
        self._names: dict[str, bytes] = {}
        """Key of an image -> what it shows."""
        self._kept: OrderedDict[str | bytes, list[Tensor]] = OrderedDict()
        self._bytes = 0
        self.encoded = 0
        """Images encoded so far."""

    def get(self, wanted: Mapping[str, ImageRef]) -> dict[str, list[Tensor]]:
        """Key -> (visual_tokens, width) of each view of that image, on the model's device.

        Raises:
            DataError: an image cannot be read.
        """
        found = {key: self._kept[self.name(key)] for key in wanted if self.name(key) in self._kept}
        for key in found:
            self._kept.move_to_end(self.name(key))
        found |= self._encode({key: ref for key, ref in wanted.items() if key not in found})
        return found

    def name(self, key: str) -> str | bytes:
        """Under what an image's tokens are kept: equal names, equal tokens."""
        return self._names.get(key, key)

    @torch.no_grad()
    def _encode(self, refs: Mapping[str, ImageRef]) -> dict[str, list[Tensor]]:
        stored = self._vlm.features is not None
        views: list[np.ndarray] = []
        view_keys: list[bytes] = []
        spans: dict[str | bytes, range] = {}
        for key, ref in refs.items():
            cut = load_views(ref, self._image)[0]
            keys_of_cut = [view_key(view) for view in cut] if self._by_content or stored else []
            if self._by_content:
                self._names[key] = hashlib.blake2b(b"".join(keys_of_cut), digest_size=KEY_BYTES).digest()
            if (name := self.name(key)) not in self._kept and name not in spans:
                spans[name] = range(len(views), len(views) + len(cut))
                views += cut
                view_keys += keys_of_cut
        tokens: dict[int, Tensor] = {}
        for chunk in chunks_of_size(views):
            pixels = _pixels([views[i] for i in chunk], self._normalise, self._vlm.device)
            keys = [view_keys[i] for i in chunk] if stored else None
            tokens |= zip(chunk, self._vlm.encode_images(pixels, None, keys), strict=True)
        self.encoded += len(spans)
        found = {name: [tokens[i] for i in span] for name, span in spans.items()}
        out = {key: found[name] if (name := self.name(key)) in found else self._kept[name] for key in refs}
        for name, states in found.items():
            self._keep(name, states)
        return out

    def _keep(self, name: str | bytes, states: list[Tensor]) -> None:
        self._kept[name] = states
        self._bytes += _size(states)
        while self._bytes > self._budget and self._kept:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= _size(oldest)


def _size(states: list[Tensor]) -> int:
    return sum(state.numel() * state.element_size() for state in states)


@torch.no_grad()
def pooled_features(vision: VisionEncoder, refs: list[ImageRef], image: ImageConfig) -> Tensor:
    """(images, width) unit vectors on the CPU: the mean patch feature of the whole image (its last view)."""
    normalise = Normaliser(vision.mean, vision.std)
    parameter = next(vision.parameters(), torch.zeros(0))  # a graph of ONNX has none
    out: dict[int, Tensor] = {}
    for start in range(0, len(refs), _VIEWS_AT_ONCE):
        views = [load_views(ref, image)[0][-1] for ref in refs[start : start + _VIEWS_AT_ONCE]]
        for chunk in chunks_of_size(views):
            pixels = _pixels([views[i] for i in chunk], normalise, parameter.device).to(parameter.dtype)
            means = vision(pixels, None).features.float().mean(1)
            for position, mean in zip(chunk, torch.nn.functional.normalize(means, dim=-1).cpu(), strict=True):
                out[start + position] = mean
    return torch.stack([out[i] for i in range(len(refs))]) if out else torch.zeros(0, vision.width)


def rank_by_similarity(queries: Tensor, pool: Tensor) -> Tensor:
    """(queries, pool) positions of the pool for each query, nearest first (cosine); ties in the pool's order.

    Likeness counts to five decimals: what lies beyond hangs on how many were encoded and compared at once, and would
    put equal pictures of the pool in another order for another batch size.
    """
    likeness = (queries.double() @ pool.double().T).round(decimals=5)
    return likeness.argsort(dim=1, descending=True, stable=True)
