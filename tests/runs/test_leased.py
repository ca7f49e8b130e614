"""The folder whose lease is held is the one that is meant, also when another took its place meanwhile."""

from __future__ import annotations

from pathlib import Path

from vlm_ablate.lease import holder
from vlm_ablate.runs.folder import StageFolder, leased


def test_a_folder_that_is_another_once_it_is_leased_is_looked_for_again(tmp_path: Path) -> None:
    """As when the files that decide a stage changed while another process trained it."""
    first, second = StageFolder(tmp_path / "key"), StageFolder(tmp_path / "key.2")
    named = iter([first, second, second, second])
    with leased(lambda: next(named)) as folder:
        assert folder == second
        assert holder(second.root) is not None and holder(first.root) is None
    assert holder(second.root) is None
