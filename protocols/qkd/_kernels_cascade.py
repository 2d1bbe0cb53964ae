"""Compiled inner loops of Cascade. Import this module lazily: it loads numba.

Bitmaps are int64 words, bit ``m % 64`` of word ``m // 64``. What a corrector knows of frame f
and pass p lies in four of them, side by side in ``state[f, p, word]``: its own bits in the order
of the pass; the boundaries whose prefix parity is known; those parities, of the reference; and at
the start of each block between two neighbouring known boundaries, whether it holds an odd number
of errors. ``index[f, p]`` tells which words of the last are not zero. By position in the frame,
``sure[f]`` are the bits that parities fix and ``flips[f]`` those that were corrected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
import numpy.typing as npt
from numba.extending import intrinsic

from ...instruments.compiled import compiled

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.uint16]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

_OWN, _KNOWN, _RIGHT, _ODD, _SURE = 0, 1, 2, 3, 4
_SMALL = 8  # blocks up to this size are looked into
I64: Any = np.int64
U64: Any = np.uint64


def _instruction(name: str) -> Callable[[int], int]:
    """One instruction of the processor that numpy has no name for."""

    def typed(_: Any, x: Any) -> Any:
        def emit(context: Any, builder: Any, _: Any, args: Any) -> Any:
            # The others need not define what they make of zero.
            flag = () if name == "ctpop" else (context.get_constant(numba.types.boolean, True),)
            return getattr(builder, name)(args[0], *flag)

        return numba.types.int64(numba.types.int64), emit

    return cast(Callable[[int], int], intrinsic(typed))


_ones = _instruction("ctpop")
_trailing = _instruction("cttz")
_leading = _instruction("ctlz")


@compiled
def shuffle(words: Words, order: Places) -> None:
    """Fisher-Yates: swap place i with place ``half_i (i + 1) >> 32``, from the last i down to 1.

    ``half_i`` is the low half of word i // 2 where i is even, else the high half.
    """
    for i in range(order.size):
        order[i] = i
    for i in range(order.size - 1, 0, -1):
        half = words[i >> 1] >> U64(32) if i & 1 else words[i >> 1] & U64(0xFFFFFFFF)
        j = I64((half * U64(i + 1)) >> U64(32))
        order[i], order[j] = order[j], order[i]


@compiled
def spread(rows: Words, orders: Places, out: Words) -> None:
    """Lay each frame's bits out in the order of each pass.

    Args:
        rows: Bit i of word j of row g is place j of frame 64 g + i.
        orders: Shape (passes, length): the place that comes k-th.
        out: Shape (frames, passes, words); bit k % 64 of word k // 64.
    """
    passes, length = orders.shape
    tile = np.zeros(64, np.uint64)
    for g in range(rows.shape[0]):
        for p in range(passes):
            for first in range(0, length, 64):
                count = min(64, length - first)
                for i in range(count):
                    tile[i] = rows[g, orders[p, first + i]]
                tile[count:] = U64(0)
                # Transpose 64 x 64 bits by halves.
                half, mask = 32, U64(0x00000000FFFFFFFF)
                while half:
                    for k in range(0, 64, 2 * half):
                        for i in range(k, k + half):
                            t = ((tile[i] >> U64(half)) ^ tile[i + half]) & mask
                            tile[i] ^= t << U64(half)
                            tile[i + half] ^= t
                    half >>= 1
                    mask ^= mask << U64(half)
                for i in range(min(64, out.shape[0] - 64 * g)):
                    out[64 * g + i, p, first >> 6] = tile[i]


@compiled
def prefixes(table: Int64) -> None:
    """Replace bit m of each row by the parity of the bits before m."""
    for f in range(table.shape[0]):
        for p in range(table.shape[1]):
            carry = I64(0)
            for w in range(table.shape[2]):
                x = table[f, p, w, 0]
                for shift in (1, 2, 4, 8, 16, 32):
                    x ^= x << shift
                x ^= -carry
                table[f, p, w, 0] = (x << 1) | carry
                carry = (x >> 63) & 1


@compiled
def answer(wanted: Int64, length: int, table: Int64, begun: Int64, parities: Bytes) -> int:
    """Look prefix parities up; return -1, or the index of the first that may not be asked.

    ``table[f, p, word]`` holds the prefix parities and which were asked for.
    """
    frames, passes = table.shape[0], table.shape[1]
    last, end = I64(-1), I64(0)
    f = p = base = I64(0)
    for i in range(wanted.size):
        x = wanted[i]
        if x <= last or x >= frames * passes * (length + 1):
            return i
        last = x
        if x >= end:
            row = x // (length + 1)
            base = row * (length + 1)
            end = base + length + 1
            f, p = row // passes, row % passes
            if p > begun[f]:
                return i
            begun[f] = max(begun[f], p + 1)
        m = x - base
        bit = I64(1) << (m & 63)
        if m == 0 or (m == length and p > 0) or table[f, p, m >> 6, 1] & bit:
            return i
        table[f, p, m >> 6, 1] |= bit
        parities[i] = (table[f, p, m >> 6, 0] >> (m & 63)) & 1
    return -1


@compiled
def _before(state: Int64, of_p: int, m: int) -> int:
    """Return the last known boundary up to m; 0 is one."""
    w = m >> 6
    x = state[of_p + 5 * w + _KNOWN] & ~(I64(-2) << (m & 63))
    while x == 0:
        w -= 1
        x = state[of_p + 5 * w + _KNOWN]
    return (w << 6) + 63 - _leading(x)


@compiled
def _after(state: Int64, of_p: int, m: int) -> int:
    """Return the first known boundary from m on; the length is one."""
    w = m >> 6
    x = state[of_p + 5 * w + _KNOWN] & (I64(-1) << (m & 63))
    while x == 0:
        w += 1
        x = state[of_p + 5 * w + _KNOWN]
    place: int = (w << 6) + _trailing(x)
    return place


@compiled
def _parity(state: Int64, of_p: int, s: int, e: int) -> int:
    """Parity of the own bits s .. e, where s < e."""
    a, b = s >> 6, (e - 1) >> 6
    low, high = I64(-1) << (s & 63), ~(I64(-2) << ((e - 1) & 63))
    x = state[of_p + 5 * a + _OWN] & low
    if a == b:
        x &= high
    else:
        for w in range(a + 1, b):
            x ^= state[of_p + 5 * w + _OWN]
        x ^= state[of_p + 5 * b + _OWN] & high
    return _ones(x) & 1


@compiled
def _toggle(state: Int64, index: Int64, of_p: int, mark: int, s: int) -> None:
    """The block that starts at s turns odd, or even."""
    w = s >> 6
    x = state[of_p + 5 * w + _ODD] ^ (I64(1) << (s & 63))
    state[of_p + 5 * w + _ODD] = x
    bit = I64(1) << (w & 63)
    if x:
        index[mark + (w >> 6)] |= bit
    else:
        index[mark + (w >> 6)] &= ~bit


@compiled
def _unsure(state: Int64, of_p: int, s: int, e: int) -> int:
    """Which of the at most 64 places from s to e are not sure: bit k for place s + k."""
    w, b = s >> 6, s & 63
    x = (~state[of_p + 5 * w + _SURE] >> b) & ~(I64(-1) << (64 - b) if b else I64(0))
    if b + e - s > 64:
        x |= ~state[of_p + 5 * (w + 1) + _SURE] << (64 - b)
    unsure: int = x & ~(I64(-1) << (e - s))
    return unsure


@compiled
def accept(
    wanted: Int64,
    parities: Bytes,
    orders: Places,
    places: Places,
    started: Int64,
    state: Int64,
    index: Int64,
    found: Int64,
    stack: Int64,
) -> bool:
    """Split blocks where a prefix parity was told and correct what that finds.

    Returns:
        Whether the answers contradict each other.
    """
    passes, length = orders.shape
    size = 5 * found.shape[1]
    marks = (found.shape[1] + 63) >> 6
    i = 0
    while i < wanted.size:
        row = wanted[i] // (length + 1)
        base = row * (length + 1)
        f, p = row // passes, row % passes
        of_p = row * size
        j = i
        while j < wanted.size and wanted[j] <= base + length:
            j += 1
        after = j
        if started[f] <= p:
            started[f] = p + 1
            if p == 0:
                j -= 1  # the parity of the frame, for all passes
                total = I64(parities[j])
                for q in range(passes):
                    of_q = (row + q) * size
                    state[of_q + _KNOWN] |= I64(1)
                    state[of_q + 5 * (length >> 6) + _KNOWN] |= I64(1) << (length & 63)
                    state[of_q + 5 * (length >> 6) + _RIGHT] |= total << (length & 63)
            for w in range(found.shape[1]):
                x = found[f, w, 0]
                while x:
                    b = _trailing(x)
                    x &= x - 1
                    m = I64(places[p, (w << 6) + b])
                    state[of_p + 5 * (m >> 6) + _SURE] |= I64(1) << (m & 63)
                    state[of_p + 5 * (m >> 6) + _OWN] ^= ((found[f, w, 1] >> b) & 1) << (m & 63)
            right = (state[of_p + 5 * (length >> 6) + _RIGHT] >> (length & 63)) & 1
            if _parity(state, of_p, 0, length) != right:
                _toggle(state, index, of_p, row * marks, 0)
        for k in range(i, j):
            m = wanted[k] - base
            bit = I64(1) << (m & 63)
            s = _before(state, of_p, m - 1)
            was = (state[of_p + 5 * (s >> 6) + _ODD] >> (s & 63)) & 1
            left = (state[of_p + 5 * (s >> 6) + _RIGHT] >> (s & 63)) & 1
            left ^= I64(parities[k]) ^ _parity(state, of_p, s, m)
            state[of_p + 5 * (m >> 6) + _KNOWN] |= bit
            if parities[k]:
                state[of_p + 5 * (m >> 6) + _RIGHT] |= bit
            if left != was:
                _toggle(state, index, of_p, row * marks, s)
                _toggle(state, index, of_p, row * marks, m)
            # What is alone in a block with bits that are sure is sure, which may go on.
            stack[0], stack[1], n = (p << 16) + s, (p << 16) + m, 2
            while n:
                n -= 1
                q, begin = stack[n] >> 16, stack[n] & 0xFFFF
                of_q = (f * passes + q) * size
                w = begin >> 6
                x = state[of_q + 5 * w + _KNOWN] & (I64(-2) << (begin & 63))
                if x == 0:
                    w += 1
                    x = state[of_q + 5 * w + _KNOWN]
                    if x == 0:
                        continue
                end = (w << 6) + _trailing(x)
                if end - begin > _SMALL:
                    continue
                x = _unsure(state, of_q, begin, end)
                if x & (x - 1):
                    continue
                odd = (state[of_q + 5 * (begin >> 6) + _ODD] >> (begin & 63)) & 1
                if x == 0:
                    if odd:
                        return True
                    continue
                position = I64(orders[q, begin + _trailing(x)])
                w, b = position >> 6, position & 63
                found[f, w, 0] |= I64(1) << b
                found[f, w, 1] |= odd << b
                for q in range(started[f]):
                    of_q = (f * passes + q) * size
                    place = I64(places[q, position])
                    w, b = place >> 6, place & 63
                    state[of_q + 5 * w + _SURE] |= I64(1) << b
                    state[of_q + 5 * w + _OWN] ^= odd << b
                    begin = _before(state, of_q, place)
                    if odd:
                        _toggle(state, index, of_q, (f * passes + q) * marks, begin)
                    stack[n] = (q << 16) + begin
                    n += 1
        i = after
    return False


@compiled
def _weight(state: Int64, of_p: int, m: int, weights: Float64) -> float:
    """How much likelier an error at m is for the parity of its block of another pass."""
    w, b = m >> 6, m & 63
    x = state[of_p + 5 * w + _KNOWN] & ~(I64(-2) << b)
    if x == 0:
        return 1.0
    begin = 63 - _leading(x)
    x = state[of_p + 5 * w + _KNOWN] & (I64(-2) << b)
    end = _trailing(x) if x else I64(64)
    weight: float = weights[(state[of_p + 5 * w + _ODD] >> begin) & 1, end - begin]
    return weight


@compiled
def _split(
    of_f: int,
    size: int,
    p: int,
    s: int,
    unsure: int,
    weights: Float64,
    orders: Places,
    places: Places,
    state: Int64,
    chance: Float64,
) -> int:
    """Boundary that parts the chances of an error in a small odd block as evenly as can be."""
    x = unsure & (unsure - 1)
    if x & (x - 1) == 0:
        return s + _trailing(x)
    total = 0.0
    x = unsure
    while x:
        k = _trailing(x)
        x &= x - 1
        position = I64(orders[p, s + k])
        u = 1.0
        for q in range(2):
            if q != p:
                of_q = of_f + q * size
                u *= _weight(state, of_q, I64(places[q, position]), weights)
        chance[k] = u
        total += u
    left, x = 0.0, unsure
    while True:
        u = chance[_trailing(x)]
        x &= x - 1
        # Before this place, or after it? Never an empty part.
        if 2.0 * left + u >= total and left > 0.0:
            return k
        left += u
        k = s + _trailing(x)
        if x & (x - 1) == 0:
            return k


@compiled
def ask(
    first: int,
    wanted: Int64,
    sizes: Int64,
    weights: Float64,
    orders: Places,
    places: Places,
    started: Int64,
    state: Int64,
    index: Int64,
    found: Int64,
) -> tuple[int, int]:
    """Write the next questions of the frames from ``first`` on.

    Args:
        first: Frame to begin with.
        wanted: Room for the questions.
        sizes: Of the blocks of each pass.
        weights: By parity and size of a block; see :func:`_weight`.
        orders: Of the passes.
        places: Their inverse.
        started: Passes begun, of each frame.
        state: See above, as the rest.
        index: See above.
        found: See above.

    Returns:
        How many questions, and the frame to go on with: the number of frames where all fitted,
        -1 where the answers contradict each other.
    """
    frames = found.shape[0]
    passes, length = orders.shape
    size = 5 * found.shape[1]
    marks = (found.shape[1] + 63) >> 6
    few = length >> 15  # searches that leave room for more; each costs f, small frames most
    chance = np.zeros(_SMALL)
    n = 0
    for f in range(first, frames):
        if wanted.size - n < 2 * length:
            return n, f
        start = n
        for p in range(started[f]):
            # All odd blocks of the first two passes are searched at the same time. The later ones
            # are large, and the errors left come in pairs that share a small block, where the
            # second is found for less: so only where there is little else to do, to save rounds.
            if p > 1 and n > start + few:
                break
            row = f * passes + p
            base = row * (length + 1)
            of_p = row * size
            for v in range(marks):
                x = index[row * marks + v]
                while x:
                    w = (v << 6) + _trailing(x)
                    x &= x - 1
                    y = state[of_p + 5 * w + _ODD]
                    while y and (p < 2 or n <= start + few):
                        s = (w << 6) + _trailing(y)
                        y &= y - 1
                        e = _after(state, of_p, s + 1)
                        m = (s + e) >> 1
                        if e - s <= _SMALL:
                            left = _unsure(state, of_p, s, e)
                            if left & (left - 1) == 0:
                                return n, -1
                            if started[f] > 1:
                                m = _split(
                                    f * passes * size,
                                    size,
                                    p,
                                    s,
                                    left,
                                    weights,
                                    orders,
                                    places,
                                    state,
                                    chance,
                                )
                        wanted[n] = base + m
                        n += 1
        if n <= start + few and started[f] < passes:
            # The late passes ask for little: all begin at once.
            end = started[f] + 1 if started[f] < 3 else passes
            for p in range(started[f], end):
                base = (f * passes + p) * (length + 1)
                for m in range(sizes[p], length, sizes[p]):
                    wanted[n] = base + m
                    n += 1
                if p == 0:
                    wanted[n] = base + length
                    n += 1
    return n, frames
