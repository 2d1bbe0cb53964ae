"""Second-order correlation of two channels, in bins of equal or of growing width."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...instruments import TagBatch, TimesPs
from ._live import LiveTime
from ._streams import Pairs, finished, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .peaks import PeakFit

__all__ = [
    "Correlation",
    "CorrelationHistogram",
    "HistogramLogBins",
    "LogCorrelation",
    "delay_histogram",
]


@dataclass(frozen=True)
class Correlation:
    """Histogram of delays b - a.

    Attributes:
        delays_ps: float64 (n,), centres of the bins.
        counts: int64 (n,), pairs per bin; bin k holds [centre - bin/2, centre + bin/2).
        bin_ps: Width of a bin.
        expected: float64 (n,), pairs per bin of uncorrelated streams with these rates: rate of a
            times rate of b times how long both were live, b so much later, times the bin. So
            neither losses nor the recordings' ends bend g2.
        singles_a, singles_b: Clicks of the two channels.
        rates_hz: Clicks per second of either while it was live; nan where it never was.
        live_s: How long both streams were live at the same time, delay subtracted.
    """

    delays_ps: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    bin_ps: int
    expected: npt.NDArray[np.float64]
    singles_a: int
    singles_b: int
    rates_hz: tuple[float, float]
    live_s: float

    @property
    def g2(self) -> npt.NDArray[np.float64]:
        """Second-order correlation (n,), 1 for uncorrelated streams; nan where none could be."""
        return _ratio(self.counts, self.expected)

    def plot(
        self, ax: Axes | None = None, *, fit: PeakFit | None = None, log: bool = False
    ) -> Axes:
        """Draw the pairs per bin, with g2 on the right and the level of independent clicks.

        Args:
            ax: To draw on; a new figure by default.
            fit: What :func:`fit_peak` found, drawn and told in the legend.
            log: Logarithmic counts, to see tails.
        """
        from ._pictures import draw_correlation

        return draw_correlation(self, ax, fit=fit, log=log)


class _DelayHistogram:
    """Any channel of one set against any of another, each less its delay."""

    def __init__(
        self, delays_a: Mapping[int, int], delays_b: Mapping[int, int], window_ps: int, bin_ps: int
    ) -> None:
        window_ps, bin_ps = whole("a window", window_ps), whole("a bin", bin_ps)
        if bin_ps < 1 or window_ps < bin_ps:
            raise ValueError(f"no bin of {bin_ps} ps fits into a window of {window_ps} ps")
        if window_ps // bin_ps > 10_000_000:
            raise ValueError("more than 10 million bins: take wider bins or a narrower window")
        self._bin = bin_ps
        self._counts = np.zeros(window_ps // bin_ps, np.int64)
        span = self._counts.size * bin_ps
        self._left = -(span // 2)
        self._own = list(delays_a) == list(delays_b)
        self._pairs = Pairs(
            (list(delays_a), list(delays_b)),
            (delays_a, delays_b),
            (self._left, self._left + span - 1),
            self._count,
        )
        self._finished = False

    def add(self, a: TagBatch, b: TagBatch | None = None) -> None:
        """Take the next batch of each stream; without ``b`` both channels are of one stream.

        Raises:
            ValueError: for a batch that does not follow on the last; after the end.
        """
        if self._finished:
            raise finished(self)
        self._pairs.add(a, b)
        self._own = self._own and b is None

    def finish(self) -> Correlation:
        """End the streams and return the result."""
        self._pairs.finish()
        self._finished = True
        return self.so_far()

    def so_far(self) -> Correlation:
        """Return what is counted so far, without what still waits; the streams go on."""
        self._pairs.catch_up()
        counts, left, width = self._counts.copy(), self._left, self._bin
        singles, offsets = self._pairs.singles, self._pairs.offsets
        own = (-offsets[0] - left) // width
        if self._own and 0 <= own < counts.size:
            counts[own] -= self._pairs.come_up  # each click with itself
        rates = _rate(singles[0], self._pairs.live.a), _rate(singles[1], self._pairs.live.b)
        expected = np.zeros(counts.size)
        if singles[0] and singles[1]:
            for offset in offsets:
                live_s = self._pairs.live.along_s(offset, left, width, counts.size)
                expected += live_s * (rates[0] * rates[1] * width * 1e-12 / len(offsets))
        centres = left + width * (np.arange(counts.size, dtype=np.float64) + 0.5)
        return Correlation(centres, counts, width, expected, *singles, rates, self._pairs.live_s)

    def _count(self, i: int, j: int, a: TimesPs, b: TimesPs, offset: int) -> None:
        from . import _kernels

        _kernels.histogram(a, b, self._left + offset, self._bin, self._counts)


class CorrelationHistogram(_DelayHistogram):
    """Histogram of all delays between two channels, of one stream or of two.

    Every pair within the window counts, not only neighbours, so there is no pile-up. The same
    channel twice, in one stream, gives the autocorrelation, without each click's own zero. The
    result does not depend on how the streams were cut. Clicks inside losses do not count, pairs
    across a step of a clock (a loss of kind ``clock`` in either stream) neither. A bin
    that is no multiple of the tagger's time step gives a comb: see the resolution.

    Cost: some 4 ns per tag and 4 ns per pair, or 1.6 ns per tag and bin where that is less: so a
    wide window costs no more than its bins. The first use on a machine compiles for 5-10 s.

    Memory: four times the clicks within the window and within the lead of one stream over the
    other, at 8 bytes, and 2 MB per channel, at most; 16 bytes per loss.

    Args:
        channel_a: Start channel.
        channel_b: Stop channel; positive delays mean b clicks later.
        window_ps: Full width; the bins cover [-window/2, window/2), less what is no whole bin.
        bin_ps: Width of a bin.
        delay_ps: Delay of b against a, subtracted.
    """

    def __init__(
        self, channel_a: int, channel_b: int, window_ps: int, bin_ps: int, *, delay_ps: int = 0
    ) -> None:
        super().__init__({channel_a: 0}, {channel_b: delay_ps}, window_ps, bin_ps)


@dataclass(frozen=True)
class LogCorrelation:
    """Histogram of delays click - start in bins whose width grows with the delay.

    Attributes:
        edges_ps: int64 (n + 1,), edges; bin k holds [edges_ps[k], edges_ps[k + 1]).
        counts: int64 (n,), pairs per bin.
        expected: float64 (n,), pairs per bin of uncorrelated streams with these rates: one rate
            times the other times how long both were live, one so much later, over the bin. So
            neither losses nor the recordings' ends bend g2.
        clicks, starts: Clicks of the two channels.
        live_s: How long both streams were live at the same time, delay subtracted.
    """

    edges_ps: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    expected: npt.NDArray[np.float64]
    clicks: int
    starts: int
    live_s: float

    @property
    def delays_ps(self) -> npt.NDArray[np.float64]:
        """Middles of the bins (n,): the geometric means of their edges."""
        edges = self.edges_ps.astype(np.float64)
        return np.asarray(np.sqrt(edges[:-1] * edges[1:]))

    @property
    def g2(self) -> npt.NDArray[np.float64]:
        """Second-order correlation (n,), 1 for uncorrelated streams; nan where none could be."""
        return _ratio(self.counts, self.expected)

    @property
    def g2_sigma(self) -> npt.NDArray[np.float64]:
        """Poisson error of :attr:`g2` (n,); that of one pair where there is none."""
        return _ratio(np.sqrt(np.maximum(self.counts, 1)), self.expected)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw g2 with its errors against the logarithm of the delay; a new figure without ax."""
        from ._pictures import draw_log

        return draw_log(self, ax)


class HistogramLogBins:
    """Histogram of all positive delays between two channels in logarithmic bins.

    Every pair counts, and each at its exact delay: nothing is averaged over coarser bins as in
    a multi-tau correlator, up to any delay (the way of Laurence et al., Opt. Lett. 31, 829 (2006):
    the sums of ranks at the edges). The same channel twice, in one stream, gives the
    autocorrelation. For negative delays exchange the channels. The result does not depend on how
    the streams were cut. Clicks inside losses do not count, pairs across a step of a clock (a loss
    of kind ``clock``) neither.

    Cost: some 4 ns per tag, and 9 ns per pair in the bins where pairs are few, 1.6 ns per tag in
    each of the others, however long the delay. The first use on a machine compiles for 5-10 s.

    Memory: four times the clicks within ``last_ps`` and within the lead of one stream over the
    other, at 8 bytes, and 2 MB per channel, at most; 16 bytes per loss.

    Args:
        click: Channel of the later clicks (the order of Swabian's class of this name).
        start: Channel of the clicks that delays count from.
        first_ps: First edge, 1 ps or more.
        last_ps: Last edge.
        bins: Number of bins, each wider than the one before by the same factor; edges are whole
            ps, and there are fewer bins where two would fall together.
        delay_ps: Delay of the click channel against the other, subtracted.
    """

    def __init__(
        self,
        click: int,
        start: int,
        first_ps: int,
        last_ps: int,
        bins: int,
        *,
        delay_ps: int = 0,
    ) -> None:
        first_ps, last_ps = whole("an edge", first_ps), whole("an edge", last_ps)
        bins = whole("the number of bins", bins)
        if not 1 <= first_ps < last_ps:
            raise ValueError(f"no logarithmic bins from {first_ps} to {last_ps} ps")
        if not 1 <= bins <= 100_000:
            raise ValueError(f"from 1 to 100000 bins, not {bins}")
        ends = math.log(first_ps), math.log(last_ps)
        edges = [round(math.exp(x)) for x in np.linspace(*ends, bins + 1).tolist()]
        edges[0], edges[-1] = first_ps, last_ps
        self._pairs = Pairs(
            ((start,), (click,)),
            ({}, {click: delay_ps}),
            (first_ps, last_ps - 1),
            self._count,
        )
        self._edges = np.unique(np.clip(edges, first_ps, last_ps).astype(np.int64))
        self._counts = np.zeros(self._edges.size - 1, np.int64)
        self._own = click == start
        self._finished = False

    def add(self, clicks: TagBatch, starts: TagBatch | None = None) -> None:
        """Take the next batch of each stream; without ``starts`` both channels are of one stream.

        Raises:
            ValueError: for a batch that does not follow on the last; after the end.
        """
        if self._finished:
            raise finished(self)
        self._pairs.add(*((clicks, None) if starts is None else (starts, clicks)))
        self._own = self._own and starts is None

    def finish(self) -> LogCorrelation:
        """End the streams and return the result."""
        self._pairs.finish()
        self._finished = True
        return self.so_far()

    def so_far(self) -> LogCorrelation:
        """Return what is counted so far, without what still waits; the streams go on."""
        self._pairs.catch_up()
        edges, counts = self._edges, self._counts.copy()
        starts, clicks = self._pairs.singles
        delay, live = self._pairs.offsets[0], self._pairs.live
        own = int(np.searchsorted(edges, -delay, "right")) - 1
        if self._own and 0 <= own < counts.size:
            counts[own] -= self._pairs.come_up  # each click with itself
        expected = np.zeros(counts.size)
        if starts and clicks:
            expected = live.over_s2(delay, edges) * (_rate(starts, live.a) * _rate(clicks, live.b))
        return LogCorrelation(edges, counts, expected, clicks, starts, self._pairs.live_s)

    def _count(self, i: int, j: int, a: TimesPs, b: TimesPs, offset: int) -> None:
        from . import _kernels

        _kernels.count_between(a, b, self._edges + offset, self._counts)


def _rate(clicks: int, live: LiveTime) -> float:
    seconds = live.total_s
    return clicks / seconds if seconds else math.nan


def _ratio(counts: npt.NDArray[Any], expected: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, counts / expected, np.nan)


def delay_histogram(
    batches: tuple[TagBatch, TagBatch],
    delays: tuple[Mapping[int, int], Mapping[int, int]],
    span_ps: int,
    bin_ps: int,
) -> Correlation:
    """Return the delays left between any channel of one party and any of the other.

    Args:
        batches: One of each party.
        delays: Delay of each channel that counts, ps, subtracted from its times.
        span_ps: Full width of the histogram.
        bin_ps: Width of a bin.
    """
    histogram = _DelayHistogram(delays[0], delays[1], span_ps, bin_ps)
    histogram.add(*batches)
    return histogram.finish()
