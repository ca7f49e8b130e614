"""`vlm-ablate score METRIC FILE.jsonl`: score answers from anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def score(
    metric: Annotated[str, typer.Argument(help="A metric of `vlm-ablate list metrics`, e.g. anls.")],
    file: Annotated[
        Path, typer.Argument(help='One answer a line: {"prediction": "42", "references": ["42", "forty-two"]}.')
    ],
) -> None:
    """Score the answers in a JSONL file of `prediction` and `references`; prints mean, count and unparsed.

    Example: vlm-ablate score anls answers.jsonl
    """
    from vlm_ablate.cli.console import out
    from vlm_ablate.evaluation.metrics import metrics
    from vlm_ablate.evaluation.score_file import score_file

    scorer = metrics[metric]
    result = score_file(scorer, file)
    out().print(
        f"{result.mean:.2f}  {scorer.name} (version {scorer.version})  "
        f"items {result.count}  unparsed {result.unparsed}"
    )
