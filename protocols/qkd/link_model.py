"""Closed forms of an entanglement-based link, for planning and as a check of what is measured.

Continuously pumped source: Neumann et al., PRA 104, 022406 (2021), "N" below, equation numbers
of that paper. Pulsed source: Ma, Fung and Lo, PRA 76, 012307 (2007), "MFL" below.

Every quantity is a number or an array; arrays follow numpy's broadcasting rules, so that a sweep
is one call: ``CwLink(pair_rate_hz=np.geomspace(1e6, 1e9, 50), ...).rates()``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "Arm",
    "CwLink",
    "CwRates",
    "PulsedArm",
    "PulsedLink",
    "PulsedRates",
    "asymptotic_key_rate",
    "timing_fwhm",
]

Floats = npt.NDArray[np.float64]
Quantity = float | Floats
"""A number, or float64 of any shape."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One party of a continuously pumped link, from the crystal to the click.

    Attributes:
        efficiency: Share of its photons that click on ready detectors: coupling, channel,
            analyzer and detector.
        dark_rate_hz: Dark counts and background of all its detectors together.
        detectors: Detectors that share its light evenly.
        dead_time_s: Time for which a detector is blind after a click.
    """

    efficiency: Quantity
    dark_rate_hz: Quantity = 0.0
    detectors: int = 4
    dead_time_s: Quantity = 0.0

    def live_share(self, pair_rate_hz: Quantity) -> Floats:
        """Share of its photons that meet a ready detector, N appendix: 1/(1 + S t_dead/n)."""
        clicks = np.asarray(pair_rate_hz) * self.efficiency + self.dark_rate_hz
        return np.asarray(1.0 / (1.0 + clicks * self.dead_time_s / self.detectors))


@dataclass(frozen=True, slots=True)
class CwRates:
    """What a continuously pumped link gives; all float64 of one shape.

    Attributes:
        singles_a_hz, singles_b_hz: Clicks of each party.
        true_hz: Coincidences of pairs within the window.
        accidental_hz: Accidental coincidences in the window.
        qber: Error rate of the sifted bits.
    """

    singles_a_hz: Floats
    singles_b_hz: Floats
    true_hz: Floats
    accidental_hz: Floats
    qber: Floats

    @property
    def coincidences_hz(self) -> Floats:
        """All coincidences in the window, of equal and of different bases (N eq. 14)."""
        return np.asarray(self.true_hz + self.accidental_hz)

    @property
    def car(self) -> Floats:
        """Coincidence-to-accidental ratio, true over accidental; inf without accidentals."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.divide(self.true_hz, self.accidental_hz))

    @property
    def visibility(self) -> Floats:
        """``1 - 2 QBER``."""
        return np.asarray(1.0 - 2.0 * self.qber)

    def key_rate_bps(self, *, f_ec: Quantity = 1.1, sifting: Quantity = 0.5) -> Floats:
        """Secret bits per second for infinitely long keys, N eqs (17) to (19)."""
        return asymptotic_key_rate(self.coincidences_hz, self.qber, f_ec=f_ec, sifting=sifting)


@dataclass(frozen=True, slots=True)
class CwLink:
    """A link with a continuously pumped pair source.

    Assumes Gaussian timing errors, parties whose detectors are alike, and an error of the state
    and its analysis that is equal in both bases.

    Attributes:
        pair_rate_hz: Pairs generated per second, before any loss (the brightness B).
        alice, bob: The parties.
        window_s: Coincidence window, full width.
        fwhm_s: Width of the coincidence peak; see :func:`timing_fwhm`.
        error: Error rate without accidentals: state, alignment, analyzers.
    """

    pair_rate_hz: Quantity
    alice: Arm
    bob: Arm
    window_s: Quantity
    fwhm_s: Quantity
    error: Quantity = 0.0

    def rates(self) -> CwRates:
        """Return what the link gives; N eqs (2), (3), (6) to (8), (10), (13) to (16)."""
        from scipy.special import erf

        live = [arm.live_share(self.pair_rate_hz) for arm in (self.alice, self.bob)]
        # dark counts are not thinned by the dead time in N: they are few
        singles = [
            self.pair_rate_hz * arm.efficiency * share + arm.dark_rate_hz
            for arm, share in zip((self.alice, self.bob), live, strict=True)
        ]
        t = np.asarray(self.window_s, np.float64)
        inside = erf(np.sqrt(np.log(2.0)) * t / self.fwhm_s)
        pairs = self.pair_rate_hz * self.alice.efficiency * self.bob.efficiency
        true = pairs * live[0] * live[1] * inside
        accidental = np.expm1(-singles[0] * t) * np.expm1(-singles[1] * t) / t
        with np.errstate(invalid="ignore"):
            qber = (true * self.error + accidental / 2) / (true + accidental)
        shaped = np.broadcast_arrays(singles[0], singles[1], true, accidental, qber)
        return CwRates(*(np.asarray(each, np.float64) for each in shaped))


def timing_fwhm(*parts_s: Quantity) -> Floats:
    """FWHM of Gaussian timing errors that add up: the root of the sum of squares, s.

    The parts are the FWHM of each party's jitter (detector and tagger), of the dispersion left
    over, and of the photons' coherence.
    """
    return np.asarray(np.sqrt(sum(np.square(part) for part in parts_s)))


def asymptotic_key_rate(
    coincidences_hz: Quantity,
    qber: Quantity,
    *,
    f_ec: Quantity = 1.1,
    sifting: Quantity = 0.5,
    phase_error: Quantity | None = None,
) -> Floats:
    """Secret bits per second for infinitely long keys, ``q C (1 - f h(E_bit) - h(E_phase))``.

    Shor-Preskill and Koashi-Preskill; MFL eq. (5), N eq. (17).

    Args:
        coincidences_hz: Coincidences per second in the window.
        qber: Error rate of the bits.
        f_ec: Efficiency of the reconciliation, 1 at the Shannon limit.
        sifting: Share of coincidences in equal bases.
        phase_error: Phase error rate; as ``qber`` unless given.

    Returns:
        0 where there is no key.
    """
    phase = qber if phase_error is None else phase_error
    fraction = 1.0 - f_ec * _entropy(qber) - _entropy(phase)
    return np.asarray(sifting * np.asarray(coincidences_hz) * np.maximum(fraction, 0.0))


def _entropy(x: Quantity) -> Floats:
    """Binary entropy in bits, element by element."""
    from scipy.special import entr

    return np.asarray((entr(x) + entr(1.0 - np.asarray(x))) / np.log(2.0))


@dataclass(frozen=True, slots=True)
class PulsedArm:
    """One party of a pulsed link.

    Attributes:
        efficiency: Share of its photons that click, from the crystal on.
        background: Probability of a click without light, per pulse and party (Y0).
    """

    efficiency: Quantity
    background: Quantity = 0.0


@dataclass(frozen=True, slots=True)
class PulsedRates:
    """What a pulsed link gives; all float64 of one shape.

    Attributes:
        gain: Probability per pulse that both parties see a click (Q).
        qber: Error rate of the sifted bits, double clicks getting a random bit (E).
    """

    gain: Floats
    qber: Floats

    def key_per_pulse(self, *, f_ec: Quantity = 1.1, sifting: Quantity = 0.5) -> Floats:
        """Secret bits per pulse for infinitely long keys, MFL eq. (5)."""
        return asymptotic_key_rate(self.gain, self.qber, f_ec=f_ec, sifting=sifting)


@dataclass(frozen=True, slots=True)
class PulsedLink:
    """A link with a pulsed source of single-mode (thermal per polarization) pairs, after MFL.

    MFL let both parties measure in the same of two bases with one threshold detector per
    outcome: the efficiency of an arm is that of one basis.

    Attributes:
        mean_pairs: Mean number of pairs per pulse, both polarization modes together (2 lambda).
        alice, bob: The parties.
        error: Error rate of a single pair (e_d).
    """

    mean_pairs: Quantity
    alice: PulsedArm
    bob: PulsedArm
    error: Quantity = 0.0

    def rates(self) -> PulsedRates:
        """Return the gain and the error rate per pulse of MFL, section III."""
        lam = np.asarray(self.mean_pairs, np.float64) / 2
        a, b = np.asarray(self.alice.efficiency), np.asarray(self.bob.efficiency)
        dark_a, dark_b = 1 - np.asarray(self.alice.background), 1 - np.asarray(self.bob.background)
        none_a, none_b = 1 + a * lam, 1 + b * lam
        none = 1 + a * lam + b * lam - a * b * lam
        gain = 1 - dark_a / none_a**2 - dark_b / none_b**2 + dark_a * dark_b / none**2
        right = 2 * a * b * lam * (1 + lam) / (none_a * none_b * none)
        with np.errstate(invalid="ignore"):
            qber = 0.5 - (0.5 - self.error) * right / gain
        shaped = np.broadcast_arrays(gain, qber)
        return PulsedRates(*(np.asarray(each, np.float64) for each in shaped))
