"""One stream with its delays subtracted, in order, and cut at its losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ...instruments import TagBatch, TimesPs
from ._losses import loss_intervals
from ._streams import FOREVER, check_near, places, whole_delays

Ready = tuple[TimesPs, npt.NDArray[np.int16], int]

_WIDEST = 1 << 60  # so that no sum of times leaves 64 bits
_CHUNK = 1 << 16  # clicks whose arrays stay in the processor's cache


def half_of(window_ps: int) -> int:
    """Half a window, in whole ps."""
    if not 0 <= window_ps < _WIDEST:
        raise ValueError(
            f"a coincidence window is a full width from 0 to {_WIDEST - 1} ps, not {window_ps}"
        )
    return int(window_ps // 2)


def between_losses(batch: TagBatch) -> Iterator[tuple[bool, TagBatch]]:
    """Yield what lies between the losses, each with whether a loss comes before it.

    A loss without length cuts too. Where the batch ends in a loss, an empty piece comes last, so
    that the loss is known before the next batch.
    """
    if not batch.losses:
        yield False, batch
        return
    cut, reach = False, batch.begin_ps
    begins, ends = loss_intervals(batch)
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        if begin >= batch.end_ps or max(begin, end - 1) < batch.begin_ps:
            continue
        yield cut, _part(batch, reach, max(reach, begin))
        cut, reach = True, max(reach, min(end, batch.end_ps))
    yield cut, _part(batch, reach, batch.end_ps)


def _part(batch: TagBatch, begin: int, end: int) -> TagBatch:
    i, j = map(int, batch.times_ps.searchsorted([begin, end]))
    return TagBatch(batch.times_ps[i:j], batch.channels[i:j], begin, end)


class CutLine:
    """Subtracts each channel's delay, puts the clicks in order again, and begins anew after a loss.

    Clicks recorded on the two sides of a loss are never handed out together, unless it goes
    ``through`` losses: then all are in one order. Clicks on other channels and inside losses are
    dropped. What may still be overtaken waits: memory is bounded by the clicks within the largest
    difference of delays.
    """

    def __init__(
        self, channels: Sequence[int], delays_ps: Mapping[int, int], *, through: bool = False
    ) -> None:
        self._through = through
        self._rows = places(channels, len(channels))
        shifts = whole_delays(channels, delays_ps)
        self._latest = max(shifts)
        self._shifts = np.array([*shifts, 0], np.int64)
        self._forget()

    def _forget(self) -> None:
        self._times: TimesPs = np.zeros(0, np.int64)
        self._which = np.zeros(0, np.int16)

    def feed(self, batch: TagBatch | None) -> Iterator[tuple[Ready, bool]]:
        """Yield the clicks now in order: (times, indices into the channels, watermark), last.

        No click of later is earlier than the watermark. With ``last``, nothing that comes later
        belongs to them. None ends the stream.
        """
        if batch is None:
            yield self._end(), True
            return
        check_near(batch, FOREVER // 2)  # what is counted reaches beyond
        for cut, piece in between_losses(batch):
            if cut and not self._through:
                yield self._end(), True
            for i in range(0, max(len(piece), 1), _CHUNK):
                j = i + _CHUNK
                end = int(piece.times_ps[j]) if j < len(piece) else piece.end_ps
                ready = self._arrange(piece.times_ps[i:j], piece.channels[i:j], end - self._latest)
                yield ready, False

    def _end(self) -> Ready:
        ready = self._times, self._which, FOREVER
        self._forget()
        return ready

    def _arrange(self, times: TimesPs, channels: npt.NDArray[np.int16], watermark: int) -> Ready:
        from . import _kernels_many

        out = np.empty(self._times.size + times.size, np.int64)
        which = np.empty(out.size, np.int16)
        n, ordered = _kernels_many.arrange(
            self._times, self._which, times, channels, self._rows, self._shifts, out, which
        )
        out, which = out[:n], which[:n]
        if not ordered:
            order = np.argsort(out, kind="stable")
            out, which = out[order], which[order]
        ready = int(np.searchsorted(out, watermark))
        self._times, self._which = out[ready:].copy(), which[ready:].copy()
        return out[:ready], which[:ready], watermark
