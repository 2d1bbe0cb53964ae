"""The random walk of a fibre's polarization against its autocorrelation."""

import math

import numpy as np
import pytest
from bellbench.sims.physics.polarization import drift_step

SIGMA = np.array([[[1, 0], [0, -1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]]])


def test_a_step_is_unitary_and_none_without_time() -> None:
    rng = np.random.default_rng(1)
    step = drift_step(rng, 3.0, 60.0)
    assert np.allclose(step @ step.conj().T, np.eye(2))
    assert np.array_equal(drift_step(rng, 0.0, 60.0), np.eye(2))


def test_autocorrelation_decays_by_the_drift_time() -> None:
    # physics.md sec. 2: s = 0.05, 40 steps: exp(-4 s^2 40) = 0.6703, exact per step
    # (1 + 2 (1 - 4 s^2) e^{-2 s^2})/3, to the 40th 0.6701
    s, steps, walks = 0.05, 40, 500
    drift_time = 600.0
    dt = 4 * s * s * drift_time
    exact = ((1 + 2 * (1 - 4 * s * s) * math.exp(-2 * s * s)) / 3) ** steps
    assert exact == pytest.approx(0.6701, abs=5e-5)
    assert math.exp(-dt * steps / drift_time) == pytest.approx(0.6703, abs=5e-5)
    rng = np.random.default_rng(20)
    overlaps = np.empty((walks, 3))
    for walk in range(walks):
        jones = np.eye(2, dtype=np.complex128)
        for _ in range(steps):
            jones = drift_step(rng, dt, drift_time) @ jones
        for axis, sigma in enumerate(SIGMA):
            overlaps[walk, axis] = np.trace(sigma @ jones @ sigma @ jones.conj().T).real / 2
    errors = overlaps.std(axis=0) / math.sqrt(walks)
    assert errors.max() < 0.02
    assert (abs(overlaps.mean(axis=0) - exact) < 3 * errors).all()
