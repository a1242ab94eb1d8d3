"""The notebooks in examples/ run, show their results, and are committed without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

from videomem.experiments.notebook import NotebookResult

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
# Where the first notebook computes less in the fast check.
SMALLER = {"range(30)": "range(6)", "runs=6": "runs=2", "folds=6": "folds=2", "epochs=30": "epochs=1",
           'heads=("none", "attention", "gru", "gru_last")': 'heads=("none", "gru")'}  # fmt: skip


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    for cell in read(path).cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)
        assert cell.cell_type == "markdown" or set(cell.metadata) == set()


def test_the_first_notebook_goes_from_a_folder_to_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code, with less to compute."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    code = "\n".join(
        cell.source for cell in read(ROOT / "examples/order_in_my_videos.ipynb").cells if cell.cell_type == "code"
    )
    for text, smaller in SMALLER.items():
        assert code.count(text) == 1
        code = code.replace(text, smaller)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the notebook of this repository
    for result in (names["result"], names["sensitivity"]):
        assert isinstance(result, NotebookResult)
        assert "<table" in result._repr_html_() and result.plot()._repr_png_().startswith(b"\x89PNG")
    assert names["result"].verdict.sentence in names["result"]._repr_html_()
    assert repr(names["clips"]).startswith(f"Clips: {len(names['clips'])} clips of ")
    assert len(repr(names["clips"])) < 300
    labels = [text for text in names["sensitivity"].plot().axes[0].texts if text.get_position()[0] == 0]
    assert labels and all(label.get_bbox_patch() for label in labels), "the line of chance crosses the labels"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_offline_and_shows_tables_figures_and_progress(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    notebook = read(path)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    html = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any("<table" in text for text in html)
    assert any("<progress" in text and "training jobs" in text for text in html)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
