"""From photons that a detector would absorb, rested, to pulses: one pass in the order of time.

Recovery, trigger level and time walk, dead time, afterpulses, jitter. What one photon leaves for
the next is kept from call to call, so that it does not matter where a block ends. All randomness
of an event comes from its own 64-bit key (splitmix64: Steele, Lea and Flood, OOPSLA 2014).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .constants import FWHM

__all__ = ["ClickMaker", "Response", "jitter_fwhm_s", "jitter_pdf"]

Real = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]

_LONG_AGO_PS = -(1 << 50)
_TABLE = 256
_SIGMAS = 8


@dataclass(frozen=True)
class Response:
    """How a detector answers what it absorbs.

    Attributes:
        dead_time_s: Nothing is seen so long after a pulse.
        extending: Whether what is absorbed then prolongs it.
        recovery_s: Time constant in which a wire's current comes back, 0 for at once.
        recovery: Efficiency against the current that is back, of the full one, shape (257,);
            :func:`~bellbench.sims.physics.snspd.recovery_table`.
        threshold: Trigger level over the height of a rested detector's pulse, below 1.
        rise_s: Time constant of a pulse's rise.
        afterpulse: Probability that a pulse is followed by one of its own.
        afterpulse_s: Mean time until then.
        tail_s: Time constant of the jitter's tail.
    """

    dead_time_s: float
    extending: bool = False
    recovery_s: float = 0.0
    recovery: Real = field(default_factory=lambda: np.ones(_TABLE + 1), compare=False)
    threshold: float = 0.0
    rise_s: float = 0.0
    afterpulse: float = 0.0
    afterpulse_s: float = 0.0
    tail_s: float = 0.0

    @property
    def simple(self) -> bool:
        """Whether there is nothing but a dead time and Gaussian jitter."""
        return not (self.extending or self.recovery_s or self.afterpulse or self.tail_s)


class ClickMaker:
    """Detectors side by side, with what each of them remembers.

    Args:
        sigma_ps: Rms of the Gaussian part of each one's jitter, shape (k,), k <= 64.
        responses: Of each detector; their jitter stays as it is.
    """

    def __init__(self, sigma_ps: Real, responses: Sequence[Response]) -> None:
        self._sigma = np.asarray(sigma_ps, np.float64)
        tails = np.array([r.tail_s * 1e12 for r in responses])
        #: By how much a pulse may come before its photon, ps: 8 sigma, and the tail's mean.
        self.early_ps = math.ceil(float((_SIGMAS * self._sigma + tails).max()))
        self._responses: tuple[Response, ...] = ()
        self.forget()
        none = np.empty(0, np.int64)  # compiles the pass before a paced world begins
        self.run(tuple(responses), none, none.astype(np.uint64), 0, -self.early_ps)

    def forget(self) -> None:
        """Forget everything: all detectors are rested."""
        self._last = np.full(self._sigma.size, _LONG_AGO_PS, np.int64)
        self._wire = self._last.copy()
        self._out: Times = np.empty(0, np.int64)
        # Afterpulses still to come, the next one last, and how many there are.
        self._pending: Times = np.empty(64, np.int64)
        self._pending_keys: npt.NDArray[np.uint64] = np.empty(64, np.uint64)
        self._waits = 0

    def pass_time(self, passed_ps: int) -> None:
        """Count time from so much later: packed times hold 40 hours."""
        self._last = np.maximum(self._last - passed_ps, _LONG_AGO_PS)
        self._wire = np.maximum(self._wire - passed_ps, _LONG_AGO_PS)
        for kept in (self._out, self._pending[: self._waits]):
            if kept.size:
                kept -= passed_ps << 6

    def run(
        self,
        responses: tuple[Response, ...],
        absorbed: Times,
        keys: npt.NDArray[np.uint64],
        until_ps: int,
        end_ps: int,
    ) -> Times:
        """Take all that is absorbed up to a time, and return the pulses up to another.

        Args:
            responses: Of each detector now.
            absorbed: What rested detectors would detect, sorted, none before the last call's
                ``until_ps``: ``time in ps << 6 | detector``, shape (n,). Time counts from where
                :meth:`pass_time` has put it.
            keys: Random bits for each, shape (n,).
            until_ps: Everything before this is in ``absorbed``.
            end_ps: At most ``until_ps - early_ps``.

        Returns:
            Pulses before ``end_ps`` and not before that of the last call, sorted and packed alike.
            About 25 ns a photon.
        """
        if responses is not self._responses:
            self._responses = responses
            self._table = np.array([r.recovery for r in responses])
            self._numbers = np.array(
                [
                    (
                        round(r.dead_time_s * 1e12),
                        r.extending,
                        r.recovery_s * 1e12,
                        r.threshold,
                        r.rise_s * 1e12,
                        r.afterpulse,
                        r.afterpulse_s * 1e12,
                        r.tail_s * 1e12,
                    )
                    for r in responses
                ]
            ).T.copy()
        out = np.empty(self._out.size + absorbed.size + 64, np.int64)
        out[: self._out.size] = self._out
        # Photons taken, pulses made, afterpulses that wait.
        at = np.array([0, self._out.size, self._waits])
        while not _kernel()(
            absorbed,
            keys,
            until_ps << 6,
            out,
            self._pending,
            self._pending_keys,
            at,
            self._last,
            self._wire,
            self._table,
            self._numbers,
            self._sigma,
        ):
            if at[1] == out.size:
                out = np.append(out, out)
            if at[2] == self._pending.size:
                self._pending = np.append(self._pending, self._pending)
                self._pending_keys = np.append(self._pending_keys, self._pending_keys)
        self._waits = int(at[2])
        done: Times = out[: at[1]]
        cut = int(np.searchsorted(done, end_ps << 6))
        self._out = done[cut:].copy()
        return done[:cut]


def jitter_pdf(times_s: npt.ArrayLike, sigma_s: float, tail_s: float = 0.0) -> Real:
    """Return the density of the jitter, 1/s: an exponentially modified Gaussian of mean 0.

    ``f(t) = exp(s^2/(2 T^2) - (t - m)/T) erfc((s/T - (t - m)/s)/sqrt 2)/(2 T)``, ``m = -T``: that
    of ``m + s N(0, 1) + T Exp(1)``. Grushka, Anal. Chem. 44, 1733 (1972).

    Args:
        times_s: Where, any shape.
        sigma_s: ``s``, above 0.
        tail_s: ``T``; 0 for a Gaussian.
    """
    from scipy.special import erfc, erfcx

    z = (np.asarray(times_s, np.float64) + tail_s) / sigma_s
    gauss = np.exp(-(z**2) / 2)
    if tail_s <= 0:
        return np.asarray(gauss / (math.sqrt(2 * math.pi) * sigma_s))
    ratio = sigma_s / tail_s
    w = (ratio - z) / math.sqrt(2)
    # exp(...) erfc(w) = exp(-z^2/2) erfcx(w), which does not overflow where w > 0
    far = np.exp(np.minimum(ratio**2 / 2 - ratio * z, 700.0)) * erfc(w)
    near = gauss * erfcx(np.maximum(w, 0.0))
    return np.asarray(np.where(w > 0, near, far) / (2 * tail_s))


def jitter_fwhm_s(sigma_s: float, tail_s: float = 0.0) -> float:
    """Return the full width at half maximum of :func:`jitter_pdf`, s."""
    if tail_s <= 0:
        return FWHM * sigma_s
    from scipy.optimize import brentq, minimize_scalar

    reach = 10 * (sigma_s + tail_s)
    scale = float(jitter_pdf(0.0, sigma_s, tail_s))
    top = minimize_scalar(
        lambda t: -float(jitter_pdf(t, sigma_s, tail_s)) / scale,
        bounds=(-tail_s - 2 * sigma_s, 2 * sigma_s),
        method="bounded",
        options={"xatol": 1e-9 * reach},
    )
    peak = float(jitter_pdf(top.x, sigma_s, tail_s))

    def above_half(t: float) -> float:
        return float(jitter_pdf(t, sigma_s, tail_s)) / peak - 0.5

    right, left = brentq(above_half, top.x, reach), brentq(above_half, -reach, top.x)
    return float(right - left)


@functools.cache
def _kernel() -> Any:
    import numba

    @numba.njit(cache=True)
    def make(
        absorbed: Any,
        keys: Any,
        until: Any,
        out: Any,
        waiting: Any,
        waiting_keys: Any,
        at: Any,
        last: Any,
        wire: Any,
        table: Any,
        numbers: Any,
        sigma: Any,
    ) -> Any:
        golden = np.uint64(0x9E3779B97F4A7C15)

        def mixed(key: Any, n: Any) -> Any:
            z = key + np.uint64(n) * golden
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            return z ^ (z >> np.uint64(31))

        def uniform(key: Any, n: Any) -> Any:  # in (0, 1]
            return (np.float64(mixed(key, n) >> np.uint64(11)) + 1.0) * 2.0**-53

        cells = table.shape[1] - 1
        i, made, waits = at
        while made < out.size and waits < waiting.size:
            photon = i < absorbed.size
            if waits > 0 and waiting[waits - 1] < (absorbed[i] if photon else until):
                photon = False
                waits -= 1
                event, key = waiting[waits], waiting_keys[waits]
            elif photon:
                event, key = absorbed[i], keys[i]
                i += 1
            else:
                at[0], at[1], at[2] = i, made, waits
                return True
            t, d = event >> 6, event & 63
            height, threshold = 1.0, numbers[3, d]
            if photon and numbers[2, d] > 0:
                tau = numbers[2, d]
                since = t - wire[d]
                if since < 40 * tau:
                    height = 1 - np.exp(-max(since, 0) / tau)
                    x = height * cells
                    k = min(int(x), cells - 1)
                    share = table[d, k] + (x - k) * (table[d, k + 1] - table[d, k])
                    if uniform(key, 1) > share:
                        continue
                wire[d] = t
                if height <= threshold:
                    continue
            if t - last[d] < numbers[0, d]:
                if numbers[1, d] > 0:
                    last[d] = t
                continue
            last[d] = t
            if uniform(key, 2) <= numbers[5, d]:
                later = t + np.int64(np.rint(-numbers[6, d] * np.log(uniform(key, 3))))
                j = waits
                while j > 0 and waiting[j - 1] < (later << 6 | d):
                    waiting[j], waiting_keys[j] = waiting[j - 1], waiting_keys[j - 1]
                    j -= 1
                waiting[j], waiting_keys[j] = later << 6 | d, mixed(key, 4)
                waits += 1
            shift = 0.0
            if sigma[d] > 0:  # Box and Muller
                radius = np.sqrt(-2 * np.log(uniform(key, 5)))
                shift += sigma[d] * radius * np.cos(2 * np.pi * uniform(key, 6))
            if numbers[7, d] > 0:
                shift -= numbers[7, d] * (1 + np.log(uniform(key, 7)))
            if numbers[4, d] > 0 and height < 1:
                shift += numbers[4, d] * np.log((1 - threshold) / (1 - threshold / height))
            pulse = (t + np.int64(np.rint(shift))) << 6 | d
            j = made
            while j > 0 and out[j - 1] > pulse:
                out[j] = out[j - 1]
                j -= 1
            out[j] = pulse
            made += 1
        at[0], at[1], at[2] = i, made, waits
        return False  # there is no room for more

    return make
