"""What patterns of clicks leave of the spins that emitted the photons, and how spins are read.

Each spin s of a node goes with at most one photon of polarization ``u_s``:
``sum_s c_s |s> |u_s>``. The photons pass linear optics onto threshold detectors; loss, the photons
nobody sees and the outputs nobody resolves are traced out. With G what a set of detectors leaves of
a photon's amplitudes (1 minus their matrices), that the set stays silent has on the spins the
operator of elements

- 1 between states without photons, ``u'^dag G u`` between states of one,
- ``(u'^dag G u)(v'^dag G v) + (v'^dag G u)(u'^dag G v)`` between states of two,

and 0 otherwise; patterns of clicks follow by inclusion and exclusion. Exact for any efficiency,
in any number of detectors; :mod:`.emitter` has the closed forms of the usual two.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ...instruments.errors import ConfigError
from .emitter import resolved_overlap

__all__ = [
    "Encoding",
    "Fluorescence",
    "SpinPhoton",
    "arrival_overlap",
    "diffused",
    "kept_spins",
    "mean_photons",
    "pauli_table",
    "photons_seen",
    "read_vector",
    "sample_outcomes",
    "spin_photon_state",
]

Encoding = Literal["number", "polarization"]

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]

#: 1, X, Y, Z.
_PAULI: Complex = np.array(
    [[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]], np.complex128
)
#: Of a pulse before the read-out: Bloch vectors turned so that X, or Y, comes to lie along Z.
_TURNS: dict[str, Real] = {
    "x": np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]]),
    "y": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
}


@dataclass(frozen=True, eq=False)
class SpinPhoton:
    """A spin and the photon that it emitted.

    Attributes:
        amplitudes: Of spin 0 and 1, complex (2,).
        photons: Jones vector of the photon of either, complex (2, 2); zero where there is none.
        unseen: What light that nobody sees leaves of the coherence between either spin and the
            other, real (2, 2), 1 on the diagonal.
    """

    amplitudes: Complex
    photons: Complex
    unseen: Real


def spin_photon_state(
    bright: float, encoding: Encoding, double_excitation: float = 0.0
) -> SpinPhoton:
    """Return ``sqrt(1 - alpha)|0> + sqrt(alpha)|1>`` with the photon of each.

    Args:
        bright: alpha, population of spin 1.
        encoding: ``number``: |1> emits, H, and |0> does not; ``polarization``: |0> emits H and
            |1> V.
        double_excitation: Probability p that a spin that emits is excited again and emits another
            photon. That one comes while the pulse lasts and is filtered out; what it knows of
            the spin leaves ``sqrt(1 - p)`` of the coherence where |0> emits nothing, 1 - p where
            it emits as well.
    """
    amplitudes = np.sqrt(np.array([1 - bright, bright], np.complex128))
    photons = np.array([[0, 0], [1, 0]] if encoding == "number" else np.eye(2), np.complex128)
    left = 1 - double_excitation
    left = math.sqrt(left) if encoding == "number" else left
    return SpinPhoton(amplitudes, photons, np.array([[1, left], [left, 1]]))


def kept_spins(
    units: Complex, left: SpinPhoton, right: SpinPhoton | None = None, coherence: float = 1.0
) -> Complex:
    """Return what each pattern of clicks leaves of the spins; its trace is the probability.

    Args:
        units: Matrices of the detectors with everything on the way to them, acting on (H, V) of
            the left photon, then of the right one, complex (n, 2, 2) or (n, 4, 4): the
            probability of a click is ``u^dag unit u``. An overlap M of the photons' modes is
            in them as a factor sqrt(M) of what mixes left and right.
        left: The left node.
        right: The right node.
        coherence: Mean of ``exp(i phase)`` of one path against the other: what a noisy phase, of
            the path or of the emitters (:func:`diffused`), leaves of the coherence between a photon
            here and a photon there.

    Returns:
        Density matrices, not normalized, complex (2^n, d, d) with d = 2 or 4, by pattern: bit k
        of its number is a click of detector k.
    """
    count = len(units)
    size = 4 if right is not None else 2
    silent = np.zeros((1 << count, size, size), np.complex128)
    for mask in range(1 << count):
        off = [k for k in range(count) if mask >> k & 1]
        kept = np.eye(units.shape[1]) - units[off].sum(axis=0)
        silent[mask] = _one(kept, left) if right is None else _two(kept, left, right, coherence)
    # silent[mask] says nothing of the others: a click is what is left without its silence.
    whole = (1 << count) - 1
    found: Complex = silent[whole ^ np.arange(1 << count)]
    for k in range(count):
        for mask in range(1 << count):
            if mask >> k & 1:
                found[mask] = found[mask] - found[mask ^ 1 << k]
    return found * (left.unseen if right is None else np.kron(left.unseen, right.unseen))


def pauli_table(kept: Complex) -> tuple[Real, Real]:
    """Return the probability of each pattern, and what the spins show after it.

    Args:
        kept: What :func:`kept_spins` returns, (k, d, d).

    Returns:
        Probabilities, (k,), summing to 1, and mean values of ``P_i x P_j`` with P = 1, X, Y, Z,
        (k, 4, 4) for two spins or (k, 4) for one.
    """
    if kept.shape[1] == 4:
        by_spin = kept.reshape(-1, 2, 2, 2, 2)
        table = np.einsum("kabcd,ica,jdb->kij", by_spin, _PAULI, _PAULI).real
        p = table[:, 0, 0]
    else:
        table = np.einsum("kac,ica->ki", kept, _PAULI).real
        p = table[:, 0]
    # Rounding alone puts something where there is no way to click.
    p = np.where(p > 1e-15, p, 0.0)
    scale = np.where(p > 0, p, 1.0).reshape(-1, *(1,) * (table.ndim - 1))
    return p / p.sum(), table / scale


def read_vector(pulses: list[tuple[str, float]], until_s: float, coherence_time_s: float) -> Real:
    """Return the r of ``r . sigma`` that a read-out along Z measures of the spin as it was.

    Pulses turn X, or Y, onto Z; what is transverse decays as ``exp(-t/T)`` in between.

    Args:
        pulses: Which, ``x`` or ``y``, and when, s after the spin was made, rising.
        until_s: When it is read.
        coherence_time_s: T; may be infinite.
    """
    turn, now = np.eye(3), 0.0
    for axis, when in (*pulses, ("", until_s)):
        left = math.exp(-(when - now) / coherence_time_s)
        turn = np.diag([left, left, 1.0]) @ turn
        turn = _TURNS[axis] @ turn if axis else turn
        now = when
    return np.array(turn[2])


def sample_outcomes(rng: np.random.Generator, table: Real, left: Real, right: Real) -> Real:
    """Draw what the read-outs of two spins show.

    Args:
        rng: Draws.
        table: Mean values of each row's spins, (n, 4, 4).
        left: r of the left read-out (:func:`read_vector`), (n, 3).
        right: r of the right one, (n, 3).

    Returns:
        +1 for |0> and -1 for |1>, (2, n).
    """
    rows = len(table)
    draws = rng.random((2, rows))
    ones = np.ones((rows, 1))
    # Mean values with the right spin's read-out in either or no outcome.
    of_right = np.einsum("nij,nj->ni", table, np.hstack([0 * ones, right]))
    mean = np.einsum("ni,ni->n", table[:, 1:, 0], left)
    first = np.where(draws[0] < (1 + mean) / 2, 1.0, -1.0)
    weight = 1 + first * mean
    joint = of_right[:, 0] + first * np.einsum("ni,ni->n", of_right[:, 1:], left)
    second = np.where(2 * draws[1] * weight < weight + joint, 1.0, -1.0)
    return np.stack([first, second])


def arrival_overlap(
    gap_s: float, lifetime_s: float, detuning_hz: float = 0.0, dephasing_hz: float = 0.0
) -> float:
    """Return M of two exponential photons that come ``gap_s`` apart.

    ``e^(-|gap|/T1)`` of what :func:`.emitter.resolved_overlap` says of photons that come together:
    the later one sees the earlier one's tail alone.
    """
    together, _ = resolved_overlap(math.inf, lifetime_s, detuning_hz, dephasing_hz)
    return math.exp(-abs(gap_s) / lifetime_s) * together


def diffused(gap_s: float, lifetime_s: float, dephasing_hz: float) -> float:
    """Return what phase diffusion leaves of one photon's coherence, beyond sqrt(M).

    A photon that is seen a time t after its excitation has lost ``e^(-g t)`` of its coherence with
    the spin, so of one photon, here or there, is left, with Gamma = 1/T1 and detuning df,

        e^(-gap/(2 T1)) e^(-g gap) |Gamma/(Gamma + 2 g + 2 pi i df)|
            = sqrt(M) e^(-g gap)/sqrt(1 + 2 g T1)

    with the M of :func:`arrival_overlap`; two photons keep M as it is, where what their phases
    did before the first click does not show.

    Args:
        gap_s: Between the photons.
        lifetime_s: T1.
        dephasing_hz: Pure dephasing rate g, the mean of both emitters.
    """
    return math.exp(-dephasing_hz * abs(gap_s)) / math.sqrt(1 + 2 * dephasing_hz * lifetime_s)


def photons_seen(units: Complex, node: SpinPhoton) -> Real:
    """Return the mean photons of a node at each detector, (n,); units as they act on them."""
    weights = np.abs(node.amplitudes) ** 2
    u = node.photons
    seen: Real = np.einsum("s,sa,nab,sb->n", weights, u.conj(), units, u).real
    return seen


@dataclass(frozen=True)
class Fluorescence:
    """Light of a spin while it is read.

    Args:
        bright_hz: Photons per second of |1>.
        background_hz: Photons per second of either state.
        pumping_s: Mean time of light after which |1> is pumped into a state that is dark.
    """

    bright_hz: float
    background_hz: float = 0.0
    pumping_s: float = math.inf

    def __post_init__(self) -> None:
        if min(self.bright_hz, self.background_hz) < 0 or not self.pumping_s > 0:
            raise ConfigError("fluorescence: rates must be at least 0, the pumping time above 0")


def mean_photons(light: Fluorescence, window_s: float) -> tuple[float, float]:
    """Return the mean photons of a read-out of |0> and of |1>.

    The bright state shines for ``tau (1 - e^(-w/tau))`` of a window w.
    """
    dark = light.background_hz * window_s
    tau = light.pumping_s
    shines = window_s if math.isinf(tau) else -tau * math.expm1(-window_s / tau)
    return dark, dark + light.bright_hz * shines


def _one(kept: Complex, node: SpinPhoton) -> Complex:
    """The operator of silence on one spin, applied to its state."""
    c, u = node.amplitudes, node.photons
    found = np.zeros((2, 2), np.complex128)
    for s, z in itertools.product((0, 1), repeat=2):
        has, had = u[s].any(), u[z].any()
        if has == had:
            found[s, z] = c[s] * c[z].conj() * (u[z].conj() @ kept @ u[s] if has else 1)
    return found


def _two(kept: Complex, left: SpinPhoton, right: SpinPhoton, coherence: float) -> Complex:
    """The operator of silence on two spins, applied to their state."""
    ll, lr, rl, rr = kept[:2, :2], kept[:2, 2:], kept[2:, :2], kept[2:, 2:]
    amplitudes = np.kron(left.amplitudes, right.amplitudes)
    found = np.zeros((4, 4), np.complex128)
    for (n, (s, t)), (m, (y, z)) in itertools.product(
        enumerate(itertools.product((0, 1), repeat=2)), repeat=2
    ):
        u, v = left.photons[s], right.photons[t]
        a, b = left.photons[y].conj(), right.photons[z].conj()
        photons = (bool(u.any()), bool(v.any()), bool(a.any()), bool(b.any()))
        value: complex
        if photons == (False, False, False, False):
            value = 1
        elif photons == (True, False, True, False):
            value = a @ ll @ u
        elif photons == (False, True, False, True):
            value = b @ rr @ v
        elif photons == (True, False, False, True):
            value = b @ rl @ u * coherence
        elif photons == (False, True, True, False):
            value = a @ lr @ v * coherence
        elif photons == (True, True, True, True):
            value = (a @ ll @ u) * (b @ rr @ v) + (b @ rl @ u) * (a @ lr @ v)
        else:
            value = 0
        found[n, m] = amplitudes[n] * amplitudes[m].conj() * value
    return found
