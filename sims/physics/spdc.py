"""CW spontaneous parametric down-conversion: brightness and phase matching."""

from __future__ import annotations

import math

__all__ = ["pair_rate_hz", "phase_matching"]

_HALF_WIDTH = 1.3915573782515098  # sinc^2(x) = 1/2


def phase_matching(temperature_c: float, optimum_c: float, fwhm_k: float) -> float:
    """Return the relative brightness sinc^2(x), x linear in the crystal temperature.

    ``x = 2 * 1.3916 (T - T0)/FWHM``: the phase mismatch linearised round its zero, as in Fedrizzi
    et al., Opt. Express 15, 15377 (2007), and any text on quasi-phase matching.
    """
    x = 2 * _HALF_WIDTH * (temperature_c - optimum_c) / fwhm_k
    return 1.0 if x == 0 else (math.sin(x) / x) ** 2


def pair_rate_hz(
    power_w: float, rate_per_watt: float, temperature_c: float, optimum_c: float, fwhm_k: float
) -> float:
    """Return pairs per second before any loss: linear in the pump (low gain)."""
    return power_w * rate_per_watt * phase_matching(temperature_c, optimum_c, fwhm_k)
