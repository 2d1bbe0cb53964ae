"""The lossy intervals of a batch, and the clicks outside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...instruments import Channels, TagBatch, TimesPs
from ._streams import FOREVER, check_near


def loss_intervals(batch: TagBatch) -> tuple[TimesPs, TimesPs]:
    """Return begins and ends of the union of a batch's losses: sorted, apart from each other.

    One without length stays one: nothing may be counted across it.
    """
    begins: list[int] = []
    ends: list[int] = []
    for loss in sorted(batch.losses, key=lambda loss: (loss.begin_ps, loss.end_ps)):
        if ends and loss.begin_ps <= ends[-1]:
            ends[-1] = max(ends[-1], loss.end_ps)
        else:
            begins.append(loss.begin_ps)
            ends.append(loss.end_ps)
    return np.array(begins, np.int64), np.array(ends, np.int64)


class Picked:
    """The clicks of some channels outside losses: time, index, end of the loss before, place."""

    def __init__(self, channels: Sequence[int]) -> None:
        for channel in channels:
            check_channel(channel)
        self._index = np.full(1 << 16, -1, np.int16)
        self._index[np.asarray(channels, np.int64) & 0xFFFF] = np.arange(len(channels))
        self._floor = -FOREVER

    def of(
        self, batch: TagBatch, begins: TimesPs, ends: TimesPs
    ) -> tuple[TimesPs, Channels, TimesPs, TimesPs]:
        from . import _kernels_virtual

        check_near(batch)
        size = len(batch)
        times, floors, at = (np.empty(size, np.int64) for _ in range(3))
        which = np.empty(size, np.int16)
        n = _kernels_virtual.alive(
            batch.times_ps,
            batch.channels,
            self._index,
            begins,
            ends,
            self._floor,
            times,
            which,
            floors,
            at,
        )
        if ends.size:
            self._floor = max(self._floor, int(ends[-1]))
        return times[:n], which[:n], floors[:n], at[:n]


def check_channel(channel: int) -> None:
    if not -(1 << 15) <= channel < 1 << 15:
        raise ValueError(f"channels are 16-bit numbers, got {channel}")
