"""Superconducting nanowire detectors: efficiency, dark counts, recovery, latching and dead time.

Left out: the shape of a pulse behind its rising edge (a pulse on the tail of another), the heating
of neighbouring wires, and the wire's temperature.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "Curve",
    "dark_rate_hz",
    "efficiency",
    "filter_dead_time",
    "latching_current",
    "load_kernels",
    "polarization_operator",
    "recovery_table",
    "time_walk_s",
]

Real = npt.NDArray[np.float64]

#: Clicks filtered by numpy until the compiled loop, which takes 1 s to load, is worth it; a call
#: costs as much as some of them.
_LOAD_AFTER, _CALL, _LATE = 10_000_000, 1000, 100
# Clicks of a block of which it pays to look whether they are all far apart.
_FEW = 1000
_filtered = 0

_SIGMA = np.array(
    [[[1, 0], [0, -1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]]], np.complex128
)  # of S1, S2, S3 in the basis H, V


@dataclass(frozen=True)
class Curve:
    """Shape of the efficiency against the bias current ``x``, in units of the switching current.

    The three forms that are fitted to published curves, with equal half point ``h`` and equal
    slope there, ``1/(sqrt(pi) s)``:

    * ``erf``: ``(1 + erf((x - h)/s))/2``, e.g. arXiv 1611.02726;
    * ``logistic``: ``1/(1 + exp(-(x - h)/k))``, ``k = sqrt(pi) s/4``;
    * ``power``: ``1/(1 + (h/x)^n)``, ``n = 4 h/(sqrt(pi) s)``.

    Attributes:
        form: Which one.
        half: ``h``, where the efficiency is half of the saturated one.
        width: ``s``.
    """

    form: Literal["erf", "logistic", "power"] = "erf"
    half: float = 0.60
    width: float = 0.10

    def __call__(self, share: float) -> float:
        """Efficiency at a share of the switching current, of the saturated one."""
        if share <= 0:
            return 0.0
        if self.form == "erf":
            return (1 + math.erf((share - self.half) / self.width)) / 2
        # erf, logistic and power share the half point and the slope there.
        steep = 4 / (math.sqrt(math.pi) * self.width)
        way = (
            share - self.half
            if self.form == "logistic"
            else self.half * math.log(share / self.half)
        )
        return 1 / (1 + math.exp(min(700.0, -steep * way)))


def efficiency(
    bias_a: float,
    operating_bias_a: float,
    switching_a: float,
    efficiency_there: float,
    curve: Curve = Curve(),
) -> float:
    """Return the system detection efficiency at a bias current.

    The curve, scaled to ``efficiency_there`` at the operating bias and capped at 1. At or above
    the switching current the wire stays normal: no clicks.
    """
    if bias_a <= 0 or bias_a >= switching_a:
        return 0.0
    there = curve(operating_bias_a / switching_a)
    return min(1.0, efficiency_there * curve(bias_a / switching_a) / there)


def dark_rate_hz(
    bias_a: float,
    operating_bias_a: float,
    switching_a: float,
    dark_rate_there: float,
    curve: Curve = Curve(),
    *,
    background: float = 0.7,
    efold: float = 0.03,
) -> float:
    """Return the dark count rate at a bias current, Hz.

    ``DCR = D_bg SDE(I)/SDE(I_op) + D_0 exp((I - I_op)/I_1)``: background light obeys the
    efficiency, intrinsic dark counts rise exponentially towards the switching current.

    Args:
        bias_a: Where.
        operating_bias_a: ``I_op``.
        switching_a: Switching current.
        dark_rate_there: Dark counts at the operating bias, Hz.
        curve: Of the efficiency.
        background: Share of ``dark_rate_there`` that is light (black body, stray).
        efold: ``I_1``, in units of the switching current.
    """
    if bias_a <= 0 or bias_a >= switching_a:
        return 0.0
    light = efficiency(bias_a, operating_bias_a, switching_a, 0.5, curve) / 0.5
    intrinsic = math.exp((bias_a - operating_bias_a) / (efold * switching_a))
    return dark_rate_there * (background * light + (1 - background) * intrinsic)


def recovery_table(bias_a: float, switching_a: float, curve: Curve, size: int = 256) -> Real:
    """Return ``SDE(x I_b)/SDE(I_b)`` for x = 0, 1/size, ..., 1, shape (size + 1,).

    After a click the current comes back as ``x = 1 - exp(-dt/tau)``, ``tau = L_k/R``, and the
    efficiency with it (Kerman et al., APL 88, 111116 (2006)).
    """
    full = curve(bias_a / switching_a)
    if full <= 0:
        return np.zeros(size + 1)
    return np.array([curve(x * bias_a / switching_a) / full for x in np.linspace(0, 1, size + 1)])


def time_walk_s(since_s: npt.ArrayLike, recovery_s: float, threshold: float, rise_s: float) -> Real:
    """Return by how much a click is later than one of a rested wire, s; nan for no pulse.

    A pulse rises as ``A (1 - exp(-t/t_r))``; its height comes back as ``A = A_0 (1 - exp(-dt/
    tau))``. It crosses the trigger level V at ``t_c = -t_r ln(1 - V/A)``: the walk is ``t_c(A) -
    t_c(A_0)``, and where ``A <= V`` there is no crossing. Threshold model of a leading-edge
    discriminator.

    Args:
        since_s: Time since the last click of the wire, ``dt``, any shape.
        recovery_s: ``tau``.
        threshold: ``V/A_0``.
        rise_s: ``t_r``.
    """
    height = -np.expm1(-np.asarray(since_s, np.float64) / recovery_s)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = -rise_s * np.log1p(-threshold / height)
    return np.where(height > threshold, crossing + rise_s * math.log1p(-threshold), np.nan)


def latching_current(
    switching_a: float, retrapping_a: float, recovery_s: float, cooling_s: float
) -> float:
    """Return the bias from which on a wire ends up normal and stays so, A.

    At the switching current at the latest. Below, a click's hot spot is still there after
    ``cooling_s``, and by then ``I_b (1 - exp(-cooling_s/tau))`` is back in the wire; if that is the
    retrapping current or more, it heats the spot as fast as it cools. So a fast wire latches
    (Kerman et al., PRB 79, 100509 (2009); here with a fixed cooling time instead of their two
    coupled equations).

    Args:
        switching_a: Switching current.
        retrapping_a: Current at which a hot spot sustains itself.
        recovery_s: ``tau = L_k/R``.
        cooling_s: Life of a hot spot; 0 where it never matters.
    """
    if cooling_s <= 0:
        return switching_a
    if recovery_s <= 0:
        return min(switching_a, retrapping_a)
    return min(switching_a, retrapping_a / -math.expm1(-cooling_s / recovery_s))


def polarization_operator(
    extinction: float, axis: tuple[float, float, float]
) -> npt.NDArray[np.complex128]:
    """Return how a wire's efficiency depends on polarization, a (2, 2) operator.

    ``E = ((1 + 1/r) I + (1 - 1/r) n.sigma)/2``: eigenvalue 1 for light along the wire, 1/r across
    (a meander absorbs the field along it better, Anant et al., Opt. Express 16, 10750 (2008)).

    Args:
        extinction: Ratio r of the two efficiencies, 1 for none.
        axis: Unit Stokes vector n of the better polarization.
    """
    turn = np.einsum("k,kij->ij", np.asarray(axis, np.float64), _SIGMA)
    return np.asarray(((1 + 1 / extinction) * np.eye(2) + (1 - 1 / extinction) * turn) / 2)


def filter_dead_time(
    times_ps: npt.NDArray[np.int64],
    detectors: npt.NDArray[np.int16],
    dead_ps: npt.NDArray[np.int64],
    last_ps: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Mark the clicks that find their detector alive (non-extending dead time).

    Args:
        times_ps: Sorted times, shape (n,).
        detectors: Index of the detector of each, shape (n,).
        dead_ps: Dead time of each detector, shape (k,).
        last_ps: Last click of each detector before these, shape (k,); updated in place.

    Returns:
        Mask of the clicks that count, shape (n,). One pass, about 2 ns per click once compiled.
    """
    global _filtered
    mask: npt.NDArray[np.bool_]
    if times_ps.size < _FEW and _far_apart(times_ps, dead_ps, last_ps):
        last_ps[detectors] = times_ps
        return np.ones(times_ps.size, np.bool_)
    _filtered += times_ps.size + _CALL
    if _filtered > _LOAD_AFTER:
        mask = _kernel()(times_ps, detectors, dead_ps, last_ps)
        return mask
    order = np.argsort(detectors, kind="stable")
    times, own = times_ps[order], detectors[order]
    first = np.flatnonzero(np.diff(own, prepend=-1))
    gaps = np.diff(times, prepend=0)
    gaps[first] = times[first] - last_ps[own[first]]
    # Long enough after the click before, dead or alive, is alive; the others are few.
    late = np.flatnonzero(gaps < dead_ps[own])
    _filtered += _LATE * late.size
    alive = np.ones(times.size, np.bool_)
    starts = set(first.tolist())
    since = 0
    for i in late.tolist():
        if i in starts:
            since = last_ps[own[i]]
        elif alive[i - 1]:
            since = times[i - 1]
        alive[i] = times[i] - since >= dead_ps[own[i]]
    last_ps[own[alive]] = times[alive]
    mask = np.empty(times.size, np.bool_)
    mask[order] = alive
    return mask


def _far_apart(
    times_ps: npt.NDArray[np.int64], dead_ps: npt.NDArray[np.int64], last_ps: npt.NDArray[np.int64]
) -> bool:
    """Whether all clicks, of whichever detectors, are a dead time apart."""
    if not times_ps.size:
        return True
    longest = dead_ps.max()
    if times_ps[0] - last_ps.max() < longest:
        return False
    return times_ps.size < 2 or bool((times_ps[1:] - times_ps[:-1]).min() >= longest)


def load_kernels() -> None:
    """Load the compiled loop now: a paced world cannot wait for it later."""
    global _filtered
    _filtered = _LOAD_AFTER
    none = np.empty(0, np.int64)
    _kernel()(none, none.astype(np.int16), none, none)


@functools.cache
def _kernel() -> Any:
    import numba

    @numba.njit(cache=True)
    def alive(times: Any, detectors: Any, dead: Any, last: Any) -> Any:
        mask = np.empty(times.size, np.bool_)
        for i in range(times.size):
            d = detectors[i]
            mask[i] = times[i] - last[d] >= dead[d]
            if mask[i]:
                last[d] = times[i]
        return mask

    return alive
