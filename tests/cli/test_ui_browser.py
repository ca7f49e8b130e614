"""The pages that `ui` names, as a browser shows them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlm_ablate.cli.app import app

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
RECORDS = Path("results/idefics2/t03_architecture/laptop/records.json").absolute()


def shown(address: str, profile: Path) -> str:
    """The text of a page once its scripts have run."""
    assert BROWSER is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=2400,2400"]
    command = [BROWSER, *options, f"--user-data-dir={profile}", "--virtual-time-budget=60000", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_runs_open_by_arm_with_their_scores_and_charts_begin_with_the_mean(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    imported = CliRunner().invoke(app, ["home", "import", str(RECORDS), "--home", home])
    assert imported.exit_code == 0, imported.output
    command = [sys.executable, "-m", "vlm_ablate", "ui", "--home", home, "--port", "19000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            links = {}
            for line in server.stdout:
                if found := re.match(r"  (\w+) +(http\S+)", line):
                    links[found[1]] = found[2]
                if "compare" in links:
                    break
            runs = shown(links["runs"], tmp_path / "runs")
            charts = shown(links["charts"], tmp_path / "charts")
        finally:
            server.terminate()
            server.wait(30)
    assert "Group: ar_perceiver_frozen" in runs or re.search(r"Group:.*ar_perceiver_frozen", runs, re.DOTALL)
    for name in ("mean", "vqav2", "okvqa", "textvqa", "coco"):
        assert f"score/{name}" in runs and f"score/{name}" in charts
    assert charts.index("score/mean") < charts.index("score/coco")
    assert "Score during training" in charts and charts.index("score/mean") < charts.index("Score during training")
