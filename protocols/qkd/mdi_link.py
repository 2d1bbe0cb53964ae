"""What an MDI relay of linear optics announces, in closed form, for pulses that overlap in part.

At fixed phases coherent pulses stay coherent through a beam splitter, and detectors click
independently of each other. A set S of detectors stays silent with the probability, averaged over
the random phase between both pulses,

    (1 - Y)^|S| exp(-sum base_j) I0(|sum cross_j|)        (sums over S),

with base_j the mean photons without interference, cross_j their interference and I0 the modified
Bessel function: Ma, Fung and Razavi, PRA 86, 052305 (2012), appendix A; mode overlap M makes
cross_j smaller by sqrt(M). Clicks of two detectors and no others follow by inclusion and exclusion.
:class:`~.mdi_bound.RelayLink` is the special case M = 1, with an error of the optics.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Fit", "RelayGains", "fit_relay", "relay_gains"]

Real = npt.NDArray[np.float64]

#: Clicks of each Bell state, psi- and psi+; detectors cH, cV, dH, dV.
_CLICKS = (((0, 3), (1, 2)), ((0, 1), (2, 3)))
_HALF = math.sqrt(0.5)
#: Amplitudes of H and V for bits 0 and 1 in Z and X.
_STATES = np.array([[[1.0, 0.0], [0.0, 1.0]], [[_HALF, _HALF], [_HALF, -_HALF]]])


@dataclass(frozen=True)
class RelayGains:
    """Per pulse pair, by intensities [Alice][Bob] and both Bell states together.

    Attributes:
        gain: Probability of an announcement where both sent this basis; Z, then X.
        wrong: Probability of one that is an error.
    """

    gain: tuple[Real, Real]
    wrong: tuple[Real, Real]


def relay_gains(
    alice: Sequence[float],
    bob: Sequence[float],
    efficiency_a: float,
    efficiency_b: float,
    *,
    overlap: float = 1.0,
    dark: float = 0.0,
) -> RelayGains:
    """Gains and error gains of all pairs of intensities.

    Args:
        alice: Her mean photon numbers.
        bob: His.
        efficiency_a: Share of her photons that click, way and detector.
        efficiency_b: Of his.
        overlap: M = |<a|b>|^2 of their modes; the HOM dip of equal pulses is M/2 deep.
        dark: Probability of a dark count of a detector in the gate.
    """
    amplitude_a = np.sqrt(efficiency_a * np.asarray(alice, np.float64))[:, None]
    amplitude_b = np.sqrt(efficiency_b * np.asarray(bob, np.float64))[None, :]
    gains, wrongs = [], []
    for basis in (0, 1):
        gain = np.zeros((len(alice), len(bob)))
        wrong = np.zeros_like(gain)
        for bit_a, bit_b in itertools.product((0, 1), repeat=2):
            a = amplitude_a[..., None] * _STATES[basis, bit_a]
            b = amplitude_b[..., None] * _STATES[basis, bit_b]
            base = np.concatenate([(a**2 + b**2) / 2.0] * 2, -1)
            cross = math.sqrt(overlap) * np.concatenate([a * b, -a * b], -1)
            for state, patterns in enumerate(_CLICKS):
                seen = sum(_exactly(two, base, cross, dark) for two in patterns) / 4.0
                gain += seen
                # both anticorrelate in Z, in X only psi- does
                if (bit_a == bit_b) == (state == 0 or basis == 0):
                    wrong += seen
        gains.append(gain)
        wrongs.append(wrong)
    return RelayGains((gains[0], gains[1]), (wrongs[0], wrongs[1]))


def _exactly(two: tuple[int, int], base: Real, cross: Real, dark: float) -> Real:
    """Probability that these two detectors click and the others do not."""
    others = tuple(j for j in range(4) if j not in two)

    def silent(*also: int) -> Real:
        which = [*others, *also]
        factor = (1.0 - dark) ** len(which)
        found: Real = (
            factor * np.exp(-base[..., which].sum(-1)) * np.i0(np.abs(cross[..., which].sum(-1)))
        )
        return found

    return silent() - silent(two[0]) - silent(two[1]) + silent(*two)


@dataclass(frozen=True)
class Fit:
    """What a relay's counts say about the ways to it.

    Attributes:
        efficiency_a: Share of Alice's photons that click, and its standard deviation.
        efficiency_b: Of Bob's.
        overlap: M; half of it is the visibility of the HOM dip of equal coherent pulses.
        chi2: Of the fit, per degree of freedom.
    """

    efficiency_a: tuple[float, float]
    efficiency_b: tuple[float, float]
    overlap: tuple[float, float]
    chi2: float


def fit_relay(
    alice: Sequence[float],
    bob: Sequence[float],
    sent: tuple[Real, Real],
    announced: tuple[Real, Real],
    wrong_x: Real,
) -> Fit | None:
    """Fit both efficiencies and the overlap to counts: gains in Z and X, errors in X.

    Args:
        alice: Her mean photon numbers.
        bob: His.
        sent: Pulse pairs in Z and X, by intensities.
        announced: Announcements of these.
        wrong_x: Errors among those in X.

    Returns:
        The fit; None where there is too little to fit.
    """
    from scipy.optimize import least_squares

    right_x = announced[1] - wrong_x
    found = np.stack([announced[0], right_x, wrong_x])
    if found.sum() < 100:
        return None

    def pull(parameters: Real) -> Real:
        eta_a, eta_b, overlap = parameters
        gains = relay_gains(alice, bob, eta_a, eta_b, overlap=overlap)
        expected = np.stack(
            [
                sent[0] * gains.gain[0],
                sent[1] * (gains.gain[1] - gains.wrong[1]),
                sent[1] * gains.wrong[1],
            ]
        )
        # square roots of Poissonian counts have one variance
        result: Real = 2.0 * (np.sqrt(found + 0.375) - np.sqrt(expected + 0.375)).ravel()
        return result

    best = least_squares(pull, [0.3, 0.3, 0.8], bounds=([1e-9, 1e-9, 0.0], [1.0, 1.0, 1.0]))
    freedom = best.fun.size - 3
    slopes = np.asarray(best.jac, np.float64)
    sigma = np.sqrt(np.diag(np.linalg.pinv(slopes.T @ slopes)))
    values = [(float(v), float(s)) for v, s in zip(best.x, sigma, strict=True)]
    return Fit(values[0], values[1], values[2], float(best.fun @ best.fun) / freedom)
