"""One stream with its delays subtracted, in order, and cut at its losses."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from ...instruments import Loss, TagBatch, TimesPs
from ._losses import loss_intervals
from ._streams import FOREVER, check_named, check_near, places, whole, whole_delays

Indices = npt.NDArray[np.int16]
Ready = tuple[TimesPs, Indices, int]
T = TypeVar("T", np.int16, np.int64)

_WIDEST = 1 << 60  # so that no sum of times leaves 64 bits
_FEW = 1 << 10  # so many may be put in order anew with each batch
_CHUNK = 1 << 16  # clicks whose arrays stay in the processor's cache


def half_of(window_ps: int) -> int:
    """Half a window, in whole ps."""
    if not 0 <= whole("a coincidence window", window_ps) < _WIDEST:
        raise ValueError(
            f"a coincidence window is a full width from 0 to {_WIDEST - 1} ps, not {window_ps}"
        )
    return int(window_ps // 2)


class Queue(Generic[T]):
    """What waits, piece by piece, so that many pieces cost no more than their own length."""

    def __init__(self, kind: type[T]) -> None:
        self._none: npt.NDArray[T] = np.zeros(0, kind)
        self._pieces: deque[npt.NDArray[T]] = deque()
        self.size = 0

    def put(self, piece: npt.NDArray[T]) -> None:
        if piece.size:
            self._pieces.append(piece)
            self.size += piece.size

    @property
    def first(self) -> T | None:
        return self._pieces[0][0] if self._pieces else None

    def take(self, n: int) -> npt.NDArray[T]:
        """The first ``n``, which are no longer in the queue."""
        taken = [self._none]
        self.size -= n
        while n:
            piece = self._pieces.popleft()
            taken.append(piece[:n])
            if n < piece.size:
                self._pieces.appendleft(piece[n:])
            n -= taken[-1].size
        return np.concatenate(taken)

    def before(self, time: int) -> npt.NDArray[T]:
        """Those earlier, where they are sorted times; they are no longer in the queue."""
        n = 0
        for piece in self._pieces:
            here = int(np.searchsorted(piece, time))
            n += here
            if here < piece.size:
                break
        return self.take(n)


class CutLine:
    """Subtracts each channel's delay, puts the clicks in order again, and begins anew after a loss.

    Clicks recorded on the two sides of a cut are never handed out together. Clicks on other
    channels and inside losses are dropped. What may still be overtaken waits: memory is bounded by
    the clicks within the largest difference of delays.

    Args:
        channels: Those to hand out.
        delays_ps: Delay of each, 0 where not named.
        at: Where to cut: at every loss, one without length too; where the clock stepped (losses
            of kind ``clock``); or nowhere.
    """

    def __init__(
        self,
        channels: Sequence[int],
        delays_ps: Mapping[int, int],
        *,
        at: Literal["losses", "clock", "nowhere"] = "losses",
    ) -> None:
        check_named(delays_ps, channels)
        for delay in delays_ps.values():
            whole("a delay", delay)
        self._at = at
        self._rows = places(channels, len(channels))
        shifts = whole_delays(channels, delays_ps)
        self._latest = max(shifts)
        self._shifts = np.array([*shifts, 0], np.int64)
        self._later: list[Loss] = []  # those that a batch tells of before they begin
        # Clicks that wait: in order, or where many wait, of channels of one delay each. These
        # go by their delay, so that of equal times the click recorded first comes first.
        self._lanes: list[tuple[int, Queue[np.int64], Queue[np.int16]]] = []
        self._forget()

    def _forget(self) -> None:
        self._times: TimesPs = np.zeros(0, np.int64)
        self._which: Indices = np.zeros(0, np.int16)

    @property
    def waiting(self) -> int:
        """Clicks that may still be overtaken."""
        return self._times.size + sum(times.size for _, times, _ in self._lanes)

    def feed(self, batch: TagBatch | None) -> Iterator[tuple[Ready, bool]]:
        """Yield the clicks now in order: (times, indices into the channels, watermark), last.

        No click of later is earlier than the watermark. With ``last``, nothing that comes later
        belongs to them. None ends the stream.
        """
        if batch is None:
            none = np.zeros(0, np.int64), np.zeros(0, np.int16)
            yield self._arrange(*none, FOREVER), True
            return
        check_near(batch, FOREVER // 2)
        for times, channels, end in self._parts(batch):
            for i in range(0, max(times.size, 1), _CHUNK):
                j = i + _CHUNK
                last = end is None and j >= times.size
                if j < times.size:
                    watermark = int(times[j]) - self._latest
                else:
                    watermark = FOREVER if end is None else end - self._latest
                yield self._arrange(times[i:j], channels[i:j], watermark), last

    def _parts(self, batch: TagBatch) -> Iterator[tuple[TimesPs, Indices, int | None]]:
        """Yield what lies between the cuts, and the end of the last; that of others is None."""
        times, channels = batch.times_ps, batch.channels
        losses = (*self._later, *batch.losses)
        self._later = [loss for loss in losses if loss.begin_ps >= batch.end_ps]
        if not losses:
            yield times, channels, batch.end_ps
            return
        begins, ends = loss_intervals(replace(batch, losses=losses))
        inside = (begins < batch.end_ps) & (np.maximum(begins, ends - 1) >= batch.begin_ps)
        begins, ends = begins[inside], ends[inside]
        if self._at != "losses":
            lost = np.searchsorted(begins, times, side="right") - 1
            alive = lost < 0
            if begins.size:
                alive |= times >= ends[lost]
            times, channels = times[alive], channels[alive]
            steps = {
                loss.begin_ps
                for loss in losses
                if loss.kind == "clock" and batch.begin_ps <= loss.begin_ps < batch.end_ps
            }
            begins = ends = np.array(sorted(steps) if self._at == "clock" else [], np.int64)
        stops = np.searchsorted(times, begins).tolist()
        starts = [0, *np.searchsorted(times, ends).tolist()]
        for k, (i, j) in enumerate(zip(starts, stops, strict=False)):
            if i < j or k == 0:  # the first ends what waits
                yield times[i:j], channels[i:j], None
        yield times[starts[-1] :], channels[starts[-1] :], batch.end_ps

    def _arrange(self, times: TimesPs, channels: Indices, watermark: int) -> Ready:
        from . import _kernels_many

        if self._lanes:
            which = self._rows[channels.view(np.uint16)]
            self._put(times - self._shifts[which], which)
            return *self._merged(watermark), watermark
        out = np.empty(self._times.size + times.size, np.int64)
        which = np.empty(out.size, np.int16)
        n, ordered = _kernels_many.arrange(
            self._times, self._which, times, channels, self._rows, self._shifts, out, which
        )
        out, which = out[:n], which[:n]
        if not ordered or self._times.size > max(times.size, _FEW):
            # Putting all in order anew each time would cost more than the rest.
            self._lanes = [
                (shift, Queue(np.int64), Queue(np.int16))
                for shift in sorted(set(self._shifts[:-1].tolist()))
            ]
            self._forget()
            self._put(out, which)
            return *self._merged(watermark), watermark
        ready = int(np.searchsorted(out, watermark))
        self._times, self._which = out[ready:].copy(), which[ready:].copy()
        return out[:ready], which[:ready], watermark

    def _put(self, times: TimesPs, which: Indices) -> None:
        """Let clicks wait with those of their delay."""
        from . import _kernels_many

        lanes = np.searchsorted([shift for shift, _, _ in self._lanes], self._shifts)
        lanes[-1] = len(self._lanes)  # channels not asked for
        out = np.empty((len(self._lanes) + 1, times.size), np.int64)
        out_which = np.empty(out.shape, np.int16)
        sizes = np.zeros(len(out), np.int64)
        _kernels_many.deal_lanes(times, which, lanes, out, out_which, sizes)
        for k, (_, of_times, of_which) in enumerate(self._lanes):
            of_times.put(out[k, : sizes[k]].copy())
            of_which.put(out_which[k, : sizes[k]].copy())

    def _merged(self, watermark: int) -> tuple[TimesPs, Indices]:
        """Take what is earlier than the watermark, in order."""
        from . import _kernels_many

        times = [of_times.before(watermark) for _, of_times, _ in self._lanes]
        which = [lane[2].take(some.size) for lane, some in zip(self._lanes, times, strict=True)]
        ends = np.cumsum([some.size for some in times])
        begins = ends - [some.size for some in times]
        out, out_which = np.empty(ends[-1], np.int64), np.empty(ends[-1], np.int16)
        _kernels_many.merge_lanes(
            np.concatenate(times), np.concatenate(which), begins, ends, out, out_which
        )
        return out, out_which
