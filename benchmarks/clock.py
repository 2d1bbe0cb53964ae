"""Finding offset and frequency of another tagger's clock, beside fpfind.

20 s of 7 and 12 kcps, 0.3 ns jitter and 10 ppm, as measured in devices.md 11; of the clicks 2 kcps
are pairs (no rate of pairs is published for that case). fpfind is told what suits it: it looks at
offsets to +-200 ms and frequencies to +-20 ppm, we at +-1 s and +-100 ppm. It runs once, as a
program, since it takes half a minute; the time of a run that only starts is taken off.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bellbench.instruments import TagBatch
from bellbench.protocols.timing import ClockState, find_clock
from peers import installed
from side_by_side import Row, seconds, show

SECONDS, RATES, PAIRS = 20.0, (7e3, 12e3), 2e3
JITTER_PS, OFFSET_PS, FREQUENCY = 300.0, 1_234_567_890.0, 10e-6


def streams(
    pairs: float = PAIRS,
    offset_ps: float = OFFSET_PS,
    frequency: float = FREQUENCY,
    seed: int = 1,
) -> tuple[TagBatch, TagBatch]:
    rng = np.random.default_rng(seed)
    end = SECONDS * 1e12
    at = rng.uniform(0, end, rng.poisson(pairs * SECONDS))
    batches = []
    for party, rate in enumerate(RATES):
        alone = rng.uniform(0, end, rng.poisson((rate - pairs) * SECONDS))
        times = np.concatenate([at + rng.normal(0, JITTER_PS / 2**0.5, at.size), alone])
        times = times + party * (offset_ps + frequency * times)
        times = np.sort(np.rint(times[(times >= 0) & (times < end)]).astype(np.int64))
        times = np.minimum(times, int(end) - 1)
        batches.append(TagBatch(times, np.ones(times.size, np.int16), 0, int(end)))
    return batches[0], batches[1]


def errors(state: ClockState, offset_ps: float = OFFSET_PS) -> tuple[float, float]:
    """Return how far offset (ps) and frequency are from the truth."""
    truth = offset_ps + FREQUENCY * state.at_ps
    return state.offset_ps - truth, state.frequency - FREQUENCY


def _a1(path: Path, batch: TagBatch) -> None:
    ticks = (batch.times_ps.astype(np.uint64) * np.uint64(32)) // np.uint64(125)  # 1/256 ns
    words = (ticks << np.uint64(10)) | np.uint64(1)
    (words.view(np.uint32)).astype("<u4").tofile(path)


def fpfind(a: TagBatch, b: TagBatch) -> tuple[float, str] | None:
    """Return its seconds and its answer; None where it is not installed."""
    if not installed("fpfind"):
        return None
    spent = []
    answer = ""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("a.ts", "b.ts")]
        for path, batch in zip(paths, (a, b), strict=True):
            _a1(path, batch)
        work = ["-t", str(paths[0]), "-T", str(paths[1]), "-q23", "-P"]
        for arguments in (["-h"], work):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", "from fpfind.fpfind import main; main()", *arguments],
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
                cwd=folder,
            )
            spent.append(time.perf_counter() - start)
            answer = done.stdout.strip()
            if arguments is work and done.returncode:
                raise RuntimeError(f"fpfind failed: {done.stderr[-500:]}")
    return spent[1] - spent[0], answer


def rows() -> Iterator[Row]:
    """Yield clock recovery beside fpfind."""
    a, b = streams()
    state = find_clock(a, b)
    miss_ps, miss = errors(state)
    assert state.locked
    assert abs(miss_ps) < 100
    assert abs(miss) < 1e-9
    ours = seconds({"clock": lambda: find_clock(a, b)})["clock"]
    peer = fpfind(a, b)
    if peer is not None:
        frequency, offset = (float(x) for x in peer[1].split())
        assert abs(frequency - FREQUENCY) < 1e-9, peer[1]
        assert abs(offset * 1e3 - OFFSET_PS) < 1e5, peer[1]  # 13 ns off
        yield Row(
            "clock recovery, 20 s of 7 + 12 kcps, 10 ppm",
            ours,
            "fpfind",
            peer[0],
            "s",
            peer[0] / ours,
        )


if __name__ == "__main__":
    show(rows())
