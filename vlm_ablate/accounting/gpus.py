"""Data-sheet figures of GPUs, for GPU-hours and for what fits."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One kind of device."""

    title: str
    flops: float
    """Dense bf16 operations a second."""
    memory: float
    """Bytes."""


GPUS = {
    "a100": Gpu("A100 80 GB", 312e12, 80e9),
    "h100": Gpu("H100 SXM", 989e12, 80e9),
    "h200": Gpu("H200", 989e12, 141e9),
    "b200": Gpu("B200", 2250e12, 180e9),
    "l40s": Gpu("L40S", 362e12, 48e9),
    "rtx4090": Gpu("RTX 4090", 165e12, 24e9),
}
"""Name -> NVIDIA's data sheet (without sparsity; RTX 4090: with fp32 accumulation)."""
_OTHER = re.compile(r"\bMIG\b|\bH[12]00 (PCIe|NVL)\b|\bRTX 4090 (D|Laptop)\b")
"""Names of devices whose figures are others than those of the whole or first of their kind."""


def gpu_called(name: str) -> Gpu | None:
    """The GPU that a driver calls so, e.g. "NVIDIA H100 80GB HBM3"; None: its figures are not known here."""
    if _OTHER.search(name):
        return None
    kinds = {key: "RTX 4090" if key == "rtx4090" else key.upper() for key in GPUS}
    return next((GPUS[key] for key, kind in kinds.items() if re.search(rf"\b{kind}\b", name)), None)
