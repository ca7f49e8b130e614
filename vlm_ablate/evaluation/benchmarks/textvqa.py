"""TextVQA (arXiv:1904.08920), schema of lmms-lab/textvqa. No OCR tokens are put into the prompt."""

from __future__ import annotations

from vlm_ablate.evaluation.benchmarks.vqav2 import VqaV2


class TextVqa(VqaV2):
    """Questions that need the text in a photo. At zero shots the papers use the template `textvqa_gemini`."""
