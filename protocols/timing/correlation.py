"""Second-order correlation of two channels, in bins of equal or of growing width."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...instruments import TagBatch, TimesPs
from ._streams import Pairs, less_delays

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
        singles_a, singles_b: Clicks of the two channels.
        live_s: Shorter of the live times.
    """

    delays_ps: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    bin_ps: int
    singles_a: int
    singles_b: int
    live_s: float

    @property
    def expected(self) -> float:
        """Pairs per bin of uncorrelated streams with these rates; 0 without clicks."""
        if not self.live_s:
            return 0.0
        return self.singles_a * self.singles_b * self.bin_ps * 1e-12 / self.live_s

    @property
    def g2(self) -> npt.NDArray[np.float64]:
        """Second-order correlation (n,), 1 for uncorrelated streams; nan without clicks."""
        return self.counts / (self.expected or math.nan)

    def g2_within(self, window_ps: int) -> tuple[float, float]:
        """Mean g2 over the bins that lie within window/2 of zero delay, and its Poisson sigma.

        For no pair at all sigma is that of one pair. (nan, nan) where no bin fits.
        """
        inside = np.abs(self.delays_ps) + self.bin_ps / 2 <= window_ps / 2
        expected = self.expected * int(inside.sum())
        if not expected:
            return math.nan, math.nan
        pairs = int(self.counts[inside].sum())
        return pairs / expected, math.sqrt(max(pairs, 1)) / expected

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


class CorrelationHistogram:
    """Histogram of all delays between two channels, of one stream or of two.

    Every pair within the window counts, not only neighbours, so there is no pile-up. The same
    channel twice, in one stream, gives the autocorrelation, without each click's own zero. The
    result does not depend on how the streams were cut. Clicks inside losses do not count. A bin
    that is no multiple of the tagger's time step gives a comb: see the resolution.

    Cost: some 4 ns per tag and 4 ns per pair, or 1.6 ns per tag and bin where that is less: so a
    wide window costs no more than its bins. The first use on a machine compiles for 5-10 s.

    Memory: four times the clicks within the window and within the lead of one stream over the
    other, at 8 bytes, and 2 MB per channel, at most.

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
        if bin_ps < 1 or window_ps < bin_ps:
            raise ValueError(f"no bin of {bin_ps} ps fits into a window of {window_ps} ps")
        if window_ps // bin_ps > 10_000_000:
            raise ValueError("more than 10 million bins: take wider bins or a narrower window")
        self._bin = bin_ps
        self._counts = np.zeros(window_ps // bin_ps, np.int64)
        span = self._counts.size * bin_ps
        self._left = -(span // 2)
        self._own = channel_a == channel_b
        self._delay = delay_ps
        self._pairs = Pairs(
            ((channel_a,), (channel_b,)),
            ({}, {channel_b: delay_ps}),
            (self._left, self._left + span - 1),
            self._count,
        )
        self._live = [0.0, 0.0]

    def add(self, a: TagBatch, b: TagBatch | None = None) -> None:
        """Take the next batch of each stream; without ``b`` both channels are of one stream."""
        self._pairs.add(a, b)
        self._own = self._own and b is None
        self._live[0] += a.live_s
        self._live[1] += (a if b is None else b).live_s

    def finish(self) -> Correlation:
        """End the streams and return the result."""
        self._pairs.finish()
        counts = self._counts.copy()
        singles_a, singles_b = self._pairs.singles
        own = (-self._delay - self._left) // self._bin
        if self._own and 0 <= own < counts.size:
            counts[own] -= singles_a  # each click with itself
        centres = self._left + self._bin * (np.arange(counts.size, dtype=np.float64) + 0.5)
        return Correlation(centres, counts, self._bin, singles_a, singles_b, min(self._live))

    def _count(self, i: int, j: int, a: TimesPs, b: TimesPs, offset: int) -> None:
        from . import _kernels

        _kernels.histogram(a, b, self._left + offset, self._bin, self._counts)


@dataclass(frozen=True)
class LogCorrelation:
    """Histogram of delays b - a in bins whose width grows with the delay.

    Attributes:
        edges_ps: int64 (n + 1,), edges; bin k holds [edges_ps[k], edges_ps[k + 1]).
        counts: int64 (n,), pairs per bin.
        expected: float64 (n,), pairs per bin of uncorrelated streams with these rates: rate of a
            times rate of b times how long a was live with b live so much later, over the bin. So
            neither the recording's end nor losses bend g2.
        singles_a, singles_b: Clicks of the two channels.
        live_s: Shorter of the live times.
    """

    edges_ps: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    expected: npt.NDArray[np.float64]
    singles_a: int
    singles_b: int
    live_s: float

    @property
    def delays_ps(self) -> npt.NDArray[np.float64]:
        """Middles of the bins (n,): the geometric means of their edges."""
        edges = self.edges_ps.astype(np.float64)
        return np.asarray(np.sqrt(edges[:-1] * edges[1:]))

    @property
    def g2(self) -> npt.NDArray[np.float64]:
        """Second-order correlation (n,), 1 for uncorrelated streams; nan where none could be."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.expected > 0, self.counts / self.expected, np.nan)

    @property
    def g2_sigma(self) -> npt.NDArray[np.float64]:
        """Poisson error of :attr:`g2` (n,); that of one pair where there is none."""
        with np.errstate(divide="ignore", invalid="ignore"):
            sigma = np.sqrt(np.maximum(self.counts, 1)) / self.expected
        return np.where(self.expected > 0, sigma, np.nan)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw g2 with its errors against the logarithm of the delay; a new figure without ax."""
        from ._pictures import draw_log

        return draw_log(self, ax)


class HistogramLogBins:
    """Histogram of all positive delays between two channels in logarithmic bins.

    Every pair counts, and each at its exact delay: nothing is averaged over coarser bins as in
    a multi-tau correlator, up to any delay (the way of Laurence et al., Opt. Lett. 31, 829 (2006):
    the sums of ranks at the edges). The same channel twice, in one stream, gives the
    autocorrelation. For delays of a after b, exchange the channels. The result does not depend
    on how the streams were cut. Clicks inside losses do not count.

    Cost: some 4 ns per tag, and 9 ns per pair in the bins where pairs are few, 1.6 ns per tag in
    each of the others, however long the delay. The first use on a machine compiles for 5-10 s.

    Memory: four times the clicks within ``last_ps`` and within the lead of one stream over the
    other, at 8 bytes, and 2 MB per channel, at most; 32 bytes per loss.

    Args:
        channel_a: Start channel.
        channel_b: Stop channel.
        first_ps: First edge, 1 ps or more.
        last_ps: Last edge.
        bins: Number of bins, each wider than the one before by the same factor; edges are whole
            ps, and there are fewer bins where two would fall together.
        delay_ps: Delay of b against a, subtracted.
    """

    def __init__(
        self,
        channel_a: int,
        channel_b: int,
        first_ps: int,
        last_ps: int,
        bins: int,
        *,
        delay_ps: int = 0,
    ) -> None:
        if not 1 <= first_ps < last_ps:
            raise ValueError(f"no logarithmic bins from {first_ps} to {last_ps} ps")
        if not 1 <= bins <= 100_000:
            raise ValueError(f"from 1 to 100000 bins, not {bins}")
        ends = math.log(first_ps), math.log(last_ps)
        edges = [round(math.exp(x)) for x in np.linspace(*ends, bins + 1).tolist()]
        edges[0], edges[-1] = first_ps, last_ps
        self._pairs = Pairs(
            ((channel_a,), (channel_b,)),
            ({}, {channel_b: delay_ps}),
            (first_ps, last_ps - 1),
            self._count,
        )
        self._edges = np.unique(np.clip(edges, first_ps, last_ps).astype(np.int64))
        self._counts = np.zeros(self._edges.size - 1, np.int64)
        self._own = channel_a == channel_b
        self._delay = delay_ps
        self._live = _LiveTime(), _LiveTime()

    def add(self, a: TagBatch, b: TagBatch | None = None) -> None:
        """Take the next batch of each stream; without ``b`` both channels are of one stream."""
        self._pairs.add(a, b)
        self._own = self._own and b is None
        self._live[0].add(a)
        self._live[1].add(a if b is None else b)

    def finish(self) -> LogCorrelation:
        """End the streams and return the result."""
        self._pairs.finish()
        edges, counts = self._edges, self._counts.copy()
        singles = self._pairs.singles
        own = int(np.searchsorted(edges, -self._delay, "right")) - 1
        if self._own and 0 <= own < counts.size:
            counts[own] -= singles[0]  # each click with itself
        live_a, live_b = (live.total_s for live in self._live)
        expected = np.zeros(counts.size)
        if live_a and live_b:
            bins = itertools.pairwise((self._delay + edges).tolist())
            both = [self._live[0].overlap_s2(self._live[1], *each) for each in bins]
            expected = singles[0] / live_a * singles[1] / live_b * np.array(both)
        return LogCorrelation(edges, counts, expected, *singles, min(live_a, live_b))

    def _count(self, i: int, j: int, a: TimesPs, b: TimesPs, offset: int) -> None:
        from . import _kernels

        _kernels.count_between(a, b, self._edges + offset, self._counts)


class _LiveTime:
    """When a stream was live."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []

    def add(self, batch: TagBatch) -> None:
        at = batch.begin_ps
        for loss in sorted(batch.losses, key=lambda loss: loss.begin_ps):
            self._span(at, min(loss.begin_ps, batch.end_ps))
            at = max(at, loss.end_ps)
        self._span(at, batch.end_ps)

    def _span(self, begin: int, end: int) -> None:
        if end <= begin:
            return
        if self._ends and self._ends[-1] == begin:
            self._ends[-1] = end
        else:
            self._begins.append(begin)
            self._ends.append(end)

    @property
    def total_s(self) -> float:
        return (sum(self._ends) - sum(self._begins)) * 1e-12

    def overlap_s2(self, other: _LiveTime, first_ps: int, last_ps: int) -> float:
        """How long this was live with the other live later by t, integrated over t; seconds^2."""
        if not (self._begins and other._begins):
            return 0.0
        at = np.array([other._begins, other._ends], np.float64).T.ravel()
        live = np.concatenate([[0.0], np.repeat(np.cumsum(at[1::2] - at[::2]), 2)[:-1]])
        area = np.cumsum((live[1:] + live[:-1]) / 2 * np.diff(at))
        area = np.concatenate([[0.0], area])
        narrow = last_ps - first_ps < 1e-4 * (at[-1] - at[0])

        def until(edges: list[int], later: float) -> npt.NDArray[np.float64]:
            """The other's live time up to so much later than the edges; its integral if wide."""
            x = np.array(edges, np.float64) + later
            so_far: npt.NDArray[np.float64] = np.interp(x, at, live)
            if narrow:
                return so_far
            k = np.clip(np.searchsorted(at, x) - 1, 0, at.size - 1)
            so_far = area[k] + (x - at[k]) * (live[k] + so_far) / 2
            return np.where(x > at[0], so_far, 0.0)

        if narrow:
            middle = (first_ps + last_ps) / 2
            both = (until(self._ends, middle) - until(self._begins, middle)).sum()
            return float(both) * (last_ps - first_ps) * 1e-24
        ends = until(self._ends, last_ps) - until(self._ends, first_ps)
        begins = until(self._begins, last_ps) - until(self._begins, first_ps)
        return float((ends - begins).sum()) * 1e-24


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
    histogram = CorrelationHistogram(0, 0, span_ps, bin_ps)
    histogram.add(*map(_on_one_channel, batches, delays))
    return histogram.finish()


def _on_one_channel(batch: TagBatch, delays: Mapping[int, int]) -> TagBatch:
    """The clicks of the channels named, all on channel 0, less their channel's delay."""
    _, times = less_delays(batch, delays)
    earliest, latest = min(delays.values()), max(delays.values())
    return TagBatch(
        np.sort(times),
        np.zeros(times.size, np.int16),
        batch.begin_ps - latest,
        batch.end_ps - earliest,
    )
