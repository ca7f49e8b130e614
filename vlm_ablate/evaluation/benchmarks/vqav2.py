"""VQAv2 (arXiv:1612.00837), schema of lmms-lab/VQAv2. Test answers are not public: report is validation.

That data set has no train split; demonstrations come from Multimodal-Fatima/VQAv2_train, which has `id_image` for
`image_id` and the annotators' ten answers in `answers_original`.
"""

from __future__ import annotations

from typing import ClassVar

from vlm_ablate.data.values import answers_of, key_of
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem
from vlm_ablate.evaluation.benchmarks.tabular import HubBenchmark, Row, most_common, required


class VqaV2(HubBenchmark):
    """Open-ended questions on photos, ten answers each."""

    metric_name, template = "vqa_accuracy", "vqa"
    columns: ClassVar[tuple[str, ...]] = ("question_id", "image_id", "question", "answers")
    renamed = {"id_image": "image_id"}

    def key(self, row: Row) -> str:
        return key_of(row["image_id"])

    def text(self, row: Row) -> BenchmarkItem:
        answers = answers_of(row.get("answers_original") or row["answers"], "answers")
        name, question = required(row, "question_id"), required(row, "question")
        return BenchmarkItem(name, (), question, answers, most_common(answers))
