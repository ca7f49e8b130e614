"""`vlm-ablate score METRIC FILE.jsonl`: score answers from anywhere."""

from __future__ import annotations

from pathlib import Path


def score(metric: str, file: Path) -> None:
    """Score the answers in a JSONL file of `prediction` and `references`; prints mean, count and unparsed."""
    from rich.console import Console

    from vlm_ablate.evaluation.metrics import metrics
    from vlm_ablate.evaluation.scoring import score_file

    scorer = metrics[metric]
    result = score_file(scorer, file)
    Console().print(
        f"[bold]{result.mean:.2f}[/]  {scorer.name} (version {scorer.version})  "
        f"items {result.count}  unparsed {result.unparsed}",
        highlight=False,
    )
