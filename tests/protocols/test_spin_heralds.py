"""From clicks to attempts, heralds, correlations and a fidelity."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bellbench.instruments import ProtocolError
from bellbench.protocols.estimates import Estimate
from bellbench.protocols.spin_heralds import (
    Readout,
    Train,
    correlation,
    fidelity,
    find_start,
    heralds,
    shown,
)

TRAIN = Train(begin_ps=123_000, train_ps=10_000_000, period_ps=1_000_000, attempts=9)


def test_clicks_find_their_attempt() -> None:
    first = TRAIN.begin_ps + 400_000
    times = np.array(
        [first, first + 99_999, first + 100_000, first + 8_000_000, first + 10_000_000]
    )
    times = np.append(times, [first - 1, first + 9_000_000, first + 20_000_000])
    found = TRAIN.clicked(np.sort(times), 400_000, 100_000, trains=2)
    assert np.flatnonzero(found).tolist() == [0, 8, 9]


def test_the_window_is_where_the_clicks_are() -> None:
    rng = np.random.default_rng(1)
    attempt = rng.integers(0, 9, 60) * 1_000_000 + rng.integers(0, 50, 60) * 10_000_000
    light = TRAIN.begin_ps + attempt + 700_000 + rng.exponential(12_000, 60).astype(np.int64)
    dark = rng.integers(TRAIN.begin_ps, 500_000_000, 60)
    start = find_start(TRAIN, np.sort(np.concatenate([light, dark])), 60_000)
    assert 690_000 - 5_000 <= start <= 700_000
    with pytest.raises(ProtocolError, match="any time of an attempt"):
        find_start(TRAIN, np.sort(dark), 60_000)


def test_heralds_of_one_and_of_two_clicks() -> None:
    every = {
        name: np.array([pattern >> k & 1 for pattern in range(16)], np.bool_)
        for k, name in enumerate(("cH", "cV", "dH", "dV"))
    }
    one = heralds(every, 1)
    assert np.flatnonzero(one["psi+"]).tolist() == [1, 3, 9, 11]
    assert np.flatnonzero(one["psi-"]).tolist() == [4, 6, 12, 14]
    two = heralds(every, 2)
    assert np.flatnonzero(two["psi+"]).tolist() == [0b0011, 0b1100]
    assert np.flatnonzero(two["psi-"]).tolist() == [0b0110, 0b1001]


def test_errors_of_the_read_out_are_taken_out() -> None:
    """Exact shares of a known state, through known errors and back."""
    truth = np.array([[0.1, 0.5], [0.3, 0.1]])  # by whether each is bright
    errors = []
    for false, missed in ((0.05, 0.02), (0.01, 0.1)):
        errors.append(Readout(Estimate(false, 0.0), Estimate(missed, 0.0)))
    confuse = [
        np.array([[1 - e.false.value, e.missed.value], [e.false.value, 1 - e.missed.value]])
        for e in errors
    ]
    seen = confuse[0] @ truth @ confuse[1].T
    counts = np.rint(1e9 * seen).astype(np.int64)
    found = correlation(counts, (errors[0], errors[1]))
    assert found.value == pytest.approx(0.2 - 0.8, abs=1e-6)
    assert correlation(counts).value == pytest.approx(
        float(seen[0, 0] + seen[1, 1] - seen[0, 1] - seen[1, 0]), abs=1e-6
    )


def test_the_error_of_a_correlation_is_that_of_repeated_counting() -> None:
    rng = np.random.default_rng(5)
    errors = Readout(Estimate(0.03, 0.0), Estimate(0.06, 0.0))
    share = np.array([0.15, 0.4, 0.35, 0.1])
    found = [
        correlation(rng.multinomial(300, share).reshape(2, 2), (errors, errors)) for _ in range(800)
    ]
    spread = float(np.std([e.value for e in found]))
    assert found[0].sigma == pytest.approx(spread, rel=0.12)
    assert math.isnan(correlation(np.zeros((2, 2), np.int64)).value)


def test_fidelity_of_the_bell_states() -> None:
    def ideal(signs: tuple[int, int, int]) -> dict[str, Estimate]:
        return {a: Estimate(float(s), 0.1, 9) for a, s in zip("ZXY", signs, strict=True)}

    assert fidelity("psi+", ideal((-1, 1, 1))).value == 1
    assert fidelity("psi-", ideal((-1, -1, -1))).value == 1
    assert fidelity("psi-", ideal((-1, 1, 1))).value == 0
    assert fidelity("psi+", ideal((-1, 1, 1))).sigma == pytest.approx(0.1 * math.sqrt(3) / 4)
    first, second = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    table = shown(first, second, np.array([1, 1, 1, 0], bool))
    assert table.tolist() == [[0, 1], [1, 1]]
