"""Every script in examples/ runs as a user would run it.

Shortened, and only where neither a notebook that tells the same story nor the tests of the whole
experiment do the same steps; ``-m slow`` runs all of them as they stand.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
LIMIT_S = 120
OFTEN = {"twin_against_model.py"}


@pytest.mark.parametrize(
    ("script", "whole"),
    [
        *(
            pytest.param(path, False, id=f"{path.name}-shorter")
            for path in SCRIPTS
            if path.name in OFTEN
        ),
        *(pytest.param(path, True, id=path.name, marks=pytest.mark.slow) for path in SCRIPTS),
    ],
)
def test_a_script_runs(
    script: Path, whole: bool, tmp_path: Path, shorter: Callable[[str], str]
) -> None:
    if not whole:
        text = script.read_text(encoding="utf-8")
        script = tmp_path / script.name
        script.write_text(shorter(text), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), "--seed", "1"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout, "an example says what it found"
    assert list(tmp_path.rglob("*.png")), "and leaves a picture"
