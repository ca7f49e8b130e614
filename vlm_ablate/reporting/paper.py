"""The paper's table beside ours: its rows, how its columns are headed and which of them are results."""

from __future__ import annotations

from vlm_ablate.papers import PaperTable

PARAMETER_COLUMNS = ("total_params", "trainable_params")
"""Columns of the paper beside which ours are shown."""

HEADINGS = {
    "avg_score": "Avg. score",
    "total_params": "Total",
    "trainable_params": "Trainable",
    "llm": "Language model",
    "docvqa": "DocVQA",
    "chartqa": "ChartQA",
    "vqav2": "VQAv2",
    "okvqa": "OKVQA",
    "textvqa": "TextVQA",
    "coco": "COCO",
    "ocr_data": "OCR data",
    "mlp_projection": "MLP projection",
    "mathvista": "MathVista",
    "mmmu_val": "MMMU val",
    "mmmu_test": "MMMU test",
    "mathvista_testmini": "MathVista testmini",
    "mmbench": "MMBench",
    "mmstar_val": "MMStar val",
    "docvqa_test": "DocVQA test",
    "docvqa_anls": "DocVQA ANLS",
    "docvqa_val_anls": "DocVQA val ANLS",
    "textvqa_val": "TextVQA val",
    "qa_pairs": "QA pairs",
    "lora_extra_trainable": "LoRA extra trainable",
}


def source(paper: PaperTable) -> str:
    """Where the table stands, e.g. `arXiv:2405.02246, Table 3`."""
    return f"arXiv:{paper.arxiv}, {paper.number}"


def is_result(paper: PaperTable, column: str) -> bool:
    """Whether a column holds scores (numbers with a decimal) and does not describe the arm."""
    return any(isinstance(row.get(column), float) for row in paper.rows)


def heading(column: str) -> str:
    """A column's name as a reader sees it."""
    return HEADINGS.get(column, column.replace("_", " ").capitalize())
