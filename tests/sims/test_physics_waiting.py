"""Waiting for links: the numbers of the ``shared`` physics sheet, sec. 9, and seeded draws."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments.errors import ConfigError
from bellbench.sims.physics import waiting
from hypothesis import given, settings
from hypothesis import strategies as st

SHOTS = 200_000


def agrees(samples: npt.NDArray[np.generic], expected: float) -> None:
    values = np.asarray(samples, np.float64)
    assert abs(values.mean() - expected) <= 3 * values.std() / math.sqrt(values.size)


@pytest.mark.parametrize(("links", "expected"), [(1, 10.0), (2, 14.737), (3, 17.901), (7, 25.109)])
def test_mean_wait_of_parallel_links(links: int, expected: float) -> None:
    assert waiting.mean_wait(links, 0.1) == pytest.approx(expected, abs=5e-4)
    slots = waiting.sample_waits(np.random.default_rng(links), links, 0.1, SHOTS)
    assert slots.shape == (SHOTS, links)
    assert slots.min() == 1
    agrees(slots.max(axis=1), waiting.mean_wait(links, 0.1))


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(1, 999))
def test_mean_wait_is_the_alternating_sum_in_rational_numbers(links: int, per_mille: int) -> None:
    p = Fraction(per_mille, 1000)
    exact = sum(
        math.comb(links, j) * (-1) ** (j + 1) / (1 - (1 - p) ** j) for j in range(1, links + 1)
    )
    assert waiting.mean_wait(links, float(p)) == pytest.approx(float(exact), rel=1e-12)
    if links == 2:
        assert exact == (3 - 2 * p) / (p * (2 - p))


def test_mean_wait_of_many_links_with_small_chances() -> None:
    # to leading order of p the harmonic number: exponential waiting times
    harmonic = math.fsum(1 / k for k in range(1, 301))
    assert waiting.mean_wait(300, 1e-7) * 1e-7 == pytest.approx(harmonic, rel=1e-6)
    assert waiting.mean_wait(300, 1.0) == 1.0


@settings(max_examples=30)
@given(st.integers(1, 6), st.floats(0.05, 1.0))
def test_distribution_adds_up_to_the_mean(links: int, p: float) -> None:
    slots = np.arange(2000)
    survival = 1 - waiting.wait_distribution(slots, links, p)
    assert survival.sum() == pytest.approx(waiting.mean_wait(links, p), rel=1e-9)
    assert waiting.wait_distribution([-1, 0, 0.9], links, p).tolist() == [0, 0, 0]
    assert waiting.wait_distribution(1, links, p) == pytest.approx(p**links)


def test_distribution_in_draws() -> None:
    last = waiting.sample_waits(np.random.default_rng(1), 3, 0.2, SHOTS).max(axis=1)
    for slot in (1, 4, 9, 20):
        agrees(last <= slot, float(waiting.wait_distribution(slot, 3, 0.2)))


def test_both_links_within_a_window() -> None:
    assert waiting.within_window(5, 2, 0.1) == pytest.approx(0.4406, abs=5e-5)
    for links in (2, 3, 5):
        slots = waiting.sample_waits(np.random.default_rng(links), links, 0.1, SHOTS)
        for window in (0, 5, 20):
            near = np.ptp(slots, axis=1) <= window
            agrees(near, waiting.within_window(window, links, 0.1))


@settings(max_examples=30)
@given(st.integers(0, 60), st.floats(0.01, 0.99))
def test_window_of_two_links_is_the_closed_form(window: int, p: float) -> None:
    expected = 1 - 2 * (1 - p) ** (window + 1) / (2 - p)
    assert waiting.within_window(window, 2, p) == pytest.approx(expected)
    assert waiting.within_window(window, 1, p) == pytest.approx(1)


@pytest.mark.parametrize("window", [0, 1, 5, 30])
def test_cutoff(window: int) -> None:
    rng, p = np.random.default_rng(window), 0.1
    slots, ages = waiting.sample_with_cutoff(rng, window, p, 50_000)
    assert ages.max() <= window
    assert (slots > ages).all()
    agrees(slots, waiting.mean_with_cutoff(window, p))
    # slot by slot: a link that has waited the window is dropped, and both start again
    shots = 2000
    age = np.full((shots, 2), -1)
    done = np.zeros(shots, np.int64)
    for slot in range(1, 3000):
        live = done == 0
        tried = rng.random((shots, 2)) < p
        # a held link keeps; an empty one takes its chance
        age = np.where(age >= 0, age + 1, np.where(tried, 0, -1))
        both = (age >= 0).all(axis=1)
        done[live & both] = slot
        age[(age >= window).any(axis=1) & ~both] = -1
        if (done > 0).all():
            break
    agrees(done, waiting.mean_with_cutoff(window, p))


def test_cutoff_trades_rate_for_age() -> None:
    means = [waiting.mean_with_cutoff(w, 0.05) for w in (0, 5, 20, 100, 1000)]
    assert means == sorted(means, reverse=True)
    assert means[0] == pytest.approx(1 / 0.05**2)  # both in the same slot
    assert means[-1] == pytest.approx(waiting.mean_wait(2, 0.05))


@pytest.mark.parametrize(
    ("act", "word"),
    [
        (lambda: waiting.mean_wait(0, 0.1), "at least one link"),
        (lambda: waiting.mean_wait(2, 0.0), "above 0"),
        (lambda: waiting.within_window(3, 2, 1.5), "0..1"),
    ],
)
def test_what_cannot_be_is_refused(act: Callable[[], object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        act()
