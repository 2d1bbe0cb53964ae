"""Clicks of matter qubits: of one that emits into detectors, of two that meet at a Bell station.

Every attempt shows one pattern of clicks, with its exact probability, and leaves its spins in the
state that belongs to it (:mod:`.physics.emission`). What the read-outs show is drawn from that
state, as long as the spins have waited. Attempts under the same settings share their probabilities.
Cost: about 1.5 us an attempt of a node, with its read-out and clicks up to the tagger; some ms
where a setting of the light changes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import elements as el
from .arms import Arm, station_light_hz
from .layout import SIDES
from .outlets import Outlet
from .physics import emission
from .physics import polarization as pol
from .physics.memory import NEVER
from .physics.pulsed_pairs import bell_station_units
from .physics.pulses import equal_rows, meetings
from .ways import Seen, Side, Way

__all__ = ["EmitterNetwork", "EmitterNode"]

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
Rng = np.random.Generator

#: Photons farther apart than this many lifetimes do not meet.
_REACH = 10
#: Gaps are rounded to this share of a lifetime, so that attempts share their probabilities.
_GRAIN = 1 / 256
#: Settings whose probabilities are kept.
_TABLES = 64


class EmitterNode:
    """An emitter with what drives it.

    Args:
        model: The emitter.
        sequencer: Its delay generator.
        out: Its way to a station, or to detectors of its own; None where no path takes its light.
        readout: The way of its fluorescence, None where nobody looks.
    """

    def __init__(
        self,
        model: el.EmitterModel,
        sequencer: el.DelayGenerator,
        out: Arm | Way | None,
        readout: Way | None,
    ) -> None:
        self.model = model
        self.sequencer = sequencer
        self.to_station = out if isinstance(out, Arm) else None
        self.own = Side([out] if isinstance(out, Way) else [])
        self.readout = Side([readout] if readout is not None else [])

    @property
    def flight_ps(self) -> int:
        """Longest flight of its light as the optics stand."""
        flights = [self.own.flight_ps, self.readout.flight_ps]
        if self.to_station is not None:
            flights.append(math.ceil(self.to_station.passed().delay_s * 1e12))
        return max(flights)

    def take(self, begin_ps: int, end_ps: int) -> tuple[_Attempts, _Idle]:
        """Return the attempts and the idle read-outs of the cycles that begin in a block."""
        edges = self.sequencer.edges(begin_ps, end_ps)
        pair = el.CHANNELS.index(self.model.excite[0]) // 2
        bright = self.model.bright(self.sequencer.amplitudes_v[1 + pair])
        trains = [t for t in edges.trains if t.starts_ps[0] >= edges.begin_ps]
        found = [_cycles(train, self.model, bright) for train in trains]
        attempts = _Attempts.join([_no_attempts(), *(made for made, _ in found)])
        idle = [_Idle(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
        idle += [read for _, read in found]
        return attempts, _Idle(*(np.concatenate(c) for c in zip(*map(_columns, idle), strict=True)))


@dataclass(frozen=True, eq=False)
class _Attempts:
    """Attempts of a node.

    Attributes:
        excited_ps: When, (n,).
        bright: alpha, (n,).
        read_ps: When the spin is read, ``NEVER`` where it is not, (n,).
        window_ps: For how long, (n,).
        vector: What is read of it (:func:`.emission.read_vector`), (n, 3).
    """

    excited_ps: Times
    bright: Real
    read_ps: Times
    window_ps: Times
    vector: Real

    def __getitem__(self, rows: Times) -> _Attempts:
        return _Attempts(*(column[rows] for column in _columns(self)))

    @classmethod
    def join(cls, parts: Sequence[_Attempts]) -> _Attempts:
        return cls(*(np.concatenate(c) for c in zip(*map(_columns, parts), strict=True)))


@dataclass(frozen=True, eq=False)
class _Idle:
    """Read-outs of a spin that was initialised only.

    Attributes:
        read_ps: When, (n,).
        window_ps: For how long, (n,).
        mean: Mean value of what is read, +1 for |0>, (n,).
    """

    read_ps: Times
    window_ps: Times
    mean: Real


@dataclass(frozen=True, eq=False)
class _Block:
    """What a block holds.

    Attributes:
        begin_ps: Its beginning.
        attempts: Of each node.
        idle: Of each node.
        meets: Rows of each node's attempts that go together, (2, m); -1 where it is alone.
        come_ps: When the photons come to the detectors, (2, m); for one alone, both are the same.
        optics: What stands in the way of its photons.
        seen: Of each node: what its own detectors see, and those of its fluorescence.
        stray: What the optics on the ways to the station add, clicks per second of each detector.
    """

    begin_ps: int
    attempts: list[_Attempts]
    idle: list[_Idle]
    meets: Times
    come_ps: Times
    optics: _Optics
    seen: list[tuple[Seen, Seen]]
    stray: Real


class _Optics:
    """What light meets while no knob moves, and the probabilities that follow from it."""

    def __init__(self, network: EmitterNetwork) -> None:
        self._network = network
        self._tables: dict[tuple[float | None, ...], tuple[Real, Real, Real]] = {}
        self._arms: list[Complex] = []
        self._rows: Real = np.empty((0, 4))
        self._seen: Real = np.empty(0)
        nodes = network.nodes
        if network.station is None:
            self._rows = nodes[0].own.seen().operators * nodes[0].model.efficiency
        else:
            loss = 10 ** (-network.station.loss / 10)
            self._seen = network.outlets[0].efficiencies() * loss
            for node in nodes:
                assert node.to_station is not None
                passed = node.to_station.passed()
                share = math.sqrt(passed.transmission * node.model.efficiency)
                self._arms.append(passed.jones * share)

    def table(
        self, bright: tuple[float | None, float | None], gap_s: float
    ) -> tuple[Real, Real, Real]:
        """Return the chances of every pattern, what the spins show after it, and whose photons.

        Args:
            bright: alpha of each node, None where it makes no attempt.
            gap_s: Between the photons.

        Returns:
            Probabilities (k,), summed up, mean values, (k, 4, 4), and the share of the photons at
            each detector that the left node emitted, (n,).
        """
        key = (*bright, gap_s)
        known = self._tables.get(key)
        if known is None:
            if len(self._tables) >= _TABLES:
                self._tables.clear()
            known = self._tables[key] = self._compute(bright, gap_s)
        return known

    def _compute(
        self, bright: tuple[float | None, float | None], gap_s: float
    ) -> tuple[Real, Real, Real]:
        network = self._network
        units, coherence = self._units(gap_s), network.coherence * self._kept(gap_s)
        made = [
            None
            if alpha is None
            else emission.spin_photon_state(
                alpha, node.model.encoding, node.model.double_excitation
            )
            for alpha, node in zip(bright, network.nodes, strict=False)
        ]
        if len(made) == 2 and made[0] is not None and made[1] is not None:
            kept = emission.kept_spins(units, made[0], made[1], coherence)
            p, table = emission.pauli_table(kept)
        else:
            [(side, node)] = [(s, one) for s, one in enumerate(made) if one is not None]
            own = slice(2 * side, 2 * side + 2)
            p, alone = emission.pauli_table(emission.kept_spins(units[:, own, own], node))
            table = np.zeros((len(p), 4, 4))
            if side:
                table[:, 0, :] = alone
            else:
                table[:, :, 0] = alone
        light = np.zeros((2, len(units)))
        for side, one in enumerate(made):
            if one is not None:
                own = slice(2 * side, 2 * side + 2)
                light[side] = emission.photons_seen(units[:, own, own], one)
        whole = light.sum(0)
        return np.cumsum(p), table, np.where(whole > 0, light[0] / np.where(whole > 0, whole, 1), 1)

    def _kept(self, gap_s: float) -> float:
        """What phase diffusion leaves of the coherence of one photon, here or there."""
        if self._network.station is None:
            return 1.0
        one, two = (node.model for node in self._network.nodes)
        return emission.diffused(gap_s, one.lifetime, (one.dephasing_hz + two.dephasing_hz) / 2)

    def _units(self, gap_s: float) -> Complex:
        """Matrices of the detectors on the photons as they are emitted."""
        network = self._network
        if network.station is None:
            return pol.operators_of(self._rows)
        one, two = (node.model for node in network.nodes)
        overlap = network.station.mode_overlap * emission.arrival_overlap(
            gap_s,
            one.lifetime,
            one.detuning - two.detuning,
            (one.dephasing_hz + two.dephasing_hz) / 2,
        )
        units = bell_station_units(
            (0, 0),
            (0, 1),
            self._arms[0],
            self._arms[1],
            1,
            reflectivity=network.station.reflectivity,
            extinction_db=network.station.extinction,
            overlap=overlap,
        )
        return units * self._seen[:, None, None]


class EmitterNetwork:
    """Two emitters whose light meets at a station, or one alone.

    Args:
        nodes: Those at the station's left and right input, or one.
        station: Where they meet.
        outlet: Its detectors.
    """

    def __init__(
        self,
        nodes: Sequence[EmitterNode],
        station: el.BellStationModel | None = None,
        outlet: Outlet | None = None,
    ) -> None:
        self.nodes = list(nodes)
        self.station = station
        self.outlets: list[Outlet] = [] if outlet is None else [outlet]
        for node in nodes:
            for side in (node.own, node.readout):
                self.outlets += [w.outlet for w in side.ways if w.outlet not in self.outlets]
        variance = sum(math.radians(node.model.phase_noise) ** 2 for node in nodes)
        #: What the phase noise of both ways leaves of the coherence between them.
        self.coherence = math.exp(-variance / 2)
        self._lifetime_ps = nodes[0].model.lifetime * 1e12
        self._reach_ps = math.ceil(_REACH * self._lifetime_ps)
        self._grain_ps = max(1, round(self._lifetime_ps * _GRAIN))
        self._waiting = [_no_attempts() for _ in nodes]
        self._known: tuple[tuple[object, ...], _Optics] | None = None

    @property
    def early_ps(self) -> int:
        """By how much a click may come before the block in which its attempt is looked at."""
        if self.station is None:
            return 0
        flights = [node.to_station.passed().delay_s for node in self.nodes if node.to_station]
        return 2 * self._reach_ps + math.ceil(abs(flights[0] - flights[1]) * 1e12)

    @property
    def flight_ps(self) -> int:
        """Longest flight time as the optics stand."""
        return max(node.flight_ps for node in self.nodes)

    def take(self, begin_ps: int, end_ps: int) -> _Block:
        """Attempts and read-outs of the cycles that begin in the block."""
        taken = [node.take(begin_ps, end_ps) for node in self.nodes]
        attempts = [
            _Attempts.join([waiting, fresh])
            for waiting, (fresh, _) in zip(self._waiting, taken, strict=True)
        ]
        meets, come = self._meet(attempts, begin_ps, end_ps)
        return _Block(
            begin_ps,
            attempts,
            [idle for _, idle in taken],
            meets,
            come,
            self._optics_now(),
            [(node.own.seen(), node.readout.seen()) for node in self.nodes],
            self._stray_hz(),
        )

    def generate(self, what: _Block, rng: Rng, begin_ps: int, end_ps: int) -> None:
        """Make the clicks of the block's attempts and read-outs."""
        for node, both in zip(self.nodes, what.seen, strict=True):
            for side, seen in zip((node.own, node.readout), both, strict=True):
                side.add_singles(seen, seen.stray, rng, begin_ps, end_ps)
        if self.station is not None:
            counts = rng.poisson(self.outlets[0].bear(what.stray) * ((end_ps - begin_ps) * 1e-12))
            times = rng.integers(begin_ps, end_ps, int(counts.sum()))
            self.outlets[0].add(times, np.repeat(np.arange(counts.size), counts))
        if what.begin_ps != begin_ps:
            return  # before the world began
        tables = self._click(what, rng)
        vectors = []
        for attempts, rows in zip(what.attempts, what.meets, strict=False):
            vectors.append(np.concatenate([attempts.vector, np.zeros((1, 3))])[rows])
        if len(vectors) == 1:
            vectors.append(np.zeros_like(vectors[0]))
        outcomes = emission.sample_outcomes(rng, tables, vectors[0], vectors[1])
        for node, attempts, idle, rows, shown, (_, seen) in zip(
            self.nodes, what.attempts, what.idle, what.meets, outcomes, what.seen, strict=False
        ):
            read = np.append(attempts.read_ps, NEVER)[rows] != NEVER
            rows, shown = rows[read], shown[read]
            quiet = np.where(rng.random(idle.mean.size) < (1 + idle.mean) / 2, 1.0, -1.0)
            self._shine(
                node,
                seen,
                np.append(attempts.read_ps[rows], idle.read_ps) - begin_ps,
                np.append(attempts.window_ps[rows], idle.window_ps),
                np.append(shown, quiet) < 0,
                begin_ps,
                end_ps,
                rng,
            )

    def _click(self, what: _Block, rng: Rng) -> Real:
        """Draw the patterns and add their clicks; return what the spins show then, (m, 4, 4)."""
        count = what.meets.shape[1]
        alphas: list[Real] = []
        for attempts, rows in zip(what.attempts, what.meets, strict=False):
            alphas.append(np.append(attempts.bright, -1.0)[rows])
        if len(alphas) == 1:
            alphas.append(np.full(count, -1.0))
        # How far apart matters where two meet.
        both = (what.meets >= 0).all(0)
        gaps = np.where(both, what.come_ps[0] - what.come_ps[1], 0)
        gaps = np.rint(np.abs(gaps) / self._grain_ps).astype(np.int64)
        tables = np.zeros((count, 4, 4))
        patterns = np.zeros(count, np.int64)
        units = self.outlets[0].count if self.station is not None else len(self.nodes[0].own.way)
        of_left = np.zeros((count, units))
        for (one, two, gap), rows in equal_rows([*alphas, gaps], count):
            bright = (None if one < 0 else float(one), None if two < 0 else float(two))
            upto, shows, share = what.optics.table(bright, float(gap) * self._grain_ps * 1e-12)
            pattern = np.searchsorted(upto, rng.random(rows.size), "right")
            patterns[rows] = pattern = np.minimum(pattern, len(upto) - 1)
            tables[rows] = shows[pattern]
            of_left[rows] = share
        clicked = np.flatnonzero(patterns)
        for unit in range(units):
            rows = clicked[patterns[clicked] >> unit & 1 == 1]
            from_left = rng.random(rows.size) < of_left[rows, unit]
            times = np.where(from_left, what.come_ps[0, rows], what.come_ps[1, rows])
            decay = rng.exponential(self._lifetime_ps, rows.size)
            if self.station is not None:
                times += np.rint(decay).astype(np.int64)
                self.outlets[0].add(times, np.full(rows.size, unit), rng)
            else:
                own = self.nodes[0].own
                emitted = times - what.begin_ps + decay
                own.add(what.seen[0][0], what.begin_ps, emitted, np.full(rows.size, unit), rng)
        return tables

    def _shine(
        self,
        node: EmitterNode,
        seen: Seen,
        begin: Times,
        window: Times,
        bright: npt.NDArray[np.bool_],
        block_ps: int,
        end_ps: int,
        rng: Rng,
    ) -> None:
        """Add the fluorescence of read-outs that begin so long after the beginning of the block.

        Light of a block that blinds a detector makes no photons for it.
        """
        if not node.readout.ways or not begin.size:
            return
        light, share = node.model.light, seen.operators[:, 0]
        lit = bright.astype(np.float64) * window
        if math.isfinite(light.pumping_s):
            lit = np.minimum(lit, rng.exponential(light.pumping_s * 1e12, lit.size))
        parts = ((lit, light.bright_hz), (window, light.background_hz))
        # A read-out that outlasts the block is spread over its own length; ten blocks hold it.
        block = end_ps - block_ps
        over = min(max(block, int(window.max())), 10 * block)
        whole = sum(float(length.sum()) * hz for length, hz in parts)
        rates: Real = share * (whole / over) + seen.stray
        borne = node.readout.bear(seen, rates, block_ps, end_ps) == rates
        for length, hz in parts:
            for unit, seen_share in enumerate(share * borne):
                photons = rng.poisson(length * (hz * 1e-12 * seen_share))
                start, span = np.repeat(begin, photons), np.repeat(length, photons)
                emitted = start + rng.random(start.size) * span
                which = np.full(start.size, unit)
                node.readout.add(seen, block_ps, emitted, which, rng)

    def _meet(self, attempts: list[_Attempts], begin_ps: int, end_ps: int) -> tuple[Times, Times]:
        """Rows of attempts whose photons come together, and when; others wait for the next block.

        What is left of ``attempts`` in ``self._waiting`` is looked at again.
        """
        if self.station is None:
            excited = attempts[0].excited_ps
            return np.arange(excited.size)[None], np.stack([excited, excited])
        come_to: list[Times] = []
        soonest = math.inf
        for node, made in zip(self.nodes, attempts, strict=True):
            assert node.to_station is not None
            passed = node.to_station.passed()
            soonest = min(soonest, passed.delay_s)
            delays = passed.delay_s + passed.delay_rate * ((made.excited_ps - begin_ps) * 1e-12)
            come_to.append(made.excited_ps + np.rint(delays * 1e12).astype(np.int64))
        left, right = come_to
        known_ps = end_ps + math.floor(soonest * 1e12) - self._reach_ps
        rows, come = meetings(left, right, self._reach_ps)
        now = come.max(0) < known_ps
        for side, row in enumerate(rows):
            late = row[~now]
            self._waiting[side] = attempts[side][np.sort(late[late >= 0])]
        return rows[:, now], come[:, now]

    def _stray_hz(self) -> Real:
        if self.station is None:
            return np.empty(0)
        arms = [node.to_station for node in self.nodes if node.to_station is not None]
        light = station_light_hz(self.station, dict(zip(SIDES, arms, strict=True)))
        return light * self.outlets[0].efficiencies()

    def _optics_now(self) -> _Optics:
        arms = [node.to_station.passed() for node in self.nodes if node.to_station is not None]
        key = (
            *((passed.transmission, passed.jones.tobytes()) for passed in arms),
            *(node.own.seen().operators.tobytes() for node in self.nodes),
            self.outlets[0].key() if self.station is not None else None,
        )
        if self._known is None or self._known[0] != key:
            self._known = key, _Optics(self)
        return self._known[1]


def _columns(rows: _Attempts | _Idle) -> tuple[npt.NDArray[Any], ...]:
    return tuple(vars(rows).values())


def _no_attempts() -> _Attempts:
    none = np.empty(0, np.int64)
    return _Attempts(none, np.empty(0), none, none, np.empty((0, 3)))


def _cycles(train: el.Train, model: el.EmitterModel, bright: float) -> tuple[_Attempts, _Idle]:
    """What the sequencer tells the emitter in the cycles of a train."""
    outputs = (model.excite, model.read_x, model.read_y, model.read)
    delays = [train.delay_ps(output[0]) for output in outputs]
    widths = [train.delay_ps(output[1]) - d for output, d in zip(outputs, delays, strict=True)]
    excited, turned_x, turned_y, read = (
        train.answers(output[0]) & (width > 0)
        for output, width in zip(outputs, widths, strict=True)
    )
    # A read-out before the excitation sees the spin as it was initialised.
    later = excited & (delays[3] > delays[0])
    code = turned_x * 1 + turned_y * 2
    turned = (delays[1], delays[2])
    vectors = [
        _vectors(begin, turned, delays[3], model.coherence_time or math.inf)[code]
        for begin in (delays[0], 0)
    ]
    reads, window = train.starts_ps + delays[3], np.full(code.size, widths[3])
    attempts = _Attempts(
        train.starts_ps + delays[0],
        np.full(code.size, bright),
        np.where(read & later, reads, NEVER),
        window,
        vectors[0],
    )
    idle = np.flatnonzero(read & ~later)
    return (
        attempts[np.flatnonzero(excited)],
        _Idle(reads[idle], window[idle], vectors[1][idle, 2]),
    )


@functools.lru_cache(maxsize=64)
def _vectors(begin: int, turned: tuple[int, int], read: int, coherence_time_s: float) -> Real:
    """What is read of a spin made at ``begin``, by which of two pulses turn it, (4, 3); ps."""
    found = []
    for which in range(4):
        pulses = [
            (axis, (delay - begin) * 1e-12)
            for bit, (axis, delay) in enumerate(zip("xy", turned, strict=True))
            if which >> bit & 1 and begin <= delay < read
        ]
        pulses.sort(key=lambda pulse: pulse[1])
        until = max(0, read - begin) * 1e-12
        found.append(emission.read_vector(pulses, until, coherence_time_s))
    return np.array(found)
