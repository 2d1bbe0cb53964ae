"""Compiled loops of virtual channels and counts over time. Import lazily: it loads numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...instruments.compiled import compiled

Bools = npt.NDArray[np.bool_]
Int16 = npt.NDArray[np.int16]
Int64 = npt.NDArray[np.int64]


@compiled
def alive(
    times: Int64,
    channels: Int16,
    index: Int16,
    begins: Int64,
    ends: Int64,
    floor: int,
    out: Int64,
    which: Int16,
    floors: Int64,
    at: Int64,
) -> int:
    """Pick the clicks of the channels in ``index`` (-1: none) that lie outside losses.

    Of each: time, index, end of the last loss before it, place in the batch. Returns how many.
    """
    found = 0
    lost = 0
    for i in range(times.size):
        k = index[channels[i] & 0xFFFF]
        while lost < begins.size and begins[lost] <= times[i]:
            floor = max(floor, ends[lost])
            lost += 1
        # Written in any case, kept or not: a branch would be guessed wrong too often.
        out[found] = times[i]
        which[found] = k
        floors[found] = floor
        at[found] = i
        found += (k >= 0) & (times[i] >= floor)
    return found


@compiled
def merge(
    times: Int64,
    channels: Int16,
    skip: int,
    made: Int64,
    label: int,
    out_times: Int64,
    out_channels: Int16,
) -> int:
    """Merge made clicks into a batch less its channel ``skip``; return how many there are."""
    n = 0
    i = 0
    j = 0
    while i < times.size and j < made.size:
        first = made[j] < times[i]
        out_times[n] = made[j] if first else times[i]
        out_channels[n] = label if first else channels[i]
        n += first | (channels[i] != skip)
        j += first
        i += not first
    while i < times.size:
        out_times[n] = times[i]
        out_channels[n] = channels[i]
        n += channels[i] != skip
        i += 1
    while j < made.size:
        out_times[n] = made[j]
        out_channels[n] = label
        n += 1
        j += 1
    return n


@compiled
def every_nth(times: Int64, floors: Int64, divisor: int, state: Int64, out: Int64) -> int:
    """Write every n-th click; state: clicks since the last one written, the last floor."""
    found = 0
    count = state[0]
    floor = state[1]
    for i in range(times.size):
        if floors[i] > floor:
            floor = floors[i]
            count = 0
        count += 1
        if count == divisor:
            out[found] = times[i]
            found += 1
            count = 0
    state[0] = count
    state[1] = floor
    return found


@compiled
def dead_time(
    times: Int64,
    which: Int16,
    floors: Int64,
    at: Int64,
    dead: Int64,
    extended: bool,
    last: Int64,
    keep: Bools,
) -> None:
    """Clear ``keep`` at clicks in their channel's dead time; ``last`` is what it counts from."""
    for i in range(times.size):
        k = which[i]
        blind = last[k] >= floors[i] and times[i] - last[k] < dead[k]
        if blind:
            keep[at[i]] = False
        if extended or not blind:
            last[k] = times[i]


@compiled
def gate(times: Int64, which: Int16, begins: Int64, ends: Int64, state: Int64, out: Int64) -> int:
    """Write clicks (0) between starts (1) and stops (2), [start, stop); losses close the gate.

    State: whether it is open, since when, for how long it was before.
    """
    found = 0
    is_open = state[0]
    since = state[1]
    total = state[2]
    lost = 0
    i = 0
    while i < times.size or lost < begins.size:
        if lost < begins.size and (i >= times.size or begins[lost] <= times[i]):
            if is_open and ends[lost] >= since:
                total += max(begins[lost] - since, 0)
                is_open = 0
            lost += 1
            continue
        t = times[i]
        starts = False
        stops = False
        n = i
        while n < times.size and times[n] == t:
            starts = starts or which[n] == 1
            stops = stops or which[n] == 2
            n += 1
        if stops:
            if is_open:
                total += t - since
            is_open = 0
        elif starts and not is_open:
            is_open = 1
            since = t
        while i < n:
            if is_open and which[i] == 0:
                out[found] = t
                found += 1
            i += 1
    state[0] = is_open
    state[1] = since
    state[2] = total
    return found


@compiled
def coincide(
    times: Int64,
    which: Int16,
    floors: Int64,
    used: Bools,
    fold: int,
    half: int,
    stamp: int,
    out: Int64,
) -> int:
    """One-to-one coincidences of ``fold`` channels, earliest first; marks the clicks used up.

    Of the earliest free click of each channel: if all lie within ``half`` of each other they are
    one coincidence, otherwise the first of them can have none and is used up.
    """
    found = 0
    heads = np.full(fold, -1, np.int64)
    for k in range(fold):
        heads[k] = _next(which, k, 0)
    while True:
        first = 0
        last = 0
        for k in range(fold):
            if heads[k] >= times.size:
                return found
            if heads[k] < heads[first]:
                first = k
            if heads[k] > heads[last]:
                last = k
        begin, end = times[heads[first]], times[heads[last]]
        if end - begin > half or floors[heads[last]] > begin:
            used[heads[first]] = True
            heads[first] = _next(which, first, heads[first] + 1)
            continue
        if stamp == 0:
            at = begin
        elif stamp == 1:
            at = end
        else:
            total = 0
            for k in range(fold):
                total += times[heads[k]] - begin
            at = begin + total // fold
        out[found] = at
        found += 1
        for k in range(fold):
            used[heads[k]] = True
            heads[k] = _next(which, k, heads[k] + 1)


@compiled
def _next(which: Int16, k: int, i: int) -> int:
    while i < which.size and which[i] != k:
        i += 1
    return i


@compiled
def count_bins(times: Int64, which: Int16, begin: int, width: int, counts: Int64) -> None:
    """Add each click to ``counts[bin, which]``, bin 0 beginning at ``begin``."""
    k = 0
    end = begin + width
    for i in range(times.size):
        if times[i] >= end:
            k = (times[i] - begin) // width
            end = begin + (k + 1) * width
        counts[k, which[i]] += 1


@compiled
def heralded(
    heralds: Int64, c: Int64, d: Int64, half: int, state: Int64, good: Bools, tally: Int64
) -> None:
    """Count heralds whose gates do not overlap, and those with clicks: trials, c, d, both.

    State: the last herald that counted.
    """
    i = 0
    j = 0
    last = state[0]
    for n in range(heralds.size):
        h = heralds[n]
        if not good[n] or h - last <= 2 * half:
            continue
        last = h
        while i < c.size and c[i] < h - half:
            i += 1
        while j < d.size and d[j] < h - half:
            j += 1
        in_c = i < c.size and c[i] <= h + half
        in_d = j < d.size and d[j] <= h + half
        tally[0] += 1
        tally[1] += in_c
        tally[2] += in_d
        tally[3] += in_c and in_d
    state[0] = last
