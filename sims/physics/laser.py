"""Diode laser: threshold, slope, and the diode's own temperature."""

from __future__ import annotations

__all__ = ["optical_power_w"]


def optical_power_w(current_a: float, threshold_a: float, slope_w_per_a: float) -> float:
    """Output power of a diode laser above threshold, W.

    ``P = s (I - I_th)`` for ``I > I_th``, else 0 (spontaneous emission is left out). Source: any
    laser-diode data sheet; e.g. Saleh and Teich, Fundamentals of Photonics, sec. 17.3.
    """
    return max(0.0, slope_w_per_a * (current_a - threshold_a))
