"""Compiled inner loops from clicks to events. Import this module lazily: it loads numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...instruments.compiled import compiled

_BLIND = 255
Int16 = npt.NDArray[np.int16]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


@compiled
def group(
    times: Int64,
    which: Int16,
    outcomes: UInt8,
    window: int,
    dead_time: int,
    last: int,
    until: int,
    out: Int64,
    bases: UInt8,
    bits: UInt8,
    doubles: Int64,
) -> tuple[int, int, int, int]:
    """Make events of clicks.

    An event holds the clicks up to one window after its first, which lies before ``until``.

    Args:
        times: Sorted.
        which: Row of ``outcomes`` of each click.
        outcomes: 0 to 3.
        window: In ps.
        dead_time: In ps.
        last: The click before the first one.
        until: In ps.
        out: Times of the events, as long as ``times``; likewise the others.
        bases: 0 or 1; 255 where the event begins within the dead time after the click before it.
        bits: Outcomes; of several clicks that of the least row.
        doubles: Indices of events of several outcomes, complemented where these are of two bases.

    Returns:
        Number of events, of those without a basis, of clicks used up, and of doubles.
    """
    n, i, blind, double = 0, 0, 0, 0
    while i < times.size and times[i] < until:
        begin = times[i]
        before = last
        first = outcomes[which[i]]
        least, most = first, first
        last = max(last, begin)
        i += 1
        while i < times.size and times[i] - begin <= window:
            outcome = outcomes[which[i]]
            least, most = min(least, outcome), max(most, outcome)
            last = max(last, times[i])
            i += 1
        out[n] = begin
        unseen = begin < before + dead_time
        bases[n] = _BLIND if unseen else least >> 1
        bits[n] = least & 1
        blind += unseen
        if least != most:
            doubles[double] = n if least >> 1 == most >> 1 else ~n
            double += 1
        n += 1
    return n, blind, i, double


@compiled
def last_gap(a: Int64, b: Int64, until: int, window: int) -> tuple[int, int]:
    """Return how many of each come before the last gap wider than ``window`` before ``until``.

    Both are sorted, and none is later than ``until``; -1, -1 where there is no gap.
    """
    i, j, after = a.size, b.size, until
    while i > 0 or j > 0:
        latest = a[i - 1] if j == 0 or (i > 0 and a[i - 1] >= b[j - 1]) else b[j - 1]
        if after - latest > window:
            return i, j
        after = latest
        if i > 0 and a[i - 1] == latest:
            i -= 1
        else:
            j -= 1
    return -1, -1
