"""What four-folds and heralds say: visibilities, CHSH, fidelity, empty heralds.

Errors are those of counting, propagated to first order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..estimates import Estimate
from .settings import Setting
from .swaps import BELL_LABELS, SwapCounts

__all__ = [
    "BELL_TENSORS",
    "EmptyShares",
    "Prediction",
    "Tally",
    "chsh",
    "empty_shares",
    "fidelity",
    "predict",
    "visibilities",
]

Counts = npt.NDArray[np.int64]

#: Correlations ZZ, XX, YY of each Bell state.
BELL_TENSORS: dict[str, tuple[int, int, int]] = {
    "phi+": (1, 1, -1),
    "phi-": (1, -1, 1),
    "psi+": (-1, 1, 1),
    "psi-": (-1, -1, -1),
}

_AXES = ("Z", "X", "Y")


@dataclass(frozen=True)
class Tally:
    """Events in which two outcomes agreed with a Bell state, among all."""

    agreed: int = 0
    total: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.agreed + other.agreed, self.total + other.total)

    @property
    def estimate(self) -> Estimate:
        """(agreed - not)/total; the error is Agresti and Coull's, so never 0 for few events."""
        if not self.total:
            return Estimate(math.nan, math.nan)
        p = (self.agreed + 2) / (self.total + 4)
        value = (2 * self.agreed - self.total) / self.total
        return Estimate(value, 2 * math.sqrt(p * (1 - p) / (self.total + 4)), self.total)


def visibilities(
    measured: Iterable[tuple[Setting, Counts]],
) -> dict[str, dict[str, Estimate]]:
    """Return the visibility along each axis, by Bell label and for ``"all"`` labels together.

    A visibility is the correlation times the sign that the heralded Bell state has along this
    axis: 1 for that state, -1 for its opposite. Only bases in which both ends look along the same
    axis count.

    Args:
        measured: Settings with their four-folds, int64 (2, 4, 4): label, alice, bob.
    """
    tallies = {axis: dict.fromkeys((*BELL_LABELS, "all"), Tally()) for axis in _AXES}
    for setting, fourfolds in measured:
        alice, bob = setting.directions
        for i, a in enumerate(alice):
            for j, b in enumerate(bob):
                axis = int(np.argmax(np.abs(a)))
                if abs(a[axis] * b[axis]) < 1 - 1e-9:
                    continue
                for label, counts in zip(BELL_LABELS, fourfolds, strict=True):
                    sign = BELL_TENSORS[label][axis] * a[axis] * b[axis]
                    found = _tally(counts, i, j, sign)
                    tallies[_AXES[axis]][label] += found
                    tallies[_AXES[axis]]["all"] += found
    return {
        axis: {label: tally.estimate for label, tally in by_label.items()}
        for axis, by_label in tallies.items()
    }


def chsh(setting: Setting, fourfolds: Counts) -> dict[str, Estimate]:
    """Return CHSH's S by Bell label, and for ``"all"`` the mean weighted with their numbers.

    The sign of each correlation is the one that the heralded state predicts, never fitted.

    Args:
        setting: One that turns one end's bases half way between the other's.
        fourfolds: int64 (2, 4, 4): label, alice, bob.

    Raises:
        ValueError: where the directions make no CHSH test.
    """
    alice, bob = setting.directions
    found: dict[str, Estimate] = {}
    for label, counts in zip(BELL_LABELS, fourfolds, strict=True):
        expected = np.einsum("ik,k,jk->ij", alice, np.array(BELL_TENSORS[label], float), bob)
        if not np.allclose(np.abs(expected), math.sqrt(0.5)) or np.prod(expected) > 0:
            raise ValueError("these directions make no CHSH test: use the setting CHSH")
        parts = [_tally(counts, i, j, expected[i, j]).estimate for i in (0, 1) for j in (0, 1)]
        found[label] = Estimate(
            sum(part.value for part in parts),
            math.sqrt(sum(part.sigma**2 for part in parts)),
            sum(part.n for part in parts),
        )
    total = sum(each.n for each in found.values())
    seen = [each for each in found.values() if not math.isnan(each.value)]
    weights = [each.n / sum(other.n for other in seen) for each in seen]
    mean = sum(w * each.value for w, each in zip(weights, seen, strict=True))
    sigma = math.sqrt(sum((w * each.sigma) ** 2 for w, each in zip(weights, seen, strict=True)))
    found["all"] = Estimate(mean, sigma, total) if seen else Estimate(math.nan, math.nan)
    return found


def fidelity(by_axis: Mapping[str, Estimate]) -> Estimate:
    """Return the fidelity with the heralded state, (1 + V_Z + V_X + V_Y)/4, of any state.

    Args:
        by_axis: Visibilities Z, X and Y with the frame applied, as of :func:`visibilities`.
    """
    parts = [by_axis[axis] for axis in _AXES]
    return Estimate(
        (1 + sum(part.value for part in parts)) / 4,
        math.sqrt(sum(part.sigma**2 for part in parts)) / 4,
        sum(part.n for part in parts),
    )


def _tally(counts: Counts, i: int, j: int, sign: float) -> Tally:
    """Agreement of bases i and j (0: H/V, 1: D/A) with a correlation of this sign."""
    block = counts[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
    total, same = int(block.sum()), int(np.trace(block))
    return Tally(same if sign > 0 else total - same, total)


@dataclass(frozen=True)
class Prediction:
    """Swapped state that follows from what its parts showed."""

    visibility_z: Estimate
    visibility_x: Estimate
    fidelity: Estimate
    chsh: Estimate


def predict(west: Estimate, east: Estimate, overlap: Estimate) -> Prediction:
    """Return the swapped state of two Werner pairs and a station of limited overlap.

    Werner visibilities multiply; a share 1 - M of distinguishable photons leaves Z as it is and
    takes the phase: ``rho = M rho_ideal + (1 - M) rho_dephased``. More than one pair per pulse is
    not in it.

    Args:
        west: Visibility of one source.
        east: Visibility of the other.
        overlap: Mode overlap M at the beam splitter: the visibility of the HOM dip of single pairs.
    """
    z = west * east
    x = z * overlap
    m = overlap.value

    # z (1 + 2 M)/4 and sqrt2 z (1 + M), with their own errors: z and x share z.
    def shared(scale: float, a: float, b: float) -> float:
        return scale * math.hypot((a + b * m) * z.sigma, b * z.value * overlap.sigma)

    return Prediction(
        z,
        x,
        Estimate((1 + z.value * (1 + 2 * m)) / 4, shared(0.25, 1, 2)),
        Estimate(math.sqrt(2) * z.value * (1 + m), shared(math.sqrt(2), 1, 1)),
    )


@dataclass(frozen=True)
class EmptyShares:
    """Heralds that have no photon at an end, among all heralds.

    Attributes:
        any: At alice's end, at bob's, or at both: false heralds.
        alice: At alice's end: both clicks came from bob's source.
        bob: At bob's end: both clicks came from alice's source.
    """

    any: Estimate
    alice: Estimate
    bob: Estimate


def empty_shares(counts: SwapCounts, alice: Estimate, bob: Estimate) -> EmptyShares:
    """Return the share of false heralds, from three-folds, four-folds and the ends' efficiencies.

    A herald with one photon at each end shows both with ``eta_A eta_B``; one with two photons at
    alice's end and none at bob's shows alice's with ``1 - (1 - eta_A)^2``. Heralds of three pairs
    and more are counted with these: the shares hold to leading order in the pairs per pulse.

    Args:
        counts: Of one setting.
        alice: Efficiency of alice's end, from crystal to click.
        bob: Of bob's.
    """
    n = int(counts.heralds.sum())
    n_a, n_b, n_ab = counts.with_clicks
    if not n or not alice.value > 0 or not bob.value > 0:
        none = Estimate(math.nan, math.nan)
        return EmptyShares(none, none, none)
    both = n_ab / n
    scale = 1 / (alice.value * bob.value)
    parts = ((both * (1 - both) / n) * scale**2, *_relative(both * scale, alice, bob))
    any_end = Estimate(1 - both * scale, math.sqrt(sum(parts)), n)

    def at(own: Estimate, clicked: int, other: Estimate) -> Estimate:
        """Two photons at this end, none at the other."""
        seen = clicked / n
        two = own.value * (2 - own.value)
        share = (seen - both / other.value) / two
        # of what both ends show, this end shows all: their counts rise and fall together
        counting = (
            seen * (1 - seen)
            + both * (1 - both) / other.value**2
            - 2 * both * (1 - seen) / other.value
        ) / n
        variance = (
            counting / two**2
            + (both / other.value**2 / two * other.sigma) ** 2
            + (share * (2 - 2 * own.value) / two * own.sigma) ** 2
        )
        return Estimate(share, math.sqrt(max(variance, 0.0)), n)

    return EmptyShares(any_end, at(bob, n_b, alice), at(alice, n_a, bob))


def _relative(value: float, *factors: Estimate) -> list[float]:
    """Variance of a product from each factor's relative error."""
    return [(value * factor.sigma / factor.value) ** 2 for factor in factors]
