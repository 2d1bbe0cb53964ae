"""Buffers that are written faster than they are read."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Buffer"]

_NEVER_PS = -(1 << 50)


@dataclass
class Buffer:
    """A memory for events that is read at a fixed rate.

    One event too many, and it takes no more until it has been read empty: the loss is a gap, not a
    thinning. That it is read empty first is assumed (unverified).

    Attributes:
        size: How many events it holds.
        rate_hz: How many are read each second.
        level: How full it was at its last event.
        last_ps: When that was.
        overflowing: Whether it takes no more.
    """

    size: int
    rate_hz: float
    level: float = 0.0
    last_ps: int = _NEVER_PS
    overflowing: bool = False

    def take(self, times_ps: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Mark the events that find room.

        Args:
            times_ps: Sorted times, not before those of the last call, shape (n,).

        Returns:
            Mask, shape (n,).
        """
        state = np.array([self.level, self.overflowing])
        mask: npt.NDArray[np.bool_] = _kernel()(
            times_ps, self.size, self.rate_hz * 1e-12, self.last_ps, state
        )
        if times_ps.size:
            self.last_ps = int(times_ps[-1])
        self.level, self.overflowing = float(state[0]), bool(state[1])
        return mask


@functools.cache
def _kernel() -> Any:
    import numba

    @numba.njit(cache=True)
    def take(times: Any, size: Any, rate: Any, last: Any, state: Any) -> Any:
        mask = np.empty(times.size, np.bool_)
        level, overflowing = state[0], state[1] > 0
        for i in range(times.size):
            level = max(0.0, level - (times[i] - last) * rate)
            last = times[i]
            if overflowing:
                overflowing = level > 0.0
            elif level + 1 > size:
                overflowing = True
            mask[i] = not overflowing
            if mask[i]:
                level += 1
        state[0], state[1] = level, 1.0 if overflowing else 0.0
        return mask

    return take
