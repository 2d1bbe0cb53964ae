"""Second-order correlation of two channels, linear bins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...instruments import TagBatch
from ._streams import DelayLine, Pairing, less_delays

__all__ = ["Correlation", "CorrelationHistogram", "delay_histogram"]


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


class CorrelationHistogram:
    """Histogram of all delays between two channels, of one stream or of two.

    Every pair within the window counts, not only neighbours, so there is no pile-up. The same
    channel twice, in one stream, gives the autocorrelation, without each click's own zero. The
    result does not depend on how the streams were cut. Clicks inside losses do not count. A bin
    that is no multiple of the tagger's time step gives a comb: see the resolution.

    Cost: some 20 ns per tag and a few ns per pair.

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
        self._channels = channel_a, channel_b
        self._lines = DelayLine([channel_a], {}), DelayLine([channel_b], {channel_b: delay_ps})
        self._pairing = Pairing(self._left, self._left + span)
        self._singles = [0, 0]
        self._live = [0.0, 0.0]
        self._own_zeros = 0
        self._delay = delay_ps

    def add(self, a: TagBatch, b: TagBatch | None = None) -> None:
        """Take the next batch of each stream; without ``b`` both channels are of one stream."""
        own = b is None and self._channels[0] == self._channels[1]
        b = a if b is None else b
        self._live[0] += a.live_s
        self._live[1] += b.live_s
        clicks = self._feed(a, b)
        if own:
            self._own_zeros += clicks

    def finish(self) -> Correlation:
        """End the streams and return the result."""
        self._feed(None, None)
        counts = self._counts.copy()
        own = (-self._delay - self._left) // self._bin
        if self._own_zeros and 0 <= own < counts.size:
            counts[own] -= self._own_zeros  # each click with itself
        centres = self._left + self._bin * (np.arange(counts.size, dtype=np.float64) + 0.5)
        singles_a, singles_b = self._singles
        return Correlation(centres, counts, self._bin, singles_a, singles_b, min(self._live))

    def _feed(self, a: TagBatch | None, b: TagBatch | None) -> int:
        from . import _kernels

        line_a, line_b = self._lines
        clicks = line_a.feed(a), line_b.feed(b)
        self._singles[0] += clicks[0][0].size
        self._singles[1] += clicks[1][0].size
        ready = self._pairing.feed(*clicks, line_a.watermark, line_b.watermark)
        _kernels.histogram(ready[0], ready[2], self._left, self._bin, self._counts)
        return clicks[0][0].size


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
