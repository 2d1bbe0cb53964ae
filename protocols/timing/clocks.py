"""The clock of one tagger on that of another, from the photons both of them see.

Acquisition: both streams are binned coarsely and correlated by FFT in segments so short that the
largest frequency difference moves a peak by less than a bin; the segments' correlations are added
along straight lines (a tree as in pulsar searches), and the best lines are looked at ever more
finely, down to the jitter, in the differences of the clicks themselves. Coarse correlation after
Ho, Lamas-Linares and Kurtsiefer, New J. Phys. 11, 045011 (2009); bins grow with the data at hand,
because only stretch over bin decides what stands out: ``C sqrt(stretch / bin / (R_a R_b))`` sigma.

Tracking: the centroid of the coincidences of each interval, in Kalman filters of offset and
frequency that assume different clocks; their likelihoods say which of them is right.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...instruments import Channels, Loss, TagBatch, TimesPs, concatenate
from ._delays import DelayLine
from ._streams import FOREVER, live
from .offset import THRESHOLD, _significance

__all__ = ["ClockRecovery", "ClockState", "find_clock"]

Float = npt.NDArray[np.float64]

_RUNGS = (1 << 15, 1 << 17, 1 << 19, 1 << 21)  # stretch / bin of a search; 16 times dearer each
_LOOKS = (4, 6, 8, 24)  # how many places of a rung are looked at finely
_MIN_BIN_PS = 200_000  # coarse bins gather channels of different delays
_PAIRS = 4e5  # differences that a place may need
_MAX_LENGTH = 1 << 17  # bins of a segment
_FINEST_PS = 40.0
_WIDEST_PS = 50_000.0  # jitter of a peak; anything wider is the source's own flicker
_SHORTEST_SPAN_PS = 1e9
_NARROW_PS = 5e6  # first search after a loss, at least, on either side


@dataclass(frozen=True, slots=True)
class ClockState:
    """What is known of B's clock at one time.

    Attributes:
        locked: Whether the figures hold.
        at_ps: Time on A's clock.
        offset_ps: t_b - t_a of partners then; as float64, good to 0.1 ps up to 1000 s.
        frequency: d(t_b)/d(t_a) - 1.
        sigma_ps: Standard error of the offset.
        sigma_frequency: Standard error of the frequency.
        jitter_ps: Rms width of the coincidence peak.
        confidence: Significance of the peak in what was last looked at, in sigma.
        reason: Why it is not locked, in words; empty where it is.
    """

    locked: bool
    at_ps: int
    offset_ps: float
    frequency: float
    sigma_ps: float
    sigma_frequency: float
    jitter_ps: float
    confidence: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Line:
    """t_b - t_a = base + offset + slope (t_a - at), with the peak that shows it."""

    at: int
    base: int
    offset: float
    slope: float
    sigma: float = math.nan
    sigma_slope: float = math.nan
    jitter: float = math.nan
    significance: float = 0.0
    rate: float = 0.0  # coincidences per second
    span: float = 0.0

    def moved(self, at: int) -> _Line:
        """The same line, told for another time."""
        offset = self.offset + self.slope * (at - self.at)
        whole = math.floor(offset)
        return replace(self, at=at, base=self.base + whole, offset=offset - whole)

    def mirrored(self) -> _Line:
        """The line of the streams played backwards."""
        return replace(self, at=-self.at, base=-self.base, offset=-self.offset)


def find_clock(
    a: TagBatch,
    b: TagBatch,
    *,
    search_ps: int = 10**12,
    search_frequency: float = 100e-6,
    around_ps: int = 0,
    delays_a: Mapping[int, int] | None = None,
    delays_b: Mapping[int, int] | None = None,
    pps: tuple[int, int] | None = None,
) -> ClockState:
    """Find offset and frequency of B's clock from one stretch of both recordings.

    The recordings must share some seconds; 0.1 s do for a strong link. What stands out goes as
    ``C sqrt(2e6 / (R_a R_b))`` sigma, with C coincidences and R clicks per second: at 10 kcps each,
    50 coincidences per second are enough. Clocks must keep a straight line within a fraction of
    the stretch; where they do not, the answer holds for that part (``at_ps`` is its middle).

    A pulsed source shows peaks one period apart: the highest is taken. In 56 trials at 80 MHz,
    1.8 to 80 times the accidentals in its peak, it was the right one or none.

    For clocks that share a reference, :func:`find_offset` finds weaker links within some 50 ms:
    30 pairs per second of 10 kcps each, where this one mostly does not.

    Cost: 0.1 s where the first look finds it, 0.5 s for weak links, 1 to 3 s where there is
    nothing, and some 130 ns per click; memory some 100 MB. First use compiles for some 10 s; the
    result is cached.

    Args:
        a: Clicks of the first tagger; losses are left out.
        b: Clicks of the second.
        search_ps: Offsets from ``around_ps`` -search to +search are found.
        search_frequency: Frequency differences up to this are found; 0 for a shared reference.
        around_ps: Middle of the search.
        delays_a: ps per channel, subtracted; only these channels count. By default all channels,
            whose delays may differ by 100 ns: the offset then is that of their highest peak.
        delays_b: Likewise.
        pps: Channels of A and of B that click at each second of UTC. They give frequency and
            offset up to whole seconds, which the hosts' times of start decide, or the photons.
            Photons then are looked for within 1.1 ms of it (paths of light and of pulses differ);
            where there are none, the pulses' own offset is the answer.

    Returns:
        The state in the middle of the stretch that was used; look at ``locked``.
    """
    _check(search_ps, search_frequency)
    clicks_a = _clicks(a, delays_a, None if pps is None else pps[0])
    clicks_b = _clicks(b, delays_b, None if pps is None else pps[1])
    if pps is not None:
        pulses = tuple(
            x.times_ps[live(x) & (x.channels == c)] for x, c in zip((a, b), pps, strict=True)
        )
        spans = (a.begin_ps, a.end_ps), (b.begin_ps, b.end_ps)
        hosts = _host_offset(a.start_unix_ns, b.start_unix_ns)
        found, _, reason = _by_pulses(
            (clicks_a, clicks_b), (pulses[0], pulses[1]), spans, hosts, search_ps, search_frequency
        )
        if found is not None:
            return _state(found)
        return _not_locked((a.begin_ps + a.end_ps) // 2, reason)
    line, reason = _acquire(
        clicks_a,
        clicks_b,
        (a.begin_ps, a.end_ps),
        (b.begin_ps, b.end_ps),
        around_ps,
        search_ps,
        search_frequency,
    )
    if line is None:
        return _not_locked((a.begin_ps + a.end_ps) // 2, reason)
    return _state(line)


def _not_locked(at: int, reason: str) -> ClockState:
    nan = math.nan
    return ClockState(False, at, nan, nan, nan, nan, nan, 0.0, reason)


def _check(search_ps: int, search_frequency: float) -> None:
    if search_ps < 1_000_000:
        raise ValueError(f"search_ps must be at least 1e6, got {search_ps}")
    if not 0 <= search_frequency <= 1e-3:
        raise ValueError(f"search_frequency must lie in 0..1e-3, got {search_frequency}")


def _state(line: _Line) -> ClockState:
    return ClockState(
        True,
        line.at,
        line.base + line.offset,
        line.slope,
        line.sigma,
        line.sigma_slope,
        line.jitter,
        line.significance,
    )


def _clicks(batch: TagBatch, delays: Mapping[int, int] | None, besides: int | None) -> TimesPs:
    """Live clicks of the channels named, less their delays, in order; none of ``besides``."""
    times, channels = batch.times_ps, batch.channels
    if besides is not None:
        batch = replace(
            batch, times_ps=times[channels != besides], channels=channels[channels != besides]
        )
        times, channels = batch.times_ps, batch.channels
    if batch.losses:
        alive = live(batch)
        times, channels = times[alive], channels[alive]
    if delays is None:
        return np.ascontiguousarray(times)
    if not delays:
        raise ValueError("delays of no channel at all: leave them out to use every channel")
    shift = np.zeros(1 << 16, np.int64)
    known = np.zeros(1 << 16, np.bool_)
    for channel, delay in delays.items():
        shift[channel & 0xFFFF], known[channel & 0xFFFF] = delay, True
    index = channels.view(np.uint16)
    keep = known[index]
    moved: TimesPs = times[keep] - shift[index[keep]]
    return np.sort(moved, kind="stable") if len(set(delays.values())) > 1 else moved


# -- acquisition


def _acquire(
    a: TimesPs,
    b: TimesPs,
    span_a: tuple[int, int],
    span_b: tuple[int, int],
    around: int,
    search: int,
    frequency: float,
    rungs: int = len(_RUNGS),
    work: float = 1.2e8,
) -> tuple[_Line | None, str]:
    """Find the line, or say why not."""
    if a.size < 10 or b.size < 10:
        return None, f"too few clicks: {a.size} and {b.size}"
    # The stretch of A whose partners B can have recorded, for the middle of the search.
    begin = max(span_a[0], span_b[0] - around - search)
    end = min(span_a[1], span_b[1] - around + search)
    inner = max(begin, span_b[0] - around), min(end, span_b[1] - around)
    middle = sum(inner) // 2 if inner[0] < inner[1] else (begin + end) // 2
    seconds = (end - begin) * 1e-12
    if seconds <= 0:
        return None, "the recordings share no time within the search range"
    product = a.size / (span_a[1] - span_a[0]) * b.size / (span_b[1] - span_b[0])  # per ps^2
    best = 0.0
    for rung, looks in zip(_RUNGS[:rungs], _LOOKS, strict=False):
        span = min(float(end - begin), math.sqrt(_PAIRS * rung / (7 * product)))
        width = max(math.ceil(span / rung), _MIN_BIN_PS)
        if width == _MIN_BIN_PS:
            span = min(float(end - begin), rung * width)
        if 2 * search / width * max(rung * frequency, 1.0) > work:
            break
        start = int(min(max(middle - span / 2, begin), end - span))
        places = _scan(a, b, start, width, around, search, rung, frequency)
        for z, line in places[:looks]:
            best = max(best, z)
            if z < 4.0:
                break
            found = _zoom_in(a, b, line, float(width), span)
            if found is None:
                continue
            full = _grow(a, b, found, (begin, end))
            if full is not None and abs(full.slope) < 1.05 * frequency + 5 * full.sigma_slope:
                return full, ""
        if width == _MIN_BIN_PS or product * width * span < 10:
            break  # nothing to gain from finer bins, or too few clicks for them
    return None, (
        f"no coincidence peak within +-{search * 1e-9:g} ms and +-{frequency * 1e6:g} ppm in"
        f" {seconds:.3g} s with {a.size} and {b.size} clicks (best place {best:.1f} sigma): is the"
        " source on and aligned, did both taggers start within the search range?"
    )


def _host_offset(start_a_ns: int, start_b_ns: int) -> int | None:
    """t_b - t_a by the hosts' clocks, ps; None where one of them is not told."""
    return (start_a_ns - start_b_ns) * 1000 if start_a_ns and start_b_ns else None


def _by_pulses(
    clicks: tuple[TimesPs, TimesPs],
    pulses: tuple[TimesPs, TimesPs],
    spans: tuple[tuple[int, int], tuple[int, int]],
    hosts: int | None,
    search: int,
    frequency: float,
) -> tuple[_Line | None, bool, str]:
    """The line by pulses once per second, and by photons near it: (line, photons?, why not)."""
    a, b = (_regular(times, frequency) for times in pulses)
    if a.size < 3 or b.size < 3:
        return None, False, f"{a.size} and {b.size} pulses a second apart: at least 3 are needed"
    # Pulses by number of the second; number 0 of both is a guess.
    index_a, index_b = (np.rint((x - x[0]) / _SECOND).astype(np.int64) for x in (a, b))
    guess = int(b[0] - a[0])
    if hosts is not None:
        shifts = [round((hosts - guess) / _SECOND)]
    else:
        low, high = (math.floor((x * search - guess) / _SECOND) for x in (-1, 1))
        shifts = [k for k in range(low, high + 2) if abs(guess + k * _SECOND) <= search * 1.01]
    lines = [
        line
        for shift in shifts
        if (line := _pulse_line(a, index_a, b, index_b - shift)) is not None
    ]
    for line in lines:
        near = _near_pulses(clicks, spans, line)
        if near is not None:
            return near, True, ""
    if len(lines) == 1:
        return lines[0], False, ""
    if not lines:
        return None, False, "no pulses of the same second in both recordings"
    return (
        None,
        False,
        f"{len(lines)} offsets fit the pulses, whole seconds apart, and no coincidences tell which:"
        " give start_unix_ns with both recordings",
    )


def _regular(times: TimesPs, frequency: float) -> TimesPs:
    """Clicks that have another one a second before or after: pulses, not noise."""
    if times.size < 2:
        return times[:0]
    slack = round(_SECOND * (frequency + 1e-6)) + 1000
    keep = np.zeros(times.size, np.bool_)
    for step in (-_SECOND, _SECOND):
        low = np.searchsorted(times, times + step - slack)
        keep |= np.searchsorted(times, times + step + slack, "right") > low
    return times[keep]


def _pulse_line(a: TimesPs, index_a: TimesPs, b: TimesPs, index_b: TimesPs) -> _Line | None:
    _, i, j = np.intersect1d(index_a, index_b, return_indices=True)
    if i.size < 3:
        return None
    at, differences = a[i], b[j] - a[i]
    middle, base = int(at.mean()), int(differences[0])
    t, y = (at - middle).astype(np.float64), (differences - base).astype(np.float64)
    spread = float(t @ t)
    slope = float(t @ y) / spread
    offset = float(y.mean()) - slope * float(t.mean())
    rest = y - offset - slope * t
    jitter = max(math.sqrt(float(rest @ rest) / (i.size - 2)), 10.0)
    return _Line(
        middle,
        base,
        offset,
        slope,
        jitter / math.sqrt(i.size),
        jitter / math.sqrt(spread),
        jitter,
        math.sqrt(2 * i.size * math.log(_SECOND / jitter)),
        1.0,
        float(at[-1] - at[0]),
    )


def _near_pulses(
    clicks: tuple[TimesPs, TimesPs], spans: tuple[tuple[int, int], tuple[int, int]], line: _Line
) -> _Line | None:
    """The photons' line within 1.1 ms of that of the pulses, on clicks freed of its slope."""
    scale = 1 + line.slope
    zero = line.at + line.base
    freed = np.rint((clicks[1] - zero) / scale).astype(np.int64) + zero
    span = (round((spans[1][0] - zero) / scale) + zero, round((spans[1][1] - zero) / scale) + zero)
    around = line.base + round(line.offset / scale)
    slack = 5 * line.sigma_slope + 1e-9
    found, _ = _acquire(clicks[0], freed, spans[0], span, around, 1_100_000_000, slack)
    if found is None:
        return None
    found = found.moved(line.at)
    offset = scale * (found.base - line.base + found.offset)
    whole = math.floor(offset)
    return replace(
        found,
        base=line.base + whole,
        offset=offset - whole,
        slope=scale * (1 + found.slope) - 1,
        sigma=math.hypot(found.sigma, found.sigma_slope * found.span / 2),
    )


def _scan(
    a: TimesPs,
    b: TimesPs,
    start: int,
    width: int,
    around: int,
    search: int,
    rung: int,
    frequency: float,
) -> list[tuple[float, _Line]]:
    """Return the best lines with their sigma, best first, from ``rung`` bins of A."""
    from scipy.fft import irfft, rfft

    from . import _kernels_clocks as kernels

    length = min(rung, _MAX_LENGTH)
    while length > 256 and length * frequency > 1:
        length //= 2
    segments = rung // length
    pad = segments + 1
    left = around - search - pad * width
    strips = math.ceil((2 * search / width + 2 * pad + 1) / length)
    drifts = min(segments, math.ceil(frequency * (segments - 1) * length) + 2)
    binned = np.zeros(rung, np.float32)
    i, j = np.searchsorted(a, [start, start + rung * width])
    kernels.bin_counts(a[i:j], start, width, binned)
    rows = binned.reshape(segments, length)
    rows -= rows.mean(axis=1, keepdims=True)
    of_a = np.conj(rfft(rows, 2 * length, axis=1))

    def block(k: int) -> npt.NDArray[np.float32]:
        counts = np.zeros(length, np.float32)
        begin = start + left + k * length * width
        i, j = np.searchsorted(b, [begin, begin + length * width])
        kernels.bin_counts(b[i:j], begin, width, counts)
        counts -= counts.mean()
        return counts

    previous = block(0)
    ring = np.zeros((segments, length + 1), np.complex64)
    filled = 0

    def strip(m: int) -> npt.NDArray[np.float32]:
        nonlocal previous, filled
        while filled < m + segments:
            following = block(filled + 1)
            ring[filled % segments] = rfft(np.concatenate([previous, following]))
            previous = following
            filled += 1
        order = (m + np.arange(segments)) % segments
        rows: npt.NDArray[np.float32] = irfft(of_a * ring[order], 2 * length, axis=1)[:, :length]
        return rows

    density = b.size / max(int(b[-1]) - int(b[0]), 1) * width
    floor = math.sqrt(0.1 * (j - i) * density) + 1e-3
    found: list[Float] = []
    ways = np.arange(drifts, dtype=np.float64)
    out = np.zeros((drifts, 2))
    before = np.zeros((segments, length), np.float32)
    current = strip(0)
    for m in range(strips):
        after = strip(m + 1)
        padded = np.concatenate([before[:, -pad:], current, after[:, :pad]], axis=1)
        for sign in (1, -1):
            part = padded[:, pad:] if sign > 0 else padded[:, : pad + length][:, ::-1]
            rows = np.ascontiguousarray(part)
            rows = kernels.add_lines(rows, np.empty_like(rows))
            kernels.highest(rows, drifts, 0, length, floor, out)
            first = m * length if sign > 0 else (m + 1) * length - 1
            found.append(np.stack([out[:, 1], first + sign * out[:, 0], sign * ways], axis=1))
            if segments == 1:
                break
        before, current = current, after
    everything = np.concatenate(found)
    best = everything[np.argsort(-everything[:, 0])[:2000]]
    places: list[tuple[float, _Line]] = []
    taken: list[tuple[float, float]] = []
    run = max(segments - 1, 1)
    for z, lag, drift in best.tolist():
        middle = lag + drift / 2
        if any(abs(middle - x) <= 4 and abs(drift - d) <= 4 for x, d in taken):
            continue
        taken.append((middle, drift))
        at = start + rung * width // 2
        slope = drift / (run * length)
        places.append((z, _Line(at, left + round(middle * width), 0.0, slope)))
        if len(places) == max(_LOOKS):
            break
    return places


def _pairs(a: TimesPs, b: TimesPs, line: _Line, span: float, reach: float) -> tuple[Float, Float]:
    """Times (less ``line.at``) and distances from the line of all pairs in a stretch of A."""
    from . import _kernels_clocks as kernels

    half = span / 2
    # Whole numbers, or numpy would turn all times into floats.
    i, j = np.searchsorted(a, [line.at - round(half), line.at + round(half)])
    if i == j:
        return np.zeros(0), np.zeros(0)
    part = a[i:j]
    margin = reach + abs(line.slope) * half + 1
    k, m = np.searchsorted(
        b,
        [
            int(part[0]) + line.base + math.floor(line.offset - margin),
            int(part[-1]) + line.base + math.ceil(line.offset + margin),
        ],
    )
    of_b = b[k:m]
    room = int(part.size * max(of_b.size, 1) / max(span, 1.0) * 2 * reach * 1.5) + 1000
    while True:
        times, steps = np.empty(room), np.empty(room)
        found = kernels.near_line(
            part, of_b, line.at, line.base, line.offset, line.slope, reach, times, steps
        )
        if found <= room:
            return times[:found], steps[:found]
        room = found


def _zoom_in(a: TimesPs, b: TimesPs, line: _Line, width: float, span: float) -> _Line | None:
    """Follow a place down to the jitter; None where nothing is left of it on the way."""
    from . import _kernels_clocks as kernels

    previous, best, level = 0.0, 0.0, 0
    while True:
        reach = 3.5 * width
        times, steps = _pairs(a, b, line, span, reach)
        new = width / 4
        choices = []
        for pieces in (1, 2, 4):
            part = span / pieces
            if pieces > 1 and part < _SHORTEST_SPAN_PS:
                break
            count = math.ceil(6 / pieces)
            slopes: Float = np.arange(-count, count + 1, dtype=np.float64) * (new / part)
            for piece in range(pieces):
                centre = (piece + 0.5) * part - span / 2
                inside = np.abs(times - centre) <= part / 2 if pieces > 1 else slice(None)
                t, r = times[inside] - centre, steps[inside]
                counts = np.zeros((slopes.size, 20), np.int64)
                kernels.zoom(t, r, slopes, -2.5 * width, new, counts)
                ground = t.size / 28
                choices.append((*_peak(counts, ground), part, centre, slopes))
            if max(choice[0] for choice in choices) >= 1.5 * previous:
                break
        significance, row, place, part, centre, slopes = max(choices, key=lambda c: c[0])
        level += 1
        best = max(best, significance)
        if significance < THRESHOLD and (level >= 2 or significance < 5):
            if best < 2 * THRESHOLD:
                return None
            break
        if significance < 0.4 * best:
            break
        offset = line.offset + line.slope * centre - 2.5 * width + place * new
        whole = math.floor(offset)
        line = replace(
            line,
            at=line.at + round(centre),
            base=line.base + whole,
            offset=offset - whole,
            slope=line.slope + float(slopes[row]),
            significance=significance,
        )
        previous, width, span = significance, new, part
        if width <= _FINEST_PS:
            break
    return None if width > 4 * _WIDEST_PS else _fit(a, b, line, span, width)


def _peak(counts: npt.NDArray[np.int64], ground: float) -> tuple[float, int, float]:
    """Significance, row and place (in bins) of the highest bin or pair of bins."""
    row, bin_ = divmod(int(np.argmax(counts)), counts.shape[1])
    one = _significance(float(counts[row, bin_]), ground)
    double = counts[:, :-1] + counts[:, 1:]
    row2, bin2 = divmod(int(np.argmax(double)), double.shape[1])
    two = _significance(float(double[row2, bin2]), 2 * ground)
    return (two, row2, bin2 + 1.0) if two > one else (one, row, bin_ + 0.5)


def _fit(a: TimesPs, b: TimesPs, line: _Line, span: float, width: float) -> _Line | None:
    """Fit offset, slope and width of the peak to the pairs near a line, by likelihood."""
    from . import _kernels_clocks as kernels

    sigma, reach, fitted = width, 12 * width, np.zeros(5)
    times, steps = _pairs(a, b, line, span, reach)
    for turn in range(2):
        if times.size < 6:
            return None
        ground = max(np.count_nonzero(np.abs(steps) > reach / 2) / reach, 0.1 / reach)
        if not kernels.likeliest(times, steps, reach, sigma, ground, fitted):
            return None
        offset, slope, sigma, share, ground = fitted.tolist()
        line = replace(line, offset=line.offset + offset, slope=line.slope + slope)
        steps = steps - offset - slope * times
        if turn == 0:  # the second time with a window that fits the width found
            before, reach = reach, max(12 * sigma, 2 * width)
            if reach > before:
                times, steps = _pairs(a, b, line, span, reach)
            else:
                inside = np.abs(steps) <= reach
                times, steps = times[inside], steps[inside]
    height = share * np.exp(-0.5 * (steps / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    weight = height / (height + ground)
    total = float(weight.sum())
    if total < 4:
        return None
    middle = float(weight @ times) / total
    ratio = 2 * (float(np.log1p(height / ground).sum()) - total)
    # Observed information: what the ground takes is gone.
    info = np.maximum(weight - weight * (1 - weight) * (steps / sigma) ** 2, -1.0) / sigma**2
    about = float(info.sum())
    turning = float(info @ (times - middle) ** 2)
    if about <= 0 or turning <= 0 or sigma > _WIDEST_PS or _lumped(times, weight, span):
        return None
    line = line.moved(line.at + round(middle))
    return replace(
        line,
        sigma=1 / math.sqrt(about),
        sigma_slope=1 / math.sqrt(turning),
        jitter=sigma,
        significance=math.sqrt(max(ratio, 0.0)),
        rate=total / span * 1e12,
        span=span,
    )


def _lumped(times: Float, weight: Float, span: float) -> bool:
    """Whether most coincidences come from an eighth of the stretch: a burst, not a link."""
    slices = np.bincount(
        np.clip((times / span + 0.5) * 8, 0, 7).astype(np.int64), weight, minlength=8
    )
    return float(slices.max()) > 0.6 * float(slices.sum()) and float(slices.sum()) > 12


def _grow(a: TimesPs, b: TimesPs, line: _Line, limits: tuple[int, int]) -> _Line | None:
    """Double the time base as long as the clocks keep to a line."""
    if line.significance < THRESHOLD:
        return None
    while line.span < limits[1] - limits[0]:
        span = min(2 * line.span, float(limits[1] - limits[0]))
        middle = round(min(max(line.at, limits[0] + span / 2), limits[1] - span / 2))
        apart = abs(middle - line.at) + span / 2
        width = math.hypot(line.jitter, 3 * line.sigma_slope * apart)
        wider = _fit(a, b, line.moved(middle), span, max(width, line.jitter))
        if wider is None or wider.significance < line.significance:
            break
        if wider.jitter > 1.15 * line.jitter + 2 or wider.span <= line.span:
            break
        line = wider
    return line


# -- tracking

_Q1 = np.array([0.1, 10.0, 1e3, 1e5])  # ps^2/s: white frequency noise, walk of the fibre
_Q2 = np.array(
    [1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6, 1e8, 1e10]
)  # (ps/s)^2/s: random walk of the frequency
_FORGET = 0.97
_ENOUGH = 30.0  # 2 ln(likelihood ratio) at which an interval shows the peak: 5 sigma
_PER_INTERVAL = 50  # coincidences
_PLENTY = 1000  # coincidences that tell the offset to 3 % of the jitter; no more are looked at
_PIECES = 8  # of an interval, spread over it, where it holds more
_SHORTEST_PS = 20_000_000_000
_LONGEST_PS = 8_000_000_000_000
_HOLD_PS = 3_000_000_000_000  # how long no peak may be seen, at least
_SECOND = 10**12
_TICK = _SECOND // 2


class _Bank:
    """Kalman filters of offset (ps) and frequency (ps/s) for clocks from rubidium to crystal."""

    def __init__(self, offset: float, frequency: float, var: float, var_frequency: float) -> None:
        q1, q2 = np.meshgrid(_Q1, _Q2, indexing="ij")
        self._q1, self._q2 = q1.ravel(), q2.ravel()
        n = self._q1.size
        self._x, self._y = np.full(n, offset), np.full(n, frequency)
        self._xx, self._xy, self._yy = np.full(n, var), np.zeros(n), np.full(n, var_frequency)
        # Poor clocks only where the clicks say so, or their spread would open the window wide.
        self._log = -np.log(np.maximum(self._q2 / 1e4, 1.0))

    def ahead(self, seconds: float) -> _Bank:
        """Another bank, so much later."""
        other = copy(self)  # shares the arrays: none is changed in place
        other.go(seconds)
        return other

    def go(self, seconds: float) -> None:
        """Predict."""
        t = seconds
        self._x = self._x + self._y * t
        grown = self._q1 * t + self._q2 * (t**3 / 3)
        self._xx = self._xx + 2 * t * self._xy + t * t * self._yy + grown
        self._xy = self._xy + t * self._yy + self._q2 * t * t / 2
        self._yy = self._yy + self._q2 * t

    def see(self, offset: float, var: float) -> None:
        """Correct by a measured offset."""
        total = self._xx + var
        miss = offset - self._x
        log = _FORGET * self._log - 0.5 * (np.log(total) + miss * miss / total)
        self._log = log - log.max()
        gain, gain_y = self._xx / total, self._xy / total
        self._x = self._x + gain * miss
        self._y = self._y + gain_y * miss
        self._yy = self._yy - gain_y * self._xy
        self._xy = self._xy * (1 - gain)
        self._xx = self._xx * (1 - gain)

    def widen(self, var: float) -> None:
        """Trust the offset less."""
        self._xx = self._xx + var

    @property
    def now(self) -> tuple[float, float, float, float]:
        """Offset, frequency and their variances, all filters weighed by likelihood."""
        w = np.exp(self._log)
        w /= w.sum()
        x, y = float(w @ self._x), float(w @ self._y)
        var = float(w @ (self._xx + (self._x - x) ** 2))
        return x, y, var, float(w @ (self._yy + (self._y - y) ** 2))


@dataclass(frozen=True, slots=True)
class _Knot:
    """A point of the map between the clocks: ``b`` (and a fraction) on B's clock at ``a``."""

    a: int
    b: int
    fraction: float
    state: ClockState


class _Window(NamedTuple):
    """Where a tracker looks next.

    Attributes:
        end: Of the interval, on A's clock.
        needed: Watermark of B it takes.
        reach: Half width of the window, ps.
        last: Whether A's clicks end there.
    """

    end: int
    needed: int
    reach: float
    last: bool


class _Tracker:
    """Follows the peak from interval to interval; knots appear in :attr:`knots`.

    Args:
        line: Where it starts; the errors are doubled, since tracking sees the same clicks again.
    """

    def __init__(self, line: _Line) -> None:
        self.at, self.base = line.at, line.base
        apart = line.span * 0.5e-12
        var = 4 * (line.sigma**2 + (line.sigma_slope * line.span / 2) ** 2) + 1
        var_y = 4 * (line.sigma_slope * 1e12) ** 2 + (line.jitter / 3 / max(apart, 0.01)) ** 2
        self.bank = _Bank(line.offset, line.slope * 1e12, var, var_y)
        self.jitter = line.jitter
        self.rate = line.rate
        self.longer = 1
        self.knots = [self._knot(line.significance)]

    def _knot(self, confidence: float) -> _Knot:
        x, y, var, var_y = self.bank.now
        whole = math.floor(x)
        b = self.at + self.base + whole
        state = ClockState(
            True,
            self.at,
            float(b - self.at) + (x - whole),
            y * 1e-12,
            math.sqrt(var),
            math.sqrt(var_y) * 1e-12,
            self.jitter,
            confidence,
        )
        return _Knot(self.at, b, x - whole, state)

    def reaches(self, b: int) -> int:
        """The time on A's clock that is ``b`` on B's, by now."""
        x, y, _, _ = self.bank.now
        offset = self.base + x
        return math.floor(self.at + (b - self.at - offset) / (1 + y * 1e-12))

    def expected(self, at: int) -> tuple[_Line, float]:
        """Where the line should be at a time, and how well that is known, ps."""
        x, y, var, _ = self.bank.ahead((at - self.at) * 1e-12).now
        whole = math.floor(x)
        return _Line(at, self.base + whole, x - whole, y * 1e-12), math.sqrt(var)

    def coast(self, until: int) -> bool:
        """Add a knot by prediction alone, where too few coincidences were to come to see any."""
        few = (until - self.at) * 1e-12 * self.rate < 15
        if not few or self.expected(until)[1] > self.jitter:
            return False
        self.bank.go((until - self.at) * 1e-12)
        self.at = until
        self.knots.append(self._knot(0.0))
        return True

    @property
    def interval(self) -> int:
        """Length of the next interval, ps."""
        wanted = _PER_INTERVAL / max(self.rate, 1e-3)
        steps = math.log2(max(wanted * 1e12 / _SHORTEST_PS, 1.0))
        length: int = _SHORTEST_PS << math.ceil(steps)
        length = min(length, _LONGEST_PS)
        while length > _SHORTEST_PS and length * 1e-12 * self.rate > 16:
            if self.bank.ahead(length * 1e-12).now[2] < 4 * self.jitter**2:
                break
            length //= 2
        return length

    @property
    def hold(self) -> int:
        """How long no peak may be seen, ps."""
        return max(_HOLD_PS, 4 * self.interval)

    def window(self, until: int) -> _Window:
        """Where the next interval is looked at."""
        end = min(self.at + self.interval * self.longer, until)
        x, _, var, _ = self.bank.ahead((end - self.at) * 1e-12).now
        reach = min(5 * math.sqrt(self.jitter**2 + max(var, self.bank.now[2])), 1e7)
        return _Window(end, math.ceil(end + self.base + x + reach) + 1, reach, end >= until)

    def _looked(
        self, a: TimesPs, b: TimesPs, window: _Window, share: float
    ) -> tuple[TimesPs, TimesPs, float]:
        """Clicks in a share of an interval, in pieces spread over it, and how long these are."""
        x, y, _, _ = self.bank.now
        span = window.end - self.at
        edges = np.array([[self.at, window.end]], np.int64)
        if share < 1:
            begins = self.at + np.arange(_PIECES) * span // _PIECES
            edges = np.stack([begins, begins + math.ceil(share * span / _PIECES)], axis=1)
            edges += round((1 - share) * span / (2 * _PIECES))
        places = self.base + x + y * 1e-12 * (edges - self.at)
        places += np.array([-window.reach, window.reach])
        of_b = edges + np.stack([np.floor(places[:, 0]), np.ceil(places[:, 1])], 1).astype(np.int64)
        found = [
            np.concatenate([times[i:j] for i, j in np.searchsorted(times, cuts).tolist()])
            for times, cuts in ((a, edges), (b, of_b))
        ]
        return found[0], found[1], float(np.diff(edges).sum())

    def _measure(
        self, a: TimesPs, b: TimesPs, window: _Window, share: float
    ) -> tuple[float, float, float, float, float, float, float] | None:
        """What ``kernels.measure`` finds, and in how much of the interval; None without a peak."""
        from . import _kernels_clocks as kernels

        reach = window.reach
        x, y, var, _ = self.bank.now
        of_a, of_b, looked = self._looked(a, b, window, share)
        if not of_a.size or not of_b.size:
            return None
        ground = of_a.size * of_b.size / (looked + 2 * reach)
        room = int(ground * 2 * reach * 2 + 4 * self.rate * looked * 1e-12) + 100
        while True:
            times, steps = np.empty(room), np.empty(room)
            found = kernels.near_line(
                of_a, of_b, self.at, self.base, x, y * 1e-12, reach, times, steps
            )
            if found <= room:
                break
            room = found
        times, steps = times[:found], steps[:found]
        if not found:
            return None
        spread = math.sqrt(max(var, 0.0))
        fit = kernels.measure(times, steps, ground, self.jitter, spread, reach)
        seen = fit[3] >= _ENOUGH and abs(fit[0]) < 0.8 * reach
        return (*fit, looked) if seen else None

    def step(self, a: TimesPs, b: TimesPs, window: _Window) -> bool | None:
        """Take one interval: True with a new knot, False if none was seen, None when lost.

        An interval without a peak is tried again at twice the length.
        """
        span = window.end - self.at
        share = _PLENTY / max(self.rate * span * 1e-12, 1.0)
        seen = self._measure(a, b, window, share) if share < 0.5 else None
        if seen is None:  # few, or light in bursts
            seen = self._measure(a, b, window, 1.0)
        if seen is None:
            self.longer *= 2
            return None if span >= self.hold or window.last else False
        place, error, peak, ratio, when, width, looked = seen
        x, y, _, _ = self.bank.now
        ahead = self.bank.ahead(when * 1e-12)
        surprise = place * place > 9 * (ahead.now[2] + error)
        ahead.see(x + y * when * 1e-12 + place, error)
        if surprise:  # perhaps a step, of which this interval shows but a part
            ahead.widen(place * place)
        ahead.go((span - when) * 1e-12)
        self.bank, self.at, self.longer = ahead, window.end, 1
        share = min(peak / (peak + 2000), 0.5)
        self.jitter = math.sqrt(self.jitter**2 + share * (max(width, 1.0) - self.jitter**2))
        share = min(peak / (peak + 100), 0.5)
        self.rate += share * (peak / (looked * 1e-12) - self.rate)
        self.knots.append(self._knot(math.sqrt(ratio)))
        return True


def _backwards(a: TimesPs, b: TimesPs, line: _Line, limit: int, coast: bool) -> list[_Knot]:
    """Knots before ``line.at``, in order, as far back towards ``limit`` as the peak is seen."""
    tracker = _Tracker(line.mirrored())
    mirror_a, mirror_b = -a[::-1], -b[::-1]
    while tracker.at < -limit:
        if tracker.step(mirror_a, mirror_b, tracker.window(-limit)) is None:
            if not (coast and tracker.coast(-limit)) and len(tracker.knots) > 1:
                tracker.knots.pop()  # it may hold a step
            break
    knots = []
    for knot in reversed(tracker.knots[1:]):
        fraction = -knot.fraction
        whole = math.floor(fraction)
        state = replace(knot.state, at_ps=-knot.a, offset_ps=-knot.state.offset_ps)
        knots.append(_Knot(-knot.a, -knot.b + whole, fraction - whole, state))
    return knots


def _on_b(knot: _Knot) -> int:
    return knot.b


def _times_on_a(times_b: TimesPs, knots: Sequence[_Knot]) -> TimesPs:
    """Straight lines between the knots, and on beyond the first and the last."""
    if not times_b.size:
        return times_b
    low = bisect_right(knots, int(times_b.min()), key=_on_b)
    high = bisect_right(knots, int(times_b.max()), key=_on_b)
    knots = knots[max(min(low, len(knots) - 1) - 1, 0) : max(high + 1, 2)]
    from . import _kernels_clocks as kernels

    ends = np.array([knot.b for knot in knots], np.int64)
    starts = np.array([knot.a for knot in knots], np.int64)
    parts = np.array([knot.fraction for knot in knots])
    ratio = np.diff(starts) / (np.diff(ends) + np.diff(parts))
    moved = np.empty(times_b.size, np.int64)
    kernels.along(np.ascontiguousarray(times_b), starts, ends, parts, ratio, moved)
    return moved


class _Store:
    """Clicks that still wait, in arrays that grow and are cut at their front."""

    def __init__(self) -> None:
        self._times: TimesPs = np.empty(1024, np.int64)
        self._channels: Channels = np.empty(1024, np.int16)
        self._low = self._high = 0

    def add(self, times: TimesPs, channels: Channels) -> None:
        if self._high + times.size > self._times.size:
            kept = self._high - self._low
            room = max(2 * (kept + times.size), 1024)
            for name, dtype in (("_times", np.int64), ("_channels", np.int16)):
                grown = np.empty(room, dtype)
                grown[:kept] = getattr(self, name)[self._low : self._high]
                setattr(self, name, grown)
            self._low, self._high = 0, kept
        self._times[self._high : self._high + times.size] = times
        self._channels[self._high : self._high + times.size] = channels
        self._high += times.size

    @property
    def times(self) -> TimesPs:
        return self._times[self._low : self._high]

    def between(self, begin: int, end: int) -> tuple[TimesPs, Channels]:
        i, j = np.searchsorted(self.times, [begin, end])
        part = slice(self._low + int(i), self._low + int(j))
        return self._times[part].copy(), self._channels[part].copy()

    def forget(self, before: int) -> None:
        self._low += int(np.searchsorted(self.times, before))


class _Stream:
    """One party's clicks: as recorded, and as photons in order of arrival."""

    def __init__(
        self,
        name: str,
        channels: Sequence[int] | None,
        delays: Mapping[int, int] | None,
        pps: int | None,
        follow_only: bool,
    ) -> None:
        self.name = name
        self._pps = pps
        self._hands_out = not follow_only
        if channels is None and delays is not None:
            channels = list(delays)
        self._line = None if channels is None else DelayLine(channels, delays or {})
        self.raw, self.photons, self.pulses = _Store(), _Store(), _Store()
        self.losses: list[Loss] = []
        self.begin: int | None = None
        self.end = 0
        self.ended = False
        self.over = False  # handed out to its end
        self.start_unix_ns = 0
        self.clock_id = ""

    @property
    def watermark(self) -> int:
        if self.ended:
            return FOREVER
        return self.end if self._line is None else self._line.watermark

    def add(self, batch: TagBatch | None) -> None:
        if batch is None:
            if self._line is not None and not self.ended:
                times, which = self._line.feed(None)
                self.photons.add(times, which)
            self.ended = True
            return
        if self.ended:
            raise ValueError(f"the stream of {self.name} has ended; no batch can follow")
        if self.begin is None:
            self.begin = batch.begin_ps
            self.start_unix_ns, self.clock_id = batch.start_unix_ns, batch.clock_id
        elif batch.begin_ps != self.end:
            raise ValueError(
                f"batch of {self.name} at {batch.begin_ps} ps does not follow {self.end} ps"
            )
        self.end = batch.end_ps
        if self._hands_out:
            self.raw.add(batch.times_ps, batch.channels)
        if self._line is not None:
            self.photons.add(*self._line.feed(batch))
        if self._line is None and self._pps is None and not batch.losses:
            self.photons.add(batch.times_ps, batch.channels)
        elif self._line is None or self._pps is not None:
            alive = live(batch)
            if self._pps is not None:
                pulse = alive & (batch.channels == self._pps)
                self.pulses.add(batch.times_ps[pulse], batch.channels[pulse])
                alive &= ~pulse
            if self._line is None:
                self.photons.add(batch.times_ps[alive], batch.channels[alive])
        if batch.losses:
            self.losses = list(dict.fromkeys((*self.losses, *batch.losses)))

    def forget(self, before: int) -> None:
        self.raw.forget(before)
        self.photons.forget(before)
        self.pulses.forget(before)
        self.losses = [loss for loss in self.losses if loss.end_ps >= before]


class ClockRecovery:
    """Dates B's clicks on A's clock, as both streams come in.

    It searches in stretches of 0.5, 1, 2 ... 32 s until the coincidences stand out, then follows
    them in intervals of some 50 coincidences (20 ms to 8 s), and dates B's clicks in between by
    straight lines. An interval in which the peak is not seen is made longer, up to 3 s or four
    intervals: a gap as short as that is bridged. After a longer one, or a step of either clock, it
    searches near the place where the peak was expected and then everywhere. A smaller step, within
    five times the jitter and the spread of the prediction, is no loss: the next interval or two
    follow it, and their sigma covers it. Of the peaks of a pulsed source, a period apart, it stays
    on its own through gaps as on the way.

    Clicks of B that cannot be dated are left out, and their time is a ``Loss("clock", ...)``; where
    B recorded nothing it is a ``Loss("gap", ...)``. B's own losses are carried to A's clock. An
    interval is handed out when the peak has been seen in the next one. Nothing depends on how the
    streams are cut into batches.

    Cost: some 60 ns per click and 0.7 ms per interval; a look at one stretch while it searches up
    to 3 s, in all 0.3 s per second in the first 20 s of a link without light. Memory: the
    clicks of the two intervals (or of a search, 32 s + 2 search) and of the lead of one stream
    over the other, and the last 65,536 intervals for :meth:`to_a` (some 40 MB). First use compiles
    for some 10 s; the result is cached.

    Args:
        search_ps: Offsets from ``around_ps`` -search to +search are found.
        search_frequency: Frequency differences up to this; 0 for a shared reference.
        around_ps: Middle of the search.
        delays_a: ps per channel of A. By default 0: channels that differ by less than 100 ns are
            found all the same, and the highest of their peaks is followed; then take
            :func:`find_channel_delays` of what comes out, with ``search_ps=1_000_000``.
        delays_b: Likewise.
        channels_a: Channels whose clicks are photons; those of ``delays_a``, or all, by default.
        channels_b: Likewise.
        pps: Channels of A and of B that click at each second of UTC: see :func:`find_clock`. The
            photons are followed where they show when it locks, else the pulses.
        follow_only: Hand out no clicks, but what was lost: for who asks :meth:`to_a` alone.

    Attributes:
        losses_of_lock: How often the clock was lost, so far.
    """

    _MANY = 16_000_000  # clicks that may wait in a search
    _KNOTS = 1 << 16

    def __init__(
        self,
        *,
        search_ps: int = 10**12,
        search_frequency: float = 100e-6,
        around_ps: int = 0,
        delays_a: Mapping[int, int] | None = None,
        delays_b: Mapping[int, int] | None = None,
        channels_a: Sequence[int] | None = None,
        channels_b: Sequence[int] | None = None,
        pps: tuple[int, int] | None = None,
        follow_only: bool = False,
    ) -> None:
        _check(search_ps, search_frequency)
        self._pps = pps is not None
        self._on_photons = True
        self._search, self._frequency, self._around = search_ps, search_frequency, around_ps
        pps_a, pps_b = (None, None) if pps is None else pps
        self._a = _Stream("A", channels_a, delays_a, pps_a, follow_only)
        self._b = _Stream("B", channels_b, delays_b, pps_b, follow_only)
        self._tracker: _Tracker | None = None
        self._waiting: list[_Knot] = []  # of this lock, from the last one handed out
        self._branches: list[list[_Knot]] = []  # handed out; one per lock
        self._intervals = 0
        self._last: _Tracker | None = None  # what was lost
        self._locked_from = 0
        self._tick = 0
        self._first_cycle = True
        self._cursor = 0
        self._finished = False
        self._out: tuple[list[TagBatch], list[TagBatch]] = ([], [])
        self._reason = "no clicks yet"
        self._history: deque[ClockState] = deque(maxlen=self._KNOTS)
        self.losses_of_lock = 0

    # -- what is known

    @property
    def state(self) -> ClockState:
        """The latest; where there is no lock, the last one known with the reason."""
        if self._tracker is not None:
            return self._waiting[-1].state
        if self._branches:
            known = self._branches[-1][-1].state
            return replace(known, locked=False, confidence=0.0, reason=self._reason)
        return _not_locked(self._cursor, self._reason)

    @property
    def history(self) -> tuple[ClockState, ...]:
        """One state per interval handed out, and one per loss of lock; the last 65,536."""
        return tuple(self._history)

    def dated(self, times_b: TimesPs) -> npt.NDArray[np.bool_]:
        """Which times of B's clock :meth:`to_a` can date, shape (n,)."""
        times = np.asarray(times_b, np.int64)
        inside = np.zeros(times.shape, np.bool_)
        for knots in self._branches:
            inside |= (times >= knots[0].b) & (times <= knots[-1].b)
        return inside

    def to_a(self, times_b: TimesPs) -> TimesPs:
        """Return times of B's clock on A's, ps, shape (n,), inside what was handed out.

        Raises:
            ValueError: for a time before, after or between what could be dated.
        """
        times = np.asarray(times_b, np.int64)
        moved = np.zeros(times.shape, np.int64)
        missing = np.ones(times.shape, np.bool_)
        first, last = (int(times.min()), int(times.max())) if times.size else (0, -1)
        for knots in self._branches:
            if knots[0].b <= first <= last <= knots[-1].b:
                return _times_on_a(times, knots)
            inside = missing & (times >= knots[0].b) & (times <= knots[-1].b)
            moved[inside] = _times_on_a(times[inside], knots)
            missing &= ~inside
        if missing.any():
            raise ValueError(
                f"B's time {int(times[missing][0])} ps is not dated: no lock then, or not yet;"
                " ask dated() first"
            )
        return moved

    # -- streaming

    def add(self, a: TagBatch | None, b: TagBatch | None) -> tuple[TagBatch, TagBatch]:
        """Take the next batches; None ends a stream.

        Returns:
            A's clicks, and B's on A's clock, both from the watermark of the call before to a
            common new one.

        Raises:
            ValueError: for a batch that does not follow on the one before.
        """
        first = self._a.begin is None
        self._a.add(a)
        self._b.add(b)
        if first and self._a.begin is not None:
            self._cursor = self._a.begin
        begin = self._cursor
        if self._pps and self._a.begin is not None and self._b.begin is not None:
            hosts = _host_offset(self._a.start_unix_ns, self._b.start_unix_ns)
            if hosts is not None:
                self._around, self._search = hosts, max(self._search, _SECOND)
        if self._b.begin is None and self._b.ended:
            self._b.over = True
        if self._a.begin is not None and (self._b.begin is not None or self._b.ended):
            while not self._finished and self._work():
                pass
        if not self._out[0]:
            return self._empty(begin), self._empty(begin)
        joined = concatenate(self._out[0]), concatenate(self._out[1])
        self._out = ([], [])
        return joined

    def _empty(self, at: int) -> TagBatch:
        return TagBatch(
            np.zeros(0, np.int64),
            np.zeros(0, np.int16),
            at,
            at,
            self._a.start_unix_ns,
            self._a.clock_id,
        )

    @property
    def _until(self) -> int:
        return self._a.end if self._a.ended else FOREVER

    def _work(self) -> bool:
        """Go one step on; False to wait for more."""
        if self._a.ended and self._cursor >= self._a.end:
            self._finished = True
            return False
        if self._b.over:
            # Whatever the calls: pieces of a second each.
            until = min(self._cursor + _SECOND, self._until)
            if self._a.watermark < until:
                return False
            self._undated(until, "gap")
            return True
        return self._look() if self._tracker is None else self._follow(self._tracker)

    def _follow(self, tracker: _Tracker) -> bool:
        until = self._until
        if self._b.ended:
            until = min(until, tracker.reaches(self._b.end))
        if tracker.at >= until:
            self._hand_out(tracker.at)
            self._b.over = True
            return True
        window = tracker.window(until)
        if self._a.watermark < window.end or self._b.watermark < window.needed:
            return False
        seen = tracker.step(*self._followed, window)
        if seen is None and window.last and tracker.coast(window.end):
            seen = True
        if seen:
            self._waiting.append(tracker.knots.pop())
            if len(self._waiting) > 2:
                self._hand_out(self._waiting[-2].a)
        elif seen is None:
            self._lose(tracker)
        return True

    @property
    def _followed(self) -> tuple[TimesPs, TimesPs]:
        if self._on_photons:
            return self._a.photons.times, self._b.photons.times
        return self._a.pulses.times, self._b.pulses.times

    def _lose(self, tracker: _Tracker) -> None:
        self._last = tracker
        self._reason = f"the coincidence peak was lost at {tracker.at * 1e-12:.3f} s of A's clock"
        # The last interval may hold a step: it is looked at again from the other side.
        if len(self._waiting) > 1:
            self._waiting.pop()
        self._hand_out(self._waiting[-1].a)
        if self._cursor <= self._locked_from:  # a peak that cannot be followed
            self._undated(max(tracker.at, self._cursor + 1), "clock")
        self._waiting = []
        self._tracker, self._tick, self._first_cycle = None, 0, True
        self._history.append(self.state)
        self.losses_of_lock += 1

    # -- searching

    def _look(self) -> bool:
        """Look for the peak at the next tick after the cursor, in stretches that end there.

        Stretches are dyadic: each tick's 0.5 s, each second, each two seconds ... up to 32 s.
        """
        origin = self._cursor
        end = min(origin + (self._tick + 1) * _TICK, self._until)
        final = end >= self._until
        margin = self._search + math.ceil(self._frequency * 64 * _TICK)
        needed = end + self._around + margin
        if self._last is not None:
            needed = max(needed, end + self._last.base + math.ceil(self._last.bank.now[0] + 1e9))
        if self._a.watermark < end or self._b.watermark < needed:
            return False
        tick = self._tick + 1
        for power in range(7):
            length = _TICK << power
            if not final and tick % (1 << power):
                break
            begin = origin if final else end - length
            # Everything is tried from where the search began; later only what is cheap, often.
            # A longer stretch alone shows no more, so not at every length: see find_clock.
            first = self._first_cycle and begin == origin and self._last is None
            if final or power == 6 or (first and power % 2 == 0):
                rungs = len(_RUNGS)
            else:
                rungs = 2 if first or power >= 3 else 0
            if self._try(begin, end, rungs):
                return True
            if final:
                break
        self._tick = tick
        if final or tick == 64 or self._a.photons.times.size > self._MANY:
            self._undated(end, "clock")
            self._tick, self._first_cycle = 0, False
        return True

    def _try(self, begin: int, end: int, rungs: int) -> bool:
        """Try to lock on one stretch."""
        times_a, times_b = self._a.photons.times, self._b.photons.times
        i, j = np.searchsorted(times_a, [begin, end])
        a = times_a[i:j]
        if self._last is not None:
            expected, sigma = self._last.expected((begin + end) // 2)
            if sigma < 1e8:
                reach = max(_NARROW_PS, 5 * sigma)
                line = self._near(a, times_b, begin, end, expected, reach)
                if line is not None:
                    self._on_photons = True
                    self._lock(line, end, round(reach))
                    return True
        if not rungs or (a.size > self._MANY // 4 and end - begin > _TICK):
            return False
        span_b = (
            max(self._b.begin or 0, begin + self._around - self._search),
            min(self._b.end, end + self._around + self._search),
        )
        k, m = np.searchsorted(times_b, span_b)
        self._on_photons = True
        if self._pps:
            pulses = (
                self._a.pulses.between(begin, end)[0],
                self._b.pulses.between(*span_b)[0],
            )
            line, self._on_photons, reason = _by_pulses(
                (a, times_b[k:m]),
                pulses,
                ((begin, end), span_b),
                _host_offset(self._a.start_unix_ns, self._b.start_unix_ns),
                self._search,
                self._frequency,
            )
        else:
            line, reason = _acquire(
                a,
                times_b[k:m],
                (begin, end),
                span_b,
                self._around,
                self._search,
                self._frequency,
                rungs,
                6e7,
            )
        if line is None:
            if self._last is None:
                self._reason = reason
            return False
        self._lock(line, end, self._search)
        return True

    @staticmethod
    def _near(
        a: TimesPs, b: TimesPs, begin: int, end: int, expected: _Line, reach: float
    ) -> _Line | None:
        if a.size < 10 or b.size < 10:
            return None
        width = reach / 2.5
        rate_a, rate_b = (x.size / max(int(x[-1] - x[0]), 1) for x in (a, b))
        span = min(float(end - begin), _PAIRS / (7 * rate_a * rate_b * width))
        found = _zoom_in(a, b, expected, width, span)
        return None if found is None else _grow(a, b, found, (begin, end))

    def _lock(self, line: _Line, end: int, reach: int) -> None:
        """Begin to track at a line; behind it, the clicks that wait are tracked backwards."""
        limit, tracker = self._cursor, _Tracker(line)
        if self._b.begin is not None:
            limit = max(limit, tracker.reaches(self._b.begin) + 1)
        self._tracker = tracker
        times_a, times_b = self._followed
        a = times_a[: int(np.searchsorted(times_a, end))]
        b = times_b[: int(np.searchsorted(times_b, end + line.base + round(line.offset) + reach))]
        before = _backwards(a, b, line, min(limit, line.at), not self._branches)
        self._waiting = [*before, tracker.knots.pop()]
        self._locked_from = self._cursor
        self._last, self._tick = None, 0

    # -- handing out

    def _undated(self, until: int, kind: str) -> None:
        """Hand out a stretch whose clicks of B cannot be dated."""
        if until > self._cursor:
            lost = Loss(kind, self._cursor, until)
            self._emit(until, np.zeros(0, np.int64), np.zeros(0, np.int16), (lost,))
            self._b.forget(until + self._around - self._search)

    def _hand_out(self, until: int) -> None:
        """Date B's clicks up to a knot that waits."""
        while len(self._waiting) > 1 and self._waiting[1].a <= until:
            first, last = self._waiting[0], self._waiting[1]
            if not self._branches or self._branches[-1][-1] is not first:
                begins = first.a
                if self._b.begin is not None:
                    begins = min(first.a, self._b.begin - (first.b - first.a))
                self._undated(begins, "gap")
                self._undated(first.a, "clock")
                self._branches.append([first])
            begin = math.ceil(first.b + first.fraction) if first.fraction else first.b
            end = last.b + (last.fraction > 0)
            times, channels = self._b.raw.between(begin, end)
            pair = (first, last)
            moved = np.clip(_times_on_a(times, pair), first.a, last.a - 1)
            losses = []
            for loss in self._b.losses:
                if loss.begin_ps < end and (loss.end_ps > begin or loss.begin_ps >= begin):
                    edges = np.array([max(loss.begin_ps, begin), min(loss.end_ps, end)], np.int64)
                    low, high = np.clip(_times_on_a(edges, pair), first.a, last.a).tolist()
                    new = loss.begin_ps >= begin or len(self._branches[-1]) == 1
                    losses.append(Loss(loss.kind, low, high, loss.count if new else 0))
            self._emit(last.a, moved, channels, tuple(losses))
            self._b.forget(last.b)
            self._branches[-1].append(last)
            self._history.append(last.state)
            self._waiting.pop(0)
            self._intervals += 1
            if self._intervals > self._KNOTS:
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        self._branches[0].pop(0)
        if len(self._branches[0]) < 2 and len(self._branches) > 1:
            self._branches.pop(0)
        self._intervals -= 1

    def _emit(
        self, until: int, times: TimesPs, channels: Channels, losses: tuple[Loss, ...]
    ) -> None:
        begin, a = self._cursor, self._a
        times_a, channels_a = a.raw.between(begin, until)
        lost = tuple(
            x for x in a.losses if x.begin_ps < until and (x.end_ps > begin or x.begin_ps >= begin)
        )
        for part, (t, c, gone) in zip(
            self._out, ((times_a, channels_a, lost), (times, channels, losses)), strict=True
        ):
            part.append(TagBatch(t, c, begin, until, a.start_unix_ns, a.clock_id, gone))
        a.forget(until)
        self._cursor = until
