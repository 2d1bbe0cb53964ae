"""Announced events on the own clock: followed, lost in the dark, and found again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import ProtocolError, TagBatch
from bellbench.protocols.qkd.dating import Dating
from bellbench.protocols.qkd.sifting import Events
from bellbench.protocols.timing import ClockLine, ClockRecovery

Times = npt.NDArray[np.int64]

PS = 10**12
BEGIN, END = 2 * PS, 14 * PS  # before: the calibration
DARK = (6 * PS, 11 * PS)
OFF = 30e-6
OFFSET = 5_000


def streams(seed: int) -> tuple[Times, Times, Times]:
    """Own times, the peer's on its own clock, and these on the own one; darkness in between."""
    rng = np.random.default_rng(seed)
    pairs = np.sort(rng.integers(0, END, 28_000))
    pairs = pairs[(pairs < DARK[0]) | (pairs >= DARK[1])]
    own = np.sort(
        np.concatenate([pairs + rng.normal(0, 40, pairs.size), rng.uniform(0, END, 90_000)])
    )
    true = np.sort(
        np.concatenate([pairs + rng.normal(0, 40, pairs.size), rng.uniform(0, END, 45_000)])
    )
    walk = 300 * np.sin(true / PS)  # of the fibre
    told = np.rint(true + OFF * (true - BEGIN) + OFFSET + walk).astype(np.int64)
    return np.rint(own).astype(np.int64), told, np.rint(true).astype(np.int64)


def segment(times: Times) -> TagBatch:
    part = times[times < BEGIN]
    return TagBatch(part, np.zeros(part.size, np.int16), int(part[0]), BEGIN)


def follow(own: Times, told: Times, step: int) -> tuple[Dating, Times, Times, Times]:
    """The events dated: their numbers, times on the own clock, and as announced."""
    dating = Dating(ClockLine(BEGIN, OFFSET, OFF + 1e-9), segment(own), segment(told))
    own, told = own[own >= BEGIN], told[told >= BEGIN]
    parts = []
    for begin in range(BEGIN, END, step):
        end = min(begin + step, END)
        mine = own[(own >= begin) & (own < end)]
        none = np.zeros(mine.size, np.uint8)
        dating.add_own(Events(mine, none, none, end))
        theirs = told[(told >= begin) & (told < end)]
        dating.add_peer(theirs, end)
        parts.append(dating.take())
    parts.append(dating.take(final=True))
    assert parts[-1].upto == np.count_nonzero((told >= BEGIN) & (told < END))
    upto = [part.upto for part in parts]
    assert upto == sorted(upto)
    index = np.concatenate([part.index for part in parts])
    moved = np.concatenate([part.times_ps for part in parts])
    assert np.all(np.diff(index) > 0)
    assert np.all(np.diff(moved) >= 0)
    return dating, index, moved, np.concatenate([part.told_ps for part in parts])


def test_the_clock_is_followed_lost_in_the_dark_and_found_again() -> None:
    own, told, true = streams(1)
    dating, index, moved, as_told = follow(own, told, PS // 10)
    later = told >= BEGIN
    assert np.array_equal(as_told, told[later][index])
    off = moved - (true[later][index])
    # a constant belongs to the delays; what is left is far below a window
    assert np.abs(off - np.median(off)).max() < 200
    true = true[later & (told < END)]
    lit = (true < DARK[0] - PS // 2) | (true > DARK[1] + PS // 2)
    dated = np.zeros(true.size, np.bool_)
    dated[index] = True
    assert dated[lit & (true < END - PS // 10)].all()
    deep = (true > DARK[0] + PS // 2) & (true < DARK[1] - PS // 2)
    assert not dated[deep].any()
    assert dating.undated == true.size - index.size
    found = dating.metrics()
    assert found is not None
    assert found["losses_of_lock"] in (1, 2)  # found at the edge of the dark, it may go once more
    assert found["frequency"] == pytest.approx(OFF, abs=2e-9)
    assert found["unlocked_s"] == pytest.approx(5, abs=1)
    assert found["locked_s"] + found["unlocked_s"] == pytest.approx(12, abs=0.01)


def test_nothing_depends_on_how_the_streams_are_cut() -> None:
    own, told, _ = streams(2)
    _, index, moved, _ = follow(own, told, PS // 10)
    _, again, moved_again, _ = follow(own, told, 7 * PS // 10)
    assert np.array_equal(index, again)
    assert np.array_equal(moved, moved_again)


def test_events_behind_the_horizon_are_refused() -> None:
    own, told, _ = streams(3)
    dating = Dating(ClockLine(BEGIN, OFFSET, OFF), segment(own), segment(told))
    dating.add_peer(np.array([BEGIN + 5]), BEGIN + 100)
    with pytest.raises(ProtocolError, match="horizon"):
        dating.add_peer(np.array([BEGIN + 50]), BEGIN + 200)


def test_nothing_before_the_calibrations_end_is_an_event() -> None:
    own, told, _ = streams(3)
    for dating in (
        Dating(ClockLine(BEGIN, OFFSET, OFF), segment(own), segment(told), BEGIN),
        Dating(horizon_ps=BEGIN),
    ):
        with pytest.raises(ProtocolError, match="horizon"):
            dating.add_peer(np.zeros(0, np.int64), BEGIN - 1)


def test_times_may_fall_together_on_the_own_clock() -> None:
    own, told, _ = streams(3)
    # a clock so fast that a ps of it may be none here, and events right at the horizons
    dating = Dating(ClockLine(BEGIN, OFFSET, 1e-4), segment(own), segment(told), BEGIN)
    for begin in range(BEGIN, BEGIN + 10**6, 10**3):
        dating.add_peer(np.arange(begin, begin + 1000), begin + 1000)


def test_a_clock_that_runs_far_behind_loses_no_events() -> None:
    # 30 ms by the end, more than twice the search: the limit of what waits follows the clock.
    rng = np.random.default_rng(4)
    seconds, off = 1600, -19e-6
    pairs = np.sort(rng.integers(0, seconds * PS, 100 * seconds))
    own, told = (pairs + np.rint(rng.normal(0, 40, pairs.size)).astype(np.int64) for _ in range(2))
    told += np.rint(off * (pairs - BEGIN)).astype(np.int64)
    own.sort()
    told.sort()
    dating = Dating(ClockLine(BEGIN, 0, 0.0), segment(own), segment(told))
    for begin in range(BEGIN, seconds * PS, 2 * PS):
        i, j = np.searchsorted(own, [begin, begin + 2 * PS])
        none = np.zeros(j - i, np.uint8)
        dating.add_own(Events(own[i:j], none, none, begin + 2 * PS))
        i, j = np.searchsorted(told, [begin, begin + 2 * PS])
        dating.add_peer(told[i:j], begin + 2 * PS)
        dating.take()
    assert dating.state is not None
    assert dating.state.locked
    assert dating.state.offset_ps < -29e9
    assert dating.undated == 0


def test_losses_of_lock_are_counted_however_short_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, told, _ = streams(1)
    lost = follow(own, told, PS // 10)[0].losses_of_lock
    assert lost >= 1
    monkeypatch.setattr(ClockRecovery, "_KNOTS", 20)
    dating = follow(own, told, PS // 10)[0]
    assert len(dating.history) == 20
    assert dating.losses_of_lock == lost
