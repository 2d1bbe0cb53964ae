"""Two pieces of work in one run: the rows of the tables that the benchmarks print."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """Our figure beside a peer's; ``ratio`` above 1 means that we are faster."""

    work: str
    ours: float
    peer: str
    peer_value: float
    unit: str
    ratio: float


def seconds(works: Mapping[str, Callable[[], object]], times: int = 5) -> dict[str, float]:
    """Return the least wall time of each, after one call to compile and warm up.

    They take turns, so that a busy machine slows all of them.
    """
    for work in works.values():
        work()
    least = dict.fromkeys(works, float("inf"))
    for _ in range(times):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            least[name] = min(least[name], time.perf_counter() - start)
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
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    print(f"{'work':44} {'ours':>8}  {'peer':>8} {'unit':9} {'ratio':>6}  beside")
    for row in rows:
        figures = f"{row.ours:8.3g}  {row.peer_value:8.3g} {row.unit:9} {row.ratio:6.3g}"
        print(f"{row.work:44} {figures}  {row.peer}", flush=True)
