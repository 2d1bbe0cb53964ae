"""Clicks of light that is always on: pairs of a continuously pumped crystal, and lamps.

Photons that no detector would see are never generated; thinning independent losses is exact for
Poisson pairs. Cost: about 0.1 us per click, plus 0.15 ms a block and pair of channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from . import elements as el
from .physics import polarization as pol
from .physics.constants import FWHM
from .physics.fibre import angular_width, pmd_pair
from .physics.spdc import pair_rate_hz
from .ways import Seen, Side, Way, blur

__all__ = [
    "ContinuousLight",
    "ContinuousPair",
    "Rates",
    "crystal_temperature_c",
    "phase_deg",
]

Real = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
Rng = np.random.Generator

#: No draw of a normal distribution lies farther out.
_SIGMAS = 10


@dataclass(frozen=True)
class Rates:
    """Rates of clicks before dead time, dark counts apart, as the knobs stand, Hz.

    Attributes:
        both: Both photons of a pair, by unit of signal and idler, (n, m).
        only: One of them alone, by unit; signal and idler.
        stray: Fluorescence of the crystal and light of the optics, by unit; signal and idler.
    """

    both: Real
    only: tuple[Real, Real]
    stray: tuple[Real, Real]
    _seen: tuple[Seen, Seen]
    _blinding: bool


class ContinuousPair:
    """A continuously pumped crystal, or one pair of its wavelength channels.

    Args:
        model: The crystal.
        share: Share of the pairs that are of this pair of channels.
        pump: Its pump laser.
        oven: Its oven, None where it has the temperature of perfect phase matching.
        ways: Of signal and idler.
    """

    def __init__(
        self,
        model: el.CrystalModel,
        share: float,
        pump: el.PumpLaser,
        oven: el.Oven | None,
        ways: tuple[Sequence[Way], Sequence[Way]],
    ) -> None:
        self._model = model
        self._share = share
        self._pump = pump
        self._oven = oven
        self._sides = Side(ways[0]), Side(ways[1])
        self.outlets = list(dict.fromkeys(way.outlet for side in ways for way in side))
        self._known: tuple[tuple[float, float], Rates] | None = None

    @property
    def early_ps(self) -> float:
        """By how much a photon may come before it could, were it emitted with its pair."""
        found = self._model.coherence_time * 1e12
        for side in self._sides:
            seen = side.seen()
            walk = np.abs(seen.walk) * self._model.bandwidth - seen.delay_ps / _SIGMAS * FWHM
            found += max(float(walk.max(initial=0.0)), 0.0)
        return found * _SIGMAS / FWHM

    @property
    def flight_ps(self) -> int:
        """Longest flight time as the optics stand."""
        return max(side.flight_ps for side in self._sides)

    def take(self, begin_ps: int, end_ps: int) -> Rates:
        """Rates of the block that begins."""
        return self.rates()

    def rates(self) -> Rates:
        """Rates that the knobs stand for now."""
        model = self._model
        temperature = crystal_temperature_c(model, self._pump, self._oven)
        key = self._pump.power_w, temperature
        seen = self._sides[0].seen(), self._sides[1].seen()
        known = self._known
        if (
            known is None
            or known[0] != key
            or known[1]._seen[0] is not seen[0]
            or known[1]._seen[1] is not seen[1]
        ):
            known = self._known = key, self._compute(*key, seen)
        return known[1]

    def generate(self, rates: Rates, rng: Rng, begin_ps: int, end_ps: int) -> None:
        """Make the photons emitted in a block that are detected."""
        span = end_ps - begin_ps
        if rates._blinding:
            rates = self._borne(rates, begin_ps, end_ps)
        n = rates.both.shape[1]
        counts = rng.poisson(rates.both.ravel() * (span * 1e-12))
        emitted = rng.random(int(counts.sum())) * span
        outcome = np.repeat(np.arange(rates.both.size), counts)
        units = np.divmod(outcome, n) if n else (outcome, outcome)
        shifts = self._shifts(rates, units, rng)
        for side, seen, unit, shift, only, stray in zip(
            self._sides, rates._seen, units, shifts, rates.only, rates.stray, strict=True
        ):
            side.add(seen, begin_ps, emitted if shift is None else emitted + shift, unit, rng)
            side.add_singles(seen, only + stray, rng, begin_ps, end_ps)

    def _borne(self, rates: Rates, begin_ps: int, end_ps: int) -> Rates:
        """The same without what comes to detectors that it blinds."""
        light = [rates.both.sum(1 - i) + rates.only[i] + rates.stray[i] for i in (0, 1)]
        one, two = (
            side.bear(seen, hz, begin_ps, end_ps) == hz
            for side, seen, hz in zip(self._sides, rates._seen, light, strict=True)
        )
        only = (
            rates.only[0] + rates.both[:, ~two].sum(1),
            rates.only[1] + rates.both[~one].sum(0),
        )
        return replace(
            rates,
            both=rates.both * np.outer(one, two),
            only=(only[0] * one, only[1] * two),
            stray=(rates.stray[0] * one, rates.stray[1] * two),
        )

    def _shifts(
        self, rates: Rates, units: tuple[Times, Times], rng: Rng
    ) -> tuple[Real | None, Real | None]:
        """By how much the photons of each pair are late for its emission, ps."""
        model, n = self._model, units[0].size
        found: list[Real | None] = [None, None]
        if model.coherence_time > 0:
            # Between the two photons: which of them has it makes no difference.
            found[0] = rng.standard_normal(n) * (model.coherence_time / FWHM * 1e12)
        if model.bandwidth > 0 and any(seen.walk.any() for seen in rates._seen):
            # Energies sum to the pump's: where one photon is redder, the other is bluer.
            detuning = rng.standard_normal(n) * (model.bandwidth / FWHM)
            for i, sign in enumerate((1, -1)):
                walk = sign * detuning * rates._seen[i].walk[units[i]]
                before = found[i]
                found[i] = walk if before is None else before + walk
        return found[0], found[1]

    def _compute(self, power: float, temperature: float, seen: tuple[Seen, Seen]) -> Rates:
        model = self._model
        rate = self._share * pair_rate_hz(
            power, model.pair_rate, temperature, model.phase_matching, model.phase_matching_fwhm
        )
        state = pol.correlations(
            pol.pair_state(model.visibility, phase_deg(model, temperature), model.imbalance)
        )
        width = angular_width(model.bandwidth, model.wavelength)
        tables = [[_table(one, two, state, width) for two in seen[1].ends] for one in seen[0].ends]
        empty = np.zeros((seen[0].stray.size, seen[1].stray.size))
        both = np.maximum(rate * np.block(tables), 0.0) if empty.size else empty
        alone = [
            [end @ blur(pmd, width) @ turn @ which for end, turn, pmd in one.ends]
            for one, which in zip(seen, (state[:, 0], state[0]), strict=True)
        ]
        pairs = [rate * np.concatenate([np.empty(0), *parts]) for parts in alone]
        glow = self._share * power * model.fluorescence
        stray = [glow * one.operators[:, 0] + one.stray for one in seen]
        blinding = any(
            any((light + more > side.bears_hz).tolist())
            for side, light, more in zip(self._sides, pairs, stray, strict=True)
        )
        only = [np.maximum(pairs[i] - both.sum(1 - i), 0) for i in (0, 1)]
        return Rates(both, (only[0], only[1]), (stray[0], stray[1]), seen, blinding)


def _table(
    one: tuple[Real, Real, Real], two: tuple[Real, Real, Real], state: Real, width_rad_s: float
) -> Real:
    """Probabilities of clicks of both photons at the ends of two ways, (k, l)."""
    (end_a, turn_a, pmd_a), (end_b, turn_b, pmd_b) = one, two
    there = turn_a @ state @ turn_b.T
    if width_rad_s > 0 and (pmd_a.any() or pmd_b.any()):
        there = pmd_pair(there, pmd_a, pmd_b, width_rad_s)
    table: Real = end_a @ there @ end_b.T
    return table


class ContinuousLight:
    """A lamp, or a laser far below one photon per resolved time.

    Args:
        light: The source.
        ways: Of its light.
    """

    def __init__(self, light: el.Light, ways: Sequence[Way]) -> None:
        self._light = light
        self._side = Side(ways)
        self._stokes = np.array([1.0, *light.model.polarization])
        self.outlets = list(dict.fromkeys(way.outlet for way in ways))

    @property
    def flight_ps(self) -> int:
        """Longest flight time as the optics stand."""
        return self._side.flight_ps

    def take(self, begin_ps: int, end_ps: int) -> tuple[Real, Seen]:
        """Clicks per second of each unit in the block that begins."""
        seen = self._side.seen()
        rates = self._light.rate_hz * (seen.operators @ self._stokes) + seen.stray
        return np.maximum(rates, 0.0), seen

    def generate(self, what: tuple[Real, Seen], rng: Rng, begin_ps: int, end_ps: int) -> None:
        """Make the photons emitted in a block that are detected."""
        rates, seen = what
        self._side.add_singles(seen, rates, rng, begin_ps, end_ps)


def crystal_temperature_c(
    model: el.CrystalModel, pump: el.PumpLaser, oven: el.Oven | None
) -> float:
    """Temperature of a crystal; a pump that has hopped to another mode moves it like another.

    Only the distance to phase matching matters, so the shift is taken off the temperature.
    """
    actual = model.phase_matching if oven is None else oven.temperature_c
    return actual - pump.mode_shift_k


def phase_deg(model: el.CrystalModel, temperature_c: float) -> float:
    """Phase of the pair's state at a crystal temperature, degrees."""
    return model.phase + model.phase_per_kelvin * (temperature_c - model.phase_matching)
