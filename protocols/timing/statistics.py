"""What counted clicks say of the light: g2, heralded g2, CAR, Klyshko efficiencies, with errors.

Errors are one standard deviation of the counting, to first order, and do not vanish for few counts.
They take clicks as Poisson; dead time and afterpulses make them less or more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...instruments import TagBatch, TimesPs
from ..estimates import Estimate, counted, counted_sigma, fraction
from ._delays import DelayLine
from ._losses import loss_intervals
from ._order import InOrder
from ._streams import FOREVER, check_named, whole
from .coincidences import Coincidences
from .correlation import Correlation
from .rates import CountRates

__all__ = [
    "GateCounts",
    "HeraldedG2",
    "PairSource",
    "car",
    "car_at_least",
    "g2_zero",
    "klyshko",
    "net_efficiency",
]


def g2_zero(
    correlation: Correlation,
    window_ps: int,
    *,
    period_ps: float | None = None,
    beyond_ps: int | None = None,
    from_rates: bool = False,
    background_hz: tuple[Estimate | float, Estimate | float] = (0.0, 0.0),
) -> Estimate:
    """Return the second-order correlation at zero delay of two detectors behind a beam splitter.

    The pairs within the window over what uncorrelated light would give. What that is must be said:
    pulsed light has it in the same window around other pulses (``period_ps``), continuous light at
    long delays (``beyond_ps``), where it contains what blinking or drift of the source add. The
    rates alone (``from_rates``) tell it only for continuous light that does neither: a quantum dot
    that blinks seems to have a g2 that is lower by the share of time it is bright.

    Clicks unrelated to the light pull g2 towards 1. Given their rates, they are taken away:
    ``1 + (g2 - 1)/P``, with P the share of pairs of light among the uncorrelated ones (continuous
    light: Brouri et al., Opt. Lett. 25, 1294 (2000), eq. 3, P = rho^2).

    Args:
        correlation: Of two different detectors.
        window_ps: Full width; of a bin that lies partly within it that part counts. In continuous
            light much shorter than the coherence time, in pulsed light as long as a pulse with its
            jitter.
        period_ps: Of the pulses. Measure at the other pulses in the histogram.
        beyond_ps: Measure at delays longer than this, either sign.
        from_rates: Calculate it from the rates of the detectors.
        background_hz: Clicks per second of the two detectors without the light.

    Returns:
        g2(0). No pair at all has the error of one; nan where nothing could be compared with. The
        error is too large where a detector clicks in a good share of all pulses.

    Raises:
        ValueError: where the window is narrower than a bin, or the histogram holds no other pulse
            or longer delay; unless there is one thing to compare with.
    """
    if (period_ps is not None) + (beyond_ps is not None) + from_rates != 1:
        raise ValueError(
            "say what to compare with, one of: period_ps, other pulses; beyond_ps, long delays;"
            " from_rates, the rates of light that is continuous and steady"
        )
    edges = np.append(
        correlation.delays_ps - correlation.bin_ps / 2,
        correlation.delays_ps[-1] + correlation.bin_ps / 2,
    )
    half = window_ps / 2
    if window_ps < correlation.bin_ps or edges[0] > -half or edges[-1] < half:
        raise ValueError(
            f"a window of {window_ps} ps does not fit between a bin of {correlation.bin_ps} ps and"
            f" a histogram from {edges[0]:.0f} to {edges[-1]:.0f} ps"
        )
    pairs, expected = _within(correlation, edges, -half, half)
    if not expected:
        return Estimate(math.nan, math.nan)
    duty = 1.0
    if from_rates:
        found = counted(round(pairs), expected)
        found = Estimate(pairs / expected, found.sigma, found.n)
    else:
        if period_ps is not None:
            duty = window_ps / period_ps
            spans = _other_pulses(edges, window_ps, period_ps)
        else:
            assert beyond_ps is not None
            if not max(-edges[0], edges[-1]) > beyond_ps:
                raise ValueError(f"the histogram holds no delay beyond {beyond_ps} ps")
            spans = [(edges[0], -beyond_ps), (beyond_ps, edges[-1])]
        parts = [_within(correlation, edges, *span) for span in spans]
        reference, of = sum(part[0] for part in parts), sum(part[1] for part in parts)
        if not reference:
            return Estimate(math.nan, math.nan)
        scale = of / expected / reference
        sigma = max(pairs, 1) * scale * math.sqrt(1 / max(pairs, 1) + 1 / reference)
        found = Estimate(pairs * scale, sigma, round(pairs))
    return _without_background(found, correlation, background_hz, duty)


def _within(
    correlation: Correlation, edges: npt.NDArray[np.float64], begin: float, end: float
) -> tuple[float, float]:
    """Pairs between two delays and those of uncorrelated light; of cut bins the part."""
    share = np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], begin), 0, None)
    share /= correlation.bin_ps
    return float(correlation.counts @ share), float(correlation.expected @ share)


def _other_pulses(
    edges: npt.NDArray[np.float64], window_ps: int, period_ps: float
) -> list[tuple[float, float]]:
    """The window around each pulse but the one at zero delay."""
    if not window_ps <= period_ps:
        raise ValueError(f"a window of {window_ps} ps holds more than a period of {period_ps} ps")
    half = window_ps / 2
    first = math.ceil((edges[0] + half) / period_ps)
    last = math.floor((edges[-1] - half) / period_ps)
    found = [(k * period_ps - half, k * period_ps + half) for k in range(first, last + 1) if k]
    if not found:
        raise ValueError(
            f"the histogram from {edges[0]:.0f} to {edges[-1]:.0f} ps holds no other pulse, with a"
            f" period of {period_ps} ps"
        )
    return found


def _without_background(
    g2: Estimate,
    correlation: Correlation,
    background_hz: tuple[Estimate | float, Estimate | float],
    duty: float,
) -> Estimate:
    dark = [x if isinstance(x, Estimate) else Estimate(x, 0.0) for x in background_hz]
    if not any(x.value for x in dark):
        return g2
    singles = correlation.rates_hz
    for rate, background in zip(singles, dark, strict=True):
        if not 0 <= background.value < rate:
            raise ValueError(
                f"a background of {background.value:.4g} clicks per second in {rate:.4g} leaves"
                " no light"
            )

    def gain(a: float, b: float) -> float:
        light = (singles[0] - a) * (singles[1] - b)
        return 1 + duty * (singles[0] * singles[1] / light - 1)

    a, b = dark
    far, slope = g2.value - 1, gain(a.value, b.value)
    sigma = math.hypot(
        g2.sigma * slope,
        far * (gain(a.value + a.sigma, b.value) - slope),
        far * (gain(a.value, b.value + b.sigma) - slope),
    )
    return Estimate(1 + far * slope, sigma, g2.n)


@dataclass(frozen=True, slots=True)
class GateCounts:
    """Clicks in gates at given delays after heralds.

    Attributes:
        trials: Gates that were open.
        c, d: Gates in which the detector clicked.
        both: Gates in which both did.
    """

    trials: int
    c: int
    d: int
    both: int

    @property
    def clicked(self) -> int:
        """Gates in which either detector clicked."""
        return self.c + self.d - self.both

    @property
    def probability(self) -> Estimate:
        """Of a click in a gate; nan without gates."""
        return fraction(self.clicked, self.trials)

    @property
    def g2(self) -> Estimate:
        """Heralded autocorrelation P(cd|h) / (P(c|h) P(d|h)) at zero delay; 0 for one photon.

        Grangier, Roger and Aspect, EPL 1, 173 (1986). The error is that of a multinomial draw of
        the trials. nan where a detector never clicked; the error of no coincidence is that of one.
        """
        if not (self.c and self.d):
            return Estimate(math.nan, math.nan)
        one = self.trials / (self.c * self.d)
        both = max(self.both, 1)
        variance = 1 / both - 1 / self.c - 1 / self.d - 1 / self.trials
        variance = max(variance + 2 * both / (self.c * self.d), 1 / both**2)
        return Estimate(self.both * one, both * one * math.sqrt(variance), self.both)


class HeraldedG2:
    """Counts clicks of two detectors behind a beam splitter in gates around a herald's clicks.

    Finished, it gives :class:`GateCounts` with the heralded g2 ``N_h N_hcd / (N_hc N_hd)`` (for
    weak pairs about ``2 mu (1 + 1/K)`` of a thermal source with K modes).

    One-to-one: a herald whose gate overlaps that of the last herald that counted does not count, so
    that a click falls into one gate at most, and a detector that clicks twice in a gate clicked.
    Heralds whose gate (or themselves) touch a loss, or an end of the stream, do not count. The
    result does not depend on how the stream was cut.

    Cost: some 40 ns per tag; memory for the clicks within delays and
    window. The first use ever compiles for some seconds.

    Args:
        herald: Channel of the herald.
        c: Channel of one output of the beam splitter.
        d: Channel of the other.
        window_ps: Full width of the gate, ends closed: ``|c - h| <= window/2``.
        delays_ps: Delay of each channel, subtracted; 0 where not named.
    """

    def __init__(
        self,
        herald: int,
        c: int,
        d: int,
        window_ps: int,
        *,
        delays_ps: Mapping[int, int] | None = None,
    ) -> None:
        window_ps = whole("a window", window_ps)
        if window_ps < 0:
            raise ValueError("the coincidence window is a full width and cannot be negative")
        delays = {c: whole("a delay", delay) for c, delay in (delays_ps or {}).items()}
        check_named(delays, (herald, c, d))
        self._line = DelayLine((herald, c, d), delays)
        self._half = window_ps // 2
        shifts = [delays.get(channel, 0) for channel in (herald, c, d)]
        # Where a gate lies in the recording, relative to its herald less its delay.
        self._reach = min(shifts) - self._half, max(shifts) + self._half
        self._waiting: list[TimesPs] = [np.zeros(0, np.int64)] * 3
        self._begins, self._ends = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._end_ps: int | None = None
        self._order = InOrder(self)
        self._state = np.array([-FOREVER])
        self._tally = np.zeros(4, np.int64)

    def add(self, batch: TagBatch) -> None:
        """Take the next batch.

        Raises:
            ValueError: for one that does not follow on the last; after the end.
        """
        self._order.next(batch)
        begins, ends = loss_intervals(batch)
        if self._end_ps is None:
            self._lose(np.array([-FOREVER]), np.array([batch.begin_ps]))
        self._lose(begins, ends)
        self._end_ps = batch.end_ps
        self._feed(batch, batch.end_ps)

    def finish(self) -> GateCounts:
        """End the stream and return the result."""
        if self._end_ps is not None and not self._order.over:
            self._lose(np.array([self._end_ps]), np.array([FOREVER]))
            self._feed(None, FOREVER)
        self._order.over = True
        return self.so_far()

    def so_far(self) -> GateCounts:
        """Return what is counted so far, without what still waits; the stream goes on."""
        return GateCounts(*self._tally.tolist())

    def _lose(self, begins: TimesPs, ends: TimesPs) -> None:
        order = np.argsort(begins := np.append(self._begins, begins), kind="stable")
        self._begins = begins[order]
        # as far as any loss so far reaches: sorted too, whatever overlaps
        self._ends = np.maximum.accumulate(np.append(self._ends, ends)[order])

    def _feed(self, batch: TagBatch | None, known_ps: int) -> None:
        from . import _kernels_virtual

        times, which = self._line.feed(batch)
        heralds, c, d = (
            np.concatenate([waiting, times[which == i]]) for i, waiting in enumerate(self._waiting)
        )
        # Its gate must be over, and losses up to its end be known.
        until = min(self._line.watermark - self._half, known_ps - self._reach[1])
        ready = int(np.searchsorted(heralds, until))
        first, last = heralds[:ready] + self._reach[0], heralds[:ready] + self._reach[1]
        lost = np.searchsorted(self._ends, first, side="right")
        good = np.append(self._begins, FOREVER)[lost] > last
        _kernels_virtual.heralded(heralds[:ready], c, d, self._half, self._state, good, self._tally)
        keep = until - self._half  # no later herald's gate begins before
        self._waiting = [
            heralds[ready:],
            c[np.searchsorted(c, keep) :],
            d[np.searchsorted(d, keep) :],
        ]
        over = int(np.searchsorted(self._ends, until + self._reach[0], side="right"))
        self._begins, self._ends = self._begins[over:], self._ends[over:]


def car(counts: Coincidences) -> Estimate:
    """Return the coincidence-to-accidental ratio of the sums, (C - A)/A; nan without accidentals.

    Args:
        counts: With accidentals at some wrong delays.
    """
    total, wrong, shifts = _totals(counts)
    if not wrong:
        return Estimate(math.nan, math.nan, 0)
    ratio = total * shifts / wrong
    return Estimate(ratio - 1, max(ratio, 1.0) * math.sqrt(1 / max(total, 1) + 1 / wrong), wrong)


def car_at_least(counts: Coincidences) -> float:
    """Return what the CAR exceeds at 95 % where no accidental was seen; else 0.

    Of two Poisson counts the first is binomial in their sum, so all of n lie in one of them with
    probability p^n: Clopper and Pearson's bound is p = 0.05^(1/n) (Biometrika 26, 404 (1934)).
    """
    total, wrong, shifts = _totals(counts)
    if wrong or not total:
        return 0.0
    p: float = 0.05 ** (1 / total)
    return max(0.0, shifts * p / (1 - p) - 1)


def _totals(counts: Coincidences) -> tuple[int, int, int]:
    """Coincidences, those at all wrong delays together, and the number of those."""
    return int(counts.counts.sum()), int(counts.shifted.sum()), len(counts.shifted)


@dataclass(frozen=True)
class PairSource:
    """A pair source and its two arms, from singles and coincidences alone.

    Attributes:
        true_hz: Coincidences less accidentals.
        efficiency: Of each arm, from crystal to click (Klyshko or heralding efficiency).
        pairs_hz: Pairs generated.
    """

    true_hz: Estimate
    efficiency: tuple[Estimate, Estimate]
    pairs_hz: Estimate


def klyshko(
    counts: Coincidences,
    singles: tuple[CountRates, CountRates],
    *,
    darks: tuple[CountRates, CountRates] | None = None,
) -> PairSource:
    """Return the efficiencies of both arms and the rate of pairs, without a power meter.

    ``eta_a = CC/S_b``, ``eta_b = CC/S_a``, ``B = S_a S_b/CC`` (Klyshko, Sov. J. Quantum Electron.
    10, 1112 (1980)) of coincidences less accidentals and singles less darks. What the window cuts
    off lowers the efficiencies. The errors know that coincidences are among the singles, so they
    are binomial: they shrink as the efficiency nears 1.

    Args:
        counts: Coincidences of all channels of a with all of b, and at some wrong delays.
        singles: Clicks of both arms in the same time.
        darks: Clicks without the source; none by default.

    Raises:
        ValueError: without a wrong delay to count accidentals at.
    """
    total, wrong, shifts = _totals(counts)
    if not shifts:
        raise ValueError("accidentals are counted at wrong delays: give the counter some shifts")
    live = counts.live_s
    if not live:
        nothing = Estimate(math.nan, math.nan)
        return PairSource(nothing, (nothing, nothing), nothing)
    accidental = wrong / shifts
    true = total - accidental
    noise = accidental * (1 + 1 / shifts)
    # In clicks per live time of the coincidences, whatever those of singles and darks were.
    light, dark, dark_noise = [], [], []
    for i, channels in enumerate((counts.channels_a, counts.channels_b)):
        seen = _rate(singles[i], channels).value * live
        none = Estimate(0.0, 0.0) if darks is None else _rate(darks[i], channels)
        light.append(seen - none.value * live)
        dark.append(none.value * live)
        dark_noise.append((none.sigma * live) ** 2)
    efficiency = [net_efficiency(true, light[i], noise, dark[i] + dark_noise[i]) for i in (1, 0)]
    true_hz = Estimate(true / live, counted_sigma(total, wrong / shifts**2) / live, total)
    pairs = Estimate(math.nan, math.nan)
    if true > 0 and min(light) > 0:
        a, b = light
        # d ln B = dS_a/a + dS_b/b - dCC/CC, each pair of clicks being in all three
        variance = 1 / true - 1 / a - 1 / b + 2 * true / (a * b) + noise / true**2
        variance += (dark[0] + dark_noise[0]) / a**2 + (dark[1] + dark_noise[1]) / b**2
        rate = a * b / true / live
        pairs = Estimate(rate, rate * math.sqrt(max(variance, 1 / true**2)), total)
    return PairSource(true_hz, (efficiency[0], efficiency[1]), pairs)


def net_efficiency(true: float, of: float, noise: float, dark_noise: float = 0.0) -> Estimate:
    """Return the share of photons whose partner clicked, ``true / of``, with its error.

    Its variance is the binomial one plus that of what was subtracted.

    Args:
        true: Coincidences less accidentals.
        of: Clicks of the other arm less darks; the efficiency is nan if there are none.
        noise: Variance of accidentals and of their estimate.
        dark_noise: Variance of the darks and of their estimate.
    """
    if not of > 0:
        return Estimate(math.nan, math.nan)
    eta = true / of
    binomial = max(eta * (1 - eta), 0.0) * of
    sigma = math.sqrt(max(binomial + noise + eta**2 * dark_noise, 1.0)) / of
    return Estimate(eta, sigma, round(of))


def _rate(rates: CountRates, channels: tuple[int, ...]) -> Estimate:
    return counted(sum(rates.counts.get(c, 0) for c in channels), rates.live_s)
