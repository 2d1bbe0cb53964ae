"""Delays between two taggers that share a frequency but not a start.

Coarse: both streams are binned and correlated by FFT, block by block, until a peak stands out of
the local background; fine: the differences of the clicks around it, per pair of channels. Method
after Ho, Lamas-Linares and Kurtsiefer, New J. Phys. 11, 045011 (2009), without their folding,
which would add background once the recording is longer than the period.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from ...instruments import ProtocolError, TagBatch, TimesPs
from ._streams import less_delays, live

__all__ = ["ChannelDelays", "OffsetEstimate", "find_channel_delays", "find_offset"]

#: Significance, in sigma, at which a peak counts. 7 sigma by chance: 1e-12 per place looked at.
THRESHOLD = 7.0

_COARSE_PS = 100_000  # wide enough to gather channels with different delays in few bins
_FINE_PS = 1_000
_AROUND_PS = 1_000_000  # fine search on either side of the coarse peak
_WIDTHS = (1, 2, 4, 8)  # bins a coarse peak may spread over
_LOCAL = 1001  # bins of the local background
_FINE_BINS = 10_000_000  # of a search at fine steps: 5 ms to either side
_PAIRS = 2e9  # differences that a search may look at, 10 ns each
_PAIRS_PER_S = 5e7  # more of them per second of data, and the FFT is faster


@dataclass(frozen=True, slots=True)
class OffsetEstimate:
    """How much later the clicks of B are than their partners of A.

    Attributes:
        offset_ps: t_b - t_a of the highest peak; the best guess where none was found.
        sigma_ps: Its standard error; nan where none was found.
        fwhm_ps: Width of the peak (Gaussian); nan where none was found.
        significance: Of the coarse peak above its background, in sigma.
    """

    offset_ps: float
    sigma_ps: float
    fwhm_ps: float
    significance: float

    @property
    def found(self) -> bool:
        """Whether there is a peak."""
        return self.significance >= THRESHOLD and not math.isnan(self.sigma_ps)


@dataclass(frozen=True, slots=True)
class ChannelDelays:
    """Delays that, subtracted from the times, bring all coincidences to zero.

    The first channel of A is the reference (0 ps); the delays of B contain the offset.

    Attributes:
        delays_a, delays_b: ps per channel.
        sigma_a, sigma_b: Their standard errors, ps.
        fwhm_ps: Median width of the coincidence peaks.
        offset: The coarse find.
    """

    delays_a: Mapping[int, int]
    delays_b: Mapping[int, int]
    sigma_a: Mapping[int, float]
    sigma_b: Mapping[int, float]
    fwhm_ps: float
    offset: OffsetEstimate


@dataclass(frozen=True, slots=True)
class _Peak:
    centre_ps: float
    sigma_ps: float
    fwhm_ps: float


def find_offset(
    times_a: TimesPs, times_b: TimesPs, *, search_ps: int = 50_000_000_000
) -> OffsetEstimate:
    """Find the constant offset between two sorted streams of clicks.

    For clocks that share a reference: it finds weaker links than :func:`find_clock`, and within
    some ms sooner. Clocks of their own drift out of its bins: take that one.

    The recordings must overlap by more than ``search_ps``. Channels may be mixed, with delays
    that differ by up to some 400 ns; the estimate then is that of their highest peak.

    A peak must stand out of the accidentals within a bin of 100 ns. Where it does not, clicks are
    few and the range is 5 ms or less, bins of 1 ns are tried: that finds a link of ten times less
    transmission, if its channels' delays differ by some ns at most.

    Cost: 4 * search / 100 ns bins are transformed per block of 2 * search, blocks being added
    until the peak is clear: 0.2 s for a strong source and the default range, 0.1 s per 0.1 s of
    data else; then some 20 ns per click.

    Args:
        times_a: int64 (n,), non-decreasing ps.
        times_b: int64 (m,), likewise.
        search_ps: Offsets from -search to +search are found.

    Returns:
        The estimate; look at ``found``. A dark bench gives a low significance, no exception.
    """
    coarse, significance = _coarse(times_a, times_b, search_ps)
    if significance < THRESHOLD:
        return OffsetEstimate(coarse, math.nan, math.nan, significance)
    peak = _fine(times_a, times_b, coarse)
    if peak is None:
        return OffsetEstimate(coarse, math.nan, math.nan, significance)
    return OffsetEstimate(peak.centre_ps, peak.sigma_ps, peak.fwhm_ps, significance)


def find_channel_delays(
    a: TagBatch,
    b: TagBatch,
    *,
    channels_a: Sequence[int] | None = None,
    channels_b: Sequence[int] | None = None,
    search_ps: int = 50_000_000_000,
    known: tuple[Mapping[int, int], Mapping[int, int]] | None = None,
) -> ChannelDelays:
    """Find the delay of every channel of two taggers from their coincidences.

    Each pair of channels that shows a peak gives one difference of delays; all of them are
    solved together by weighted least squares. Channels need no peak with each other, only a
    chain of peaks. Within one party delays may differ by up to some 400 ns.

    Cost: that of :func:`find_offset`, and some 20 ns per click and channel of the other party.

    Args:
        a: Clicks of the first party; losses are left out.
        b: Clicks of the second.
        channels_a: Channels that must be found; those with clicks by default.
        channels_b: Likewise.
        search_ps: Range of the unknown offset.
        known: Delays of each party's channels among themselves, ps, from an earlier and brighter
            recording. Only the offset between the parties is then looked for, in the coincidences
            of all channels together: it takes far fewer.

    Raises:
        ProtocolError: without a peak (dark bench), or if a channel takes part in none.
    """
    if known is not None:
        return _with_known(a, b, known, search_ps)
    streams_a, streams_b = _by_channel(a, channels_a), _by_channel(b, channels_b)
    alive_a, alive_b = (_merged(streams) for streams in (streams_a, streams_b))
    coarse, significance = _coarse(alive_a, alive_b, search_ps)
    if significance < THRESHOLD:
        raise _no_peak(search_ps, significance, a.duration_s, alive_a.size, alive_b.size)
    peaks: dict[tuple[int, int], _Peak] = {}
    for (ca, times_a), (cb, times_b) in product(streams_a.items(), streams_b.items()):
        peak = _fine(times_a, times_b, coarse)
        if peak is not None:
            peaks[ca, cb] = peak
    delays, sigmas = _solve(peaks, list(streams_a), list(streams_b))
    split = len(streams_a)
    rounded = [round(delay) for delay in delays]
    best = min(peaks.values(), key=lambda peak: peak.sigma_ps)
    return ChannelDelays(
        dict(zip(streams_a, rounded[:split], strict=True)),
        dict(zip(streams_b, rounded[split:], strict=True)),
        dict(zip(streams_a, sigmas[:split], strict=True)),
        dict(zip(streams_b, sigmas[split:], strict=True)),
        float(np.median([peak.fwhm_ps for peak in peaks.values()])),
        OffsetEstimate(best.centre_ps, best.sigma_ps, best.fwhm_ps, significance),
    )


def _with_known(
    a: TagBatch, b: TagBatch, known: tuple[Mapping[int, int], Mapping[int, int]], search_ps: int
) -> ChannelDelays:
    times = []
    for batch, delays in zip((a, b), known, strict=True):
        alive = live(batch)
        clicks = TagBatch(
            batch.times_ps[alive], batch.channels[alive], batch.begin_ps, batch.end_ps
        )
        times.append(np.sort(less_delays(clicks, delays)[1]))
    found = find_offset(times[0], times[1], search_ps=search_ps)
    if not found.found:
        sizes = times[0].size, times[1].size
        raise _no_peak(search_ps, found.significance, a.duration_s, *sizes)
    offset = round(found.offset_ps)
    return ChannelDelays(
        dict(known[0]),
        {channel: delay + offset for channel, delay in known[1].items()},
        dict.fromkeys(known[0], 0.0),
        dict.fromkeys(known[1], found.sigma_ps),
        found.fwhm_ps,
        found,
    )


def _no_peak(
    search_ps: int, significance: float, seconds: float, clicks_a: int, clicks_b: int
) -> ProtocolError:
    if not (clicks_a and clicks_b):
        which = "neither party has" if clicks_a == clicks_b else "one of the parties has not"
        return ProtocolError(
            f"{which} a single click in {seconds:.3g} s: are the detectors biased and enabled, the"
            " tagger's inputs too, and is the source on?"
        )
    return ProtocolError(
        f"no coincidence peak within +-{search_ps * 1e-9:g} ms: the best place shows"
        f" {significance:.1f} sigma of the {THRESHOLD:g} needed, in {seconds:.3g} s with"
        f" {clicks_a} and {clicks_b} clicks; is the source on and aligned, did"
        " they start within the range, do both taggers share their reference (on_one_clock finds"
        " the delays where they do not)?"
    )


def _by_channel(batch: TagBatch, wanted: Sequence[int] | None) -> dict[int, TimesPs]:
    alive = live(batch)
    times, channels = batch.times_ps[alive], batch.channels[alive]
    names = np.unique(channels).tolist() if wanted is None else list(wanted)
    return {channel: times[channels == channel] for channel in names}


def _merged(streams: dict[int, TimesPs]) -> TimesPs:
    return np.sort(np.concatenate([np.zeros(0, np.int64), *streams.values()]))


def _blocks(
    a: TimesPs, b: TimesPs, search_ps: int, bins: int
) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Yield histograms of a block of A and of what B may hold for it, search earlier to later."""
    length = bins * _COARSE_PS - 2 * search_ps
    start = int(a[0])
    while start <= int(a[-1]):
        i, j = np.searchsorted(a, [start, start + length])
        k, m = np.searchsorted(b, [start - search_ps, start + length + search_ps])
        if j > i and m > k:
            of_a = np.bincount((a[i:j] - start) // _COARSE_PS, minlength=bins)
            of_b = np.bincount((b[k:m] - start + search_ps) // _COARSE_PS, minlength=bins)
            yield of_a.astype(np.float64), of_b[:bins].astype(np.float64)
        start += length


def _coarse(a: TimesPs, b: TimesPs, search_ps: int) -> tuple[float, float]:
    """Return the offset to a few coarse bins, and its significance."""
    from scipy.fft import irfft, next_fast_len, rfft

    if search_ps < _AROUND_PS:
        raise ValueError(f"a search range below {_AROUND_PS} ps needs no search")
    if not (a.size and b.size):
        return 0.0, 0.0
    if (sparse := _differences(a, b, search_ps, _COARSE_PS)) is not None:
        fine = None
        if sparse[1] < THRESHOLD:
            fine = _differences(a, b, search_ps, _FINE_PS)
        return sparse if fine is None or fine[1] < sparse[1] else fine
    lags = 2 * search_ps // _COARSE_PS + 1
    bins = int(next_fast_len(2 * lags, real=True))
    spectrum = np.zeros(bins // 2 + 1, np.complex128)
    best = (0.0, 0.0)
    done, check = 0, 1
    for of_a, of_b in _blocks(a, b, search_ps, bins):
        spectrum += np.conj(rfft(of_a)) * rfft(of_b)
        done += 1
        if done == check:  # each look costs as much as a block
            best = _highest(irfft(spectrum, bins)[:lags], search_ps)
            check *= 2
            if best[1] >= 2 * THRESHOLD:
                return best
    if done and 2 * done != check:
        best = _highest(irfft(spectrum, bins)[:lags], search_ps)
    return best


def _differences(a: TimesPs, b: TimesPs, search_ps: int, bin_ps: int) -> tuple[float, float] | None:
    """The same from every difference, for sparse clicks; None where there are too many."""
    from . import _kernels

    span = max(int(max(a[-1], b[-1]) - min(a[0], b[0])), 1)
    pairs = a.size * b.size * (2 * search_ps / span)
    if pairs > min(_PAIRS, _PAIRS_PER_S * span * 1e-12) or 2 * search_ps > _FINE_BINS * bin_ps:
        return None
    counts = np.zeros(2 * search_ps // bin_ps, np.int64)
    _kernels.histogram(a, b, -search_ps, bin_ps, counts)
    return _highest(counts.astype(np.float64), search_ps, bin_ps)


def _highest(
    pairs: npt.NDArray[np.float64], search_ps: int, bin_ps: int = _COARSE_PS
) -> tuple[float, float]:
    """Return place and significance of the highest peak in a correlation."""
    from scipy.ndimage import uniform_filter1d

    pairs = np.maximum(pairs, 0.0)
    ground = np.maximum(uniform_filter1d(pairs, min(_LOCAL, pairs.size)), 0.0)
    total = np.concatenate([[0.0], np.cumsum(pairs)])
    best = (0.0, 0.0)
    for width in _WIDTHS:
        sums = total[width:] - total[:-width]
        middle = ground[width // 2 :][: sums.size] * width
        excess = sums - middle
        place = int(np.argmax(excess / np.sqrt(middle + 1.0)))
        # Poisson deviance holds for few counts; the measured scatter for correlated background.
        significance = min(
            _significance(float(sums[place]), float(middle[place])),
            float(excess[place] / (np.std(excess) or 1.0)),
        )
        if significance > best[1]:
            best = ((place + width / 2) * bin_ps - search_ps, significance)
    return best


def _significance(count: float, mean: float) -> float:
    """Return sigma of a Poisson excess: the signed root of its deviance."""
    if count <= mean:
        return 0.0
    mean = max(mean, 1e-9)
    return math.sqrt(2 * (count * math.log(count / mean) - (count - mean)))


def _fine(a: TimesPs, b: TimesPs, around_ps: float) -> _Peak | None:
    """Find the peak within 1 us of a place; None where nothing stands out."""
    from . import _kernels

    left = round(around_ps) - _AROUND_PS
    counts = np.zeros(2 * _AROUND_PS // _FINE_PS, np.int64)
    _kernels.histogram(a, b, left, _FINE_PS, counts)
    pairs = counts[:-1] + counts[1:]  # a peak may lie across an edge
    place = int(np.argmax(pairs))
    ground = float(np.mean(np.delete(counts, slice(max(place - 5, 0), place + 7))))
    if _significance(float(pairs[place]), 2 * ground) < THRESHOLD:
        return None
    centre = left + (place + 1) * _FINE_PS
    reach = 6 * _FINE_PS
    found = _kernels.differences(a, b, centre - reach, centre + reach, np.zeros(0, np.int64))
    steps = np.empty(found, np.int64)
    _kernels.differences(a, b, centre - reach, centre + reach, steps)
    return _centroid(steps - centre, ground / _FINE_PS, centre)


def _centroid(steps: npt.NDArray[np.int64], ground: float, centre: int) -> _Peak | None:
    """Refine a peak: background-corrected mean and width, in a window of three sigma each way."""
    mean, half = 0.0, 2.0 * _FINE_PS
    for _ in range(50):
        inside = steps[np.abs(steps - mean) <= half] - mean
        net = inside.size - ground * 2 * half
        if net <= 0:
            return None
        variance = (float(inside @ inside) - ground * 2 * half**3 / 3) / net
        shift = float(inside.sum()) / net
        mean += shift
        width = math.sqrt(max(variance - shift**2, 1.0))
        before, half = half, min(max(3 * width, 100.0), 3.0 * _FINE_PS)
        if abs(shift) < 0.01 and abs(half - before) < 0.1:
            break
    error = math.sqrt(float(inside @ inside) + 1 / 12) / net
    return _Peak(centre + mean, error, 2.355 * width / 0.987)  # a Gaussian cut at 3 sigma


def _solve(
    peaks: Mapping[tuple[int, int], _Peak], channels_a: list[int], channels_b: list[int]
) -> tuple[list[float], list[float]]:
    """Solve delay_b - delay_a = peak for all channels, the first of A being 0."""
    reached = _reached(peaks, channels_a[0])
    names = [("A", c) for c in channels_a] + [("B", c) for c in channels_b]
    missing = [f"{party}{channel}" for party, channel in names if (party, channel) not in reached]
    if missing:
        raise ProtocolError(
            f"no coincidence peak links channels {', '.join(missing)} with A{channels_a[0]}:"
            " is a detector dark, blocked or not biased? Record longer if its rate is low"
        )
    column = {name: i for i, name in enumerate(names)}
    rows = np.zeros((len(peaks) + 1, len(names)))
    values = np.zeros(len(peaks) + 1)
    # Around the first peak, or float64 would lose sub-ps digits to an offset of milliseconds.
    base = next(iter(peaks.values())).centre_ps
    for i, ((ca, cb), peak) in enumerate(peaks.items()):
        weight = 1 / max(peak.sigma_ps, 0.1)
        rows[i, column["B", cb]], rows[i, column["A", ca]] = weight, -weight
        values[i] = (peak.centre_ps - base) * weight
    rows[-1, 0] = 1.0  # the reference
    inverse = np.linalg.pinv(rows.T @ rows)
    solution = inverse @ (rows.T @ values)
    sigmas = np.sqrt(np.maximum(np.diag(inverse), 0.0))
    sigmas[0] = 0.0
    solution -= solution[0]
    solution[len(channels_a) :] += base
    return solution.tolist(), sigmas.tolist()


def _reached(peaks: Mapping[tuple[int, int], _Peak], first: int) -> set[tuple[str, int]]:
    reached = {("A", first)}
    while True:
        more = {("B", cb) for ca, cb in peaks if ("A", ca) in reached}
        more |= {("A", ca) for ca, cb in peaks if ("B", cb) in reached}
        if more <= reached:
            return reached
        reached |= more
