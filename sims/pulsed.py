"""Clicks of pulsed sources, of one or of two that meet at Bell stations.

All of a pulse's light, with all its pairs, is looked at as one: the probability of every pattern
of clicks is exact (:mod:`bellbench.sims.physics.pulsed_pairs`), and each pulse shows one. Pulses
that went through the same thing share their probabilities. Cost: about 30 ns a pulse and 1 us a
click; 50 ms and more where a knob moved, for the new probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from . import elements as el
from .arms import Arm, station_light_hz
from .continuous import crystal_temperature_c, phase_deg
from .layout import SIDES
from .outlets import Outlet
from .physics import memory
from .physics import polarization as pol
from .physics.constants import FWHM
from .physics.pulsed_pairs import (
    ClickStatistics,
    PairPulse,
    arm_units,
    bell_station_units,
    mode_overlap,
)
from .physics.pulses import equal_rows
from .physics.spdc import pair_rate_hz

__all__ = ["PulsedNetwork", "PulsedSource", "Station"]

Times = npt.NDArray[np.int64]
Real = npt.NDArray[np.float64]

_SIGMAS = 8
#: Transmissions of a memory are rounded to this, so that pulses share their probabilities.
_GRAIN = 1e-3
#: Kinds of pulses whose probabilities are kept.
_TABLES = 64
_NEVER = memory.NEVER

_Cycles = memory.Cycles | memory.GasCycles


@dataclass
class Station:
    """A Bell station: its detectors, and which arm of which source comes in at which side."""

    model: el.BellStationModel
    outlet: Outlet
    inputs: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class PulsedSource:
    """A pulsed crystal with its arms; an arm that ends at a station has no outlet of its own."""

    crystal: el.CrystalModel
    pump: el.PumpLaser
    oven: el.Oven | None
    trigger: el.DelayGenerator
    channel: str
    arms: tuple[Arm, Arm]
    outlets: tuple[Outlet | None, Outlet | None]
    sequencers: tuple[el.DelayGenerator | None, el.DelayGenerator | None]
    #: Of each arm: whether the light that its optics add is counted here (:class:`.Way`).
    adds_light: tuple[bool, bool] = (True, True)


@dataclass(frozen=True)
class _Unit:
    """A detector as one pulse may make it click: at once, or with what a memory gave back.

    ``source`` and ``arm`` are those of the light, None at a station, where two arms meet.
    """

    outlet: int
    detector: int
    source: int | None
    arm: int | None
    recalled: bool = False


class _Optics:
    """What light meets while no knob moves, and the probabilities that follow from it."""

    def __init__(self, network: PulsedNetwork) -> None:
        self._network = network
        sources, stations = network.sources, network.stations
        self.units: list[_Unit] = []
        self._groups: list[tuple[Any, ...]] = []
        self.efficiencies = [outlet.efficiencies() for outlet in network.outlets]
        passed = [[arm.passed() for arm in source.arms] for source in sources]
        jones = [[p.jones * math.sqrt(p.transmission) for p in both] for both in passed]
        self._jones = jones
        for s, source in enumerate(sources):
            for a, arm in enumerate(source.arms):
                place = network.places.get((s, a))
                if place is None:
                    continue
                # Back through all optics: some act on Stokes vectors only.
                seen = pol.stokes_operators(arm.operators) * self.efficiencies[place][:, None]
                there = pol.operators_of(seen @ passed[s][a].stokes * passed[s][a].transmission)
                group = arm_units(there, np.eye(2, dtype=np.complex128), s, a, len(sources))
                for recalled in (False, True) if arm.memory is not None else (False,):
                    self.units += [_Unit(place, d, s, a, recalled) for d in range(len(group))]
                    self._groups.append(("arm", (s, a), recalled, group))
        for i, station in enumerate(stations):
            place = network.station_places[i]
            left, right = station.inputs["left"], station.inputs["right"]
            share = self.efficiencies[place] * 10 ** (-station.model.loss / 10)
            meeting = (left, right, jones[left[0]][left[1]], jones[right[0]][right[1]])
            self.units += [_Unit(place, d, None, None) for d in range(len(share))]
            self._groups.append(("station", i, meeting, share[:, None, None]))
        self._tables: dict[tuple[Any, ...], ClickStatistics] = {}

    def statistics(
        self,
        means: tuple[float, ...],
        phases: tuple[float, ...],
        gaps_ps: tuple[int, ...],
        fates: dict[tuple[int, int], tuple[float, float]],
    ) -> ClickStatistics:
        """Probabilities of the patterns of clicks of one kind of pulse.

        Args:
            means: Mean pairs of each source.
            phases: Phase of each source's state, degrees.
            gaps_ps: At each station, by how much the left light is later.
            fates: Of each arm with a memory, the shares that pass and that are recalled.
        """
        key = (means, phases, gaps_ps, tuple(fates.values()))
        table = self._tables.get(key)
        if table is None:
            if len(self._tables) >= _TABLES:
                self._tables.clear()
            table = self._tables[key] = self._compute(means, phases, gaps_ps, fates)
        return table

    def share_of_left(self, station: int, detector: int, means: tuple[float, ...]) -> float:
        """Share of the photons at a station's detector that come in at its left.

        Args:
            station: Number of the station.
            detector: Its detector.
            means: Mean pairs of each source.
        """
        model = self._network.stations[station].model
        both = model.reflectivity, 1 - model.reflectivity
        through = both[::-1] if detector < 2 else both
        leak = 1 / (1 + 10 ** (model.extinction / 10))
        seen = np.array([1 - leak, leak])[:: 1 if detector % 2 == 0 else -1]
        light = []
        for side, share in zip(SIDES, through, strict=True):
            s, a = self._network.stations[station].inputs[side]
            crystal = self._network.sources[s].crystal
            pulse = PairPulse(means[s], crystal.visibility, 0.0, crystal.imbalance)
            photons = pulse.photons(a, crystal.schmidt_number)
            light.append(share * float(seen @ np.abs(self._jones[s][a]) ** 2 @ photons))
        return light[0] / sum(light) if any(light) else 0.5

    def _compute(
        self,
        means: tuple[float, ...],
        phases: tuple[float, ...],
        gaps_ps: tuple[int, ...],
        fates: dict[tuple[int, int], tuple[float, float]],
    ) -> ClickStatistics:
        sources, stations = self._network.sources, self._network.stations
        crystal = sources[0].crystal
        parts = []
        for kind, which, how, group in self._groups:
            if kind == "arm":
                s, a = which
                share = 1.0
                if sources[s].arms[a].memory is not None:
                    # no fate: no pulse of this source
                    share = fates.get(which, (0.0, 0.0))[how]
                parts.append(group * share)
                continue
            model = stations[which].model
            # Where only one source has a pulse there is nothing to overlap with.
            gap = gaps_ps[which] if gaps_ps else 0
            overlap = mode_overlap(gap * 1e-12, crystal.pulse_width)
            left, right, jones_left, jones_right = how
            parts.append(
                group
                * bell_station_units(
                    left,
                    right,
                    jones_left,
                    jones_right,
                    len(sources),
                    reflectivity=model.reflectivity,
                    extinction_db=model.extinction,
                    overlap=model.mode_overlap * overlap,
                )
            )
        pulses = [
            PairPulse(mean, source.crystal.visibility, phase, source.crystal.imbalance)
            for mean, phase, source in zip(means, phases, sources, strict=True)
        ]
        return ClickStatistics(pulses, np.concatenate(parts), crystal.schmidt_number)


@dataclass(frozen=True)
class _Pulses:
    """Pulses of the same sources, each row emitted to meet; one source where nothing meets.

    Attributes:
        times_ps: Emission by source, int64 (n,).
        means: Mean pairs by source, (n,).
        fates: Of each arm with a memory: shares that pass and come back, delay, each (n,).
    """

    times_ps: dict[int, Times]
    means: dict[int, Real]
    fates: dict[tuple[int, int], memory.Fates]


@dataclass(frozen=True)
class _Block:
    """What a block holds.

    Attributes:
        pulses: Pulses that are looked at in this block.
        phases: Phase of each source's state, degrees.
        reads_ps: Of each arm with a memory: when the block's reading light comes, for how long.
        optics: What stands in the way.
    """

    pulses: list[_Pulses]
    phases: tuple[float, ...]
    reads_ps: dict[tuple[int, int], tuple[Times, Times]]
    optics: _Optics


class PulsedNetwork:
    """Pulsed sources whose light meets at stations, or one alone.

    Args:
        sources: One or two.
        stations: Where their light meets.
    """

    def __init__(self, sources: Sequence[PulsedSource], stations: Sequence[Station]) -> None:
        self.sources = list(sources)
        self.stations = list(stations)
        self.outlets: list[Outlet] = []
        self.places: dict[tuple[int, int], int] = {}
        for s, source in enumerate(sources):
            for a, outlet in enumerate(source.outlets):
                if outlet is not None:
                    self.places[s, a] = len(self.outlets)
                    self.outlets.append(outlet)
        self.station_places = []
        for station in stations:
            self.station_places.append(len(self.outlets))
            self.outlets.append(station.outlet)
        self._media = {
            (s, a): arm.memory.medium(source.crystal.pulse_width)
            for s, source in enumerate(sources)
            for a, arm in enumerate(source.arms)
            if arm.memory is not None
        }
        self._sigma_ps = sources[0].crystal.pulse_width / FWHM * 1e12
        #: By how much a photon may be early for its pulse.
        self.spread_ps = math.ceil(_SIGMAS * self._sigma_ps)
        #: How long after its emission a pulse's fate in the memories is known: whether the next T0
        #: comes before a plain echo. One that empties a recalled spin wave on its way out is not.
        self.ahead_ps = max(
            (
                math.ceil(sources[s].arms[a].passed().delay_to_memory_s * 1e12)
                + medium.echo_time_ps
                for (s, a), medium in self._media.items()
            ),
            default=0,
        )
        #: How long after its emission a pulse is looked at; set by the world.
        self.lag_ps = 0
        self._pending: list[tuple[Times, Real]] = [
            (np.empty(0, np.int64), np.empty(0)) for _ in sources
        ]
        self._cycles: dict[tuple[int, int], _Cycles] = {}
        for s, source in enumerate(sources):
            for a, arm in enumerate(source.arms):
                if arm.memory is not None:
                    self._cycles[s, a] = arm.memory.no_cycles()
        self._optics: tuple[tuple[object, ...], _Optics] | None = None

    def take(self, begin_ps: int, end_ps: int) -> _Block:
        """Take in what the delay generators did, and return the pulses of the block."""
        phases = []
        for s, source in enumerate(self.sources):
            crystal = source.crystal
            optimum = crystal.phase_matching
            temperature = crystal_temperature_c(crystal, source.pump, source.oven)
            rate = pair_rate_hz(
                source.pump.power_w,
                crystal.pair_rate,
                temperature,
                optimum,
                crystal.phase_matching_fwhm,
            )
            # Rounded, so that an oven's last millikelvin do not ask for new probabilities.
            phases.append(round(phase_deg(crystal, temperature), 2))
            mean = float(f"{rate * crystal.pulse_width:.5g}")
            edges = source.trigger.edges(begin_ps, end_ps).channel(source.channel)
            times, means = self._pending[s]
            fresh = np.full(edges.size, mean)
            self._pending[s] = np.append(times, edges), np.append(means, fresh)
        reads = {}
        for key in self._media:
            sequencer = self.sources[key[0]].sequencers[key[1]]
            model = self.sources[key[0]].arms[key[1]].memory
            assert sequencer is not None
            assert model is not None
            edges_of = sequencer.edges(begin_ps, end_ps)
            keep = begin_ps - 2 * self.lag_ps
            self._cycles[key] = _extend(self._cycles[key], edges_of, model, keep)
            begins, lengths = model.reads(self._cycles[key])
            now = (begins >= begin_ps) & (begins < end_ps)
            reads[key] = begins[now], lengths[now]
        pulses = [
            _Pulses(times, means, {k: self._fates(times[k[0]], k) for k in reads if k[0] in times})
            for times, means in self._match(end_ps - self.lag_ps)
        ]
        return _Block(pulses, tuple(phases), reads, self._optics_now())

    def generate(self, block: _Block, rng: np.random.Generator, begin_ps: int, end_ps: int) -> None:
        """Make the clicks of the block's pulses, and deliver what arrives in it."""
        for pulses in block.pulses:
            self._click(block, pulses, rng, begin_ps)
        for key, reads in block.reads_ps.items():
            self._add_noise(key, reads, block.optics, rng, begin_ps, end_ps)
        for (s, a), place in self.places.items():
            self._add_light(block.optics, s, a, place, rng, begin_ps, end_ps)
        for i, station in enumerate(self.stations):
            light = station_light_hz(station.model, self._lit(station))
            seen = block.optics.efficiencies[self.station_places[i]]
            _shine(station.outlet, light * seen, rng, begin_ps, end_ps)

    def _click(
        self, block: _Block, pulses: _Pulses, rng: np.random.Generator, begin_ps: int
    ) -> None:
        """Add the clicks of pulses."""
        masks, rows = self._patterns(block, pulses, rng)
        emission = {
            s: times[rows] + np.rint(rng.standard_normal(rows.size) * self._sigma_ps).astype(int)
            for s, times in pulses.times_ps.items()
        }
        detuning = rng.standard_normal(rows.size) if self._disperses() else np.zeros(0)
        for u, unit in enumerate(block.optics.units):
            hit = np.flatnonzero((masks >> np.uint64(u)) & np.uint64(1))
            if not hit.size:
                continue
            outlet = self.outlets[unit.outlet]
            if unit.source is None:
                means = {s: mean[rows[hit]] for s, mean in pulses.means.items()}
                emitted = {s: times[hit] for s, times in emission.items()}
                times = self._at_station(block.optics, unit, means, emitted, rng)
            else:
                assert unit.arm is not None
                times = emission[unit.source][hit]
                slew = self.sources[unit.source].arms[unit.arm].passed().delay_rate
                if slew:
                    times += np.rint(slew * (times - begin_ps)).astype(np.int64)
                times += self._flight_ps(unit.source, unit.arm)
                if unit.recalled:
                    times += pulses.fates[unit.source, unit.arm].delay_ps[rows[hit]]
                if detuning.size:
                    # Energies sum to the pump's: where one photon is redder, the other is bluer.
                    walk = self._walk_ps(unit.source, unit.arm) * (1 - 2 * unit.arm)
                    times += np.rint(walk * detuning[hit]).astype(np.int64)
            outlet.add(times, np.full(hit.size, unit.detector), rng)

    def _walk_ps(self, source: int, arm: int) -> float:
        """Rms delay by which an arm's dispersion spreads photons."""
        optics = self.sources[source].arms[arm].passed()
        return optics.dispersion * self.sources[source].crystal.bandwidth / FWHM * 1e12

    def _disperses(self) -> bool:
        return any(self._walk_ps(s, a) for s, a in self.places)

    def _optics_now(self) -> _Optics:
        passed = [arm.passed() for source in self.sources for arm in source.arms]
        arms = [(p.transmission, p.jones.tobytes(), p.stokes.tobytes()) for p in passed]
        key = (*arms, *(outlet.key() for outlet in self.outlets))
        if self._optics is None or self._optics[0] != key:
            self._optics = key, _Optics(self)
        return self._optics[1]

    def _match(self, before_ps: int) -> list[tuple[dict[int, Times], dict[int, Real]]]:
        """Take the pulses emitted before a time, those that meet side by side."""
        if len(self.sources) == 1:
            times, means = self._pending[0]
            cut = int(np.searchsorted(times, before_ps))
            self._pending[0] = times[cut:], means[cut:]
            return [({0: times[:cut]}, {0: means[:cut]})]
        (first, first_means), (second, second_means) = self._pending
        # Two pulses meet when their light comes to the station together.
        gap, reach = self._gap_ps(0), self.spread_ps
        if first.size == second.size and (np.abs(second - first - gap) <= reach).all():
            # The usual case at the dip: every pulse meets another.
            done = int(np.searchsorted(np.maximum(first, second), before_ps - reach))
            self._pending = [(times[done:], means[done:]) for times, means in self._pending]
            return [
                (
                    {0: first[:done], 1: second[:done]},
                    {0: first_means[:done], 1: second_means[:done]},
                )
            ]
        at = np.searchsorted(second, first + (gap - reach))
        meets = np.flatnonzero(np.append(second, _NEVER)[at] - first <= gap + reach)
        partner = at[meets]
        late = np.maximum(first[meets], second[partner])
        # What might still meet a pulse that comes later waits, and so does its partner.
        done = int(np.searchsorted(late, before_ps - reach))
        alone = [np.ones(times.size, np.bool_) for times in (first, second)]
        alone[0][meets], alone[1][partner] = False, False
        waits = [(first >= before_ps - reach) & alone[0], (second >= before_ps - reach) & alone[1]]
        alone = [lonely & ~wait for lonely, wait in zip(alone, waits, strict=True)]
        waits[0][meets[done:]], waits[1][partner[done:]] = True, True
        self._pending = [
            (times[wait], means[wait])
            for (times, means), wait in zip(self._pending, waits, strict=True)
        ]
        meets, partner = meets[:done], partner[:done]
        return [
            (
                {0: first[meets], 1: second[partner]},
                {0: first_means[meets], 1: second_means[partner]},
            ),
            ({0: first[alone[0]]}, {0: first_means[alone[0]]}),
            ({1: second[alone[1]]}, {1: second_means[alone[1]]}),
        ]

    def _gap_ps(self, station: int) -> int:
        """How much later source 1 has to emit than source 0, to meet its light."""
        flights = {s: self._flight_ps(s, a) for s, a in self.stations[station].inputs.values()}
        return flights[0] - flights[1]

    def _flight_ps(self, source: int, arm: int) -> int:
        """From the source to the end of an arm."""
        return round(self.sources[source].arms[arm].passed().delay_s * 1e12)

    def _fates(self, emitted_ps: Times, key: tuple[int, int]) -> memory.Fates:
        flight = round(self.sources[key[0]].arms[key[1]].passed().delay_to_memory_s * 1e12)
        return el.let_out(emitted_ps + flight, self._cycles[key], self._media[key])

    def _patterns(
        self, block: _Block, pulses: _Pulses, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """Pulses that click: the pattern of each, and its row."""
        present = list(pulses.means)
        columns: list[npt.NDArray[Any]] = [pulses.means[s] for s in present]
        meeting = [station for station in self.stations if self._meets(station, pulses)]
        columns += [self._gaps(station, pulses) for station in meeting]
        for fate in pulses.fates.values():
            columns += [np.rint(share / _GRAIN) for share in (fate.passed, fate.recalled)]
        masks: list[npt.NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        rows: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
        for values, members in equal_rows(columns, pulses.means[present[0]].size):
            means = [0.0] * len(self.sources)
            for s, mean in zip(present, values, strict=False):
                means[s] = float(mean)
            if not any(means):
                continue
            shares = [float(v) * _GRAIN for v in values[len(present) + len(meeting) :]]
            statistics = block.optics.statistics(
                tuple(means),
                block.phases,
                tuple(int(v) for v in values[len(present) : len(present) + len(meeting)]),
                dict(zip(pulses.fates, zip(shares[::2], shares[1::2], strict=True), strict=True)),
            )
            patterns, counts = statistics.sample(rng, members.size)
            masks.append(np.repeat(patterns, counts))
            rows.append(members[rng.choice(members.size, int(counts.sum()), replace=False)])
        return np.concatenate(masks), np.concatenate(rows)

    def _meets(self, station: Station, pulses: _Pulses) -> bool:
        return all(s in pulses.times_ps for s, _ in station.inputs.values())

    def _gaps(self, station: Station, pulses: _Pulses) -> Times:
        """By how much the left light is later at a station."""
        (s, a), (t, b) = station.inputs["left"], station.inputs["right"]
        flight = self._flight_ps(s, a) - self._flight_ps(t, b)
        return pulses.times_ps[s] - pulses.times_ps[t] + flight

    def _at_station(
        self,
        optics: _Optics,
        unit: _Unit,
        means: dict[int, Real],
        emitted: dict[int, Times],
        rng: np.random.Generator,
    ) -> Times:
        """When the light of clicks came to a station: with either of the pulses that met there.

        With which one follows the photons that each brings to the detector, whatever else clicked.
        """
        place = self.station_places.index(unit.outlet)
        inputs = self.stations[place].inputs
        (s, a), (t, b) = inputs["left"], inputs["right"]
        if s not in emitted or t not in emitted:
            (s, a) = (s, a) if s in emitted else (t, b)
            return emitted[s] + self._flight_ps(s, a)
        size = emitted[s].size
        share = np.empty(size)
        for values, rows in equal_rows(list(means.values()), size):
            of = dict(zip(means, values, strict=True))
            both = tuple(float(of.get(n, 0.0)) for n in range(len(self.sources)))
            share[rows] = optics.share_of_left(place, unit.detector, both)
        left, right = emitted[s] + self._flight_ps(s, a), emitted[t] + self._flight_ps(t, b)
        found: Times = np.where(rng.random(size) < share, left, right)
        return found

    def _add_noise(
        self,
        key: tuple[int, int],
        reads: tuple[Times, Times],
        optics: _Optics,
        rng: np.random.Generator,
        begin_ps: int,
        end_ps: int,
    ) -> None:
        """Add clicks of the light that reading makes, after the memory."""
        begins, lengths = reads
        upto = np.cumsum(lengths)
        if not upto.size or not upto[-1]:
            return
        arm = self.sources[key[0]].arms[key[1]]
        outlet, passed, model = self.outlets[self.places[key]], arm.passed(), arm.memory
        assert model is not None
        share = np.trace(arm.operators, axis1=1, axis2=2).real / 2
        share = share * optics.efficiencies[self.places[key]] * passed.transmission_after_memory
        photons = share * (model.noise * float(upto[-1]) * 1e-12 / model.mode_duration)
        after_ps = round((passed.delay_s - passed.delay_to_memory_s) * 1e12)
        # A reading that outlasts the block is spread over its own length; ten blocks hold it.
        block = end_ps - begin_ps
        span_s = min(max(block, int(lengths.max())), 10 * block) * 1e-12
        comes = np.full((2, outlet.count), [[begin_ps + after_ps], [end_ps + after_ps]])
        counts = rng.poisson(outlet.bear(photons / span_s, comes[0], comes[1]) * span_s)
        at = rng.integers(0, upto[-1], int(counts.sum()))
        read = np.searchsorted(upto, at, side="right")
        times = begins[read] + lengths[read] - (upto[read] - at) + after_ps
        outlet.add(times, np.repeat(np.arange(counts.size), counts), rng)

    def _add_light(
        self,
        optics: _Optics,
        source: int,
        arm: int,
        place: int,
        rng: np.random.Generator,
        begin_ps: int,
        end_ps: int,
    ) -> None:
        """Add clicks of the light that optics of an arm add at all times."""
        way = self.sources[source].arms[arm]
        passed = way.passed()
        if passed.lights and self.sources[source].adds_light[arm]:
            seen = pol.stokes_operators(way.operators) * optics.efficiencies[place][:, None]
            _shine(self.outlets[place], passed.light_hz(seen), rng, begin_ps, end_ps)

    def _lit(self, station: Station) -> dict[str, Arm]:
        """The arms to a station, by its sides, whose added light is counted here."""
        return {
            side: self.sources[s].arms[a]
            for side, (s, a) in station.inputs.items()
            if self.sources[s].adds_light[a]
        }


def _shine(
    outlet: Outlet, rates_hz: Real, rng: np.random.Generator, begin_ps: int, end_ps: int
) -> None:
    """Add light at a rate that each detector would detect."""
    counts = rng.poisson(outlet.bear(rates_hz) * ((end_ps - begin_ps) * 1e-12))
    times = rng.integers(begin_ps, end_ps, int(counts.sum()))
    outlet.add(times, np.repeat(np.arange(counts.size), counts))


def _extend(known: _Cycles, edges: el.Edges, model: el.StorageModel, keep_ps: int) -> _Cycles:
    """Add the cycles that began in a block; drop those that ended before ``keep_ps``."""
    fresh = [model.cycles(t) for t in edges.trains if t.starts_ps[0] >= edges.begin_ps]
    old = max(0, int(np.searchsorted(known.starts_ps, keep_ps)) - 1)
    columns = (
        np.concatenate(
            [getattr(known, f.name)[old:], *(getattr(cycles, f.name) for cycles in fresh)]
        )
        for f in fields(known)
    )
    return type(known)(*columns)
