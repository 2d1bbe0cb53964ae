"""Triggers, cycles and edges of a delay generator, against a simulation one event at a time."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from bellbench.sims.elements import CHANNELS, DelayGenerator, DelayGeneratorModel, Edges
from bellbench.sims.physics.pulses import first_tick, stride_of, ticks_ps
from bellbench.sims.world import BLOCK_PS, World, WorldModel
from hypothesis import assume, given, settings
from hypothesis import strategies as st

NAMES = ("T0", "T1", *CHANNELS)


def generator(**knobs: Any) -> DelayGenerator:
    model = DelayGeneratorModel(kind="delay_generator", inhibited=knobs.pop("inhibited", False))
    made = DelayGenerator(model)
    for name, value in knobs.items():
        assert hasattr(made, name)
        setattr(made, name, value)
    return made


def play(made: DelayGenerator, borders: list[int]) -> dict[str, list[int]]:
    """All blocks one after the other: times by name, counts as lists of one."""
    found: dict[str, list[int]] = {name: [] for name in ("trigger", "cycle", *NAMES)}
    counts = {"ignored": 0, "inhibited": 0, "cycles_ended": 0, "bursts_ended": 0}
    for begin, end in itertools.pairwise(borders):
        block = made.edges(begin, end)
        assert made.edges(begin, end) is block
        parts = {"trigger": block.triggers_ps, "cycle": block.cycles_ps}
        parts |= {name: block.channel(name) for name in NAMES}
        for name, times in parts.items():
            assert times.dtype == np.int64
            assert ((times >= begin) & (times < end)).all()
            assert (np.diff(times) >= 0).all()
            found[name] += times.tolist()
        for name in counts:
            counts[name] += getattr(block, name)
    return found | {name: [count] for name, count in counts.items()}


def one_by_one(knobs: dict[str, Any], end: int) -> dict[str, list[int]]:
    """The same from the description: what a patient person would do with a pencil."""
    found: dict[str, list[int]] = {name: [] for name in ("trigger", "cycle", *NAMES)}
    ignored = cycles_ended = bursts_ended = 0
    delays = knobs["delays_ps"]
    cycle = max(delays) + 100_000
    period = Fraction(10**18, knobs["rate_uhz"])
    free, number, k = Fraction(0), 0, 0
    while int(k * period) < end:
        exact, k = k * period, k + 1
        if exact < free:
            ignored += 1
            continue
        at = int(exact)
        found["trigger"].append(at)
        starts = [at]
        if knobs["burst"]:
            at += knobs["burst_delay_ps"]
            starts, ready = [], at
            for i in range(knobs["burst_count"]):
                start = at + i * knobs["burst_period_ps"]
                if start < ready:
                    ignored += 1
                else:
                    starts.append(start)
                    ready = start + cycle
            bursts_ended += starts[-1] + cycle < end
        over = starts[-1] + cycle - int(exact)
        free = exact + max(over, knobs["holdoff_ps"])
        for i, start in enumerate(starts):
            if start < end:
                found["cycle"].append(start)
            if i == 0 or not knobs["burst_t0_once"]:
                found["T0"].append(start)
                found["T1"].append(start + max(delays) + 25_000)
            cycles_ended += start + max(delays) + 25_000 < end
            for j, name in enumerate(CHANNELS):
                if number % knobs["prescales"][j // 2] == knobs["phases"][j // 2]:
                    found[name].append(start + delays[j])
            number += 1
    for name in NAMES:
        found[name] = [t for t in found[name] if t < end]
    counts = {"cycles_ended": cycles_ended, "bursts_ended": bursts_ended}
    return found | {
        "ignored": [ignored],
        "inhibited": [0],
        **{name: [n] for name, n in counts.items()},
    }


@st.composite
def settings_of_a_generator(draw: st.DrawFn) -> dict[str, Any]:
    # periods from 100 ns to some 3 us in a window of 20 us
    prescales = draw(st.lists(st.integers(1, 3), min_size=4, max_size=4))
    return {
        "source": "internal",
        "rate_uhz": draw(st.integers(3 * 10**11, 10**13)),
        "delays_ps": [
            5 * d for d in draw(st.lists(st.integers(0, 400_000), min_size=8, max_size=8))
        ],
        "burst": draw(st.booleans()),
        "burst_count": draw(st.integers(1, 9)),
        "burst_delay_ps": 5 * draw(st.integers(0, 200_000)),
        "burst_period_ps": 10_000 * draw(st.integers(10, 300)),
        "burst_t0_once": draw(st.booleans()),
        "holdoff_ps": 5 * draw(st.integers(0, 500_000)),
        "prescales": prescales,
        "phases": [draw(st.integers(0, n - 1)) for n in prescales],
    }


WINDOW = 20_000_000


@settings(max_examples=150, deadline=None)
@given(
    knobs=settings_of_a_generator(),
    cuts=st.sets(st.integers(1, WINDOW - 1), max_size=12),
)
def test_any_cut_into_blocks_gives_what_a_pencil_gives(
    knobs: dict[str, Any], cuts: set[int]
) -> None:
    assert play(generator(**knobs), [0, *sorted(cuts), WINDOW]) == one_by_one(knobs, WINDOW)


@settings(max_examples=100, deadline=None)
@given(
    rate=st.integers(100, 10**13),
    first=st.integers(0, 10**9),
    stride=st.integers(1, 1000),
    count=st.integers(0, 50),
)
def test_ticks_are_exact(rate: int, first: int, stride: int, count: int) -> None:
    expected = [7 + (first + stride * j) * 10**18 // rate for j in range(count)]
    assume(not expected or expected[-1] < 1 << 62)
    assert ticks_ps(7, rate, first, stride, count).tolist() == expected
    period = Fraction(10**18, rate)
    span = int(first * period)
    k = first_tick(span, rate)
    assert k * period >= span
    assert k == 0 or (k - 1) * period < span
    assert stride_of(0, rate) == 1
    n = stride_of(span, rate)
    assert n * period >= span
    assert n == 1 or (n - 1) * period < span


def test_ten_megahertz_for_half_a_second() -> None:
    times = ticks_ps(0, 10**13, 0, 1, 5_000_000)
    assert (np.diff(times) == 100_000).all()
    odd = ticks_ps(0, 9_999_999_999_999, 0, 1, 1_000_000)
    assert int(odd[-1]) == 999_999 * 10**18 // 9_999_999_999_999


def test_the_rate_is_the_rate_and_a_long_delay_divides_it() -> None:
    made = generator(source="internal", rate_uhz=10**12)  # 1 MHz
    assert made.edges(0, BLOCK_PS).triggers_ps.size == 10_000
    made = generator(source="internal", rate_uhz=10**12, delays_ps=[0] * 7 + [2_400_000])
    block = made.edges(0, BLOCK_PS)
    assert np.diff(block.triggers_ps).tolist() == [3_000_000] * 3333
    assert block.ignored == 10_000 - 3334
    # at 900 ns and 100 ns of dead time every trigger is just taken, 5 ps more and every second is
    for delay, taken in ((900_000, 10_000), (900_005, 5_000)):
        made = generator(source="internal", rate_uhz=10**12, delays_ps=[delay] * 8)
        assert made.edges(0, BLOCK_PS).triggers_ps.size == taken


def test_an_edge_comes_out_blocks_later() -> None:
    late = 25 * 10**9  # 25 ms
    made = generator(shots=1, delays_ps=[1000, late, 0, 0, 0, 0, 0, 0])
    blocks = [made.edges(i * BLOCK_PS, (i + 1) * BLOCK_PS) for i in range(4)]
    assert [b.channel("A").tolist() for b in blocks] == [[1000], [], [], []]
    assert [b.channel("B").tolist() for b in blocks] == [[], [], [late], []]
    assert [b.channel("T1").tolist() for b in blocks] == [[], [], [late + 25_000], []]
    assert [b.cycles_ended for b in blocks] == [0, 0, 1, 0]


def test_single_shots_act_at_the_next_block_and_are_lost_while_a_cycle_runs() -> None:
    made = generator(shots=1, delays_ps=[15 * 10**9] * 8)
    assert made.edges(0, BLOCK_PS).triggers_ps.tolist() == [0]
    made.shots = 1
    busy = made.edges(BLOCK_PS, 2 * BLOCK_PS)
    assert (busy.triggers_ps.size, busy.ignored) == (0, 1)
    assert made.edges(2 * BLOCK_PS, 3 * BLOCK_PS).triggers_ps.size == 0
    made.shots = 3
    again = made.edges(3 * BLOCK_PS, 4 * BLOCK_PS)
    assert (again.triggers_ps.tolist(), again.ignored) == ([3 * BLOCK_PS], 2)


def test_new_delays_wait_for_the_next_cycle() -> None:
    made = generator(shots=1, delays_ps=[12 * 10**9] * 8)
    made.edges(0, BLOCK_PS)
    made.delays_ps = [0] * 8
    assert made.edges(BLOCK_PS, 2 * BLOCK_PS).channel("A").tolist() == [12 * 10**9]


def test_the_train_stops_and_starts_anew() -> None:
    made = generator(source="internal", rate_uhz=10**12)
    made.edges(0, BLOCK_PS)
    made.source = "single"
    assert made.edges(BLOCK_PS, 2 * BLOCK_PS).triggers_ps.size == 0
    made.source, made.rate_uhz = "internal", 150 * 10**6
    block = made.edges(2 * BLOCK_PS, 3 * BLOCK_PS)
    assert block.triggers_ps.tolist() == [2 * BLOCK_PS, 2 * BLOCK_PS + 6_666_666_666]
    made.source = "external"
    assert made.edges(3 * BLOCK_PS, 4 * BLOCK_PS).triggers_ps.size == 0


def test_the_line_has_its_own_phase() -> None:
    made = generator(source="line")
    times = play(made, [k * BLOCK_PS for k in range(3, 11)])["trigger"]
    assert times == [20_000_000_000 * k for k in (2, 3, 4)]


def test_a_burst_over_blocks_is_cut_short_when_burst_mode_ends() -> None:
    knobs = {"burst": True, "burst_count": 2**32 - 1, "burst_period_ps": 10**9}
    made = generator(shots=1, **knobs)
    first = made.edges(0, BLOCK_PS)
    assert first.cycles_ps.tolist() == [k * 10**9 for k in range(10)]
    made.shots = 1
    second = made.edges(BLOCK_PS, 2 * BLOCK_PS)
    assert (second.cycles_ps.size, second.ignored, second.bursts_ended) == (10, 1, 0)
    made.burst = False
    third = made.edges(2 * BLOCK_PS, 3 * BLOCK_PS)
    assert (third.cycles_ps.size, third.bursts_ended) == (0, 1)
    made.shots = 1
    assert made.edges(3 * BLOCK_PS, 4 * BLOCK_PS).triggers_ps.size == 1


def test_the_longest_burst_there_is() -> None:
    made = generator(
        source="internal",
        burst=True,
        burst_count=2**32 - 1,
        burst_period_ps=2 * 10**15,
        delays_ps=[2 * 10**15] * 8,
    )
    block = made.edges(0, BLOCK_PS)
    assert (block.triggers_ps.size, block.ignored) == (1, 9 + 2**31 - 1)
    assert made.edges(BLOCK_PS, 2 * BLOCK_PS).triggers_ps.size == 0


@pytest.mark.parametrize(
    ("mode", "silent"),
    [(0, ""), (1, CHANNELS), (2, "AB"), (3, "ABCD"), (4, "ABCDEF"), (5, CHANNELS)],
)
def test_the_inhibit_input(mode: int, silent: str) -> None:
    for high in (True, False):
        made = generator(source="internal", inhibit=mode, inhibited=high)
        block = made.edges(0, BLOCK_PS)
        dark = "".join(c for c in CHANNELS if not block.channel(c).size)
        assert dark == (silent if high else "")
        assert block.inhibited == (10 if high and mode == 1 else 0)
        assert block.ignored == 0
        assert block.cycles_ps.size == (0 if high and mode == 1 else 10)


def test_the_world_plays_its_generators() -> None:
    elements: dict[str, Any] = {
        "pump": {"kind": "pump_laser"},
        "crystal": {"kind": "spdc", "pump": "pump", "pair_rate": 0.0},
        "delays": {"kind": "delay_generator"},
    }
    paths = []
    for arm in ("signal", "idler"):
        elements[f"{arm}_analyzer"] = {"kind": "analyzer"}
        elements[f"{arm}_snspd"] = {"kind": "snspd", "detectors": [{}] * 4}
        paths.append([f"crystal.{arm}", f"{arm}_analyzer", f"{arm}_snspd"])
    world = World(WorldModel.model_validate({"elements": elements, "paths": paths}), 1)
    delays = world.elements["delays"]
    assert isinstance(delays, DelayGenerator)
    delays.source = "internal"
    for k in range(3):
        world.run_block()
        block = delays.edges(k * BLOCK_PS, (k + 1) * BLOCK_PS)
        assert isinstance(block, Edges)
        assert block.triggers_ps.tolist() == [k * BLOCK_PS + i * 10**9 for i in range(10)]
