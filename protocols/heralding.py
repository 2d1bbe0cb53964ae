"""Heralded photons through a memory, from the clicks of one tagger.

A pair source sends one photon to the detector ``herald`` and its partner through a memory to two
detectors ``c`` and ``d`` behind a beam splitter; the memory's cycles are marked by ``trigger``.
All that is needed is found in the clicks: :func:`find_layout` in those of the bypassed memory,
then one :class:`HeraldCounter` per setting. Everything streams, in bounded memory, and gives the
same however the stream is cut. No I/O.

Gates are full widths. Errors are one standard deviation of the counting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..instruments import Loss, MemoryInfo, ProtocolError, TagBatch, TimesPs
from . import timing
from .estimates import Estimate
from .timing import GateCounts
from .timing._delays import DelayLine
from .timing._order import InOrder
from .timing._streams import check_named, whole

__all__ = [
    "DecayFit",
    "GateCounts",
    "HeraldCounter",
    "HeraldCounts",
    "HeraldLayout",
    "find_layout",
    "fit_decay",
    "heralding_efficiency",
    "noise_per_mode",
    "relative_efficiency",
    "signal_to_noise",
]

Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_SEARCH_PS = 2_000_000_000  # of the delay between the arms: 400 km of fibre
_FEWEST = 15.0  # partners per mode of the cycle that its dark part must stand out from


@dataclass(frozen=True)
class HeraldLayout:
    """Which input is what, and how their times belong together.

    Attributes:
        herald, c, d, trigger: Inputs of the tagger.
        delays_ps: How much later than the herald's the partner's clicks on ``c`` and ``d`` come
            through the bypassed memory; and by how much an edge on ``trigger`` has to go back so
            that a herald's time since then is the partner's arrival since the memory's trigger.
        sigma_ps: How far off the latter may be: half a mode, where pulses come one per mode.
        fwhm_ps: Width of the coincidence peaks.
    """

    herald: int
    c: int
    d: int
    trigger: int
    delays_ps: Mapping[int, int]
    sigma_ps: float
    fwhm_ps: float


@dataclass(frozen=True)
class HeraldCounts:
    """What one setting gave.

    Attributes:
        cycles: Cycles of the memory that were seen whole.
        window_ps: Begin and end, after the trigger, of the arrivals that were used.
        mode_ps: Length of a mode.
        heralds: Heralds whose partner arrived in the window.
        gates: Clicks at each named delay after them.
        beside: The same with the gate moved by the shifts asked for: accidentals.
        slots: Clicks, heralded or not, at each named delay after the window: ``slots[name]``
            holds those that would have come in by the window and out so much later.
        by_mode: int64 (modes, 1 + gates), heralds and clicked gates per mode of arrival.
        histogram_ps: float64 (n,), middles of bins of delay after the herald.
        histogram: int64 (n,), clicks of c and d in them.
        live_s: Recorded time without losses.
    """

    cycles: int
    window_ps: tuple[int, int]
    mode_ps: int
    heralds: int
    gates: Mapping[str, GateCounts]
    beside: Mapping[str, GateCounts]
    slots: Mapping[str, int]
    by_mode: Counts
    histogram_ps: npt.NDArray[np.float64]
    histogram: Counts
    live_s: float

    @property
    def modes(self) -> float:
        """Modes in all windows together."""
        return self.cycles * (self.window_ps[1] - self.window_ps[0]) / self.mode_ps

    def cross_g2(self, gate: str) -> Estimate:
        """Cross-correlation P(click|herald) / P(click), the latter from beside; nan for none.

        Above 2, herald and partner are non-classical if each alone is thermal or nearer to
        Poisson (Cauchy-Schwarz, g2 of either at most 2).
        """
        here, there = self.gates[gate], self.beside[gate]
        if not (there.clicked and here.trials and there.trials):
            return Estimate(math.nan, math.nan)
        value = here.probability.value / there.probability.value
        error = math.sqrt(1 / max(here.clicked, 1) + 1 / there.clicked)
        return Estimate(value, max(value, 1 / here.trials / there.probability.value) * error)


@dataclass
class _Tally:
    """Sums of one gate."""

    trials: int = 0
    c: int = 0
    d: int = 0
    both: int = 0

    def add(self, c: Mask, d: Mask) -> None:
        self.trials += c.size
        self.c += int(np.count_nonzero(c))
        self.d += int(np.count_nonzero(d))
        self.both += int(np.count_nonzero(c & d))

    def counts(self) -> GateCounts:
        return GateCounts(self.trials, self.c, self.d, self.both)


class HeraldCounter:
    """Counts what follows the heralds whose partner arrived in the memory's window.

    Feed it batch by batch. A cycle counts once every gate behind its window is over; one that
    touches a loss does not count. Memory is bounded by the clicks within the longest delay.

    Args:
        layout: As :func:`find_layout` found it.
        window_ps: Arrivals used: begin and end after the memory's trigger.
        mode_ps: Length of a mode.
        delays_ps: Name of each gate and its delay after the prompt click.
        gate_ps: Full width of a gate, ends closed.
        beside_ps: Shifts of the gates beside, e.g. one and two pulses earlier and later.
        histogram_ps: Begin, end and bin of the histogram of delays; a bin is centred on 0.
    """

    def __init__(
        self,
        layout: HeraldLayout,
        *,
        window_ps: tuple[int, int],
        mode_ps: int,
        delays_ps: Mapping[str, int],
        gate_ps: int,
        beside_ps: Sequence[int] = (),
        histogram_ps: tuple[int, int, int] = (0, 1, 1),
    ) -> None:
        if not window_ps[0] < window_ps[1]:
            raise ValueError(f"the window {window_ps} is empty")
        if whole("a gate", gate_ps) < 0 or whole("a mode", mode_ps) < 1:
            raise ValueError(f"no gate of {gate_ps} ps in a mode of {mode_ps} ps")
        self._window, self._mode, self._half = window_ps, mode_ps, gate_ps // 2
        self._delays = dict(delays_ps)
        self._shifts = tuple(beside_ps)
        begin, end, self._bin = histogram_ps
        if not begin < end or self._bin < 1:
            raise ValueError(f"no bins in {histogram_ps}")
        self._left = begin - begin % self._bin - self._bin // 2
        bins = -(-(end - self._left) // self._bin)
        self._histogram = np.zeros(bins, np.int64)
        reaches = [
            *(d + s + h for d in self._delays.values() for s in (0, *self._shifts)
              for h in (-self._half, self._half)),
            self._left,
            self._left + bins * self._bin,
            0,
        ]  # fmt: skip
        self._early, self._late = min(reaches), max(reaches)
        inputs = (layout.herald, layout.c, layout.d, layout.trigger)
        check_named(layout.delays_ps, inputs)
        self._line = DelayLine(inputs, layout.delays_ps)
        shifts = [layout.delays_ps.get(i, 0) for i in inputs]
        self._spread = min(shifts), max(shifts)
        self._waiting: list[TimesPs] = [np.zeros(0, np.int64)] * len(inputs)
        self._losses: dict[Loss, None] = {}  # a set in order
        modes = -(-(window_ps[1] - window_ps[0]) // mode_ps)
        self._by_mode = np.zeros((modes, 1 + len(self._delays)), np.int64)
        self._gates = {name: _Tally() for name in self._delays}
        self._beside = {name: _Tally() for name in self._delays}
        self._slots = dict.fromkeys(self._delays, 0)
        self._cycles = self._heralds = 0
        self._order = InOrder(self)

    def add(self, batch: TagBatch) -> None:
        """Take the next batch.

        Raises:
            ValueError: for one that does not follow on the last; after the end.
        """
        self._order.next(batch)
        self._losses.update(dict.fromkeys(batch.losses))
        self._feed(batch)

    def finish(self) -> HeraldCounts:
        """End the stream and return the result; cycles that are not over do not count."""
        self._order.over = True
        return self.so_far()

    def so_far(self) -> HeraldCounts:
        """Return what is counted so far; the stream goes on."""
        return HeraldCounts(
            self._cycles,
            self._window,
            self._mode,
            self._heralds,
            {name: tally.counts() for name, tally in self._gates.items()},
            {name: tally.counts() for name, tally in self._beside.items()},
            dict(self._slots),
            self._by_mode.copy(),
            self._left + self._bin * (np.arange(self._histogram.size, dtype=np.float64) + 0.5),
            self._histogram.copy(),
            self._order.live_s,
        )

    def _feed(self, batch: TagBatch) -> None:
        times, which = self._line.feed(batch)
        for i, waiting in enumerate(self._waiting):
            self._waiting[i] = np.concatenate([waiting, times[which == i]])
        begin, end = self._window
        heralds, c, d, triggers = self._waiting
        over = self._line.watermark - end - self._late
        n = int(np.searchsorted(triggers, over))
        if n:
            self._count(heralds, c, d, triggers, n)
        rest = int(triggers[n]) if n < triggers.size else over
        keep = rest + min(begin, 0)
        self._waiting = [
            heralds[np.searchsorted(heralds, keep) :],
            c[np.searchsorted(c, keep + self._early) :],
            d[np.searchsorted(d, keep + self._early) :],
            triggers[n:],
        ]
        oldest = keep + self._early + self._spread[0]
        self._losses = {loss: None for loss in self._losses if loss.end_ps > oldest}

    def _count(self, heralds: TimesPs, c: TimesPs, d: TimesPs, triggers: TimesPs, n: int) -> None:
        """Count the cycles of the first ``n`` triggers."""
        whole = self._whole(triggers)
        whole[n:] = False
        self._cycles += int(np.count_nonzero(whole))
        arrival, used = self._arrivals(heralds, triggers, whole)
        h = heralds[used]
        self._heralds += h.size
        mode = (arrival[used] - self._window[0]) // self._mode
        modes = self._by_mode.shape[0]
        self._by_mode[:, 0] += np.bincount(mode, minlength=modes)
        for k, (name, delay) in enumerate(self._delays.items()):
            in_c, in_d = self._clicks(c, h + delay), self._clicks(d, h + delay)
            self._gates[name].add(in_c, in_d)
            self._by_mode[:, 1 + k] += np.bincount(mode[in_c | in_d], minlength=modes)
            for shift in self._shifts:
                at = h + delay + shift
                self._beside[name].add(self._clicks(c, at), self._clicks(d, at))
            for clicks in (c, d):
                _, inside = self._arrivals(clicks - delay, triggers, whole)
                self._slots[name] += int(np.count_nonzero(inside))
        if h.size:
            from .timing import _kernels

            for clicks in (c, d):
                _kernels.histogram(h, clicks, self._left, self._bin, self._histogram)

    def _whole(self, triggers: TimesPs) -> Mask:
        """Which cycles touch no loss, from before the window to the last gate."""
        whole = np.ones(triggers.size, np.bool_)
        low = self._window[0] + self._early + self._spread[0]
        high = self._window[1] + self._late + self._spread[1]
        for loss in self._losses:
            whole &= (triggers + high < loss.begin_ps) | (triggers + low >= loss.end_ps)
        return whole

    def _arrivals(self, times: TimesPs, triggers: TimesPs, whole: Mask) -> tuple[TimesPs, Mask]:
        """Time of each since its cycle's trigger, and whether it lies in a whole one's window."""
        cycle = np.searchsorted(triggers, times, side="right") - 1
        arrival = times - triggers[cycle]
        begin, end = self._window
        return arrival, (cycle >= 0) & whole[cycle] & (arrival >= begin) & (arrival < end)

    def _clicks(self, clicks: TimesPs, at: TimesPs) -> Mask:
        first = np.searchsorted(clicks, at - self._half)
        found: Mask = np.searchsorted(clicks, at + self._half, side="right") > first
        return found


def find_layout(
    batch: TagBatch, *, herald: int, c: int, d: int, trigger: int, info: MemoryInfo
) -> HeraldLayout:
    """Find from a recording of the bypassed memory how all times belong together.

    The delays of c and d are those of their coincidences with the herald. The memory's clock is
    found from what it loses: from the trigger to the end of the preparation no partner comes.

    Args:
        batch: A second or so of clicks.
        herald: Input of the heralding detector.
        c: Input of one output of the beam splitter.
        d: Input of the other.
        trigger: Input that sees the memory's trigger.
        info: The memory's.

    Raises:
        ProtocolError: saying what is missing: coincidences, triggers, or the dark part of the
            cycle.
    """
    found = timing.find_channel_delays(
        batch.select([herald]),
        batch.select([c, d]),
        channels_a=[herald],
        channels_b=[c, d],
        search_ps=_SEARCH_PS,
    )
    mode, cycle = _ps(info.mode_duration_s), _ps(info.cycle_s)
    inputs = (herald, c, d, trigger)
    times, which = DelayLine(inputs, found.delays_b).feed(batch)
    heralds, in_c, in_d, triggers = (times[which == i] for i in range(4))
    _check_triggers(triggers, trigger, cycle)
    index = np.searchsorted(triggers, heralds, side="right") - 1
    heralds, phase = heralds[index >= 0], (heralds - triggers[index])[index >= 0] % cycle
    partner = np.zeros(heralds.size, np.bool_)
    for clicks in (in_c, in_d):
        first = np.searchsorted(clicks, heralds - mode // 4)
        partner |= np.searchsorted(clicks, heralds + mode // 4, side="right") > first
    # Bins with the pulses, one per mode, in their middles.
    turn = np.angle(np.exp(2j * np.pi * (phase % mode) / mode).mean()) / (2 * np.pi)
    offset = round(turn * mode) - mode // 2
    bins = cycle // mode
    at = ((phase - offset) // mode) % bins
    heralded = np.bincount(at, minlength=bins).astype(np.float64)
    partnered = np.bincount(at[partner], minlength=bins).astype(np.float64)
    share = partnered / np.maximum(heralded, 1)
    # The cumulated sum of what is missing turns at the edges (change point by CUSUM).
    missing = np.cumsum(share.mean() - share)
    turns = int(np.argmin(missing)), int(np.argmax(missing))
    dark = (np.arange(bins) - turns[0] - 1) % bins < (turns[1] - turns[0]) % bins
    low, high = (float(share[side].mean()) if side.any() else 0.0 for side in (dark, ~dark))
    partners = high * float(heralded.mean())
    if partners < _FEWEST:
        raise ProtocolError(
            f"{partners:.1f} coincidences per mode of {mode * 1e-3:g} ns in"
            f" {batch.live_s:.3g} s are too few to find the memory's clock in, {_FEWEST:g} are"
            " needed: record longer, or raise the pump"
        )
    if low > high / 2:
        raise ProtocolError(
            f"no part of the cycle of {cycle * 1e-6:g} us is dark (coincidences fall to"
            f" {low / high:.0%} at most): is the memory in the path and bypassed, does input"
            f" {trigger} see its trigger?"
        )
    # Both levels known, the edge by the likelihood of the counts, from amid the bright part on.
    least = max(low, high / 100)
    gain = heralded * (high - least) - partnered * math.log(high / least)
    start = (turns[1] + int(np.count_nonzero(~dark)) // 2) % bins
    rising = np.cumsum(np.roll(gain, -start))
    last = start + int(np.argmax(rising - np.minimum.accumulate(rising)))
    edge = (last + 1) * mode + offset
    lag = (_ps(info.prepared_s) - edge + cycle // 2) % cycle - cycle // 2
    delays = {c: found.delays_b[c], d: found.delays_b[d], trigger: lag}
    return HeraldLayout(herald, c, d, trigger, delays, mode / 2, found.fwhm_ps)


def _check_triggers(triggers: TimesPs, channel: int, cycle: int) -> None:
    if triggers.size < 2:
        raise ProtocolError(
            f"input {channel} saw {triggers.size} triggers: is the sequencer running and"
            " connected, is the input's threshold right?"
        )
    period = float(np.median(np.diff(triggers)))
    if abs(period - cycle) > 1e-3 * cycle:
        raise ProtocolError(
            f"triggers on input {channel} come every {period * 1e-6:.6g} us, the memory's cycle"
            f" is {cycle * 1e-6:.6g} us: is something else connected to it?"
        )


def heralding_efficiency(counts: HeraldCounts, gate: str, *, dark_heralds: float = 0.0) -> Estimate:
    """Return the share of heralded photons that click: Klyshko's, Sov. J. QE 10, 1112 (1980).

    Accidentals (from beside) and dark heralds are taken away. What is left of pairs that come
    together makes it too high, by about the mean number of pairs per pulse for a thermal source.

    Args:
        counts: Of one setting.
        gate: Name of the gate.
        dark_heralds: Share of the heralds that no photon made.
    """
    return _net(counts, gate) * (1 / (1 - dark_heralds))


def relative_efficiency(
    stored: HeraldCounts, gate: str, reference: HeraldCounts, reference_gate: str
) -> Estimate:
    """Return how many heralded photons come out in a gate, of those in the reference's gate."""
    return _net(stored, gate) / _net(reference, reference_gate)


def signal_to_noise(counts: HeraldCounts, gate: str, noise_per_gate: Estimate) -> Estimate:
    """Return how many times the clicks in a gate after heralds exceed those without light."""
    ratio = counts.gates[gate].probability / noise_per_gate
    return Estimate(ratio.value - 1, ratio.sigma)


def noise_per_mode(counts: HeraldCounts, slot: str, background: str = "") -> Estimate:
    """Return clicks of c and d per mode in a slot, those in a background slot taken away.

    With the source blocked that is the noise of the recall, in clicks.
    """
    if not counts.modes:
        return Estimate(math.nan, math.nan)
    here = counts.slots[slot]
    there = counts.slots[background] if background else 0
    return Estimate((here - there) / counts.modes, math.sqrt(here + there + 1) / counts.modes)


@dataclass(frozen=True)
class DecayFit:
    """Efficiency against storage time, ``eta0 exp(-((t - echo)/T)^n)``.

    Attributes:
        efficiency: eta0, extrapolated to the echo time.
        lifetime_s: T.
        decay: ``gaussian`` (n = 2) or ``exponential`` (n = 1).
        echo_s: Storage time from which the decay counts.
        chi2: Sum of the squared residuals in sigma.
        degrees: Points less parameters.
    """

    efficiency: Estimate
    lifetime_s: Estimate
    decay: Literal["gaussian", "exponential"]
    echo_s: float
    chi2: float
    degrees: int

    def __call__(self, storage_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the fitted efficiency at storage times, same shape."""
        t = np.asarray(storage_s, np.float64) - self.echo_s
        return self.efficiency.value * _decay(t / self.lifetime_s.value, self.decay)


def fit_decay(
    storage_s: Sequence[float],
    efficiencies: Sequence[Estimate],
    *,
    decay: Literal["gaussian", "exponential"],
    echo_s: float,
) -> DecayFit:
    """Fit the decay of a memory by weighted least squares.

    Raises:
        ProtocolError: where the efficiencies do not show a decay.
        ValueError: for fewer than two storage times.
    """
    import warnings

    from scipy.optimize import OptimizeWarning, curve_fit

    if len(set(storage_s)) < 2:
        raise ValueError("a lifetime takes two storage times or more")
    t = np.asarray(storage_s, np.float64) - echo_s
    values = np.array([each.value for each in efficiencies])
    sigmas = np.array([each.sigma for each in efficiencies])
    span = float(np.ptp(t))

    def model(x: npt.NDArray[np.float64], eta0: float, rate: float) -> npt.NDArray[np.float64]:
        return eta0 * _decay(x * rate, decay)

    # In the rate 1/T, in which "no decay" is a number; scaled so that both are of order 1.
    with warnings.catch_warnings():
        warnings.simplefilter("error", OptimizeWarning)
        try:
            best, covariance = curve_fit(
                model,
                t / span,
                values,
                p0=(max(float(values.max()), 1e-6), 1.0),
                sigma=sigmas,
                absolute_sigma=True,
                bounds=((0.0, 0.0), (np.inf, np.inf)),
            )
        except (RuntimeError, OptimizeWarning) as error:
            raise ProtocolError(f"no decay fits the efficiencies: {error}") from error
    errors = np.sqrt(np.diag(covariance))
    if not best[1] > 2 * errors[1]:
        raise ProtocolError(
            f"the efficiency does not fall within {span * 1e6:.3g} us: no lifetime can be told;"
            " store for longer, or count for longer"
        )
    residuals = (values - model(t / span, *best)) / sigmas
    return DecayFit(
        Estimate(float(best[0]), float(errors[0])),
        Estimate(span / float(best[1]), span * float(errors[1]) / float(best[1]) ** 2),
        decay,
        echo_s,
        float(residuals @ residuals),
        len(values) - 2,
    )


def _decay(x: npt.NDArray[np.float64], decay: str) -> npt.NDArray[np.float64]:
    with np.errstate(under="ignore"):
        return np.exp(-(x**2 if decay == "gaussian" else x))


def _net(counts: HeraldCounts, gate: str) -> Estimate:
    """Probability of a click that comes on top of accidental ones."""
    p, a = counts.gates[gate].probability, counts.beside[gate].probability
    if not counts.beside[gate].trials:
        return p
    rest = 1 - a.value
    slope = (1 - p.value) / rest
    return Estimate((p.value - a.value) / rest, math.hypot(p.sigma, slope * a.sigma) / rest)


def _ps(seconds: float) -> int:
    return round(seconds * 1e12)
