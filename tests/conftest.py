"""For every test: a property may take its time on a loaded machine, and long files begin first."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from bellbench.configs import bundled
from hypothesis import settings

settings.register_profile("bellbench", deadline=None)
settings.load_profile("bellbench")

# Every world is a process of its own: without bytecode each would compile Bellbench anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole benches before single rooms: run in parallel, no long file is left for the end."""
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.parent != here)


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled metro files in a folder, their oven at its set point from the beginning.

    Twenty seconds of bench time less at each opening, for tests of something else than that.
    """
    folder = tmp_path_factory.mktemp("warm")

    def write(kind: str, name: str, pattern: str, new: str, to: str) -> None:
        text, found = re.subn(
            pattern, new, bundled(kind)[name].read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        assert found == 1, (name, pattern)
        (folder / to).write_text(text, encoding="utf-8")

    write("worlds", "metro", r"start: \S+ degC", "start: 40 degC", "world.yaml")
    for bench in ("metro", "metro_tdc1"):
        run = f"bbm92_{bench}"
        write("benches", bench, "^world: metro$", "world: world.yaml", f"{bench}.yaml")
        write("experiments", run, f"^bench: {bench}$", f"bench: {bench}.yaml", f"{run}.yaml")
    return folder


@pytest.fixture
def shorter() -> Callable[[str], str]:
    """Makes an example's long recordings shorter: noisier figures, the same steps."""

    def shorten(source: str) -> str:
        def less(call: re.Match[str]) -> str:
            seconds = float(call[2])
            return f"{call[1]}({seconds if seconds < 0.8 else 0.4 * seconds:.1f}"

        return re.sub(r"\b(count|record)\((\d+\.\d+)", less, source)

    return shorten


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are made, but not drawn: that takes longer than the run, and others test it."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
