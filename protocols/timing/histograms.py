"""Histograms of times since a start: start-stop, multi-stop, two stops, phase of a clock.

Bin k holds [k bin, (k + 1) bin) after the start. Negative times are seen by giving the start a
delay. Nothing is counted through a loss: starts before it are forgotten, so a start whose range
meets a loss, or the end of the stream, counts only what came until then. To look while the stream
goes on there is ``so_far``.

The names are those of Swabian's software where they mean the same, with bins in ps and without
the tagger; what differs is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...instruments import TagBatch, TimesPs
from ._order import Counting
from ._pieces import CutLine, Ready
from ._streams import whole

__all__ = [
    "Histogram",
    "Histogram2D",
    "HistogramCounts",
    "HistogramCounts2D",
    "PhaseCounts",
    "PhaseHistogram",
    "StartStop",
]

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HistogramCounts:
    """Histogram of the times from starts to clicks.

    Attributes:
        delays_ps: float64 (bins,), centres of the bins.
        counts: int64 (bins,).
        bin_ps: Width of a bin.
        starts, clicks: Clicks of the two channels, outside losses.
        live_s: Recorded time without losses.
    """

    delays_ps: Floats
    counts: Counts
    bin_ps: int
    starts: int
    clicks: int
    live_s: float


@dataclass(frozen=True, eq=False)
class HistogramCounts2D:
    """Histogram of the times from starts to two stops.

    Attributes:
        delays_1_ps, delays_2_ps: float64, centres of the bins along both axes.
        counts: int64 (bins_1, bins_2).
        starts: Clicks of the start channel, outside losses.
        live_s: Recorded time without losses.
    """

    delays_1_ps: Floats
    delays_2_ps: Floats
    counts: Counts
    starts: int
    live_s: float


@dataclass(frozen=True, eq=False)
class PhaseCounts:
    """Histogram of arrival times within a period.

    Attributes:
        phases_ps: float64 (bins,), centres of the bins.
        channels: What the rows are.
        counts: int64 (channels, bins).
        unsynced: int64 (channels,), clicks without a sync before them that is near enough.
        period_ps: The period.
        syncs: Clicks of the sync channel, outside losses.
        live_s: Recorded time without losses.
    """

    phases_ps: Floats
    channels: tuple[int, ...]
    counts: Counts
    unsynced: Counts
    period_ps: float
    syncs: int
    live_s: float


class _AfterStarts(Counting[HistogramCounts]):
    """What StartStop and Histogram share: a start and a click channel, or one that is both."""

    def __init__(
        self,
        click_channel: int,
        start_channel: int | None = None,
        bin_ps: int = 1000,
        bins: int = 1000,
        *,
        delays_ps: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        _check_bins(bin_ps, bins)
        self._same = start_channel is None or start_channel == click_channel
        channels = [click_channel] if start_channel is None or self._same else [
            start_channel,
            click_channel,
        ]  # fmt: skip
        self._line = CutLine(channels, delays_ps or {})
        self._bin = bin_ps
        self._counts = np.zeros(bins, np.int64)
        self._clicks = [0, 0]

    def so_far(self) -> HistogramCounts:
        """Return what is counted so far, without what still waits; the stream goes on."""
        starts, clicks = self._clicks
        return HistogramCounts(
            _centres(self._bin, self._counts.size),
            self._counts.copy(),
            self._bin,
            starts,
            starts if self._same else clicks,
            self._order.live_s,
        )

    def _feed(self, batch: TagBatch | None) -> None:
        for ready, last in self._line.feed(batch):
            starts = int(np.count_nonzero(ready[1] == 0))
            self._clicks[0] += starts
            self._clicks[1] += ready[1].size - starts
            self._count(ready)
            if last:
                self._forget()

    def _count(self, ready: Ready) -> None:
        raise NotImplementedError

    def _forget(self) -> None:
        raise NotImplementedError


class StartStop(_AfterStarts):
    """Time from the last start to each stop; Swabian's ``StartStop`` up to a last bin.

    Each stop goes with the last start at or before it; several stops may go with one start.
    Without a start channel, or with the same, the times between clicks that follow on each other.
    A stop beyond the last bin is left out (Swabian's has no last bin). Pile-up bends this
    histogram at high rates: see :class:`Histogram`. After a loss a stop needs a new start.

    Cost: some 9 ns per tag; memory for the clicks within the delays.

    Args:
        click_channel: Channel of the stops.
        start_channel: Channel of the starts; the same if None.
        bin_ps: Width of a bin.
        bins: Number of bins.
        delays_ps: Delay of each channel, subtracted from its times; 0 where not named.

    Raises:
        ValueError: for bins without width, or more than 10 million.
    """

    _started, _last = False, 0

    def _count(self, ready: Ready) -> None:
        from . import _kernels_many

        times, which, _ = ready
        self._started, self._last = _kernels_many.start_stop(
            times, which, self._same, self._started, self._last, self._bin, self._counts
        )

    def _forget(self) -> None:
        self._started = False


class Histogram(_AfterStarts):
    """Times from each start to all clicks after it, within the bins; Swabian's ``Histogram``.

    A click enters once for each start at or before it that is in range, so there is no pile-up.
    Without a start channel, or with the same, each click starts and is not counted with itself.

    Cost: some 9 ns per tag and 3 ns per count; memory for the starts within the bins and the
    clicks within the delays.

    Args:
        click_channel: Channel of the stops.
        start_channel: Channel of the starts; the same if None.
        bin_ps: Width of a bin.
        bins: Number of bins.
        delays_ps: Delay of each channel, subtracted from its times; 0 where not named.

    Raises:
        ValueError: for bins without width, or more than 10 million.
    """

    _starts = np.zeros(0, np.int64)

    def _count(self, ready: Ready) -> None:
        from . import _kernels_many

        times, which, watermark = ready
        starts = _kernels_many.stops_after(
            self._starts, times, which, self._same, self._bin, self._counts
        )
        out_of_reach = watermark - self._bin * self._counts.size
        self._starts = starts[np.searchsorted(starts, out_of_reach, side="right") :]

    def _forget(self) -> None:
        self._starts = np.zeros(0, np.int64)


class Histogram2D(Counting[HistogramCounts2D]):
    """Times from each start to a stop on each of two channels, for triple coincidences.

    As with Swabian's ``Histogram2D``, the first click of each stop channel at or after the start
    is taken; a start that lacks one of them within the bins does not count. Every start has its
    own stops, also where another start came before them. With ``every``, all pairs of stops in
    range count: the third-order correlation, without pile-up.

    Cost: some 18 ns per tag and 5 ns per count; memory for the clicks within the bins and the
    delays.

    Args:
        start_channel: Channel of the starts.
        stop_channel_1: Channel of the stops along the first axis.
        stop_channel_2: Channel of the stops along the second.
        bin_1_ps: Width of a bin of the first axis.
        bin_2_ps: Width of a bin of the second.
        bins_1: Number of bins of the first axis.
        bins_2: Number of bins of the second.
        every: Count all pairs of stops, not only the first of each channel.
        delays_ps: Delay of each channel, subtracted from its times; 0 where not named.

    Raises:
        ValueError: for bins without width, more than 10 million, or a channel named twice.
    """

    def __init__(
        self,
        start_channel: int,
        stop_channel_1: int,
        stop_channel_2: int,
        bin_1_ps: int,
        bin_2_ps: int,
        bins_1: int,
        bins_2: int,
        *,
        every: bool = False,
        delays_ps: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        _check_bins(bin_1_ps, bins_1)
        _check_bins(bin_2_ps, bins_2)
        _check_bins(1, bins_1 * bins_2)
        channels = [start_channel, stop_channel_1, stop_channel_2]
        self._line = CutLine(channels, delays_ps or {})
        self._bins = bin_1_ps, bin_2_ps
        self._counts = np.zeros((bins_1, bins_2), np.int64)
        self._every = every
        self._span = max(bin_1_ps * bins_1, bin_2_ps * bins_2)
        self._held: list[TimesPs] = []  # starts and both stops
        self._forget()
        self._starts = 0

    def so_far(self) -> HistogramCounts2D:
        """Return what is counted so far, without what still waits; the stream goes on."""
        return HistogramCounts2D(
            _centres(self._bins[0], self._counts.shape[0]),
            _centres(self._bins[1], self._counts.shape[1]),
            self._counts.copy(),
            self._starts,
            self._order.live_s,
        )

    def _feed(self, batch: TagBatch | None) -> None:
        for ready, last in self._line.feed(batch):
            self._count(ready)
            if last:
                self._forget()

    def _count(self, ready: Ready) -> None:
        from . import _kernels_many

        times, which, watermark = ready
        starts, first, second = (
            np.concatenate([held, times[which == i]]) for i, held in enumerate(self._held)
        )
        self._starts += starts.size - self._held[0].size
        over = int(np.searchsorted(starts, watermark - self._span, side="right"))
        _kernels_many.stops_in_two(
            starts[:over], first, second, *self._bins, self._every, self._counts
        )
        rest = starts[over:]
        since = int(rest[0]) if rest.size else watermark
        self._held = [rest, *(stop[np.searchsorted(stop, since) :] for stop in (first, second))]

    def _forget(self) -> None:
        self._held = [np.zeros(0, np.int64)] * 3


class PhaseHistogram(Counting[PhaseCounts]):
    """Arrival times within the period of a pulsed source, against its sync.

    Each click goes with the last sync at or before it, and its time since then is folded by the
    period; so a sync that marks only every n-th pulse serves too. Clicks without a sync near
    enough (the first of the stream, the first after a loss, or where a sync is missing) are not
    counted but said.

    Cost: some 14 ns per tag; memory for the clicks within the delays.

    Args:
        click_channels: Rows of the result.
        sync_channel: Channel of the sync.
        period_ps: Period of the pulses, not necessarily whole.
        bins: Bins that the period is cut into.
        periods: From one sync to the next, in periods. A sync holds half a period longer.
        delays_ps: Delay of each channel, subtracted from its times; 0 where not named.

    Raises:
        ValueError: for a period or bins without length, or a channel named twice.
    """

    def __init__(
        self,
        click_channels: Sequence[int],
        sync_channel: int,
        period_ps: float,
        bins: int = 1000,
        *,
        periods: int = 1,
        delays_ps: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()
        whole("a number of periods", periods)
        if not 0 < period_ps < 1e15 or periods < 1 or period_ps * periods >= 1e15:
            raise ValueError(f"a sync every {periods} x {period_ps} ps is not between 0 and 1000 s")
        _check_bins(1, bins * max(len(click_channels), 1))
        channels = [sync_channel, *click_channels]
        self._line = CutLine(channels, delays_ps or {})
        self._channels = tuple(click_channels)
        self._period = float(period_ps)
        self._longest = (periods + 0.5) * self._period
        self._counts = np.zeros((len(self._channels), bins), np.int64)
        self._unsynced = np.zeros(len(self._channels), np.int64)
        self._synced, self._last = False, 0
        self._syncs = 0

    def so_far(self) -> PhaseCounts:
        """Return what is counted so far, without what still waits; the stream goes on."""
        bins = self._counts.shape[1]
        return PhaseCounts(
            _centres(self._period / bins, bins),
            self._channels,
            self._counts.copy(),
            self._unsynced.copy(),
            self._period,
            self._syncs,
            self._order.live_s,
        )

    def _feed(self, batch: TagBatch | None) -> None:
        from . import _kernels_many

        for (times, which, _), last in self._line.feed(batch):
            self._syncs += int(np.count_nonzero(which == 0))
            self._synced, self._last = _kernels_many.fold_phase(
                times,
                which,
                self._synced,
                self._last,
                self._period,
                self._longest,
                self._counts,
                self._unsynced,
            )
            if last:
                self._synced = False


def _check_bins(bin_ps: int, bins: int) -> None:
    whole("a bin", bin_ps), whole("a number of bins", bins)
    if not (bin_ps >= 1 and bins >= 1):
        raise ValueError(f"{bins} bins of {bin_ps} ps hold nothing")
    if bins > 10_000_000:
        raise ValueError("more than 10 million bins: take wider bins or a narrower range")
    if bin_ps * bins >= 1 << 60:
        raise ValueError(f"{bins} bins of {bin_ps} ps are longer than any recording")


def _centres(bin_ps: float, bins: int) -> Floats:
    return np.asarray(bin_ps * (np.arange(bins) + 0.5))
