"""Count rates over live time, and corrected for dead time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...instruments import Loss, TagBatch
from ..estimates import Estimate
from ._losses import Picked, loss_intervals
from ._order import InOrder
from ._streams import live, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CountRates", "Counter", "CountsOverTime", "dead_time_corrected"]

_MOST_BINS = 10_000_000


@dataclass
class CountRates:
    """Clicks per channel and live time of a stream; clicks inside losses do not count.

    Feed it batch by batch. Cost: some 10 ns per tag.

    Attributes:
        counts: Clicks per channel.
        live_s: Recorded time without losses.
        duration_s: Recorded time.
        lost: Lost clicks that the losses admit to.
    """

    counts: dict[int, int] = field(default_factory=dict)
    live_s: float = 0.0
    duration_s: float = 0.0
    lost: int = 0
    _order: InOrder = field(default_factory=InOrder, init=False, repr=False, compare=False)
    _going_on: set[Loss] = field(default_factory=set, init=False, repr=False, compare=False)

    def add(self, batch: TagBatch) -> None:
        """Take the next batch.

        Raises:
            ValueError: for one that does not follow on the last.
        """
        self._order.next(batch)
        channels = batch.channels[live(batch)] if batch.losses else batch.channels
        if channels.size:
            lowest = int(channels.min())
            for i, count in enumerate(np.bincount(channels.astype(np.int64) - lowest).tolist()):
                if count:
                    self.counts[lowest + i] = self.counts.get(lowest + i, 0) + count
        self.live_s += batch.live_s
        self.duration_s += batch.duration_s
        # A loss cut in two by a split stands in both batches; late clicks belong to one before.
        self.lost += sum(x.count or 0 for x in batch.losses if x not in self._going_on)
        self._going_on = {x for x in {*self._going_on, *batch.losses} if x.end_ps > batch.end_ps}

    def rate_hz(self, channel: int) -> float:
        """Clicks per live second; nan without live time."""
        return self.counts.get(channel, 0) / self.live_s if self.live_s else math.nan

    def corrected_hz(self, channel: int, dead_time_s: float, *, extended: bool = False) -> Estimate:
        """The rate that would have been seen without dead time: see :func:`dead_time_corrected`.

        Raises:
            ValueError: where the detector cannot have counted so fast.
        """
        return dead_time_corrected(
            self.counts.get(channel, 0), self.live_s, dead_time_s, extended=extended
        )


def dead_time_corrected(
    count: int, live_s: float, dead_time_s: float, *, extended: bool = False
) -> Estimate:
    """Return the rate of the Poisson process of which a detector with dead time saw ``count``.

    Not extended (clicks in the dead time do nothing): of a rate n is seen ``m = n/(1 + n t)``, so
    ``n = m/(1 - m t)``. Extended (each begins it anew): ``m = n exp(-n t)``, of whose two solutions
    the one with ``n t < 1`` is returned; a detector driven beyond that fools the formula, as its
    rate falls with more light. The clicks seen vary by less than a Poisson process, by
    ``count (1 - m t)^2`` and ``count (1 - 2 m t)`` (Mueller, Nucl. Instr. Meth. 112, 47 (1973)),
    and the error says so.

    Args:
        count: Clicks.
        live_s: In which time; much longer than the dead time.
        dead_time_s: t.
        extended: Which of the two kinds.

    Returns:
        The rate per second; nan without live time.

    Raises:
        ValueError: for a negative dead time; where m t reaches 1, or 1/e if extended: the
            dead time is wrong then, or the detector of the other kind.
    """
    if not dead_time_s >= 0:
        raise ValueError(f"a dead time of {dead_time_s} s means nothing")
    if not live_s:
        return Estimate(math.nan, math.nan)
    seen = count / live_s
    busy = seen * dead_time_s
    if busy >= (1 / math.e if extended else 1.0):
        raise ValueError(
            f"{seen:.4g} clicks per second cannot come with"
            f" {'an extended' if extended else 'a'} dead time of {dead_time_s * 1e9:.4g} ns:"
            f" at most {(1 / math.e if extended else 1.0) / dead_time_s:.4g} do"
        )
    poisson = math.sqrt(max(count, 1)) / live_s
    if not extended:
        return Estimate(seen / (1 - busy), poisson / (1 - busy), count)
    from scipy.special import lambertw

    x = -float(lambertw(-busy).real)  # n t, of x exp(-x) = m t
    slope = math.exp(x) / (1 - x)
    return Estimate(seen * math.exp(x), poisson * math.sqrt(1 - 2 * busy) * slope, count)


@dataclass(frozen=True, eq=False)
class CountsOverTime:
    """Clicks per bin of time.

    Attributes:
        channels: What the columns are.
        begin_ps: Begin of the first bin.
        bin_ps: Width of a bin; bin k holds [begin + k bin, begin + (k+1) bin).
        counts: int64 (bins, channels).
        live_ps: int64 (bins,), how much of each bin was recorded, losses excluded.
    """

    channels: tuple[int, ...]
    begin_ps: int
    bin_ps: int
    counts: npt.NDArray[np.int64]
    live_ps: npt.NDArray[np.int64]

    @property
    def times_s(self) -> npt.NDArray[np.float64]:
        """Middles of the bins (bins,), seconds since the recording's start."""
        middles = np.arange(len(self.counts), dtype=np.float64) + 0.5
        return (self.begin_ps + self.bin_ps * middles) * 1e-12

    @property
    def rates_hz(self) -> npt.NDArray[np.float64]:
        """Clicks per live second (bins, channels); nan where nothing was live."""
        live_s = np.where(self.live_ps > 0, self.live_ps * 1e-12, np.nan)
        return self.counts / live_s[:, None]

    def plot(self, ax: Axes | None = None, *, log: bool | None = None) -> Axes:
        """Draw the rates over time, losses shaded.

        Bands are one Poisson sigma; the legend has the mean rates over live time. Where less than
        a tenth of a bin is live, no rate is drawn.

        Args:
            ax: To draw on; a new figure by default.
            log: Logarithmic rates; by default where channels differ by more than 30 times.
        """
        from ._pictures import draw_counts

        return draw_counts(self, ax, log=log)


class Counter:
    """Counts clicks per bin of time (Swabian's name): rates over time, for pictures and drift.

    The first bin begins with the first batch. Clicks inside losses do not count, and the live
    time of each bin is what was recorded outside them, so rates stay right; the last bin is as
    long as it got. The result does not depend on how the stream was cut.

    Cost: some 7 ns per tag; memory for the bins. The first use ever compiles for a second.

    Args:
        channels: Those to count.
        bin_ps: Width of a bin.
        n_values: Keep the last so many bins only; all by default, up to 10 million.
    """

    def __init__(
        self, channels: Sequence[int], bin_ps: int, *, n_values: int | None = None
    ) -> None:
        if not channels or len(set(channels)) != len(channels):
            raise ValueError(f"need distinct channels, got {list(channels)}")
        if whole("a bin", bin_ps) < 1:
            raise ValueError(f"a bin of {bin_ps} ps holds nothing")
        if n_values is not None and n_values < 1:
            raise ValueError(f"cannot keep the last {n_values} bins")
        self._channels, self._bin = tuple(channels), bin_ps
        self._most = _MOST_BINS if n_values is None else min(n_values, _MOST_BINS)
        self._all = n_values is None
        self._picked = Picked(channels)
        self._order = InOrder(self)
        self._first = self._bins = 0  # first bin kept, and how many are
        self._counts = np.zeros((1, len(channels)), np.int64)
        self._live = np.zeros(1, np.int64)

    def add(self, batch: TagBatch) -> None:
        """Take the next batch.

        Raises:
            ValueError: where all bins are to be kept and there would be more than 10 million; for a
                batch that does not follow on the last; after the end.
        """
        from . import _kernels_virtual

        self._order.next(batch)
        losses = loss_intervals(batch)
        times, which, _, _ = self._picked.of(batch, *losses)
        if batch.end_ps == batch.begin_ps:
            return
        origin = self._order.begin_ps or 0
        self._extend((batch.end_ps - 1 - origin) // self._bin + 1)
        begin = origin + self._first * self._bin
        if begin > batch.begin_ps:
            kept = int(times.searchsorted(begin))
            times, which = times[kept:], which[kept:]
        low = max((batch.begin_ps - begin) // self._bin, 0)
        start = begin + low * self._bin
        _kernels_virtual.count_bins(times, which, start, self._bin, self._counts[low:])
        edges = start + self._bin * np.arange(self._bins - low + 1, dtype=np.int64)
        self._live[low : self._bins] += np.diff(_live_before(edges, batch, *losses))

    def finish(self) -> CountsOverTime:
        """End the stream and return the result."""
        self._order.over = True
        return self.so_far()

    def so_far(self) -> CountsOverTime:
        """Return what is counted so far; the stream goes on."""
        origin = (self._order.begin_ps or 0) + self._first * self._bin
        counts, live_ps = self._counts[: self._bins].copy(), self._live[: self._bins].copy()
        return CountsOverTime(self._channels, origin, self._bin, counts, live_ps)

    def _extend(self, bins: int) -> None:
        """Make room for the stream's first ``bins`` bins, forgetting the oldest."""
        wanted = bins - self._first
        if wanted > self._most:
            if self._all:
                raise ValueError(
                    f"more than {_MOST_BINS // 10**6} million bins of {self._bin} ps: take wider"
                    " ones, or n_values to keep the last"
                )

            drop = wanted - self._most
            self._counts = (
                np.roll(self._counts, -drop, axis=0) if drop < self._bins else self._counts
            )
            self._live = np.roll(self._live, -drop) if drop < self._bins else self._live
            left = max(self._bins - drop, 0)
            self._counts[left:], self._live[left:] = 0, 0
            self._first += drop
            self._bins = left
            wanted = self._most
        if wanted > len(self._live):
            room = min(max(wanted, 2 * len(self._live)), self._most) - len(self._live)
            self._counts = np.concatenate(
                [self._counts, np.zeros((room, len(self._channels)), np.int64)]
            )
            self._live = np.concatenate([self._live, np.zeros(room, np.int64)])
        self._bins = max(wanted, self._bins)


def _live_before(
    edges: npt.NDArray[np.int64],
    batch: TagBatch,
    begins: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """How much of the batch is live before each of the edges, ps."""
    inside = np.clip(edges, batch.begin_ps, batch.end_ps)
    begins, ends = (np.clip(x, batch.begin_ps, batch.end_ps) for x in (begins, ends))
    lost = np.concatenate([np.zeros(1, np.int64), np.cumsum(ends - begins)])
    k = np.searchsorted(begins, inside)  # intervals begun before the edge
    before = lost[k]
    if ends.size:
        before = before - np.where(k > 0, np.maximum(ends[k - 1] - inside, 0), 0)
    return np.asarray(inside - batch.begin_ps - before)
