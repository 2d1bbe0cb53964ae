"""Phase matching: the oven set point at which the crystal makes the most pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...instruments import Clock, Instrument, Limited, PairSource, TimeTagger
from ._recorder import Recorder, wait_until

__all__ = ["PhaseMatchingResult", "Source", "find_phase_matching", "sinc2"]

Real = npt.NDArray[np.float64]

_HALF_WIDTH = 1.3915573782515098  # sinc^2(x) = 1/2
_FLANK = 3  # points wanted on either side of the brightest
_LONGEST = 33  # points of a scan that follows its maximum beyond its ends


class Source(PairSource, Instrument, Protocol):
    """A pair source that tells when its oven has settled."""


@dataclass(frozen=True)
class PhaseMatchingResult:
    """Optimum of a temperature scan.

    Attributes:
        ok: Whether there is an optimum; the source stands at it then, else where it stood before.
        reason: Why not, in words; empty where ok.
        optimum_c: Set point of the most pairs, degC; nan where not ok.
        sigma_c: Its standard error, K.
        fwhm_k: Full width at half maximum of the pair rate, K.
        model: Parameters of :func:`sinc2` that fit; empty where not ok.
        set_points_c: float64 (n,), increasing, as the oven tells them.
        rates_hz: float64 (n,), clicks per second of all taggers.
        sigmas_hz: float64 (n,), their counting errors.
    """

    ok: bool
    reason: str
    optimum_c: float
    sigma_c: float
    fwhm_k: float
    model: tuple[float, ...]
    set_points_c: Real
    rates_hz: Real
    sigmas_hz: Real


def sinc2(
    temperature_c: Real, optimum_c: float, fwhm_k: float, height: float, ground: float
) -> Real:
    """Return ``height * sinc^2(x) + ground``, ``x = 2 * 1.3916 (T - T0)/FWHM``.

    The phase mismatch linearised round its zero (Fedrizzi et al., Opt. Express 15, 15377 (2007)).
    """
    x = 2 * _HALF_WIDTH * (temperature_c - optimum_c) / fwhm_k
    return np.asarray(height * np.sinc(x / math.pi) ** 2 + ground)


def find_phase_matching(
    source: Source,
    taggers: Sequence[TimeTagger],
    clock: Clock,
    *,
    span_k: float = 8.0,
    step_k: float = 0.5,
    seconds: float = 0.2,
    settle_s: float = 15.0,
    timeout_s: float = 300.0,
) -> PhaseMatchingResult:
    """Scan the oven round its set point and fit sinc^2 to the clicks.

    Where the brightest point is near an end of the scan, the scan goes on beyond it. A start so
    far off that only a side lobe is seen cannot be told from the peak.

    Singles rather than coincidences: twenty times as many, and no delay need be known. What does
    not come in pairs (dark counts, fluorescence) is the fit's constant; dead time flattens the peak
    on both sides alike. The error is scaled up where the fit is worse than the counting errors.

    Args:
        source: Emitting, its oven heated.
        taggers: Whose clicks are counted; not recording.
        clock: The bench's clock.
        span_k: Width of the scan.
        step_k: Its step.
        seconds: Recording per point.
        settle_s: Wait after the oven says that it is ready; its reading is coarser than its lag.
        timeout_s: Longest wait for the oven.

    Raises:
        InstrumentTimeout: where the oven does not settle.
    """
    start = source.crystal_temperature.get()
    points: dict[float, tuple[float, float]] = {}

    def go(set_point: float) -> float:
        source.crystal_temperature.set(set_point)
        wait_until(source.ready, timeout_s, "the oven", clock, clock.sleep)
        clock.sleep(settle_s)
        return source.crystal_temperature.get()

    def measure(set_point: float) -> float:
        shown = go(set_point)  # a controller may round
        with Recorder(taggers, clock) as recorder:
            batches = recorder.record(seconds)
        counts = [len(batch) for batch in batches]
        live = [max(batch.live_s, 1e-9) for batch in batches]
        rate = sum(n / t for n, t in zip(counts, live, strict=True))
        sigma = math.sqrt(sum((n + 1) / t**2 for n, t in zip(counts, live, strict=True)))
        points[shown] = (rate, sigma)
        return shown

    steps = max(4, round(span_k / step_k))
    wanted = [start + (i - steps / 2) * step_k for i in range(steps + 1)]
    # Every other point on the way up, the rest on the way down: what the oven still lags behind
    # when it is called settled then cancels.
    for set_point in (t for t in wanted[::2] + wanted[1::2][::-1] if _allowed(source, t)):
        measure(set_point)
    while len(points) > 2 * _FLANK and len(points) < _LONGEST and _structured(points):
        shown = sorted(points)
        best = shown.index(max(points, key=lambda t: points[t][0]))
        if _FLANK <= best < len(shown) - _FLANK:
            break
        beyond = shown[0] - step_k if best < _FLANK else shown[-1] + step_k
        if not _allowed(source, beyond) or measure(beyond) in shown:
            break
    result = _fit(points)
    go(result.optimum_c if result.ok else start)
    return result


def _allowed(source: PairSource, set_point: float) -> bool:
    signal = source.crystal_temperature
    return not isinstance(signal, Limited) or set_point in signal.limits


def _arrays(points: dict[float, tuple[float, float]]) -> tuple[Real, Real, Real]:
    x = np.array(sorted(points))
    y, sigma = np.array([points[t] for t in x]).reshape(-1, 2).T
    return x, y, sigma


def _structured(points: dict[float, tuple[float, float]]) -> bool:
    """Whether the rates differ by more than their errors explain."""
    _, y, sigma = _arrays(points)
    mean = np.average(y, weights=sigma**-2)
    freedom = y.size - 1
    chi2 = float(np.sum(((y - mean) / sigma) ** 2))
    return freedom > 0 and chi2 > freedom + 10 * math.sqrt(2 * freedom)


def _fit(points: dict[float, tuple[float, float]]) -> PhaseMatchingResult:
    from scipy.optimize import curve_fit

    if len(points) < 5:
        return _failed("the oven's limits leave fewer than 5 points to scan", points)
    x, y, sigma = _arrays(points)
    if not _structured(points):
        return _failed(
            f"the clicks do not depend on the temperature between {x[0]:.1f} and {x[-1]:.1f} degC"
            f" ({y.mean():.0f} clicks/s): is the pump on, is light on the detectors?",
            points,
        )
    top = int(np.argmax(y))
    ground, height = float(y.min()), float(y.max() - y.min())
    width = max(float(np.ptp(x[y > ground + height / 2])), 2 * float(np.diff(x).min()))
    fits = []
    for factor in (0.5, 1.0, 2.0):  # sinc^2 has local minima in its width
        guess = (float(x[top]), factor * width, height, ground)
        try:
            found, covariance = _curve_fit(curve_fit, x, y, sigma, guess)
        except RuntimeError:  # scipy's word for a fit that does not converge
            continue
        fits.append((float(np.sum(((y - sinc2(x, *found)) / sigma) ** 2)), found, covariance))
    if not fits:
        return _failed("no sinc^2 fits the scan; is the pump steady?", points)
    chi2, found, covariance = min(fits, key=lambda fit: fit[0])
    found[1] = abs(found[1])
    scale = max(1.0, chi2 / (x.size - found.size))
    misfit = float(np.std(y - sinc2(x, *found))) / height
    if misfit > 0.05:
        return _failed(
            f"the scan is no sinc^2: the fit misses it by {100 * misfit:.0f} % of its height; did"
            " the pump or the coupling change meanwhile?",
            points,
        )
    deviation = math.sqrt(max(float(covariance[0, 0]) * scale, 0.0))
    if not (x[0] < found[0] < x[-1]) or found[2] <= 0 or not 0 < deviation < found[1]:
        return _failed(
            f"no maximum between {x[0]:.1f} and {x[-1]:.1f} degC: start nearer to phase matching,"
            " or widen the scan",
            points,
        )
    model = tuple(float(v) for v in found)
    return PhaseMatchingResult(True, "", model[0], deviation, model[1], model, x, y, sigma)


def _curve_fit(
    fit: Any, x: Real, y: Real, sigma: Real, guess: tuple[float, ...]
) -> tuple[Real, Real]:
    found, covariance = fit(sinc2, x, y, p0=guess, sigma=sigma, absolute_sigma=True)
    return np.asarray(found, np.float64), np.asarray(covariance, np.float64)


def _failed(reason: str, points: dict[float, tuple[float, float]]) -> PhaseMatchingResult:
    x, y, sigma = _arrays(points)
    return PhaseMatchingResult(False, reason, math.nan, math.nan, math.nan, (), x, y, sigma)
