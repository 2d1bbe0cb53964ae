"""Per-channel delays and the pairing of two streams, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ...instruments import TagBatch, TimesPs

Indices = npt.NDArray[np.int16]
A = TypeVar("A", bound=npt.NDArray[Any])

FOREVER = 1 << 62


def live(batch: TagBatch) -> npt.NDArray[np.bool_]:
    """Return which clicks lie outside the batch's losses."""
    alive = np.ones(len(batch), np.bool_)
    for loss in batch.losses:
        i, j = np.searchsorted(batch.times_ps, [loss.begin_ps, loss.end_ps])
        alive[i:j] = False
    return alive


def less_delays(batch: TagBatch, delays_ps: Mapping[int, int]) -> tuple[TagBatch, TimesPs]:
    """Return the clicks of the channels named, and their times less their channel's delay.

    Both are in the order recorded.
    """
    known = batch.select(list(delays_ps))
    shift = np.zeros(max(delays_ps) + 1, np.int64)
    shift[list(delays_ps)] = list(delays_ps.values())
    return known, known.times_ps - shift[known.channels]


class DelayLine:
    """Subtracts each channel's delay and puts the clicks in order again.

    Clicks on other channels and inside losses are dropped. What may still be overtaken waits:
    memory is bounded by the clicks within the largest difference of delays.
    """

    def __init__(self, channels: Sequence[int], delays_ps: Mapping[int, int]) -> None:
        if not channels or len(set(channels)) != len(channels):
            raise ValueError(f"need distinct channels, got {list(channels)}")
        if any(not -(1 << 15) <= channel < 1 << 15 for channel in channels):
            raise ValueError(f"channels are 16-bit numbers, got {list(channels)}")
        self._index = np.full(1 << 16, -1, np.int16)
        self._index[np.asarray(channels) & 0xFFFF] = np.arange(len(channels))
        self._shifts = np.array([delays_ps.get(channel, 0) for channel in channels], np.int64)
        self._times: TimesPs = np.zeros(0, np.int64)
        self._which: Indices = np.zeros(0, np.int16)
        self.watermark = -FOREVER

    def feed(self, batch: TagBatch | None) -> tuple[TimesPs, Indices]:
        """Return the clicks now in order: times and indices into the channels.

        None ends the stream and returns what still waits.
        """
        times, which = self._times, self._which
        if batch is None:
            self.watermark = FOREVER
        else:
            more, new = batch.times_ps, self._index[batch.channels.view(np.uint16)]
            keep = new >= 0
            if batch.losses:
                keep &= live(batch)
            if not keep.all():
                more, new = more[keep], new[keep]
            lone = self._shifts.size == 1
            times = _join(times, more - (self._shifts[0] if lone else self._shifts[new]))
            which = _join(which, new)
            self.watermark = batch.end_ps - int(self._shifts.max())
        if np.ptp(self._shifts):
            order = np.argsort(times, kind="stable")
            times, which = times[order], which[order]
        ready = int(np.searchsorted(times, self.watermark))
        self._times, self._which = times[ready:], which[ready:]
        return times[:ready], which[:ready]


def _join(first: A, second: A) -> A:
    return cast(A, np.concatenate([first, second])) if first.size else second


class Pairing:
    """Hands out each click of A once, with every click of B from ``left`` to ``right`` of it.

    Memory is bounded by the clicks within the reach and the lead of one stream over the other.
    """

    def __init__(self, left: int, right: int) -> None:
        self._left, self._right = left, right
        self._a: TimesPs = np.zeros(0, np.int64)
        self._b: TimesPs = np.zeros(0, np.int64)
        self._ia: Indices = np.zeros(0, np.int16)
        self._ib: Indices = np.zeros(0, np.int16)

    def feed(
        self,
        a: tuple[TimesPs, Indices],
        b: tuple[TimesPs, Indices],
        watermark_a: int,
        watermark_b: int,
    ) -> tuple[TimesPs, Indices, TimesPs, Indices]:
        """Take the next clicks of both; return (a, index, b, index) that can be paired now."""
        self._a = _join(self._a, a[0])
        self._ia = _join(self._ia, a[1])
        self._b = _join(self._b, b[0])
        self._ib = _join(self._ib, b[1])
        # b == watermark_b may still come, so an A click needs a + right < watermark_b.
        until = min(watermark_a, watermark_b - self._right)
        ready = int(np.searchsorted(self._a, until))
        out = (self._a[:ready], self._ia[:ready], self._b, self._ib)
        self._a, self._ia = self._a[ready:], self._ia[ready:]
        past = int(np.searchsorted(self._b, until + self._left))
        self._b, self._ib = self._b[past:], self._ib[past:]
        return out
