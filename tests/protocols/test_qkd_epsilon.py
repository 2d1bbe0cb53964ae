"""The budget of a session adds up exactly and is never overspent."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from bellbench.instruments import ProtocolError
from bellbench.protocols.qkd.epsilon import EpsilonBudget, Spent
from hypothesis import given, settings
from hypothesis import strategies as st


def test_parts_add_up_by_name_and_in_order() -> None:
    budget = EpsilonBudget(1e-6)
    for _ in range(3):
        budget.spend("key", 1e-10)
        budget.spend("forged tag", 2.0**-90, times=2)
    assert budget.parts == {"key": Spent(3e-10, 3), "forged tag": Spent(6 * 2.0**-90, 6)}
    assert list(budget.parts) == ["key", "forged tag"]
    report = budget.as_dict()
    assert report["spent"] == budget.spent == float(3 * Fraction(1e-10) + 6 * Fraction(2.0**-90))
    assert report["total"] == 1e-6
    assert report["parts"] == {
        "key": {"epsilon": 3e-10, "times": 3},
        "forged tag": {"epsilon": 6 * 2.0**-90, "times": 6},
    }


def test_the_last_step_that_fits_is_allowed_and_the_next_refused() -> None:
    budget = EpsilonBudget(2.0**-20)
    for _ in range(2**10):
        assert budget.allows(2.0**-30)
        budget.spend("key", 2.0**-30)
    assert budget.remaining == 0.0
    assert not budget.allows(5e-324)
    before = budget.as_dict()
    with pytest.raises(ProtocolError, match=r"key needs an epsilon of 9\.31e-10, and 0 of"):
        budget.spend("key", 2.0**-30)
    assert budget.as_dict() == before


def test_a_refused_step_spends_nothing_even_of_its_part() -> None:
    budget = EpsilonBudget(1e-9)
    with pytest.raises(ProtocolError):
        budget.spend("key", 6e-10, times=2)
    assert budget.spent == 0.0
    assert budget.parts == {}
    assert not budget.allows(6e-10, 6e-10)
    budget.spend("key", 6e-10)


def test_sums_do_not_drift_over_many_blocks() -> None:
    # as floats, ten times 0.1 is not 1, and a million times 1e-16 added to 1 is nothing
    budget = EpsilonBudget(0.5)
    budget.spend("first", 0.25)
    for _ in range(1000):
        budget.spend("tag", 1e-18)
    assert budget.parts["tag"] == Spent(1e-15, 1000)
    assert budget.spent == float(Fraction(0.25) + 1000 * Fraction(1e-18)) > 0.25


@settings(max_examples=60, deadline=None)
@given(
    total=st.floats(1e-12, 0.5),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.floats(1e-30, 0.4)), max_size=40),
)
def test_never_beyond_the_total(total: float, steps: list[tuple[str, float]]) -> None:
    budget = EpsilonBudget(total)
    exact = Fraction(0)
    for name, epsilon in steps:
        if exact + Fraction(epsilon) <= Fraction(total):
            budget.spend(name, epsilon)
            exact += Fraction(epsilon)
        else:
            with pytest.raises(ProtocolError):
                budget.spend(name, epsilon)
        assert budget.spent == float(exact) <= total
    parts = budget.parts.values()
    assert math.fsum(part.epsilon for part in parts) == pytest.approx(budget.spent, rel=1e-12)


@pytest.mark.parametrize("bad", [0.0, 1.0, -1e-9, math.nan, math.inf])
def test_nonsense_is_refused(bad: float) -> None:
    with pytest.raises(ValueError):
        EpsilonBudget(bad)
    budget = EpsilonBudget(0.1)
    with pytest.raises(ValueError):
        budget.spend("key", bad)
    with pytest.raises(ValueError):
        budget.allows(bad)
    with pytest.raises(ValueError):
        budget.spend("", 1e-3)
    with pytest.raises(ValueError):
        budget.spend("key", 1e-3, times=0)
    assert budget.spent == 0.0
