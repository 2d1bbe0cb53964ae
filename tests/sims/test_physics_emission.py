"""Spins after clicks: against the closed forms of two detectors, and conservation of everything."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bellbench.sims.physics import emission, states
from bellbench.sims.physics.emitter import Emitter, Station, one_click
from bellbench.sims.physics.pulsed_pairs import bell_station_units
from hypothesis import given, settings
from hypothesis import strategies as st

shares = st.integers(0, 1000).map(lambda n: n / 1000)


def station(left: float, right: float, overlap: float) -> emission.Complex:
    """Units of a balanced station, one detection probability a side."""
    return bell_station_units(
        (0, 0),
        (0, 1),
        np.eye(2, dtype=np.complex128) * math.sqrt(left),
        np.eye(2, dtype=np.complex128) * math.sqrt(right),
        1,
        reflectivity=0.5,
        extinction_db=300.0,
        overlap=overlap,
    )


@settings(max_examples=30, deadline=None)
@given(shares, shares, shares, shares, shares, shares)
def test_one_photon_heralds_are_the_closed_form(
    a: float, b: float, eta: float, theta: float, overlap: float, rms: float
) -> None:
    units = station(eta, theta, overlap)
    kept = emission.kept_spins(
        units,
        emission.spin_photon_state(a, "number"),
        emission.spin_photon_state(b, "number"),
        math.exp(-(rms**2) / 2),
    )
    expected = one_click(Emitter(a, eta), Emitter(b, theta), Station(overlap, 0.0, 0.0, rms))
    for pattern, which in ((1, 0), (4, 1)):  # cH, dH
        rho = kept[pattern]
        p = float(np.trace(rho).real)
        assert p == pytest.approx(float(expected.probability[which]), abs=1e-12)
        np.testing.assert_allclose(rho, p * expected.states[which], atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(shares, shares, shares, shares, shares, st.sampled_from(["number", "polarization"]))
def test_patterns_are_states_and_add_up(
    a: float, b: float, eta: float, theta: float, overlap: float, encoding: emission.Encoding
) -> None:
    nodes = [emission.spin_photon_state(x, encoding) for x in (a, b)]
    kept = emission.kept_spins(station(eta, theta, overlap), nodes[0], nodes[1])
    assert np.linalg.eigvalsh(kept).min() > -1e-9
    clicks = np.array([bin(pattern).count("1") for pattern in range(16)])
    np.testing.assert_allclose(kept[clicks > 2], 0, atol=1e-12)  # two photons at most
    # Nobody learns anything at the spins before the clicks are told.
    one = [np.diag(np.abs(node.amplitudes) ** 2) for node in nodes]
    np.testing.assert_allclose(kept.sum(0), np.kron(*one), atol=1e-12)
    p, table = emission.pauli_table(kept)
    assert p.sum() == pytest.approx(1)
    assert np.abs(table).max() < 1 + 1e-6


def test_two_clicks_of_polarization_are_barrett_and_kok() -> None:
    eta, overlap = 0.3, 0.9
    node = emission.spin_photon_state(0.5, "polarization")
    kept = emission.kept_spins(station(eta, eta, overlap), node, node)
    plus, minus = kept[0b0011] + kept[0b1100], kept[0b1001] + kept[0b0110]
    for rho, bell in ((plus, states.BELL[1]), (minus, states.BELL[3])):
        p = float(np.trace(rho).real)
        assert p == pytest.approx(eta**2 / 4)  # of either; together p_det^2/2
        assert states.fidelity(rho / p, bell) == pytest.approx((1 + overlap) / 2)


@pytest.mark.parametrize("encoding", ["number", "polarization"])
def test_a_second_photon_that_nobody_sees_dephases(encoding: emission.Encoding) -> None:
    """Against the same with the photon kept: a third qubit that is traced out."""
    p, alpha = 0.2, 0.4
    node = emission.spin_photon_state(alpha, encoding, p)
    plain = emission.spin_photon_state(alpha, encoding)
    units = np.array([np.diag([0.3, 0.1])], np.complex128)
    kept = emission.kept_spins(units, node)
    whole = emission.kept_spins(units, plain)
    # environment: none, photon of |0>, photon of |1>
    env = np.array([[1, 0, 0], [math.sqrt(1 - p), 0, math.sqrt(p)]])
    if encoding == "polarization":
        env[0] = [math.sqrt(1 - p), math.sqrt(p), 0]
    np.testing.assert_allclose(kept, whole * (env @ env.T), atol=1e-12)
    units = station(0.2, 0.2, 1.0)
    both, once = (emission.kept_spins(units, n, n) for n in (node, plain))
    left = 1 - p if encoding == "number" else (1 - p) ** 2
    np.testing.assert_allclose(both[:, 1, 2], once[:, 1, 2] * left, atol=1e-12)


def test_one_node_on_an_analyzer() -> None:
    units = np.array([np.diag([0.4, 0.0]), np.diag([0.0, 0.4])], np.complex128)
    node = emission.spin_photon_state(0.25, "polarization")
    p, table = emission.pauli_table(emission.kept_spins(units, node))
    np.testing.assert_allclose(p, [0.6, 0.4 * 0.75, 0.4 * 0.25, 0], atol=1e-12)
    np.testing.assert_allclose(table[1:3, 3], [1, -1], atol=1e-12)
    # In a rotated basis the photon steers the spin.
    units = 0.4 * np.array([[[1, 1], [1, 1]], [[1, -1], [-1, 1]]], np.complex128) / 2
    node = emission.spin_photon_state(0.5, "polarization")
    _, table = emission.pauli_table(emission.kept_spins(units, node))
    np.testing.assert_allclose(table[1:3, 1], [1, -1], atol=1e-12)


def test_read_outs_have_the_correlations_of_the_state() -> None:
    rng = np.random.default_rng(3)
    ket = rng.standard_normal(4) + 1j * rng.standard_normal(4)
    rho = np.array(np.outer(ket, ket.conj()) / np.vdot(ket, ket), np.complex128)
    _, table = emission.pauli_table(rho[None])
    n = 60_000
    expected = states.correlations(rho)
    for i, first in enumerate("xyz"):
        for j, second in enumerate("xyz"):
            left, right = (
                emission.read_vector([(axis, 1e-6)] if axis != "z" else [], 3e-6, time)
                for axis, time in ((first, 4e-6), (second, math.inf))
            )
            decay = math.exp(-1 / 4) if first != "z" else 1.0
            assert left @ np.eye(3)[i] == pytest.approx(decay)
            found = emission.sample_outcomes(
                rng,
                np.broadcast_to(table[0], (n, 4, 4)),
                np.broadcast_to(left, (n, 3)),
                np.broadcast_to(right, (n, 3)),
            )
            mean = float((found[0] * found[1]).mean())
            assert mean == pytest.approx(decay * expected[i, j], abs=4.5 / math.sqrt(n))


def test_photons_that_come_apart_overlap_less() -> None:
    life, gap, g = 12e-9, 5e-9, 10e6
    assert emission.arrival_overlap(gap, life, dephasing_hz=g) == pytest.approx(
        math.exp(-gap / life) / (1 + 2 * g * life)
    )
    t = np.linspace(0, 40 * life, 400_001)
    late = np.where(t > gap, np.exp(-(t - gap) / 2 / life), 0)
    amplitude = np.trapezoid(np.exp(-t / 2 / life) * late * np.exp(2j * np.pi * 3e6 * t), t) / life
    assert emission.arrival_overlap(gap, life, 3e6) == pytest.approx(abs(amplitude) ** 2, rel=1e-4)


@pytest.mark.parametrize("gap", [0.0, 0.3])
def test_phase_diffusion_costs_one_photon_more_than_two(gap: float) -> None:
    """Wave packets whose phases walk at random, in lifetimes: overlaps of amplitudes, squares."""
    rng, g, detuning, step, packets = np.random.default_rng(4), 0.4, 0.15, 0.02, 4000
    t = np.arange(0, 12, step) + step / 2
    late = round(gap / step)
    phase = rng.standard_normal((2, packets, t.size)) * math.sqrt(2 * g * step)
    early, other = phase.cumsum(2)
    # The later photon's clock starts a gap later.
    shown = np.exp(1j * (early[:, late:] - other[:, : t.size - late]))
    envelope = np.exp(-t[late:] / 2 - t[: t.size - late] / 2) * np.exp(
        2j * np.pi * detuning * t[late:]
    )
    amplitude = (shown * envelope).sum(1) * step
    m = emission.arrival_overlap(gap, 1.0, detuning, g)
    left = np.abs(amplitude) ** 2
    assert left.mean() == pytest.approx(m, abs=4 * left.std() / math.sqrt(packets))
    one = math.sqrt(m) * emission.diffused(gap, 1.0, g)
    mean = amplitude.mean()
    spread = math.sqrt((left.mean() - abs(mean) ** 2) / packets)
    assert abs(mean) == pytest.approx(one, abs=4 * spread)
    assert abs(abs(mean) - math.sqrt(m)) > 10 * spread
    if not gap:
        both = emission.arrival_overlap(0, 1.0, 0.0, g)
        assert math.sqrt(both) * emission.diffused(0, 1.0, g) == pytest.approx(1 / (1 + 2 * g))


def test_bright_light_ends_where_it_is_pumped_away() -> None:
    light = emission.Fluorescence(2e6, 1e4, 1e-6)
    dark, bright = emission.mean_photons(light, 2e-6)
    assert dark == pytest.approx(0.02)
    assert bright == pytest.approx(0.02 + 2 * (1 - math.exp(-2)))
