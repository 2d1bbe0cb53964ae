"""Weak coherent pulses of random phase: modulators, detectors, and two of them at a Bell station.

A coherent pulse stays coherent in linear optics: at fixed phases the photon numbers at all outputs
are independent and Poissonian, with the field's intensities for means. A random phase matters only
where two pulses meet. At a station output j their relative phase phi makes the mean

    n_j(phi) = base_j + Re(cross_j e^{i phi}),

so that a set S of detectors stays silent with the probability, averaged over phi,

    prod(1 - d_j) exp(-sum base_j) I0(|sum cross_j|)                         (sums over S),

I0 the modified Bessel function. Every pattern of clicks follows by inclusion and exclusion. For
equal detectors these are the gains of Ma, Fung and Razavi, PRA 86, 052305 (2012), appendix A, and
Xu, Curty, Qi and Lo, NJP 15, 113007 (2013).

Polarization as in :mod:`.polarization`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = [
    "click_patterns",
    "mach_zehnder",
    "retarded_state",
    "sample_photons",
    "station_means",
]

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def mach_zehnder(voltage: npt.ArrayLike, half_wave_v: float, extinction_db: float) -> Real:
    """Return the transmission of an intensity modulator, 1 at its half-wave voltage.

    ``1/r + (1 - 1/r) sin^2(pi V / 2 V_pi)``, r the extinction ratio: a Mach-Zehnder modulator
    biased for darkness at 0 V (Saleh and Teich, Fundamentals of Photonics, sec. 21.1B).

    Args:
        voltage: V, any shape.
        half_wave_v: V_pi, V.
        extinction_db: r, dB.
    """
    dark = 10 ** (-extinction_db / 10)
    swing = np.sin(np.pi / 2 * np.asarray(voltage, np.float64) / half_wave_v) ** 2
    found: Real = dark + (1 - dark) * swing
    return found


def retarded_state(voltage: npt.ArrayLike, half_wave_v: float) -> Complex:
    """Return the Jones vectors (..., 2) that a polarization modulator makes of H.

    It turns linear polarization: ``(cos(x/2), sin(x/2))``, x = pi V / V_pi; a phase modulator
    between quarter-wave plates. So 0 makes H, V_pi/2 D, V_pi V and -V_pi/2 A.
    """
    half = np.pi / 2 * np.asarray(voltage, np.float64) / half_wave_v
    return np.stack([np.cos(half), np.sin(half)], -1).astype(np.complex128)


def station_means(
    left: npt.ArrayLike,
    right: npt.ArrayLike,
    *,
    reflectivity: float = 0.5,
    extinction_db: float = math.inf,
    overlap: npt.ArrayLike = 1.0,
) -> tuple[Real, Real, Complex]:
    """Return what two pulses give at a Bell station's outputs cH, cV, dH, dV.

    ``c = sqrt(T) l + sqrt(R) r`` and ``d = sqrt(R) l - sqrt(T) r``, T = 1 - R, then a polarizing
    beam splitter in each port. Of mode overlap M, sqrt(M) of the amplitude interferes and the
    rest adds as intensity.

    Args:
        left: Jones vectors at the left input, of length sqrt(mean photon number), (..., 2).
        right: At the right input.
        reflectivity: R.
        extinction_db: Of the polarizing beam splitters: the wrong output gets
            ``1/(1 + 10^(dB/10))``.
        overlap: M = |<l|r>|^2, shape (...).

    Returns:
        Mean photons of the left and of the right pulse alone, and their interference, each
        (..., 4): the mean at phase phi is ``left + right + Re(cross e^{i phi})``.
    """
    leak = 1.0 / (1.0 + 10 ** (extinction_db / 10))
    wrong = np.array([[1 - leak, leak], [leak, 1 - leak]])
    l, r = np.asarray(left, np.complex128), np.asarray(right, np.complex128)  # noqa: E741
    through, reflected = 1 - reflectivity, reflectivity
    both = 2 * math.sqrt(through * reflected) * (l.conj() * r) @ wrong
    from_left, from_right = np.abs(l) ** 2 @ wrong, np.abs(r) ** 2 @ wrong
    cross = np.sqrt(np.asarray(overlap, np.float64))[..., None] * both
    return (
        np.concatenate([through * from_left, reflected * from_left], -1),
        np.concatenate([reflected * from_right, through * from_right], -1),
        np.concatenate([cross, -cross], -1),
    )


def click_patterns(base: npt.ArrayLike, cross: npt.ArrayLike, dark: npt.ArrayLike = 0.0) -> Real:
    """Return the probability of every pattern of clicks, averaged over the phase.

    Args:
        base: Mean photons that each detector counts, without interference, (..., n).
        cross: Their interference: the means are ``base + Re(cross e^{i phi})``, (..., n).
        dark: Probability of a dark count in the window, of each detector or of all.

    Returns:
        Probabilities by pattern, (..., 2^n); bit j of a pattern is a click of detector j.
    """
    base, cross = np.asarray(base, np.float64), np.asarray(cross, np.complex128)
    n = base.shape[-1]
    darks = np.broadcast_to(np.asarray(dark, np.float64), (n,))
    silent = np.empty((*base.shape[:-1], 1 << n))
    for pattern in range(1 << n):
        chosen = (pattern >> np.arange(n) & 1).astype(bool)
        interference = np.abs(cross[..., chosen].sum(-1))
        mean = base[..., chosen].sum(-1)
        silent[..., pattern] = np.prod(1 - darks[chosen]) * np.exp(-mean) * np.i0(interference)
    # From "these are silent" to "these are silent and the others click", detector by detector.
    for j in range(n):
        halves = silent.reshape(*base.shape[:-1], 1 << (n - 1 - j), 2, 1 << j)
        halves[..., 0, :] -= halves[..., 1, :]
    found: Real = np.maximum(silent[..., ::-1], 0.0)  # what rounding left of nothing
    return found


def sample_photons(
    rng: np.random.Generator,
    left: tuple[Complex, Ints],
    right: tuple[Complex, Ints],
    seen: Real,
    *,
    reflectivity: float = 0.5,
    extinction_db: float = math.inf,
    overlap: npt.ArrayLike = 1.0,
) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """Draw the photons that a Bell station's detectors count, over many meetings of two pulses.

    At any phase the station loses nothing, so photons are drawn from the sum of both pulses and
    sent to an output, or to none, by the phase of their meeting: exact, and it costs by photons
    and not by pulses.

    Args:
        rng: Draws.
        left: Kinds of pulses at the left input, Jones vectors of length sqrt(mean photon number),
            (k, 2), and the kind of each meeting, (m,).
        right: The same at the right input.
        seen: Efficiency of each detector, cH, cV, dH, dV.
        reflectivity: As in :func:`station_means`.
        extinction_db: As there.
        overlap: Of all meetings, or of each, (m,).

    Returns:
        Meeting, detector, and whether it came with the left pulse, of each photon.
    """
    most = float(seen.max(initial=0.0))
    light = [(np.abs(kinds) ** 2).sum(-1) * most for kinds, _ in (left, right)]
    upto = np.cumsum(light[0][left[1]] + light[1][right[1]])
    count = int(rng.poisson(upto[-1])) if upto.size else 0
    meeting = np.searchsorted(upto, np.sort(rng.random(count)) * upto[-1:], "right")
    meeting = np.minimum(meeting, max(upto.size - 1, 0))
    first = np.diff(meeting, prepend=-1) != 0
    phase = rng.random(int(first.sum()))[np.cumsum(first) - 1]  # the same for all of a meeting
    one, two, cross = station_means(
        left[0][left[1][meeting]],
        right[0][right[1][meeting]],
        reflectivity=reflectivity,
        extinction_db=extinction_db,
        overlap=np.broadcast_to(np.asarray(overlap, np.float64), upto.shape)[meeting],
    )
    means = one + two + (cross * np.exp(2j * np.pi * phase)[:, None]).real
    draw = rng.random(count) * means.sum(-1) * most
    detector = (draw[:, None] >= np.cumsum(means * seen, -1)).sum(-1)
    kept = np.flatnonzero(detector < means.shape[-1])
    detector = detector[kept]
    from_left = one[kept, detector]
    came = rng.random(kept.size) * (from_left + two[kept, detector]) < from_left
    return meeting[kept], detector, came
