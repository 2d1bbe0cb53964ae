"""CHSH values of counts, and the rate they would stand for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.protocols.qkd.chsh import (
    KEY_SHARE,
    TSIRELSON,
    chsh_rate,
    chsh_value,
    holevo_information,
)
from bellbench.protocols.qkd.finite_key import asymptotic_key_fraction, binary_entropy
from hypothesis import given, settings
from hypothesis import strategies as st
from qkd import _core as _qkd
from qkd import pairs

ORACLE: Any = _qkd  # qkd 0.2.0 (PyPI, MIT)


def singlet(rng: np.random.Generator, visibility: float, n: int) -> npt.NDArray[np.int64]:
    """Counts of a singlet at Ekert's settings, 4 by 2 by 2."""
    a1, _, a3, b1, _, b3 = pairs.settings()
    tables = []
    for a, b in ((a1, b1), (a1, b3), (a3, b1), (a3, b3)):
        e = pairs.correlate(a, b, visibility)
        p = [(1 + e) / 4, (1 - e) / 4, (1 - e) / 4, (1 + e) / 4]
        tables.append(rng.multinomial(n, p).reshape(2, 2))
    return np.array(tables)


def test_a_singlet_violates_by_its_visibility() -> None:
    counts = singlet(np.random.default_rng(1), 0.95, 100_000)
    s = chsh_value(counts)
    assert s.value < 0
    assert abs(s.value + 0.95 * TSIRELSON) < 4 * s.standard_error
    assert s.standard_error == pytest.approx(2 * math.sqrt((1 - 0.95**2 / 2) / 1e5), rel=0.01)
    assert s.violation > 100
    assert s.counts == (100_000,) * 4
    assert -chsh_value(counts[:, ::-1, :]).value == s.value  # one party's outcomes swapped


def test_the_standard_error_is_the_spread_of_repetitions() -> None:
    rng = np.random.default_rng(2)
    values = [chsh_value(singlet(rng, 0.9, 500)) for _ in range(600)]
    spread = np.std([s.value for s in values])
    assert spread == pytest.approx(np.mean([s.standard_error for s in values]), rel=0.1)


def test_few_counts_do_not_look_exact() -> None:
    perfect = np.array([[[10, 0], [0, 10]], [[0, 10], [10, 0]]] + [[[10, 0], [0, 10]]] * 2)
    s = chsh_value(perfect)
    assert s.value == 4.0
    assert s.standard_error > 0.1
    assert chsh_value(np.ones((4, 2, 2), int)).violation < 0


@pytest.mark.parametrize(
    "bad",
    [
        np.ones((4, 2), int),
        np.ones((4, 2, 2)),
        -np.ones((4, 2, 2), int),
        np.zeros((4, 2, 2), int),
    ],
)
def test_counts_that_are_none_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError):
        chsh_value(bad)


def test_rates_at_known_points() -> None:
    assert chsh_rate(0.02, 2.7, 1.0) == pytest.approx(0.58704, abs=5e-6)
    zero = 0.071492
    assert chsh_rate(zero - 1e-6, TSIRELSON * (1 - 2 * (zero - 1e-6)), 1.0) > 0
    assert chsh_rate(zero + 1e-6, TSIRELSON * (1 - 2 * (zero + 1e-6)), 1.0) < 0
    assert holevo_information(2.0) == holevo_information(0.0) == 1.0
    assert holevo_information(TSIRELSON) == holevo_information(2.9) == 0.0
    assert KEY_SHARE == 2 / 9


@settings(max_examples=40, deadline=None)
@given(q=st.floats(0.0, 0.3), s=st.floats(0.0, TSIRELSON), f=st.floats(1.0, 1.5))
def test_rate_agrees_with_an_independent_program(q: float, s: float, f: float) -> None:
    assert holevo_information(-s) == pytest.approx(ORACLE.pair_holevo(s), abs=1e-9)
    theirs = ORACLE.ekert_rate(1.0, q, s, f, 1.0, "measured")
    assert max(0.0, chsh_rate(q, s, f)) == pytest.approx(theirs, abs=1e-9)
    # less trust, less key: a state of this S has this error rate at least, and BBM92 knows more
    modelled = (1 - s / TSIRELSON) / 2
    if s >= 2 and q >= modelled:
        assert chsh_rate(q, s, f) <= asymptotic_key_fraction(q, modelled, f) + 1e-9


def test_nonsense_is_refused() -> None:
    for bad in (4.1, -5.0, math.nan):
        with pytest.raises(ValueError):
            holevo_information(bad)
    with pytest.raises(ValueError, match="Shannon"):
        chsh_rate(0.02, 2.7, 0.99)
    with pytest.raises(ValueError):
        chsh_rate(-0.1, 2.7, 1.0)
    assert chsh_rate(0.0, 2.0, 1.0) == -binary_entropy(0.0) == 0.0
