"""Interference against perceval (photons in Fock space) and thewalrus (Gaussian states)."""

import itertools
import math
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import perceval as pcvl
import pytest
from bellbench.sims.physics import polarization as pol
from bellbench.sims.physics import states
from bellbench.sims.physics.pair_statistics import g2, number_probabilities
from bellbench.sims.physics.pulsed_pairs import (
    ClickStatistics,
    PairPulse,
    arm_units,
    bell_station_units,
)
from thewalrus import numba_tor, symplectic
from thewalrus.quantum import Qmat

Complex = npt.NDArray[np.complex128]

ONE: Complex = np.eye(2, dtype=np.complex128)
H: Complex = np.array([np.diag([1.0, 0.0])], np.complex128)


def station(**how: Any) -> Complex:
    return bell_station_units(
        (0, 1),
        (1, 1),
        how.pop("jones_left", ONE),
        how.pop("jones_right", ONE),
        2,
        reflectivity=how.pop("reflectivity", 0.5),
        extinction_db=400.0,
        overlap=how.pop("overlap", 1.0),
    )


# --- perceval


def splitter(reflectivity: float = 0.5) -> Any:
    # perceval's angle: cos^2(theta/2) stays in its mode
    return pcvl.BS.H(theta=2 * math.acos(math.sqrt(1 - reflectivity)))


def outcomes(circuit: Any, photons: Any, **noise: float) -> dict[tuple[int, ...], float]:
    """Photons per output mode, and how likely."""
    processor = pcvl.Processor("SLOS", circuit, noise=pcvl.NoiseModel(**noise))
    processor.min_detected_photons_filter(0)
    processor.with_input(photons)
    return {tuple(state): float(p) for state, p in processor.probs()["results"].items()}


@pytest.mark.parametrize("m", [1.0, 0.8, 0.0])
@pytest.mark.parametrize("r", [0.5, 0.3])
def test_dip_of_two_photons(m: float, r: float) -> None:
    found = outcomes(splitter(r), pcvl.BasicState([1, 1]), indistinguishability=m).get((1, 1), 0.0)
    assert found == pytest.approx(r * r + (1 - r) ** 2 - 2 * r * (1 - r) * m)
    # heralded photons of two faint sources
    heralds = [arm_units(H, ONE, s, 0, 2) for s in (0, 1)]
    units = np.concatenate([station(reflectivity=r, overlap=m), *heralds])
    p = ClickStatistics([PairPulse(1e-5)] * 2, units).probability
    assert p([0, 2, 4, 5]) / p([4, 5]) == pytest.approx(found, abs=1e-3)


@pytest.mark.parametrize(("modes", "expected"), [(math.inf, 1 / 2), (1.0, 1 / 3)])
def test_dip_of_coherent_and_thermal_light(modes: float, expected: float) -> None:
    """V = M/(1 + g2): light without phase is a mixture of photon numbers, here of one mode."""
    most, mean = 5, 0.02
    law = number_probabilities(most, mean, modes)
    together = apart = 0.0
    for left, right in itertools.product(range(most + 1), repeat=2):
        weight = law[left] * law[right]
        if 0 < left + right <= most:
            for state, p in outcomes(splitter(), pcvl.BasicState([left, right])).items():
                together += weight * p * state[0] * state[1]
            alone = left * (left - 1) + right * (right - 1)
            apart += weight * (alone / 4 + left * right / 2)
    v = 1 - together / apart
    assert v == pytest.approx(expected, abs=1e-4)
    assert v == pytest.approx(1 / (1 + (1.0 if math.isinf(modes) else g2(modes))), abs=1e-4)
    if modes == 1.0:  # unheralded pulses are thermal
        dip, flat = (
            ClickStatistics([PairPulse(2 * mean)] * 2, 1e-5 * station(overlap=m)).probability(
                [0, 2]
            )
            for m in (1.0, 0.0)
        )
        assert 1 - dip / flat == pytest.approx(v, abs=1e-4)


@pytest.mark.parametrize("m", [1.0, 0.7])
def test_dip_of_single_photons_that_are_sometimes_two(m: float) -> None:
    purity = {"brightness": 0.02, "g2": 0.1, "g2_distinguishable": False}

    def coincidences(overlap: float) -> float:
        found = outcomes(
            splitter(), pcvl.BasicState([1, 1]), indistinguishability=overlap, **purity
        )
        return sum(p * state[0] * state[1] for state, p in found.items())

    assert 1 - coincidences(m) / coincidences(0.0) == pytest.approx(m / 1.1, rel=0.02)


PATTERNS = {1: ((0, 1), (2, 3)), 3: ((0, 3), (1, 2))}  # of cH cV dH dV, by Bell index


def bell_station() -> Any:
    """Modes lH lV rH rV become cH cV dH dV."""
    return (
        pcvl.Circuit(4)
        .add(0, pcvl.PERM([0, 2, 1, 3]))
        .add(0, splitter())
        .add(2, splitter())
        .add(0, pcvl.PERM([0, 2, 1, 3]))
    )


@pytest.mark.parametrize("eta", [1.0, 0.6])
def test_bell_measurement_of_linear_optics_succeeds_half_the_time(eta: float) -> None:
    # each mode beside an empty one that takes what is lost
    lossy = pcvl.Circuit(8)
    for k in range(4):
        lossy.add(2 * k, splitter(1 - eta))
    lossy.add(0, pcvl.PERM([0, 4, 1, 5, 2, 6, 3, 7])).add(0, bell_station())
    success = []
    for index in range(4):
        photons = pcvl.StateVector()
        for k, amplitude in enumerate(states.BELL[index]):
            left, right = divmod(k, 2)
            modes = [1 - left, 0, left, 0, 1 - right, 0, right, 0]
            if amplitude:
                photons += complex(amplitude) * pcvl.StateVector(pcvl.BasicState(modes))
        told = dict.fromkeys(PATTERNS, 0.0)
        for state, p in outcomes(lossy, photons).items():
            clicked = {mode for mode in range(4) if state[mode]}
            for label, patterns in PATTERNS.items():
                told[label] += p * (clicked in [set(pattern) for pattern in patterns])
        # never the wrong label
        assert told == pytest.approx({k: eta**2 * (k == index) for k in PATTERNS}, abs=1e-12)
        success.append(sum(told.values()))
    assert np.mean(success) == pytest.approx(eta**2 / 2)


@pytest.mark.parametrize(("basis", "column"), [("Z", 2), ("X", 0)])
def test_swap_of_two_pairs_of_photons(basis: str, column: int) -> None:
    # modes: aH aV | lH lV rH rV | bH bV, pairs a-l and b-r in Phi+
    circuit = pcvl.Circuit(8).add(2, bell_station())
    if basis == "X":
        circuit.add(0, splitter()).add(6, splitter())
    pair = pcvl.StateVector(pcvl.BasicState([1, 0, 1, 0])) + pcvl.StateVector(
        pcvl.BasicState([0, 1, 0, 1])
    )
    found = outcomes(circuit, pair * pair)
    ends = pol.analyzer_operators(1.0 if basis == "Z" else 0.0, 400.0)
    ends = ends[:2] if basis == "Z" else ends[2:]
    units = np.concatenate([station(), *(arm_units(ends, ONE, s, 0, 2) for s in (0, 1))])
    p = ClickStatistics([PairPulse(1e-6)] * 2, units).probability
    everything = sum(p([4 + i, 6 + j]) for i, j in itertools.product((0, 1), repeat=2))
    for index, patterns in PATTERNS.items():
        rho = np.outer(states.BELL[index], states.BELL[index].conj())
        expected = states.correlations(rho)[column, column]
        for pattern in patterns:
            table = np.zeros((2, 2))
            for state, chance in found.items():
                if {i - 2 for i in range(2, 6) if state[i]} == set(pattern):
                    table[state[1], state[7]] += chance
            assert table.sum() == pytest.approx(1 / 8)
            correlation = (table[0, 0] + table[1, 1] - table[0, 1] - table[1, 0]) * 8
            assert correlation == pytest.approx(expected, abs=1e-12)
            ours = np.array([[p([*pattern, 4 + i, 6 + j]) for j in (0, 1)] for i in (0, 1)])
            assert ours / everything == pytest.approx(table, abs=1e-5)


# --- thewalrus: covariance matrices of x and p, hbar = 2


def covariance(pulses: Collection[PairPulse], errors: Collection[int], modes: int) -> Any:
    """Squeezed vacua of the sources, with a Pauli error on each idler, in the first modes."""
    symplectic_ = np.eye(2 * modes)
    for s, (pulse, error) in enumerate(zip(pulses, errors, strict=True)):
        for p, amplitude in enumerate(pulse.amplitudes(1.0)):
            squeeze = symplectic.two_mode_squeezing(
                math.atanh(abs(amplitude)), float(np.angle(amplitude))
            )
            symplectic_ = (
                symplectic.expand(squeeze, [4 * s + p, 4 * s + 2 + p], modes) @ symplectic_
            )
        turn = np.eye(modes, dtype=np.complex128)
        turn[4 * s + 2 : 4 * s + 4, 4 * s + 2 : 4 * s + 4] = states.PAULIS[error]
        symplectic_ = symplectic.interferometer(turn) @ symplectic_
    return symplectic_ @ symplectic_.T


def through(cov: Any, unitary: Complex) -> Any:
    s = symplectic.interferometer(unitary)
    return s @ cov @ s.T


def on_modes(matrix: Complex, where: list[int], modes: int) -> Complex:
    full = np.eye(modes, dtype=np.complex128)
    full[np.ix_(where, where)] = matrix
    return full


def clicks(cov: Any, groups: list[list[int]], pattern: Collection[int]) -> float:
    """Probability of a pattern of threshold detectors that each see a group of modes."""
    if all(len(group) == 1 for group in groups):
        q = husimi(cov, [mode for group in groups for mode in group])
        chosen = np.flatnonzero(np.tile(np.array(list(pattern)), 2))
        clicked = (np.eye(len(q)) - np.linalg.inv(q))[np.ix_(chosen, chosen)]
        # not compiled: seconds less than thewalrus.threshold_detection_prob takes to start
        return float((numba_tor.py_func(clicked) / np.sqrt(np.linalg.det(q))).real)
    fired = [g for g, bit in zip(groups, pattern, strict=True) if bit]
    quiet = [m for g, bit in zip(groups, pattern, strict=True) if not bit for m in g]
    total = 0.0
    for n in range(len(fired) + 1):
        for silent in itertools.combinations(fired, n):
            dark = quiet + [mode for group in silent for mode in group]
            q = husimi(cov, dark) if dark else np.eye(1)
            total += (-1) ** n / math.sqrt(np.linalg.det(q).real)
    return total


def husimi(cov: Any, modes: list[int]) -> Any:
    return Qmat(symplectic.reduced_state(np.zeros(len(cov)), cov, modes)[1])


PULSES = [PairPulse(0.4, 1.0, 25.0, 0.8), PairPulse(0.9, 0.85, -60.0, 1.1)]
TURNS = [pol.rotation((20, 50, -70)), pol.rotation((-10, 30, 130))]
ENDS = [pol.rotation((5, -40, 15)), pol.rotation((80, 3, 44))]
LOSS = [0.9, 0.8, 0.7, 0.6, 0.85, 0.75, 0.65, 0.95]  # cH cV dH dV, alice H V, bob H V
REFLECTIVITY = 0.4


@pytest.mark.parametrize("overlap", [1.0, 0.7])
def test_swap_with_many_pairs_against_gaussian_states(overlap: float) -> None:
    """Bright pulses, every pattern class: ClickStatistics against torontonians."""
    projectors: Complex = np.array([np.diag([1, 0]), np.diag([0, 1])], np.complex128)
    how = {"jones_left": TURNS[0], "jones_right": TURNS[1], "reflectivity": REFLECTIVITY}
    units = np.concatenate(
        [
            station(overlap=overlap, **how),
            arm_units(projectors, ENDS[0], 0, 0, 2),
            arm_units(projectors, ENDS[1], 1, 0, 2),
        ]
    )
    ours = ClickStatistics(PULSES, units * np.array(LOSS)[:, None, None])

    modes, left, right, alice, bob = 12, [2, 3], [6, 7], [0, 1], [4, 5]
    private = [8, 9]  # shape of the right photon that the left one lacks; 10, 11 stay empty before
    t, r = math.sqrt(1 - REFLECTIVITY), math.sqrt(REFLECTIVITY)
    mix: Complex = np.array([[t, r], [r, -t]], np.complex128)
    share: Complex = np.array(
        [
            [math.sqrt(overlap), -math.sqrt(1 - overlap)],
            [math.sqrt(1 - overlap), math.sqrt(overlap)],
        ]
    ).astype(np.complex128)
    steps = [
        *(
            on_modes(jones, where, modes)
            for jones, where in zip((*TURNS, *ENDS), (left, right, alice, bob), strict=True)
        ),
        *(on_modes(share, [right[k], private[k]], modes) for k in (0, 1)),
        *(on_modes(mix, [left[k], right[k]], modes) for k in (0, 1)),
        *(on_modes(mix, [10 + k, private[k]], modes) for k in (0, 1)),
    ]
    # ports: c is where the left mode was, d the right one
    groups = [[2, 10], [3, 11], [6, 8], [7, 9], [0], [1], [4], [5]]
    if overlap == 1.0:
        groups = [group[:1] for group in groups]
    mixture: list[tuple[float, Any]] = []
    for error in range(4):
        v = PULSES[1].visibility
        weight = (1 - v) / 4 + (v if error == 0 else 0)
        cov = covariance(PULSES, (0, error), modes)
        for step in steps:
            cov = through(cov, step)
        for group, eta in zip(groups, LOSS, strict=True):
            for mode in group:
                _, cov = symplectic.loss(np.zeros(len(cov)), cov, eta, mode)
        mixture.append((weight, cov))
    patterns = [
        (1, 0, 0, 1, 1, 0, 0, 1),  # Psi-, one photon at each end
        (0, 1, 1, 0, 1, 0, 1, 0),
        (1, 1, 0, 0, 0, 1, 1, 0),  # Psi+
        (0, 0, 1, 1, 1, 1, 0, 0),  # Psi+, nothing at bob's
        (1, 0, 0, 1, 0, 0, 0, 0),
        (0, 0, 0, 0, 0, 0, 0, 0),
        (1, 1, 1, 1, 1, 1, 1, 1),
    ]
    for pattern in patterns:
        expected = sum(weight * clicks(cov, groups, pattern) for weight, cov in mixture)
        fired = [u for u in range(8) if pattern[u]]
        got = ours.probability(fired, [u for u in range(8) if not pattern[u]])
        assert got == pytest.approx(expected, rel=1e-7), pattern
