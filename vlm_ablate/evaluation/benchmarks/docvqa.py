"""DocVQA (arXiv:2007.00398), schema of HuggingFaceM4/DocumentVQA and lmms-lab/DocVQA.

Test answers are not public: report is validation. Scored as the official script scores, since published numbers are.
"""

from __future__ import annotations

from vlm_ablate.data.values import answers_of, key_of
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem
from vlm_ablate.evaluation.benchmarks.tabular import HubBenchmark, Row, required


class DocVqa(HubBenchmark):
    """Questions on scanned pages. At zero shots the papers use the template `docvqa_gemini`."""

    metric_name, template = "anls_docvqa", "vqa"
    columns = ("questionId", "question", "answers", "ucsf_document_id", "ucsf_document_page_no")
    max_new_tokens = 32

    def key(self, row: Row) -> str:
        return key_of(row["ucsf_document_id"], row["ucsf_document_page_no"])

    def text(self, row: Row) -> BenchmarkItem:
        answers = answers_of(row["answers"], "answers")
        name, question = required(row, "questionId"), required(row, "question")
        return BenchmarkItem(name, (), question, answers, answers[0] if answers else "")
