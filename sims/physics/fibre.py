"""Fibre: delay and its drift, dispersion, polarization-mode dispersion, light beside the signal.

The random walk of polarization is :func:`.polarization.drift_step`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .constants import C_M_PER_S, FWHM, H_J_S

__all__ = [
    "angular_width",
    "average_dgd_s",
    "crosstalk_hz",
    "daily_kelvin",
    "dispersion_fwhm_s",
    "group_delay_s",
    "photon_rate_hz",
    "pmd_map",
    "pmd_pair",
    "pmd_step",
    "raman_backward_w",
    "raman_forward_w",
    "raman_shape",
    "thermal_delay_s",
]

_K_B = 1.380649e-23
_DAY_S = 86_400.0
_TO_RMS = 1 / FWHM

Real = npt.NDArray[np.float64]


# -- delay -------------------------------------------------------------------------------------


def group_delay_s(length_m: float, group_index: float) -> float:
    """Return the group delay ``n L/c``, s: 4.9 us/km at n = 1.468."""
    return length_m * group_index / C_M_PER_S


def thermal_delay_s(length_m: float, coefficient: float, kelvin: float) -> float:
    """Return how much longer light takes in a fibre that is ``kelvin`` warmer, s.

    ``coefficient`` in s/m/K is ``(dn/dT + n alpha)/c``: 39 ps/km/K for silica with dn/dT = 1.1e-5/K
    and alpha = 5.5e-7/K.
    """
    return length_m * coefficient * kelvin


def daily_kelvin(now_s: float, swing_k: float) -> float:
    """Return the temperature against the start, K, of a day whose extremes lie ``swing_k`` apart.

    ``(swing/2) sin(2 pi t/day)``: the world begins where the day is at its mean and warming.
    """
    return 0.5 * swing_k * math.sin(2 * math.pi * now_s / _DAY_S)


# -- dispersion --------------------------------------------------------------------------------


def dispersion_fwhm_s(dispersion_a: float, dispersion_b: float, bandwidth_m: float) -> float:
    """Return the FWHM, s, that dispersion adds to the arrival difference of a pair.

    ``|D_A L_A + D_B L_B| dlambda``: the photons of a pair have opposite detunings, so dispersion
    of equal sign adds up, and a compensating fibre may stand in either arm (Franson, Phys. Rev. A
    45, 3126 (1992)).

    Args:
        dispersion_a: Dispersion parameter times length of arm a, s/m, and ``dispersion_b`` of b.
        dispersion_b: See ``dispersion_a``.
        bandwidth_m: FWHM of either photon's spectrum, m.
    """
    return abs(dispersion_a + dispersion_b) * bandwidth_m


def angular_width(bandwidth_m: float, wavelength_m: float) -> float:
    """Return the rms width, rad/s, of a Gaussian spectrum of a given FWHM in wavelength.

    ``2 pi c dlambda/lambda^2``, divided by 2.355. It is the width of the power spectrum.
    """
    return 2 * math.pi * C_M_PER_S * bandwidth_m / wavelength_m**2 * _TO_RMS


# -- polarization-mode dispersion --------------------------------------------------------------


def average_dgd_s(coefficient: float, length_m: float) -> float:
    """Return the mean differential group delay, s: ``coefficient sqrt(L)``, in s/sqrt(m)."""
    return coefficient * math.sqrt(length_m)


def pmd_step(
    rng: np.random.Generator, vector: npt.ArrayLike | None, mean_s: float, memory: float = 0.0
) -> Real:
    """Return the next PMD vector, shape (3,), s: the DGD along the slow principal state.

    Its three components are independent and normal, so that the DGD has a Maxwell distribution of
    the given mean (Curti et al., J. Lightwave Technol. 8, 1162 (1990)); in time each follows a
    first-order autoregression, which keeps that distribution.

    Args:
        rng: Draws three normal numbers.
        vector: The vector before, shape (3,), s; None to begin anywhere.
        mean_s: Mean DGD, s.
        memory: Correlation with the vector before, 0 to 1: ``exp(-dt/time)``.
    """
    sigma = mean_s * math.sqrt(math.pi / 8)
    fresh: Real = sigma * rng.standard_normal(3)
    if vector is None:
        return fresh
    return memory * np.asarray(vector, np.float64) + math.sqrt(1 - memory**2) * fresh


def pmd_map(dgd_s: float, axis: npt.ArrayLike, width_rad_s: float) -> Real:
    """Return what PMD does to a photon's Stokes vector (S0, S1, S2, S3), shape (4, 4).

    A part of the spectrum detuned by w turns about the principal axis by ``w dgd``. The mean over
    a Gaussian spectrum, ``int |phi(w)|^2 e^{i w dgd} dw = exp(-(s_w dgd)^2/2)`` with ``s_w`` the
    rms width of the power spectrum, shrinks the two components across the axis and leaves the one
    along it: dephasing in the basis of principal states.

    Args:
        dgd_s: Differential group delay, s.
        axis: A principal state at the end, unit vector (S1, S2, S3).
        width_rad_s: ``s_w`` (:func:`angular_width`).
    """
    n = np.asarray(axis, np.float64)
    kept = math.exp(-((width_rad_s * dgd_s) ** 2) / 2)
    turn: Real = np.eye(4)
    turn[1:, 1:] = kept * np.eye(3) + (1 - kept) * np.outer(n, n)
    return turn


def pmd_pair(
    correlations: npt.ArrayLike, pmd_a: npt.ArrayLike, pmd_b: npt.ArrayLike, width_rad_s: float
) -> Real:
    """Return what PMD in both arms does to the correlations of a pair, shape (4, 4).

    The photons of a pair are detuned by w and -w, so their turns are not independent: two maps
    of :func:`pmd_map` would be wrong by the terms that let PMD in one arm undo that in the other
    (Shtaif, Antonelli and Brodsky, Opt. Express 19, 1728 (2011)). Exact for a Gaussian spectrum.

    Args:
        correlations: ``T[m, n] = Tr(rho sigma_m x sigma_n)``, shape (4, 4).
        pmd_a: PMD vector of arm a at its end, shape (3,), s, and ``pmd_b`` of arm b.
        pmd_b: See ``pmd_a``.
        width_rad_s: Rms width of either photon's spectrum, rad/s.
    """
    still_a, cos_a, sin_a, dgd_a = _turn_parts(pmd_a)
    still_b, cos_b, sin_b, dgd_b = _turn_parts(pmd_b)

    def mean_cos(delay: float) -> float:
        return math.exp(-((width_rad_s * delay) ** 2) / 2)

    both, apart = mean_cos(dgd_a + dgd_b), mean_cos(dgd_a - dgd_b)
    t = np.asarray(correlations, np.float64)
    result: Real = (
        still_a @ t @ still_b.T
        + mean_cos(dgd_a) * cos_a @ t @ still_b.T
        + mean_cos(dgd_b) * still_a @ t @ cos_b.T
        + (both + apart) / 2 * cos_a @ t @ cos_b.T
        + (both - apart) / 2 * sin_a @ t @ sin_b.T
    )
    return result


def _turn_parts(pmd: npt.ArrayLike) -> tuple[Real, Real, Real, float]:
    """Parts of a turn by phi about a PMD vector, ``still + cos phi cos + sin phi sin``; the DGD."""
    vector = np.asarray(pmd, np.float64)
    dgd = float(np.linalg.norm(vector))
    n = vector / dgd if dgd > 0 else np.array([1.0, 0.0, 0.0])
    still, cos, sin = np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((4, 4))
    still[0, 0] = 1
    still[1:, 1:] = np.outer(n, n)
    cos[1:, 1:] = np.eye(3) - np.outer(n, n)
    sin[1:, 1:] = [[0, -n[2], n[1]], [n[2], 0, -n[0]], [-n[1], n[0], 0]]
    return still, cos, sin, dgd


# -- light beside the signal -------------------------------------------------------------------


def photon_rate_hz(power_w: float, wavelength_m: float) -> float:
    """Return the photons per second of a power: 7.8e15 of 1 mW at 1550 nm."""
    return power_w * wavelength_m / (H_J_S * C_M_PER_S)


def raman_forward_w(
    power_w: float, length_m: float, attenuation_db_km: float, beta: float, filter_m: float
) -> float:
    """Return the Raman light that leaves a fibre beside a classical channel's own light, W.

    ``P e^{-a L} L beta dlambda`` (Eraerds et al., New J. Phys. 12, 063027 (2010)), the
    attenuation being equal at both wavelengths.

    Args:
        power_w: Launch power of the classical channel.
        length_m: Length of the fibre.
        attenuation_db_km: Its attenuation.
        beta: Raman coefficient, 1/m^2: share scattered per metre of fibre and of wavelength.
        filter_m: Width of the quantum channel's filter.
    """
    return power_w * 10 ** (-attenuation_db_km * length_m * 1e-4) * length_m * beta * filter_m


def raman_backward_w(
    power_w: float, length_m: float, attenuation_db_km: float, beta: float, filter_m: float
) -> float:
    """Return the Raman light that comes out where the classical channel goes in, W.

    ``P beta dlambda (1 - e^{-2 a L})/(2 a)`` (source and arguments as :func:`raman_forward_w`).
    """
    a = attenuation_db_km * math.log(10) * 1e-4
    effective_m = -math.expm1(-2 * a * length_m) / (2 * a) if a > 0 else length_m
    return power_w * beta * filter_m * effective_m


def raman_shape(from_m: float, to_m: float, temperature_k: float = 300.0) -> float:
    """Return how strongly silica scatters from one wavelength to another by Raman.

    Relative to light 1 THz further to the red (8 nm at 1550 nm), where coefficients are quoted:
    ``g(Omega) (n + 1)`` towards the red and ``g(Omega) n`` towards the blue, n the thermal
    occupation, times ``nu^3`` for the energy and the width of a filter in wavelength. The gain g
    is the imaginary part of the response of Lin and Agrawal, Opt. Lett. 31, 3086 (2006).
    """
    shift = C_M_PER_S / from_m - C_M_PER_S / to_m
    return (
        _raman_strength(shift, temperature_k)
        / _raman_strength(1e12, temperature_k)
        * (from_m / to_m) ** 3
    )


def _raman_strength(shift_hz: float, temperature_k: float) -> float:
    """Gain times occupation at a shift towards the red; the limit at none."""
    tau_1, tau_2, tau_b, f_b = 12.2e-15, 32e-15, 96e-15, 0.21
    omega = 2 * math.pi * max(abs(shift_hz), 1e6)
    p, q = 1 / tau_2 - 1j * omega, 1 / tau_1
    oscillator = (1 / tau_2**2 + q**2) / (p**2 + q**2)
    boson = 1 / (1 - 1j * omega * tau_b)
    gain = ((1 - f_b) * oscillator + f_b * (2 * boson - boson**2)).imag
    thermal = H_J_S * omega / (2 * math.pi * _K_B * temperature_k)
    occupation = 1 / math.expm1(thermal)
    return float(gain * (occupation + (shift_hz > 0)))


def crosstalk_hz(power_w: float, wavelength_m: float, isolation_db: float) -> float:
    """Return the photons per second of a classical channel that its filter lets into another.

    ``power_w`` is what arrives at the filter: 0 dBm and 100 dB leave 7.8e5 photons/s.
    """
    return photon_rate_hz(power_w, wavelength_m) * 10 ** (-isolation_db / 10)
