"""Regular trains of pulses, exact over any length of time.

A train ticks at ``anchor + floor(k * period)`` with ``period = 10^18 ps uHz / rate``: the rate is
a whole number of microhertz, so that no tick drifts, however far the train has run.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["first_tick", "stride_of", "ticks_ps"]

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
