"""OK-VQA (arXiv:1906.00067), schema of HuggingFaceM4/OK-VQA: ten answers, five annotators counted twice."""

from __future__ import annotations

from vlm_ablate.evaluation.benchmarks.vqav2 import VqaV2


class OkVqa(VqaV2):
    """Questions that need knowledge beside the picture."""
