"""Two-channel coincidences and correlations beside plain two-pointer loops in numba.

The peers are the loops one writes by hand, on the same clicks with the same windows: two arrays
of sorted int64 times, already apart by channel (:func:`coincidences`, :func:`correlation`), or one
stream of two channels (:func:`coincidences_merged`). Ours go through the public classes, in
batches of 0.1 s.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from bellbench.instruments import TagBatch
from bellbench.protocols import timing
from side_by_side import Row, rates, seconds, show

Int16 = npt.NDArray[np.int16]
Int64 = npt.NDArray[np.int64]
Work = Callable[[], Any]

WINDOW_PS, DELAY_PS, BIN_PS, BINS = 1000, 25_000, 100, 1000


@numba.njit(cache=True, nogil=True)
def coincidences(a: Int64, b: Int64, delay: int, half: int) -> int:
    """All pairs with ``|b - a - delay| <= half``."""
    low = found = 0
    for i in range(a.size):
        centre = a[i] + delay
        while low < b.size and b[low] < centre - half:
            low += 1
        j = low
        while j < b.size and b[j] <= centre + half:
            found += 1
            j += 1
    return found


@numba.njit(cache=True, nogil=True)
def coincidences_merged(times: Int64, channels: Int16, delay: int, half: int) -> int:
    """The same between channels 1 and 2 of one stream."""
    low = found = 0
    for i in range(times.size):
        if channels[i] != 1:
            continue
        centre = times[i] + delay
        while low < times.size and times[low] < centre - half:
            low += 1
        j = low
        while j < times.size and times[j] <= centre + half:
            if channels[j] == 2:
                found += 1
            j += 1
    return found


@numba.njit(cache=True, nogil=True)
def match(a: Int64, b: Int64, half: int, out_a: Int64, out_b: Int64) -> int:
    """One-to-one, earliest first."""
    i = j = found = 0
    while i < a.size and j < b.size:
        step = b[j] - a[i]
        if step > half:
            i += 1
        elif step < -half:
            j += 1
        else:
            out_a[found], out_b[found] = i, j
            found += 1
            i += 1
            j += 1
    return found


@numba.njit(cache=True, nogil=True)
def correlation(a: Int64, b: Int64, left: int, width: int, counts: Int64) -> None:
    """Every difference b - a in its bin; bin k holds [left + k width, left + (k + 1) width)."""
    low = 0
    span = width * counts.size
    for i in range(a.size):
        begin = a[i] + left
        while low < b.size and b[low] < begin:
            low += 1
        j = low
        while j < b.size and b[j] - begin < span:
            counts[(b[j] - begin) // width] += 1
            j += 1


def streams(length_s: float, seed: int = 1) -> tuple[Int64, Int64]:
    """Clicks of devices.md 10: 2.5 M pairs/s, 40 %, 0.5 Mcps darks, 60 ps jitter, 25 ns later."""
    rng = np.random.default_rng(seed)
    end = length_s * 1e12
    pairs = rng.uniform(0, end, rng.poisson(2.5e6 * length_s))
    clicks = []
    for delay in (0, DELAY_PS):
        seen = pairs[rng.random(pairs.size) < 0.4]
        darks = rng.uniform(0, end, rng.poisson(0.5e6 * length_s))
        times = np.concatenate([seen + rng.normal(delay, 60, seen.size), darks])
        clicks.append(np.sort(np.rint(times[(times >= 0) & (times < end)]).astype(np.int64)))
    return clicks[0], clicks[1]


def batches(times: Int64, channels: Int16, every_ps: int = 10**11) -> list[TagBatch]:
    """The stream as a tagger hands it out."""
    cuts = range(0, int(times[-1]) + every_ps, every_ps)
    at = np.searchsorted(times, cuts)
    return [
        TagBatch(times[i:j], channels[i:j], begin, begin + every_ps)
        for i, j, begin in zip(at[:-1], at[1:], cuts[:-1], strict=True)
    ]


def work(length_s: float = 1.0) -> tuple[int, dict[str, tuple[Work, Work]]]:
    """Return the number of tags, and of each piece of work (ours, peer's), with equal answers."""
    a, b = streams(length_s)
    both = np.concatenate([a, b])
    order = np.argsort(both, kind="stable")
    merged = both[order]
    names = np.repeat(np.array([1, 2], np.int16), [a.size, b.size])[order]
    one = batches(merged, names)
    two = list(
        zip(
            batches(a, np.ones(a.size, np.int16)),
            batches(b, np.full(b.size, 2, np.int16)),
            strict=True,
        )
    )
    half = WINDOW_PS // 2
    shifts = [20 * k * WINDOW_PS for k in range(-10, 11) if k]

    def counted(parts: Any, shifts: Any = ()) -> list[int]:
        counter = timing.CoincidenceCounter(
            [1], [2], WINDOW_PS, delays_b={2: DELAY_PS}, shifts_ps=shifts
        )
        for part in parts:
            counter.add(*part)
        found = counter.finish()
        return [int(found.counts[0, 0]), *found.shifted[:, 0, 0].tolist()]

    def correlated(parts: Any) -> list[int]:
        histogram = timing.CorrelationHistogram(1, 2, BINS * BIN_PS, BIN_PS, delay_ps=DELAY_PS)
        for part in parts:
            histogram.add(*part)
        counts: list[int] = histogram.finish().counts.tolist()
        return counts

    def peer_correlated() -> list[int]:
        counts = np.zeros(BINS, np.int64)
        correlation(a, b, DELAY_PS - BINS * BIN_PS // 2, BIN_PS, counts)
        listed: list[int] = counts.tolist()
        return listed

    later = b - DELAY_PS
    out = np.empty((2, min(a.size, b.size)), np.int64)
    singly = [(part,) for part in one]
    of_peer = lambda: [coincidences(a, b, DELAY_PS, half)]  # noqa: E731
    return merged.size, {
        "coincidences, two streams": (lambda: counted(two), of_peer),
        "coincidences, one stream": (lambda: counted(singly), of_peer),
        "coincidences, one stream; peer on it too": (
            lambda: counted(singly),
            lambda: [coincidences_merged(merged, names, DELAY_PS, half)],
        ),
        "coincidences and 20 wrong delays": (
            lambda: counted(two, shifts),
            lambda: [coincidences(a, b, DELAY_PS + shift, half) for shift in (0, *shifts)],
        ),
        "one-to-one": (
            lambda: timing.match(a, later, WINDOW_PS)[0].size,
            lambda: match(a, later, half, out[0], out[1]),
        ),
        "correlation, 1000 bins, two streams": (lambda: correlated(two), peer_correlated),
        "correlation, 1000 bins, one stream": (lambda: correlated(singly), peer_correlated),
    }


def rows(length_s: float = 1.0) -> Iterator[Row]:
    """Yield the rows of the table."""
    tags, all_work = work(length_s)
    for name, (ours, peer) in all_work.items():
        assert ours() == peer(), name
        spent = seconds({"ours": ours, "numba loop by hand": peer}, 12)
        yield from rates(name, tags / 1e6, spent.pop("ours"), spent)


if __name__ == "__main__":
    show(rows())
