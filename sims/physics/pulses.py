"""Regular trains of pulses, exact over any length of time, and pulses that meet.

A train ticks at ``anchor + floor(k * period)`` with ``period = 10^18 ps uHz / rate``: the rate is
a whole number of microhertz, so that no tick drifts, however far the train has run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["equal_rows", "first_tick", "meetings", "stride_of", "ticks_ps"]

_PS_UHZ = 10**18
# Ticks that are computed at once: rate x chunk must fit into 63 bits at 10 MHz.
_CHUNK = 1 << 18


def first_tick(span_ps: int, rate_uhz: int) -> int:
    """Number of the first tick that lies ``span_ps`` after the anchor, or later; from 0."""
    return max(0, -(-span_ps * rate_uhz // _PS_UHZ))


def stride_of(busy_ps: int, rate_uhz: int) -> int:
    """How many ticks on is the first that comes ``busy_ps`` after a tick, or later; from 1."""
    return max(1, -(-busy_ps * rate_uhz // _PS_UHZ))


def ticks_ps(
    anchor_ps: int, rate_uhz: int, first: int, stride: int, count: int
) -> npt.NDArray[np.int64]:
    """Times of the ticks ``first``, ``first + stride``, ..., int64 of shape (count,)."""
    times = np.empty(count, np.int64)
    step, step_rest = divmod(stride * _PS_UHZ, rate_uhz)
    for low in range(0, count, _CHUNK):
        start, rest = divmod((first + stride * low) * _PS_UHZ, rate_uhz)
        k = np.arange(min(_CHUNK, count - low), dtype=np.int64)
        times[low : low + k.size] = (
            anchor_ps + start + k * step + (rest + k * step_rest) // rate_uhz
        )
    return times


def meetings(
    left_ps: npt.NDArray[np.int64], right_ps: npt.NDArray[np.int64], window_ps: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pair each pulse from the left with the first from the right within a window, one to one.

    Args:
        left_ps: When pulses come, sorted, shape (n,).
        right_ps: The same from the other side, (m,).
        window_ps: By how much they may miss each other.

    Returns:
        Rows of left and right, -1 where a pulse comes alone, and their times, where it is alone
        twice its own; int64, both of shape (2, k). Those that meet come first.
    """
    first = second = np.empty(0, np.int64)
    if left_ps.size and right_ps.size:
        other = np.searchsorted(right_ps, left_ps - window_ps)
        near = np.append(right_ps, 1 << 62)[other] <= left_ps + window_ps
        near[1:] &= ~near[:-1] | (np.diff(other) > 0)  # who comes first has it
        first, second = np.flatnonzero(near), other[near]
    alone = [
        np.delete(np.arange(times.size), rows)
        for times, rows in ((left_ps, first), (right_ps, second))
    ]
    rows = np.stack(
        [
            np.concatenate([first, alone[0], np.full(alone[1].size, -1)]),
            np.concatenate([second, np.full(alone[0].size, -1), alone[1]]),
        ]
    )
    times = np.stack([np.append(left_ps, 0)[rows[0]], np.append(right_ps, 0)[rows[1]]])
    return rows, np.where(rows < 0, times[::-1], times)


def equal_rows(
    columns: list[npt.NDArray[Any]], n: int
) -> list[tuple[list[Any], npt.NDArray[np.int64]]]:
    """Group n rows by equal values in all columns: the values, and the rows of each group."""
    if not n:
        return []
    code = np.zeros(n, np.int64)
    varied = False
    for column in columns:
        if column[0] == column[-1] and (column == column[0]).all():
            continue
        values, inverse = np.unique(column, return_inverse=True)
        code = code * values.size + inverse
        varied = True
    if not varied:
        return [([column[0] for column in columns], np.arange(n))]
    order = np.argsort(code, kind="stable")
    borders = np.flatnonzero(np.diff(code[order])) + 1
    return [
        ([column[members[0]] for column in columns], members)
        for members in np.split(order, borders)
    ]
