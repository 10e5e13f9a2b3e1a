"""The notebook runs completely, and its outputs are committed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "docs" / "notebooks" / "quickstart.ipynb"
MOST_BYTES = 300_000


def code_cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(FILE.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_the_outputs_are_committed_and_small() -> None:
    cells = code_cells()
    assert FILE.stat().st_size < MOST_BYTES
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run all cells in order"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    # The losses, and grids of both domains: inputs, A → B → A, and B → A → B.
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) == 4
    for cell in cells:
        assert cell["outputs"] or not any(word in "".join(cell["source"]) for word in ("print(", "plt.show("))


@pytest.mark.slow
def test_every_cell_runs() -> None:
    # These packages are missing where only the pipeline runs.
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(FILE, as_version=4)
    # An exception in a cell is raised here, with its traceback.
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": FILE.parent}}).execute()
    executed = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in executed] == list(range(1, len(code_cells()) + 1))
    warned = [output.text for cell in executed for output in cell.outputs if output.get("name") == "stderr"]
    assert warned == []
