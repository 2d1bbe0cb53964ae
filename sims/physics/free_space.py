"""Light through air and from a satellite: geometry, pointing, turbulence, sky.

The satellite's orbit is a circle about a round Earth that does not turn.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .constants import C_M_PER_S, H_J_S

__all__ = [
    "aperture_averaging",
    "aperture_averaging_slant",
    "block_average",
    "geometric_transmission",
    "hufnagel_valley_moment",
    "pass_geometry",
    "pointing_mean",
    "pointing_transmission",
    "rytov_variance",
    "rytov_variance_slant",
    "scintillation_index",
    "sky_light_hz",
    "sky_radiance",
    "slant_range_m",
    "slant_transmission",
]

EARTH_RADIUS_M = 6_371_000.0
_EARTH_GM = 3.986004418e14  # m^3/s^2

#: Bands B, V, R, I, J, H: wavelength, nm; flux of magnitude 0, W/(m^2 um), of Bessell, Castelli and
#: Plez, Astron. Astrophys. 333, 231 (1998); magnitudes per square arcsecond of the sky at zenith
#: over Paranal without a moon, and with a full one 45 deg away, of ESO's SkyCalc 1.4.3.
_SKY = np.array(
    [
        (438, 6.32e-8, 22.78, 18.20),
        (545, 3.631e-8, 21.83, 18.01),
        (641, 2.177e-8, 21.06, 18.00),
        (798, 1.126e-8, 19.74, 17.95),
        (1220, 3.147e-9, 16.87, 16.68),
        (1630, 1.138e-9, 14.42, 14.40),
    ]
)
_ARCSECOND = math.pi / 648_000

Real = npt.NDArray[np.float64]


# -- geometry ----------------------------------------------------------------------------------


def slant_range_m(altitude_m: float, elevation_deg: npt.ArrayLike) -> Any:
    """Return the distance to a satellite seen at an elevation, m, shaped as the elevation.

    ``R = sqrt((Re + h)^2 - Re^2 cos^2 e) - Re sin e``: 500 km at 90 deg and 1193 km at 20 deg for
    h = 500 km.
    """
    e = np.radians(elevation_deg)
    r = EARTH_RADIUS_M + altitude_m
    return np.sqrt(r**2 - (EARTH_RADIUS_M * np.cos(e)) ** 2) - EARTH_RADIUS_M * np.sin(e)


def pass_geometry(
    since_culmination_s: npt.ArrayLike, altitude_m: float, max_elevation_deg: float
) -> tuple[Any, Any]:
    """Return elevation, degrees, and distance, m, of a satellite in a pass, shaped as the times.

    With psi the angle between station and satellite at the Earth's centre,
    ``cos psi = cos psi_0 cos(w t)``, psi_0 at culmination and ``w = sqrt(GM/(Re + h)^3)``.

    Args:
        since_culmination_s: Times from the highest point, s.
        altitude_m: Altitude of the circular orbit.
        max_elevation_deg: Elevation at the highest point, to 90.
    """
    t = np.asarray(since_culmination_s, np.float64)
    r = EARTH_RADIUS_M + altitude_m
    top = math.radians(max_elevation_deg)
    psi_0 = math.acos(EARTH_RADIUS_M / r * math.cos(top)) - top
    cos_psi = math.cos(psi_0) * np.cos(math.sqrt(_EARTH_GM / r**3) * t)
    distance = np.sqrt(EARTH_RADIUS_M**2 + r**2 - 2 * EARTH_RADIUS_M * r * cos_psi)
    sine = np.clip((r * cos_psi - EARTH_RADIUS_M) / distance, -1, 1)
    return np.degrees(np.arcsin(sine)), distance


def geometric_transmission(
    distance_m: float, transmitter_m: float, receiver_m: float, divergence_rad: float
) -> float:
    """Return the share of a spread beam that the receiver takes: ``min(1, (D_rx/spot)^2)``.

    The spot is ``D_tx + divergence distance`` wide, full angle. Micius at 1200 km, 10 urad and
    1.2 m: -20 dB.
    """
    return min(1.0, (receiver_m / (transmitter_m + divergence_rad * distance_m)) ** 2)


def slant_transmission(zenith: float, elevation_deg: float) -> float:
    """Return the transmission of the air at an elevation: ``eta_zenith^(1/sin e)``, above 10 deg.

    Flat layers: the Earth's curvature makes it too dark lower down.
    """
    return float(zenith ** (1 / math.sin(math.radians(elevation_deg))))


# -- pointing ----------------------------------------------------------------------------------


def pointing_transmission(offset_x: float, offset_y: float, beam_radius: float) -> float:
    """Return ``exp(-2 r^2/w^2)``, what is left of a Gaussian beam that misses by r.

    The receiver is small beside the beam; all three in the same unit (m, or rad).
    """
    return math.exp(-2 * (offset_x**2 + offset_y**2) / beam_radius**2)


def pointing_mean(jitter: float, beam_radius: float) -> float:
    """Return the mean of :func:`pointing_transmission`, ``1/(1 + 4 sigma^2/w^2)``.

    ``jitter`` is sigma, the rms per axis of a normal offset in two axes.
    """
    return 1 / (1 + 4 * (jitter / beam_radius) ** 2)


# -- turbulence --------------------------------------------------------------------------------


@functools.cache
def hufnagel_valley_moment(
    power: float, wind_m_per_s: float = 21.0, ground: float = 1.7e-14
) -> float:
    """Return ``int Cn2(h) h^p dh`` over all heights for the Hufnagel-Valley profile.

    ``Cn2 = 0.00594 (v/27)^2 (1e-5 h)^10 e^{-h/1000} + 2.7e-16 e^{-h/1500} + A e^{-h/100}``, which
    with v = 21 m/s and A = 1.7e-14 m^(-2/3) is HV 5/7: at zenith and 500 nm, Fried's parameter is
    5 cm and the isoplanatic angle 7 urad (Andrews and Phillips, Laser Beam Propagation through
    Random Media, 2nd ed. (2005), ch. 12). Each term is a gamma function.
    """
    high = 0.00594 * (wind_m_per_s / 27) ** 2 * 1e-50 * 1e3 ** (11 + power) * math.gamma(11 + power)
    low = math.gamma(1 + power)
    return float(high + low * (2.7e-16 * 1500 ** (1 + power) + ground * 100 ** (1 + power)))


def rytov_variance(cn2: float, wavelength_m: float, length_m: float) -> float:
    """Return ``1.23 Cn2 k^(7/6) L^(11/6)``, the Rytov variance of a horizontal link.

    ``cn2`` in m^(-2/3); plane wave (Andrews and Phillips, ch. 8).
    """
    k = 2 * math.pi / wavelength_m
    return float(1.23 * cn2 * k ** (7 / 6) * length_m ** (11 / 6))


def rytov_variance_slant(wavelength_m: float, elevation_deg: float) -> float:
    """Return ``2.25 k^(7/6) sec^(11/6)(z) int Cn2 h^(5/6) dh``: light from space through HV 5/7.

    Source as :func:`hufnagel_valley_moment`.
    """
    k = 2 * math.pi / wavelength_m
    sec = 1 / math.sin(math.radians(elevation_deg))
    return float(2.25 * k ** (7 / 6) * sec ** (11 / 6) * hufnagel_valley_moment(5 / 6))


def scintillation_index(rytov: float) -> float:
    """Return the relative variance of a point's intensity for a Rytov variance, weak or strong.

    ``exp[0.49 s/(1 + 1.11 s^(6/5))^(7/6) + 0.51 s/(1 + 0.69 s^(6/5))^(5/6)] - 1``, plane wave
    (Andrews and Phillips, ch. 9): s where it is small, and saturated where Rytov's theory is not
    valid any more.
    """
    s = rytov
    large = 0.49 * s / (1 + 1.11 * s**1.2) ** (7 / 6)
    small = 0.51 * s / (1 + 0.69 * s**1.2) ** (5 / 6)
    return math.expm1(large + small)


def aperture_averaging(diameter_m: float, wavelength_m: float, length_m: float) -> float:
    """Return by what factor a telescope averages scintillation out of a horizontal link.

    ``[1 + 1.062 k D^2/(4 L)]^(-7/6)``, plane wave (Andrews and Phillips, ch. 10).
    """
    k = 2 * math.pi / wavelength_m
    return float((1 + 1.062 * k * diameter_m**2 / (4 * length_m)) ** (-7 / 6))


def aperture_averaging_slant(diameter_m: float, wavelength_m: float, elevation_deg: float) -> float:
    """Return by what factor a telescope averages scintillation out of light from space.

    ``1/[1 + 1.1 (D^2/(lambda h_0 sec z))^(7/6)]`` with ``h_0^(7/6) = int Cn2 h^2 / int Cn2
    h^(5/6)`` (Yura and McKinley, Appl. Opt. 22, 3353 (1983)), through HV 5/7.
    """
    sec = 1 / math.sin(math.radians(elevation_deg))
    h_0 = (hufnagel_valley_moment(2.0) / hufnagel_valley_moment(5 / 6)) ** (6 / 7)
    return float(1 / (1 + 1.1 * (diameter_m**2 / (wavelength_m * h_0 * sec)) ** (7 / 6)))


def block_average(time_s: float, block_s: float) -> tuple[float, float]:
    """Return what is left of a fluctuation that is averaged over blocks.

    Of one with the autocorrelation ``exp(-t/time)``: the share of its variance that block means
    have, ``2 x [1 - x (1 - e^{-1/x})]`` with ``x = time/block``, and the correlation of a block
    with the next, ``x^2 (1 - e^{-1/x})^2`` over that share.
    """
    if time_s == 0:
        return 0.0, 0.0
    x = time_s / block_s
    gone = -math.expm1(-1 / x)
    # 1 - x (1 - e^{-1/x}) loses its digits where x is large: its series is 1/(2x) - 1/(6x^2).
    share = 2 * x * (1 - x * gone) if x < 1e3 else 1 - 1 / (3 * x)
    return share, min(1.0, (x * gone) ** 2 / share)


# -- the sky -----------------------------------------------------------------------------------


def sky_radiance(wavelength_m: float, full_moon: bool = False) -> float:
    """Return the brightness of a clear night sky over a dark site, W/(m^2 sr um).

    Between six bands (see the table above), by power laws. The moon makes a sky of blue light
    brighter, 33 times at 550 nm and 5 times at 800 nm; at 1550 nm airglow outshines it.
    """
    bands, zero, new, full = _SKY.T
    radiance = zero * 10 ** (-0.4 * (full if full_moon else new)) / _ARCSECOND**2
    nm = math.log(wavelength_m * 1e9)
    return math.exp(float(np.interp(nm, np.log(bands), np.log(radiance))))


def sky_light_hz(
    radiance: float,
    field_of_view_rad: float,
    receiver_m: float,
    filter_m: float,
    wavelength_m: float,
) -> float:
    """Return the photons per second that a telescope takes from the sky.

    ``H Omega A dlambda lambda/(h c)``.

    Args:
        radiance: H, W/(m^2 sr um), such as :func:`sky_radiance`.
        field_of_view_rad: Full angle of the round field of view.
        receiver_m: Diameter of the telescope.
        filter_m: Width of the filter.
        wavelength_m: Its wavelength.
    """
    solid_angle = math.pi / 4 * field_of_view_rad**2
    area = math.pi / 4 * receiver_m**2
    watts = radiance * 1e6 * solid_angle * area * filter_m
    return watts * wavelength_m / (H_J_S * C_M_PER_S)
