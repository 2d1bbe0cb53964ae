"""Other programs at the same work on the same file; each is skipped, and said, where it is not
installed.

They come with ``pip install ptufile phconvert tttrlib snapi fpfind``.
"""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def installed(*modules: str) -> bool:
    """Say which are missing on the standard error; return whether all are there."""
    for module in modules:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                importlib.import_module(module)
        except ImportError:
            print(f"skipped: {module} is not installed", file=sys.stderr)
            return False
    return True


def outside(module: str) -> Any:
    """Import a package that a file of this folder would hide, as qkd.py does PyPI's qkd."""
    here, path = Path(__file__).parent.resolve(), sys.path
    sys.path = [folder for folder in path if Path(folder or ".").resolve() != here]
    try:
        return importlib.import_module(module)
    finally:
        sys.path = path


def ptufile_decode(path: Path) -> Callable[[], object] | None:
    if not installed("ptufile"):
        return None
    import ptufile

    def decode() -> object:
        with ptufile.PtuFile(path) as file:
            return file.decode_records()

    return decode


def phconvert_load(path: Path) -> Callable[[], object] | None:
    if not installed("phconvert"):
        return None
    from phconvert.pqreader import load_ptu

    return lambda: load_ptu(str(path))


def tttrlib_read(path: Path) -> Callable[[], object] | None:
    if not installed("tttrlib"):
        return None
    import tttrlib

    return lambda: tttrlib.TTTR(str(path), "PTU")


def tttrlib_correlate(path: Path, bins: int) -> Callable[[], object] | None:
    """Correlation of the file's first two channels with so many linear bins, the file read."""
    if not installed("tttrlib"):
        return None
    import tttrlib

    data = tttrlib.TTTR(str(path), "PTU")
    channels = [int(c) for c in data.get_used_routing_channels()]

    def correlate() -> object:
        return tttrlib.Correlator(
            tttr=data, channels=([channels[0]], [channels[1]]), n_bins=bins, n_casc=1
        ).correlation

    return correlate


def snapi(path: Path, work: str, **options: float) -> tuple[float, Any] | None:
    """Return seconds and answer of PicoQuant's engine on a file; it runs in a process of its own.

    Args:
        path: PTU file.
        work: ``unfold`` (answer: clicks), ``g2`` (answer: pairs in the bins) or ``coincidences``
            (answer: their number).
        options: ``window_ps`` (full width), ``bin_ps``, ``delay_ps`` (of channel 2 after 1),
            ``records`` (of the file, and of what is made of them).
    """
    if not installed("snAPI"):
        return None
    with tempfile.TemporaryDirectory() as home:  # it keeps logs in the home folder
        done = subprocess.run(
            [sys.executable, "-P", __file__, str(path), work, json.dumps(options)],
            env={**os.environ, "HOME": home},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    answers = [line for line in done.stdout.splitlines() if line.startswith("answer ")]
    if not answers:
        print(f"skipped: snAPI did not answer for {work}: {done.stderr[-300:]}", file=sys.stderr)
        return None
    spent, answer = json.loads(answers[-1].removeprefix("answer "))
    return spent, answer


def _snapi_child(path: str, work: str, options: dict[str, float]) -> None:
    from snAPI.Main import MeasMode, snAPI

    engine = snAPI()
    engine.getFileDevice(path)
    engine.initDevice(MeasMode.T2)
    first, second = 2, 3  # it counts from the sync input, 0
    if options.get("delay_ps"):  # delays cannot be negative: input 1 waits
        first = engine.manipulators.delay(first, options["delay_ps"])
    answer: float
    if work == "g2":
        engine.correlation.setG2Parameters(
            first, second, options["window_ps"] / 2, options["bin_ps"], False
        )
        start = time.perf_counter()
        engine.correlation.measure(1000, True)
        counts, _ = engine.correlation.getG2Data()
        answer = float(np.sum(counts))
        spent = time.perf_counter() - start
    else:
        wanted = None
        if work == "coincidences":
            half = options["window_ps"] / 2  # its window is what a click may lie away
            wanted = engine.manipulators.coincidence([first, second], half)
        size = int(options["records"])
        start = time.perf_counter()
        engine.unfold.measure(1000, size, True)
        _, channels = engine.unfold.getData()
        spent = time.perf_counter() - start
        answer = int(np.sum(channels < 255 if wanted is None else channels == wanted))
    print("\nanswer " + json.dumps([spent, answer]), flush=True)
    os._exit(0)


if __name__ == "__main__":
    _snapi_child(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
