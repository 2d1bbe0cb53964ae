"""Compiled loops between numbers and bits. Import this module lazily: it loads numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...instruments.compiled import compiled

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


_PIECE = 32  # bits of a remainder that are moved at once


@compiled
def unary_bits(values: Int64, step: int, k: int) -> int:
    """Bits that the quotients of the gaps take; see :func:`put_gaps`."""
    bits = values.size - 1
    for i in range(1, values.size):
        bits += (values[i] - values[i - 1] - step) >> k
    return bits


@compiled
def put_gaps(values: Int64, step: int, k: int, unary: UInt8, rests: UInt8) -> None:
    """Write Golomb-Rice codes of the gaps, most significant bit of a byte first.

    Args:
        values: Each at least ``step`` above the one before.
        step: Is left out of the gaps.
        k: Bits of the remainders.
        unary: Zeros, room for the quotients: that many zeros and a one for each gap.
        rests: Room for the remainders.
    """
    at = byte = held = word = 0
    for i in range(1, values.size):
        gap = values[i] - values[i - 1] - step
        at += gap >> k
        unary[at >> 3] |= 128 >> (at & 7)
        at += 1
        left = k
        while left > 0:
            taken = min(left, _PIECE)
            left -= taken
            word = word << taken | (gap >> left) & ((1 << taken) - 1)
            held += taken
            while held >= 8:
                held -= 8
                rests[byte] = word >> held
                byte += 1
            word &= 127
    if held:
        rests[byte] = word << (8 - held)


@compiled
def get_gaps(unary: UInt8, length: int, rests: UInt8, k: int, step: int, values: Int64) -> int:
    """Read what :func:`put_gaps` has written, behind the first of ``values``, which is given.

    Returns:
        0; 1 where ``length`` bits are not as many quotients; 2 where a gap has more than 62 bits;
        3 where a value has.
    """
    n = values.size - 1
    ones = 0
    for each in unary:
        byte = int(each)
        byte -= (byte >> 1) & 0x55
        byte = (byte & 0x33) + ((byte >> 2) & 0x33)
        ones += (byte + (byte >> 4)) & 15
    if ones != n or (length and not unary[(length - 1) >> 3] >> (7 - ((length - 1) & 7)) & 1):
        return 1
    before = values[0]
    if abs(before) >= 1 << 62:
        return 3
    # No branches on bits, which nobody foresees; what comes last is written again and again.
    run = i = 0
    for at in range(length):
        bit = unary[at >> 3] >> (7 - (at & 7)) & 1
        values[i] = run
        i += bit
        run = (run + 1) * (1 - bit)
    byte = held = word = 0
    most = 1 << (62 - k)
    following = values[0]
    for i in range(n):
        gap = following
        if gap >= most:
            return 2
        left = k
        while left > 0:
            taken = min(left, _PIECE)
            while held < taken:
                word = (word << 8) | int(rests[byte])
                byte += 1
                held += 8
            held -= taken
            gap = gap << taken | word >> held
            word &= (1 << held) - 1
            left -= taken
        following = values[i + 1]
        values[i] = before
        before += gap + step
        if abs(before) >= 1 << 62:
            return 3
    values[n] = before
    return 0
