"""Bias currents: where each nanowire detector is efficient and still quiet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ...instruments import Clock, DetectorArray, PairSource

__all__ = ["BiasResult", "BiasScan", "find_bias", "plateau"]

Real = npt.NDArray[np.float64]

#: Largest share of the switching current, as far as the scan has seen it, to work at.
_SAFE = 0.95


@runtime_checkable
class MeasuresAll(Protocol):
    """Capability: reads all detectors over one integration time."""

    def measure_rates(self) -> tuple[float, ...]:
        """Counts per second of every detector, Hz."""
        ...


@dataclass(frozen=True)
class BiasScan:
    """Scan of one detector.

    Attributes:
        ok: Whether an operating point was found.
        reason: Why not, in words; empty where ok.
        bias_a: Operating point, A; nan where not ok.
        sigma_a: Its standard error, A.
        dark_hz: Dark counts there, interpolated, Hz.
        switching_a: Largest bias at which the wire still worked, A.
        model: Parameters of :func:`plateau` that fit; empty where not ok.
        currents_a: float64 (n,), where the wire worked.
        light_hz: float64 (n,), counts with the pump on, and their errors ``light_sigma_hz``.
        light_sigma_hz: float64 (n,).
        dark_counts_hz: float64 (n,), counts with the pump off, and their errors ``dark_sigma_hz``.
        dark_sigma_hz: float64 (n,).
    """

    ok: bool
    reason: str
    bias_a: float
    sigma_a: float
    dark_hz: float
    switching_a: float
    model: tuple[float, ...]
    currents_a: Real
    light_hz: Real
    light_sigma_hz: Real
    dark_counts_hz: Real
    dark_sigma_hz: Real


@dataclass(frozen=True)
class BiasResult:
    """Scans of all detectors of one array.

    ``ok`` where every one has its operating point; else all are biased as they were before.
    """

    ok: bool
    reason: str
    scans: tuple[BiasScan, ...]


def plateau(current_a: Real, height: float, half_a: float, width_a: float) -> Real:
    """Return ``height/2 (1 + erf((I - I_half)/width))``, the count rate of a saturating wire.

    Form: a usual fit to published curves, e.g. arXiv 1611.02726.
    """
    from scipy.special import erf

    return np.asarray(height / 2 * (1 + erf((current_a - half_a) / width_a)))


def find_bias(
    array: DetectorArray,
    source: PairSource,
    clock: Clock,
    *,
    integration_s: float,
    currents_a: Sequence[float] | None = None,
    level: float = 0.99,
    repeats: int = 5,
    dark_repeats: int = 10,
    settle_s: float = 1.0,
) -> BiasResult:
    """Scan all bias currents upwards with light, then in the dark; set each operating point.

    Criterion: the lowest bias at which the efficiency reaches ``level`` of its plateau, since dark
    counts only grow beyond; and at most 95 % of the largest bias at which the wire worked. A wire
    that switches to normal (its counts collapse) is taken to zero bias at once, which resets it.

    Args:
        array: Enabled.
        source: Emitting; its pump is off during the dark scan and on again in the end.
        clock: The bench's clock.
        integration_s: Time the array counts for one reading; sets the counting errors.
        currents_a: What to scan, increasing; 6 to 30 uA by default.
        level: Share of the plateau.
        repeats: Readings per point with light.
        dark_repeats: Readings per point in the dark.
        settle_s: Wait after the pump is switched.
    """
    grid = np.arange(6e-6, 30.1e-6, 0.75e-6) if currents_a is None else np.array(currents_a)
    before = [bias.get() for bias in array.bias_currents]
    lit = source.emission.get()
    light = _scan(array, grid, [grid.size] * array.detectors, repeats, integration_s, latch=True)
    ends = [len(scan) for scan in light]
    source.emission.set(False)
    clock.sleep(settle_s)
    dark = _scan(array, grid, ends, dark_repeats, integration_s, latch=False)
    source.emission.set(lit)
    clock.sleep(settle_s)
    scans = tuple(
        _operating_point(grid, np.array(a), np.array(b), level)
        for a, b in zip(light, dark, strict=True)
    )
    ok = all(scan.ok for scan in scans)
    for bias, scan, old in zip(array.bias_currents, scans, before, strict=True):
        bias.set(scan.bias_a if ok else old)
    failed = [f"detector {i}: {scan.reason}" for i, scan in enumerate(scans, 1) if not scan.ok]
    return BiasResult(not failed, "; ".join(failed), scans)


def _scan(
    array: DetectorArray,
    grid: Real,
    ends: Sequence[int],
    repeats: int,
    integration_s: float,
    *,
    latch: bool,
) -> list[list[tuple[float, float]]]:
    """Return (rate, sigma) per detector and point, each up to its end or its collapse."""
    found: list[list[tuple[float, float]]] = [[] for _ in ends]
    alive = [True] * len(ends)
    rates = _reader(array)
    for bias in array.bias_currents:
        bias.set(0.0)  # resets a wire that was normal before
    for k, current in enumerate(grid):
        for i, bias in enumerate(array.bias_currents):
            alive[i] = alive[i] and k < ends[i]
            bias.set(float(current) if alive[i] else 0.0)
        if not any(alive):
            break
        read = np.array([rates() for _ in range(repeats)])
        total = repeats * integration_s
        for i, rate in enumerate(read.mean(axis=0)):
            if not alive[i]:
                continue
            sigma = math.sqrt(rate * total + 1) / total
            largest = max((r for r, _ in found[i]), default=0.0)
            if latch and rate < largest / 2 and largest - rate > 10 * sigma:
                alive[i] = False
                array.bias_currents[i].set(0.0)
            else:
                found[i].append((float(rate), sigma))
    return found


def _reader(array: DetectorArray) -> Callable[[], Sequence[float]]:
    if isinstance(array, MeasuresAll):
        return array.measure_rates
    return lambda: [rate.get() for rate in array.count_rates]


def _operating_point(grid: Real, light: Real, dark: Real, level: float) -> BiasScan:
    from scipy.optimize import curve_fit
    from scipy.special import erfinv

    light, dark = light.reshape(-1, 2), dark.reshape(-1, 2)
    x = grid[: len(light)]
    seen = (x, *light.T, *dark.T)

    def failed(reason: str) -> BiasScan:
        return BiasScan(False, reason, math.nan, math.nan, math.nan, math.nan, (), *seen)

    net = light[:, 0] - dark[:, 0]
    sigma = np.hypot(light[:, 1], dark[:, 1])
    if x.size < 5:
        return failed(f"it worked at {x.size} of the biases scanned; scan lower or finer")
    if float(np.max(net / sigma)) < 10:
        return failed("the pump makes no difference: is the source on, is light on the detector?")
    top = float(net.max())
    half = float(x[int(np.argmax(net > top / 2))])
    guess = (top, half, float(x[-1] - x[0]) / 8)
    try:
        model, covariance = _fitted(curve_fit, x, net, sigma, guess)
    except RuntimeError as error:  # scipy's word for a fit that does not converge
        return failed(f"no plateau fits the scan: {error}")
    reach = float(erfinv(2 * level - 1))
    residuals = (net - plateau(x, *model)) / sigma
    scale = max(1.0, float(residuals @ residuals) / (x.size - 3))
    gradient = np.array([0.0, 1.0, reach])
    deviation = math.sqrt(float(gradient @ covariance @ gradient) * scale)
    point = float(model[1] + reach * model[2])
    if model[2] <= 0 or not x[0] < point < _SAFE * x[-1]:
        return failed(
            f"{100 * level:g} % of the plateau would need {point * 1e6:.2f} uA, outside"
            f" {x[0] * 1e6:.2f} uA to 95 % of {x[-1] * 1e6:.2f} uA, the last at which it worked"
        )
    at = float(np.interp(point, x, dark[:, 0]))
    return BiasScan(
        True, "", point, deviation, at, float(x[-1]), tuple(float(v) for v in model), *seen
    )


def _fitted(fit: Any, x: Real, y: Real, sigma: Real, guess: tuple[float, ...]) -> tuple[Real, Real]:
    found, covariance = fit(
        plateau,
        x * 1e6,
        y,
        p0=(guess[0], guess[1] * 1e6, guess[2] * 1e6),
        sigma=sigma,
        absolute_sigma=True,
    )  # in uA, where numbers are near one
    scale = np.array([1.0, 1e-6, 1e-6])
    return np.asarray(found) * scale, np.asarray(covariance) * np.outer(scale, scale)
