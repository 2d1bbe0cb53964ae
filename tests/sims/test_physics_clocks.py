"""Clock noise against its closed lines, the filter of Kasdin and Walter, and known answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.signal
from bellbench.sims.physics.clocks import (
    PRESETS,
    ClockNoise,
    Oscillator,
    allan_deviation,
    allan_variance,
    flicker_lags,
)
from bellbench.sims.physics.overflow import Buffer
from hypothesis import given, settings
from hypothesis import strategies as st

STEP_S = 0.01
N = 1 << 15


def errors(noise: ClockNoise, n: int = N, seed: int = 7, **known: float) -> Any:
    """Time errors at the edges of ``n`` steps, s."""
    clock = Oscillator(noise, STEP_S, **known)
    rng = np.random.default_rng(seed)
    return np.array([clock.error_s, *(clock.step(rng) for _ in range(n))])


def white_edf(n: int, m: int) -> float:
    """Degrees of freedom of the overlapping Allan variance (NIST SP 1065, table 5)."""
    return (3 * (n - 1) / (2 * m) - 2 * (n - 2) / n) * 4 * m**2 / (4 * m**2 + 5)


def flicker_edf(n: int, m: int) -> float:
    if m == 1:
        return 2 * (n - 2) / (2.3 * n - 4.9)
    return 5 * n**2 / (4 * m * (n + 3 * m))


def walk_edf(n: int, m: int) -> float:
    return (n - 2) / m * ((n - 1) ** 2 - 3 * m * (n - 1) + 4 * m**2) / (n - 3) ** 2


def test_the_allan_deviation_of_a_published_data_set() -> None:
    # NBS monograph 140, annex 8.E, as in NIST SP 1065, tables 29 and 30.
    frequencies = [892, 809, 823, 798, 671, 644, 883, 903, 677]
    phase = np.cumsum([0, *frequencies])
    assert allan_deviation(phase, 1.0, 1) == pytest.approx(91.22945, abs=1e-5)
    assert allan_deviation(phase, 1.0, 2) == pytest.approx(85.95287, abs=1e-5)
    with pytest.raises(ValueError, match="too few for 5 steps"):
        allan_deviation(phase, 1.0, 5)


@pytest.mark.parametrize(
    ("noise", "edf"),
    [
        (ClockNoise(white_fm=2e-20), white_edf),
        (ClockNoise(random_walk_fm=3e-22), walk_edf),
        (ClockNoise(flicker_fm=1e-21), flicker_edf),
    ],
    ids=["white", "random walk", "flicker"],
)
def test_synthesized_noise_lies_on_its_closed_line(noise: ClockNoise, edf: Any) -> None:
    x = errors(noise)
    for m in (16, 64, 256, 1024):
        found = allan_deviation(x, STEP_S, m) ** 2
        line = float(allan_variance(noise, m * STEP_S))
        assert found == pytest.approx(line, rel=3 * math.sqrt(2 / edf(x.size, m)) + 0.005)
    # White and random walk are exact at one step; flicker is at 2 h_-1 there, 1/ln2 times its line.
    line = float(allan_variance(noise, STEP_S)) / (math.log(2) if noise.flicker_fm else 1)
    assert allan_deviation(x, STEP_S, 1) ** 2 == pytest.approx(line, rel=0.05)


def test_noises_add_in_variance() -> None:
    noise = ClockNoise(white_fm=2e-20, flicker_fm=1e-21, random_walk_fm=3e-22)
    parts = [ClockNoise(white_fm=2e-20), ClockNoise(flicker_fm=1e-21), ClockNoise(0, 0, 3e-22)]
    tau = np.array([0.1, 1.0, 10.0])
    assert allan_variance(noise, tau) == pytest.approx(sum(allan_variance(p, tau) for p in parts))
    x = errors(noise)
    for m in (64, 256):
        line = float(allan_variance(noise, m * STEP_S))
        assert allan_deviation(x, STEP_S, m) ** 2 == pytest.approx(
            line, rel=3 * math.sqrt(2 / walk_edf(x.size, m))
        )


def test_the_lags_are_the_filter_of_kasdin_and_walter() -> None:
    decay, weights = flicker_lags(STEP_S)
    k = np.arange(1, 1_000_001)
    response = np.concatenate(([1.0], np.cumprod((k - 0.5) / k)))
    for delay, tolerance in ((0, 1e-4), (1, 1e-4), (30, 1e-4), (10**4, 3e-4), (10**6, 2e-3)):
        assert weights @ decay**delay == pytest.approx(response[delay], rel=tolerance)


def test_flicker_noise_is_white_noise_behind_that_filter() -> None:
    n, h = 20_000, 1e-20
    found = np.diff(errors(ClockNoise(flicker_fm=h), n, seed=3)) / STEP_S
    white = np.random.default_rng(3).standard_normal((n, 5))[:, 3]
    k = np.arange(1, n)
    response = np.concatenate(([1.0], np.cumprod((k - 0.5) / k)))
    wanted = math.sqrt(math.pi * h) * scipy.signal.fftconvolve(white, response)[:n]
    assert np.abs(found - wanted).max() < 2e-3 * wanted.std()


def test_offset_and_drift_without_noise_are_a_parabola() -> None:
    x = errors(ClockNoise(), 1000, offset_s=1e-6, frequency=2e-6, drift=-3e-9)
    t = np.arange(1001) * STEP_S
    assert x == pytest.approx(1e-6 + 2e-6 * t - 1.5e-9 * t**2, rel=1e-12)
    drift = math.sqrt(float(allan_variance(ClockNoise(), 2.0, drift=-3e-9)))
    assert allan_deviation(x, STEP_S, 200) == pytest.approx(drift)


def test_a_locked_clock_keeps_its_rms_and_its_line() -> None:
    noise = ClockNoise(locked_rms_s=15e-12, locked_time_s=0.1)
    x = errors(noise)
    assert x[1000:].std() == pytest.approx(15e-12, rel=0.05)  # 1600 independent errors
    for m in (1, 10, 100):
        line = float(allan_variance(noise, m * STEP_S))
        assert allan_deviation(x, STEP_S, m) ** 2 == pytest.approx(
            line, rel=3 * math.sqrt(2 / (N * STEP_S / max(0.1, m * STEP_S)))
        )


@pytest.mark.parametrize(
    ("kind", "tau_s", "sigma"),
    [
        ("xo", 1, 1e-8),
        ("xo", 100, 1e-8),
        ("ocxo", 1, 1e-11),
        ("rubidium", 1, 1e-11),
        ("rubidium", 100, 1e-12),
        ("white_rabbit", 1, math.sqrt(3) * 15e-12),
    ],
)
def test_presets_have_their_typical_allan_deviations(kind: str, tau_s: float, sigma: float) -> None:
    found = math.sqrt(float(allan_variance(PRESETS[kind][0], tau_s)))
    assert found == pytest.approx(sigma, rel=1e-3)


def test_a_clock_goes_on_from_its_state() -> None:
    noise = ClockNoise(1e-20, 1e-20, 1e-20, 1e-11)
    whole, first = (Oscillator(noise, STEP_S, frequency=1e-6, drift=1e-9) for _ in range(2))
    rng = np.random.default_rng(1)
    for _ in range(50):
        whole.step(rng)
    state = whole.state
    rngs = [np.random.default_rng(2), np.random.default_rng(2)]
    after = [whole.step(rngs[0]) for _ in range(50)]
    first.state = state
    assert [first.step(rngs[1]) for _ in range(50)] == after


# -- memory that overflows ------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    gaps=st.lists(st.integers(0, 3000), max_size=60),
    size=st.integers(1, 6),
    cut=st.integers(0, 60),
)
def test_a_buffer_is_a_queue_that_is_read_at_a_fixed_rate(
    gaps: list[int], size: int, cut: int
) -> None:
    times = np.cumsum(np.array([0, *gaps], np.int64))
    period = 1000 + math.pi  # ps an event; nothing happens at the very moment it is empty
    buffer = Buffer(size, 1e12 / period)
    found = [*buffer.take(times[:cut]), *buffer.take(times[cut:])]
    full_until: float | None = None
    level, last, wanted = 0.0, 0, []
    for t in times.tolist():
        level = max(0.0, level - (t - last) / period)
        last = t
        if full_until is not None and t >= full_until:
            full_until = None
        if full_until is None and level + 1 > size:
            full_until = t + level * period
        wanted.append(full_until is None)
        level += wanted[-1]
    assert found == wanted


def test_a_buffer_that_is_fast_enough_loses_nothing_and_a_slow_one_keeps_its_rate() -> None:
    times = np.sort(np.random.default_rng(5).integers(0, 10**11, 200_000))  # 2 MHz for 0.1 s
    assert Buffer(1000, 3e6).take(times).all()
    kept = Buffer(1000, 1e6).take(times)
    # Full and empty in turn: it fills at 1 MHz in 1 ms, is emptied in 1 ms, so half of 2 MHz.
    assert kept.mean() == pytest.approx(0.5, rel=0.03)
    assert np.flatnonzero(np.diff(kept.astype(int)) == -1).size == pytest.approx(50, abs=3)
