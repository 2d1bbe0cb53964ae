"""Six-state rates against their zero, the attacker's entropy, and a second program."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from bellbench.protocols.qkd.finite_key import asymptotic_key_fraction, binary_entropy
from bellbench.protocols.qkd.six_state import (
    six_state_fraction,
    six_state_information,
    six_state_key_length,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from qkd import _core as _qkd

ORACLE: Any = _qkd  # qkd 0.2.0 (PyPI, MIT)


def test_the_rate_vanishes_where_it_should() -> None:
    assert six_state_fraction(0.1261930, 1.0) > 0 > six_state_fraction(0.1261932, 1.0)
    assert six_state_fraction(0.0, 1.0) == 1.0
    # the third basis costs an attacker something at any error rate
    assert all(
        six_state_fraction(q, 1.1) > asymptotic_key_fraction(q, q, 1.1) for q in (0.01, 0.05, 0.1)
    )


@settings(max_examples=40, deadline=None)
@given(e=st.floats(0.0, 0.3), t=st.floats(0.0, 0.4), tilt=st.floats(-1.0, 1.0))
def test_information_is_the_entropy_of_bell_states(e: float, t: float, tilt: float) -> None:
    t = max(t, e / 2)
    x, y = t + tilt * e / 2, t - tilt * e / 2  # every pair with this mean that a state can have
    weights = np.array([1 - (x + y + e) / 2, (x + y - e) / 2, (y + e - x) / 2, (e + x - y) / 2])
    weights = np.clip(weights, 0.0, 1.0)
    entropy = -sum(w * math.log2(w) for w in weights if w > 0)
    # I_E = H(weights) - h(e): most for equal rates in the two other bases
    worst = six_state_information(e, t)
    assert entropy - binary_entropy(e) <= worst + 1e-9
    if tilt == 0.0:
        assert entropy - binary_entropy(e) == pytest.approx(worst, abs=1e-9)


def test_bits_agree_with_an_independent_program() -> None:
    rng = np.random.default_rng(8)
    lengths = []
    for _ in range(120):
        n, m = int(10 ** rng.uniform(4, 8)), int(10 ** rng.uniform(3, 7))
        e_test = rng.uniform(0.0, 0.1)
        e_key = rng.uniform(0.0, min(0.1, 2 * e_test))
        eps, share = 10 ** rng.uniform(-12, -6), rng.uniform(0.01, 0.5)
        assert six_state_fraction(e_key, 1.1, e_test) == pytest.approx(
            1 - 1.1 * binary_entropy(e_key) - 1 + ORACLE.sixstate_bound(e_key, e_test), abs=1e-12
        )
        assert six_state_information(e_key) == pytest.approx(ORACLE.sixstate_holevo(e_key))
        leak = math.floor(1.15 * n * binary_entropy(e_key))
        bound = six_state_key_length(n, m, e_key, e_test, leak, eps, share * eps)
        theirs = ORACLE.sixstate_length(n, m, e_key, e_test, 1.15, eps, share * eps)
        # it caps nothing at 1/2, where ours does: no key there anyway
        if bound.e_test < 0.5:
            assert bound.entropy == pytest.approx(theirs[1], abs=1e-9)
        assert abs(bound.length - theirs[0]) <= 1 + 1e-9 * theirs[0]
        lengths.append(bound.length)
    assert sum(length > 0 for length in lengths) > 30


@settings(max_examples=40, deadline=None)
@given(n=st.integers(10**5, 10**8), q=st.floats(0.0, 0.1))
def test_nothing_that_is_worse_lengthens_a_key(n: int, q: float) -> None:
    leak = math.ceil(1.1 * n * binary_entropy(q))

    def length(leak: int = leak, m: int = n // 10, eps: float = 1e-9, error: float = q) -> int:
        return six_state_key_length(n, m, q, error, leak, eps, 1e-12).length

    base = length()
    assert 0 <= base <= max(0, n * six_state_fraction(q, 1.1))
    assert length(leak=leak + 100) == max(0, base - 100)
    assert length(m=n // 20) <= base
    assert length(eps=1e-10) <= base
    assert length(error=q + 0.01) <= base


def test_nonsense_is_refused() -> None:
    for pair in ((0.1, 0.04), (1.0, 0.5), (-0.1, 0.1), (0.1, 0.96), (0.1, math.nan)):
        with pytest.raises(ValueError, match="two qubits"):
            six_state_information(*pair)
    good: tuple[Any, ...] = (10**6, 10**5, 0.02, 0.02, 10**5, 1e-9, 1e-10)
    assert six_state_key_length(*good).length > 0
    function: Any = six_state_key_length
    for place, bad in [(0, 0), (1, 0), (2, 0.6), (3, -0.1), (4, -1), (5, 1e-11), (6, 0.0)]:
        with pytest.raises(ValueError):
            function(*good[:place], bad, *good[place + 1 :])
