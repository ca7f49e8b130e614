"""The wheel works outside of the checkout: experiments and scales come with it, and it holds what the package reads."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
T03 = "idefics2/t03_architecture"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip would install, built without a network."""
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_it_holds_every_file_of_the_package_and_every_experiment(unpacked: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "vlm_ablate", "experiments"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("no git checkout")
    for name in listed.stdout.splitlines():
        there = name if name.startswith("vlm_ablate/") else f"vlm_ablate/{name}"
        assert (unpacked / there).is_file(), name


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("list", "experiments"), T03),
        (("list", "scales"), "laptop"),
        (("validate", T03, "--scale", "laptop"), "ok "),
        (("plan", T03, "--scale", "laptop", "--arms", "ar_linear_frozen"), "ar_linear_frozen"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_commands_find_what_came_with_it(unpacked: Path, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "COLUMNS": "200"}
    run = subprocess.run(
        [sys.executable, "-c", "import vlm_ablate; print(vlm_ablate.__file__)\nfrom vlm_ablate.cli import main; main()",
         *words], cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(unpacked)) and told in run.stdout + run.stderr
