"""The ways of light from a port of a source to detectors, and what the detectors see there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .arms import Arm, Passed
from .outlets import Outlet
from .physics import polarization as pol
from .physics.fibre import pmd_map

__all__ = ["Seen", "Side", "Way", "blur"]

Real = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
Rng = np.random.Generator


@dataclass(frozen=True)
class Way:
    """One way of the light from a port of a source to detectors.

    Attributes:
        arm: Its optics.
        outlet: The detectors.
        adds_light: Whether the light that the optics add is counted here, and not with another
            port whose light goes the same way.
    """

    arm: Arm
    outlet: Outlet
    adds_light: bool = True


@dataclass(frozen=True)
class Seen:
    """What the detectors at the ends of a port's ways see, as the knobs stand, per unit.

    A unit is a detector at the end of a way.

    Attributes:
        operators: Probability of a click for a photon of Stokes vector S is ``operators @ S``,
            shape (n, 4).
        ends: Of each way: the same for a Stokes vector at its end, (k, 4), the map of Stokes
            vectors from its beginning, (4, 4), and its PMD vector, s, (3,).
        stray: Clicks of light that the optics add, Hz, (n,).
        delay_ps: Flight time at the beginning of the block, int64 (n,).
        delay_rate: Its change, s/s, (n,).
        walk: By how much a detuned photon is later, ps per metre of wavelength, (n,).
    """

    operators: Real
    ends: tuple[tuple[Real, Real, Real], ...]
    stray: Real
    delay_ps: Times
    delay_rate: Real
    walk: Real


class Side:
    """The ways that start at one port."""

    def __init__(self, ways: Sequence[Way]) -> None:
        self.ways = tuple(ways)
        #: Of each unit: its way, and its detector there.
        self.way = np.repeat(np.arange(len(ways)), [way.outlet.count for way in ways])
        self.detector = np.concatenate(
            [np.empty(0, np.int64), *(np.arange(way.outlet.count) for way in ways)]
        )
        #: Most that the detector of each unit bears, Hz.
        self.bears_hz = np.concatenate([np.empty(0), *(way.outlet.bears_hz for way in ways)])
        self._rows = [pol.stokes_operators(way.arm.operators) for way in ways]
        self._known: tuple[tuple[object, ...], tuple[Passed, ...], Seen] | None = None

    @property
    def flight_ps(self) -> int:
        """Longest flight time as the optics stand."""
        return int(self.seen().delay_ps.max(initial=0))

    def seen(self) -> Seen:
        """What the detectors see now: the same object as long as nothing changes."""
        key = tuple(way.outlet.key() for way in self.ways)
        passed = tuple(way.arm.passed() for way in self.ways)
        known = self._known
        if (
            known is None
            or known[0] != key
            or any(a is not b for a, b in zip(passed, known[1], strict=True))
        ):
            known = self._known = key, passed, self._see(passed)
        return known[2]

    def _see(self, passed: tuple[Passed, ...]) -> Seen:
        operators, stray = [np.empty((0, 4))], [np.empty(0)]
        ends: list[tuple[Real, Real, Real]] = []
        for rows, way, optics in zip(self._rows, self.ways, passed, strict=True):
            seen = rows * way.outlet.efficiencies()[:, None]
            end = seen * optics.transmission
            operators.append(end @ optics.stokes)
            ends.append((end, optics.stokes, optics.pmd_s))
            stray.append(optics.light_hz(seen) if way.adds_light else np.zeros(len(rows)))
        per_way = np.array(
            [(p.delay_s, p.delay_rate, p.dispersion) for p in passed] or np.empty((0, 3))
        )
        delay, rate, walk = per_way[self.way].T
        return Seen(
            np.concatenate(operators),
            tuple(ends),
            np.concatenate(stray),
            np.rint(delay * 1e12).astype(np.int64),
            rate,
            walk * 1e12,
        )

    def add(
        self, seen: Seen, begin_ps: int, emitted: Real, unit: Times, rng: Rng | None = None
    ) -> None:
        """Hand photons on: emitted so long after the beginning of the block, ps, each to a unit."""
        times = np.rint(emitted).astype(np.int64)
        times += seen.delay_ps[unit] + begin_ps
        if seen.delay_rate.any():
            times += np.rint(emitted * seen.delay_rate[unit]).astype(np.int64)
        if len(self.ways) == 1:
            self.ways[0].outlet.add(times, unit, rng)
            return
        for w, way in enumerate(self.ways):
            here = np.flatnonzero(self.way[unit] == w)
            if here.size:
                way.outlet.add(times[here], self.detector[unit[here]], rng)

    def bear(self, seen: Seen, rates: Real, begin_ps: int, end_ps: int) -> Real:
        """Return the rates per unit that are worth making photons of: 0 where light blinds.

        Ask it of all light that is emitted to a unit in a block together, before any of it is
        drawn; the detector is blind when it arrives (:meth:`Outlet.bear`).

        Args:
            seen: What the detectors see.
            rates: What the unit would detect, Hz, (n,).
            begin_ps: Beginning of the block of emission.
            end_ps: Its end.
        """
        if not (rates > self.bears_hz).any():
            return rates
        begins = begin_ps + seen.delay_ps
        slew = np.rint(seen.delay_rate * (end_ps - begin_ps)).astype(np.int64)
        ends = end_ps + seen.delay_ps + slew
        units = [np.flatnonzero(self.way == w) for w in range(len(self.ways))]
        return np.concatenate(
            [
                way.outlet.bear(rates[unit], begins[unit], ends[unit])
                for way, unit in zip(self.ways, units, strict=True)
            ]
        )

    def add_singles(self, seen: Seen, rates: Real, rng: Rng, begin_ps: int, end_ps: int) -> None:
        """Add photons without partners, at a rate per unit, Hz."""
        span = end_ps - begin_ps
        rates = self.bear(seen, rates, begin_ps, end_ps)
        counts = rng.poisson(rates * (span * 1e-12))
        emitted = rng.random(int(counts.sum())) * span
        self.add(seen, begin_ps, emitted, np.repeat(np.arange(counts.size), counts))


def blur(pmd_s: Real, width_rad_s: float) -> Real:
    """What PMD does to a photon that is looked at alone, (4, 4)."""
    dgd = float(np.linalg.norm(pmd_s))
    return pmd_map(dgd, pmd_s / dgd, width_rad_s) if dgd > 0 else np.eye(4)
