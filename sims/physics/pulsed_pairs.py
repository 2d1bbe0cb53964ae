"""Pulsed SPDC sources through linear optics onto threshold detectors, to all orders.

Each pulse holds two-mode squeezed vacua, so that everything a detector sees is Gaussian and no
photon number is ever cut off. With pair amplitudes A, ``|psi> ~ exp(a^+ A a^+ / 2)|0>``, and
G the photon-number operator ``a^+ G a`` of the units that stay silent, S = 1 - G,

    P(silent) = <:exp(-a^+ G a):> = [det(1 - A^+ A) / det(1 - A^+ S A S^T)]^(1/2),

which is ``det(1 + Gamma Gt)^(-1/2)`` of the normally ordered covariance matrix, with half the
matrix. Click patterns follow by inclusion and exclusion (Takeoka, Jin and Sasaki, NJP 17, 043030
(2015); Quesada, Arrazola and Killoran, PRA 98, 062322 (2018)).

Modes of source s, in this order: ``4 s + (signal H, signal V, idler H, idler V)``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...instruments.errors import ConfigError
from .constants import FWHM

__all__ = [
    "ClickStatistics",
    "PairPulse",
    "arm_units",
    "bell_station_units",
    "mode_overlap",
]

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]
Masks = npt.NDArray[np.int64]

_PAULIS: Complex = np.array(
    [[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]]
)
_MAX_UNITS = 60
# Silent sets worked on at once: bounds the memory, not the result.
_BATCH = 4096


@dataclass(frozen=True)
class PairPulse:
    """One pulse of a polarization-entangled pair source.

    Args:
        mean_pairs: Mean number of pairs in the pulse, over all Schmidt modes.
        visibility: Werner visibility V, 0..1: a Pauli error on the idler arm, X, Y and Z with
            probability (1 - V)/4 each, the same for all pairs of a pulse. (Unlike white noise it
            leaves the signal alone, which shows in the singles where ``imbalance`` is not 1.)
        phase_deg: Phase of VV against HH, degrees.
        imbalance: Amplitude of VV against HH for a single pair.
    """

    mean_pairs: float
    visibility: float = 1.0
    phase_deg: float = 0.0
    imbalance: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.mean_pairs < math.inf:
            raise ConfigError(f"source: mean_pairs must be finite and >= 0, not {self.mean_pairs}")
        if not 0.0 <= self.visibility <= 1.0:
            raise ConfigError(f"source: visibility must lie in 0..1, not {self.visibility}")
        if not 0.0 <= self.imbalance < math.inf:
            raise ConfigError(f"source: imbalance must be finite and >= 0, not {self.imbalance}")

    def amplitudes(self, schmidt_number: float) -> Complex:
        """Pair amplitudes of HH and VV in one Schmidt mode: tanh r, in ratio ``imbalance``.

        The smaller root of ``sinh^2 r_H + sinh^2 r_V = mean_pairs / K`` in tanh^2 r_H.
        """
        mean, e2 = self.mean_pairs / schmidt_number, self.imbalance**2
        b = (1 + e2) * (1 + mean)
        tanh2 = 2 * mean / (b + math.sqrt(b * b - 4 * e2 * (mean + 2) * mean))
        phase = np.exp(1j * math.radians(self.phase_deg))
        return math.sqrt(tanh2) * np.array([1.0, self.imbalance * phase], np.complex128)

    def photons(self, arm: int, schmidt_number: float) -> Real:
        """Mean photons of an arm, 0 signal or 1 idler, in H and V, shape (2,)."""
        tanh2 = np.abs(self.amplitudes(schmidt_number)) ** 2
        found: Real = schmidt_number * tanh2 / (1 - tanh2)
        turned = arm * (1 - self.visibility) / 2  # by the errors X and Y
        return (1 - turned) * found + turned * found[::-1]


class ClickStatistics:
    """Which detector units click on a pulse of some pair sources, and how often.

    A unit with matrix G (efficiency, polarizers, losses, beam splitters and mode overlap
    included) stays silent with probability ``<:exp(-a^+ G a):>``. Of K equal Schmidt modes per
    source the k-th meets only the k-th of the other sources: they are independent, so
    probabilities of silence are those of one mode to the power K, and two heralded photons overlap
    by 1/K. K need not be whole.

    Accuracy: a probability is off by about 1e-16 times 2^clicks times the mean number of
    photons to be detected, so rates of 1e-12 per pulse keep four digits and more. Time and memory
    grow as 2^clicks: up to about twelve clicks in one pulse.

    Args:
        pulses: The pulse of each of S sources.
        detection: Matrices G of U units, Hermitian and >= 0, with a sum <= 1; shape (U, 4S, 4S),
            U <= 60.
        schmidt_number: K >= 1.

    Raises:
        ConfigError: for matrices that are no measurement.
    """

    def __init__(
        self, pulses: Sequence[PairPulse], detection: Complex, schmidt_number: float = 1.0
    ) -> None:
        detection = np.asarray(detection, np.complex128)
        size = 4 * len(pulses)
        if detection.shape[1:] != (size, size) or detection.shape[0] > _MAX_UNITS:
            raise ConfigError(
                f"detection must have shape (units <= {_MAX_UNITS}, {size}, {size}) for "
                f"{len(pulses)} sources, not {detection.shape}"
            )
        if not schmidt_number >= 1.0:
            raise ConfigError(f"schmidt_number must be at least 1, not {schmidt_number:g}")
        if not np.allclose(detection, detection.conj().swapaxes(1, 2), atol=1e-9):
            raise ConfigError("detection: the matrices must be Hermitian")
        if detection.size and (
            np.linalg.eigvalsh(detection).min() < -1e-9
            or np.linalg.eigvalsh(detection.sum(axis=0)).max() > 1 + 1e-9
        ):
            raise ConfigError("detection: the matrices must be >= 0 and their sum <= 1")
        self._units = np.flatnonzero(detection.any(axis=(1, 2)))  # the others never click
        self._place = {int(unit): i for i, unit in enumerate(self._units)}
        self._total = detection.shape[0]
        seen = detection[self._units]
        kept = _one_colour(seen, len(pulses))
        self._power = schmidt_number * (0.5 if kept.size == size else 1.0)
        self._classes: list[_PauliClass] = []
        weights: list[float] = []
        for errors in itertools.product(range(4), repeat=len(pulses)):
            weight = math.prod(
                (1 - p.visibility) / 4 + (p.visibility if error == 0 else 0.0)
                for p, error in zip(pulses, errors, strict=True)
            )
            if weight > 0.0:
                pairs = np.zeros((size, size), np.complex128)
                for s, (pulse, error) in enumerate(zip(pulses, errors, strict=True)):
                    signal, idler = slice(4 * s, 4 * s + 2), slice(4 * s + 2, 4 * s + 4)
                    # row: signal, column: idler, which the Pauli error turns
                    pairs[signal, idler] = (
                        pulse.amplitudes(schmidt_number)[:, None] * _PAULIS[error].T
                    )
                    pairs[idler, signal] = pairs[signal, idler].T
                weights.append(weight)
                self._classes.append(_PauliClass(pairs, seen, kept, self._power))
        self._weights = np.array(weights) / sum(weights)

    def probability(self, clicked: Collection[int], silent: Collection[int] = ()) -> float:
        """Probability per pulse that the units ``clicked`` click and ``silent`` do not.

        Others are ignored. The sum runs over 2^len(clicked) terms.
        """
        for unit in (*clicked, *silent):
            if not 0 <= unit < self._total:
                raise ConfigError(f"there is no unit {unit}: they are 0 to {self._total - 1}")
        if set(clicked) & set(silent) or not self._place.keys() >= set(clicked):
            return 0.0
        clicks = np.array([[self._place[u] for u in sorted(set(clicked))]], np.int64)
        quiet = sum(1 << self._place[u] for u in set(silent) & self._place.keys())
        total = math.fsum(
            float(weight) * max(0.0, float(one.joint(clicks, np.array([[quiet]], np.int64))[0, 0]))
            for weight, one in zip(self._weights, self._classes, strict=True)
        )
        return min(1.0, total)

    def sample(
        self, rng: np.random.Generator, pulses: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        """Draw the clicks of some pulses.

        The pulses are shared out among the Pauli errors and then, by the chain rule, over the
        first unit to click, the second, and so on: one multinomial draw for each distinct
        beginning of a pattern, whose probabilities are remembered from call to call.

        Returns:
            The distinct patterns as bit masks (bit u: unit u clicked), rising, the empty pattern
            left out, uint64 of shape (n,); and how many pulses showed each, int64 of shape (n,).
        """
        units = self._units.size
        counts: Masks = rng.multinomial(pulses, self._weights).astype(np.int64)
        which: Masks = np.flatnonzero(counts).astype(np.int64)
        counts = counts[which]
        masks = np.zeros(which.size, np.int64)
        found: list[tuple[Masks, Masks]] = [(masks[:0], counts[:0])]
        while counts.size:
            draws = rng.multinomial(counts, self._next(which, masks)).astype(np.int64)
            found.append((masks, draws[:, units]))
            node, unit = np.nonzero(draws[:, :units])
            which, counts = which[node], draws[node, unit]
            masks = masks[node] | (np.int64(1) << unit.astype(np.int64))
        patterns, where = np.unique(np.concatenate([m for m, _ in found]), return_inverse=True)
        times = np.zeros(patterns.size, np.int64)
        np.add.at(times, where, np.concatenate([n for _, n in found]))
        shown = (patterns != 0) & (times > 0)
        wide = np.zeros(np.count_nonzero(shown), np.uint64)
        for place, name in enumerate(self._units.tolist()):
            wide |= (patterns[shown] >> place & 1).astype(np.uint64) << np.uint64(name)
        return wide, times[shown]  # units keep their order, and so do the masks

    def _next(self, which: Masks, masks: Masks) -> Real:
        """Probabilities of the next unit to click, last column none; shape (nodes, units + 1)."""
        keys = list(zip(which.tolist(), masks.tolist(), strict=True))
        new: dict[int, list[int]] = {}
        for k, mask in keys:
            if mask not in self._classes[k].next_click:
                new.setdefault(k, []).append(mask)
        for k, nodes in new.items():
            self._classes[k].extend(nodes)
        return np.array([self._classes[k].next_click[mask] for k, mask in keys])


class _PauliClass:
    """The pure state of one combination of Pauli errors, and what was computed of it."""

    def __init__(self, pairs: Complex, detection: Complex, kept: Masks, power: float) -> None:
        # With T2 = A^+ A, diagonal: 1 - A^+ S A S^T = (1 - T2)(1 + Y), where Y vanishes with G:
        # Y = (1 - T2)^-1 (T2 G^T + A^+ G A - A^+ G A G^T).
        grid = np.ix_(np.arange(detection.shape[0]), kept, kept)
        self._left = (pairs.conj().T @ detection @ pairs)[grid]
        self._right = detection.swapaxes(1, 2)[grid]
        tanh2 = np.sum(np.abs(pairs) ** 2, axis=0)[kept]
        self._tanh2, self._cosh2 = tanh2[:, None], 1 / (1 - tanh2[:, None])
        self._power = power
        self._silence: dict[int, float] = {0: 0.0}
        #: By the mask of the units that have clicked: probabilities of the next one, then none.
        self.next_click: dict[int, Real] = {}

    def joint(self, clicked: Masks, silent: Masks) -> Real:
        """P(clicked and not silent) of (n, k) places of units and (n, m) masks; shape (n, m)."""
        subsets = np.arange(1 << clicked.shape[1], dtype=np.int64)
        bits = subsets[:, None] >> np.arange(clicked.shape[1], dtype=np.int64) & 1
        chosen = np.sum(bits[None] << clicked[:, None, :], axis=2)  # (n, 2^k)
        signs = 1 - 2 * (bits.sum(axis=1) & 1)
        silence = self.silence(silent[:, :, None] | chosen[:, None, :])
        # sum_T (-1)^|T| P = sum_T (-1)^|T| (P - 1) but for no clicks: small terms cancel better
        result: Real = silence @ signs.astype(np.float64) + (clicked.shape[1] == 0)
        return result

    def extend(self, masks: Sequence[int]) -> None:
        """Compute ``next_click`` of nodes with equal numbers of clicks."""
        units = self._left.shape[0]
        places = np.array([[u for u in range(units) if m >> u & 1] for m in masks], np.int64)
        last = places[:, -1] if places.shape[1] else np.full(len(masks), -1, np.int64)
        after = np.maximum(
            np.arange(units + 1, dtype=np.int64), last[:, None] + 1
        )  # silent up to here
        silent = ((np.int64(1) << after) - 1) & ~np.array(masks, np.int64)[:, None]
        survive = self.joint(places, silent)
        next_click = np.empty_like(survive)
        next_click[:, :units] = -np.diff(survive, axis=1)
        next_click[:, units] = survive[:, units]
        next_click = np.clip(next_click, 0.0, None)
        total = next_click.sum(axis=1, keepdims=True)
        next_click[total[:, 0] <= 0, units] = 1.0  # lost in rounding: nothing more clicks
        next_click /= np.where(total > 0, total, 1.0)
        self.next_click.update(zip(masks, next_click, strict=True))

    def silence(self, masks: Masks) -> Real:
        """P(all units of the mask silent) - 1, same shape."""
        distinct, where = np.unique(masks, return_inverse=True)
        known = self._silence
        new = [mask for mask in distinct.tolist() if mask not in known]
        for low in range(0, len(new), _BATCH):
            batch = new[low : low + _BATCH]
            known.update(zip(batch, self._compute(np.array(batch, np.int64)).tolist(), strict=True))
        values = np.array([known[mask] for mask in distinct.tolist()])
        return values[where].reshape(masks.shape)

    def _compute(self, masks: Masks) -> Real:
        shape = (masks.size, *self._left.shape[1:])
        left, right = np.zeros(shape, np.complex128), np.zeros(shape, np.complex128)
        for unit in range(self._left.shape[0]):
            member = (masks >> unit & 1).astype(np.bool_)
            left[member] += self._left[unit]
            right[member] += self._right[unit]
        y = self._cosh2 * (self._tanh2 * right + left - left @ right)
        # log det(1 + Y) by elimination on Y itself, which keeps the digits that 1 + Y would drop.
        # No pivoting needed: A^+ S A S^T is a contraction, so no leading minor of 1 + Y vanishes.
        log_det = np.zeros(masks.size)
        for k in range(shape[1]):
            p = y[:, k, k]
            log_det += 0.5 * np.log1p(p.real * (2 + p.real) + p.imag**2)
            row = y[:, k, k + 1 :] / (1 + p)[:, None]
            y[:, k + 1 :, k + 1 :] -= y[:, k + 1 :, k, None] * row[:, None, :]
        result: Real = np.expm1(-self._power * log_det)
        return result


def _one_colour(detection: Complex, sources: int) -> Masks:
    """Modes that are enough for the determinant: half of them, else all.

    If the modes fall into two halves such that pairs only link and detectors never mix them
    (signals and idlers, say), the determinant is the square of that of either half.
    """
    mixed: npt.NDArray[np.bool_] = np.asarray(detection.any(axis=0))
    arm = np.arange(4 * sources) // 2 % 2
    for swaps in itertools.product((0, 1), repeat=sources):
        half = arm ^ np.repeat(swaps, 4)
        if not mixed[half[:, None] != half[None, :]].any():
            return np.flatnonzero(half == 1)
    return np.arange(4 * sources)


def arm_units(operators: Complex, jones: Complex, source: int, arm: int, sources: int) -> Complex:
    """Return the units of an analyzer at the end of one arm, shape (n, 4S, 4S).

    Args:
        operators: Measurement operators on (H, V), detector efficiency included, (n, 2, 2).
        jones: Jones matrix from source to analyzer, times the root of the transmission, (2, 2).
        source: Number of the source.
        arm: 0 for its signal, 1 for its idler.
        sources: Number of sources S.
    """
    units = np.zeros((len(operators), 4 * sources, 4 * sources), np.complex128)
    here = _modes(source, arm, sources)
    units[:, here, here] = np.conj(jones).T @ np.asarray(operators) @ jones
    return units


def bell_station_units(
    left: tuple[int, int],
    right: tuple[int, int],
    jones_left: Complex,
    jones_right: Complex,
    sources: int,
    *,
    reflectivity: float,
    extinction_db: float,
    overlap: float,
) -> Complex:
    """Return the units of a Bell-state station, order cH, cV, dH, dV, shape (4, 4S, 4S).

    ``c = sqrt(T) l + sqrt(R) r`` and ``d = sqrt(R) l - sqrt(T) r``, T = 1 - R, then a polarizing
    beam splitter in each port. Clicks cH dV or cV dH herald Psi-, cH cV or dH dV herald Psi+.

    Args:
        left: (source, arm) at the left input; arm 0 signal, 1 idler.
        right: (source, arm) at the right input.
        jones_left: Jones matrix of the left path times the root of its transmission, (2, 2).
        jones_right: The same of the right path.
        sources: Number of sources S.
        reflectivity: R of the beam splitter, 0..1.
        extinction_db: Of the polarizing beam splitters: the wrong output gets
            ``1/(1 + 10^(dB/10))``.
        overlap: M = |<l|r>|^2 of the photons' modes: only sqrt(M) of the amplitude interferes.

    Returns:
        Matrices G without detector efficiency: multiply each by its own.
    """
    if left == right:
        raise ConfigError(f"Bell station: both inputs are arm {left[1]} of source {left[0]}")
    leak = 1.0 / (1.0 + 10 ** (extinction_db / 10))
    projectors = (np.diag([1 - leak, leak]), np.diag([leak, 1 - leak]))
    at_left, at_right = _modes(*left, sources), _modes(*right, sources)
    t, r = math.sqrt(1 - reflectivity), math.sqrt(reflectivity)
    units = np.zeros((4, 4 * sources, 4 * sources), np.complex128)
    for port, (from_left, from_right) in enumerate(((t, r), (r, -t))):
        l_jones, r_jones = from_left * np.asarray(jones_left), from_right * np.asarray(jones_right)
        for polarization, projector in enumerate(projectors):
            unit = units[2 * port + polarization]
            unit[at_left, at_left] = l_jones.conj().T @ projector @ l_jones
            unit[at_right, at_right] = r_jones.conj().T @ projector @ r_jones
            cross = math.sqrt(overlap) * (l_jones.conj().T @ projector @ r_jones)
            unit[at_left, at_right] = cross
            unit[at_right, at_left] = cross.conj().T
    return units


def mode_overlap(delay_s: npt.ArrayLike, duration_fwhm_s: float) -> Real:
    """Return the overlap M of two equal Gaussian pulses or photons that arrive ``delay_s`` apart.

    ``M = exp(-(s_w delay)^2)`` with ``s_w = 1/(2 sigma_t)`` the rms spectral width and sigma_t the
    rms duration of the intensity, given by its FWHM (Branczyk, arXiv 1711.00080).
    """
    sigma_t = duration_fwhm_s / FWHM
    overlap: Real = np.exp(-((np.asarray(delay_s, np.float64) / (2 * sigma_t)) ** 2))
    return overlap


def _modes(source: int, arm: int, sources: int) -> slice:
    if not (0 <= source < sources and arm in (0, 1)):
        raise ConfigError(f"no arm {arm} of source {source}: sources 0..{sources - 1}, arms 0, 1")
    return slice(4 * source + 2 * arm, 4 * source + 2 * arm + 2)
