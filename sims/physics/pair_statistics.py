"""How many pairs a pulse or a window holds, and what that costs: g2 and visibility.

A source of K equal Schmidt modes makes a negative binomial number of pairs: thermal for K = 1,
Poisson for K infinite, which is also continuous light in a window far longer than the coherence
time. A polarization-entangled source has two polarization modes per Schmidt mode, ``modes = 2 K``:
``P(n) = (n + 1) l^n / (1 + l)^(n + 2)`` for K = 1, l pairs per mode. Christ et al., NJP 13, 033027
(2011); Kok and Braunstein, PRA 61, 042304 (2000).

The engines do not draw from here: continuous light is thinned Poisson pairs, and pulses are exact
Gaussian optics (:mod:`.pulsed_pairs`), which the tests hold against these laws. Ensemble memories
(:mod:`.memory`) use them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ...instruments.errors import ConfigError

__all__ = [
    "cross_g2",
    "g2",
    "heralded_g2",
    "multipair_visibility",
    "number_probabilities",
    "sample_numbers",
    "silence",
]

Real = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def _checked(mean: float, modes: float) -> None:
    if not 0.0 <= mean < math.inf:
        raise ConfigError(f"pairs: the mean number must be finite and >= 0, not {mean:g}")
    if not modes >= 1.0:
        raise ConfigError(f"pairs: there is at least one mode, not {modes:g}")


def number_probabilities(most: int, mean: float, modes: float = 1.0) -> Real:
    """Return P(n) for n = 0 to ``most``, shape (most + 1,).

    Args:
        most: Largest number.
        mean: Mean number of pairs over all modes.
        modes: Equal thermal modes, >= 1, not necessarily whole; infinite for Poisson.
    """
    _checked(mean, modes)
    n = np.arange(1, most + 1)
    if math.isinf(modes):
        first, ratios = math.exp(-mean), mean / n
    else:
        each = mean / modes
        first, ratios = (1 + each) ** -modes, (n - 1 + modes) / n * each / (1 + each)
    return np.concatenate([[first], first * np.cumprod(ratios)])


def sample_numbers(
    rng: np.random.Generator, mean: float, modes: float, shape: int | tuple[int, ...]
) -> Ints:
    """Draw numbers of pairs, int64 of the given shape: Poisson with a gamma-distributed mean."""
    _checked(mean, modes)
    if math.isinf(modes):
        return rng.poisson(mean, shape)
    return rng.poisson(rng.gamma(modes, mean / modes, shape))


def silence(efficiency: float, mean: float, modes: float = 1.0) -> float:
    """Return the probability that a threshold detector of one arm does not click.

    The generating function at 1 - efficiency: ``(1 + efficiency mean/K)^-K``, Poisson ``e^-x``.
    """
    _checked(mean, modes)
    seen = efficiency * mean
    return math.exp(-seen if math.isinf(modes) else -modes * math.log1p(seen / modes))


def g2(modes: float = 1.0) -> float:
    """Return the autocorrelation of one arm at zero delay, unheralded: ``1 + 1/K``."""
    _checked(0.0, modes)
    return 1 + 1 / modes


def cross_g2(mean: float, modes: float = 1.0) -> float:
    """Return g2 between the arms, ``1 + 1/K + 1/mean``; for K = 1 it is ``1 + 1/P(n > 0)``."""
    _checked(mean, modes)
    return g2(modes) + 1 / mean


def heralded_g2(mean: float, modes: float = 1.0, efficiency: float = 0.0) -> float:
    """Return g2(0) of one arm given a click in the other, whatever the loss of the first.

    ``<n(n-1)>_h P_h / <n>_h^2``, from the generating function G(z): a threshold detector of
    efficiency eta fires with ``1 - (1 - eta)^n``, so the moments are
    ``G''(1) - (1-eta)^2 G''(1-eta)`` and alike. About
    ``2 mean (1 + 1/K)`` for few pairs and small eta, half that for eta = 1.

    Args:
        mean: Mean number of pairs, above 0.
        modes: K.
        efficiency: Of the herald; 0 is its limit, exact.
    """
    _checked(mean, modes)
    if not 0.0 <= efficiency <= 1.0 or mean == 0.0:
        raise ConfigError("pairs: heralding needs pairs, and an efficiency in 0..1")
    k1, k2 = 1 + 1 / modes, (1 + 1 / modes) * (1 + 2 / modes)
    if efficiency == 0.0:  # clicks in proportion to n
        moment1, moment2 = mean + mean**2 * k1, 2 * mean**2 * k1 + mean**3 * k2
        return moment2 * mean / moment1**2
    quiet = silence(efficiency, mean, modes)
    base = 1.0 if math.isinf(modes) else 1 / (1 + efficiency * mean / modes)
    z = 1 - efficiency
    moment1 = mean * (1 - z * quiet * base)
    moment2 = mean**2 * k1 * (1 - z * z * quiet * base**2)
    return moment2 * (1 - quiet) / moment1**2


def multipair_visibility(mean: float, schmidt_number: float = 1.0) -> float:
    """Return the visibility that accidental pairs of one pulse leave, faintly detected.

    ``V = (1 + m/2K) / (1 + m (1 + 1/2K))`` with m the mean over both polarizations. K = 1 and
    mu = m/2: ``(1 + mu)/(1 + 3 mu)``; K infinite: ``1/(1 + m)``. Parallel outcomes come from one
    polarization mode, ``<n^2> = mu + mu^2 (1 + 1/K)``, crossed ones from two, ``mu^2``.
    """
    _checked(mean, schmidt_number)
    bunched = mean / (2 * schmidt_number)
    return (1 + bunched) / (1 + mean + bunched)
