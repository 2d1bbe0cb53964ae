"""Compiled loops between numbers and bits. Import this module lazily: it loads numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

F = TypeVar("F", bound=Callable[..., Any])
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


def _compiled(function: F) -> F:
    return cast(F, numba.njit(cache=True, nogil=True)(function))


@_compiled
def put_gaps(gaps: Int64, k: int, unary: UInt8, planes: UInt8) -> None:
    """Write Golomb-Rice codes, most significant bit of a byte first.

    Args:
        gaps: Not negative.
        k: Bits of the remainders.
        unary: Zeros, room for the quotients: that many zeros and a one for each gap.
        planes: Zeros, room for the remainders: the highest bits of all, then the next ones.
    """
    at = 0
    for i in range(gaps.size):
        at += gaps[i] >> k
        unary[at >> 3] |= 128 >> (at & 7)
        at += 1
    n = gaps.size
    for plane in range(k):
        shift = k - 1 - plane
        at = plane * n
        for i in range(n):
            planes[at >> 3] |= ((gaps[i] >> shift) & 1) << (7 - (at & 7))
            at += 1


@_compiled
def get_quotients(unary: UInt8, length: int, gaps: Int64) -> int:
    """Read the quotients; the largest of them, or -1 where ``length`` bits are not as many."""
    i, at, begin, most = 0, 0, 0, 0
    while at < length:
        byte = unary[at >> 3]
        if byte == 0 and (at & 7) == 0:
            at += 8
            continue
        if byte >> (7 - (at & 7)) & 1:
            if i == gaps.size:
                return -1
            gaps[i] = at - begin
            most = max(most, gaps[i])
            begin = at + 1
            i += 1
        at += 1
    return most if i == gaps.size and begin == length else -1


@_compiled
def add_remainders(planes: UInt8, k: int, gaps: Int64) -> None:
    """Put ``k`` bits below each quotient."""
    at = 0
    for _ in range(k):
        for i in range(gaps.size):
            gaps[i] = gaps[i] << 1 | (planes[at >> 3] >> (7 - (at & 7)) & 1)
            at += 1
