"""Pairs of qubits three ways: closed forms, density matrices, and shots with sampled outcomes.

Rows of the ``shared`` physics sheet, sec. 9: the number written there, and a seeded Monte Carlo of
actual measurement outcomes at 3 sigma.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments.errors import ConfigError
from bellbench.protocols.qkd import asymptotic_key_fraction
from bellbench.protocols.swapping.analysis import BELL_TENSORS
from bellbench.sims.physics import states
from hypothesis import given, settings
from hypothesis import strategies as st

Complex = npt.NDArray[np.complex128]
Real = npt.NDArray[np.float64]

X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
PHI_PLUS, PSI_PLUS, PHI_MINUS, PSI_MINUS = range(4)
SHOTS = 50_000
FRAMES: Complex = states.PAULIS.conj().swapaxes(1, 2)

weights = st.lists(st.floats(0.001, 1), min_size=4, max_size=4).map(
    lambda w: np.array(w) / np.sum(w)
)
shares = st.floats(0, 1)


def random_state(rng: np.random.Generator, size: int = 4) -> Complex:
    a = rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size))
    rho = a @ a.conj().T
    return np.asarray(rho / np.trace(rho).real, np.complex128)


def agrees(samples: npt.NDArray[np.generic], expected: npt.ArrayLike) -> None:
    """The mean over shots, column by column, lies within 3 of its standard errors."""
    values = np.asarray(samples, np.float64)
    error = values.std(axis=0) / math.sqrt(len(values))
    assert (np.abs(values.mean(axis=0) - expected) <= 3 * error + 1e-9).all()


def bits(
    rng: np.random.Generator, kets: Complex, a: tuple[float, ...], b: tuple[float, ...]
) -> npt.NDArray[np.int64]:
    """Products (+1, -1) of both outcomes of pairs, the first along a, the second along b."""
    first, kets = states.measure(rng, kets, 0, a)
    second, _ = states.measure(rng, kets, 0, b)
    return np.asarray(1 - 2 * (first ^ second))


def same_as_phi_plus(rng: np.random.Generator, kets: Complex) -> Real:
    """Shots whose mean is the fidelity with Phi+: 1 + XX - YY + ZZ over 4, an axis per shot."""
    signs = ((X, 1), (Y, -1), (Z, 1))
    which = rng.integers(0, 3, len(kets))
    out = np.empty(len(kets))
    for i, (axis, sign) in enumerate(signs):
        out[which == i] = (1 + 3 * sign * bits(rng, kets[which == i], axis, axis)) / 4
    return out


# --- the Bell index


def test_bell_states_have_the_correlations_of_the_swapping_analysis() -> None:
    for index, name in enumerate(("phi+", "psi+", "phi-", "psi-")):
        t = states.correlations(np.outer(states.BELL[index], states.BELL[index].conj()))
        zz, xx, yy = BELL_TENSORS[name]
        assert t == pytest.approx(np.diag([xx, yy, zz]), abs=1e-12)
    gram = states.BELL @ states.BELL.conj().T
    assert gram == pytest.approx(np.eye(4))


def test_index_of_a_swap_is_the_xor_of_all_64_cases() -> None:
    eye = np.eye(4)
    for i, j in itertools.product(range(4), repeat=2):
        p, left = states.swap(states.bell_diagonal(eye[i]), states.bell_diagonal(eye[j]))
        assert p == pytest.approx(np.full(4, 0.25))
        for m in range(4):
            assert states.bell_weights(left[m]) == pytest.approx(eye[i ^ j ^ m])


def test_shots_of_a_bell_measurement_tell_the_index() -> None:
    rng = np.random.default_rng(1)
    for index in range(4):
        kets = states.sample_kets(rng, states.bell_diagonal(np.eye(4)[index]), 20)
        told, rest = states.sample_bell_measurement(rng, kets, 0, 1)
        assert (told == index).all()
        assert rest.shape == (20,)
        assert np.abs(rest) == pytest.approx(1)


# --- swapping


@pytest.mark.parametrize(("f1", "f2", "expected"), [(0.9, 0.9, 0.8133), (0.98, 0.98, 0.9605)])
def test_werner_swap(f1: float, f2: float, expected: float) -> None:
    exact = float(states.swap_fidelity(f1, f2))
    assert exact == pytest.approx(expected, abs=5e-5)
    w = [(4 * f - 1) / 3 for f in (f1, f2, exact)]
    assert w[2] == pytest.approx(w[0] * w[1])
    assert states.combine(states.werner(f1), states.werner(f2)) == pytest.approx(
        states.werner(exact)
    )
    rng = np.random.default_rng(2)
    pairs = [
        states.sample_kets(rng, states.bell_diagonal(states.werner(f)), SHOTS) for f in (f1, f2)
    ]
    told, kets = states.sample_bell_measurement(rng, states.tensor(*pairs), 1, 2)
    agrees(np.eye(4)[told], 0.25)
    agrees(same_as_phi_plus(rng, states.apply(kets, FRAMES[told], 1)), exact)


@settings(max_examples=30)
@given(weights, weights)
def test_bell_diagonal_swap_is_the_xor_convolution(left: Real, right: Real) -> None:
    expected = [sum(left[j] * right[k ^ j] for j in range(4)) for k in range(4)]
    assert states.combine(left, right) == pytest.approx(expected)
    _, out = states.swap(states.bell_diagonal(left), states.bell_diagonal(right))
    corrected = states.correct(out, range(4))
    assert corrected == pytest.approx(np.array([states.bell_diagonal(expected)] * 4))


def test_bell_diagonal_swap_in_shots() -> None:
    rng = np.random.default_rng(3)
    left, right = np.array([0.7, 0.15, 0.1, 0.05]), np.array([0.6, 0.02, 0.3, 0.08])
    pairs = [states.sample_kets(rng, states.bell_diagonal(w), SHOTS) for w in (left, right)]
    told, kets = states.sample_bell_measurement(rng, states.tensor(*pairs), 1, 2)
    index, _ = states.sample_bell_measurement(rng, kets, 0, 1)
    agrees(np.eye(4)[index ^ told], states.combine(left, right))


@settings(max_examples=20)
@given(shares, shares, st.integers(0, 2**32))
def test_imperfect_swap_of_two_links_is_briegels(gate: float, readout: float, seed: int) -> None:
    f1, f2 = np.random.default_rng(seed).uniform(0.25, 1, 2)
    left, right = (states.bell_diagonal(states.werner(f)) for f in (f1, f2))
    p, out = states.swap(left, right, gate, readout)
    assert p == pytest.approx(np.full(4, 0.25))
    w = (4 * f1 - 1) * (4 * f2 - 1) / 9
    expected = (1 + 3 * gate * (4 * readout**2 - 1) / 3 * w) / 4
    assert states.fidelity(states.correct(out, range(4))) == pytest.approx(np.full(4, expected))
    if f1 == f2:
        assert states.swap_chain_fidelity(2, f1, gate, readout) == pytest.approx(expected)


def test_swap_chain() -> None:
    assert states.swap_chain_fidelity(2, 0.9) == pytest.approx(0.8133, abs=5e-5)
    assert states.swap_chain_fidelity(1, 0.9, 0.5, 0.6) == pytest.approx(0.9)
    # three perfect joins of F = 0.9933 give 0.98 (physics.md: "three ... links")
    assert states.swap_chain_fidelity(3, 0.9933) == pytest.approx(0.98, abs=1e-4)
    # with a twirl after each swap it holds for any length; without, misread bits cancel
    f, gate, readout = 0.95, 0.97, 0.93
    link = states.bell_diagonal(states.werner(f))
    twirled = plain = link
    for links in range(2, 6):
        twirled = states.twirl(_joined(twirled, link, gate, readout))
        plain = _joined(plain, link, gate, readout)
        briegel = states.swap_chain_fidelity(links, f, gate, readout)
        assert states.fidelity(twirled) == pytest.approx(briegel, rel=1e-12)
        told = ((1 + (2 * readout - 1) ** (links - 1)) / 2) ** 2
        w = gate ** (links - 1) * ((4 * f - 1) / 3) ** links
        assert states.fidelity(plain) == pytest.approx(w * told + (1 - w) / 4, rel=1e-12)
        assert states.fidelity(plain) >= briegel - 1e-12


def _joined(left: Complex, right: Complex, gate: float, readout: float) -> Complex:
    p, out = states.swap(left, right, gate, readout)
    joined: Complex = np.einsum("m,mij->ij", p, states.correct(out, range(4)))
    return joined


def test_imperfect_swap_in_shots() -> None:
    rng, f, gate, readout = np.random.default_rng(4), 0.9, 0.9, 0.95
    link = states.bell_diagonal(states.werner(f))
    kets = states.tensor(*(states.sample_kets(rng, link, SHOTS) for _ in range(2)))
    told, kets = states.sample_bell_measurement(rng, kets, 1, 2, gate, readout)
    kets = states.apply(kets, FRAMES[told], 1)
    agrees(same_as_phi_plus(rng, kets), states.swap_chain_fidelity(2, f, gate, readout))


# --- purification


@pytest.mark.parametrize(("f", "expected", "p"), [(0.8, 0.8382, 0.7689)])
def test_bbpssw(f: float, expected: float, p: float) -> None:
    probability, fidelity = states.bbpssw(f)
    assert fidelity == pytest.approx(expected, abs=5e-5)
    assert probability == pytest.approx(p, abs=5e-5)
    rho = states.bell_diagonal(states.werner(f))
    exact_p, exact = states.purify(rho, rho, "bbpssw")
    assert [exact_p, states.fidelity(exact)] == pytest.approx(np.array([probability, fidelity]))
    rng = np.random.default_rng(5)
    kets = states.tensor(*(states.sample_kets(rng, rho, SHOTS) for _ in range(2)))
    agreed, kets = _coincidence(rng, kets)
    agrees(agreed, probability)
    agrees(same_as_phi_plus(rng, kets[agreed]), fidelity)


def _coincidence(rng: np.random.Generator, kets: Complex) -> tuple[npt.NDArray[np.bool_], Complex]:
    """CNOT from 0 to 2 and from 1 to 3, then 2 and 3 in Z: whether they agree, and 0 and 1."""
    for control in (0, 1):
        kets = states.apply(kets, CNOT, control, control + 2)
    alice, kets = states.measure(rng, kets, 2)
    bob, kets = states.measure(rng, kets, 2)
    return alice == bob, kets


CNOT: Complex = np.eye(4, dtype=np.complex128)[[0, 1, 3, 2]]


def test_dejmps() -> None:
    # the sheet's (A, B, C, D) are Phi+, Psi-, Psi+, Phi-
    start = np.array([0.7, 0.15, 0.1, 0.05])  # Phi+, Psi+, Phi-, Psi-
    p, out = states.dejmps(start)
    assert p == pytest.approx(0.625)
    assert out[[PHI_PLUS, PSI_MINUS, PSI_PLUS, PHI_MINUS]] == pytest.approx(
        [0.788, 0.048, 0.052, 0.112]
    )
    werner_p, werner_out = states.dejmps(states.werner(0.8))
    assert [werner_p, werner_out[0]] == pytest.approx(np.array(states.bbpssw(0.8)))
    rng = np.random.default_rng(6)
    rho = states.bell_diagonal(start)
    kets = states.tensor(*(states.sample_kets(rng, rho, SHOTS) for _ in range(2)))
    quarter = np.asarray(np.array([[1, -1j], [-1j, 1]]) / math.sqrt(2), np.complex128)
    for qubit in range(4):
        kets = states.apply(kets, quarter if qubit % 2 == 0 else quarter.conj(), qubit)
    agreed, kets = _coincidence(rng, kets)
    agrees(agreed, p)
    index, _ = states.sample_bell_measurement(rng, kets[agreed], 0, 1)
    agrees(np.eye(4)[index], out)


@settings(max_examples=30)
@given(weights, weights)
def test_circuits_of_unequal_pairs_follow_the_closed_forms(left: Real, right: Real) -> None:
    pairs = states.bell_diagonal(left), states.bell_diagonal(right)
    p, out = states.purify(*pairs)
    expected_p, expected = states.dejmps(left, right)
    assert p == pytest.approx(expected_p)
    assert out == pytest.approx(states.bell_diagonal(expected))
    p, out = states.purify(*pairs, "bbpssw")
    expected_p, fidelity = states.bbpssw(left[0], right[0])
    assert [p, states.fidelity(out)] == pytest.approx(np.array([expected_p, fidelity]))


def test_bbpssw_gains_above_one_half_only() -> None:
    f = np.linspace(0.26, 0.99, 50)
    gain = states.bbpssw(f)[1] - f
    assert ((gain > 0) == (f > 0.5)).all()


def test_todays_gates_hardly_purify() -> None:
    # physics.md sec. 9, truthful demonstration: a swapped pair, gates of 97 and readout of 98 %
    link = states.bell_diagonal(states.werner(0.88))
    _, swapped = states.swap(link, link, 0.97, 0.98)
    pair = states.correct(swapped, range(4))[0]
    before = states.fidelity(pair)
    assert states.fidelity(states.purify(pair, pair)[1]) > before + 0.02
    _, after = states.purify(pair, pair, gate=0.97, readout=0.98)
    assert abs(states.fidelity(after) - before) < 0.02
    assert states.fidelity(states.purify(pair, pair, gate=0.9, readout=0.95)[1]) < before


def test_purification_with_noise_in_shots() -> None:
    rng, gate, readout = np.random.default_rng(7), 0.9, 0.95
    rho = states.bell_diagonal(states.werner(0.85))
    p, out = states.purify(rho, rho, "bbpssw", gate, readout)
    kets = states.tensor(*(states.sample_kets(rng, rho, SHOTS) for _ in range(2)))
    for control in (0, 1):
        kets = states.apply(kets, CNOT, control, control + 2)
        kets = states.sample_gate_noise(rng, kets, control, control + 2, gate)
    alice, kets = states.measure(rng, kets, 2, readout=readout)
    bob, kets = states.measure(rng, kets, 2, readout=readout)
    agrees(alice == bob, p)
    agrees(same_as_phi_plus(rng, kets[alice == bob]), states.fidelity(out))


# --- teleportation


@pytest.mark.parametrize(("f", "expected"), [(0.9, 0.9333), (0.5, 2 / 3)])
def test_teleportation(f: float, expected: float) -> None:
    exact = states.teleportation_fidelity(f)
    assert exact == pytest.approx(expected, abs=5e-5)
    rng, n = np.random.default_rng(8), SHOTS
    inputs = rng.normal(size=(n, 2)) + 1j * rng.normal(size=(n, 2))  # uniform on the sphere
    inputs /= np.linalg.norm(inputs, axis=1)[:, None]
    pair = states.bell_diagonal(states.werner(f))
    kets = states.tensor(inputs, states.sample_kets(rng, pair, n))
    told, kets = states.sample_bell_measurement(rng, kets, 0, 1)
    kets = states.apply(kets, FRAMES[told], 0)
    found = rng.random(n) < np.abs(np.sum(inputs.conj() * kets, axis=1)) ** 2  # a projection
    agrees(found, exact)


@settings(max_examples=20)
@given(weights, st.integers(0, 2**32))
def test_mean_teleportation_fidelity_needs_the_fidelity_only(w: Real, seed: int) -> None:
    # six states of three unbiased bases stand for the whole sphere (a 2-design)
    six = np.array([[1, 0], [0, 1], [1, 1], [1, -1], [1, 1j], [1, -1j]], np.complex128)
    six /= np.linalg.norm(six, axis=1)[:, None]
    inputs = np.einsum("ni,nj->nij", six, six.conj())
    rho = states.bell_diagonal(w)
    for pair, f in ((rho, w[0]), (turned := random_state(np.random.default_rng(seed)), None)):
        p, out = states.teleport(inputs, pair)
        got = np.einsum("nm,nmij,nji->", p, states.correct(out, range(4)), inputs).real / 6
        f = float(states.fidelity(turned)) if f is None else f
        assert got == pytest.approx(states.teleportation_fidelity(f))


# --- storage


def test_werner_pairs_decay_with_both_rates() -> None:
    t, ta, tb, f = 0.3, 1.0, 0.4, 0.95
    rng = np.random.default_rng(9)
    rho = states.bell_diagonal(states.werner(f))
    stored = states.pauli_errors(rho, states.depolarizing(t, ta), states.depolarizing(t, tb))
    w = (4 * f - 1) / 3 * math.exp(-t * (1 / ta + 1 / tb))
    assert stored == pytest.approx(states.bell_diagonal(states.werner((3 * w + 1) / 4)))
    # each qubit hit by random Paulis at random times, at 3/4 of its rate for X, Y and Z together
    kets = states.sample_kets(rng, rho, SHOTS)
    for qubit, lifetime in ((0, ta), (1, tb)):
        hits = rng.poisson(t / lifetime, SHOTS)
        for nth in range(int(hits.max())):
            hit = np.where(hits > nth, rng.integers(0, 4, SHOTS), 0)
            kets = states.apply(kets, states.PAULIS[hit], qubit)
    agrees(same_as_phi_plus(rng, kets), (3 * w + 1) / 4)


def test_dephasing_leaves_z_alone() -> None:
    t, coherence = 0.7, 2.0
    rng = np.random.default_rng(10)
    rho = states.bell_diagonal([1, 0, 0, 0])
    stored = states.pauli_errors(
        rho, states.dephasing(t, coherence), states.dephasing(t, coherence)
    )
    kept = math.exp(-2 * t / coherence)
    assert states.correlations(stored) == pytest.approx(np.diag([kept, -kept, 1]))
    # phases that diffuse: variance 2 t/T
    phase = rng.normal(0, math.sqrt(2 * t / coherence), (2, SHOTS))
    kets = states.sample_kets(rng, rho, SHOTS)
    for qubit in (0, 1):
        turn = np.zeros((SHOTS, 2, 2), np.complex128)
        turn[:, 0, 0], turn[:, 1, 1] = 1, np.exp(1j * phase[qubit])
        kets = states.apply(kets, turn, qubit)
    agrees(bits(rng, kets, X, X), kept)
    assert (bits(rng, kets, Z, Z) == 1).all()


@settings(max_examples=20)
@given(weights, weights, weights)
def test_pauli_channels_on_either_qubit_convolve(w: Real, a: Real, b: Real) -> None:
    stored = states.pauli_errors(states.bell_diagonal(w), a, b)
    expected = states.combine(states.combine(w, a), b)
    assert stored == pytest.approx(states.bell_diagonal(expected))


# --- key and CHSH


def _crossing(value: Callable[[float], float], low: float, high: float) -> float:
    """Where an increasing function is 0."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) < 0 else (low, middle)
    return low


def test_thresholds_of_key_and_chsh() -> None:
    def bb84(f: float) -> float:
        q = 2 * (1 - f) / 3
        return asymptotic_key_fraction(q, q, 1.0)

    f = _crossing(bb84, 0.7, 1.0)
    assert f == pytest.approx(0.835, abs=5e-4)
    assert 2 * (1 - f) / 3 == pytest.approx(0.11003, abs=1e-5)
    f = _crossing(lambda f: float(states.hashing_bound(states.werner(f))), 0.7, 1.0)
    assert f == pytest.approx(0.8107, abs=5e-5)
    assert 2 * (1 - f) / 3 == pytest.approx(0.1262, abs=5e-5)
    assert states.hashing_bound(states.werner(0.9)) == pytest.approx(
        1 + 0.9 * math.log2(0.9) + 0.1 * math.log2(0.1 / 3)
    )
    assert states.hashing_bound([1, 0, 0, 0]) == 1
    f = _crossing(lambda f: float(states.chsh_limit(_werner(f))) - 2, 0.5, 1.0)
    assert f == pytest.approx(0.7803, abs=5e-5)


def _werner(f: float) -> Complex:
    return states.bell_diagonal(states.werner(f))


@pytest.mark.parametrize("f", [0.9, 0.7803])
def test_qber_and_chsh_in_shots(f: float) -> None:
    rng = np.random.default_rng(11)
    # BBM92: both in Z, or both in X
    errors = []
    for axis in (Z, X):
        products = bits(rng, states.sample_kets(rng, _werner(f), SHOTS), axis, axis)
        errors.append(products < 0)
        agrees(errors[-1], 2 * (1 - f) / 3)
    q = float(np.mean(errors))
    sigma = math.sqrt(q * (1 - q) / (2 * SHOTS))
    expected = asymptotic_key_fraction(2 * (1 - f) / 3, 2 * (1 - f) / 3, 1.0)
    slope = 2 * math.log2((1 - q) / q)
    assert abs(asymptotic_key_fraction(q, q, 1.0) - expected) < 3 * sigma * slope
    # CHSH with the directions of Phi+
    r = math.sqrt(0.5)
    total, variance = 0.0, 0.0
    for a, b, sign in (
        (Z, (r, 0.0, r), 1),
        (Z, (-r, 0.0, r), 1),
        (X, (r, 0.0, r), 1),
        (X, (-r, 0.0, r), -1),
    ):
        products = bits(rng, states.sample_kets(rng, _werner(f), SHOTS), a, b)
        total += sign * float(products.mean())
        variance += float(products.var()) / SHOTS
    exact = 2 * math.sqrt(2) * (4 * f - 1) / 3
    assert states.chsh_limit(_werner(f)) == pytest.approx(exact)
    assert abs(total - exact) < 3 * math.sqrt(variance)


def test_six_state_key_in_shots() -> None:
    # the fraction from Bell-state counts of a sample, error to first order
    rng, f = np.random.default_rng(12), 0.9
    index, _ = states.sample_bell_measurement(rng, states.sample_kets(rng, _werner(f), SHOTS), 0, 1)
    seen = np.bincount(index, minlength=4) / SHOTS
    logs = np.log2(seen)
    sigma = math.sqrt((np.sum(seen * logs**2) - np.sum(seen * logs) ** 2) / SHOTS)
    expected = 1 + f * math.log2(f) + (1 - f) * math.log2((1 - f) / 3)
    assert abs(states.hashing_bound(seen) - expected) < 3 * sigma


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_no_directions_beat_the_chsh_limit_and_some_reach_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rho = random_state(rng)
    t = states.correlations(rho)
    u, s, v = np.linalg.svd(t)
    limit = states.chsh_limit(rho)
    b = s[0] * v[0] + s[1] * v[1], s[0] * v[0] - s[1] * v[1]
    b = tuple(x / np.linalg.norm(x) for x in b)
    best = u[:, 0] @ t @ (b[0] + b[1]) + u[:, 1] @ t @ (b[0] - b[1])
    assert best == pytest.approx(float(limit))
    for _ in range(20):
        a = rng.normal(size=(4, 3))
        a /= np.linalg.norm(a, axis=1)[:, None]
        assert abs(a[0] @ t @ (a[2] + a[3]) + a[1] @ t @ (a[2] - a[3])) <= limit + 1e-12


# --- the tools


@settings(max_examples=20)
@given(st.integers(0, 2**32), shares, shares)
def test_swaps_of_any_states_are_states_and_batches_are_loops(
    seed: int, gate: float, readout: float
) -> None:
    rng = np.random.default_rng(seed)
    left, right = (np.array([random_state(rng) for _ in range(3)]) for _ in range(2))
    for function in (states.swap, states.purify):
        for gates in ((gate, readout), (1.0, 1.0)):
            if function is states.swap:
                p, out = states.swap(left, right, *gates)
                alone = [states.swap(a, b, *gates) for a, b in zip(left, right, strict=True)]
                assert p.sum(axis=1) == pytest.approx(1)
            else:
                p, out = states.purify(left, right, "dejmps", *gates)
                alone = [
                    states.purify(a, b, "dejmps", *gates) for a, b in zip(left, right, strict=True)
                ]
            assert p == pytest.approx(np.array([x[0] for x in alone]))
            assert out == pytest.approx(np.array([x[1] for x in alone]))
            assert np.einsum("...ii", out) == pytest.approx(1)
            assert np.linalg.eigvalsh(out).min() > -1e-10
    w = np.moveaxis(states.bell_weights(left), -1, 0).T
    assert states.dejmps(w)[1][1] == pytest.approx(states.dejmps(w[1])[1])


def test_shots_keep_order_and_norm() -> None:
    rng = np.random.default_rng(13)
    u = np.linalg.qr(rng.normal(size=(4, 4)) + 1j * rng.normal(size=(4, 4)))[0]
    ket = rng.normal(size=(5, 2, 2, 2)) + 1j * rng.normal(size=(5, 2, 2, 2))
    got = states.apply(ket, u, 2, 0)
    # rows of u: (qubit 2, qubit 0)
    expected = np.einsum("caki,nibk->nabc", u.reshape(2, 2, 2, 2), ket)
    assert got == pytest.approx(expected)
    ket /= np.linalg.norm(ket.reshape(5, -1), axis=1)[:, None, None, None]
    _, left = states.measure(rng, ket, 1, (0.6, 0.0, 0.8))
    assert left.shape == (5, 2, 2)
    assert np.linalg.norm(left.reshape(5, -1), axis=1) == pytest.approx(1)


def test_outcome_zero_is_along_the_axis() -> None:
    rng = np.random.default_rng(14)
    for axis, ket in ((X, [1, 1]), (Y, [1, 1j]), (Z, [1, 0]), ((0, 0, -1.0), [0, 1])):
        kets = np.array([ket] * 50) / np.linalg.norm(ket)
        assert (states.measure(rng, kets.astype(np.complex128), 0, axis)[0] == 0).all()
        told = states.measure(rng, kets.astype(np.complex128), 0, axis, readout=0.0)[0]
        assert (told == 1).all()


@pytest.mark.parametrize(
    ("act", "word"),
    [
        (lambda: states.bell_measurement(1.1), "gate"),
        (lambda: states.bell_measurement(1.0, -0.1), "readout"),
        (lambda: states.swap_chain_fidelity(0, 0.9), "at least one link"),
        (lambda: states.partial_trace(np.eye(3, dtype=np.complex128), [0]), "2\\^n"),
    ],
)
def test_what_cannot_be_is_refused(act: Callable[[], object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        act()
