"""Nematic liquid-crystal cells: retardance over amplitude, and how fast it follows."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["amplitude_of", "relax", "retardance_deg"]

Real = npt.NDArray[np.float64]


def retardance_deg(
    amplitude_v: npt.ArrayLike, largest_deg: float, threshold_v: float, scale_v: float
) -> Real:
    """Return the retardance at rest under an AC drive, degrees, shape of ``amplitude_v``.

    Below the Freedericksz threshold V_c the molecules lie flat. Above, they tilt by ``theta =
    pi/2 - 2 atan exp(-(V - V_c)/V_0)`` (Saleh and Teich, Fundamentals of Photonics, sec. on
    electro-optics of liquid crystals). The index ``n(theta)`` of a small birefringence leaves
    ``Gamma = Gamma_max cos^2 theta``, which is ``Gamma_max sech^2((V - V_c)/V_0)``.

    Args:
        amplitude_v: Amplitude of the drive, V, any shape.
        largest_deg: Retardance without drive.
        threshold_v: V_c.
        scale_v: V_0.
    """
    above = np.maximum(0.0, (np.asarray(amplitude_v, dtype=np.float64) - threshold_v) / scale_v)
    decay = np.exp(-above)  # cosh would overflow
    found: Real = largest_deg * (2 * decay / (1 + decay**2)) ** 2
    return found


def amplitude_of(
    retardance: float, largest_deg: float, threshold_v: float, scale_v: float
) -> float:
    """Return the amplitude that makes a retardance, V: the inverse of :func:`retardance_deg`.

    Args:
        retardance: Above 0, at most ``largest_deg``.
        largest_deg: As there, and ``threshold_v`` and ``scale_v``.
        threshold_v: See there.
        scale_v: See there.
    """
    return threshold_v + scale_v * math.acosh(math.sqrt(largest_deg / retardance))


def relax(now_deg: Real, goal_deg: Real, seconds: float, rise_s: float, fall_s: float) -> Real:
    """Return the retardances after ``seconds`` of exponential relaxation towards a goal at rest.

    The field pulls the molecules up (the retardance falls) faster than elasticity lays them flat.

    Args:
        now_deg: Retardances, shape (n,).
        goal_deg: Where they go, shape (n,).
        seconds: Time that passes.
        rise_s: Time constant of a growing retardance; 0 for none.
        fall_s: That of a falling one.
    """
    times = np.where(goal_deg > now_deg, rise_s, fall_s)
    left = np.exp(-seconds / np.maximum(times, 1e-300))
    found: Real = goal_deg + (now_deg - goal_deg) * left
    return found
