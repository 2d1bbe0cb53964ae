"""Calibrations: the twin's true value within the stated error, and nothing from a dark bench."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import InstrumentTimeout, TagBatch
from bellbench.protocols import calibration
from scipy.special import erfinv

LABELS = {1: "H", 2: "V", 3: "D", 4: "A"}
CHANNELS = [1, 2, 3, 4]
#: 99 % of an erf of half current 0.60 and width 0.10 of the switching current, 22 uA.
TRUE_BIAS = 22e-6 * (0.60 + 0.10 * float(erfinv(0.98)))


def phase_matching(bench: Any) -> calibration.PhaseMatchingResult:
    return calibration.find_phase_matching(
        bench.source,
        list(bench.taggers.values()),
        bench.clock,
        step_k=1.0,
        seconds=0.1,
        settle_s=0.4,
    )


def delays(bench: Any) -> calibration.DelaysResult:
    a, b = bench.taggers.values()
    return calibration.find_delays((a, b), (CHANNELS, CHANNELS), bench.clock, seconds=0.3)


def bias(bench: Any, **options: Any) -> calibration.BiasResult:
    return calibration.find_bias(
        bench.detectors["alice"], bench.source, bench.clock, integration_s=0.1, **options
    )


def polarization(bench: Any, **options: Any) -> calibration.PolarizationResult:
    stations = [
        calibration.Station(bench.taggers[side], LABELS, bench.controllers[side])
        for side in ("alice", "bob")
    ]
    return calibration.find_polarization(stations[0], stations[1], bench.clock, **options)


def cables(rng: np.random.Generator) -> list[list[float]]:
    drawn = np.round(rng.uniform(20e-9, 40e-9, (2, 4)), 12)
    return [[float(x) for x in side] for side in drawn]


def rotated(make_bench: Any, seed: int) -> Any:
    """A bench with fibres and paddles turned at random."""
    rng = np.random.default_rng(seed)
    turns = [{"rotation": [float(x) for x in rng.normal(size=3) * 90]} for _ in range(2)]
    bench = make_bench(seed, alice_fibre=turns[0], bob_fibre=turns[1])
    for controller in bench.controllers.values():
        for paddle in controller.actuators:
            paddle.set(float(rng.uniform(0, 170)))
    return bench


def phase_matching_pull(make_bench: Any, seed: int) -> float:
    true = float(np.random.default_rng(seed).uniform(36, 44))
    result = phase_matching(make_bench(seed, crystal={"phase_matching": true}))
    assert result.ok, result.reason
    assert result.sigma_c < 0.02
    return (result.optimum_c - true) / result.sigma_c


def delay_pulls(make_bench: Any, seed: int) -> list[float]:
    sides = cables(np.random.default_rng(seed))
    bench = make_bench(
        seed, alice_tagger={"cable_delays": sides[0]}, bob_tagger={"cable_delays": sides[1]}
    )
    result = delays(bench)
    assert result.ok, result.reason
    assert result.delays is not None
    found = [*result.delays.delays_a.values(), *result.delays.delays_b.values()]
    sigmas = [*result.delays.sigma_a.values(), *result.delays.sigma_b.values()]
    true = [(x - sides[0][0]) * 1e12 for side in sides for x in side]
    # delays are whole ps
    return [
        (f - t) / math.hypot(s, 12**-0.5)
        for f, t, s in zip(found[1:], true[1:], sigmas[1:], strict=True)
    ]


def bias_pulls(make_bench: Any, seed: int) -> list[float]:
    result = bias(make_bench(seed))
    assert result.ok, result.reason
    assert all(scan.sigma_a < 0.1e-6 for scan in result.scans)
    return [(scan.bias_a - TRUE_BIAS) / scan.sigma_a for scan in result.scans]


def polarization_pull(make_bench: Any, seed: int) -> float:
    bench = rotated(make_bench, seed)
    result = polarization(bench)
    assert result.ok, result.reason
    true = bench.true_qber()
    # of the state's 1 %, what the analyzers can reach
    assert 0.0099 < true < 0.015
    accidental = 0.0005  # S_A S_B t of C, half of them errors, at most
    return float((result.qber - true - accidental / 2) / math.hypot(result.qber_sigma, accidental))


def test_phase_matching_finds_the_crystal_and_leaves_the_oven_there(make_bench: Any) -> None:
    bench = make_bench(1, crystal={"phase_matching": 42.2})
    result = phase_matching(bench)
    assert result.ok, result.reason
    assert result.sigma_c < 0.02
    assert abs(result.optimum_c - 42.2) <= 3 * result.sigma_c
    assert bench.oven.setpoint_c == result.optimum_c
    assert result.fwhm_k == pytest.approx(3.0, abs=0.03)
    assert list(result.set_points_c) == sorted(result.set_points_c)


def test_phase_matching_follows_a_maximum_beyond_the_scan(make_bench: Any) -> None:
    result = phase_matching(make_bench(3, crystal={"phase_matching": 45.3}))
    assert result.ok, result.reason
    assert abs(result.optimum_c - 45.3) <= 3 * result.sigma_c
    assert result.set_points_c[-1] > 46


def test_phase_matching_on_a_dark_bench_says_so_and_puts_the_oven_back(make_bench: Any) -> None:
    bench = make_bench(1)
    bench.pump.emitting = False
    result = phase_matching(bench)
    assert not result.ok
    assert "is the pump on" in result.reason
    assert math.isnan(result.optimum_c)
    assert bench.oven.setpoint_c == 40.0
    assert not any(tagger.inputs.recording for tagger in bench.taggers.values())


def test_an_oven_that_does_not_settle_is_an_error_that_names_it(make_bench: Any) -> None:
    bench = make_bench(1)
    bench.oven.heating = False
    with pytest.raises(InstrumentTimeout, match="the oven is not ready after 5 s"):
        calibration.find_phase_matching(
            bench.source, list(bench.taggers.values()), bench.clock, timeout_s=5.0
        )


def test_delays_are_those_of_the_cables(make_bench: Any) -> None:
    assert max(abs(pull) for pull in delay_pulls(make_bench, 0)) <= 3.5


def test_a_window_is_wider_than_the_steps_of_a_coarse_tagger(make_bench: Any) -> None:
    """Cables that differ by whole steps leave no width in the clicks, but some of a step beside."""
    grid = 2000

    def coarse(read: Callable[[], TagBatch]) -> TagBatch:
        batch = read()
        return dataclasses.replace(batch, times_ps=batch.times_ps // grid * grid)

    even = {"cable_delays": [20e-9, 22e-9, 24e-9, 26e-9], "start_offset": 0.0}
    bench = make_bench(0, alice_tagger=even, bob_tagger=even)
    for tagger in bench.taggers.values():
        tagger.info = dataclasses.replace(tagger.info, resolution_ps=grid)
        tagger.read = functools.partial(coarse, tagger.read)
    found = delays(bench)
    assert found.delays is not None
    assert found.delays.fwhm_ps < 1000
    assert found.window_ps >= 2 * grid


def test_delays_of_a_dark_bench_are_not_found(make_bench: Any) -> None:
    bench = make_bench(1)
    bench.pump.emitting = False
    result = delays(bench)
    assert not result.ok
    assert "no coincidence peak" in result.reason
    assert result.delays is None
    assert not any(tagger.inputs.recording for tagger in bench.taggers.values())


def test_bias_is_the_lowest_on_the_plateau_and_is_set(make_bench: Any) -> None:
    bench = make_bench(5)
    array = bench.detectors["alice"].array
    array.bias_a = [12e-6, 12e-6, 21e-6, 5e-6]
    result = bias(bench)
    assert result.ok, result.reason
    for scan, now in zip(result.scans, array.bias_a, strict=True):
        assert abs(scan.bias_a - TRUE_BIAS) <= 3.5 * scan.sigma_a
        assert now == scan.bias_a
        assert scan.switching_a < 22e-6
        assert scan.dark_hz == pytest.approx(60, abs=15)
        assert scan.currents_a.size == scan.light_hz.size == scan.dark_counts_hz.size
    assert bench.pump.emitting


def test_bias_without_light_fails_and_puts_the_currents_back(make_bench: Any) -> None:
    bench = make_bench(5, alice_fibre={"loss": 200.0})
    bench.detectors["alice"].array.bias_a = [11e-6, 12e-6, 13e-6, 14e-6]
    result = bias(bench, repeats=2, dark_repeats=2)
    assert not result.ok
    assert result.reason.startswith("detector 1: the pump makes no difference")
    assert bench.detectors["alice"].array.bias_a == [11e-6, 12e-6, 13e-6, 14e-6]
    assert bench.pump.emitting


def test_bias_that_ends_before_the_plateau_fails(make_bench: Any) -> None:
    result = bias(make_bench(6), currents_a=np.arange(6e-6, 15e-6, 0.75e-6), dark_repeats=2)
    assert not result.ok
    assert "99 % of the plateau would need" in result.reason


def test_polarization_is_found_from_anywhere_and_stays(make_bench: Any) -> None:
    bench = rotated(make_bench, 2)
    start = bench.true_qber()
    result = polarization(bench)
    assert result.ok, result.reason
    assert start > 0.1
    assert bench.true_qber() < 0.015
    assert result.qber == pytest.approx(bench.true_qber() + 0.00025, abs=4 * result.qber_sigma)
    assert max(result.qber_z, result.qber_x) < 0.03
    for controller, angles in zip(bench.controllers.values(), result.angles, strict=True):
        assert tuple(paddle.get() for paddle in controller.actuators) == angles
    assert all(0 < sigma < 5 for sigmas in result.sigmas for sigma in sigmas)


def test_polarization_that_cannot_be_found_puts_the_paddles_back_the_same_for_the_same_seed(
    make_bench: Any,
) -> None:
    results = []
    for _ in range(2):
        bench = rotated(make_bench, 2)
        before = [a.get() for c in bench.controllers.values() for a in c.actuators]
        result = polarization(bench, max_sweeps=1, limit=0.001)
        assert not result.ok
        assert "above 0.1 %" in result.reason
        assert [a.get() for c in bench.controllers.values() for a in c.actuators] == before
        results.append(result)
    assert results[0].angles == results[1].angles
    assert np.array_equal(results[0].history, results[1].history)


def test_polarization_on_a_dark_bench_fails_with_the_paddles_where_they_were(
    make_bench: Any,
) -> None:
    bench = rotated(make_bench, 2)
    bench.pump.emitting = False
    before = [a.get() for c in bench.controllers.values() for a in c.actuators]
    result = polarization(bench)
    assert not result.ok
    assert "no coincidence peak" in result.reason
    assert [a.get() for c in bench.controllers.values() for a in c.actuators] == before
    assert not any(tagger.inputs.recording for tagger in bench.taggers.values())


def test_polarization_needs_something_to_turn(make_bench: Any) -> None:
    bench = make_bench(1)
    stations = [calibration.Station(t, LABELS, None) for t in bench.taggers.values()]
    with pytest.raises(ValueError, match="nothing to turn"):
        calibration.find_polarization(stations[0], stations[1], bench.clock)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["phase_matching", "delays", "bias", "polarization"])
def test_errors_are_honest_over_twenty_seeds(make_bench: Any, kind: str) -> None:
    pulls: list[float] = []
    for seed in range(100, 120):
        if kind == "phase_matching":
            pulls.append(phase_matching_pull(make_bench, seed))
        elif kind == "delays":
            pulls += delay_pulls(make_bench, seed)
        elif kind == "bias":
            pulls += bias_pulls(make_bench, seed)
        else:
            pulls.append(polarization_pull(make_bench, seed))
    # the largest of n standard normal pulls stays below this in 99 runs of 100
    largest = math.sqrt(2) * float(erfinv(0.99 ** (1 / len(pulls))))
    assert max(abs(pull) for pull in pulls) <= largest, pulls
    assert 0.3 <= float(np.std(pulls)) <= 1.4
    assert abs(float(np.mean(pulls))) <= 1.0
