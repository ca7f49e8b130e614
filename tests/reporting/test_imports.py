"""A table must print at once: what the package imports, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "mlflow", "pandas", "matplotlib", "scipy.stats", "transformers", "lightning", "rich")


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, vlm_ablate.reporting; print(*(m for m in sys.argv[1:] if m in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_a_text_table_needs_no_heavy_library() -> None:
    code = """
import sys
from vlm_ablate.config.evaluation import EvaluationConfig
from vlm_ablate.config.experiment import Arm, Experiment, PaperRef, TableConfig
from vlm_ablate.reporting import render, report
from vlm_ablate.reporting.statistics import estimate
experiment = Experiment.model_construct(name="t", title="t", question="", paper=PaperRef(key="idefics2_t01"), seeds=[0],
    arms={"a": Arm(cell={"llm": "Mistral-7B"})}, table=TableConfig(),
    evaluation=EvaluationConfig.model_construct(benchmarks={"vqa": None}))
for name in ("markdown", "latex", "csv", "html"):
    assert "Mistral-7B" in render(report(experiment, []), name)
assert estimate([1.0, 2.0]).half_width > 0
print(*(m for m in sys.argv[1:] if m in sys.modules))
"""
    heavy = [name for name in HEAVY if name != "rich"]
    found = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == []
