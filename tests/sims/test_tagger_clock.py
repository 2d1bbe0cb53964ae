"""Taggers in a world: clocks that drift apart, pulses per second, bins, dead time, memory."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import ConfigError
from bellbench.sims.elements import (
    DelayGenerator,
    PumpLaser,
    Reference,
    ReferenceModel,
    SnspdArray,
    TaggerInputs,
    TaggerModel,
)
from bellbench.sims.physics.clocks import PRESETS, allan_deviation, allan_variance
from bellbench.sims.saved import recall, remember
from bellbench.sims.world import BLOCK_PS, World, WorldModel, check_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

PS = 10**12


def tagger(**changes: Any) -> TaggerInputs:
    return TaggerInputs(TaggerModel.model_validate({"kind": "tagger", **changes}))


def own(**clock: Any) -> dict[str, Any]:
    return {"kind": "tagger", "clock": {"reference": "internal", **clock}}


def pps_world(seed: int = 1, source: dict[str, Any] | None = None, **taggers: Any) -> World:
    """A reference wired to input 3 of each tagger; all of them record."""
    elements = {"gps": {"kind": "reference", **(source or {})}, **taggers}
    paths = [["gps.pps", f"{name}.3"] for name in taggers]
    world = World(WorldModel.model_validate({"elements": elements, "paths": paths}), seed)
    for name in taggers:
        inputs(world, name).recording = True
    return world


def inputs(world: World, name: str) -> TaggerInputs:
    found = world.elements[name]
    assert isinstance(found, TaggerInputs)
    return found


def run(world: World, blocks: int, *names: str) -> list[Any]:
    """Times that each tagger recorded."""
    times: dict[str, list[Any]] = {name: [] for name in names}
    for _ in range(blocks):
        world.run_block()
        for name in names:
            times[name].append(inputs(world, name).times_ps)
    return [np.concatenate(parts) for parts in times.values()]


# -- pulses per second ----------------------------------------------------------------------------


def test_two_clocks_30_ppm_apart_drift_by_30_us_a_second() -> None:
    world = pps_world(
        fast=own(frequency_offset=20e-6), slow=own(frequency_offset=-10e-6), true={"kind": "tagger"}
    )
    fast, slow, true = run(world, 301, "fast", "slow", "true")
    delay = true[0] - PS  # every wire takes the same detour
    assert true.tolist() == [PS + delay, 2 * PS + delay, 3 * PS + delay]
    t = true.astype(float)
    assert np.abs(fast - slow - 30e-6 * t).max() <= 1  # each is rounded to 1 ps
    assert (np.diff(fast - slow) == 30_000_000).all()


def test_the_frequency_drifts_as_told() -> None:
    world = pps_world(a=own(frequency_offset=1e-6, drift=-2e-7))
    [a] = run(world, 401, "a")
    t = np.arange(1, 5) + 20e-9
    # Linear within a block of 10 ms: the parabola bends by D (10 ms)^2/8 in it.
    assert a - t * PS == pytest.approx((1e-6 * t - 1e-7 * t**2) * PS, abs=2e-7 * 1e-4 / 8 * PS + 1)


def test_allan_deviation_seen_through_the_tags_of_a_pps() -> None:
    clock = {"white_fm": 1e-10, "random_walk_fm": 2e-11, "frequency_offset": 3e-7}
    world = pps_world(a=own(**clock))
    seconds = 200
    [a] = run(world, seconds * 100 + 1, "a")
    assert a.size == seconds
    x = a * 1e-12 - np.arange(1, seconds + 1)
    for m in (1, 2, 4):
        line = 1e-20 / m + 4e-22 * m
        edf = (3 * (seconds - 1) / (2 * m) - 2) * 4 * m**2 / (4 * m**2 + 5)
        assert allan_deviation(x, 1.0, m) ** 2 == pytest.approx(line, rel=3 * math.sqrt(2 / edf))


@pytest.mark.parametrize(
    ("source", "sigma_ps"),
    [({"source": "gps"}, 20_000), ({"jitter_rms": 5e-9}, 5000), ({"source": "white_rabbit"}, 15)],
)
def test_a_pps_comes_each_second_with_its_offset_and_jitter(
    source: dict[str, Any], sigma_ps: float
) -> None:
    pps = Reference(ReferenceModel.model_validate({"kind": "reference", "offset": -1e-3, **source}))
    rng = np.random.default_rng(4)
    found = []
    for second in range(1000):
        pps.step(rng, float(second))
        for begin in (second * PS, second * PS + PS // 2):
            found += pps.edges(begin, begin + PS // 2).tolist()
    errors = np.array(found) - np.arange(1, 1001) * PS + PS // 1000
    assert errors.std() == pytest.approx(sigma_ps, rel=3 / math.sqrt(2 * 1000))
    assert abs(errors.mean()) < 3 * sigma_ps / math.sqrt(1000)


@pytest.mark.parametrize("offset", [-0.1, 0.1])
def test_no_pulse_is_lost_or_doubled_at_the_edge_of_a_second(offset: float) -> None:
    world = pps_world(source={"offset": offset, "jitter_rms": 1e-6}, a={"kind": "tagger"})
    [a] = run(world, 520, "a")
    assert np.round(a / PS - offset, 4).tolist() == [1, 2, 3, 4, 5]


# -- photons --------------------------------------------------------------------------------------


def pair_world(**clocks: Any) -> World:
    detector = {"efficiency": 0.9, "dark_rate": 0.0, "jitter": 10e-12, "dead_time": 0.0}
    elements: dict[str, Any] = {
        "pump": {"kind": "pump_laser", "threshold": 0.04, "slope": 0.5},
        "crystal": {"kind": "spdc", "pump": "pump", "pair_rate": 2e4 / 0.03},
    }
    paths = []
    for side, arm in (("alice", "signal"), ("bob", "idler")):
        elements[f"{side}_snspd"] = {"kind": "snspd", "detectors": [detector]}
        elements[side] = {"kind": "tagger", **({"clock": clocks[side]} if side in clocks else {})}
        paths.append([f"crystal.{arm}", f"{side}_snspd", side])
    world = World(WorldModel.model_validate({"elements": elements, "paths": paths}), 3)
    pump = world.elements["pump"]
    assert isinstance(pump, PumpLaser)
    pump.current_a, pump.emitting = 0.1, True
    for side in ("alice", "bob"):
        array = world.elements[f"{side}_snspd"]
        assert isinstance(array, SnspdArray)
        array.enabled, array.bias_a = True, [18e-6]
        inputs(world, side).recording = True
    return world


def test_the_same_pairs_drift_apart_with_the_clocks() -> None:
    true = run(pair_world(), 100, "alice", "bob")
    seen = run(
        pair_world(
            alice={"reference": "internal", "frequency_offset": 10e-6},
            bob={"reference": "internal", "frequency_offset": -20e-6},
        ),
        100,
        "alice",
        "bob",
    )
    for t, s, y in zip(true, seen, (10e-6, -20e-6), strict=True):
        assert t.size > 10_000
        assert np.abs(s - t * (1 + y)).max() < 1  # rounded to 1 ps
    near = np.searchsorted(true[1], true[0] - 200)
    pairs = np.flatnonzero(np.abs(true[1][np.minimum(near, true[1].size - 1)] - true[0]) < 200)
    assert pairs.size > 10_000
    a, b = seen[0][pairs], seen[1][near[pairs]]
    slope, start = np.polyfit(a * 1e-12, (b - a) * 1e-12, 1)
    # Bob's time per Alice's: (1 - 20e-6)/(1 + 10e-6); jitter 15 ps over a second.
    assert slope == pytest.approx((1 - 20e-6) / (1 + 10e-6) - 1, abs=2e-12)
    assert abs(start) < 5e-12


def test_each_tagger_has_noise_and_an_offset_of_its_own_from_the_seed() -> None:
    def world(seed: int) -> World:
        xo = {"kind": "tagger", "clock": {"reference": "xo"}}
        return pps_world(seed, a=xo, b=xo)

    a, b = run(world(1), 301, "a", "b")
    again = run(world(1), 301, "a", "b")
    other = run(world(2), 301, "a", "b")
    assert [a.tolist(), b.tolist()] == [x.tolist() for x in again]
    assert len({a[1] - a[0], b[1] - b[0], other[0][1] - other[0][0]}) == 3
    assert 0 < abs(a[1] - a[0] - PS) < 5e-5 * PS


def test_a_white_rabbit_node_stays_where_the_world_is() -> None:
    world = pps_world(a={"kind": "tagger", "clock": {"reference": "white_rabbit"}})
    [a] = run(world, 10_001, "a")
    errors = a - 20_000 - np.arange(1, 101) * PS
    assert errors.std() == pytest.approx(15, rel=3 / math.sqrt(200))
    assert abs(errors.mean()) < 5
    seen = allan_deviation(errors * 1e-12, 1.0, 1) ** 2
    line = float(allan_variance(PRESETS["white_rabbit"][0], 1.0))
    assert seen == pytest.approx(line, rel=0.5)


def test_a_clock_goes_on_from_its_saved_state() -> None:
    clock = {"kind": "tagger", "clock": {"reference": "ocxo"}}
    one, two = pps_world(a=clock), pps_world(a=clock)
    run(one, 150, "a")
    two.now_ps = one.now_ps
    recall(two.elements, json.loads(json.dumps(remember(one.elements))))
    assert inputs(two, "a").clock_ps(two.now_ps) == inputs(one, "a").clock_ps(one.now_ps)
    [after], [wanted] = run(two, 200, "a"), run(one, 200, "a")
    assert after.tolist() == wanted.tolist()
    assert after.size == 2


# -- one tagger -----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    clicks=st.lists(st.integers(0, BLOCK_PS - 1), max_size=20),
    offset=st.floats(-1e-3, 1e-3),
    bin_ps=st.sampled_from([1, 13, 2000]),
    seed=st.integers(0, 1000),
)
def test_own_times_keep_their_order_and_their_blocks(
    clicks: list[int], offset: float, bin_ps: int, seed: int
) -> None:
    clock = {"reference": "internal", "frequency_offset": offset, "random_walk_fm": 1e-4}
    element = tagger(clock=clock, resolution=bin_ps * 1e-12)
    rng = np.random.default_rng(seed)
    until = 0
    for block in range(3):
        begin, end = block * BLOCK_PS, (block + 1) * BLOCK_PS
        before = element.clock_ps(begin)
        element.step(rng, begin * 1e-12)
        assert element.clock_ps(begin) == before == until
        until = element.clock_ps(end)
        times = np.sort(np.array(clicks, np.int64)) + begin
        element.add(times, np.ones(times.size, np.int16))
        element.end_block()
        assert (np.diff(element.times_ps) >= 0).all()
        assert ((before <= element.times_ps) & (element.times_ps <= until)).all()
        assert not (element.times_ps % bin_ps).any()
        assert np.abs(element.times_ps - [element.clock_ps(int(t)) for t in times]).max(
            initial=0
        ) <= (bin_ps if bin_ps > 1 else 0)


def block(element: TaggerInputs, *clicks: tuple[int, int]) -> list[tuple[int, int]]:
    """What a tagger makes of clicks of (input, ps)."""
    for n in sorted({n for n, _ in clicks}):
        times = np.array(sorted(t for m, t in clicks if m == n), np.int64)
        element.add(times, np.full(times.size, n, np.int16))
    element.end_block()
    return list(zip(element.inputs.tolist(), element.times_ps.tolist(), strict=True))


def test_each_input_has_a_dead_time_of_its_own() -> None:
    element = tagger(dead_time=2e-9)
    clicks = [(1, 0), (2, 500), (1, 1999), (1, 2000), (2, 2499), (2, 9000)]
    assert block(element, *clicks) == [(1, 0), (2, 500), (1, 2000), (2, 9000)]
    assert block(element, (2, 10_999), (2, 11_000)) == [(2, 11_000)]  # dead across blocks


def test_a_dead_time_does_not_tell_who_listened_before() -> None:
    """Photons, and wired edges of which each kills the next: that goes on for ever."""
    elements: dict[str, Any] = {
        "lamp": {"kind": "light", "rate": 1e4},
        "clock": {"kind": "delay_generator"},
        "array": {"kind": "spad", "detectors": [{"dark_rate": 0.0}]},
        "a": {"kind": "tagger", "dead_time": 1e-4},
    }
    paths = [["lamp.out", "array", "a.1"], ["clock.A", "a.2"]]

    def world(record: bool) -> World:
        made = World(WorldModel.model_validate({"elements": elements, "paths": paths}), 4)
        inputs(made, "a").recording = record
        clock = made.elements["clock"]
        assert isinstance(clock, DelayGenerator)
        clock.source, clock.rate_uhz = "internal", 15_010 * 10**6
        return made

    for late_by in range(3, 9):
        always, late = world(True), world(False)
        run(always, late_by, "a")
        run(late, 1, "a")
        inputs(late, "a").recording = True  # and stop again
        run(late, 1, "a")
        inputs(late, "a").recording = False
        run(late, late_by - 2, "a")
        inputs(late, "a").recording = True
        seen = run(always, 2, "a")[0]
        assert run(late, 2, "a")[0].tolist() == seen.tolist()
        assert seen.size > 180


def test_a_bin_cuts_the_times() -> None:
    assert block(tagger(resolution=13e-12), (1, 12), (2, 13), (1, 40)) == [(1, 0), (2, 13), (1, 39)]


def test_a_recording_begins_at_the_edge_of_a_bin() -> None:
    element = tagger(resolution=13e-12, start_offset=100e-12, **own(frequency_offset=1e-3))
    assert element.start_ps(0) == 91
    element.step(np.random.default_rng(1), 0.0)
    assert element.start_ps(BLOCK_PS) == BLOCK_PS + BLOCK_PS // 1000 + 91  # that is a bin's edge


def test_a_memory_that_is_full_leaves_a_gap_and_counts_what_it_lost() -> None:
    element = tagger(buffer=2, buffer_rate=1e9)  # one in 1 ns
    element.recording = True
    clicks = [(1, 0), (2, 10), (1, 20), (2, 30), (2, 40), (1, 1900), (1, 2100)]
    assert block(element, *clicks) == [(1, 0), (2, 10), (1, 2100)]
    assert element.lost[:3].tolist() == [2, 2, 0]
    assert element.gaps_ps.tolist() == [20]
    # 2100 and 2200 fill it again; the gap that begins at 2300 goes on into the next block.
    assert block(element, (1, 2200), (1, 2300)) == [(1, 2200)]
    assert element.gaps_ps.tolist() == [2300]
    assert block(element, (1, 2400)) == []
    assert element.gaps_ps.size == 0
    assert element.lost[0] == 1
    element.recording = False
    element.end_block()
    assert element.lost.sum() == 0
    element.recording = True  # a new recording begins with an empty memory
    assert block(element, (1, 2500), (1, 2501)) == [(1, 2500), (1, 2501)]


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clock": {"frequency_offset": 1e-6}}, "write 'reference: internal'"),
        ({"clock": {"reference": "white_rabbit", "drift": 1e-10}}, "has no drift of its own"),
        ({"clock": {"reference": "xo", "lock_error": 1e-9}}, "write 'reference: white_rabbit'"),
        ({"clock": {"reference": "quartz"}}, "'rubidium', 'ocxo', 'xo' or 'internal'"),
        ({"clock": {"reference": "xo", "frequency_offset": 0.1}}, "less than or equal to 0.001"),
        ({"clock": {"reference": "xo", "white_fm": -1e-9}}, "greater than or equal to 0"),
        ({"buffer": 1000}, "a buffer needs a buffer_rate"),
        ({"buffer_rate": 1e6}, "a buffer_rate needs a buffer"),
        ({"resolution": 1.5e-12}, "whole picoseconds"),
        ({"dead_time": -1e-9}, "greater than or equal to 0"),
        ({"jitter": 2e-6}, "less than or equal to 0.000001"),
    ],
)
def test_a_tagger_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TaggerModel.model_validate({"kind": "tagger", **changes})


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (["gps", "a.1"], "'gps' names no channel; write for example 'gps.pps'"),
        (["gps.out", "a.1"], "'gps.out' names no channel"),
        (["gps.pps", "gps"], "a wire goes from a channel to a tagger's input"),
        (["gsp.pps", "a.1"], "no element 'gsp'; did you mean 'gps'"),
    ],
)
def test_a_wire_that_leads_nowhere_is_refused(path: list[str], said: str) -> None:
    elements = {"gps": {"kind": "reference"}, "a": {"kind": "tagger"}}
    model = WorldModel.model_validate({"elements": elements, "paths": [path]})
    assert any(said in message for _, message in check_layout(model))
    with pytest.raises(ConfigError):
        World(model, 1)
