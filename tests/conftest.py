"""For every test: a property may take its time on a loaded machine, and long files begin first."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from bellbench.configs import bundled
from hypothesis import settings

settings.register_profile("bellbench", deadline=None)
settings.load_profile("bellbench")

# What tests start hears signals, also where they themselves run under nohup or in the background.
for _name, _handler in (("SIGHUP", signal.SIG_DFL), ("SIGINT", signal.default_int_handler)):
    if signal.getsignal(getattr(signal, _name, signal.SIGTERM)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _name), _handler)

# Every world is a process of its own: without bytecode each would compile Bellbench anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole benches before single rooms: run in parallel, no long file is left for the end."""
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.parent != here)


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundled benches in a folder, oven and laser diode at their set points from the beginning.

    Up to twenty seconds of bench time less at each opening, for tests of something else than that.
    """
    folder = tmp_path_factory.mktemp("warm")

    def write(kind: str, name: str, to: str, *changes: tuple[str, str]) -> None:
        text = bundled(kind)[name].read_text(encoding="utf-8")
        for pattern, new in changes:
            text, found = re.subn(pattern, new, text, flags=re.MULTILINE)
            assert found == 1, (name, pattern)
        (folder / to).write_text(text, encoding="utf-8")

    oven = (r"start: \S+ degC", "start: 40 degC")
    diode = ("^    kind: pump_laser$", r"\g<0>\n    tec_time_constant: 0.1 s")
    write("worlds", "metro", "world.yaml", oven, diode)
    for bench in ("metro", "metro_tdc1"):
        run = f"bbm92_{bench}"
        write("benches", bench, f"{bench}.yaml", ("^world: metro$", "world: world.yaml"))
        write("experiments", run, f"{run}.yaml", (f"^bench: {bench}$", f"bench: {bench}.yaml"))
    for name in ("swap", "memory_link"):
        write("worlds", name, f"{name}_world.yaml", oven, diode)
        to = f"world: {name}_world.yaml"
        write("benches", name, f"{name}.yaml", (f"^world: {name}$", to))
    return folder


@pytest.fixture
def shorter() -> Callable[[str], str]:
    """Makes an example's long recordings shorter: noisier figures, the same steps."""

    def shorten(source: str) -> str:
        def less(call: re.Match[str]) -> str:
            seconds = float(call[2])
            share = 0.7 if call[1] == "follow" else 0.4 if seconds >= 0.8 else 1.0
            return f"{call[1]}({share * seconds:.1f}"

        return re.sub(r"\b(count|record|follow)\((\d+\.\d+)", less, source)

    return shorten


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are made, but not drawn: that takes longer than the run, and others test it."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
