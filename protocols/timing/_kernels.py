"""Compiled inner loops on sorted int64 times. Import this module lazily: it loads numba.

A plain two-pointer loop guesses at every click which stream comes next, and every other guess
costs the processor some 15 cycles. :func:`_ranks` walks without a branch to guess, at three
places of the block in turn, so that one's loads hide behind the others'. All else is made of it:

- few pairs: the rank of each click's first partner, then round after round its next one;
- many pairs: each edge's ranks, whose sums tell the pairs between two edges, however many.

Differences of times are taken modulo 2**64 and compared unsigned: with times within 2**62 and
edges within 2**61 none can be mistaken.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ...instruments.compiled import compiled

Int16 = npt.NDArray[np.int16]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Work = tuple[Int64, UInt64, UInt64]

U64: Any = np.uint64
I64: Any = np.int64
_BLOCK = 4096
# Costs in ns: a step of the ranks' walk, a pair handed out, one whose bin is searched for.
_STEP_NS = 1.4
_PAIR_NS = 3.5
_LOG_PAIR_NS = 9.0
# (d + 0.5) / width taken in float64 lies off by less than 0.5 / width for differences up to here,
# so that its whole part is exact.
_EXACT = 1 << 50


@compiled
def _lower(b: Int64, x: int, low: int) -> int:
    """Return the first index from ``low`` on whose time is not below x; near ones are fast."""
    step = 1
    high = low
    while high < b.size and b[high] < x:
        low = high + 1
        high += step
        step *= 2
    high = min(high, b.size)
    while low < high:
        middle = (low + high) >> 1
        if b[middle] < x:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _walk(a: Int64, b: Int64, x: int, i: int, end: int, j: int, rank: Int64, keep: bool) -> int:
    size, total = U64(b.size), U64(0)
    while i < end:
        if keep:
            rank[i] = j
        if j < size and b[j] < a[i] + x:
            j += U64(1)
        else:
            total += j
            i += U64(1)
    result: int = total
    return result


@compiled
def _ranks(a: Int64, b: Int64, x: int, low: int, rank: Int64, keep: bool) -> tuple[int, int]:
    """Write how many of ``b`` lie below each ``a + x`` where ``keep`` says so.

    ``low`` of them or more lie below the first. Return how many do, and the sum over all of ``a``.
    Costs a step per click of a and of b, without a branch to guess.
    """
    one, size = U64(1), U64(b.size)
    end2 = U64(a.size)
    end0 = end2 // U64(3)
    end1 = end0 + end0
    i0, i1, i2 = U64(0), end0, end1
    sum0, sum1, sum2 = U64(0), U64(0), U64(0)
    first = _lower(b, a[0] + x, low)
    j0 = U64(first)
    j1 = U64(_lower(b, a[i1] + x, I64(j0)))
    j2 = U64(_lower(b, a[i2] + x, I64(j1)))
    while True:
        furthest = max(j0, max(j1, j2))  # j2, where the times are in order
        safe = min(min(end0 - i0, min(end1 - i1, end2 - i2)), size - furthest)
        if safe < U64(16):
            break
        if keep:
            for _ in range(safe):
                rank[i0], rank[i1], rank[i2] = j0, j1, j2
                late0 = U64(b[j0] < a[i0] + x)
                late1 = U64(b[j1] < a[i1] + x)
                late2 = U64(b[j2] < a[i2] + x)
                j0 += late0
                j1 += late1
                j2 += late2
                i0 += one - late0
                i1 += one - late1
                i2 += one - late2
        else:
            for _ in range(safe):
                late0 = U64(b[j0] < a[i0] + x)
                late1 = U64(b[j1] < a[i1] + x)
                late2 = U64(b[j2] < a[i2] + x)
                sum0 += j0 * (one - late0)
                sum1 += j1 * (one - late1)
                sum2 += j2 * (one - late2)
                j0 += late0
                j1 += late1
                j2 += late2
                i0 += one - late0
                i1 += one - late1
                i2 += one - late2
    sum0 += _walk(a, b, x, i0, end0, j0, rank, keep)
    sum1 += _walk(a, b, x, i1, end1, j1, rank, keep)
    sum2 += _walk(a, b, x, i2, end2, j2, rank, keep)
    return first, I64(sum0 + sum1 + sum2)


@compiled
def _work() -> Work:
    """Memory for a block: its clicks' ranks; which of them have a partner, and how far."""
    return (
        np.empty(_BLOCK, np.int64),
        np.empty(_BLOCK + 1, np.uint64),
        np.empty(_BLOCK + 1, np.uint64),
    )


@compiled
def _first(a: Int64, b: Int64, left: int, span: int, work: Work) -> int:
    """Find each click's first partner in [left, left + span); return how many have one.

    How far behind ``left`` they lie is in ``work[2]``.
    """
    rank, which, found = work
    last, width, n = U64(b.size - 1), U64(span), U64(0)
    for k in range(a.size):
        step = U64(b[min(U64(rank[k]), last)] - (a[k] + left))  # one that lies before is huge
        which[n], found[n] = k, step
        n += U64(step < width)
    count: int = I64(n)
    return count


@compiled
def _next(a: Int64, b: Int64, left: int, span: int, after: int, n: int, work: Work) -> int:
    """The same with the partner ``after`` places later of the ``n`` that had one before."""
    rank, which, found = work
    last, width, m = U64(b.size - 1), U64(span), U64(0)
    for i in range(n):
        k = which[i]
        partner = U64(rank[k]) + U64(after)
        step = U64(b[min(partner, last)] - (a[k] + left))
        which[m], found[m] = k, step
        m += U64(step < width) & U64(partner <= last)
    count: int = I64(m)
    return count


@compiled
def _density(a: Int64, b: Int64, low: int, high: int, rank: Int64) -> float:
    """Return pairs per click in [low, high), from a few; ``rank`` holds those of ``low``."""
    found = 0
    step = max(a.size // 4, 1)
    looks = 0
    for k in range(0, a.size, step):
        found += _lower(b, a[k] + high, rank[k]) - rank[k]
        looks += 1
    return found / looks


@compiled
def _hits(a: Int64, b: Int64, x: int, width: int, low: int) -> int:
    """Return for how many of ``a`` the first of ``b`` not below ``a + x`` lies within the width.

    ``low`` of them or more lie below the first. Walks as :func:`_ranks` does.
    """
    one, size, span = U64(1), U64(b.size), U64(width)
    end2 = U64(a.size)
    end0 = end2 // U64(3)
    end1 = end0 + end0
    i0, i1, i2 = U64(0), end0, end1
    hits0, hits1, hits2 = U64(0), U64(0), U64(0)
    j0 = U64(_lower(b, a[0] + x, low))
    j1 = U64(_lower(b, a[i1] + x, I64(j0)))
    j2 = U64(_lower(b, a[i2] + x, I64(j1)))
    while True:
        furthest = max(j0, max(j1, j2))
        safe = min(min(end0 - i0, min(end1 - i1, end2 - i2)), size - furthest)
        if safe < U64(16):
            break
        for _ in range(safe):
            begin0, begin1, begin2 = a[i0] + x, a[i1] + x, a[i2] + x
            next0, next1, next2 = b[j0], b[j1], b[j2]
            late0, late1, late2 = (
                U64(next0 < begin0),
                U64(next1 < begin1),
                U64(next2 < begin2),
            )
            hits0 += U64(U64(next0 - begin0) < span)
            hits1 += U64(U64(next1 - begin1) < span)
            hits2 += U64(U64(next2 - begin2) < span)
            j0 += late0
            j1 += late1
            j2 += late2
            i0 += one - late0
            i1 += one - late1
            i2 += one - late2
    hits = I64(hits0 + hits1 + hits2)
    for i, end, j in ((i0, end0, j0), (i1, end1, j1), (i2, end2, j2)):
        while i < end and j < size:
            if b[j] < a[i] + x:
                j += one
            else:
                hits += I64(U64(b[j] - (a[i] + x)) < span)
                i += one
    count: int = hits
    return count


@compiled
def count_window(a: Int64, b: Int64, left: int, width: int) -> int:
    """Return the number of pairs with b - a in [left, left + width)."""
    if not a.size:
        return 0
    begin = _lower(b, a[0] + left, 0)
    end = _lower(b, a[a.size - 1] + left + width, begin)
    if begin == end:
        return 0
    if float(width) * (end - begin) > 0.05 * (float(b[end - 1]) - float(b[begin])):
        rank = np.empty(0, np.int64)
        first, before = _ranks(a, b, left, begin, rank, False)
        _, until = _ranks(a, b, left + width, first, rank, False)
        return until - before
    total = _hits(a, b, left, width, begin)
    # Rarely more than one of b falls into a window: then two of b are close.
    early, late = 0, 0
    for j in range(begin + 1, end):
        if U64(b[j] - b[j - 1]) < U64(width):
            early = _lower(a, b[j] - width + 1 - left, early)
            late = _lower(a, b[j - 1] + 1 - left, max(early, late))
            total += late - early
    return total


@compiled
def count_windows(a: Int64, b: Int64, lows: Int64, width: int, counts: Int64) -> None:
    """Add to ``counts[k]`` every pair with b - a in [lows[k], lows[k] + width)."""
    if not b.size:
        return
    if lows.size == 1:
        counts[0] += count_window(a, b, lows[0], width)
        return
    work = _work()
    rank, found = work[0], work[2]
    left = lows.min()
    span = lows.max() + width - left
    low = 0
    for start in range(0, a.size, _BLOCK):
        block = a[start : start + _BLOCK]
        low, _ = _ranks(block, b, left, low, rank, True)
        pairs = block.size * _density(block, b, left, left + span, rank)
        walk = block.size + rank[block.size - 1] - rank[0]
        if pairs * (_PAIR_NS + 0.2 * lows.size) < 2 * lows.size * walk * _STEP_NS:
            n, after = _first(block, b, left, span, work), 0
            while n:
                for k in range(lows.size):
                    begin, size = U64(lows[k] - left), U64(width)
                    pairs = 0
                    for i in range(n):
                        pairs += found[i] - begin < size
                    counts[k] += pairs
                after += 1
                n = _next(block, b, left, span, after, n, work)
        else:
            at_left = rank[: block.size].sum()
            for k in range(lows.size):
                before, first = at_left, low
                if lows[k] != left:
                    first, before = _ranks(block, b, lows[k], low, rank, False)
                _, until = _ranks(block, b, lows[k] + width, first, rank, False)
                counts[k] += until - before


@compiled
def histogram(a: Int64, b: Int64, left: int, width: int, counts: Int64) -> None:
    """Add every difference b - a to its bin; bin k holds [left + k width, left + (k+1) width)."""
    if not b.size:
        return
    work = _work()
    rank, found = work[0], work[2]
    span = width * counts.size
    inverse = 1.0 / width
    low = 0
    for start in range(0, a.size, _BLOCK):
        block = a[start : start + _BLOCK]
        low, _ = _ranks(block, b, left, low, rank, True)
        pairs = block.size * _density(block, b, left, left + span, rank)
        walk = block.size + rank[block.size - 1] - rank[0]
        if pairs * _PAIR_NS < counts.size * walk * _STEP_NS:
            n, after = _first(block, b, left, span, work), 0
            while n:
                if span <= _EXACT:
                    for i in range(n):
                        counts[U64(I64((I64(found[i]) + 0.5) * inverse))] += 1
                else:
                    for i in range(n):
                        counts[I64(found[i]) // width] += 1
                after += 1
                n = _next(block, b, left, span, after, n, work)
        else:
            before, first = rank[: block.size].sum(), low
            for k in range(counts.size):
                first, until = _ranks(block, b, left + (k + 1) * width, first, rank, False)
                counts[k] += until - before
                before = until


@compiled
def count_between(a: Int64, b: Int64, edges: Int64, counts: Int64) -> None:
    """Add to ``counts[k]`` every pair with b - a in [edges[k], edges[k + 1])."""
    if not b.size:
        return
    work = _work()
    rank, found = work[0], work[2]
    left = edges[0]
    low = 0
    for start in range(0, a.size, _BLOCK):
        block = a[start : start + _BLOCK]
        low, _ = _ranks(block, b, left, low, rank, True)
        walk = block.size + rank[block.size - 1] - rank[0]
        # Bins from ``near`` on hold so many pairs that the ranks of their edges cost less.
        near, saved = 0, 0.0
        for k in range(1, counts.size + 1, 1 + counts.size // 32):
            pairs = block.size * _density(block, b, left, edges[k], rank)
            saving = k * walk * _STEP_NS - pairs * _LOG_PAIR_NS
            if saving > saved:
                near, saved = k, saving
        if near:
            span = edges[near] - left
            n, after = _first(block, b, left, span, work), 0
            while n:
                for i in range(n):
                    step = I64(found[i]) + left
                    below, above = 0, near
                    while above - below > 1:
                        middle = (below + above) >> 1
                        here = edges[middle] <= step
                        below = middle if here else below
                        above = above if here else middle
                    counts[below] += 1
                after += 1
                n = _next(block, b, left, span, after, n, work)
        if near < counts.size:
            first, before = _ranks(block, b, edges[near], low, rank, False)
            for k in range(near, counts.size):
                first, until = _ranks(block, b, edges[k + 1], first, rank, False)
                counts[k] += until - before
                before = until


@compiled
def differences(a: Int64, b: Int64, left: int, right: int, out: Int64) -> int:
    """Write every b - a in [left, right] to ``out``; return how many there are.

    Where ``out`` is too short, only the first ones are written. Their order is not that of time.
    """
    if not b.size:
        return 0
    work = _work()
    rank, found = work[0], work[2]
    span = right - left + 1
    total = 0
    low = 0
    for start in range(0, a.size, _BLOCK):
        block = a[start : start + _BLOCK]
        low, _ = _ranks(block, b, left, low, rank, True)
        n, after = _first(block, b, left, span, work), 0
        while n:
            for i in range(min(n, out.size - total)):
                out[total + i] = I64(found[i]) + left
            total += n
            after += 1
            n = _next(block, b, left, span, after, n, work)
    return total


@compiled
def deal(
    times: Int64,
    channels: Int16,
    slots: Int16,
    store: Int64,
    rows: Int64,
    begins: Int64,
    ends: Int64,
    taken: Int64,
) -> bool:
    """Append each time to its channel's row of ``store``; False if the rows are too short.

    Slot k's clicks lie from ``begins[k]`` to ``ends[k]`` in the row that begins at ``rows[k]``;
    they are moved to its beginning where there is no room behind them, or few.
    ``slots`` has an entry for each 16-bit channel; the last slot is for those not asked for, which
    are not kept. ``taken`` counts each slot's clicks.
    """
    size, last = times.size, ends.size - 1
    begins[last] = ends[last] = rows[last]
    for k in range(ends.size):
        length = ends[k] - begins[k]
        short = ends[k] + size >= rows[k + 1]
        if short and 2 * length + size >= rows[k + 1] - rows[k]:
            return False
        if short or length < 256:  # few: back to where the cache is warm
            for i in range(length):
                store[rows[k] + i] = store[begins[k] + i]
            begins[k], ends[k] = rows[k], rows[k] + length
    if not size:
        return True
    other = 0
    for i in range(size):
        other |= channels[i] ^ channels[0]
    if not other:
        slot = slots[U64(np.uint16(channels[0]))]
        end = U64(ends[slot])
        if slot < last:
            for i in range(size):
                store[end + U64(i)] = times[i]
            ends[slot] += size
            taken[slot] += size
    elif last == 2:  # of two channels: faster with their ends in registers
        end0, end1 = U64(ends[0]), U64(ends[1])
        for i in range(size):
            slot = slots[U64(np.uint16(channels[i]))]
            store[end0] = times[i]
            store[end1] = times[i]
            end0 += U64(slot == 0)
            end1 += U64(slot == 1)
        taken[0] += I64(end0) - ends[0]
        taken[1] += I64(end1) - ends[1]
        ends[0], ends[1] = end0, end1
    else:
        taken -= ends
        for i in range(size):
            slot = U64(slots[U64(np.uint16(channels[i]))])
            end = ends[slot]
            store[U64(end)] = times[i]
            ends[slot] = end + 1
        taken += ends
    return True


@compiled
def match(a: Int64, b: Int64, half: int, out_a: Int64, out_b: Int64) -> int:
    """Greedy one-to-one matching, earliest first; return the number of pairs."""
    i, j, found = U64(0), U64(0), U64(0)
    while i < U64(a.size) and j < U64(b.size):
        near_a = U64(b[j] <= a[i] + half)
        near_b = U64(b[j] >= a[i] - half)
        out_a[found], out_b[found] = i, j
        found += near_a & near_b
        i += near_b
        j += near_a
    found_pairs: int = I64(found)
    return found_pairs
