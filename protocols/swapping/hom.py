"""The Hong-Ou-Mandel dip: coincidences against the delay between two photons."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..estimates import Estimate

__all__ = ["HomDip", "fit_dip"]

Real = npt.NDArray[np.float64]

_SIGNIFICANT = 4.0  # depth over its error at which a dip counts
_FEWEST = 30  # counts in all
_GAIN = 25.0  # in deviance, over no dip: three parameters gain this by chance once in 10^5


@dataclass(frozen=True)
class HomDip:
    """A dip, fitted by ``base (1 - V exp(-4 ln2 (t - centre)^2 / fwhm^2))``.

    Attributes:
        ok: Whether there is a dip within the scan.
        reason: Why not, in words; empty where ok.
        delays_s: float64 (n,), delays of the scan, s.
        counts: int64 (n,).
        visibility: V.
        centre_s: Delay at which both photons arrive together, s.
        fwhm_s: Width, s.
        base: Counts far away.
    """

    ok: bool
    reason: str
    delays_s: Real
    counts: npt.NDArray[np.int64]
    visibility: Estimate
    centre_s: Estimate
    fwhm_s: Estimate
    base: float

    def model(self, delays_s: Real) -> Real:
        """Fitted counts at other delays."""
        return dip(
            delays_s, self.base, self.visibility.value, self.centre_s.value, self.fwhm_s.value
        )


def dip(delays: Real, base: float, visibility: float, centre: float, fwhm: float) -> Real:
    """Gaussian dip; delays, centre and width in one unit."""
    shape = np.exp(-4 * math.log(2) * ((delays - centre) / fwhm) ** 2)
    return np.asarray(base * (1 - visibility * shape), np.float64)


def fit_dip(delays_s: Real, counts: npt.NDArray[np.int64]) -> HomDip:
    """Fit a dip to the counts of a scan, all recorded for the same time.

    Counts are Poisson: least squares weighted with the variance of the fit itself, until it stays.

    Args:
        delays_s: float64 (n,), n >= 5, s.
        counts: int64 (n,).
    """
    import warnings

    from scipy.optimize import OptimizeWarning, curve_fit

    delays = np.asarray(delays_s, np.float64)
    counts = np.asarray(counts, np.int64)
    if delays.size < 5 or delays.shape != counts.shape:
        raise ValueError("a dip needs counts at five delays or more")

    def failed(reason: str) -> HomDip:
        none = Estimate(math.nan, math.nan)
        base = float(counts.mean())
        return HomDip(False, reason, delays, counts, none, none, none, base)

    total = int(counts.sum())
    if total < _FEWEST:
        return failed(
            f"{total} coincidences in the whole scan: is a source dark or blocked, or too weak"
            " for the time given to each delay?"
        )
    span = float(np.ptp(delays))
    x = (delays - delays.mean()) / span  # of order one
    top = float(np.quantile(counts, 0.8)) + 1.0
    bounds = ((0.0, 0.0, -0.5, 0.02), (np.inf, 1.0, 0.5, 2.0))
    # The lowest count may be at an end, which rounding can put outside.
    start = (top, 0.8, float(np.clip(x[np.argmin(counts)], -0.499, 0.499)), 0.3)
    weights = np.sqrt(np.maximum(counts, 1.0))
    try:
        for _ in range(4):
            with warnings.catch_warnings():
                warnings.simplefilter("error", OptimizeWarning)
                found, covariance = curve_fit(
                    dip, x, counts, start, sigma=weights, absolute_sigma=True, bounds=bounds
                )
            start = tuple(np.clip(found, np.add(bounds[0], 1e-9), np.subtract(bounds[1], 1e-9)))
            weights = np.sqrt(np.maximum(dip(x, *found), 0.5))
    except (RuntimeError, OptimizeWarning):
        return failed("no dip can be fitted to the scan: is it wide enough, and centred?")
    base, visibility, centre, fwhm = found.tolist()
    sigmas = np.sqrt(np.diag(covariance)).tolist()
    gain = _deviance(counts, np.full(x.size, counts.mean())) - _deviance(counts, dip(x, *found))
    inside = abs(centre) < 0.5 - fwhm / 4 and fwhm < 1.0
    if gain < _GAIN or not inside or not visibility > _SIGNIFICANT * sigmas[1]:
        return failed(
            "no dip in the scan: do the photons arrive within the scanned delays, are their"
            " polarizations and wavelengths the same?"
        )
    return HomDip(
        True,
        "",
        delays,
        counts,
        Estimate(visibility, sigmas[1], total),
        Estimate(centre * span + float(delays.mean()), sigmas[2] * span, total),
        Estimate(fwhm * span, sigmas[3] * span, total),
        base,
    )


def _deviance(counts: npt.NDArray[np.int64], mean: Real) -> float:
    """Poisson deviance of counts from a model."""
    from scipy.special import xlogy

    mean = np.maximum(mean, 1e-3)
    return float(2 * np.sum(xlogy(counts, counts / mean) - (counts - mean)))
