"""Two-channel coincidences and delay finding; the former beside numpy's searchsorted.

Run ``python benchmarks/timing.py [--json]`` where bellbench is installed.
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np
from bellbench.instruments import TagBatch
from bellbench.protocols.timing import CoincidenceCounter, find_channel_delays, match

SECONDS, RATE_A, RATE_B, PAIRS, WINDOW_PS = 4.0, 1e6, 5e5, 5e4, 300
OFFSET_PS = 3_210_000_000


def stream(seed: int) -> tuple[TagBatch, TagBatch]:
    rng = np.random.default_rng(seed)
    end = SECONDS * 1e12
    common = rng.uniform(0, end, rng.poisson(PAIRS * SECONDS))
    batches = []
    for rate, offset in ((RATE_A, 0), (RATE_B, OFFSET_PS)):
        alone = rng.uniform(0, end, rng.poisson((rate - PAIRS) * SECONDS))
        times = np.concatenate([common + rng.normal(0, 50, common.size), alone]) + offset
        times = np.sort(np.rint(times[(times >= 0) & (times < end)]).astype(np.int64))
        batches.append(TagBatch(times, np.ones(times.size, np.int16), 0, int(end)))
    return batches[0], batches[1]


def best(work: Callable[[], object], times: int = 5) -> float:
    work()  # compile, warm up
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return min(spent)


def main() -> None:
    a, b = stream(1)
    tags = len(a) + len(b)
    shifted = b.times_ps - OFFSET_PS
    half = WINDOW_PS // 2

    def counter() -> int:
        found = CoincidenceCounter([1], [1], WINDOW_PS, delays_b={1: OFFSET_PS})
        found.add(a, b)
        return int(found.finish().counts[0, 0])

    def searchsorted() -> int:
        right = np.searchsorted(shifted, a.times_ps + half, "right")
        return int((right - np.searchsorted(shifted, a.times_ps - half, "left")).sum())

    assert counter() == searchsorted()
    part_a, part_b = (batch.split(10**12)[0] for batch in (a, b))
    numpy_s, counter_s = best(searchsorted), best(counter)
    result = {
        "tags": tags,
        "numpy_searchsorted_mtags_per_s": tags / numpy_s / 1e6,
        "coincidence_counter_mtags_per_s": tags / counter_s / 1e6,
        "ratio": numpy_s / counter_s,
        "match_mtags_per_s": tags / best(lambda: match(a.times_ps, shifted, WINDOW_PS)) / 1e6,
        "find_channel_delays_s_per_s_of_data": best(lambda: find_channel_delays(part_a, part_b), 2),
    }
    if "--json" in sys.argv[1:]:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:40} {value:,.3g}")


if __name__ == "__main__":
    main()
