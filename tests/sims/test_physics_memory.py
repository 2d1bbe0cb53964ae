"""A spin-wave memory against its timing rules, one photon at a time and by properties."""

import dataclasses
import math

import numpy as np
import pytest
from bellbench.instruments.errors import ConfigError
from bellbench.sims.physics.memory import NEVER, Comb, Cycles, Fates, efficiency, fates
from hypothesis import given
from hypothesis import strategies as st

US = 1_000_000
COMB = Comb(
    efficiency=0.4,
    absorption=0.9,
    transparency=0.97,
    echo_time_ps=25 * US,
    spin_coherence_time_ps=60.0 * US,
    burn_time_ps=100.0 * US,
    comb_lifetime_ps=5000.0 * US,
)
FULL = 1 - math.exp(-3)  # burned 300 us

# One cycle as (T0, A, B, pit, C, E) in us; None where an edge is missing.
Row = tuple[int, int | None, int | None, bool, int | None, int | None]
STORE: Row = (0, 10, 310, False, 420, 450)


def cycles(*rows: Row) -> Cycles:
    columns = [
        np.array([NEVER if row[i] is None else row[i] * US for row in rows], np.int64)  # type: ignore[operator]
        for i in (0, 1, 2, 4, 5)
    ]
    pit = np.array([row[3] for row in rows], np.bool_)
    return Cycles(columns[0], columns[1], columns[2], pit, columns[3], columns[4])


def fate(at_us: float, *rows: Row, comb: Comb = COMB) -> tuple[float, float, float]:
    result = fates(np.array([round(at_us * US)], np.int64), cycles(*rows), comb)
    return float(result.passed[0]), float(result.recalled[0]), float(result.delay_ps[0]) / US


LOST = (0.0, 0.0, 0.0)


def test_a_transferred_photon_waits_as_spin_wave_until_the_recall() -> None:
    passed, recalled, delay = fate(400, STORE)
    assert passed == pytest.approx(0.1)
    assert delay == 25 + (450 - 420)
    assert recalled == pytest.approx(
        0.4 * FULL * math.exp(-90 / 5000) * math.exp(-((30 / 60) ** 2)), rel=1e-12
    )


@pytest.mark.parametrize("transfer", [None, 399, 400, 425, 600])
def test_without_early_or_late_transfer_there_is_a_plain_echo(transfer: int | None) -> None:
    passed, recalled, delay = fate(400, (0, 10, 310, False, transfer, 700))
    assert delay == 25
    assert passed == pytest.approx(0.1)
    assert recalled == pytest.approx(0.4 * FULL * math.exp(-90 / 5000), rel=1e-12)


@pytest.mark.parametrize("recall", [None, 410, 420])
def test_a_transfer_without_a_later_recall_loses_the_photon(recall: int | None) -> None:
    passed, recalled, delay = fate(400, (0, 10, 310, False, 420, recall))
    assert (recalled, delay) == (0, 0)
    assert passed == pytest.approx(0.1)


def test_nothing_leaves_before_the_burn_has_ended() -> None:
    assert fate(5, STORE) == LOST
    assert fate(100, STORE) == LOST
    assert fate(309.999999, STORE) == LOST
    assert fate(310, STORE)[0] == pytest.approx(0.1)
    # neither the comb of the cycle before: T0 has cleaned it
    assert fate(1005, STORE, (1000, 1010, 1310, False, 1420, 1450)) == LOST
    assert fate(1350, STORE, (1000, None, None, False, 1420, 1450)) == LOST
    assert fate(1350, STORE, (1000, 1010, None, False, 1420, 1450)) == LOST
    assert fate(-1, STORE) == LOST


def test_no_cycles_and_no_photons() -> None:
    assert fate(400) == LOST
    empty = fates(np.empty(0, np.int64), cycles(STORE), COMB)
    assert empty.passed.size == empty.recalled.size == empty.delay_ps.size == 0


def test_the_next_cycle_takes_what_has_not_come_out() -> None:
    following: Row = (455, 460, 470, False, None, None)
    # would come out at 400 + 25 + 30 = 455 us: just too late; a ps earlier it is in time
    assert fate(400, STORE, following)[1:] == (0, 0)
    assert fate(400 - 1e-6, STORE, following)[2] == 55
    # the plain echo alike
    assert fate(430, STORE, following)[1:] == (0, 0)
    assert fate(430 - 1e-6, STORE, following)[2] == 25


def test_a_pit_lets_photons_pass_and_holds_none() -> None:
    assert fate(400, (0, 10, 310, True, 420, 450)) == (0.97, 0, 0)
    assert fate(300, (0, 10, 310, True, 420, 450)) == LOST


def test_a_burn_of_no_length_makes_no_echo_but_absorbs() -> None:
    assert fate(400, (0, 310, 310, False, 420, 450)) == pytest.approx((0.1, 0, 0))


def test_efficiency_is_what_a_perfect_burn_gives() -> None:
    comb = dataclasses.replace(COMB, burn_time_ps=1.0, comb_lifetime_ps=math.inf)
    for wait in (0.5, 30.0, 200.0):
        recall_ps = np.array([round((420 + wait) * US)], np.int64)
        sequence = dataclasses.replace(cycles(STORE), recall_ps=recall_ps)
        got = fates(np.array([400 * US], np.int64), sequence, comb)
        assert got.delay_ps[0] == round((25 + wait) * US)
        assert efficiency(got.delay_ps, comb) == pytest.approx(got.recalled, rel=1e-12)
    assert efficiency([0, 25 * US - 1, 25 * US], comb).tolist() == [0, 0, 0.4]
    assert efficiency(25 * US + 60 * US, comb) == pytest.approx(0.4 / math.e)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"efficiency": 0.95}, "exceeds absorption"),
        ({"transparency": 1.01}, "transparency"),
        ({"echo_time_ps": 0}, "echo_time"),
        ({"burn_time_ps": 0.0}, "burn_time"),
    ],
)
def test_an_impossible_comb_is_refused(change: dict[str, float], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        dataclasses.replace(COMB, **change)  # type: ignore[arg-type]


edge = st.none() | st.integers(0, 120)


@st.composite
def sequences(draw: st.DrawFn) -> Cycles:
    starts = sorted(draw(st.sets(st.integers(0, 500), max_size=5)))
    rows: list[Row] = []
    for start in starts:
        a, b, c, e = (draw(edge) for _ in range(4))
        if a is not None and b is not None:
            a, b = min(a, b), max(a, b)
        shifted = [None if x is None else start + x for x in (a, b, c, e)]
        rows.append((start, shifted[0], shifted[1], draw(st.booleans()), shifted[2], shifted[3]))
    return cycles(*rows)


arrivals = st.lists(st.integers(-10 * US, 700 * US), max_size=30).map(
    lambda values: np.array(sorted(values), np.int64)
)


@given(sequences(), arrivals)
def test_no_photon_is_gained_and_every_delay_fits_into_its_cycle(
    sequence: Cycles, times: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> None:
    result = fates(times, sequence, COMB)
    assert ((result.passed >= 0) & (result.recalled >= 0)).all()
    assert (result.passed + result.recalled <= 1).all()
    assert ((result.delay_ps == 0) == (result.recalled == 0)).all()
    for t, delay in zip(times, result.delay_ps, strict=True):
        if delay:
            assert delay >= COMB.echo_time_ps
            own = np.searchsorted(sequence.starts_ps, t, side="right")
            assert not (sequence.starts_ps[own:] <= t + delay).any()


@given(sequences(), arrivals)
def test_each_photon_has_the_fate_it_has_alone(
    sequence: Cycles, times: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> None:
    together = fates(times, sequence, COMB)
    alone = [fates(times[i : i + 1], sequence, COMB) for i in range(times.size)]
    for field in dataclasses.fields(Fates):
        whole = getattr(together, field.name)
        assert whole.tolist() == pytest.approx(
            [float(getattr(one, field.name)[0]) for one in alone], rel=1e-15
        )
