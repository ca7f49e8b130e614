"""Checkpoints that tests of models share."""

from tests.models.conftest import clip, dinov2, llama, mllama, siglip, tiny  # noqa: F401
