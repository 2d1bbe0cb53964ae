"""Every example runs as it stands, as a user would run it, and every notebook shows its results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LIMIT_S = 120

#: The seed of those that take one.
ENVIRONMENT = {"BELLBENCH_SEED": "1"}


def run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_runs(script: Path, tmp_path: Path) -> None:
    assert run(["-W", "error", str(script)], tmp_path), "an example says what it found"


def read(notebook: Path) -> Any:
    import nbformat

    found = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(found)
    return found


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


#: Executes the notebook of its argument with a kernel of its own.
RUN = """
import sys
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
# By TCP the kernel binds ports that were free a second ago.
transport = "tcp" if sys.platform == "win32" else "ipc"
manager = AsyncKernelManager(kernel_name="python3", transport=transport)
NotebookClient(notebook, km=manager, timeout=float(sys.argv[2])).execute()
nbformat.write(notebook, "executed.ipynb")
"""


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    run(["-c", RUN, str(notebook), str(LIMIT_S)], tmp_path)
    assert all(cell.execution_count for cell in code_cells(read(tmp_path / "executed.ipynb")))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_committed_as_it_ran_from_top_to_bottom(notebook: Path) -> None:
    cells = code_cells(read(notebook))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs, "run it and save it with its outputs"
    assert not [output for output in outputs if output.output_type == "error"]
