"""Polarization by squeezers: found from anywhere, hysteresis and creep or not."""

from typing import Any

import numpy as np
import pytest
from bellbench.protocols import calibration
from bellbench.protocols.calibration.polarization import _valley

LABELS = {1: "H", 2: "V", 3: "D", 4: "A"}


def bench_with_squeezers(make_bench: Any, seed: int) -> Any:
    """Squeezers at alice's end only, fibres turned at random."""
    rng = np.random.default_rng(seed)
    turns = [{"rotation": [float(x) for x in rng.normal(size=3) * 90]} for _ in range(2)]
    bench = make_bench(
        seed,
        brightness=0.2,
        alice_fibre=turns[0],
        bob_fibre=turns[1],
        alice_paddles={"kind": "squeezers"},
    )
    for actuator in bench.controllers["alice"].actuators:
        actuator.set(float(rng.uniform(-2, 2)))
    return bench


def find(bench: Any, **options: Any) -> calibration.PolarizationResult:
    alice, bob = (
        calibration.Station(bench.taggers[side], LABELS, controller)
        for side, controller in (("alice", bench.controllers["alice"]), ("bob", None))
    )
    return calibration.find_polarization(alice, bob, bench.clock, seconds=0.05, **options)


@pytest.mark.parametrize("seed", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_squeezers_find_the_polarization_from_anywhere(make_bench: Any, seed: int) -> None:
    bench = bench_with_squeezers(make_bench, seed)
    before = bench.true_qber()
    result = find(bench, max_sweeps=2)
    assert before > 0.1
    assert result.ok, result.reason
    assert bench.true_qber() < 0.03
    assert result.angles[0] == tuple(a.get() for a in bench.controllers["alice"].actuators)
    assert result.angles[1] == ()
    assert all(0 < sigma < 1 for sigma in result.sigmas[0])
    assert all(-5 <= volts <= 5 for volts in result.angles[0])


def test_a_valley() -> None:
    volts = np.array([0.6, 0.8, 1.0, 1.2, 1.4])
    values = 0.02 + 0.5 * (volts - 1.07) ** 2
    best, sigma, value, error = _valley(volts, values, np.full(5, 1e-3))
    assert best == pytest.approx(1.07)
    assert value == pytest.approx(0.02)
    assert 0 < sigma < 0.01
    assert 0 < error < 1e-3
    # noise moves it as far as it says
    rng = np.random.default_rng(0)
    found = [
        _valley(volts, values + rng.normal(size=5) * 1e-3, np.full(5, 1e-3)) for _ in range(400)
    ]
    assert np.std([f[0] for f in found]) == pytest.approx(sigma, rel=0.15)
    assert np.std([f[2] for f in found]) == pytest.approx(error, rel=0.15)


def test_a_hill_has_no_valley_but_a_lowest_point() -> None:
    volts = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    best, sigma, _, _ = _valley(volts, -((volts - 1.8) ** 2), np.ones(5))
    assert (best, sigma) == (4.0, 2.0)
