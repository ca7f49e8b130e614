"""VQAv2 (arXiv:1612.00837), schema of lmms-lab/VQAv2. Test answers are not public: report is validation.

That data set has no train split; demonstrations come from Multimodal-Fatima/VQAv2_train, which has `id_image` for
`image_id` and the annotators' ten answers in `answers_original`.
"""

from __future__ import annotations

from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem
from vlm_ablate.evaluation.benchmarks.tabular import HubBenchmark, Row, answers_of, most_common


class VqaV2(HubBenchmark):
    """Open-ended questions on photos, ten answers each."""

    metric_name, template = "vqa_accuracy", "vqa"
    columns = ("question_id", "image_id", "question", "answers")
    renamed = {"id_image": "image_id"}

    def key(self, row: Row) -> str:
        return str(row["image_id"])

    def text(self, row: Row) -> BenchmarkItem:
        answers = answers_of(row.get("answers_original") or row["answers"])
        return BenchmarkItem(str(row["question_id"]), (), row["question"], answers, most_common(answers))
