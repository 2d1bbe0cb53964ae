"""Finite-key bound against the authors' numbers, and asymptotic rates against their zeros."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import qkd.pairs
from bellbench.protocols.qkd import Parameters
from bellbench.protocols.qkd.chsh import chsh_rate
from bellbench.protocols.qkd.decoy import asymptotic_rate
from bellbench.protocols.qkd.finite_key import (
    Bound,
    asymptotic_key_fraction,
    binary_entropy,
    choose_sample,
    counted_key_length,
    estimation_epsilon,
    leak_budget,
    secure_key_length,
    sharp_estimation_epsilon,
    tlgr_key_length,
)
from bellbench.protocols.qkd.mdi_bound import asymptotic_mdi_rate
from bellbench.protocols.qkd.six_state import six_state_fraction
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln


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


# Tomamichel-Leverrier figure 7: (delta, m, k), with the tag and reserve of the figure.
FIGURE_7 = [(0.010, 36123, 5911), (0.050, 128989, 20941)]


@pytest.mark.parametrize(("point", "length"), [(FIGURE_7[0], 15237), (FIGURE_7[1], 27717)])
def test_tomamichel_lim_gisin_renner_at_the_points_of_figure_7(
    point: tuple[float, int, int], length: int
) -> None:
    delta, m, k = point
    n = m - k
    t = math.ceil(-math.log2(m**-0.5 * 1e-10))
    bound = tlgr_key_length(n, k, delta, leak_budget(n, delta, 1.1), 1e-10, 2.0**-t)
    assert bound.length == length
    assert bound.epsilon == 1e-10 + 2.0**-t
    # the square on eps_sec and the ln inside the root
    shorter = tlgr_key_length(n, k, delta, leak_budget(n, delta, 1.1), 0.5e-10, 2.0**-t)
    mu = math.sqrt(m / (n * k) * (k + 1) / k * math.log(4 / 0.5e-10))
    lost = n * (binary_entropy(delta + mu) - binary_entropy(delta + bound.margin))
    assert bound.raw - shorter.raw == pytest.approx(2 + lost, abs=1e-6)


@pytest.mark.parametrize(("point", "length"), [(FIGURE_7[0], 15743), (FIGURE_7[1], 28480)])
def test_lim_xu_pan_ekert_at_the_points_of_figure_7(
    point: tuple[float, int, int], length: int
) -> None:
    delta, m, _ = point
    plan = choose_sample(m, delta, 1.1, 1e-10, bound="lim-xu-pan-ekert")
    assert plan.length == length
    leak = leak_budget(m - plan.sample, delta, 1.1)
    bound = secure_key_length(
        m, plan.sample, delta, leak, plan.verify, 1e-10, bound="lim-xu-pan-ekert"
    )
    assert bound.length == length
    assert bound.epsilon <= 1e-10
    assert bound.xi is not None
    # an independent, coarse search over both margins finds a little less and never more
    n, best = m - plan.sample, -math.inf
    for nu in np.linspace(0.02, 0.09, 71):
        for xi in np.linspace(0.6, 0.97, 38) * nu:
            tail = sharp_estimation_epsilon(float(nu), float(xi), delta, m, plan.sample)
            room = 1e-10 - 2.0**-plan.verify - tail
            if room > 0:
                rate = n * (1 - binary_entropy(delta + float(nu)))
                best = max(best, rate - leak - plan.verify + 2 * math.log2(2 * room))
    assert 0.99 * length < best < length + 1


def test_the_sharper_tail_gains_most_for_small_blocks() -> None:
    def lengths(m: int, k: int) -> tuple[int, int]:
        leak = leak_budget(m - k, 0.02, 1.1)
        tails: tuple[Bound, Bound] = ("tomamichel-leverrier", "lim-xu-pan-ekert")
        old, new = (
            secure_key_length(m, k, 0.02, leak, 41, 1e-10, bound=bound).length for bound in tails
        )
        return old, new

    small, large = lengths(10**4, 2500), lengths(10**6, 55_000)
    assert small[1] > 1.05 * small[0] > 0
    assert large[0] < large[1] < 1.02 * large[0]


@pytest.mark.parametrize(("m", "k", "delta"), [(300, 60, 0.05), (900, 450, 0.01), (2000, 150, 0.1)])
def test_tails_hold_for_every_number_of_errors(m: int, k: int, delta: float) -> None:
    n = m - k
    errors, seen = np.arange(m + 1)[None, :], np.arange(k + 1)[:, None]

    def choose(a: Any, b: Any) -> Any:
        inside = (b >= 0) & (b <= a)
        b = np.where(inside, b, 0)
        value = gammaln(a + 1.0) - gammaln(b + 1.0) - gammaln(a - b + 1.0)
        return np.where(inside, value, -np.inf)

    # the hypergeometric distribution: errors seen among k of m, of which some are errors
    chance = np.exp(choose(k, seen) + choose(n, errors - seen) - choose(m, errors))
    assert np.allclose(chance.sum(axis=0), 1.0, atol=1e-9)

    def worst(missed: Any) -> float:
        """Largest chance over all numbers of errors, as an epsilon."""
        return 2 * math.sqrt(float(np.max(np.sum(np.where(missed, chance, 0.0), axis=0))))

    for nu in (0.04, 0.1, 0.2):
        # the sample passes, and the rest has nu more than tolerated
        passed = (seen <= delta * k) & (errors - seen >= n * (delta + nu))
        shares = (0.3, 0.5, 0.7, 0.9)
        sharp = min(sharp_estimation_epsilon(nu, share * nu, delta, m, k) for share in shares)
        assert worst(passed) <= min(estimation_epsilon(nu, m, k), sharp)
        # counting: the rest has nu more than what the sample shows, whatever that is
        assert worst(errors - seen >= n * (seen / k + nu)) <= estimation_epsilon(nu, m, k)


@pytest.mark.parametrize("f_ec", [0.99, 0.0, -1.0, math.inf, math.nan])
def test_nothing_beats_the_shannon_limit(f_ec: float) -> None:
    efficient: list[Callable[[float], object]] = [
        lambda f: asymptotic_key_fraction(0.02, 0.02, f),
        lambda f: leak_budget(1000, 0.02, f),
        lambda f: choose_sample(1000, 0.02, f, 1e-9),
        lambda f: six_state_fraction(0.02, f),
        lambda f: chsh_rate(0.02, 2.7, f),
        lambda f: asymptotic_rate(0.1, 0.02, 0.05, 0.02, f, 0.5),
        lambda f: asymptotic_mdi_rate(0.1, 0.02, 0.2, 0.02, f),
    ]
    for function in efficient:
        function(1.0)
        with pytest.raises(ValueError, match="Shannon"):
            function(f_ec)


def test_counted_errors_give_the_length_of_the_theorem() -> None:
    n = k = 50_000
    bound = counted_key_length(n, k, 1000, 0.02, 7800, 41, 1e-10)
    room = 1e-10 - 2.0**-41 - estimation_epsilon(bound.nu, n + k, k)
    raw = n * (1 - binary_entropy(0.02 + bound.nu)) - 7800 - 41 + 2 * math.log2(2 * room)
    assert bound.raw == pytest.approx(raw, abs=1e-6)
    assert 27_000 < bound.length <= raw
    assert bound.epsilon <= 1e-10
    # the margin was chosen without looking
    other = counted_key_length(n, k, 1700, 0.02, 7800, 41, 1e-10)
    assert other.nu == bound.nu
    assert other.length < bound.length
    # two keys of half of the bits each beat one of a block that gives up a sample
    plan = choose_sample(n + k, 0.02, 1.1, 2e-10)
    assert 2 * bound.length > 1.2 * plan.length
    assert counted_key_length(n, k, 24_000, 0.02, 7800, 41, 1e-10).length == 0
    assert counted_key_length(n, 10, 0, 0.02, 7800, 41, 1e-10).length == 0


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2000, 10**6),
    share=st.floats(0.05, 0.5),
    delta=st.floats(0.0, 0.09),
    which=st.sampled_from(["tl", "lxpe", "tlgr", "counted"]),
)
def test_nothing_that_is_worse_lengthens_a_key(
    n: int, share: float, delta: float, which: str
) -> None:
    k = max(1, int(share * n))
    leak = leak_budget(n, delta, 1.1)

    def length(
        more_leak: int = 0, more_error: float = 0.0, epsilon: float = 1e-9, lost: int = 0
    ) -> int:
        r, e, size = leak + more_leak, delta + more_error, n - lost
        if which == "tl":
            return secure_key_length(size + k, k, e, r, 45, epsilon).length
        if which == "lxpe":
            bound: Bound = "lim-xu-pan-ekert"
            return secure_key_length(size + k, k, e, r, 45, epsilon, bound=bound).length
        if which == "tlgr":
            return tlgr_key_length(size, k, e, r, epsilon, 2.0**-45).length
        return counted_key_length(size, k, int(e * k), 0.02, r, 45, epsilon).length

    base = length()
    assert 0 <= base < n
    assert length(more_leak=64) == max(0, base - 64)
    assert length(more_error=0.01) <= base
    assert length(epsilon=1e-11) <= base
    assert length(lost=200) <= base


def test_bits_agree_with_an_independent_program() -> None:
    # qkd 0.2.0: pair_length with our margin, reserve and tag; its planner with ours
    rng = np.random.default_rng(20)
    core: Any = qkd.pairs._core
    for _ in range(60):
        m = int(10 ** rng.uniform(4, 7))
        k, delta = int(rng.uniform(0.03, 0.4) * m), float(rng.uniform(0.0, 0.06))
        leak = leak_budget(m - k, delta, 1.15)
        verify, epsilon = int(rng.integers(36, 60)), float(10 ** rng.uniform(-10, -7))
        bound = secure_key_length(m, k, delta, leak, verify, epsilon)
        rest = epsilon - bound.correctness - bound.estimation
        other = core.pair_length(m, k, bound.nu, delta, 0.5, leak, verify, rest)
        assert bound.length == other or (bound.length == other - 1 and other % 1 == 0)
        if bound.length:
            parts = core.pair_secpar(m, k, bound.nu, delta, 0.5, leak, verify, bound.length)
            assert parts[3] == pytest.approx(bound.epsilon, rel=1e-6)
    for _ in range(6):
        m, delta = int(10 ** rng.uniform(4, 6)), float(rng.uniform(0.005, 0.05))
        theirs = qkd.pairs.finite(m, delta, 1.12, 0.5, 1e-10, "deterministic")[0]
        assert abs(choose_sample(m, delta, 1.12, 1e-10).length - theirs) <= 1


@pytest.mark.parametrize(
    ("function", "change"),
    [
        (tlgr_key_length, {"n": 0}),
        (tlgr_key_length, {"leak": -1}),
        (tlgr_key_length, {"tolerance": 0.5}),
        (tlgr_key_length, {"eps_sec": 0.0}),
        (tlgr_key_length, {"eps_cor": 1.0}),
        (tlgr_key_length, {"quality": 1.2}),
        (counted_key_length, {"errors": -1}),
        (counted_key_length, {"errors": 101}),
        (counted_key_length, {"k": 0}),
        (counted_key_length, {"expected": 0.5}),
        (counted_key_length, {"verify": 0}),
        (counted_key_length, {"epsilon": math.nan}),
        (secure_key_length, {"bound": "gaussian"}),
    ],
)
def test_nonsense_is_refused_by_every_bound(function: Any, change: dict[str, Any]) -> None:
    good: dict[str, dict[str, Any]] = {
        "tlgr_key_length": {
            "n": 1000,
            "k": 100,
            "tolerance": 0.02,
            "leak": 10,
            "eps_sec": 1e-9,
            "eps_cor": 1e-9,
        },
        "counted_key_length": {
            "n": 1000,
            "k": 100,
            "errors": 2,
            "expected": 0.02,
            "leak": 10,
            "verify": 40,
            "epsilon": 1e-9,
        },
        "secure_key_length": {
            "m": 1000,
            "k": 100,
            "delta": 0.02,
            "leak": 10,
            "verify": 40,
            "epsilon": 1e-9,
        },
    }
    function(**good[function.__name__])
    with pytest.raises(ValueError):
        function(**(good[function.__name__] | change))


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
