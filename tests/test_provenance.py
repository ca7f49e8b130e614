"""What code computed a run is told: a checkout by its commit, an installed package by its version."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_ablate import provenance

NAME = ["-c", "user.name=A", "-c", "user.email=a@example.org"]


def revision(folder: Path) -> str:
    """What a copy of the package in that folder tells."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from vlm_ablate.provenance import git_revision as found"
    command = [sys.executable, "-c", f"{code}; print(found())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *NAME, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")
def test_a_checkout_is_told_by_its_commit_and_whether_the_package_was_changed(
    tmp_path: Path,
) -> None:
    (tmp_path / "vlm_ablate").mkdir()
    (tmp_path / "vlm_ablate" / "__init__.py").touch()
    shutil.copy(provenance.__file__, tmp_path / "vlm_ablate")
    (tmp_path / "notes.md").write_text("first\n")
    assert revision(tmp_path).startswith("release")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert revision(tmp_path) == commit
    (tmp_path / "notes.md").write_text("second\n")
    assert revision(tmp_path) == commit
    with (tmp_path / "vlm_ablate" / "provenance.py").open("a") as file:
        file.write("# changed\n")
    assert revision(tmp_path) == f"{commit}+changes"
