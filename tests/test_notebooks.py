"""Every notebook in examples/ runs, and is committed as it ran.

One of them, shortened; ``-m slow`` runs all of them as they stand.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))
LIMIT_S = 120
OFTEN = {"memory_storage.ipynb"}

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


def read(notebook: Path) -> Any:
    import nbformat

    found = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(found)
    return found


def write(notebook: Any, path: Path) -> None:
    import nbformat

    nbformat.write(notebook, path)  # type: ignore[no-untyped-call]


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def kinds(cell: Any) -> set[str]:
    """What a cell shows: text, pictures."""
    return {
        kind
        for output in cell.outputs
        for kind in (output.get("data", {}) if "data" in output else [output.output_type])
        if kind != "text/plain"
    }


@pytest.mark.parametrize(
    ("notebook", "whole"),
    [
        *(
            pytest.param(path, False, id=f"{path.name}-shorter")
            for path in NOTEBOOKS
            if path.name in OFTEN
        ),
        *(pytest.param(path, True, id=path.name, marks=pytest.mark.slow) for path in NOTEBOOKS),
    ],
)
def test_a_notebook_runs_and_shows_what_its_committed_copy_shows(
    notebook: Path, whole: bool, tmp_path: Path, shorter: Callable[[str], str]
) -> None:
    run = read(notebook)
    if not whole:
        for cell in code_cells(run):
            cell.source = shorter(cell.source)
    asked = tmp_path / notebook.name
    write(run, asked)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(asked), str(LIMIT_S)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    committed, executed = (
        code_cells(read(path)) for path in (notebook, tmp_path / "executed.ipynb")
    )
    assert [cell.execution_count for cell in committed] == list(range(1, len(committed) + 1))
    # Kinds of outputs, not their numbers, which follow every change of the twins.
    assert [kinds(cell) for cell in executed] == [kinds(cell) for cell in committed]
    shown = set().union(*map(kinds, committed))
    assert shown == {"stream", "image/png"}, "saved as it ran, without an error"
    assert notebook.stat().st_size < 400_000
