"""Coincidences: all pairs per pair of channels, and one-to-one matching.

A window is a full width, with both ends closed: clicks at a and b (delays subtracted) coincide
where ``|b - a| <= window/2``. Times are whole ps, so an odd window counts as the even one below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...instruments import TagBatch, TimesPs
from ._streams import FOREVER, Pairs, finished, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CoincidenceCounter", "Coincidences", "match"]

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Coincidences:
    """Pairs of clicks per pair of channels.

    Attributes:
        channels_a, channels_b: What the rows and columns are.
        window_ps: Full width.
        counts: int64 (rows, columns), all pairs within the window at zero delay.
        shifted: int64 (shifts, rows, columns), the same at the wrong delays asked for.
        live_s: How long both streams were live at the same time, delays subtracted: what a rate of
            pairs is divided by. The mean, where channels' delays differ.
    """

    channels_a: tuple[int, ...]
    channels_b: tuple[int, ...]
    window_ps: int
    counts: npt.NDArray[np.int64]
    shifted: npt.NDArray[np.int64]
    live_s: float

    @property
    def accidentals(self) -> npt.NDArray[np.float64]:
        """Mean count at the wrong delays, (rows, columns); nan where none was asked for."""
        if not len(self.shifted):
            return np.full(self.counts.shape, np.nan)
        return np.asarray(self.shifted.mean(axis=0))

    def plot(self, ax: Axes | None = None, *, log: bool = False) -> Axes:
        """Draw the matrix of coincidences, each with its coincidence-to-accidental ratio.

        Without an accidental at the wrong delays the ratio is what it exceeds at 95 %.

        Args:
            ax: To draw on; a new figure by default.
            log: Logarithmic colours.
        """
        from ._pictures import draw_pairs

        return draw_pairs(self, ax, log=log)


class CoincidenceCounter:
    """Counts coincidences between two sets of channels, of one stream or of two.

    All pairs count: a click may enter several. The result does not depend on how the streams
    were cut into batches. Clicks inside losses do not count; a pair with a loss between its
    clicks does, both of them having been seen, unless the clock stepped there (a loss of kind
    ``clock`` in either stream).

    Cost: some 5 ns per tag for two channels, 7 ns with twenty shifts, and 3 ns more for each
    further channel of the other set. Where pairs are many it is 3 ns per tag, shift and channel of
    the other set instead, however wide the window. The first use on a machine compiles for 5-10 s.

    Memory: four times the clicks within window and shifts and within the lead of one stream over
    the other, at 8 bytes, and 2 MB per channel, at most; 16 bytes per loss.

    Args:
        channels_a: Rows of the result.
        channels_b: Columns of the result.
        window_ps: Full width.
        delays_a: Delay of each channel, ps, subtracted from its times; 0 where not named.
        delays_b: The same for the other set.
        shifts_ps: Wrong delays (b later than a by so much) at which accidentals are counted: all
            beyond the peak, and of a pulsed source multiples of its period.
    """

    def __init__(
        self,
        channels_a: Sequence[int],
        channels_b: Sequence[int],
        window_ps: int,
        *,
        delays_a: Mapping[int, int] | None = None,
        delays_b: Mapping[int, int] | None = None,
        shifts_ps: Sequence[int] = (),
    ) -> None:
        window_ps = whole("a window", window_ps)
        self._width = _width(window_ps)
        self._window = window_ps
        self._channels = tuple(channels_a), tuple(channels_b)
        shifts, half = [0, *(whole("a shift", shift) for shift in shifts_ps)], window_ps // 2
        if any(abs(shift) <= window_ps for shift in shifts[1:]):
            raise ValueError(
                f"shifts of up to {window_ps} ps, the window, count true pairs as accidentals"
            )
        self._pairs = Pairs(
            self._channels,
            (delays_a or {}, delays_b or {}),
            (min(shifts) - half, max(shifts) + half),
            self._count,
        )
        self._lows = np.array(shifts, np.int64) - half
        self._counts = np.zeros((len(channels_a), len(channels_b), len(shifts)), np.int64)
        self._finished = False

    def add(self, a: TagBatch, b: TagBatch | None = None) -> None:
        """Take the next batch of each stream; without ``b`` both sets are of one stream.

        Raises:
            ValueError: without ``b``, if a channel stands in both sets (use a correlation); for a
                batch that does not follow on the last; after the end.
        """
        if self._finished:
            raise finished(self)
        if b is None:
            both = set(self._channels[0]) & set(self._channels[1])
            if both:
                raise ValueError(f"channels {sorted(both)} would coincide with themselves")
        self._pairs.add(a, b)

    def finish(self) -> Coincidences:
        """End the streams and return the result."""
        self._pairs.finish()
        self._finished = True
        return self.so_far()

    def so_far(self) -> Coincidences:
        """Return what is counted so far, without what still waits; the streams go on."""
        self._pairs.catch_up()
        counts = np.moveaxis(self._counts, 2, 0)
        return Coincidences(
            *self._channels, self._window, counts[0].copy(), counts[1:].copy(), self._pairs.live_s
        )

    def _count(self, i: int, j: int, a: TimesPs, b: TimesPs, offset: int) -> None:
        from . import _kernels

        _kernels.count_windows(a, b, self._lows + offset, self._width, self._counts[i, j])


def _width(window_ps: int) -> int:
    """Whole ps in a window with both ends closed."""
    if window_ps < 0:
        raise ValueError("the coincidence window is a full width and cannot be negative")
    if window_ps >= FOREVER:
        raise ValueError("a coincidence window goes up to 2**62 ps (53 days)")
    return window_ps // 2 * 2 + 1


def match(times_a: TimesPs, times_b: TimesPs, window_ps: int) -> tuple[Indices, Indices]:
    """Match two sorted streams one-to-one within a window.

    Rule: walking forward in time, the earliest unmatched clicks of both that lie within the
    window make a pair and are used up. This gives as many pairs as any one-to-one matching can.
    Not the nearest partner: of several within a window, the first is taken.

    Cost: 3-4 ns per click.

    Args:
        times_a: int64 (n,), non-decreasing ps, delays subtracted.
        times_b: int64 (m,), likewise.
        window_ps: Full width, ends closed.

    Returns:
        Indices into a and into b of the pairs, both strictly increasing.

    Raises:
        ValueError: for a window that is negative or exceeds 2**62 ps.
    """
    from . import _kernels

    half = _width(whole("a window", window_ps)) // 2
    out_a = np.empty(min(times_a.size, times_b.size), np.int64)
    out_b = np.empty_like(out_a)
    found = _kernels.match(times_a, times_b, half, out_a, out_b)
    return out_a[:found], out_b[:found]
