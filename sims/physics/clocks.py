"""Clocks that are not the world's: frequency offset, drift and power-law noise.

``x(t) = x0 + y0 t + D t^2/2 + noise`` is what a clock shows beyond true time, s; ``y = dx/dt`` is
its fractional frequency. One-sided spectra ``S_y(f) = h0 + h_-1/f + h_-2/f^2`` (white, flicker and
random-walk frequency modulation) give the Allan variances ``h0/(2 tau)``, ``2 ln2 h_-1`` and
``(2 pi^2/3) h_-2 tau`` (IEEE Std 1139-2008; Riley, Handbook of
Frequency Stability Analysis, NIST SP 1065, table 3). A clock locked to
another one keeps a time error of bounded rms besides.

Left out: white and flicker phase modulation (below the tagger's own jitter), temperature, ageing
other than linear, and the pulling of a loop that loses its reference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "PRESETS",
    "ClockNoise",
    "Oscillator",
    "allan_deviation",
    "allan_variance",
    "flicker_lags",
]

Real = npt.NDArray[np.float64]

#: How far back flicker noise remembers, s: it is right for averaging times well below.
FLICKER_MEMORY_S = 1e5
# Spacing of the lags in ln(rate): the trapezoidal rule is then good to 1e-5.
_SPACING = 0.8


@dataclass(frozen=True)
class ClockNoise:
    """What makes a clock wander.

    Attributes:
        white_fm: ``h0``, s (1/Hz).
        flicker_fm: ``h_-1``, dimensionless.
        random_walk_fm: ``h_-2``, 1/s.
        locked_rms_s: Rms time error of a clock that is locked to another, s.
        locked_time_s: Time constant of its lock, s.
    """

    white_fm: float = 0.0
    flicker_fm: float = 0.0
    random_walk_fm: float = 0.0
    locked_rms_s: float = 0.0
    locked_time_s: float = 0.1


def _white(sigma_1s: float) -> float:
    return 2 * sigma_1s**2


def _flicker(sigma: float) -> float:
    return sigma**2 / (2 * math.log(2))


#: Typical noise of a kind of clock, and the rms of the frequency offset that it comes with:
#: Allan deviations of 1e-8 (crystal), 1e-11 (crystal in an oven), 1e-11/sqrt(tau) (rubidium), and
#: 15 ps rms of a White Rabbit node (measured: 13 ps on a standard switch, 1 Hz to 100 kHz, 0.2 ps
#: on one with low noise; asterics2020.eu, ultra-low-noise White Rabbit switches). Offsets, and the
#: time constant of the lock, are assumed.
PRESETS: Mapping[str, tuple[ClockNoise, float]] = {
    "xo": (ClockNoise(flicker_fm=_flicker(1e-8)), 1e-5),
    "ocxo": (ClockNoise(flicker_fm=_flicker(1e-11)), 1e-7),
    "rubidium": (ClockNoise(white_fm=_white(1e-11)), 5e-11),
    "white_rabbit": (ClockNoise(locked_rms_s=15e-12), 0.0),
}


class Oscillator:
    """Time error of a clock at the edges of equal steps; in between it is taken as linear.

    Its noise begins at 0 at time 0. All that changes is in :attr:`state`: 32 numbers for steps of
    10 ms.

    White and random-walk FM are exact at the edges whatever the step ``t0``: their covariance over
    a step is ``[[q1 t0 + q2 t0^3/3, q2 t0^2/2], [q2 t0^2/2, q2 t0]]`` with ``q1 = h0/2`` and
    ``q2 = 2 pi^2 h_-2`` (Zucca and Tavella, IEEE Trans. UFFC 52, 289 (2005)), drawn as the walk's
    end and the mean of the Brownian bridge to it. Flicker FM is ``sqrt(pi h_-1)`` times white noise
    behind the filter of Kasdin and Walter (Proc. 46th IEEE Freq. Control Symp. (1992), 274) in
    the form of :func:`flicker_lags`. Its Allan variance is above ``2 ln2 h_-1`` by 44 % at one
    step, 5 % at 4 and 1 % at 10.

    Args:
        noise: Its noise.
        step_s: Length of a step, s.
        offset_s: ``x0``, s.
        frequency: ``y0``.
        drift: ``D``, 1/s.
    """

    def __init__(
        self,
        noise: ClockNoise,
        step_s: float,
        *,
        offset_s: float = 0.0,
        frequency: float = 0.0,
        drift: float = 0.0,
    ) -> None:
        self._noise = noise
        self._step_s = step_s
        self.offset_s, self.frequency, self.drift = offset_s, frequency, drift
        self._decay, self._weights = flicker_lags(step_s)
        self.steps = 0
        self.wander_s = 0.0
        self.walk = 0.0
        self.locked_s = 0.0
        self.lags: Real = np.zeros(self._decay.size)

    @property
    def state(self) -> Real:
        """All that changes, to be saved and set again, shape (n,)."""
        known = [self.frequency, self.steps, self.wander_s, self.walk, self.locked_s]
        return np.concatenate((known, self.lags))

    @state.setter
    def state(self, state: Real) -> None:
        self.frequency, steps, self.wander_s, self.walk, self.locked_s = state[:5].tolist()
        self.steps, self.lags = round(steps), state[5:].copy()

    @property
    def error_s(self) -> float:
        """``x`` now, s."""
        t = self.steps * self._step_s
        known = self.offset_s + self.frequency * t + self.drift * t * t / 2
        return known + self.wander_s + self.locked_s

    def step(self, rng: np.random.Generator) -> float:
        """Go on by one step and return ``x``, s."""
        noise, t0 = self._noise, self._step_s
        white, walk, bridge, flicker, locked = rng.standard_normal(5).tolist()
        y = math.sqrt(noise.white_fm / (2 * t0)) * white
        if noise.random_walk_fm:
            sigma = math.sqrt(2 * math.pi**2 * noise.random_walk_fm * t0)
            y += self.walk + sigma * (walk / 2 + bridge / math.sqrt(12))
            self.walk += sigma * walk
        if noise.flicker_fm:
            self.lags *= self._decay
            self.lags += flicker
            y += math.sqrt(math.pi * noise.flicker_fm) * float(self._weights @ self.lags)
        self.wander_s += y * t0
        if noise.locked_rms_s:
            keep = math.exp(-t0 / noise.locked_time_s)
            self.locked_s *= keep
            self.locked_s += noise.locked_rms_s * math.sqrt(1 - keep * keep) * locked
        self.steps += 1
        return self.error_s


def flicker_lags(step_s: float, memory_s: float = FLICKER_MEMORY_S) -> tuple[Real, Real]:
    """Return the filter of Kasdin and Walter for 1/f noise as a sum of first-order lags.

    Its impulse response ``c_0 = 1, c_k = c_{k-1} (k - 1/2)/k`` never ends, but is a moment:
    ``c_k = (1/pi) int_0^1 u^k / sqrt(u (1 - u)) du``. With ``u = exp(-r)`` the trapezoidal rule in
    ``ln r`` turns it into lags ``s_j <- u_j s_j + w`` with output ``sum_j a_j s_j``; all slower
    than the memory are put into one, at the mean of their rates (derived).

    Args:
        step_s: Time between samples, s.
        memory_s: Up to which delay the response is kept, s.

    Returns:
        ``u`` and ``a``, each of shape (n,); to 2e-4 of ``c_k`` up to a thousandth of the memory, to
        4 % up to all of it.
    """
    slowest, fastest = math.log(step_s / memory_s), math.log(60.0)
    count = math.ceil((fastest - slowest) / _SPACING)
    edges = np.linspace(slowest, fastest, count + 1)
    rates = np.exp((edges[:-1] + edges[1:]) / 2)
    weights = np.exp(-rates / 2) * rates / np.sqrt(-np.expm1(-rates))
    weights *= (edges[1] - edges[0]) / math.pi
    rest = step_s / memory_s
    # The integral of r^-1/2/pi from 0 to the memory's rate; the mean of r there is a third of it.
    rates = np.append(rates, rest / 3)
    weights = np.append(weights, 2 * math.sqrt(rest) / math.pi)
    return np.exp(-rates), weights


def allan_variance(noise: ClockNoise, tau_s: npt.ArrayLike, drift: float = 0.0) -> Real:
    """Return the Allan variance that a clock's noise and drift stand for, shape of ``tau_s``.

    ``h0/(2 tau) + 2 ln2 h_-1 + (2 pi^2/3) h_-2 tau + D^2 tau^2/2`` (NIST SP 1065, table 3), and
    for the lock ``s^2 (3 - 4 r + r^2)/tau^2`` with ``r = exp(-tau/T)``, from
    ``<(x(t + 2 tau) - 2 x(t + tau) + x(t))^2>/(2 tau^2)``.

    Args:
        noise: The noise.
        tau_s: Averaging times, s.
        drift: Linear drift of the frequency, 1/s.
    """
    tau = np.asarray(tau_s, np.float64)
    kept = np.exp(-tau / noise.locked_time_s)
    found: Real = (
        noise.white_fm / (2 * tau)
        + 2 * math.log(2) * noise.flicker_fm
        + 2 * math.pi**2 / 3 * noise.random_walk_fm * tau
        + drift**2 * tau**2 / 2
        + noise.locked_rms_s**2 * (3 - 4 * kept + kept**2) / tau**2
    )
    return found


def allan_deviation(error_s: npt.ArrayLike, step_s: float, averaging: int) -> float:
    """Return the overlapping Allan deviation of measured time errors (NIST SP 1065, sec. 5.2.4).

    Args:
        error_s: ``x`` at equal steps, s, shape (n,).
        step_s: Length of a step, s.
        averaging: Steps of an averaging time.

    Raises:
        ValueError: for fewer than three time errors an averaging time apart.
    """
    x = np.asarray(error_s, np.float64)
    if averaging < 1 or x.size <= 2 * averaging:
        raise ValueError(
            f"{x.size} time errors are too few for {averaging} steps: more than twice as many"
        )
    second = x[2 * averaging :] - 2 * x[averaging:-averaging] + x[: -2 * averaging]
    return math.sqrt(float(np.mean(second**2)) / 2) / (averaging * step_s)
