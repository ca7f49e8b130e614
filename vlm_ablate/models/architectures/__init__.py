"""Architectures: how visual tokens meet the language model."""
