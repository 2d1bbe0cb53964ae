"""Finite-key bound against the authors' numbers, and asymptotic rates against their zeros."""

from __future__ import annotations

import math

import pytest
from bellbench.protocols.qkd import Parameters
from bellbench.protocols.qkd.finite_key import (
    asymptotic_key_fraction,
    binary_entropy,
    choose_sample,
    estimation_epsilon,
    leak_budget,
    secure_key_length,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def test_entropy_at_known_points() -> None:
    assert binary_entropy(0.0) == binary_entropy(1.0) == 0.0
    assert binary_entropy(0.5) == 1.0
    assert binary_entropy(0.11) == pytest.approx(0.499915958164528, rel=1e-12)
    with pytest.raises(ValueError):
        binary_entropy(-0.1)


@pytest.mark.parametrize(
    ("f_ec", "zero"), [(1.0, 0.1100279), (1.1, 0.102283), (1.16, 0.098106), (1.2, 0.095494)]
)
def test_asymptotic_rate_vanishes_where_it_should(f_ec: float, zero: float) -> None:
    assert asymptotic_key_fraction(zero - 1e-6, zero - 1e-6, f_ec) > 0
    assert asymptotic_key_fraction(zero + 1e-6, zero + 1e-6, f_ec) < 0


@pytest.mark.parametrize(
    ("delta", "m", "k", "nu", "length", "total"),
    [
        (0.010, 36123, 5911, 0.06943318811415392, 15323, 9.778763272730244e-11),
        (0.050, 128989, 20941, 0.03685663259331777, 27878, 9.872424026202253e-11),
    ],
)
def test_rows_of_tomamichel_leverrier_figure_7(
    delta: float, m: int, k: int, nu: float, length: int, total: float
) -> None:
    n, target = m - k, 1e-10
    alpha = m**-0.5
    beta = 0.9 * (1 - alpha)
    r = leak_budget(n, delta, 1.1)
    t = math.ceil(-math.log2(alpha * target))
    assert estimation_epsilon(nu, m, k) == pytest.approx(beta * target, rel=1e-12)
    # At the authors' nu the total of their length, and one bit more, bracket their budget.
    amplification = 0.5 * math.sqrt(2.0 ** (-n * (1 - binary_entropy(delta + nu)) + r + t + length))
    assert 2.0**-t + estimation_epsilon(nu, m, k) + amplification == pytest.approx(total, rel=1e-12)
    assert amplification <= (1 - alpha - beta) * target < amplification * math.sqrt(2)
    # The best nu can only be better, and here by little.
    bound = secure_key_length(m, k, delta, r, t, target)
    assert length <= bound.length <= length + 30
    assert bound.epsilon <= target


@pytest.mark.parametrize(
    ("m", "delta", "length", "k"),
    [
        (10**4, 0.01, 2698, 2342),
        (10**5, 0.02, 42887, 13069),
        (10**6, 0.03, 468272, 69808),
        (10**6, 0.05, 300521, 84162),
        (10**7, 0.02, 6353129, 317963),
    ],
)
def test_optimised_plans(m: int, delta: float, length: int, k: int) -> None:
    plan = choose_sample(m, delta, 1.1, 1e-10)
    assert plan.length == length
    assert plan.sample == pytest.approx(k, rel=5e-3)  # flat at the top
    r = leak_budget(m - plan.sample, delta, 1.1)
    bound = secure_key_length(m, plan.sample, delta, r, plan.verify, 1e-10)
    assert bound.length == length


@pytest.mark.parametrize(
    ("m", "delta", "f_ec", "epsilon", "length"),
    [
        (5_000, 0.03, 1.1, 1e-10, 273),
        (6_838, 0.033, 1.28, 1.8e-11, 308),
        (20_000, 0.005, 1.05, 1e-6, 9_252),
        (87_879, 0.0581, 1.168, 1.6e-12, 10_425),
        (120_000, 0.03, 1.1, 1e-10, 43_056),
        (338_750, 0.0792, 1.046, 1.6e-10, 30_685),
        (392_408, 0.0098, 1.295, 1.4e-10, 239_191),
        (2_282_833, 0.0175, 1.131, 1.6e-7, 1_438_230),
        (4_522_521, 0.0611, 1.074, 1.1e-14, 1_142_375),
        (10_235_654, 0.0096, 1.218, 1.3e-8, 7_718_271),
    ],
)
def test_plans_of_an_independent_program(
    m: int, delta: float, f_ec: float, epsilon: float, length: int
) -> None:
    # qkd 0.2.0 (PyPI, MIT): pairs.finite(m, delta, f_ec, 1/2, epsilon, "deterministic").
    # The optimum is flat, and the searches differ: of 150 random plans none differed by 2 bits.
    assert abs(choose_sample(m, delta, f_ec, epsilon).length - length) <= 1


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(2000, 10**6),
    fraction=st.floats(0.05, 0.5),
    delta=st.floats(0.0, 0.11),
    verify=st.integers(34, 60),
)
def test_length_is_the_longest_within_epsilon(
    m: int, fraction: float, delta: float, verify: int
) -> None:
    epsilon = 1e-10
    k = int(fraction * m)
    n = m - k
    r = leak_budget(n, delta, 1.1)
    bound = secure_key_length(m, k, delta, r, verify, epsilon)

    def total(length: int, nu: float) -> float:
        exponent = -n * (1 - binary_entropy(delta + nu)) + r + verify + length
        tail = 2 * math.exp(-n * k * k * nu * nu / (m * (k + 1)))
        return 2.0**-verify + tail + 0.5 * math.exp2(min(exponent / 2, 900))

    if bound.length:
        assert total(bound.length, bound.nu) <= epsilon * (1 + 1e-12)
        assert bound.epsilon == pytest.approx(total(bound.length, bound.nu), rel=1e-6)
    # No margin on a fine grid allows two bits more.
    grid = [i * (0.5 - delta) / 3000 for i in range(1, 3000)]
    assert min(total(bound.length + 2, nu) for nu in grid) > epsilon


def test_every_cost_shortens_the_key() -> None:
    base = secure_key_length(10**5, 13000, 0.02, 13600, 41, 1e-10).length
    assert base > 40000
    assert secure_key_length(10**5, 13000, 0.02, 13700, 41, 1e-10).length == base - 100
    assert secure_key_length(10**5, 13000, 0.021, 13600, 41, 1e-10).length < base
    assert secure_key_length(10**5, 13000, 0.02, 13600, 41, 1e-12).length < base
    assert secure_key_length(10**5, 13000, 0.02, 13600, 41, 1e-10, overlap=0.4).length > base


def test_no_key_where_none_is_possible() -> None:
    assert secure_key_length(1000, 500, 0.03, 100, 41, 1e-10).length == 0
    assert secure_key_length(10**6, 10**5, 0.12, 500_000, 41, 1e-10).length == 0
    # 2^-t alone exceeds the target.
    assert secure_key_length(10**6, 10**5, 0.01, 10**5, 20, 1e-10).length == 0
    parameters = Parameters.plan(tolerance=0.04)
    assert all((b := parameters.key_bound(m)) is None or b.length == 0 for m in range(0, 5001, 50))
    large = parameters.key_bound(100_000)
    assert large is not None
    assert large.length > 20_000


@pytest.mark.parametrize(
    "change",
    [
        {"k": 0},
        {"k": 1000},
        {"delta": 0.5},
        {"delta": -0.01},
        {"leak": -1},
        {"verify": 0},
        {"epsilon": 0.0},
        {"overlap": 0.6},
    ],
)
def test_nonsense_is_refused(change: dict[str, float]) -> None:
    good = {"m": 1000, "k": 100, "delta": 0.02, "leak": 10, "verify": 40, "epsilon": 1e-10}
    with pytest.raises(ValueError):
        secure_key_length(**(good | change))  # type: ignore[arg-type]  # mixed on purpose


@pytest.mark.parametrize(
    "change",
    [
        {"leak_efficiency": 1.0},
        {"tolerance": 0.5},
        {"epsilon": 1.0},
        {"monitor_fraction": 1.0},
        {"window_ps": 0},
        {"resolution_ps": 301},
        {"calibration_ps": 0},
    ],
)
def test_terms_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Parameters.plan(**change)  # type: ignore[arg-type]  # mixed on purpose
