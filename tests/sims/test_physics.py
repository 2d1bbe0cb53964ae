"""The physics of the twins against closed forms that are written out again here."""

import math
from typing import Any

import numpy as np
import pytest
from bellbench.sims.physics import polarization as pol
from bellbench.sims.physics import snspd
from bellbench.sims.physics.laser import optical_power_w
from bellbench.sims.physics.snspd import dark_rate_hz, efficiency, filter_dead_time
from bellbench.sims.physics.spdc import pair_rate_hz, phase_matching
from bellbench.sims.physics.thermal import relax
from hypothesis import given
from hypothesis import strategies as st

angles = st.floats(-720, 720)


def test_laser_has_threshold_and_slope() -> None:
    assert optical_power_w(0.039, 0.04, 0.5) == 0.0
    assert optical_power_w(0.1, 0.04, 0.5) == pytest.approx(0.03)


def test_phase_matching_is_half_at_half_width_and_one_at_its_centre() -> None:
    assert phase_matching(40.0, 40.0, 3.0) == 1.0
    assert phase_matching(41.5, 40.0, 3.0) == pytest.approx(0.5, abs=1e-12)
    assert phase_matching(38.5, 40.0, 3.0) == pytest.approx(0.5, abs=1e-12)
    # first zero of sinc^2 at x = pi
    assert phase_matching(40 + 3 * math.pi / 2 / 1.3915573782515098, 40.0, 3.0) < 1e-20


def test_pair_rate_is_linear_in_pump() -> None:
    assert pair_rate_hz(0.03, 1e9, 40, 40, 3) == pytest.approx(3e7)
    assert pair_rate_hz(0.06, 1e9, 41, 40, 3) == pytest.approx(
        2 * pair_rate_hz(0.03, 1e9, 41, 40, 3)
    )


@given(st.floats(-50, 150), st.floats(-50, 150), st.floats(0.1, 100), st.floats(0.01, 10))
def test_thermal_step_does_not_depend_on_the_step_size(
    start: float, target: float, tau: float, dt: float
) -> None:
    halves = relax(relax(start, target, tau, dt / 2), target, tau, dt / 2)
    assert relax(start, target, tau, dt) == pytest.approx(halves, abs=1e-9)


@given(angles, angles, angles)
def test_rotations_are_unitary_and_turn_stokes_vectors_by_their_length(
    x: float, y: float, z: float
) -> None:
    u = pol.rotation((x, y, z))
    assert np.allclose(u @ u.conj().T, np.eye(2))
    # A rotation about its own axis leaves that axis alone.
    length = math.hypot(x, y, z)
    if length > 1e-3:
        n = np.array([x, y, z]) / length
        sigma = np.array([[[1, 0], [0, -1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]]])
        rho = (np.eye(2) + np.tensordot(n, sigma, axes=1)) / 2
        assert np.allclose(u @ rho @ u.conj().T, rho, atol=1e-9)


def test_half_wave_plate_at_45_degrees_swaps_h_and_v_and_quarter_makes_circular() -> None:
    half = pol.retarder(180, 45)
    assert abs(half[1, 0]) == pytest.approx(1)
    assert abs(half[0, 0]) == pytest.approx(0, abs=1e-12)
    circular = pol.retarder(90, 45) @ np.array([1, 0])
    assert np.abs(circular) ** 2 == pytest.approx([0.5, 0.5])
    assert abs(np.vdot(circular, [1, 1j])) ** 2 / 2 == pytest.approx(1) or abs(
        np.vdot(circular, [1, -1j])
    ) ** 2 / 2 == pytest.approx(1)


@given(st.floats(0, 1), st.floats(5, 80))
def test_analyzer_operators_sum_to_the_identity(z: float, extinction: float) -> None:
    assert np.allclose(pol.analyzer_operators(z, extinction).sum(axis=0), np.eye(2))


@given(st.floats(0, 1), st.floats(0, 360), st.floats(0, 3))
def test_visibility_per_basis_follows_phase_and_imbalance(
    v: float, phase: float, eps: float
) -> None:
    rho = pol.pair_state(v, phase, eps)
    ops = pol.analyzer_operators()
    table = pol.joint_probabilities(rho, np.eye(2), np.eye(2), ops, ops)

    def visibility(block: Any) -> float:
        same, other = np.trace(block), block[0, 1] + block[1, 0]
        return float((same - other) / (same + other))

    assert table.sum() == pytest.approx(1)
    assert visibility(table[:2, :2]) == pytest.approx(v, abs=1e-5)
    # physics.md sec. 1: V in D/A is 2 eps cos(phi)/(1 + eps^2), times the Werner visibility
    expected = v * 2 * eps * math.cos(math.radians(phase)) / (1 + eps**2)
    assert visibility(table[2:, 2:]) == pytest.approx(expected, abs=1e-5)


@given(angles, angles, angles)
def test_a_rotation_and_its_conjugate_leave_the_bell_state_alone(
    x: float, y: float, z: float
) -> None:
    u = pol.rotation((x, y, z))
    ops = pol.analyzer_operators()
    turned = pol.joint_probabilities(pol.pair_state(1.0), u, u.conj(), ops, ops)
    plain = pol.joint_probabilities(pol.pair_state(1.0), np.eye(2), np.eye(2), ops, ops)
    assert np.allclose(turned, plain, atol=1e-9)


def test_snspd_curves_hit_the_operating_point_and_die_at_the_switching_current() -> None:
    assert efficiency(18e-6, 18e-6, 22e-6, 0.9) == pytest.approx(0.9)
    assert dark_rate_hz(18e-6, 18e-6, 22e-6, 75.0) == pytest.approx(75.0)
    assert efficiency(0, 18e-6, 22e-6, 0.9) == 0
    assert efficiency(22e-6, 18e-6, 22e-6, 0.9) == 0
    currents = np.linspace(1e-6, 21.9e-6, 50)
    assert (np.diff([efficiency(i, 18e-6, 22e-6, 0.9) for i in currents]) >= 0).all()
    assert (np.diff([dark_rate_hz(i, 18e-6, 22e-6, 75) for i in currents]) >= 0).all()


@pytest.mark.parametrize("compiled", [False, True])
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 2)), max_size=60), st.integers(0, 60))
def test_dead_time_agrees_with_the_naive_rule_and_does_not_depend_on_the_split(
    compiled: bool, clicks: list[tuple[int, int]], cut: int
) -> None:
    clicks = sorted(clicks)
    times = np.array([t for t, _ in clicks], np.int64)
    detectors = np.array([d for _, d in clicks], np.int16)
    dead = np.array([0, 7, 30], np.int64)
    expected, last = [], {0: -1000, 1: -1000, 2: -1000}
    for t, d in clicks:
        alive = t - last[d] >= dead[d]
        expected.append(alive)
        if alive:
            last[d] = t
    state = np.full(3, -1000, np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snspd, "_filtered", snspd._LOAD_AFTER if compiled else 0)
        got = [
            *filter_dead_time(times[:cut], detectors[:cut], dead, state),
            *filter_dead_time(times[cut:], detectors[cut:], dead, state),
        ]
    assert got == expected
