"""The pages that `ui` names, as a browser shows them."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from tests.browser import needs_browser, served, shown
from vlm_ablate.cli.app import app

RECORDS = Path("results/idefics2/t03_architecture/laptop/records.json").absolute()


@needs_browser
def test_runs_open_by_arm_with_their_scores_and_charts_begin_with_the_mean(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    imported = CliRunner().invoke(app, ["home", "import", str(RECORDS), "--home", home])
    assert imported.exit_code == 0, imported.output
    with served(home, 19000) as links:
        runs, charts = shown(links["runs"], tmp_path / "runs"), shown(links["charts"], tmp_path / "charts")
    assert "Group: ar_perceiver_frozen" in runs or re.search(r"Group:.*ar_perceiver_frozen", runs, re.DOTALL)
    for name in ("mean", "vqav2", "okvqa", "textvqa", "coco"):
        assert f"score/{name}" in runs and f"score/{name}" in charts
    assert charts.index("score/mean") < charts.index("score/coco")
    assert "Score during training" in charts and charts.index("score/mean") < charts.index("Score during training")
