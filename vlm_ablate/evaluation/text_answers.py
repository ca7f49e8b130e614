"""Answers to prompts without images that cannot differ between arms: computed once, shared on disk.

Where nothing has trained the language model and the architecture adds nothing to a prompt without images, an answer
follows from the language model's own weights, the tokens that end a text, the prompt's and those that are answered
beside it. One thing remains: every arm trains rows of its own for the new tokens (`<image>` and the like), which could
be predicted. So with the answers stand the hidden states that they were read from, and an arm takes them only if none
of its own rows would have won anywhere, with a margin for rounding. What it takes is then byte for byte what it would
have computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vlm_ablate.models.batch import Batch
from vlm_ablate.models.beginnings import Beginnings
from vlm_ablate.models.feature_store import KEY_BYTES, PACK, FeatureStore, Stored
from vlm_ablate.models.features import numerics, state_digest
from vlm_ablate.models.generation import end_ids
from vlm_ablate.models.language.vocabulary import ExtendedHead

if TYPE_CHECKING:
    from vlm_ablate.models.vlm import VLM

FORMAT = 2
_NEW_ROWS = "trainable_tokens"
_MARGIN = 0.02
"""By so much, and so much of its size, the best logit of a known token must be above those of new ones."""
_LARGEST = PACK
"""Bytes of hidden states above which answers are not shared."""
LIMIT = 2 * 2**30
"""Bytes of all shared answers; those that were not used for longest go first."""


class TextAnswers:
    """Answers of one model to prompts without images.

    Args:
        vlm: the model, which is not trained any more.
        root: folder of all shared answers.
        limit: bytes of them all.
    """

    def __init__(self, vlm: VLM, root: Path, *, limit: int = LIMIT) -> None:
        self._vlm, self._root, self._limit = vlm, root, limit
        self._language: str | None = None
        self._stores: dict[str, FeatureStore] = {}
        self.shared = 0
        """Batches whose answers were there."""

    def generate(
        self, batch: Batch, *, max_new_tokens: int, stop: Sequence[str], beginnings: Beginnings | None = None
    ) -> list[str]:
        """As `VLM.generate`, for left-padded prompts."""
        vlm = self._vlm
        head = vlm.language.model.get_output_embeddings()
        new = head if isinstance(head, ExtendedHead) else None
        if not self._shareable(batch, new):
            return vlm.generate(batch, max_new_tokens=max_new_tokens, stop=stop, beginnings=beginnings)
        store, key = self._store(), _key(batch, max_new_tokens, stop, begun=beginnings is not None)
        found = _read(store.read([key])[0])
        if found is not None and _none_wins(new, found[1]):
            self.shared += 1
            return found[0]
        with _watching(new) as states:
            answers = vlm.generate(batch, max_new_tokens=max_new_tokens, stop=stop, beginnings=beginnings)
        kept = {name: torch.cat(parts) for name, parts in states.items() if parts}
        small = sum(state.nbytes for state in kept.values()) <= _LARGEST
        if found is None and small and _none_wins(new, kept):
            store.add([(key, _stored(answers, kept))])
        return answers

    def _shareable(self, batch: Batch, new: ExtendedHead | None) -> bool:
        vlm = self._vlm
        if batch.images or vlm.architecture.text_alone is None or "language" in vlm.adapters:
            return False
        if any(name.startswith("language.") and _NEW_ROWS not in name for name in vlm.touched):
            return False
        if new is None:
            return True
        own = batch.input_ids[batch.attention_mask]
        return not bool(((own >= new.start) & (own < new.start + len(new.trainable_tokens))).any())

    def _store(self) -> FeatureStore:
        """Of this language model and the numerics that hold now."""
        if self._language is None:
            self._language = self._identity()
        described = json.dumps([FORMAT, self._language, numerics()])
        if described not in self._stores:
            name = hashlib.sha256(described.encode()).hexdigest()[:16]
            self._stores[described] = FeatureStore(self._root, name, limit=self._limit, what="what arms answer alike")
        return self._stores[described]

    def _identity(self) -> str:
        language, architecture = self._vlm.language, self._vlm.architecture
        tokenizer: Any = language.require_tokenizer()
        parts = {
            "class": f"{type(language).__module__}.{type(language).__qualname__} {type(language.model).__qualname__}",
            "config": language.config.model_dump(mode="json"),
            "model": language.model.config.to_json_string(),
            "weights": state_digest(language, leave_out=_NEW_ROWS),
            "tokenizer": tokenizer.backend_tokenizer.to_str(),
            "ends": end_ids(language),
            "architecture": architecture.text_alone,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _key(batch: Batch, max_new_tokens: int, stop: Sequence[str], *, begun: bool) -> bytes:
    """Name of a batch's answers.

    Args:
        begun: whether what prompts begin with in common is computed once, which may round otherwise.
    """
    digest = hashlib.blake2b(json.dumps([max_new_tokens, list(stop), begun]).encode(), digest_size=KEY_BYTES)
    for tensor in (batch.input_ids, batch.segment):
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.digest()


def _stored(answers: list[str], states: dict[str, Tensor]) -> Stored:
    body = save({"none": torch.zeros(1), **states}, metadata={"answers": json.dumps(answers)})
    return Stored(np.frombuffer(body, np.uint8)[None], 0)


def _read(stored: Stored | None) -> tuple[list[str], dict[str, Tensor]] | None:
    """Answers, and the hidden states that they were read from; None where they are not there."""
    if stored is None:
        return None
    body = stored.values.tobytes()
    try:
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        answers: list[str] = json.loads(header["__metadata__"]["answers"])
        return answers, load(body)
    except (SafetensorError, ValueError, KeyError):
        return None


@contextmanager
def _watching(head: ExtendedHead | None) -> Iterator[dict[str, list[Tensor]]]:
    """Within the block, collects each step's hidden states (rows, hidden) and best logits of known tokens (rows,)."""
    states: dict[str, list[Tensor]] = {"hidden": [], "best": []}
    if head is None:
        yield states
        return

    def watch(module: ExtendedHead, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        known = logits[:, -1].float().clone()
        known[:, module.start : module.start + len(module.trainable_tokens)] = float("-inf")
        states["hidden"].append(inputs[0][:, -1].float().cpu())
        states["best"].append(known.amax(1).cpu())

    hook = head.register_forward_hook(watch)
    try:
        yield states
    finally:
        hook.remove()


def _none_wins(head: ExtendedHead | None, states: dict[str, Tensor]) -> bool:
    """Whether no new token of this model would have been predicted from these hidden states."""
    if head is None:
        return True
    if "hidden" not in states or not len(head.trainable_tokens):
        return not len(head.trainable_tokens)
    new = (states["hidden"] @ head.trainable_tokens.detach().float().cpu().T).amax(1)
    best = states["best"]
    return bool((new + _MARGIN + _MARGIN * best.abs() < best).all())
