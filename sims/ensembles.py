"""Photons of ensembles that are written and read (DLCZ), with the spin waves in between.

Every excitation is one of its own: written in a block, kept from block to block, read, erased by
optical pumping, or forgotten when next to nothing of it would be left. Cost: 0.1 us a write pulse
and excitation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from . import elements as el
from .physics.constants import FWHM
from .physics.memory import readouts, retained
from .physics.pair_statistics import sample_numbers
from .ways import Seen, Side, Way

__all__ = ["EnsembleLight"]

Times = npt.NDArray[np.int64]
Rng = np.random.Generator

#: No draw of a normal distribution lies farther out.
_SIGMAS = 10
#: Share of the efficiency at which an excitation has expired.
_LEAST = 1e-4
_HORIZONTAL = np.array([1.0, 1.0, 0.0, 0.0])


@dataclass(frozen=True, eq=False)
class _Pulsed:
    """What a block does to the ensemble.

    Attributes:
        begin_ps: Beginning of the block.
        cleans_ps: Beginnings of optical pumping.
        writes_ps: Write pulses.
        made: Which of them find the atoms pumped, (writes,).
        reads_ps: Read pulses.
        seen: What stands in the way of photons written and read.
    """

    begin_ps: int
    cleans_ps: Times
    writes_ps: Times
    made: npt.NDArray[np.bool_]
    reads_ps: Times
    seen: tuple[Seen, Seen]


class EnsembleLight:
    """One spatial mode of an ensemble.

    A write pulse makes a thermal number of pairs, a photon and an excitation each, if the atoms
    have been pumped; a read pulse turns all excitations into photons, each with the efficiency
    that its age has left, and leaves none; pumping erases them (Duan et al., Nature 414, 413
    (2001); Sangouard et al., RMP 83, 33 (2011)).

    Args:
        model: The ensemble.
        edges: Rising edges of its ``prepare``, ``write`` and ``read`` in a block.
        ways: Of photons written and read.
    """

    def __init__(
        self,
        model: el.DLCZModel,
        edges: Sequence[Callable[[int, int], Times]],
        ways: tuple[Sequence[Way], Sequence[Way]],
    ) -> None:
        self._model = model
        self._edges = tuple(edges)
        self._sides = Side(ways[0]), Side(ways[1])
        self.outlets = list(dict.fromkeys(way.outlet for both in ways for way in both))
        self._sigma_ps = model.pulse_width / FWHM * 1e12
        lifetimes = -math.log(_LEAST)
        if model.decay == "gaussian":
            lifetimes = math.sqrt(lifetimes)
        self._expires_ps = math.ceil(lifetimes * model.lifetime * 1e12)
        self._cleaned_ps: int | None = None
        self._stored_ps: Times = np.empty(0, np.int64)
        self._stored_until = 0

    @property
    def early_ps(self) -> float:
        """By how much a photon may come before the middle of its pulse."""
        return _SIGMAS * self._sigma_ps

    @property
    def flight_ps(self) -> int:
        """Longest time from a write pulse to the last click that comes of it."""
        return max(side.flight_ps for side in self._sides) + self._expires_ps

    def take(self, begin_ps: int, end_ps: int) -> _Pulsed:
        """Pulses of the block that begins."""
        cleans, writes, reads = (edges(begin_ps, end_ps) for edges in self._edges)
        before = -1 if self._cleaned_ps is None else self._cleaned_ps
        known = np.append(before, cleans)
        last = known[np.searchsorted(cleans, writes, side="right")]
        made = (last >= 0) & (writes - last >= round(self._model.pumping_time * 1e12))
        if cleans.size:
            self._cleaned_ps = int(cleans[-1])
        seen = self._sides[0].seen(), self._sides[1].seen()
        return _Pulsed(begin_ps, cleans, writes, made, reads, seen)

    def generate(self, what: _Pulsed, rng: Rng, begin_ps: int, end_ps: int) -> None:
        """Make the photons of a block that are detected."""
        for side, seen in zip(self._sides, what.seen, strict=True):
            side.add_singles(seen, seen.stray, rng, begin_ps, end_ps)
        if what.begin_ps != begin_ps:
            return  # before the world began
        if self._stored_until != begin_ps:  # nobody has listened
            self._stored_ps = np.empty(0, np.int64)
        self._stored_until = end_ps
        model = self._model
        for arm, (pulses, noise) in enumerate(
            ((what.writes_ps, model.write_noise), (what.reads_ps, model.read_noise))
        ):
            self._emit(what, arm, np.repeat(pulses, rng.poisson(noise, pulses.size)), rng)
        pairs = sample_numbers(rng, model.excitations, 1.0, what.writes_ps.size)
        born = np.repeat(what.writes_ps, pairs * what.made)
        self._emit(what, 0, born, rng)
        # What was there before the block draws last: it is not known to whoever begins to listen.
        stored = np.append(born, self._stored_ps)
        read, age = readouts(stored, what.reads_ps, what.cleans_ps)
        chance = retained(age * 1e-12, model.efficiency, model.lifetime, model.decay)
        chance[age > self._expires_ps] = 0.0
        out = (read >= 0) & (rng.random(stored.size) < chance)
        self._emit(what, 1, what.reads_ps[read[out]], rng)
        self._stored_ps = stored[(read == -1) & (end_ps - stored <= self._expires_ps)]

    def _emit(self, what: _Pulsed, arm: int, pulses_ps: Times, rng: Rng) -> None:
        """Add the photons that are detected, of one in each of some pulses."""
        seen = what.seen[arm]
        share = np.cumsum(seen.operators @ _HORIZONTAL)
        unit = np.searchsorted(share, rng.random(pulses_ps.size), side="right")
        hit = unit < share.size
        emitted = (pulses_ps[hit] - what.begin_ps).astype(np.float64)
        emitted += rng.standard_normal(emitted.size) * self._sigma_ps
        self._sides[arm].add(seen, what.begin_ps, emitted, unit[hit], rng)
