"""Clicks of weak coherent pulses: of one source on detectors, of two that meet at a Bell station.

One source's photons are independent, however its pulses look: they are drawn from the pattern as a
whole, so that pulses that nobody sees cost nothing, and a click 0.4 us. Two sources that meet
interfere pulse by pulse: some 0.2 us a meeting, and 1 us a click.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from . import elements as el
from .arms import Arm, station_light_hz
from .elements.sequencer import Program, Span
from .layout import SIDES
from .outlets import Outlet
from .physics.coherent import sample_photons, station_means
from .physics.constants import FWHM
from .physics.fibre import angular_width
from .physics.pulsed_pairs import mode_overlap
from .physics.pulses import meetings
from .ways import Seen, Side, Way, blur

__all__ = ["CoherentLight", "CoherentMeeting", "CoherentSource"]

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
Rng = np.random.Generator

#: No draw of a normal distribution lies farther out.
_SIGMAS = 10


@dataclass(frozen=True, eq=False)
class _Kinds:
    """The different pulses of a program.

    Attributes:
        program: What the sequencer plays.
        power_w: Power of the laser.
        light: Jones vectors of length sqrt(mean photon number), (k, 2).
        of_edge: Kind of each rising edge of a run, (edges,).
        of_step: Kind of a pulse that would begin with a step, (steps + 1,).
    """

    program: Program
    power_w: float
    light: Complex
    of_edge: Times
    of_step: Times


class CoherentSource:
    """A source of weak coherent pulses with what drives it.

    Args:
        model: The source.
        sequencer: Its sequencer.
        laser: Its laser, None where that always emits.
    """

    def __init__(
        self,
        model: el.WeakCoherentModel,
        sequencer: el.PulseSequencer,
        laser: el.PumpLaser | None,
    ) -> None:
        self.model = model
        self.sequencer = sequencer
        self.laser = laser
        self.output = int(model.trigger.partition(".")[2])
        self.sigma_ps = model.pulse_width / FWHM * 1e12
        self._known: _Kinds | None = None

    def kinds(self) -> _Kinds:
        """Kinds of pulses that the knobs stand for now: the same object until one is turned."""
        program = self.sequencer.program
        power = 0.0 if self.laser is None else self.laser.power_w
        known = self._known
        if known is None or known.program is not program or known.power_w != power:
            known = self._known = self._sort(program, power)
        return known

    def _sort(self, program: Program, power_w: float) -> _Kinds:
        steps, _ = program.rises(self.output)
        # Levels come from 16-bit words: a pair of them is a whole number.
        raw = np.rint(program.analog_v * 0x7FFF).astype(np.int64)
        code = (raw[:, 0] << 17) + raw[:, 1]
        _, first, of_step = np.unique(code, return_index=True, return_inverse=True)
        light = self.model.light(program.analog_v[first], power_w)
        return _Kinds(program, power_w, light, of_step[steps], of_step)


@dataclass(frozen=True, eq=False)
class _Emitted:
    """Pulses of one source in a block, and what detectors see of each kind.

    Attributes:
        begin_ps: Beginning of the block.
        kinds: Kinds of pulses.
        spans: Rising edges, by runs.
        lone: Kinds of the pulses that no run repeats.
        lone_ps: When they leave.
        seen: What stands in the way.
        means: Photons of each kind that each unit detects, (k, n).
        upto: Photons detected of a run's edges before each, and of all, (edges + 1,).
    """

    begin_ps: int
    kinds: _Kinds
    spans: list[Span]
    lone: Times
    lone_ps: Times
    seen: Seen
    means: Real
    upto: Real


class CoherentLight:
    """A source of weak coherent pulses whose light goes to detectors.

    Args:
        source: The source.
        ways: Of its light.
    """

    def __init__(self, source: CoherentSource, ways: Sequence[Way]) -> None:
        self._source = source
        self._side = Side(ways)
        self.outlets = list(dict.fromkeys(way.outlet for way in ways))
        self._known: tuple[_Kinds, Seen, Real, Real] | None = None

    @property
    def early_ps(self) -> float:
        """By how much a photon may come before the middle of its pulse could."""
        seen = self._side.seen()
        walk = np.abs(seen.walk) * self._source.model.bandwidth
        return _SIGMAS * (self._source.sigma_ps + float(walk.max(initial=0.0)) / FWHM)

    @property
    def flight_ps(self) -> int:
        """Longest flight time as the optics stand."""
        return self._side.flight_ps

    def take(self, begin_ps: int, end_ps: int) -> _Emitted:
        """Pulses of the block that begins."""
        source, sequencer = self._source, self._source.sequencer
        kinds, seen = source.kinds(), self._side.seen()
        known = self._known
        if known is None or known[0] is not kinds or known[1] is not seen:
            h, v = kinds.light.T
            product = 2 * h.conj() * v
            stokes = np.stack(
                [
                    np.abs(h) ** 2 + np.abs(v) ** 2,
                    np.abs(h) ** 2 - np.abs(v) ** 2,
                    product.real,
                    product.imag,
                ]
            )
            model = source.model
            width = angular_width(model.bandwidth, model.wavelength)
            ends = [end @ blur(pmd, width) @ turn @ stokes for end, turn, pmd in seen.ends]
            means = np.maximum(np.concatenate(ends), 0.0).T
            upto = np.concatenate([[0.0], np.cumsum(means.sum(1)[kinds.of_edge])])
            known = self._known = kinds, seen, means, upto
        lone = sequencer.lone_edges(source.output, begin_ps, end_ps)
        return _Emitted(
            begin_ps,
            kinds,
            sequencer.spans(source.output, begin_ps, end_ps),
            kinds.of_step[np.array([step for _, step in lone], np.int64)],
            np.array([time for time, _ in lone], np.int64),
            seen,
            known[2],
            known[3],
        )

    def generate(self, what: _Emitted, rng: Rng, begin_ps: int, end_ps: int) -> None:
        """Make the photons emitted in a block that are detected."""
        stray = what.seen.stray
        if what.begin_ps == begin_ps:
            what, stray = self._borne(what, begin_ps, end_ps)
        self._side.add_singles(what.seen, stray, rng, begin_ps, end_ps)
        if what.begin_ps != begin_ps:
            return  # before the world began
        kinds, program = what.kinds, what.kinds.program
        _, offsets = program.rises(self._source.output)
        times, kind = [], []
        for span in what.spans:
            low, high = what.upto[span.low], what.upto[span.high]
            count = int(rng.poisson(span.runs * (high - low)))
            edge = np.searchsorted(what.upto, low + rng.random(count) * (high - low), "right") - 1
            edge = np.clip(edge, span.low, span.high - 1)
            run = rng.integers(0, span.runs, count)
            times.append(span.start_ps - begin_ps + run * program.period_ps + offsets[edge])
            kind.append(kinds.of_edge[edge])
        alone = rng.poisson(what.means.sum(1)[what.lone])
        times.append(np.repeat(what.lone_ps - begin_ps, alone))
        kind.append(np.repeat(what.lone, alone))
        emitted, of = np.concatenate(times).astype(np.float64), np.concatenate(kind)
        share = np.cumsum(what.means, 1)[of]
        unit = (rng.random(of.size)[:, None] * share[:, -1:] >= share).sum(1)
        unit = np.minimum(unit, what.means.shape[1] - 1)
        emitted += rng.standard_normal(of.size) * self._source.sigma_ps
        if self._source.model.bandwidth > 0 and what.seen.walk.any():
            detuning = rng.standard_normal(of.size) * (self._source.model.bandwidth / FWHM)
            emitted += detuning * what.seen.walk[unit]
        self._side.add(what.seen, begin_ps, emitted, unit, rng)

    def _borne(self, what: _Emitted, begin_ps: int, end_ps: int) -> tuple[_Emitted, Real]:
        """Pulses, and clicks per second of stray light, without what comes to those it blinds."""
        kinds, stray, span_s = what.kinds, what.seen.stray, (end_ps - begin_ps) * 1e-12
        photons = what.means.sum(1)[what.lone].sum() + sum(
            span.runs * (what.upto[span.high] - what.upto[span.low]) for span in what.spans
        )
        if photons / span_s + stray.sum() <= self._side.bears_hz.min():
            return what, stray
        pulses = np.bincount(what.lone, minlength=len(what.means)).astype(np.float64)
        for span in what.spans:
            edges = kinds.of_edge[span.low : span.high]
            pulses += span.runs * np.bincount(edges, minlength=len(what.means))
        light = pulses @ what.means / span_s + stray
        seen = self._side.bear(what.seen, light, begin_ps, end_ps) == light
        if seen.all():
            return what, stray
        means = what.means * seen
        upto = np.concatenate([[0.0], np.cumsum(means.sum(1)[kinds.of_edge])])
        return replace(what, means=means, upto=upto), stray * seen


@dataclass(frozen=True, eq=False)
class _Coming:
    """Pulses of one source that come to the station: when, sorted, and their kinds."""

    times_ps: Times
    light: Complex
    kind: Times


@dataclass(frozen=True, eq=False)
class _Met:
    """Meetings of a block; where one of the pulses is missing, its kind is the last, which is dark.

    Attributes:
        begin_ps: Beginning of the block.
        times_ps: When each pulse comes, left and right, (2, m); the same where there is one only.
        light: Kinds of pulses at either input, as they come to the beam splitter.
        kind: Kind of each meeting at either input, (m,) each.
        seen: Efficiencies of the detectors.
        stray: What the optics on both ways add, clicks per second of each detector.
        until_ps: When the next block's pulses begin to come.
    """

    begin_ps: int
    times_ps: Times
    light: tuple[Complex, Complex]
    kind: tuple[Times, Times]
    seen: Real
    stray: Real
    until_ps: int


class CoherentMeeting:
    """Two sources of weak coherent pulses whose light meets at a Bell station.

    Args:
        sources: At the left and the right input.
        arms: Their ways there.
        station: The station.
        outlet: Its detectors.
    """

    def __init__(
        self,
        sources: tuple[CoherentSource, CoherentSource],
        arms: tuple[Arm, Arm],
        station: el.BellStationModel,
        outlet: Outlet,
    ) -> None:
        self._sources = sources
        self._arms = arms
        self._station = station
        self.outlets = [outlet]
        self._sigma_ps = max(source.sigma_ps for source in sources)
        #: Pulses farther apart than this do not meet.
        self._window_ps = math.ceil(_SIGMAS * self._sigma_ps)
        nothing = _Coming(np.empty(0, np.int64), np.empty((0, 2), np.complex128), np.empty(0, int))
        self._waiting = [nothing, nothing]

    @property
    def early_ps(self) -> float:
        """By how much a photon may come before the block in which its pulse is looked at."""
        return 2 * self._window_ps + _SIGMAS * self._sigma_ps

    @property
    def flight_ps(self) -> int:
        """Longest flight time as the optics stand."""
        return math.ceil(max(arm.passed().delay_s for arm in self._arms) * 1e12)

    def take(self, begin_ps: int, end_ps: int) -> _Met:
        """Pulses that meet, or pass alone, before the next ones can come."""
        loss = 10 ** (-self._station.loss / 20)
        coming = [self._come(side, begin_ps, end_ps, loss) for side in (0, 1)]
        # What comes later than this may meet what is not emitted yet.
        soonest = min(arm.passed().delay_s for arm in self._arms)
        known_ps = end_ps + math.floor(soonest * 1e12) - self._window_ps
        left, right = (each.times_ps for each in coming)
        rows, times = meetings(left, right, self._window_ps)
        now = times.max(0) < known_ps
        for side, row in enumerate(rows):
            late = row[~now]
            late = np.sort(late[late >= 0])
            of = coming[side]
            self._waiting[side] = _Coming(
                of.times_ps[late], of.light[of.kind[late]], np.arange(late.size)
            )
        (at, other), times = rows[:, now], times[:, now]
        dark = np.zeros((1, 2), np.complex128)
        light = [np.concatenate([of.light, dark]) for of in coming]
        kind = [np.append(of.kind, len(of.light)) for of in coming]
        seen = self.outlets[0].efficiencies()
        return _Met(
            begin_ps,
            times,
            (light[0], light[1]),
            (kind[0][at], kind[1][other]),
            seen,
            station_light_hz(self._station, dict(zip(SIDES, self._arms, strict=True))) * seen,
            known_ps,
        )

    def generate(self, what: _Met, rng: Rng, begin_ps: int, end_ps: int) -> None:
        """Make the photons of a block's meetings that are detected."""
        counts = rng.poisson(self.outlets[0].bear(what.stray) * ((end_ps - begin_ps) * 1e-12))
        stray = rng.integers(begin_ps, end_ps, int(counts.sum()))
        self.outlets[0].add(stray, np.repeat(np.arange(counts.size), counts))
        if what.begin_ps != begin_ps:
            return  # before the world began
        width = self._sources[0].model.pulse_width
        gaps = (what.times_ps[1] - what.times_ps[0]) * 1e-12
        meeting, detector, left = sample_photons(
            rng,
            (what.light[0], what.kind[0]),
            (what.light[1], what.kind[1]),
            self._borne(what, begin_ps, end_ps),
            reflectivity=self._station.reflectivity,
            extinction_db=self._station.extinction,
            overlap=self._station.mode_overlap * mode_overlap(gaps, width),
        )
        times = np.where(left, what.times_ps[0, meeting], what.times_ps[1, meeting])
        times += np.rint(rng.standard_normal(times.size) * self._sigma_ps).astype(np.int64)
        self.outlets[0].add(times, detector, rng)

    def _borne(self, what: _Met, begin_ps: int, end_ps: int) -> Real:
        """Efficiencies of the detectors, 0 for those that the pulses blind."""
        outlet, span_ps = self.outlets[0], end_ps - begin_ps
        pulses = [
            np.bincount(kind, minlength=len(light))
            for light, kind in zip(what.light, what.kind, strict=True)
        ]
        photons = sum(
            float(n @ (np.abs(light) ** 2).sum(1))
            for n, light in zip(pulses, what.light, strict=True)
        )
        bears = outlet.bears_hz * (span_ps * 1e-12)
        if photons * what.seen.max() <= bears.min():
            return what.seen
        means = np.zeros(outlet.count)
        for side in (0, 1):
            inputs = [np.zeros_like(what.light[side])] * 2
            inputs[side] = what.light[side]
            alone = station_means(
                *inputs,
                reflectivity=self._station.reflectivity,
                extinction_db=self._station.extinction,
            )[:2]
            means += pulses[side] @ alone[side]
        light = means * what.seen / (span_ps * 1e-12)
        ends = np.full(outlet.count, what.until_ps)
        seen = np.where(outlet.bear(light, ends - span_ps, ends) == light, what.seen, 0.0)
        if photons * seen.max() > bears.sum():
            # Photons are drawn before it is known where they go: a leak of such light blinds too.
            outlet.bear(np.full(outlet.count, np.inf), ends - span_ps, ends)
            seen = np.zeros(outlet.count)
        return seen

    def _come(self, side: int, begin_ps: int, end_ps: int, loss: float) -> _Coming:
        """Pulses that come to an input: those that waited, then those of the block."""
        source, passed = self._sources[side], self._arms[side].passed()
        kinds, waiting = source.kinds(), self._waiting[side]
        times, steps = source.sequencer.edges(source.output, begin_ps, end_ps)
        delays = passed.delay_s + passed.delay_rate * ((times - begin_ps) * 1e-12)
        arrival = np.append(waiting.times_ps, times + np.rint(delays * 1e12).astype(np.int64))
        turn = passed.jones * (math.sqrt(passed.transmission) * loss)
        light = np.concatenate([waiting.light, kinds.light @ turn.T])
        kind = np.append(waiting.kind, kinds.of_step[steps] + len(waiting.light))
        return _Coming(arrival, light, kind)
