"""Data sources: one record schema each, all becoming `Sample`."""

from __future__ import annotations

from vlm_ablate.registry import Registry

sources: Registry = Registry("data source")

_PKG = "vlm_ablate.data.sources"
