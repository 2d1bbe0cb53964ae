"""States, storage and heralds against QuTiP, which knows nothing of our conventions."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import qutip
from bellbench.sims.physics import polarization as pol
from bellbench.sims.physics import states
from bellbench.sims.physics.emitter import Emitter, Heralds, Station, one_click, two_clicks

Complex = npt.NDArray[np.complex128]

# QuTiP carries no types: its objects are Any here
CNOT: Any = qutip.Qobj(np.eye(4)[[0, 1, 3, 2]], dims=[[2, 2], [2, 2]])
BELL: list[Any] = [
    qutip.bell_state(name) for name in ("00", "10", "01", "11")
]  # Phi+, Psi+, Phi-, Psi-


def random_pair(seed: int) -> tuple[Complex, Any]:
    rho = qutip.rand_dm([2, 2], seed=seed)
    return np.asarray(rho.full(), np.complex128), rho


def on(operator: Any, qubits: Sequence[int], n: int) -> Any:
    return qutip.expand_operator(operator, dims=[2] * n, targets=list(qubits))


def noisy_cnot(rho: Any, control: int, target: int, gate: float) -> Any:
    """Briegel's: with 1 - gate both qubits come out mixed; here as Kraus operators."""
    n = len(rho.dims[0])
    u = on(CNOT, (control, target), n)
    good = u * rho * u.dag()
    paulis = [qutip.qeye(2), qutip.sigmax(), qutip.sigmay(), qutip.sigmaz()]
    mixed = 0 * good
    for a, b in itertools.product(paulis, repeat=2):
        k = on(qutip.tensor(a, b), (control, target), n)
        mixed += k * good * k.dag() / 16
    return gate * good + (1 - gate) * mixed


def readout_operator(bit: int, right: float) -> Any:
    return qutip.Qobj(np.diag([right, 1 - right] if bit == 0 else [1 - right, right]))


def same(got: Complex, expected: Any) -> None:
    assert got == pytest.approx(expected.full(), abs=1e-12)


# --- small states


@pytest.mark.parametrize("seed", [1, 2])
def test_fidelity_trace_and_correlations(seed: int) -> None:
    rho, oracle = random_pair(seed)
    for index, ket in enumerate(BELL):
        assert abs(ket.overlap(qutip.Qobj(states.BELL[index], dims=ket.dims))) == pytest.approx(1)
        # QuTiP's fidelity is the root of ours
        assert states.bell_weights(rho)[index] == pytest.approx(
            qutip.fidelity(oracle, ket) ** 2, abs=1e-7
        )
    for keep in ([0], [1], [1, 0]):
        traced = oracle.ptrace(keep) if len(keep) == 1 else oracle.permute(keep)
        same(states.partial_trace(rho, keep), traced)
    sigma = [qutip.sigmax(), qutip.sigmay(), qutip.sigmaz()]
    expected = [[qutip.expect(qutip.tensor(a, b), oracle) for b in sigma] for a in sigma]
    assert states.correlations(rho) == pytest.approx(np.array(expected))
    eight = qutip.rand_dm([2, 2, 2], seed=seed)
    same(states.partial_trace(eight.full(), [2, 0]), eight.permute([2, 0, 1]).ptrace([0, 1]))


def test_pair_state_of_the_source_and_its_concurrence() -> None:
    w = 0.9
    rho = pol.pair_state(w)
    same(rho, w * qutip.ket2dm(BELL[0]) + (1 - w) * qutip.qeye([2, 2]) / 4)
    werner = states.bell_diagonal(states.werner((1 + 3 * w) / 4))
    assert rho == pytest.approx(werner)
    oracle = qutip.Qobj(werner, dims=[[2, 2], [2, 2]])
    assert qutip.concurrence(oracle) == pytest.approx((3 * w - 1) / 2)


# --- circuits


@pytest.mark.parametrize(("gate", "readout"), [(1.0, 1.0), (0.93, 0.96)])
def test_swap_of_random_pairs(gate: float, readout: float) -> None:
    (left, left_q), (right, right_q) = random_pair(3), random_pair(4)
    p, out = states.swap(left, right, gate, readout)
    rho = noisy_cnot(qutip.tensor(left_q, right_q), 1, 2, gate)
    h = on(qutip.Qobj(np.array([[1, 1], [1, -1]]) / math.sqrt(2)), [1], 4)
    rho = h * rho * h.dag()
    for index in range(4):
        told = qutip.tensor(*(readout_operator(bit, readout) for bit in divmod(index, 2)))
        kept = (on(told, (1, 2), 4) * rho).ptrace([0, 3])
        assert p[index] == pytest.approx(kept.tr().real)
        same(out[index], kept / kept.tr())
        u = on(qutip.Qobj(states.PAULIS[index]), [1], 2)
        same(states.correct(out[index], index), u.dag() * kept * u / kept.tr())


@pytest.mark.parametrize(("gate", "readout"), [(1.0, 1.0), (0.93, 0.96)])
@pytest.mark.parametrize("method", ["bbpssw", "dejmps"])
def test_purification_of_random_pairs(method: Any, gate: float, readout: float) -> None:
    (kept, kept_q), (spent, spent_q) = random_pair(5), random_pair(6)
    p, out = states.purify(kept, spent, method, gate, readout)
    if method == "dejmps":
        quarter = (-0.25j * math.pi * qutip.sigmax()).expm()
        turn = qutip.tensor(quarter, quarter.dag())
        kept_q, spent_q = (turn * rho * turn.dag() for rho in (kept_q, spent_q))
    else:
        phi = qutip.ket2dm(BELL[0])
        rest = qutip.qeye([2, 2]) - phi
        kept_q, spent_q = (
            f * phi + (1 - f) * rest / 3
            for f in (qutip.expect(phi, rho) for rho in (kept_q, spent_q))
        )
    rho = qutip.tensor(kept_q, spent_q)
    for control in (0, 1):
        rho = noisy_cnot(rho, control, control + 2, gate)
    left = sum(
        (on(qutip.tensor(*[readout_operator(bit, readout)] * 2), (2, 3), 4) * rho).ptrace([0, 1])
        for bit in (0, 1)
    )
    assert p == pytest.approx(left.tr().real)
    same(out, left / left.tr())


def test_teleportation_of_a_random_state() -> None:
    pair, pair_q = random_pair(7)
    sent = qutip.rand_dm(2, seed=8)
    p, out = states.teleport(sent.full(), pair, 0.95, 0.97)
    rho = noisy_cnot(qutip.tensor(sent, pair_q), 0, 1, 0.95)
    h = on(qutip.Qobj(np.array([[1, 1], [1, -1]]) / math.sqrt(2)), [0], 3)
    rho = h * rho * h.dag()
    for index in range(4):
        told = qutip.tensor(*(readout_operator(bit, 0.97) for bit in divmod(index, 2)))
        got = (on(told, (0, 1), 3) * rho).ptrace([2])
        assert p[index] == pytest.approx(got.tr().real)
        same(out[index], got / got.tr())


# --- storage as a master equation


@pytest.mark.parametrize("kind", ["dephasing", "depolarizing"])
def test_storage_solves_the_master_equation(kind: str) -> None:
    rho, oracle = random_pair(9)
    t, times = 0.4, (1.3, 0.6)
    # each Pauli at rate g shrinks what it anticommutes with by e^(-2 g t)
    if kind == "dephasing":
        jumps = [math.sqrt(1 / (2 * T)) * on(qutip.sigmaz(), [q], 2) for q, T in enumerate(times)]
    else:
        jumps = [
            math.sqrt(1 / (4 * T)) * on(pauli, [q], 2)
            for q, T in enumerate(times)
            for pauli in (qutip.sigmax(), qutip.sigmay(), qutip.sigmaz())
        ]
    evolved = qutip.mesolve(
        0 * on(qutip.sigmaz(), [0], 2),
        oracle,
        [0, t],
        jumps,
        options={"atol": 1e-12, "rtol": 1e-10},
    ).states[-1]
    channel = getattr(states, kind)
    stored = states.pauli_errors(rho, channel(t, times[0]), channel(t, times[1]))
    assert stored == pytest.approx(evolved.full(), abs=1e-8)


# --- emitters in Fock space: modes l and r, each with a common and a private shape


def _attempt(rho: Any, station: Station, etas: tuple[float, float], pattern: int) -> Any:
    """Unnormalized spins after one round in which only c (0) or only d (1) clicks."""
    levels = 3
    a = qutip.destroy(levels)
    vacuum = qutip.basis(levels, 0)
    # modes: l, r common, r private. The right photon is sqrt(M) common, the rest private
    m = station.overlap
    emitted = {
        0: qutip.tensor(vacuum, vacuum, vacuum),
        1: math.sqrt(m) * qutip.tensor(vacuum, qutip.basis(levels, 1), vacuum)
        + math.sqrt(1 - m) * qutip.tensor(vacuum, vacuum, qutip.basis(levels, 1)),
    }
    one_l = qutip.tensor(a.dag(), qutip.qeye(levels), qutip.qeye(levels))
    photons = {
        (i, j): (one_l if i else 1) * emitted[j] for i, j in itertools.product((0, 1), repeat=2)
    }
    operators = [
        qutip.tensor(*(a if k == mode else qutip.qeye(levels) for k in range(3)))
        for mode in range(3)
    ]
    left, right, private = operators

    # the private shape of the right photon meets an empty mode: in either port with 1/2
    # normally ordered exp(-n) to second order is exact: there are two photons at most
    def silence(which: Sequence[int]) -> Any:
        total = qutip.qeye([levels] * 3)
        fields = []
        for k in which:
            sign = 1 - 2 * k
            fields.append(
                (math.sqrt(etas[0]) * left + sign * math.sqrt(etas[1]) * right) / math.sqrt(2)
            )
            fields.append(math.sqrt(etas[1] / 2) * private)
        for f in fields:
            total = total - f.dag() * f
        for f, g in itertools.product(fields, repeat=2):
            total = total + 0.5 * f.dag() * g.dag() * g * f
        return total

    dark = station.dark
    quiet = 1 - pattern
    povm = (1 - dark) * silence([quiet]) - (1 - dark) ** 2 * silence([0, 1])
    out = np.zeros((4, 4), np.complex128)
    spins = rho.full()
    for (i, j), (k, n) in itertools.product(photons, repeat=2):
        weight = photons[(k, n)].dag() * povm * photons[(i, j)]
        out[2 * i + j, 2 * k + n] = spins[2 * i + j, 2 * k + n] * complex(weight)
    return qutip.Qobj(out, dims=[[2, 2], [2, 2]])


def _phase_noise(rho: Any, rms: float, mean: float = 0.0) -> Any:
    """Gaussian phase of the left photon: coherence between its numbers, here the left spin's."""
    z = on(qutip.sigmaz(), [0], 2)
    kept = math.exp(-(rms**2) / 2)
    turn = (0.5j * mean * -z).expm()
    noisy = (1 + kept) / 2 * rho + (1 - kept) / 2 * z * rho * z
    return turn * noisy * turn.dag()


def _start(left: Emitter, right: Emitter) -> Any:
    kets = [
        math.sqrt(1 - node.bright) * qutip.basis(2, 0) + math.sqrt(node.bright) * qutip.basis(2, 1)
        for node in (left, right)
    ]
    return qutip.ket2dm(qutip.tensor(*kets))


CASES = [
    (Emitter(0.3, 0.9), Emitter(0.3, 0.9), Station()),
    (Emitter(0.5, 0.4), Emitter(0.2, 0.7), Station(0.6, 0.03, 0.4, 0.5)),
    (Emitter(0.7, 1.0), Emitter(0.6, 0.2), Station(0.0, 0.1, -1.0, 0.2)),
]


def _compare(heralds: Heralds, expected: Sequence[Any]) -> None:
    for p, rho, oracle in zip(heralds.probability, heralds.states, expected, strict=True):
        assert p == pytest.approx(oracle.tr().real, abs=1e-12)
        same(rho, oracle / oracle.tr())


@pytest.mark.parametrize(("left", "right", "station"), CASES)
def test_one_click_in_fock_space(left: Emitter, right: Emitter, station: Station) -> None:
    etas = left.detection, right.detection
    start = _phase_noise(_start(left, right), station.phase_rms_rad, station.phase_rad)
    _compare(one_click(left, right, station), [_attempt(start, station, etas, k) for k in (0, 1)])


@pytest.mark.parametrize(("left", "right", "station"), CASES)
def test_two_clicks_in_fock_space(left: Emitter, right: Emitter, station: Station) -> None:
    etas, change = (left.detection, right.detection), 0.7
    flip = qutip.tensor(qutip.sigmax(), qutip.sigmax())
    found: list[Any] = []
    for same_detector in (True, False):
        total: Any = 0
        for k in (0, 1):
            rho = _attempt(_start(left, right), station, etas, k)
            rho = _phase_noise(flip * rho * flip, change)
            total = total + _attempt(rho, station, etas, k if same_detector else 1 - k)
        found.append(total)
    _compare(two_clicks(left, right, station, change), found)
