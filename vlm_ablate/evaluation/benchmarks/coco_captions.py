"""COCO captions (arXiv:1504.00325), Karpathy's splits (113,287 / 5,000 / 5,000 photos), schema of HuggingFaceM4/COCO
`2014_captions`. That is a loading script; patomp/thai-mscoco-2014-captions holds its rows, with Thai captions beside.
"""

from __future__ import annotations

from vlm_ablate.data.values import key_of, texts_of
from vlm_ablate.evaluation.benchmarks.base import BenchmarkItem
from vlm_ablate.evaluation.benchmarks.tabular import HubBenchmark, Row, required


class CocoCaptions(HubBenchmark):
    """Photos with five captions."""

    metric_name, template = "cider", "caption"
    columns = ("cocoid", "sentences_raw")
    renamed = {"sentences": "sentences_raw", "imgid": "cocoid"}
    max_new_tokens = 24

    def key(self, row: Row) -> str:
        return key_of(row["cocoid"])

    def text(self, row: Row) -> BenchmarkItem:
        captions = tuple(c.strip() for c in texts_of(row["sentences_raw"], "sentences_raw"))
        return BenchmarkItem(required(row, "cocoid"), (), "", captions, captions[0] if captions else "")
