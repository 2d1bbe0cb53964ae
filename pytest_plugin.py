"""Tests of a bench: the same file passes on twins, on a recording, and on the table.

pytest loads this by itself where Bellbench is installed (``-p no:bellbench`` turns it off). It
offers the fixture ``lab``, the marker ``hardware`` and the options of ``pytest --help``, section
"bellbench". Nothing else of Bellbench is loaded before a test asks for ``lab``.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .lab import Lab

__all__ = ["bench", "lab"]

_FAILURE = pytest.StashKey[BaseException]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the options."""
    group = parser.getgroup("bellbench", "bellbench: tests of a bench")
    group.addoption(
        "--bench", metavar="FILE", help="bench of the fixture `lab`: a file or a bundled name"
    )
    group.addoption("--twin", action="store_true", help="open it on its twins (the default)")
    group.addoption("--hardware", action="store_true", help="open it on its instruments")
    group.addoption("--bench-seed", type=int, metavar="N", help="seed of the twins' world (1)")
    group.addoption(
        "--bench-record", metavar="DIR", help="record each test's traffic into DIR/TEST.jsonl"
    )
    group.addoption(
        "--bench-replay", metavar="DIR", help="replay each test from its recording in DIR"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; refuse options that contradict each other."""
    config.addinivalue_line(
        "markers", "hardware: needs real instruments; skipped without --hardware"
    )
    chosen = [
        option for option in ("--twin", "--hardware", "--bench-replay") if config.getoption(option)
    ]
    if len(chosen) > 1:
        raise pytest.UsageError(f"choose one of {', '.join(chosen)}")
    if config.getoption("--bench-record") and config.getoption("--bench-replay"):
        raise pytest.UsageError("choose one of --bench-record, --bench-replay")
    if config.getoption("--hardware") and not config.getoption("--bench"):
        raise pytest.UsageError("--hardware needs --bench FILE: which table is it?")
    if config.getoption("--hardware") and config.getoption("numprocesses", None):
        raise pytest.UsageError("there is one table: --hardware goes without -n of pytest-xdist")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs the table, unless it is there or was recorded."""
    if config.getoption("--hardware"):
        return
    skip = pytest.mark.skip(reason="needs real instruments: --bench FILE --hardware")
    folder = config.getoption("--bench-replay")
    for item in items:
        recorded = folder and (Path(folder) / _recording(item)).exists()
        if item.get_closest_marker("hardware") and not recorded:
            item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember how a test failed, so that its bench ends as after an error."""
    report = yield
    if report.failed and call.when == "call" and call.excinfo is not None:
        item.stash[_FAILURE] = call.excinfo.value
    return report


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest) -> str:
    """Bench of the fixture ``lab``: ``--bench``, else the bundled ``metro``.

    Override it in your ``conftest.py`` to give another default.
    """
    return str(request.config.getoption("--bench") or "metro")


@pytest.fixture
def lab(request: pytest.FixtureRequest, bench: str) -> Iterator[Lab]:
    """An open bench at its file's settings; every test opens and closes it anew.

    After a test that failed, every instrument is brought to its safe state.
    """
    from .bench import open_bench

    option = request.config.getoption
    file = _recording(request.node)
    replay = Path(option("--bench-replay")) / file if option("--bench-replay") else None
    record = None
    if option("--bench-record"):
        record = Path(option("--bench-record")) / file
        record.parent.mkdir(parents=True, exist_ok=True)
    twin = not option("--hardware")
    seed = None
    if twin:
        seed = 1 if option("--bench-seed") is None else option("--bench-seed")
    opened = open_bench(bench, twin=twin, seed=seed, record=record, replay=replay)
    yield opened
    failure = request.node.stash.get(_FAILURE, None)
    if failure is not None and replay is not None:
        opened.abandon(failure)  # there is nothing to be made safe
    else:
        opened.close(error=failure is not None)


def _recording(item: pytest.Item) -> str:
    """Name of the recording of ``folder/test_file.py::test_name[case]``."""
    test = item.nodeid.partition("::")[2]
    return re.sub(r"[^\w.-]+", "-", f"{item.path.stem}-{test}").strip("-") + ".jsonl"
