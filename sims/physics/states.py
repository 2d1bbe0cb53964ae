"""Two-qubit states of memory pairs: swapping, purification, teleportation and storage.

Three levels, which the tests hold against each other: Bell-diagonal vectors in closed form,
density matrices, and kets drawn shot by shot with every measurement outcome sampled. Any leading
axes are a batch.

A Bell state has the index ``2 a + b``: ``(I x Z^a X^b)|Phi+>``, so 0 Phi+, 1 Psi+, 2 Phi-, 3 Psi-.
In a swap the indices of both pairs and of the outcome combine by XOR, which says the frame of the
new pair. Qubit basis ``|0>, |1>``, first qubit most significant.

Gate noise and readout are those of Briegel, Dur, Cirac and Zoller, PRL 81, 5932 (1998): with
probability ``gate`` (their p2) a two-qubit gate is perfect, else both qubits come out fully mixed;
a readout tells the right bit with probability ``readout`` (their eta).

The world makes photons and does not use this module yet: it is for the twins of memory nodes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from ...instruments.errors import ConfigError

__all__ = [
    "BELL",
    "PAULIS",
    "apply",
    "bbpssw",
    "bell_diagonal",
    "bell_measurement",
    "bell_weights",
    "chsh_limit",
    "combine",
    "correct",
    "correlations",
    "dejmps",
    "dephasing",
    "depolarizing",
    "fidelity",
    "hashing_bound",
    "measure",
    "partial_trace",
    "pauli_errors",
    "purify",
    "sample_bell_measurement",
    "sample_gate_noise",
    "sample_kets",
    "swap",
    "swap_chain_fidelity",
    "swap_fidelity",
    "teleport",
    "teleportation_fidelity",
    "tensor",
    "twirl",
    "werner",
]

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Z^a X^b by Bell index, shape (4, 2, 2).
PAULIS: Complex = np.array(
    [[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[1, 0], [0, -1]], [[0, 1], [-1, 0]]], np.complex128
)
#: Bell kets in the rows, by index, shape (4, 4).
BELL: Complex = PAULIS.swapaxes(1, 2).reshape(4, 4) / math.sqrt(2)

_SIGMA: Complex = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
_CNOT: Complex = np.eye(4, dtype=np.complex128)[[0, 1, 3, 2]]
_HADAMARD: Complex = np.array([[1, 1], [1, -1]], np.complex128) / math.sqrt(2)
_XOR: Ints = np.arange(4)[:, None] ^ np.arange(4)[None, :]


def _share(name: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} must lie in 0..1, not {value:g}")
    return float(value)


# --- Bell-diagonal vectors: probabilities of the four Bell states, shape (..., 4)


def werner(fidelity: npt.ArrayLike) -> Real:
    """Return the Bell weights of Werner states of these fidelities with Phi+, shape (..., 4).

    The Werner parameter is ``w = (4 F - 1)/3``.
    """
    f = np.asarray(fidelity, np.float64)[..., None]
    return np.concatenate([f, np.repeat((1 - f) / 3, 3, axis=-1)], axis=-1)


def combine(left: npt.ArrayLike, right: npt.ArrayLike) -> Real:
    """Return the weights of two independent Bell indices combined by XOR, shape (..., 4).

    A convolution over Z2 x Z2. It is the swap of two Bell-diagonal pairs by a perfect Bell
    measurement whose outcome corrects the frame, and it is a Pauli channel
    (:func:`dephasing`, :func:`depolarizing`) acting on either qubit of a pair.
    """
    a, b = (np.moveaxis(np.asarray(x, np.float64), -1, 0) for x in (left, right))
    shape = np.broadcast_shapes(a.shape[1:], b.shape[1:])
    result = np.empty((*shape, 4))
    for k in range(4):
        result[..., k] = sum(a[j] * b[j ^ k] for j in range(4))
    return result


def dephasing(t: npt.ArrayLike, coherence_time: float) -> Real:
    """Return the Pauli weights of storage that only dephases, shape (..., 4): coherence e^(-t/T).

    Right for NV, ion and SiV memories, whose T1 is much longer than T2. Per attempt as well as per
    second: ``t`` counts whatever ``coherence_time`` counts.
    """
    kept = np.exp(-np.asarray(t, np.float64) / coherence_time)
    zero = np.zeros_like(kept)
    return np.stack([(1 + kept) / 2, zero, (1 - kept) / 2, zero], axis=-1)


def depolarizing(t: npt.ArrayLike, lifetime: float) -> Real:
    """Return the Pauli weights of storage towards white noise: Bloch vector e^(-t/T), (..., 4).

    With both qubits stored, Werner pairs decay as ``w(t) = w0 exp(-t (1/Ta + 1/Tb))``.
    """
    return werner((1 + 3 * np.exp(-np.asarray(t, np.float64) / lifetime)) / 4)


def dejmps(left: npt.ArrayLike, right: npt.ArrayLike | None = None) -> tuple[Real, Real]:
    """Return probability and outcome of one DEJMPS step on Bell-diagonal pairs.

    Deutsch et al., PRL 77, 2818 (1996), whose (A, B, C, D) are (Phi+, Psi-, Psi+, Phi-): for two
    equal copies ``A' = (A^2 + B^2)/N, B' = 2 C D/N, C' = (C^2 + D^2)/N, D' = 2 A B/N`` with
    ``N = (A + B)^2 + (C + D)^2``; here for unequal copies too.

    Args:
        left: Weights of the pair kept, by Bell index, shape (..., 4).
        right: Of the pair measured; the same where left out.

    Returns:
        Success probability, shape (...), and weights of the pair kept, shape (..., 4).
    """
    one = np.asarray(left, np.float64)
    two = one if right is None else np.asarray(right, np.float64)
    (a1, c1, d1, b1), (a2, c2, d2, b2) = (np.moveaxis(x, -1, 0) for x in (one, two))
    kept = np.stack(
        [a1 * a2 + b1 * b2, c1 * c2 + d1 * d2, a1 * b2 + b1 * a2, c1 * d2 + d1 * c2], axis=-1
    )
    p: Real = kept.sum(axis=-1)
    return p, kept / p[..., None]


def bbpssw(left: npt.ArrayLike, right: npt.ArrayLike | None = None) -> tuple[Real, Real]:
    """Return probability and new fidelity of one BBPSSW step on Werner pairs of given fidelity.

    Bennett et al., PRL 76, 722 (1996): ``F' = [F^2 + ((1-F)/3)^2]/p`` and
    ``p = F^2 + 2 F (1-F)/3 + 5 ((1-F)/3)^2`` for equal copies; here for unequal copies too.
    """
    f1 = np.asarray(left, np.float64)
    f2 = f1 if right is None else np.asarray(right, np.float64)
    e1, e2 = (1 - f1) / 3, (1 - f2) / 3
    p: Real = np.asarray(f1 * f2 + f1 * e2 + e1 * f2 + 5 * e1 * e2)
    return p, (f1 * f2 + e1 * e2) / p


def swap_fidelity(left: npt.ArrayLike, right: npt.ArrayLike) -> Real:
    """Return ``F1 F2 + (1 - F1)(1 - F2)/3``: a perfect swap of Werner pairs."""
    f1, f2 = np.asarray(left, np.float64), np.asarray(right, np.float64)
    return np.asarray(f1 * f2 + (1 - f1) * (1 - f2) / 3)


def swap_chain_fidelity(
    links: int, fidelity: npt.ArrayLike, gate: float = 1.0, readout: float = 1.0
) -> Real:
    """Return F of a chain of equal Werner links joined by imperfect swaps.

    ``F_N = 1/4 {1 + 3 [p2 (4 eta^2 - 1)/3]^(N-1) [(4 F - 1)/3]^N}``, Briegel et al., PRL 81, 5932
    (1998). Exact for two links, for perfect readout, and where pairs are twirled between swaps:
    misread bits are no white noise, and without the twirl two of them can undo each other, so the
    bracket ``(1 + 3 [(4 eta^2 - 1)/3]^(N-1))/4`` is really ``((1 + (2 eta - 1)^(N-1))/2)^2``, more.
    """
    if links < 1:
        raise ConfigError(f"a chain has at least one link, not {links}")
    w = (4 * np.asarray(fidelity, np.float64) - 1) / 3
    swap_factor = _share("gate", gate) * (4 * _share("readout", readout) ** 2 - 1) / 3
    return np.asarray((1 + 3 * swap_factor ** (links - 1) * w**links) / 4)


def teleportation_fidelity(fidelity: npt.ArrayLike) -> Real:
    """Return ``(2 F + 1)/3``, mean over all input states (Horodecki, PRA 60, 1888 (1999)).

    Without entanglement 2/3 is the most (F = 1/2).
    """
    return np.asarray((2 * np.asarray(fidelity, np.float64) + 1) / 3)


def hashing_bound(weights: npt.ArrayLike) -> Real:
    """Return ``1 - H(weights)``, pairs or secret bits distilled one way per Bell-diagonal pair.

    On Werner states it is the six-state key fraction ``1 + F log2 F + (1 - F) log2((1 - F)/3)``
    (Bennett et al., PRA 54, 3824 (1996); Lo, QIC 1, 81 (2001)). Negative: none.
    """
    p = np.asarray(weights, np.float64)
    logs = np.log2(p, out=np.zeros_like(p), where=p > 0)
    return np.asarray(1 + (p * logs).sum(axis=-1))


# --- density matrices, shape (..., 2^n, 2^n)


def bell_diagonal(weights: npt.ArrayLike) -> Complex:
    """Return the density matrices, shape (..., 4, 4), of Bell-diagonal states."""
    rho: Complex = np.einsum("...k,ki,kj->...ij", np.asarray(weights), BELL, BELL.conj())
    return rho


def bell_weights(rho: Complex) -> Real:
    """Return the fidelities with the four Bell states by index, shape (..., 4)."""
    weights: Complex = np.einsum("ki,...ij,kj->...k", BELL.conj(), rho, BELL)
    return np.array(weights.real)


def fidelity(rho: Complex, ket: npt.ArrayLike = BELL[0]) -> Real:
    """Return ``<ket|rho|ket>``, shape (...); the ket is Phi+ where left out."""
    k = np.asarray(ket, np.complex128)
    return np.asarray(np.einsum("...i,...ij,...j->...", k.conj(), rho, k).real)


def partial_trace(rho: Complex, keep: Sequence[int]) -> Complex:
    """Return the state of the qubits ``keep``, in that order, shape (..., 2^k, 2^k)."""
    n = _qubits(rho.shape[-1])
    rest = [q for q in range(n) if q not in keep]
    batch = rho.shape[:-2]
    tensor = rho.reshape(*batch, *(2,) * (2 * n))
    order = [*keep, *rest]
    axes = [len(batch) + q for q in order] + [len(batch) + n + q for q in order]
    size = 2 ** len(keep)
    turned = tensor.transpose(*range(len(batch)), *axes).reshape(
        *batch, size, -1, size, 2**n // size
    )
    return np.asarray(np.einsum("...aibi->...ab", turned), np.complex128)


def twirl(rho: Complex) -> Complex:
    """Return the Werner state of the same fidelity with Phi+, shape (..., 4, 4)."""
    return bell_diagonal(werner(fidelity(rho)))


def pauli_errors(rho: Complex, first: npt.ArrayLike, second: npt.ArrayLike) -> Complex:
    """Return pairs after Pauli channels of these weights, (..., 4) each, on its two qubits."""
    joint = np.einsum("...j,...k->...jk", np.asarray(first), np.asarray(second))
    rho = np.asarray(rho, np.complex128)
    result = np.zeros(np.broadcast_shapes(rho.shape, (*joint.shape[:-2], 1, 1)), np.complex128)
    for j, k in itertools.product(range(4), repeat=2):
        u = np.kron(PAULIS[j], PAULIS[k])
        result += joint[..., j, k, None, None] * (u @ rho @ u.conj().T)
    return result


def correlations(rho: Complex) -> Real:
    """Return T_ij = <sigma_i x sigma_j>, i and j from X, Y, Z, shape (..., 3, 3)."""
    t = rho.reshape(*rho.shape[:-2], 2, 2, 2, 2)
    return np.array(np.einsum("...abcd,ica,jdb->...ij", t, _SIGMA, _SIGMA).real)


def chsh_limit(rho: Complex) -> Real:
    """Return the largest CHSH value that any directions show, shape (...).

    ``2 sqrt(u1 + u2)``, the two largest eigenvalues of T^T T (Horodecki, PLA 200, 340 (1995));
    ``2 sqrt2 (4 F - 1)/3`` for Werner states.
    """
    values = np.linalg.svd(correlations(rho), compute_uv=False)
    return np.asarray(2 * np.hypot(values[..., 0], values[..., 1]))


def bell_measurement(gate: float = 1.0, readout: float = 1.0) -> Complex:
    """Return the operators of a Bell measurement by CNOT and Hadamard, shape (4, 4, 4).

    Element m says how likely outcome m is reported: the right Bell index with probability
    ``gate readout^2 + (1 - gate)/4``.
    """
    right = _share("readout", readout)
    bit = np.array([right, 1 - right])
    told = np.kron(bit, bit)[_XOR]  # reported, true
    perfect = np.einsum("mk,ki,kj->mij", told, BELL, BELL.conj())
    p = _share("gate", gate)
    result: Complex = p * perfect + (1 - p) * np.eye(4) / 4
    return result


def swap(
    left: Complex, right: Complex, gate: float = 1.0, readout: float = 1.0
) -> tuple[Real, Complex]:
    """Swap: measure the second qubit of ``left`` and the first of ``right`` in the Bell basis.

    Args:
        left: Pairs (1, 2), shape (..., 4, 4).
        right: Pairs (3, 4), shape (..., 4, 4).
        gate: Probability that the CNOT is perfect.
        readout: Probability that a bit is told right.

    Returns:
        Probability of each reported outcome, shape (..., 4), and the pairs (1, 4) that it leaves,
        shape (..., 4, 4, 4), frame not corrected: see :func:`correct`.
    """
    povm = bell_measurement(gate, readout).reshape(4, 2, 2, 2, 2)
    # as matrices from (2, 2') to (1, 1') and so on, primes for the columns of rho
    one = _paired(left)
    middle = povm.transpose(3, 1, 0, 4, 2).reshape(4, 16)  # (2 2'), (m 3 3')
    two = _paired(right)
    joint = (one @ middle).reshape(*one.shape[:-2], 16, 4) @ two
    by_pair = joint.reshape(*joint.shape[:-2], 2, 2, 4, 2, 2)  # 1 1' m 4 4'
    return _normalized(np.einsum("...aimdl->...madil", by_pair).reshape(*joint.shape[:-2], 4, 4, 4))


def teleport(
    state: Complex, pair: Complex, gate: float = 1.0, readout: float = 1.0
) -> tuple[Real, Complex]:
    """Teleport a qubit through a pair whose first qubit is at the sender.

    Args:
        state: Density matrices, shape (..., 2, 2).
        pair: Shape (..., 4, 4).
        gate: Probability that the CNOT of the Bell measurement is perfect.
        readout: Probability that a bit is told right.

    Returns:
        Probability of each reported outcome, shape (..., 4), and the receiver's qubit, shape
        (..., 4, 2, 2), not corrected: see :func:`correct`.
    """
    resource = np.asarray(pair).reshape(*pair.shape[:-2], 2, 2, 2, 2)
    povm = bell_measurement(gate, readout).reshape(4, 2, 2, 2, 2)
    return _normalized(np.einsum("...ck,...abij,mkica->...mbj", state, resource, povm))


def correct(rho: Complex, index: npt.ArrayLike) -> Complex:
    """Return states with the Pauli of a Bell index undone on their last qubit.

    Args:
        rho: Shape (..., 2, 2) or (..., 4, 4).
        index: Bell index, broadcast against the leading axes; ``range(4)`` for the outcomes of
            :func:`swap` and :func:`teleport`.
    """
    u = PAULIS[np.asarray(index)].conj().swapaxes(-1, -2)
    if rho.shape[-1] == 4:
        u = np.einsum("ab,...cd->...acbd", np.eye(2), u).reshape(*u.shape[:-2], 4, 4)
    turned: Complex = u @ rho @ u.conj().swapaxes(-1, -2)
    return turned


def purify(
    kept: Complex,
    spent: Complex,
    method: Literal["bbpssw", "dejmps"] = "dejmps",
    gate: float = 1.0,
    readout: float = 1.0,
) -> tuple[Real, Complex]:
    """Purify one pair by another: CNOT at both ends onto the pair that is then measured in Z.

    Both ends keep their first qubit if their bits agree. DEJMPS turns all qubits by +-90 degrees
    about X first; BBPSSW twirls both pairs to Werner states. Pairs shall be near Phi+.

    Args:
        kept: Shape (..., 4, 4).
        spent: Shape (..., 4, 4).
        method: Which of the two.
        gate: Probability that a CNOT is perfect; the single-qubit turns are.
        readout: Probability that a bit is told right.

    Returns:
        Success probability, shape (...), and the pair left, shape (..., 4, 4).
    """
    if method == "dejmps":
        quarter = np.array([[1, -1j], [-1j, 1]], np.complex128) / math.sqrt(2)
        turn = np.kron(quarter, quarter.conj())
        kept, spent = (turn @ rho @ turn.conj().T for rho in (kept, spent))
    else:
        kept, spent = twirl(kept), twirl(spent)
    joint = np.einsum("...ij,...kl->...ikjl", kept, spent)
    rho: Complex = joint.reshape(*joint.shape[:-4], 16, 16)
    p, levels = _share("gate", gate), np.arange(16)
    for control, target, trace, mixed in (
        (0, 2, "...abcdafch->...bdfh", "...bdfh,ae,cg->...abcdefgh"),
        (1, 3, "...abcdebgd->...aceg", "...aceg,bf,dh->...abcdefgh"),
    ):
        moved = levels ^ (((levels >> (3 - control)) & 1) << (3 - target))
        rho = rho[..., moved[:, None], moved]
        if p < 1:
            rest = np.einsum(trace, rho.reshape(*rho.shape[:-2], *(2,) * 8))
            noise = np.einsum(mixed, rest, np.eye(2) / 2, np.eye(2) / 2)
            rho = p * rho + (1 - p) * noise.reshape(rho.shape)
    right = _share("readout", readout)
    same = right**2 + (1 - right) ** 2  # bits that agree are told to agree
    weights = np.array([same, 1 - same, 1 - same, same])
    blocks = rho.reshape(*rho.shape[:-2], 4, 4, 4, 4)
    out: Complex = np.einsum("...aibi,i->...ab", blocks, weights)
    return _normalized(out)


def _paired(rho: Complex) -> Complex:
    """Return pairs with rows (1, 1') and columns (2, 2') instead of (1, 2) and (1', 2')."""
    split = rho.reshape(*rho.shape[:-2], 2, 2, 2, 2)
    return np.asarray(split.swapaxes(-3, -2).reshape(rho.shape), np.complex128)


def _normalized(rho: Complex) -> tuple[Real, Complex]:
    p = np.einsum("...ii->...", rho).real
    with np.errstate(divide="ignore", invalid="ignore"):
        states = np.where(p[..., None, None] > 0, rho / p[..., None, None], 0)
    return np.array(p), np.asarray(states, np.complex128)


def _qubits(size: int) -> int:
    n = size.bit_length() - 1
    if size != 2**n:
        raise ConfigError(f"a state of qubits has 2^n levels, not {size}")
    return n


# --- shots: kets of shape (shots, 2, 2, ...), one axis per qubit


def sample_kets(rng: np.random.Generator, rho: Complex, shots: int) -> Complex:
    """Draw eigenkets of a density matrix, shape (shots, 2, 2, ...).

    Args:
        rng: Random numbers.
        rho: Shape (2^n, 2^n).
        shots: How many.
    """
    n = _qubits(rho.shape[-1])
    values, kets = np.linalg.eigh(rho)
    p = np.clip(values, 0, None)
    chosen = rng.choice(p.size, shots, p=p / p.sum())
    return np.ascontiguousarray(kets.T[chosen].reshape(shots, *(2,) * n))


def tensor(left: Complex, right: Complex) -> Complex:
    """Return the joint kets of two systems, qubits of ``left`` first."""
    shots = left.shape[0]
    joint = left.reshape(shots, -1, 1) * right.reshape(shots, 1, -1)
    return joint.reshape(shots, *left.shape[1:], *right.shape[1:])


def apply(kets: Complex, gate: Complex, *qubits: int) -> Complex:
    """Return kets after a gate on some qubits.

    Args:
        kets: Shape (shots, 2, 2, ...).
        gate: Shape (2^k, 2^k), or (shots, 2^k, 2^k) for one each.
        qubits: The k qubits in the order of the gate.
    """
    last = range(-len(qubits), 0)
    moved = np.moveaxis(kets, [q + 1 for q in qubits], list(last))
    flat = moved.reshape(moved.shape[0], -1, gate.shape[-1])
    turned = flat @ gate.swapaxes(-1, -2)
    return np.moveaxis(turned.reshape(moved.shape), list(last), [q + 1 for q in qubits])


def measure(
    rng: np.random.Generator,
    kets: Complex,
    qubit: int,
    axis: Sequence[float] = (0.0, 0.0, 1.0),
    readout: float = 1.0,
) -> tuple[Ints, Complex]:
    """Measure a qubit along a direction and drop it.

    Args:
        rng: Random numbers.
        kets: Shape (shots, 2, 2, ...).
        qubit: Which.
        axis: Bloch vector (X, Y, Z) of the outcome 0.
        readout: Probability that the bit is told right.

    Returns:
        Bits told, int64 of shape (shots,), and kets of the other qubits, whatever was told.
    """
    _, basis = np.linalg.eigh(-np.tensordot(np.asarray(axis, np.float64), _SIGMA, axes=1))
    turned = np.moveaxis(apply(kets, basis.conj().T, qubit), qubit + 1, 1)
    flat = turned.reshape(turned.shape[0], 2, -1)
    p = np.sum(np.abs(flat) ** 2, axis=2)
    bits = (rng.random(p.shape[0]) * p.sum(axis=1) >= p[:, 0]).astype(np.int64)
    shots = np.arange(bits.size)
    left = flat[shots, bits] / np.sqrt(p[shots, bits])[:, None]
    wrong = rng.random(bits.size) >= _share("readout", readout)
    return bits ^ wrong, left.reshape(turned.shape[0], *turned.shape[2:])


def sample_gate_noise(
    rng: np.random.Generator, kets: Complex, first: int, second: int, gate: float
) -> Complex:
    """Return kets after the noise of a two-qubit gate: random Paulis where it failed."""
    failed = np.flatnonzero(rng.random(kets.shape[0]) >= _share("gate", gate))
    if failed.size:
        kets = kets.copy()
        for qubit in (first, second):
            kets[failed] = apply(kets[failed], PAULIS[rng.integers(0, 4, failed.size)], qubit)
    return kets


def sample_bell_measurement(
    rng: np.random.Generator,
    kets: Complex,
    first: int,
    second: int,
    gate: float = 1.0,
    readout: float = 1.0,
) -> tuple[Ints, Complex]:
    """Measure two qubits by CNOT, Hadamard and two readouts, and drop them.

    Returns:
        Bell index told, int64 of shape (shots,), and kets of the other qubits.
    """
    kets = apply(kets, _CNOT, first, second)
    kets = apply(sample_gate_noise(rng, kets, first, second, gate), _HADAMARD, first)
    phase, kets = measure(rng, kets, first, readout=readout)
    parity, kets = measure(rng, kets, second - (second > first), readout=readout)
    return 2 * phase + parity, kets
