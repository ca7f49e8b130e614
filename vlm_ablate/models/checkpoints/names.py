"""Names of tensors in Idefics2, Idefics3 and SmolVLM checkpoints, and in this package's assembly."""

from __future__ import annotations

IDEFICS = ("idefics2", "idefics3", "smolvlm")
"""Values of a configuration's `model_type` whose tensors are named in this way."""

PREFIXES = {
    "model.vision_model.": "vision.backbone.",
    "model.connector.": "connector.",
    "model.text_model.": "language.model.model.",
    "lm_head.": "language.model.lm_head.",
}
"""Prefix in transformers' checkpoints -> prefix here."""

EMBEDDING, HEAD = "language.model.model.embed_tokens.weight", "language.model.lm_head.weight"
POSITIONS = "vision.backbone.embeddings.position_embedding.weight"


def to_ours(name: str) -> str | None:
    """Our name of transformers' tensor `name`; None when we have no place for it."""
    return _rename(name, PREFIXES)


def to_theirs(name: str) -> str | None:
    """transformers' name of our tensor `name`; None when they have no place for it."""
    return _rename(name, {ours: theirs for theirs, ours in PREFIXES.items()})


def _rename(name: str, prefixes: dict[str, str]) -> str | None:
    return next((new + name.removeprefix(old) for old, new in prefixes.items() if name.startswith(old)), None)
