"""Pages of the MLflow UI as a browser shows them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path

import pytest

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


def shown(address: str, profile: Path) -> str:
    """The text of a page once its scripts have run."""
    assert BROWSER is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=2400,2400"]
    command = [BROWSER, *options, f"--user-data-dir={profile}", "--virtual-time-budget=60000", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


def columns(page: str) -> list[str]:
    """The columns of a table of runs from left to right, by the number that each header carries.

    The headers' order in the text is that in which the grid drew them, which is not that of the screen.
    """
    cells = [tag for tag in re.findall(r'<div[^>]*role="columnheader"[^>]*>', page) if "ag-header-cell " in tag]
    numbered = [(int(_attribute(tag, "aria-colindex")), unescape(_attribute(tag, "col-id"))) for tag in cells]
    return [name for _, name in sorted(numbered)]


def _attribute(tag: str, name: str) -> str:
    found = re.search(rf'{name}="([^"]*)"', tag)
    assert found is not None, f"{name} is not in {tag}"
    return found[1]


@contextmanager
def served(home: str, port: int) -> Iterator[dict[str, str]]:
    """`vlm-ablate ui` of a home; the addresses that it prints first: runs, charts, compare."""
    command = [sys.executable, "-m", "vlm_ablate", "ui", "--home", home, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            links: dict[str, str] = {}
            for line in server.stdout:
                if found := re.match(r"  (\w+) +(http\S+)", line):
                    links[found[1]] = found[2]
                if "compare" in links:
                    break
            yield links
        finally:
            server.terminate()
            server.wait(120)
