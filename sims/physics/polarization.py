"""Polarization of one photon and of a pair: Jones vectors, retarders, measurement operators.

Jones basis (H, V). ``D = (H + V)/sqrt2``, ``A = (H - V)/sqrt2``, and +S3 is ``(H + iV)/sqrt2``,
so that Stokes (S1, S2, S3) are the expectation values of (sigma_z, sigma_x, sigma_y).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = [
    "OUTCOMES",
    "analyzer_operators",
    "correlations",
    "drift_step",
    "joint_probabilities",
    "operators_of",
    "pair_state",
    "polarizer_operators",
    "retarder",
    "retarders",
    "rotation",
    "stokes_map",
    "stokes_operators",
]

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]

#: Outputs of the analyzer, in the order of its operators.
OUTCOMES = ("H", "V", "D", "A")

_STOKES_PAULI: Complex = np.array(
    [[[1, 0], [0, -1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]]], dtype=np.complex128
)
#: Pauli matrices in the order of Stokes vectors: identity, then S1, S2, S3.
_PAULI: Complex = np.concatenate([np.eye(2)[None], _STOKES_PAULI])


def rotation(vector_deg: Sequence[float] | Real) -> Complex:
    """Return the Jones matrix, shape (2, 2), of a rotation on the Poincare sphere.

    ``U = exp(-i (theta/2) n.sigma)`` for the vector ``theta n`` along (S1, S2, S3), in degrees.
    """
    vector = np.radians(np.asarray(vector_deg, dtype=np.float64))
    theta = float(np.linalg.norm(vector))
    if theta == 0.0:
        return np.eye(2, dtype=np.complex128)
    generator = np.tensordot(vector / theta, _STOKES_PAULI, axes=1)
    matrix: Complex = np.cos(theta / 2) * np.eye(2) - 1j * np.sin(theta / 2) * generator
    return matrix


def retarder(retardance_deg: float, angle_deg: float) -> Complex:
    """Return the Jones matrix of a linear retarder with its fast axis at ``angle_deg``.

    ``R(-th) diag(e^{-i phi/2}, e^{+i phi/2}) R(th)``; e.g. Saleh and Teich, Fundamentals of
    Photonics, sec. 6.1B.
    """
    phi, th = np.radians(retardance_deg), np.radians(angle_deg)
    turn = np.array([[np.cos(th), np.sin(th)], [-np.sin(th), np.cos(th)]])
    plate = np.diag([np.exp(-0.5j * phi), np.exp(0.5j * phi)])
    matrix: Complex = turn.T @ plate @ turn
    return matrix


def retarders(retardances_deg: Sequence[float], angles_deg: Sequence[float]) -> Complex:
    """Return the Jones matrix of retarders passed in the order given."""
    plates = [retarder(r, a) for r, a in zip(retardances_deg, angles_deg, strict=True)]
    return functools.reduce(lambda before, plate: plate @ before, plates)


def pair_state(visibility: float, phase_deg: float = 0.0, imbalance: float = 1.0) -> Complex:
    """Return the density matrix, shape (4, 4), of a pair in the basis HH, HV, VH, VV.

    A Werner-like mixture of ``(|HH> + eps e^{i phi} |VV>)/sqrt(1 + eps^2)`` with white noise
    (``shared`` physics sheet, sec. 1).
    """
    ket = np.zeros(4, dtype=np.complex128)
    ket[0] = 1.0
    ket[3] = imbalance * np.exp(1j * np.radians(phase_deg))
    ket /= np.linalg.norm(ket)
    rho: Complex = visibility * np.outer(ket, ket.conj()) + (1 - visibility) * np.eye(4) / 4
    return rho


def analyzer_operators(z_fraction: float = 0.5, extinction_db: float = 60.0) -> Complex:
    """Return the measurement operators, shape (4, 2, 2), of a passive BBM92 analyzer.

    Order as :data:`OUTCOMES`; they sum to the identity. A beam splitter sends ``z_fraction`` to
    H/V and the rest to D/A; a polarizing beam splitter of finite extinction sends
    ``1/(1 + 10^(dB/10))`` of the wrong polarization to a detector.
    """
    leak = 1.0 / (1.0 + 10 ** (extinction_db / 10))
    h, v = np.diag([1.0, 0.0]), np.diag([0.0, 1.0])
    d, a = np.full((2, 2), 0.5), np.array([[0.5, -0.5], [-0.5, 0.5]])
    operators = [
        share * ((1 - leak) * right + leak * wrong)
        for share, right, wrong in (
            (z_fraction, h, v),
            (z_fraction, v, h),
            (1 - z_fraction, d, a),
            (1 - z_fraction, a, d),
        )
    ]
    return np.array(operators, dtype=np.complex128)


def polarizer_operators(angle_deg: float = 0.0, extinction_db: float = 60.0) -> Complex:
    """Return the measurement operators, shape (2, 2, 2), of a polarizing beam splitter.

    Along its axis, which stands ``angle_deg`` from horizontal, and across it; they sum to the
    identity. The extinction is that of :func:`analyzer_operators`.
    """
    th = np.radians(angle_deg)
    turn = np.array([[np.cos(th), np.sin(th)], [-np.sin(th), np.cos(th)]])
    operators: Complex = turn.T @ analyzer_operators(1.0, extinction_db)[:2] @ turn
    return operators


def joint_probabilities(
    rho: Complex,
    jones_a: npt.ArrayLike,
    jones_b: npt.ArrayLike,
    operators_a: Complex,
    operators_b: Complex,
) -> Real:
    """Return P[i, j] = Tr[(U_a x U_b) rho (U_a x U_b)^+ (E_i x F_j)] for a pair.

    Args:
        rho: Pair state, shape (4, 4).
        jones_a: Jones matrix of arm a, shape (2, 2), and ``jones_b`` of arm b.
        jones_b: See ``jones_a``.
        operators_a: Measurement operators of arm a, shape (n, 2, 2).
        operators_b: Measurement operators of arm b, shape (m, 2, 2).

    Returns:
        Probabilities, shape (n, m).
    """
    u = np.kron(np.asarray(jones_a, np.complex128), np.asarray(jones_b, np.complex128))
    turned = (u @ rho @ u.conj().T).reshape(2, 2, 2, 2)
    table: Complex = np.einsum("abcd,ica,jdb->ij", turned, operators_a, operators_b)
    probabilities: Real = np.clip(table.real, 0.0, 1.0)
    return probabilities


def stokes_map(jones: npt.ArrayLike) -> Real:
    """Return the map of Stokes vectors (S0..S3), shape (4, 4), of a Jones matrix J.

    ``M[m, n] = Tr(sigma_m J sigma_n J^+)/2``, the Mueller matrix in the order (S0, S1, S2, S3).
    """
    j = np.asarray(jones, np.complex128)
    table: Complex = np.einsum("mab,bc,ncd,ad->mn", _PAULI, j, _PAULI, j.conj()) / 2
    return np.ascontiguousarray(table.real)


def stokes_operators(operators: Complex) -> Real:
    """Return measurement operators as rows over Stokes vectors: ``P = row . S``, shape (n, 4)."""
    rows: Complex = np.einsum("nab,mba->nm", operators, _PAULI) / 2
    return np.ascontiguousarray(rows.real)


def operators_of(rows: Real) -> Complex:
    """Return the measurement operators, (n, 2, 2), of rows over Stokes vectors, (n, 4)."""
    operators: Complex = np.einsum("nm,mab->nab", rows, _PAULI)
    return operators


def correlations(rho: Complex) -> Real:
    """Return ``T[m, n] = Tr(rho sigma_m x sigma_n)``, shape (4, 4), of a pair's density matrix."""
    table: Complex = np.einsum(
        "abcd,mca,ndb->mn", np.asarray(rho).reshape(2, 2, 2, 2), _PAULI, _PAULI
    )
    return np.ascontiguousarray(table.real)


def drift_step(rng: np.random.Generator, dt_s: float, drift_time_s: float) -> Complex:
    """Return one step, shape (2, 2), of the isotropic random walk of a fibre's Jones matrix.

    ``J = exp(-i a.sigma)``, ``a ~ N(0, s^2 I3)`` (Czegledi et al., Sci. Rep. 6, 21217 (2016)),
    with ``s`` such that ``<S_0.S_t> = exp(-4 s^2 k) = exp(-t/drift_time)`` for small steps.
    """
    a = rng.standard_normal(3) * np.sqrt(dt_s / drift_time_s) / 2
    return rotation(np.degrees(2 * a))
