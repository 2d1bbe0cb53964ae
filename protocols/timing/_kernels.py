"""Compiled inner loops on sorted int64 times. Import this module lazily: it loads numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

F = TypeVar("F", bound=Callable[..., Any])
Int16 = npt.NDArray[np.int16]
Int64 = npt.NDArray[np.int64]


def _compiled(function: F) -> F:
    return cast(F, numba.njit(cache=True, nogil=True)(function))


@_compiled
def count_pairs(
    a: Int64, ia: Int16, b: Int64, ib: Int16, shift: int, half: int, counts: Int64
) -> None:
    """Add to ``counts[ia, ib]`` every pair with ``|b - a - shift| <= half``."""
    low = 0
    for i in range(a.size):
        centre = a[i] + shift
        while low < b.size and b[low] < centre - half:
            low += 1
        j = low
        while j < b.size and b[j] <= centre + half:
            counts[ia[i], ib[j]] += 1
            j += 1


@_compiled
def histogram(a: Int64, b: Int64, left: int, width: int, counts: Int64) -> None:
    """Add every difference b - a to its bin; bin k holds [left + k width, left + (k+1) width)."""
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


@_compiled
def differences(a: Int64, b: Int64, left: int, right: int, out: Int64) -> int:
    """Write every b - a in [left, right] to ``out``; return how many there are.

    Where ``out`` is too short, only the first ones are written.
    """
    low = 0
    found = 0
    for i in range(a.size):
        while low < b.size and b[low] - a[i] < left:
            low += 1
        j = low
        while j < b.size and b[j] - a[i] <= right:
            if found < out.size:
                out[found] = b[j] - a[i]
            found += 1
            j += 1
    return found


@_compiled
def match(a: Int64, b: Int64, half: int, out_a: Int64, out_b: Int64) -> int:
    """Greedy one-to-one matching, earliest first; return the number of pairs."""
    i = 0
    j = 0
    found = 0
    while i < a.size and j < b.size:
        step = b[j] - a[i]
        if step > half:
            i += 1
        elif step < -half:
            j += 1
        else:
            out_a[found] = i
            out_b[found] = j
            found += 1
            i += 1
            j += 1
    return found
