"""Two pieces of work in one run: the rows of the tables that the benchmarks print."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """Our figure beside a peer's; ``ratio`` above 1 means that we are faster.

    A row without a peer has peer ``""``, and None for its value and the ratio. Reconciliation also
    has the efficiency f = leak / (n h(Q)) and the frames that failed, of ``frames``, on both sides;
    None where that means nothing or was not counted.
    """

    work: str
    ours: float
    peer: str
    peer_value: float | None
    unit: str
    ratio: float | None
    f: float | None = None
    failures: int | None = None
    frames: int | None = None
    peer_f: float | None = None
    peer_failures: int | None = None
    peer_frames: int | None = None


def seconds(
    works: Mapping[str, Callable[[], object]],
    times: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the least time of each by the clock, after one call to compile and warm up.

    They take turns, so that a busy machine slows all of them. With ``time.process_time`` only
    what this process computed counts, on all of its threads.
    """
    for work in works.values():
        work()
    least = dict.fromkeys(works, float("inf"))
    for _ in range(times):
        for name, work in works.items():
            start = clock()
            work()
            least[name] = min(least[name], clock() - start)
    return least


def rates(
    work: str, amount: float, ours: float, peers: Mapping[str, float], unit: str = "Mtags/s"
) -> list[Row]:
    """Return the rows of an amount (in millions) done in so many seconds by us and by each peer."""
    return [
        Row(work, amount / ours, peer, amount / spent, unit, spent / ours)
        for peer, spent in peers.items()
    ]


def show(rows: Iterable[Row]) -> None:
    """Print the rows as they come, or all as JSON where the command line says ``--json``."""
    if "--json" in sys.argv[1:]:
        known = [{k: v for k, v in asdict(row).items() if v is not None} for row in rows]
        print(json.dumps(known, indent=1))
        return
    print(f"{'work':44} {'ours':>8}  {'peer':>8} {'unit':9} {'ratio':>6}  beside")
    for row in rows:
        figures = f"{row.ours:8.3g}  {_figure(row.peer_value, 8)} {row.unit:9}"
        notes = _quality(row.f, row.failures, row.frames)
        beside = _quality(row.peer_f, row.peer_failures, row.peer_frames)
        if beside:
            notes = f"{notes}; theirs: {beside}"
        line = f"{row.work:44} {figures} {_figure(row.ratio, 6)}  {row.peer}"
        print(f"{line}  [{notes}]" if notes else line.rstrip(), flush=True)


def _figure(value: float | None, width: int) -> str:
    return " " * width if value is None else f"{value:{width}.3g}"


def _quality(f: float | None, failures: int | None, frames: int | None) -> str:
    parts = [] if f is None else [f"f {f:.3f}"]
    if failures is not None:
        parts.append(f"{failures} failed" if frames is None else f"{failures}/{frames} failed")
    return ", ".join(parts)
