"""Compiled inner loops over many channels. Import this module lazily: it loads numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...instruments.compiled import compiled

Int16 = npt.NDArray[np.int16]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

_NEVER = -(1 << 62)
_MOST = 1 << 32  # tuples of one fold that one click may complete


@compiled
def arrange(
    waiting: Int64,
    waiting_which: Int16,
    times: Int64,
    channels: Int16,
    rows: Int16,
    shifts: Int64,
    out: Int64,
    which: Int16,
) -> tuple[int, bool]:
    """Put clicks less their delays behind those that wait; return how many, and if in order.

    ``rows`` has an entry for each 16-bit channel; the last row is for those not asked for. Clicks
    that have to go far back are left where they are, for a real sort.
    """
    n = waiting.size
    for k in range(n):
        out[k], which[k] = waiting[k], waiting_which[k]
    moves = 8 * times.size
    for i in range(times.size):
        row = rows[np.uint16(channels[i])]
        t = times[i] - shifts[row]
        out[n] = t
        which[n] = row
        if row == shifts.size - 1:
            continue
        k = n
        n += 1
        if k > 0 and out[k - 1] > t and moves > 0:
            while k > 0 and out[k - 1] > t:
                out[k] = out[k - 1]
                which[k] = which[k - 1]
                k -= 1
                moves -= 1
            out[k] = t
            which[k] = row
    return n, moves > 0


@compiled
def deal_lanes(
    times: Int64, which: Int16, lanes: Int64, out: Int64, out_which: Int16, sizes: Int64
) -> None:
    """Put each click behind the others of its lane, the row ``lanes[which]`` of ``out``."""
    for i in range(times.size):
        lane = lanes[which[i]]
        n = sizes[lane]
        out[lane, n] = times[i]
        out_which[lane, n] = which[i]
        sizes[lane] = n + 1


@compiled
def merge_lanes(
    times: Int64, which: Int16, begins: Int64, ends: Int64, out: Int64, out_which: Int16
) -> None:
    """Merge sorted ``times[begins[k]:ends[k]]``; of equal times the first lane goes first."""
    heads = begins.copy()
    lanes = heads.size
    for n in range(out.size):
        first = -1
        for k in range(lanes):
            if heads[k] < ends[k] and (first < 0 or times[heads[k]] < times[heads[first]]):
                first = k
        out[n] = times[heads[first]]
        out_which[n] = which[heads[first]]
        heads[first] += 1


@compiled
def count_folds(
    held: Int64,
    held_which: Int16,
    times: Int64,
    which: Int16,
    half: int,
    members: Int64,
    sizes: Int64,
    of_channel: Int64,
    begins: Int64,
    singles: Int64,
    pairs: Int64,
    folds: Int64,
) -> bool:
    """Count what each click completes with those up to ``half`` before it; False if too many.

    ``held`` are the clicks of before that may still be in reach. Fold f has channels
    ``members[f, :sizes[f]]``; those with channel c are ``of_channel[begins[c]:begins[c + 1]]``.
    """
    inside = np.zeros(begins.size - 1, np.int64)  # clicks within reach, per channel
    kinds = 0  # channels with one
    for k in range(held.size):
        kinds += inside[held_which[k]] == 0
        inside[held_which[k]] += 1
    fewest = inside.size  # other channels that the smallest fold needs
    for size in sizes:
        fewest = min(fewest, size - 1)
    oldest = 0
    low = 0
    n = times.size
    i = 0
    while i < n:
        since = times[i] - half
        c = which[i]
        while oldest < held.size and held[oldest] < since:
            inside[held_which[oldest]] -= 1
            kinds -= inside[held_which[oldest]] == 0
            oldest += 1
        while low < i and times[low] < since:
            inside[which[low]] -= 1
            kinds -= inside[which[low]] == 0
            low += 1
        if kinds == 0 and i + 2 < n and times[i + 1] + half < times[i + 2]:
            # Alone, or alone with the next: most clicks are.
            if times[i] + half < times[i + 1]:
                singles[c] += 1
                i += 1
                low = i
                continue
            if fewest > 1:
                other = which[i + 1]
                singles[c] += 1
                singles[other] += 1
                pairs[other, c] += 1
                i += 2
                low = i
                continue
        singles[c] += 1
        if kinds > 0:
            for other in range(inside.size):
                pairs[c, other] += inside[other]
            if kinds - (inside[c] > 0) >= fewest:
                for k in range(begins[c], begins[c + 1]):
                    f = of_channel[k]
                    tuples = 1
                    for j in range(sizes[f]):
                        other = members[f, j]
                        if other != c:
                            tuples *= inside[other]
                            if tuples == 0:
                                break
                            if tuples > _MOST:
                                return False
                    folds[f] += tuples
        kinds += inside[c] == 0
        inside[c] += 1
        i += 1
    return True


@compiled
def start_stop(
    times: Int64, which: Int16, same: bool, started: bool, last: int, width: int, counts: Int64
) -> tuple[bool, int]:
    """Put each click into the bin of its time since the last start; return that start.

    Starts are 0 in ``which``; with ``same``, every click starts after it has stopped.
    """
    seen = 0  # clicks looked at for starts: of equal times, a start comes first
    for i in range(times.size):
        t = times[i]
        while not same and seen < times.size and times[seen] <= t:
            if which[seen] == 0:
                started, last = True, times[seen]
            seen += 1
        if (which[i] != 0 or same) and started:
            step = (t - last) // width
            if step < counts.size:
                counts[step] += 1
        if same:
            started, last = True, t
    return started, last


@compiled
def stops_after(
    starts: Int64, times: Int64, which: Int16, same: bool, width: int, counts: Int64
) -> Int64:
    """Put each click into the bins of its times since all starts in reach; return those starts."""
    n = times.size
    span = width * counts.size
    queue = np.empty(starts.size + n, np.int64)
    head = tail = 0
    for start in starts:
        queue[tail] = start
        tail += 1
    pushed = 0  # clicks looked at for starts
    for i in range(n):
        t = times[i]
        while pushed < n and (pushed < i if same else times[pushed] <= t):
            if which[pushed] == 0:
                queue[tail] = times[pushed]
                tail += 1
            pushed += 1
        if which[i] != 0 or same:
            while head < tail and t - queue[head] >= span:
                head += 1
            for k in range(head, tail):
                counts[(t - queue[k]) // width] += 1
    while pushed < n:
        if which[pushed] == 0:
            queue[tail] = times[pushed]
            tail += 1
        pushed += 1
    return queue[head:tail].copy()


@compiled
def stops_in_two(
    starts: Int64, a: Int64, b: Int64, width_a: int, width_b: int, every: bool, counts: Int64
) -> None:
    """Count the two stops of each start: the first of each, or every two."""
    span_a, span_b = width_a * counts.shape[0], width_b * counts.shape[1]
    low_a = low_b = 0
    for start in starts:
        while low_a < a.size and a[low_a] < start:
            low_a += 1
        while low_b < b.size and b[low_b] < start:
            low_b += 1
        i = low_a
        while i < a.size and a[i] - start < span_a:
            j = low_b
            while j < b.size and b[j] - start < span_b:
                counts[(a[i] - start) // width_a, (b[j] - start) // width_b] += 1
                if not every:
                    break
                j += 1
            if not every:
                break
            i += 1


@compiled
def fold_phase(
    times: Int64,
    which: Int16,
    synced: bool,
    last: int,
    period: float,
    longest: float,
    counts: Int64,
    unsynced: Int64,
) -> tuple[bool, int]:
    """Put each click into the bin of its phase since the last sync; return that sync.

    Syncs are 0 in ``which``, the rows of ``counts`` are the others.
    """
    bins = counts.shape[1]
    seen = 0  # clicks looked at for syncs: of equal times, a sync comes first
    for i in range(times.size):
        t = times[i]
        while seen < times.size and times[seen] <= t:
            if which[seen] == 0:
                synced, last = True, times[seen]
            seen += 1
        if which[i] == 0:
            continue
        since = float(t - last)
        if not synced or since >= longest:
            unsynced[which[i] - 1] += 1
            continue
        turns = since / period
        # Rounding may bring the last bin's end to 1.
        counts[which[i] - 1, min(int((turns - np.floor(turns)) * bins), bins - 1)] += 1
    return synced, last


@compiled
def gather(times: Int64, heads: Int64, ends: Int64, horizons: Int64, half: int, out: Int64) -> int:
    """Match one click of each stream, earliest first; return the number of events.

    Stream s is ``times[heads[s]:ends[s]]``; what it brings later is not before ``horizons[s]``.
    ``heads`` move past what is decided; ``out`` gets the places of each event's clicks, and needs
    a row more than there can be.
    """
    streams = heads.size
    found = agreed = s = 0
    if streams == 2:  # without a branch to guess, and then only what is left
        i, j = heads[0], heads[1]
        while i < ends[0] and j < ends[1]:
            near_a = times[j] <= times[i] + half
            near_b = times[j] >= times[i] - half
            out[found, 0], out[found, 1] = i, j
            found += near_a & near_b
            i += near_b
            j += near_a
        heads[0], heads[1] = i, j
    latest = _NEVER
    while True:
        since = latest - half
        h, end = heads[s], ends[s]
        while h < end and times[h] < since:
            h += 1
        heads[s] = h
        t = times[h] if h < end else horizons[s]
        if t > latest:
            latest, agreed = t, 1
        else:
            agreed += 1
        if agreed == streams:  # no head is more than half a window before the latest
            for k in range(streams):
                if heads[k] == ends[k]:
                    return found
            for k in range(streams):
                out[found, k] = heads[k]
                heads[k] += 1
            found += 1
            latest, agreed = _NEVER, 0
        s += 1
        if s == streams:
            s = 0
