"""What a recording looks like at first glance: ``bellbench tags plot``.

Two passes: the first counts, and keeps the begin of the recording to find the delays in; the
second counts over time, correlates and counts coincidences at once. Memory does not grow with the
recording, but by the lead of one tagger over the other where there are two.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .instruments import BellbenchError, ProtocolError, TagBatch, TagFileError, concatenate
from .instruments.formats import TagFile

if TYPE_CHECKING:
    from .protocols.timing import (
        ClockRecovery,
        ClockState,
        Coincidences,
        Correlation,
        CountRates,
        CountsOverTime,
        FoldCounts,
        PeakFit,
    )

__all__ = ["Channel", "Overview", "draw", "look", "pulsed", "summary", "to_json"]

#: A channel: which file it is of (0 or 1), and its number there.
Channel = tuple[int, int]

_HEAD = 2_000_000  # clicks in which delays are sought
_ONE_TAGGER_PS = 100_000_000  # delays between inputs of one tagger are sought up to 20 km of fibre
_TWO_TAGGERS_PS = 10**12
_AFTER_CLOCK_PS = 10_000_000
_RATE_BINS = 200
_SHIFTS = tuple(k for k in range(-5, 6) if k)  # wrong delays, in steps of 20 windows
_MOST_CHANNELS = 16
_PULSED = "several peaks, as of a pulsed source: none is fitted"


@dataclass(frozen=True, eq=False)
class Overview:
    """What is drawn.

    Attributes:
        names: File names.
        rates: One per file.
        pair: The two channels that were correlated.
        delays_ps: Subtracted from each channel's times.
        found: Which of the delays were found in a peak, rather than told or taken as 0.
        correlation: Of the pair, delays subtracted.
        fit: Its peak.
        no_fit: Why there is none.
        coincidences: Of all pairs of one file's channels, or of those of one with the other's;
            None of a single channel.
        clock: Clock of the second file against the first's, where it was recovered.
        damage: Where the files end in damage; all before it is drawn.
    """

    names: tuple[str, ...]
    rates: tuple[CountsOverTime, ...]
    pair: tuple[Channel, Channel]
    delays_ps: Mapping[Channel, int]
    found: frozenset[Channel]
    correlation: Correlation
    fit: PeakFit | None
    no_fit: str
    coincidences: FoldCounts | Coincidences | None
    clock: ClockState | None
    damage: tuple[TagFileError, ...]

    def name(self, channel: Channel) -> str:
        """A channel's name: its number, with the file's letter where there are two."""
        return _name(channel, len(self.names))


@dataclass(eq=False)
class _Begin:
    """What the first pass tells of a file."""

    tags: TagFile
    rates: CountRates
    head: TagBatch
    damage: TagFileError | None


@dataclass(eq=False)
class _Delays:
    """What is known before the second pass."""

    of: dict[Channel, int] = field(default_factory=dict)
    pair: tuple[Channel, Channel] | None = None
    widths: dict[frozenset[Channel], float] = field(default_factory=dict)
    found: set[Channel] = field(default_factory=set)
    clock: ClockState | None = None
    recover: bool = False


def look(
    files: Sequence[TagFile],
    *,
    pair: tuple[int, int] | None = None,
    delays_ps: Mapping[Channel, int] | None = None,
    window_ps: int | None = None,
    span_ps: int | None = None,
    bin_ps: int | None = None,
    every_ps: int | None = None,
) -> Overview:
    """Read one recording, or two of two taggers, and count all that is drawn.

    Args:
        files: One or two.
        pair: Channels to correlate, of one file, or the first of one and the second of the other.
            By default those with the clearest peak, else the two brightest.
        delays_ps: Of channels, subtracted; 0 where not named. By default they are found: in
            one file up to 100 us, between two up to 1 s, with their clocks if these run freely.
        window_ps: Coincidence window, full width; 3 FWHM of the peak by default, 1 ns without.
        span_ps: Full width of the correlation; 12 FWHM or somewhat more, or 100 ns.
        bin_ps: Its bins; a twelfth of the FWHM; without a peak as they hold a few pairs.
        every_ps: Bins of the rates; some 200 in all by default.

    Raises:
        TagFileError: for a file without clicks, or one damaged before the first.
        ValueError: for channels that never clicked, or widths that do not fit together.
    """
    from .protocols.timing import CorrelationHistogram, Counter

    begins = [_begin(tags) for tags in files]
    _check_pair(begins, pair)
    for channel in delays_ps or {}:
        if channel[0] >= len(begins) or channel[1] not in begins[channel[0]].rates.counts:
            raise ValueError(f"channel {_name(channel, len(begins))} has a delay but no click")
    if delays_ps is not None:
        known = _Delays(dict(delays_ps))
    else:
        known = _delays_of_one(begins[0]) if len(begins) == 1 else _delays_of_two(*begins)
    first, second = _pair(begins, pair, known)
    fwhm = known.widths.get(frozenset((first, second)), math.nan)
    step = max(1, math.ceil(max(tags.info.resolution_ps for tags in files)))
    rate = begins[0].rates.counts[first[1]] * begins[-1].rates.rate_hz(second[1]) * 1e-12
    window, span, width = _widths(fwhm, step, rate, window_ps, span_ps, bin_ps)
    longest = max(one.rates.duration_s for one in begins) * 1e12
    bins = min(_RATE_BINS, max(max(one.rates.counts.values()) / 20 for one in begins))
    every = every_ps or _nice(longest / max(bins, 20))
    if longest / every > 10**7:
        raise ValueError(
            f"more than 10 million bins of {every:,} ps in {longest * 1e-12:g} s: take wider"
        )
    counters = [Counter(_brightest(one, None), every) for one in begins]
    shift = known.of.get(second, 0) - known.of.get(first, 0)
    histogram = CorrelationHistogram(first[1], second[1], span, width, delay_ps=shift)
    pairs = _PairCount(begins, known.of, window)
    if len(begins) == 1:
        for batch in _undamaged(begins[0]):
            counters[0].add(batch)
            histogram.add(batch)
            pairs.add(batch, None)
    else:
        reach = max(map(abs, known.of.values()), default=0) + span + 200 * window
        if known.clock is not None:
            reach += round(abs(known.clock.offset_ps) + 1e-4 * longest)
        for batches in _together(begins, counters, known, reach):
            histogram.add(*batches)
            pairs.add(*batches)
    correlation = histogram.finish()
    fit, no_fit = _fit(correlation)
    if fit is None and not correlation.counts.any():
        no_fit = _no_pair(begins, (first, second), known.of, span)
    return Overview(
        tuple(Path(tags.info.path).name for tags in files),
        tuple(counter.finish() for counter in counters),
        (first, second),
        {
            (f, c): known.of.get((f, c), 0)
            for f, one in enumerate(begins)
            for c in sorted(one.rates.counts)
        },
        frozenset(known.found),
        correlation,
        fit,
        no_fit,
        pairs.finish(),
        known.clock,
        tuple(one.damage for one in begins if one.damage is not None),
    )


def draw(path: Path, seen: Overview, *, log: bool = False) -> None:
    """Write the picture: PNG, SVG or PDF, by the suffix.

    Raises:
        BellbenchError: where it cannot be written, or not as that.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from .protocols.timing._pictures import si_time

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = Figure(figsize=(10.0, 7.2), dpi=150, layout=layout)
    FigureCanvasAgg(figure)
    kind = path.suffix.lower().removeprefix(".") or "png"
    if kind not in ("png", "svg", "pdf"):
        raise BellbenchError(f"{path}: pictures are written as .png, .svg or .pdf")
    rows = figure.add_gridspec(2, 1, height_ratios=(0.8, 1.25))
    top, bottom = figure.add_subfigure(rows[0]), figure.add_subfigure(rows[1])
    many = len(seen.rates) > 1
    for ax, rates, name in zip(
        np.atleast_1d(top.subplots(1, len(seen.rates))), seen.rates, seen.names, strict=True
    ):
        rates.plot(ax, log=True if log else None)
        fast = _clock(seen.clock) if seen.clock is not None and rates is seen.rates[1] else ""
        ax.set_title(f"{name}, clock {fast}" if fast else name, loc="left", fontsize=10)
    if seen.coincidences is None:
        left = bottom.subplots()
    else:
        left, right = bottom.subplots(1, 2, width_ratios=(1.35, 1.0))
        seen.coincidences.plot(right, log=log)
        right.set_title("coincidences, all pairs", loc="left", fontsize=10)
        if many:
            right.set_xlabel(f"channel of B, {seen.names[1]}")
            right.set_ylabel(f"channel of A, {seen.names[0]}")
    seen.correlation.plot(left, fit=seen.fit, log=log)
    first, second = map(seen.name, seen.pair)
    shift = seen.delays_ps[seen.pair[1]] - seen.delays_ps[seen.pair[0]]
    less = f", delay of {si_time(shift)} taken off".replace("-", "−") if shift else ""
    left.set_title(f"channel {second} after {first}{less}", loc="left", fontsize=10)
    try:
        figure.savefig(path, format=kind)
    except OSError as error:
        raise BellbenchError(f"cannot write the picture {path}: {error.strerror}") from error


def to_json(seen: Overview) -> dict[str, Any]:
    """Return the numbers drawn; None for what is not a number."""
    from .protocols.timing import FoldCounts

    correlation, fit, pairs = seen.correlation, seen.fit, seen.coincidences
    matrix: dict[str, Any] | None = None
    if isinstance(pairs, FoldCounts):
        matrix = {
            "channels": list(pairs.channels),
            "window_ps": pairs.window_ps,
            "counts": pairs.pairs.tolist(),
            "accidentals": pairs.shifted_pairs.mean(axis=0).tolist(),
            "car": _car(pairs.pairs, pairs.shifted_pairs.mean(axis=0)),
        }
    elif pairs is not None:
        matrix = {
            "channels_a": list(pairs.channels_a),
            "channels_b": list(pairs.channels_b),
            "window_ps": pairs.window_ps,
            "counts": pairs.counts.tolist(),
            "accidentals": pairs.accidentals.tolist(),
            "car": _car(pairs.counts, pairs.accidentals),
        }
    return {
        "files": list(seen.names),
        "clock": None
        if seen.clock is None
        else {
            "offset_ps": seen.clock.offset_ps,
            "frequency": seen.clock.frequency,
            "sigma_frequency": seen.clock.sigma_frequency,
            "jitter_ps": seen.clock.jitter_ps,
        },
        "delays_ps": {seen.name(c): delay for c, delay in seen.delays_ps.items()},
        "delays_found": sorted(seen.name(c) for c in seen.found),
        "fit": None if fit is None else _fit_json(fit),
        "no_fit": seen.no_fit,
        "coincidences": matrix,
        "correlation": {
            "channels": [seen.name(c) for c in seen.pair],
            "bin_ps": correlation.bin_ps,
            "delays_ps": correlation.delays_ps.tolist(),
            "counts": correlation.counts.tolist(),
            "expected_per_bin": float(correlation.expected[correlation.counts.size // 2]),
            "clicks": [correlation.singles_a, correlation.singles_b],
        },
        "rates": [
            {
                "channels": list(one.channels),
                "begin_ps": one.begin_ps,
                "bin_ps": one.bin_ps,
                "live_ps": one.live_ps.tolist(),
                "counts": one.counts.tolist(),
            }
            for one in seen.rates
        ],
    }


def _car(counts: Any, accidentals: Any) -> list[list[float | None]]:
    """(C - A)/A; None where no accidental was seen."""
    return [
        [(c - a) / a if a else None for c, a in zip(*rows, strict=True)]
        for rows in zip(counts.tolist(), accidentals.tolist(), strict=True)
    ]


def summary(seen: Overview) -> list[str]:
    """Say what was found, in some lines."""
    first, second = map(seen.name, seen.pair)
    shift = seen.delays_ps[seen.pair[1]] - seen.delays_ps[seen.pair[0]]
    lines = []
    if seen.clock is not None:
        lines.append(
            f"B's clock shows {seen.clock.offset_ps * 1e-12:+.9f} s against A's, and runs"
            + (f" fast by {fast}" if (fast := _clock(seen.clock)) else " as fast")
        )
    if set(seen.pair) <= seen.found:
        what = f"delay {shift:,} ps, found in the coincidences"
    else:
        what = f"delay of {shift:,} ps taken off" if shift else "no delay taken off"
    lines.append(f"channel {second} after {first}: {what}")
    if seen.fit is None:
        lines.append(seen.no_fit)
    else:
        fit = seen.fit
        tail = f" tau {fit.tau_ps} ps," if fit.shape == "emg" else " no tail,"
        lines.append(
            f"peak at {fit.centre_ps} ps, FWHM {fit.fwhm_ps} ps, sigma {fit.sigma_ps} ps,"
            f"{tail} {fit.pairs} pairs"
        )
    return lines


def _clock(clock: ClockState) -> str:
    """By how much a clock runs fast; empty where that is not told from 0."""
    fast, sigma = clock.frequency * 1e6, clock.sigma_frequency * 1e6
    if not abs(fast) > 5 * sigma > 0:
        return ""
    digits = min(max(1 - math.floor(math.log10(sigma)), 0), 9)
    return f"{fast:+.{digits}f} ± {sigma:.{digits}f} ppm".replace("-", "−")


def _fit_json(fit: PeakFit) -> dict[str, Any]:
    told: dict[str, Any] = {"shape": fit.shape, "chi2": fit.chi2, "degrees": fit.degrees}
    for name in ("centre_ps", "sigma_ps", "tau_ps", "fwhm_ps", "pairs", "background"):
        value = getattr(fit, name)
        told[name] = value.value if math.isfinite(value.value) else None
        told[f"{name}_sigma"] = value.sigma if math.isfinite(value.sigma) else None
    return told


# -- the first pass


def _begin(tags: TagFile) -> _Begin:
    from .protocols.timing import CountRates

    rates, clicks = CountRates(), 0
    head: list[TagBatch] = []
    damage: TagFileError | None = None
    try:
        for batch in tags:
            if clicks < _HEAD:
                head.append(batch)
                clicks += len(batch)
            rates.add(batch)
    except TagFileError as error:
        if not rates.counts:
            raise
        damage = error
    if not rates.counts:
        raise TagFileError("holds no click", path=tags.info.path)
    return _Begin(tags, rates, concatenate(head), damage)


def _brightest(one: _Begin, number: int | None) -> list[int]:
    counts = one.rates.counts
    order = sorted(counts, key=lambda channel: (-counts[channel], channel))
    return sorted(order[:number])


def _check_pair(begins: Sequence[_Begin], pair: tuple[int, int] | None) -> None:
    for f, channel in zip((0, len(begins) - 1), pair or (), strict=False):
        counts = begins[f].rates.counts
        if channel not in counts:
            there = ", ".join(map(str, sorted(counts)))
            name = Path(begins[f].tags.info.path).name
            raise ValueError(f"channel {channel} never clicked in {name}; those that did: {there}")


def _pair(
    begins: Sequence[_Begin], pair: tuple[int, int] | None, known: _Delays
) -> tuple[Channel, Channel]:
    last = len(begins) - 1
    if pair is not None:
        return (0, pair[0]), (last, pair[1])
    if known.pair is not None:
        return known.pair
    if last:
        return (0, _brightest(begins[0], 1)[0]), (1, _brightest(begins[1], 1)[0])
    two = _brightest(begins[0], 2)
    return (0, two[0]), (0, two[-1])


def _times(batch: TagBatch, channel: int) -> Any:
    from .protocols.timing._streams import live

    alive = live(batch)
    return batch.times_ps[alive & (batch.channels == channel)]


def _delays_of_one(one: _Begin) -> _Delays:
    times = {(0, c): _times(one.head, c) for c in _brightest(one, _MOST_CHANNELS)}
    return _linked(times, itertools.combinations(times, 2), _ONE_TAGGER_PS)


def _linked(
    times: Mapping[Channel, Any], pairs: Iterable[tuple[Channel, Channel]], search_ps: int
) -> _Delays:
    """Delays along the clearest peaks that link the channels; the first of each chain is at 0."""
    from .protocols.timing import find_offset

    peaks = {}
    for a, b in pairs:
        peak = find_offset(times[a], times[b], search_ps=search_ps)
        if peak.found and not _one_of_many(times[a], times[b], peak.offset_ps):
            peaks[a, b] = peak
    best = sorted(peaks, key=lambda pair: -peaks[pair].significance)
    if not best:
        return _Delays()
    group = {c: {c} for c in times}
    delay = dict.fromkeys(times, 0.0)
    for a, b in best:
        if b in group[a]:
            continue
        move = delay[a] + peaks[a, b].offset_ps - delay[b]
        for c in group[b]:
            delay[c] += move
        joined = group[a] | group[b]
        group.update(dict.fromkeys(joined, joined))
    for chain in group.values():
        first = delay[min(chain)]
        for c in chain:
            delay[c] -= first
    return _Delays(
        {c: round(delay[c]) for c in times},
        best[0],
        {frozenset(pair): peaks[pair].fwhm_ps for pair in best},
        {c for pair in best for c in pair},
    )


def _one_of_many(a: Any, b: Any, offset_ps: float) -> bool:
    """Whether there are other peaks nearly as high: a pulsed source, whose zero is not told."""
    from .protocols.timing import CorrelationHistogram

    bin_ps = 2000
    span = 2 * (round(abs(offset_ps)) + 2_000_000)
    counts = CorrelationHistogram(0, 1, span, bin_ps)
    ends = min(int(a[0]), int(b[0])), max(int(a[-1]), int(b[-1])) + 1
    for_a, for_b = (TagBatch(t, np.full(t.size, i, np.int16), *ends) for i, t in enumerate((a, b)))
    counts.add(for_a, for_b)
    found = counts.finish()
    near = np.abs(found.delays_ps - offset_ps) <= 5 * bin_ps
    return _rivalled(found, offset_ps, 5 * bin_ps, float(found.counts[near].max()))


def _delays_of_two(a: _Begin, b: _Begin) -> _Delays:
    from .protocols.timing import find_clock

    clock = find_clock(a.head, b.head, search_ps=_TWO_TAGGERS_PS)
    if not clock.locked:
        return _Delays()
    drift = abs(clock.frequency) * 1e12 * max(a.rates.duration_s, b.rates.duration_s)
    recover = drift > 0.2 * clock.jitter_ps
    heads, offset = (a.head, b.head), round(clock.offset_ps)
    if recover:
        recovery = _recovery(clock)
        parts = [recovery.add(*heads), recovery.add(None, None)]
        heads, offset = (concatenate(p[0] for p in parts), concatenate(p[1] for p in parts)), 0
    times = {
        (f, c): _times(heads[f], c) - f * offset
        for f, one in enumerate((a, b))
        for c in _brightest(one, _MOST_CHANNELS)
    }
    between = ((x, y) for x, y in itertools.combinations(times, 2) if x[0] < y[0])
    known = _linked(times, between, _AFTER_CLOCK_PS)
    known.of = {c: delay + c[0] * offset for c, delay in known.of.items()}
    known.clock, known.recover = clock, recover
    return known


def _recovery(clock: ClockState) -> ClockRecovery:
    from .protocols.timing import ClockRecovery

    return ClockRecovery(search_ps=_TWO_TAGGERS_PS, around_ps=round(clock.offset_ps))


# -- widths


def _nice(value: float) -> int:
    """The next of 1, 2, 5, 10, ... that is not below."""
    if value <= 1:
        return 1
    power = 10 ** math.floor(math.log10(value))
    for factor in (1, 2, 5, 10):
        if factor * power >= value * (1 - 1e-9):
            return int(factor * power)
    return int(10 * power)


def _widths(
    fwhm: float,
    step: int,
    pairs_per_ps: float,
    window: int | None,
    span: int | None,
    width: int | None,
) -> tuple[int, int, int]:
    peaked = math.isfinite(fwhm) and fwhm > 0
    fwhm = max(fwhm, step) if peaked else math.nan
    if window is None:
        window = _nice(max(3 * fwhm, 2 * step)) if peaked else max(1000, 4 * step)
    if span is None:
        span = _nice(max(12 * fwhm, 100 * step)) if peaked else max(100_000, 400 * step)
        if width is not None:
            span = max(span, 100 * width)
    if width is None:
        few = 3 / max(pairs_per_ps, 1e-30)  # bins that hold enough of independent clicks
        width = _nice(fwhm / 12) if peaked else _nice(min(max(span / 1000, few), span / 50))
        width = min(max(-(-width // step) * step, step), span)
    return window, span, width


# -- the second pass


class _PairCount:
    """All pairs: of one tagger's channels by one walk, of two taggers' by one per channel."""

    def __init__(
        self, begins: Sequence[_Begin], delays: Mapping[Channel, int], window: int
    ) -> None:
        from .protocols.timing import CoincidenceCounter, FoldCounter

        channels = [_brightest(one, _MOST_CHANNELS) for one in begins]
        of = [{c: delays.get((f, c), 0) for c in channels[f]} for f in range(len(begins))]
        steps = [20 * k * max(window, 1) for k in _SHIFTS]
        self._folds: FoldCounter | None = None
        self._matrix: CoincidenceCounter | None = None
        if len(begins) == 2:
            self._matrix = CoincidenceCounter(
                channels[0], channels[1], window, delays_a=of[0], delays_b=of[1], shifts_ps=steps
            )
        elif len(channels[0]) > 1:
            shifts = [{c: i * step for i, c in enumerate(channels[0])} for step in steps]
            self._folds = FoldCounter(channels[0], window, delays_ps=of[0], shifts_ps=shifts)

    def add(self, a: TagBatch, b: TagBatch | None) -> None:
        if self._folds is not None:
            self._folds.add(a)
        elif self._matrix is not None:
            self._matrix.add(a, b)

    def finish(self) -> FoldCounts | Coincidences | None:
        counter = self._folds or self._matrix
        return None if counter is None else counter.finish()


def _undamaged(one: _Begin) -> Iterator[TagBatch]:
    try:
        yield from one.tags
    except TagFileError:
        if one.damage is None:  # it was whole in the first pass
            raise


def _together(
    begins: Sequence[_Begin], counters: Sequence[Any], known: _Delays, reach: int
) -> Iterator[tuple[TagBatch, TagBatch]]:
    """Both streams side by side, on one clock; all of both are counted."""
    recovery = _recovery(known.clock) if known.recover and known.clock else None
    streams = [
        _counted(_undamaged(one), counter) for one, counter in zip(begins, counters, strict=True)
    ]
    for a, b in _abreast(streams[0], streams[1], reach):
        yield (a, b) if recovery is None else recovery.add(a, b)
    if recovery is not None:
        yield recovery.add(None, None)
    for stream in streams:
        for _ in stream:
            pass


def _counted(batches: Iterable[TagBatch], counter: Any) -> Iterator[TagBatch]:
    for batch in batches:
        counter.add(batch)
        yield batch


def _abreast(
    a: Iterator[TagBatch], b: Iterator[TagBatch], reach: int
) -> Iterator[tuple[TagBatch, TagBatch]]:
    """Pair the batches of two streams so that neither leads by much more than a batch.

    Where one ends, the other goes on by ``reach``: beyond nothing can pair up any more.
    """
    streams, at = (a, b), [0, 0]
    first = [next(a), next(b)]
    at = [batch.end_ps for batch in first]
    yield first[0], first[1]
    ended: int | None = None
    while True:
        i = 0 if at[0] <= at[1] else 1
        if ended is not None:
            i = 1 - ended
            if at[i] > at[ended] + reach:
                return
        batch = next(streams[i], None)
        if batch is None:
            if ended is not None:
                return
            ended = i
            continue
        other = at[1 - i]
        at[i] = batch.end_ps
        idle = TagBatch(np.zeros(0, np.int64), np.zeros(0, np.int16), other, other)
        yield (batch, idle) if i == 0 else (idle, batch)


def _fit(correlation: Correlation) -> tuple[PeakFit | None, str]:
    from .protocols.timing import fit_peak

    try:
        fit = fit_peak(correlation)
    except (ProtocolError, ValueError) as error:
        return None, str(error)
    top = float(fit(correlation).max())
    if _rivalled(correlation, fit.top_ps.value, 3 * fit.fwhm_ps.value, top):
        return None, _PULSED
    return fit, ""


def _no_pair(
    begins: Sequence[_Begin],
    pair: tuple[Channel, Channel],
    delays: Mapping[Channel, int],
    span: int,
) -> str:
    """Say why two channels have no pair at all."""
    spans = []
    for one, channel in zip((begins[0], begins[-1]), pair, strict=True):
        begin = one.head.begin_ps - delays.get(channel, 0)
        spans.append((begin * 1e-12, begin * 1e-12 + one.rates.duration_s))
    (a, a_end), (b, b_end) = spans
    if len(begins) == 2 and (a_end < b or b_end < a):
        return (
            f"the files do not overlap in time: A is from {a:.6g} to {a_end:.6g} s, B from"
            f" {b:.6g} to {b_end:.6g} s"
        )
    first, second = (_name(c, len(begins)) for c in pair)
    return f"channels {first} and {second} have no clicks within {span / 2000:g} ns of each other"


def pulsed(correlation: Correlation) -> bool:
    """Whether several peaks show, as of a pulsed source, that rise well above what lies between."""
    ground = float(np.median(correlation.counts))
    return float(correlation.counts.max()) > 1.5 * ground and _fit(correlation)[1] == _PULSED


def _rivalled(correlation: Correlation, place_ps: float, reach_ps: float, top: float) -> bool:
    """Whether a peak so high is not the only one: another is half as high, or higher."""
    counts = correlation.counts
    ground = float(np.median(counts))
    noise = 5 * math.sqrt(max(ground, 1.0))
    away = np.abs(correlation.delays_ps - place_ps) > max(reach_ps, 2 * correlation.bin_ps)
    if float(counts.max()) > 1.5 * top + 5 * math.sqrt(max(top, 1.0)):
        return True
    return float(counts[away].max(initial=0)) - noise - ground > 0.5 * (top - ground)


def _name(channel: Channel, files: int) -> str:
    return str(channel[1]) if files == 1 else f"{'AB'[channel[0]]}{channel[1]}"
