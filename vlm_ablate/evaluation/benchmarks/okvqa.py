"""OK-VQA (arXiv:1906.00067), schema of lmms-lab/OK-VQA: ten answers, five annotators counted twice.

That data set has `val2014` only, without image ids; demonstrations come from Multimodal-Fatima/OK-VQA_train.
"""

from __future__ import annotations

from vlm_ablate.data.values import key_of
from vlm_ablate.evaluation.benchmarks.tabular import Row
from vlm_ablate.evaluation.benchmarks.vqav2 import VqaV2


class OkVqa(VqaV2):
    """Questions that need knowledge beside the picture."""

    columns = ("question_id", "question", "answers")

    def key(self, row: Row) -> str:
        return key_of(row.get("image_id"))
