"""Shape of a coincidence or jitter peak: an exponentially modified Gaussian on flat background.

The jitter of superconducting and avalanche detectors is a Gaussian with an exponential tail
(Grushka, Anal. Chem. 44, 1733 (1972)): ``m + sigma N(0, 1) + tau Exp(1)``. A peak of delays b - a
has the tail of b to the late side and that of a to the early one; tau is the longer of the two,
negative for the early side. The plain Gaussian is tau = 0.

Fits are of maximum likelihood for Poisson counts, with the expected count integrated over each
bin, so bins may be empty, few, or as wide as the peak. Cost: some 30 ms per fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...instruments import ProtocolError
from ..estimates import Estimate
from .correlation import Correlation

__all__ = ["PeakFit", "PeakShape", "fit_differences", "fit_histogram", "fit_peak"]

PeakShape = Literal["auto", "emg", "gaussian"]

_Floats = npt.NDArray[np.float64]
_FWHM = 2 * math.sqrt(2 * math.log(2))
_MOST_BINS = 2000
_STANDS_OUT = 30.0  # deviance that a peak takes away at least: some 5 sigma
_TAIL = 3.84  # deviance that the tail does, to be believed at 95 %
_HINT = 1.0  # at one sigma
_FEWEST = 10.0


@dataclass(frozen=True, eq=False)
class PeakFit:
    """A peak; times in ps, errors are one standard deviation.

    Attributes:
        centre_ps: Centre m of the Gaussian part. Its error is large where the tail is hardly told
            from the Gaussian; for a delay take the mean or the top.
        mean_ps: m + tau.
        top_ps: Where the peak is highest.
        sigma_ps: Of the Gaussian part.
        tau_ps: Of the exponential tail, negative on the early side; 0 for a plain Gaussian.
        fwhm_ps: Full width at half maximum.
        pairs: Counts in the peak, background excluded.
        background: Counts per ps of delay below it.
        shape: ``"emg"`` or ``"gaussian"``.
        chi2: Pearson's, of bins joined until some 10 counts are expected in each.
        degrees: Such bins less parameters.
        p_value: Probability of a larger chi2 if the shape is right; nan without degrees.
        covariance: (5, 5), of pairs, m, sigma, tau and background.
    """

    centre_ps: Estimate
    mean_ps: Estimate
    top_ps: Estimate
    sigma_ps: Estimate
    tau_ps: Estimate
    fwhm_ps: Estimate
    pairs: Estimate
    background: Estimate
    shape: Literal["emg", "gaussian"]
    chi2: float
    degrees: int
    p_value: float
    covariance: _Floats = field(repr=False)

    def expected(self, edges_ps: _Floats) -> _Floats:
        """Expected counts (n,) of bins between edges (n + 1,)."""
        return _expected(_values(self), np.asarray(edges_ps, np.float64))

    def __call__(self, correlation: Correlation) -> _Floats:
        """Expected counts (n,) of the bins of a correlation, to draw with its ``delays_ps``."""
        return self.expected(_edges(correlation))


def fit_peak(correlation: Correlation, *, shape: PeakShape = "auto") -> PeakFit:
    """Fit the highest peak of a correlation.

    Times are whole ps: a difference d stands for d - 1/2 to d + 1/2.

    Args:
        correlation: With some flat background on both sides of the peak.
        shape: ``"emg"``, ``"gaussian"``, or whichever the counts ask for: the tail is left out
            unless it improves the likelihood at 95 %.

    Raises:
        ProtocolError: where no peak stands out, it is narrower than the bins or not whole in the
            histogram, or (of an emg) the tail cannot be told from the Gaussian; it says which.
    """
    return fit_histogram(_edges(correlation), correlation.counts, shape=shape)


def fit_differences(
    differences_ps: npt.NDArray[np.int64], begin_ps: int, end_ps: int, *, shape: PeakShape = "auto"
) -> PeakFit:
    """Fit the peak in a list of time differences, binned much finer than the peak.

    Args:
        differences_ps: int64 (n,), in any order.
        begin_ps: Differences from here
        end_ps: to here (exclusive) are in the list; the background is taken as flat between.
        shape: As in :func:`fit_peak`.

    Raises:
        ProtocolError: as :func:`fit_peak`.
        ValueError: for an empty range.
    """
    if not begin_ps < end_ps:
        raise ValueError(f"no difference lies from {begin_ps} to {end_ps} ps")
    while True:
        width = max(1, -(-(end_ps - begin_ps) // _MOST_BINS))
        edges = begin_ps + width * np.arange(-(-(end_ps - begin_ps) // width) + 1)
        if width > 1 and edges[-1] > end_ps:  # whole bins only
            edges = edges[:-1]
        counts = np.histogram(differences_ps, edges - 0.5)[0].astype(np.int64)
        place, spread = _guess(counts)
        if spread >= 10 or width == 1:
            return fit_histogram(edges.astype(np.float64) - 0.5, counts, shape=shape)
        # too coarse for the peak: look closer, with enough to either side for the background
        middle, reach = begin_ps + round(width * place), max(round(50 * spread * width), 50)
        begin_ps, end_ps = max(begin_ps, middle - reach), min(end_ps, middle + reach)


def fit_histogram(
    edges_ps: _Floats, counts: npt.NDArray[np.int64], *, shape: PeakShape = "auto"
) -> PeakFit:
    """Fit the highest peak of a histogram.

    Args:
        edges_ps: float64 (n + 1,), equally spaced; bin k holds [edge k, edge k + 1).
        counts: int64 (n,).
        shape: As in :func:`fit_peak`.

    Raises:
        ProtocolError: as :func:`fit_peak`.
        ValueError: for fewer than 6 bins, unequal ones, or counts that are none.
    """
    edges, counts = np.asarray(edges_ps, np.float64), np.asarray(counts)
    if shape not in ("auto", "emg", "gaussian"):
        raise ValueError(f"a peak is fitted as auto, emg or gaussian, not {shape!r}")
    if counts.ndim != 1 or edges.shape != (counts.size + 1,) or counts.size < 6:
        raise ValueError(f"a fit takes 6 bins or more and one edge more, not {counts.size} bins")
    widths = np.diff(edges)
    if not (np.all(np.isfinite(edges)) and np.allclose(widths, widths[0]) and widths[0] > 0):
        raise ValueError("a fit takes bins of one width, in rising order")
    if counts.min() < 0:
        raise ValueError("counts cannot be negative")
    base = float(edges[counts.size // 2])
    place, spread = _guess(counts)
    edges, counts, place, spread = _around(edges - base, counts, place, spread)
    flat = _deviance(counts, np.full(counts.size, max(float(counts.mean()), 1e-9)))
    plain = _best(edges, counts, [_start(edges, counts, place, spread)], tailed=False)
    found = plain
    if shape != "gaussian":
        _, m, s, _, _ = plain.values
        starts = [
            np.array([plain.values[0], m - t * s, 0.6 * s, t * s, plain.values[4]])
            for t in (0.8, -0.8)
        ]
        tailed = _best(edges, counts, starts, tailed=True)
        if plain.deviance - tailed.deviance > (_HINT if shape == "emg" else _TAIL):
            found = tailed
    if flat - found.deviance < _STANDS_OUT or found.values[0] < _FEWEST:
        raise ProtocolError(
            f"no peak to fit: of {int(counts.sum())} counts {max(found.values[0], 0):.3g} make it,"
            f" {math.sqrt(max(flat - found.deviance, 0)):.1f} sigma above the background:"
            " record longer, or look at other delays"
        )
    if shape == "emg" and not found.tailed:
        raise _no_tail()
    return _told(found, edges, counts, base)


@dataclass(frozen=True, eq=False)
class _Found:
    """Values are pairs, m, sigma, tau, background per ps."""

    values: _Floats
    deviance: float
    tailed: bool


def _edges(correlation: Correlation) -> _Floats:
    width = correlation.bin_ps
    left = float(correlation.delays_ps[0]) - width / 2 - 0.5
    return left + width * np.arange(correlation.counts.size + 1, dtype=np.float64)


def _guess(counts: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Place and width of the highest peak, in bins."""
    total = np.concatenate([[0], np.cumsum(counts)])
    ground = float(np.median(counts)) if np.median(counts) > 0 else float(counts.mean())
    best, place, spread = -1.0, counts.size / 2, 1.0
    width = 1
    while width <= max(counts.size // 2, 1):
        sums = total[width:] - total[:-width]
        k = int(np.argmax(sums))
        excess = float(sums[k]) - ground * width
        significance = excess / math.sqrt(ground * width + 1)
        if significance > best:
            best, place, spread = significance, k + width / 2, width / 2.5
        width += max(1, width // 2)
    return place, spread


def _around(
    edges: _Floats, counts: npt.NDArray[np.int64], place: float, spread: float
) -> tuple[_Floats, npt.NDArray[np.int64], float, float]:
    """Cut and join bins until there are few, without losing what the fit needs."""
    if counts.size <= _MOST_BINS:
        return edges, counts, place, spread
    reach = max(int(50 * spread), _MOST_BINS // 2)
    first = max(int(place) - reach, 0)
    counts = counts[first : int(place) + reach]
    join = max(1, min(int(spread / 8), counts.size // (_MOST_BINS // 2)))
    size = counts.size // join
    counts = counts[: size * join].reshape(size, join).sum(axis=1)
    edges = edges[first : first + size * join + 1 : join]
    return edges, counts, (place - first) / join, spread / join


def _start(edges: _Floats, counts: npt.NDArray[np.int64], place: float, spread: float) -> _Floats:
    width = float(edges[1] - edges[0])
    away = np.abs(np.arange(counts.size) + 0.5 - place) > 4 * spread
    ground = float(counts[away].mean()) if away.any() else 0.0
    pairs = max(float(counts[~away].sum()) - ground * int((~away).sum()), 1.0)
    return np.array([pairs, float(edges[0]) + width * place, spread * width, 0.0, ground / width])


def _best(
    edges: _Floats, counts: npt.NDArray[np.int64], starts: list[_Floats], *, tailed: bool
) -> _Found:
    """The most likely parameters: a least-squares fit of the roots of the deviance."""
    from scipy.optimize import least_squares

    span, width = float(edges[-1] - edges[0]), float(edges[1] - edges[0])
    free = np.array([0, 1, 2, 3, 4] if tailed else [0, 1, 2, 4])
    low = np.array([0.0, edges[0], width / 100, -span, 0.0])
    high = np.array([2.0 * counts.sum() + 1, edges[-1], span, span, counts.sum() / width + 1])
    best: _Found | None = None
    for start in starts:
        scale = np.array([start[0] + 1, start[2], start[2], start[2], start[4] + 1 / span])

        def at(x: _Floats, scale: _Floats = scale) -> _Floats:
            values = np.zeros(5)
            values[free] = x * scale[free]
            return values

        def residuals(x: _Floats) -> _Floats:
            return _roots(counts, _expected(at(x), edges))

        def jacobian(x: _Floats, scale: _Floats = scale) -> _Floats:
            values = at(x)
            slopes = _slopes(values, edges)[free] * scale[free, None]
            return np.asarray((slopes * _root_slope(counts, _expected(values, edges))).T)

        inside = np.clip(start, low + 1e-6 * (high - low), high - 1e-6 * (high - low))
        inside[4] = max(start[4], 1e-3 / span)
        fit = least_squares(
            residuals,
            (inside / scale)[free],
            jac=jacobian,
            bounds=((low / scale)[free], (high / scale)[free]),
            ftol=1e-7,
            xtol=1e-7,
            max_nfev=80,
        )
        values = np.zeros(5)
        values[free] = fit.x * scale[free]
        if best is None or 2 * fit.cost < best.deviance:
            best = _Found(values, 2 * float(fit.cost), tailed)
    assert best is not None
    return best


def _told(found: _Found, edges: _Floats, counts: npt.NDArray[np.int64], base: float) -> PeakFit:
    pairs, m, s, tau, background = found.values.tolist()
    width = float(edges[1] - edges[0])
    top, fwhm = _top_and_width(s, tau)
    if (s < width / 10 and abs(tau) < width) or fwhm < width / 2:
        raise ProtocolError(
            f"the peak is narrower than the bins of {width:g} ps: take narrower ones"
        )
    if not edges[0] + fwhm / 2 < m + top < edges[-1] - fwhm / 2:
        raise ProtocolError(
            f"the peak at {base + m + top:.4g} ps is not whole in the histogram: take a wider one,"
            " or another delay"
        )
    covariance = _covariance(found, edges)
    if covariance is None:
        raise _no_tail()

    def estimate(value: float, slopes: list[float]) -> Estimate:
        sigma = math.sqrt(max(float(np.array(slopes) @ covariance @ slopes), 0.0))
        return Estimate(value, sigma, round(found.values[0]))

    by_s, by_tau = _top_slopes(s, tau) if found.tailed else ((0.0, _FWHM), (0.0, 0.0))
    chi2, degrees = _chi2(counts, _expected(found.values, edges), 5 if found.tailed else 4)
    from scipy.special import chdtrc

    return PeakFit(
        centre_ps=estimate(base + m, [0, 1, 0, 0, 0]),
        mean_ps=estimate(base + m + tau, [0, 1, 0, 1, 0]),
        top_ps=estimate(base + m + top, [0, 1, by_s[0], by_tau[0], 0]),
        sigma_ps=estimate(s, [0, 0, 1, 0, 0]),
        tau_ps=estimate(tau, [0, 0, 0, 1, 0]),
        fwhm_ps=estimate(fwhm, [0, 0, by_s[1], by_tau[1], 0]),
        pairs=estimate(pairs, [1, 0, 0, 0, 0]),
        background=estimate(background, [0, 0, 0, 0, 1]),
        shape="emg" if found.tailed else "gaussian",
        chi2=chi2,
        degrees=degrees,
        p_value=float(chdtrc(degrees, chi2)) if degrees > 0 else math.nan,
        covariance=covariance,
    )


def _no_tail() -> ProtocolError:
    return ProtocolError(
        "the counts do not tell tail and Gaussian apart: record longer, take narrower bins, or fit"
        ' a "gaussian"'
    )


def _values(fit: PeakFit) -> _Floats:
    of = (fit.pairs, fit.centre_ps, fit.sigma_ps, fit.tau_ps, fit.background)
    return np.array([each.value for each in of])


def _expected(values: _Floats, edges: _Floats) -> _Floats:
    pairs, m, s, tau, background = values
    return np.asarray(pairs * np.diff(_cdf(edges - m, s, tau)) + background * np.diff(edges))


def _tail(z: _Floats, k: float) -> _Floats:
    """``exp(k^2/2 - k z) Phi(z - k)``, without overflow: tau times the density, k = sigma/tau."""
    from scipy.special import erfcx, ndtr

    u = (k - z) / math.sqrt(2)
    near = np.exp(-(np.minimum(np.abs(z), 38.0) ** 2) / 2) * erfcx(np.maximum(u, -5.0)) / 2
    far = np.exp(np.clip(k * (k / 2 - z), -700.0, 0.0)) * ndtr(z - k)
    return np.asarray(np.where(u >= -5.0, near, far))


def _cdf(x: _Floats, s: float, tau: float) -> _Floats:
    """Share of the peak before x, m = 0."""
    return _shape(x, s, tau)[0]


def _shape(x: _Floats, s: float, tau: float) -> tuple[_Floats, _Floats, _Floats, _Floats]:
    """Share of the peak before x (m = 0), and how it changes with x, sigma and tau."""
    from scipy.special import ndtr

    if tau < 0:
        share, by_x, by_s, by_tau = _shape(-x, s, -tau)
        return 1 - share, by_x, -by_s, by_tau
    z = x / s
    gauss = np.exp(-(np.minimum(np.abs(z), 38.0) ** 2) / 2) / math.sqrt(2 * math.pi)
    if tau < 1e-5 * s:  # where the differences below lose their digits
        return np.asarray(ndtr(z - tau / s)), gauss / s, -z * gauss / s, -gauss / s
    k = s / tau
    tail = _tail(z, k)
    by_s = (gauss - k * tail) / tau
    return np.asarray(ndtr(z) - tail), tail / tau, by_s, k / tau * ((k - z) * tail - gauss)


def _slopes(values: _Floats, edges: _Floats) -> _Floats:
    """How expected counts change with each parameter (5, n)."""
    pairs, m, s, tau, _ = values.tolist()
    share, by_x, by_s, by_tau = _shape(edges - m, s, tau)
    return np.array(
        [
            np.diff(share),
            -pairs * np.diff(by_x),
            pairs * np.diff(by_s),
            pairs * np.diff(by_tau),
            np.diff(edges),
        ]
    )


def _top_and_width(s: float, tau: float) -> tuple[float, float]:
    """Where the peak is highest, m = 0, and its full width at half maximum."""
    from scipy.optimize import brentq, minimize_scalar

    s, t = float(s), abs(float(tau))
    if t < 1e-6 * s:
        return float(tau), _FWHM * s

    def height(z: float) -> float:
        return float(_tail(np.array([z]), s / t)[0])

    reach = 10.0 + 10 * t / s
    # The mode lies between the centre and the mean.
    top = minimize_scalar(
        lambda z: -height(z),
        bounds=(0.0, min(t / s, 10.0)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    highest, half = float(top.x), -float(top.fun) / 2
    left = brentq(lambda z: height(z) - half, -10.0, highest)
    right = brentq(lambda z: height(z) - half, highest, reach)
    return math.copysign(highest * s, tau), (right - left) * s


def _top_slopes(s: float, tau: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """How top and width change with sigma, and with tau."""
    step = 1e-4 * s

    def slope(ds: float, dt: float) -> tuple[float, float]:
        up, down = _top_and_width(s + ds, tau + dt), _top_and_width(s - ds, tau - dt)
        return (up[0] - down[0]) / (2 * step), (up[1] - down[1]) / (2 * step)

    return slope(step, 0.0), slope(0.0, step)


def _roots(counts: npt.NDArray[np.int64], expected: _Floats) -> _Floats:
    """Signed roots of each bin's share of the Poisson deviance."""
    from scipy.special import xlogy

    mean = np.maximum(expected, 1e-12)
    share = mean - counts + xlogy(counts, counts / mean)
    return np.asarray(np.copysign(np.sqrt(2 * np.maximum(share, 0.0)), mean - counts))


def _root_slope(counts: npt.NDArray[np.int64], expected: _Floats) -> _Floats:
    """How the roots change with the expected counts."""
    mean = np.maximum(expected, 1e-12)
    near = np.abs(mean - counts) < 1e-4 * mean
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (1 - counts / mean) / _roots(counts, mean)
    return np.where(near, 1 / np.sqrt(mean), slope)


def _deviance(counts: npt.NDArray[np.int64], expected: _Floats) -> float:
    roots = _roots(counts, expected)
    return float(roots @ roots)


def _covariance(found: _Found, edges: _Floats) -> npt.NDArray[Any] | None:
    """Inverse of the Fisher information; None where a parameter is not told."""
    mean = _expected(found.values, edges)
    # Of no background at all the error is that of one count.
    mean = np.maximum(mean, 1 / mean.size)
    free = np.array([0, 1, 2, 3, 4] if found.tailed else [0, 1, 2, 4])
    pairs, _, s, tau, background = found.values.tolist()
    # of like size, or the inverse would lose its digits
    scale = np.array([pairs, s, s, s + abs(tau), background + 1 / float(edges[-1] - edges[0])])
    scale = scale[free]
    slopes = _slopes(found.values, edges)[free] * scale[:, None]
    information = (slopes / mean) @ slopes.T
    covariance = np.zeros((5, 5))
    try:
        if np.linalg.cond(information) > 1e12:
            return None
        inverse = np.linalg.inv(information) * np.outer(scale, scale)
    except np.linalg.LinAlgError:
        return None
    if not np.all(np.diag(inverse) > 0):
        return None
    covariance[np.ix_(free, free)] = inverse
    return covariance


def _chi2(counts: npt.NDArray[np.int64], expected: _Floats, parameters: int) -> tuple[float, int]:
    """Pearson's chi2 of bins joined until some 10 are expected, and its degrees of freedom."""
    group = (np.cumsum(expected) - expected / 2) // 10
    first = np.flatnonzero(np.diff(group, prepend=-1.0))
    seen, mean = np.add.reduceat(counts, first), np.add.reduceat(expected, first)
    return float(np.sum((seen - mean) ** 2 / np.maximum(mean, 1e-12))), seen.size - parameters
