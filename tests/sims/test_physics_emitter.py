"""Heralded spins against limits, published rates, and shots of every photon's way."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments.errors import ConfigError
from bellbench.sims.physics import states
from bellbench.sims.physics.emitter import (
    Emitter,
    Station,
    one_click,
    resolved_overlap,
    sample_heralds,
    spin_photon,
    two_clicks,
    waiting_errors,
)
from hypothesis import given, settings
from hypothesis import strategies as st

Complex = npt.NDArray[np.complex128]
Ints = npt.NDArray[np.int64]

# from photons (left, right) to the detector that sees them: none, c, d, both of one photon each
MEET: Complex = np.array(
    [
        [1, 0, 0, 0],
        [0, math.sqrt(0.5), math.sqrt(0.5), 0],
        [0, -math.sqrt(0.5), math.sqrt(0.5), 0],
        [0, 0, 0, 1],
    ],
    np.complex128,
)
shares = st.floats(0, 1)


def agrees(samples: npt.NDArray[np.generic], expected: float) -> None:
    values = np.asarray(samples, np.float64)
    assert abs(values.mean() - expected) <= 3 * values.std() / math.sqrt(values.size) + 1e-12


# --- published rates and limits of small detection probability


@pytest.mark.parametrize(
    ("alpha", "p_det", "period_s", "rate_hz", "measured_hz"),
    [
        (0.05, 4e-4, 5.5e-6, 7.3, 6.0),  # Humphreys 2018
        (0.3, 4e-4, 5.5e-6, 43.6, 39.0),
        (0.25, 1.44e-5, 10e-6, 0.72, 0.022),  # Stolk 2024: 7.2e-6 per attempt; duty cycle
    ],
)
def test_published_rates_of_one_click(
    alpha: float, p_det: float, period_s: float, rate_hz: float, measured_hz: float
) -> None:
    node = Emitter(alpha, p_det)
    heralds = one_click(node, node, Station())
    rate = heralds.probability.sum() / period_s
    assert rate == pytest.approx(rate_hz, rel=5e-3)
    assert rate > measured_hz  # the rest is duty cycle
    assert heralds.fidelity == pytest.approx(np.full(2, 1 - alpha), rel=1e-3)
    attempts = 20_000_000 if p_det > 1e-4 else 100_000_000
    when, index = sample_heralds(np.random.default_rng(1), heralds, attempts)
    expected = heralds.probability.sum() * attempts
    assert abs(when.size - expected) < 3 * math.sqrt(expected)
    assert abs((index == 1).sum() - when.size / 2) < 3 * math.sqrt(when.size / 4)


@settings(max_examples=30)
@given(st.floats(0.01, 0.9), shares, st.floats(0, 1.5), st.floats(-3, 3))
def test_one_click_in_the_limit_of_few_photons(
    alpha: float, m: float, rms: float, phase: float
) -> None:
    node = Emitter(alpha, 1e-6)
    heralds = one_click(node, node, Station(m, phase_rms_rad=rms))
    assert heralds.probability.sum() == pytest.approx(2 * alpha * 1e-6, rel=1e-4)
    kept = math.sqrt(m) * math.exp(-(rms**2) / 2)
    assert heralds.fidelity == pytest.approx(np.full(2, (1 - alpha) * (1 + kept) / 2), abs=1e-5)
    # a known phase turns the state, no more: |10> gets e^(i phase)
    turned = one_click(node, node, Station(m, phase_rad=phase, phase_rms_rad=rms))
    undo = np.kron(np.diag([1, np.exp(-1j * phase)]), np.eye(2))
    assert undo @ turned.states @ undo.conj().T == pytest.approx(heralds.states)


@settings(max_examples=30)
@given(shares, st.floats(0, 1.5), st.floats(0.1, 0.9))
def test_two_clicks_in_the_limit_of_few_photons(m: float, rms: float, alpha: float) -> None:
    p_det = 1e-4
    half = Emitter(0.5, p_det)
    heralds = two_clicks(half, half, Station(m), rms)
    assert heralds.probability.sum() == pytest.approx(p_det**2 / 2)
    expected = (1 + m * math.exp(-(rms**2) / 2)) / 2
    assert heralds.fidelity == pytest.approx(np.full(2, expected))
    # nothing hangs on alpha but the rate: both bright never click twice
    node = Emitter(alpha, p_det)
    other = two_clicks(node, node, Station(m), rms)
    assert other.probability.sum() == pytest.approx(2 * alpha * (1 - alpha) * p_det**2)
    assert other.states == pytest.approx(heralds.states)


def test_dark_counts_alone_leave_the_spins_as_they_were() -> None:
    node = Emitter(0.3, 0.0)
    heralds = one_click(node, node, Station(dark=1e-3))
    assert heralds.probability == pytest.approx(np.full(2, 1e-3 * (1 - 1e-3)))
    assert heralds.states[0] == pytest.approx(np.diag([0.49, 0.21, 0.21, 0.09]))
    assert one_click(node, node, Station()).probability.tolist() == [0, 0]
    assert np.abs(one_click(node, node, Station()).states).max() == 0


@settings(max_examples=30)
@given(shares, shares, shares, shares, shares, shares, st.floats(0, 2))
def test_heralded_states_are_states(
    a: float, b: float, eta: float, other: float, m: float, dark: float, rms: float
) -> None:
    left, right = Emitter(a, eta), Emitter(b, other)
    station = Station(m, dark, 0.3, rms)
    for heralds in (one_click(left, right, station), two_clicks(left, right, station, rms)):
        assert heralds.probability.sum() <= 1 + 1e-12
        for p, rho in zip(heralds.probability, heralds.states, strict=True):
            if p > 1e-200:
                assert np.trace(rho).real == pytest.approx(1)
                assert np.linalg.eigvalsh(rho).min() > -1e-9


# --- every photon's way, shot by shot


def _emit(kets: Complex, spin: int) -> Complex:
    """Return kets with the photon of a spin as the last qubit: emitted if the spin is 1."""
    grown = np.concatenate([kets[..., None], np.zeros_like(kets)[..., None]], axis=-1)
    cnot: Complex = np.eye(4, dtype=np.complex128)[[0, 1, 3, 2]]
    return states.apply(grown, cnot, spin, grown.ndim - 2)


def _lose(rng: np.random.Generator, kets: Complex, qubit: int, eta: float) -> Complex:
    """A beam splitter with an empty mode, in which the photon is then looked for."""
    t, r = math.sqrt(eta), math.sqrt(1 - eta)
    mix: Complex = np.array(
        [[1, 0, 0, 0], [0, t, r, 0], [0, -r, t, 0], [0, 0, 0, 1]], np.complex128
    )
    grown = np.concatenate([kets[..., None], np.zeros_like(kets)[..., None]], axis=-1)
    last = grown.ndim - 2
    return states.measure(rng, states.apply(grown, mix, last, qubit), last)[1]


def _round(
    rng: np.random.Generator,
    spins: Complex,
    etas: tuple[float, float],
    station: Station,
    phase: npt.NDArray[np.float64],
) -> tuple[Ints, Complex]:
    """One round of emission and detection: 0 for only c, 1 for only d, -1 else; and the spins."""
    kets = _lose(rng, _emit(spins, 0), 2, etas[0])
    kets = _lose(rng, _emit(kets, 1), 3, etas[1])
    shots = len(kets)
    turn = np.zeros((shots, 2, 2), np.complex128)
    # sqrt(M) of the amplitude interferes: else a sign at random
    sign = np.where(rng.random(shots) < (1 - math.sqrt(station.overlap)) / 2, -1, 1)
    turn[:, 0, 0], turn[:, 1, 1] = 1, sign * np.exp(1j * phase)
    kets = states.apply(kets, turn, 2)
    kets = states.apply(kets, MEET, 2, 3)
    high, kets = states.measure(rng, kets, 2)
    low, kets = states.measure(rng, kets, 2)
    seen = 2 * high + low  # 0 none, 1 c, 2 d, 3 two photons
    apart = (seen == 3) & (rng.random(shots) < (1 - station.overlap) / 2)
    bunched = (seen == 3) & ~apart
    at_c = rng.random(shots) < 0.5
    c = (seen == 1) | apart | (bunched & at_c) | (rng.random(shots) < station.dark)
    d = (seen == 2) | apart | (bunched & ~at_c) | (rng.random(shots) < station.dark)
    return np.where(c & ~d, 0, np.where(d & ~c, 1, -1)), kets


def _spins(left: Emitter, right: Emitter, shots: int) -> Complex:
    ket = np.kron(*([math.sqrt(1 - node.bright), math.sqrt(node.bright)] for node in (left, right)))
    return np.tile(ket.astype(np.complex128), (shots, 1)).reshape(shots, 2, 2)


def _overlap(kets: Complex, index: int) -> npt.NDArray[np.float64]:
    flat = kets.reshape(-1, 4)
    return np.asarray(np.abs(flat @ states.BELL[index].conj()) ** 2)


LEFT, RIGHT = Emitter(0.4, 0.7), Emitter(0.55, 0.5)
STATION = Station(overlap=0.8, dark=0.04, phase_rad=0.5, phase_rms_rad=0.4)


def test_one_click_shot_by_shot() -> None:
    rng, shots = np.random.default_rng(2), 60_000
    phase = rng.normal(STATION.phase_rad, STATION.phase_rms_rad, shots)
    etas = LEFT.detection, RIGHT.detection
    which, kets = _round(rng, _spins(LEFT, RIGHT, shots), etas, STATION, phase)
    heralds = one_click(LEFT, RIGHT, STATION)
    for k in (0, 1):
        agrees(which == k, float(heralds.probability[k]))
        chosen = kets[which == k]
        for index in range(4):
            agrees(_overlap(chosen, index), float(states.bell_weights(heralds.states[k])[index]))
        both, _ = states.measure(rng, chosen, 0)
        agrees(both, float(heralds.states[k][2, 2].real + heralds.states[k][3, 3].real))


def test_two_clicks_shot_by_shot() -> None:
    rng, shots, change = np.random.default_rng(3), 60_000, 0.5
    phase = rng.normal(STATION.phase_rad, STATION.phase_rms_rad, shots)
    etas = LEFT.detection, RIGHT.detection
    first, kets = _round(rng, _spins(LEFT, RIGHT, shots), etas, STATION, phase)
    keep = first >= 0
    first, kets, phase = first[keep], kets[keep][:, ::-1, ::-1], phase[keep]
    phase = phase + rng.normal(0, change, phase.size)
    second, kets = _round(rng, kets, etas, STATION, phase)
    heralds = two_clicks(LEFT, RIGHT, STATION, change)
    for k, found in enumerate((second == first, (second >= 0) & (second != first))):
        n, p = int(found.sum()), float(heralds.probability[k])
        assert abs(n - shots * p) < 3 * math.sqrt(shots * p)
        for index in range(4):
            agrees(
                _overlap(kets[found], index), float(states.bell_weights(heralds.states[k])[index])
            )
    assert heralds.fidelity.min() > 0.6


def test_spin_photon_state_is_what_is_emitted() -> None:
    spin = np.array([[math.sqrt(0.7), math.sqrt(0.3)]], np.complex128)
    assert _emit(spin, 0).reshape(4) == pytest.approx(spin_photon(0.3))


# --- the sampler


def test_gaps_between_heralds_are_geometric() -> None:
    heralds = one_click(LEFT, RIGHT, STATION)
    p = float(heralds.probability.sum())
    when, index = sample_heralds(np.random.default_rng(4), heralds, 300_000)
    assert when.dtype == index.dtype == np.int64
    assert when[0] >= 0
    assert when[-1] < 300_000
    gaps = np.diff(when)
    assert gaps.min() == 1
    agrees(gaps, 1 / p)
    agrees(gaps == 1, p)
    agrees(index == 1, float(heralds.probability[0]) / p)
    assert set(index.tolist()) == {1, 3}
    dark = one_click(Emitter(0.3, 0.0), Emitter(0.3, 0.0), Station())
    assert sample_heralds(np.random.default_rng(4), dark, 1000)[0].size == 0
    assert sample_heralds(np.random.default_rng(4), heralds, 0)[0].size == 0


# --- storage and interference of real photons


def test_stored_spins_dephase_per_attempt_and_per_second() -> None:
    # Pompili 2021: N_1/e = 1800 attempts
    stored = waiting_errors([0, 1800, 900], [0.0, 0.0, 0.05], 1800, 0.1)
    kept = 1 - 2 * stored[:, 2]
    assert kept == pytest.approx(np.exp([0, -1, -1]))
    assert stored[:, [1, 3]] == pytest.approx(0)
    rng, shots = np.random.default_rng(5), 20_000
    # each attempt flips the phase with (1 - e^(-1/N))/2
    flips = rng.binomial(900, -math.expm1(-1 / 1800) / 2, shots) % 2
    agrees(1 - 2 * flips, math.exp(-0.5))


@pytest.mark.parametrize("window_ns", [2.0, 20.0, math.inf])
def test_overlap_of_photons_that_arrive_close_together(window_ns: float) -> None:
    lifetime, detuning, dephasing = 12e-9, 10e6, 5e6
    m, kept = resolved_overlap(window_ns * 1e-9, lifetime, detuning, dephasing)
    rng, shots = np.random.default_rng(6), 200_000
    first, second = rng.exponential(lifetime, (2, shots))
    apart = first - second
    # each photon's phase diffuses with variance 2 g t between the two times
    phase = 2 * math.pi * detuning * apart + rng.normal(
        0, np.sqrt(4 * dephasing * np.abs(apart)), shots
    )
    near = np.abs(apart) <= window_ns * 1e-9 / 2
    agrees(near, kept)
    clicks = rng.random(shots) < (1 - np.cos(phase)) / 2
    agrees(1 - 2 * clicks[near], m)


def test_limits_of_the_resolved_overlap() -> None:
    t1, g = 12e-9, 2e7
    t2 = 1 / (1 / (2 * t1) + g)
    assert resolved_overlap(math.inf, t1, 0.0, g)[0] == pytest.approx(t2 / (2 * t1))
    detuned = resolved_overlap(math.inf, t1, 1e7)[0]  # two Lorentzians of equal width
    assert detuned == pytest.approx(1 / (1 + (2 * math.pi * 1e7 * t1) ** 2))
    trade = [resolved_overlap(w, t1, 2e7, g) for w in (1e-12, 1e-9, 1e-8, 1e-7)]
    assert trade[0][0] == pytest.approx(1, abs=1e-4)
    assert [m for m, _ in trade] == sorted((m for m, _ in trade), reverse=True)
    assert [kept for _, kept in trade] == sorted(kept for _, kept in trade)


@pytest.mark.parametrize(
    ("act", "word"),
    [
        (lambda: Emitter(1.2, 0.1), "bright"),
        (lambda: Emitter(0.2, -0.1), "detection"),
        (lambda: Station(1.1), "overlap"),
        (lambda: Station(dark=2.0), "dark"),
        (lambda: Station(phase_rms_rad=-1.0), "phase_rms_rad"),
        (lambda: resolved_overlap(0.0, 1e-9), "window"),
    ],
)
def test_what_cannot_be_is_refused(act: Callable[[], object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        act()
