"""Matter qubits that emit photons, and the heralds that entangle two of them.

Each node makes ``sqrt(1 - alpha)|0>|no photon> + sqrt(alpha)|1>|photon>``, spin first, |1> bright.
The photons meet at a balanced beam splitter, ``c = (l + r)/sqrt2`` and ``d = (l - r)/sqrt2``, in
front of two detectors that click or not. Lost photons are traced out, so what a pattern leaves of
the spins follows from the operators of silence, as in :mod:`.pulsed_pairs`: exact for any
detection probability, with two photons and dark counts.

- One click (Cabrillo et al., PRA 59, 1025 (1999); Humphreys et al., Nature 558, 268 (2018)): c
  heralds Psi+, d heralds Psi-. For small detection probability ``2 alpha p_det`` per attempt with
  ``F = (1 - alpha)(1 + sqrt(M) e^(-s^2/2))/2``; the path's phase, of rms s, enters.
- Two clicks (Barrett and Kok, PRA 71, 060310 (2005)): spins flipped between two such rounds, one
  click in each. ``p_det^2/2`` at alpha = 1/2 with ``F = (1 + M)/2``; only the change of phase
  between the rounds enters. Equal detectors herald Psi+, different ones Psi-.

M is the overlap of the photons' modes, the visibility of their Hong-Ou-Mandel dip; sqrt(M) is for
photons that are pure and differ by a fixed mode, the most that a dip M allows: a phase that jumps
from photon to photon lowers the mean overlap of amplitudes further and belongs into ``phase_rms``.
Under phase diffusion, M = 1/(1 + 2 g T1), what is left is M itself (:func:`.emission.diffused`):
a ``phase_rms`` s of e^(-s^2/2) = sqrt(M).
Left out: double excitation, errors of the spin's preparation, gates and readout.

The world draws its clicks from :mod:`.emission`, which has polarization, any detectors and double
excitation, and which the tests hold against this.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...instruments.errors import ConfigError
from . import states

__all__ = [
    "Emitter",
    "Heralds",
    "Station",
    "one_click",
    "resolved_overlap",
    "sample_heralds",
    "spin_photon",
    "two_clicks",
    "waiting_errors",
]

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Emitter:
    """A node, per attempt.

    Args:
        bright: alpha, population of the state that emits, 0..1.
        detection: Probability that its photon is detected, 0..1: emission into the line wanted,
            collection, fibre, time window and detector.
    """

    bright: float
    detection: float

    def __post_init__(self) -> None:
        for name in ("bright", "detection"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"emitter: {name} must lie in 0..1, not {getattr(self, name):g}")


@dataclass(frozen=True)
class Station:
    """Where the photons meet.

    Args:
        overlap: M of the photons' modes, 0..1.
        dark: Probability of a dark count per detector and window, 0..1.
        phase_rad: Phase of the left path against the right one, mean.
        phase_rms_rad: Its rms from attempt to attempt; Gaussian.
    """

    overlap: float = 1.0
    dark: float = 0.0
    phase_rad: float = 0.0
    phase_rms_rad: float = 0.0

    def __post_init__(self) -> None:
        for name in ("overlap", "dark"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"station: {name} must lie in 0..1, not {getattr(self, name):g}")
        if not self.phase_rms_rad >= 0:
            raise ConfigError("station: phase_rms_rad must be at least 0")


@dataclass(frozen=True)
class Heralds:
    """What an attempt can herald: Psi+ and Psi-, in this order.

    Attributes:
        probability: Per attempt, shape (2,).
        states: Spins given the herald, shape (2, 4, 4).
        index: Bell index of each (:mod:`.states`).
    """

    probability: Real
    states: Complex
    index: tuple[int, int] = (1, 3)

    @property
    def fidelity(self) -> Real:
        """Fidelity of each state with the one heralded, shape (2,)."""
        return np.array(
            [
                states.fidelity(rho, states.BELL[i])
                for rho, i in zip(self.states, self.index, strict=True)
            ]
        )


def spin_photon(bright: float) -> Complex:
    """Return the ket ``sqrt(1 - alpha)|0, none> + sqrt(alpha)|1, photon>``, shape (4,)."""
    return np.array([math.sqrt(1 - bright), 0, 0, math.sqrt(bright)], np.complex128)


def one_click(left: Emitter, right: Emitter, station: Station) -> Heralds:
    """Return the heralds of exactly one detector clicking, once."""
    diagonal, coherence = _clicks(left, right, station)
    kept = math.exp(-(station.phase_rms_rad**2) / 2) * cmath.exp(-1j * station.phase_rad)
    return _heralds(_populations(left, right) * diagonal, coherence * kept, left, right)


def two_clicks(
    left: Emitter, right: Emitter, station: Station, phase_change_rms_rad: float = 0.0
) -> Heralds:
    """Return the heralds of one click in each of two rounds, spins flipped in between.

    Args:
        left: Its ``bright`` is the population at the start; 1/2 is the usual one.
        right: See ``left``.
        station: Of its phase only the change between the rounds counts, given here:
        phase_change_rms_rad: rms of it; Gaussian.
    """
    diagonal, coherence = _clicks(left, right, station)
    first = _populations(left, right) * diagonal
    # after the flip every spin is the other: 01 now emits at the left
    then = diagonal[:, ::-1]
    kept = math.exp(-(phase_change_rms_rad**2) / 2)
    same = np.einsum("ks,ks->s", first, then), coherence @ coherence * kept
    other = np.einsum("ks,ks->s", first, then[::-1]), coherence @ coherence[::-1] * kept
    populations = np.stack([same[0], other[0]])[:, ::-1]
    return _heralds(populations, np.array([same[1], other[1]], np.complex128), left, right)


def sample_heralds(rng: np.random.Generator, heralds: Heralds, attempts: int) -> tuple[Ints, Ints]:
    """Draw which of so many attempts herald, and what.

    Returns:
        Attempts counted from 0, rising, int64 of shape (n,), and Bell index of each, int64.
    """
    p = float(heralds.probability.sum())
    found: list[Ints] = []
    last = -1
    while p > 0 and last < attempts:
        gaps = rng.geometric(p, 1 + math.ceil(1.1 * (attempts - last) * p))
        found.append(last + np.cumsum(gaps))
        last = int(found[-1][-1])
    when = np.concatenate([np.empty(0, np.int64), *found])
    when = when[when < attempts]
    second = rng.random(when.size) * p >= heralds.probability[0]
    return when, np.array(heralds.index, np.int64)[second.astype(np.int64)]


def waiting_errors(
    attempts: npt.ArrayLike, seconds: npt.ArrayLike, attempts_1e: float, coherence_time_s: float
) -> Real:
    """Return the Pauli weights, shape (..., 4), of a stored spin while its node goes on trying.

    Dephasing with coherence ``exp(-attempts/N) exp(-t/T)``: each attempt scrambles the phase of a
    nuclear spin by the coupling to the electron (Kalb et al., PRA 97, 062330 (2018)). For
    :func:`.states.combine` or :func:`.states.pauli_errors`.
    """
    return states.combine(
        states.dephasing(attempts, attempts_1e), states.dephasing(seconds, coherence_time_s)
    )


def resolved_overlap(
    window_s: float, lifetime_s: float, detuning_hz: float = 0.0, dephasing_hz: float = 0.0
) -> tuple[float, float]:
    """Return the overlap M of photons detected close together, and the share of them kept.

    Photons of two emitters that decay with the same lifetime coincide behind the beam splitter with
    ``P_c(t) ~ 1 - cos(2 pi df t) e^(-2 g |t|)``, t apart, which itself is distributed as
    ``e^(-|t|/lifetime)`` (Legero et al., Appl. Phys. B 77, 797 (2003)). Averaged over the window;
    an infinite one gives ``T2/(2 T1)`` without detuning (Bylander et al., EPJ D 22, 295 (2003)).

    Args:
        window_s: Full width of the window of |t|, so ``|t| <= window/2``; may be infinite.
        lifetime_s: 1/e lifetime T1 of either emitter.
        detuning_hz: df.
        dephasing_hz: Pure dephasing rate g of either emitter, 1/s: ``1/T2 = 1/(2 T1) + g``.
    """
    if not window_s > 0 or not lifetime_s > 0 or not dephasing_hz >= 0:
        raise ConfigError("overlap: window and lifetime must be above 0, dephasing at least 0")
    half, rate = window_s / 2, 1 / lifetime_s
    kept = -math.expm1(-half * rate)
    complex_rate = complex(rate + 2 * dephasing_hz, 2 * math.pi * detuning_hz)
    end = 0.0 if math.isinf(half) else cmath.exp(-complex_rate * half)
    return ((1 - end) / complex_rate).real * rate / kept, kept


def _populations(left: Emitter, right: Emitter) -> Real:
    """Of spins 00, 01, 10, 11 (left, right) before any photon is seen."""
    a, b = left.bright, right.bright
    return np.array([(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b])


def _clicks(left: Emitter, right: Emitter, station: Station) -> tuple[Real, Complex]:
    """P(only c or only d clicks | spins 00, 01, 10, 11), (2, 4), and factors of |01><10|, (2,)."""
    a, b, dark = left.detection, right.detection, station.dark
    one = np.array(
        [
            dark,
            b / 2 + dark * (1 - b),
            a / 2 + dark * (1 - a),
            # (1 - a/2)(1 - b/2) + M a b/4 is silence of one detector, (1 - a)(1 - b) of both
            (a + b) / 2 - (3 - station.overlap) * a * b / 4 + dark * (1 - a) * (1 - b),
        ]
    )
    cross = math.sqrt(a * b * station.overlap) / 2
    factors = np.array([cross, -cross], np.complex128)
    return (1 - dark) * np.stack([one, one]), (1 - dark) * factors


def _heralds(populations: Real, coherence: Complex, left: Emitter, right: Emitter) -> Heralds:
    """Normalize; the coherence of 01 and 10 starts at ``sqrt(a(1-a) b(1-b))``."""
    amplitude = math.sqrt(left.bright * (1 - left.bright) * right.bright * (1 - right.bright))
    rho = np.zeros((2, 4, 4), np.complex128)
    rho[:, range(4), range(4)] = populations
    rho[:, 1, 2] = coherence * amplitude
    rho[:, 2, 1] = rho[:, 1, 2].conj()
    p = populations.sum(axis=1)
    possible = (p > np.finfo(np.float64).tiny)[:, None, None]  # subnormal: no state to tell
    states = np.zeros_like(rho)
    np.divide(rho, p[:, None, None], out=states, where=possible)
    return Heralds(p, states)
