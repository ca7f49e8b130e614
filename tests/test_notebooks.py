"""Every notebook runs from top to bottom, as it is committed: without outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
MATERIAL = {"01_first_ablation", "03_add_a_connector"}
"""These train, so they need the pictures of the `offline` extra."""


@pytest.fixture
def own_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store_template: Path) -> None:
    """Whatever a notebook writes goes into the test's folder; a kernel that trains uses one thread and no hub."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VLM_ABLATE_STORE_TEMPLATE", str(store_template))


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.end_to_end
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("own_machine")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, request: pytest.FixtureRequest) -> None:
    if path.stem in MATERIAL:
        request.getfixturevalue("offline_material")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=800, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
