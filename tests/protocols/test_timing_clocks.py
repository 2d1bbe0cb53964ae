"""Clock recovery between two taggers that share nothing but photons."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import Loss, TagBatch, concatenate
from bellbench.protocols import timing
from hypothesis import given, settings
from hypothesis import strategies as st

Float = npt.NDArray[np.float64]


def link(
    seed: int,
    seconds: float,
    clicks: tuple[float, float],
    pairs: float,
    offset_ps: Callable[[Float], Float],
    *,
    jitter_ps: float = 80.0,
    delays: tuple[tuple[int, ...], tuple[int, ...]] = ((0,), (0,)),
    dark: tuple[tuple[float, float], ...] = (),
) -> tuple[TagBatch, TagBatch]:
    """Clicks per second of both, pairs of them; t_b - t_a of partners; no pairs while dark."""
    rng = np.random.default_rng(seed)
    end = seconds * 1e12
    at = rng.uniform(-2e12, end + 2e12, rng.poisson(pairs * (seconds + 4)))
    for begin, stop in dark:
        at = at[(at < begin * 1e12) | (at >= stop * 1e12)]
    batches = []
    for party in range(2):
        alone = rng.uniform(-2e12, end + 2e12, rng.poisson((clicks[party] - pairs) * (seconds + 4)))
        times = np.concatenate([at + rng.normal(0, jitter_ps / math.sqrt(2), at.size), alone])
        if party:
            times = times + offset_ps(times)
        which = rng.integers(0, len(delays[party]), times.size)
        times = times + np.array(delays[party])[which]
        inside = (times >= 0) & (times < end)
        times, which = np.rint(times[inside]).astype(np.int64), which[inside] + 1
        times = np.minimum(times, int(end) - 1)
        order = np.argsort(times, kind="stable")
        batches.append(TagBatch(times[order], which[order].astype(np.int16), 0, int(end)))
    return batches[0], batches[1]


def straight(offset: float, frequency: float) -> Callable[[Float], Float]:
    return lambda t: offset + frequency * t


def cut(batch: TagBatch, edges: list[float]) -> list[TagBatch]:
    parts = []
    for edge in sorted(edges):
        part, batch = batch.split(round(edge * 1e12))
        parts.append(part)
    return [*parts, batch]


def recovered(
    a: TagBatch, b: TagBatch, edges: list[float] | None = None, **options: object
) -> tuple[timing.ClockRecovery, TagBatch, TagBatch]:
    recovery = timing.ClockRecovery(**options)  # type: ignore[arg-type]
    edges = [0.5 * k for k in range(1, int(2 * a.duration_s))] if edges is None else edges
    outs: list[tuple[TagBatch, TagBatch]] = [
        recovery.add(x, y) for x, y in zip(cut(a, edges), cut(b, edges), strict=True)
    ]
    outs.append(recovery.add(None, None))
    for x, y in outs:
        assert (x.begin_ps, x.end_ps) == (y.begin_ps, y.end_ps)
    dated_a, dated_b = (concatenate(out[i] for out in outs).checked() for i in range(2))
    assert np.array_equal(dated_a.times_ps, a.times_ps)
    return recovery, dated_a, dated_b


def pulls(recovery: timing.ClockRecovery, truth: Callable[[Float], Float]) -> Float:
    known = [state for state in recovery.history if state.locked]
    at = np.array([state.at_ps for state in known], np.float64)
    return np.array([(s.offset_ps - x) / s.sigma_ps for s, x in zip(known, truth(at), strict=True)])


def lost(batch: TagBatch) -> list[tuple[str, float, float]]:
    return [(x.kind, x.begin_ps * 1e-12, x.end_ps * 1e-12) for x in batch.losses]


# -- one stretch


@pytest.mark.parametrize(
    ("seconds", "clicks", "pairs", "jitter", "offset", "frequency"),
    [
        (0.5, (1e5, 1e5), 1e4, 80.0, 0.3e12, 3e-5),
        (10, (1e4, 1e4), 300, 400.0, -0.99e12, 1e-4),
        (10, (7e3, 12e3), 1e3, 300.0, 0.99e12, -1e-5),
        (8, (100, 100), 10, 400.0, 1.0, 0.0),
    ],
)
def test_clock_of_a_stretch(
    seconds: float,
    clicks: tuple[float, float],
    pairs: float,
    jitter: float,
    offset: float,
    frequency: float,
) -> None:
    a, b = link(1, seconds, clicks, pairs, straight(offset, frequency), jitter_ps=jitter)
    state = timing.find_clock(a, b)
    assert state.locked, state.reason
    assert state.sigma_ps < 100
    assert state.offset_ps == pytest.approx(
        offset + frequency * state.at_ps, abs=4 * state.sigma_ps + 0.5
    )
    assert state.sigma_frequency < 1e-9
    assert state.frequency == pytest.approx(frequency, abs=4 * state.sigma_frequency)
    assert state.jitter_ps == pytest.approx(jitter, rel=0.15)
    assert state.reason == ""


def test_sigma_of_a_stretch_is_the_scatter() -> None:
    misses = []
    for seed in range(8):
        a, b = link(seed, 0.3, (1e5, 1e5), 2e3, straight(1e9, 2e-5), jitter_ps=100.0)
        state = timing.find_clock(a, b, search_ps=2 * 10**9)
        assert state.locked
        misses.append((state.offset_ps - 1e9 - 2e-5 * state.at_ps) / state.sigma_ps)
        misses.append((state.frequency - 2e-5) / state.sigma_frequency)
    assert 0.6 < np.std(misses) < 1.5
    assert abs(np.mean(misses)) < 0.8


def test_a_shared_reference_needs_no_frequency() -> None:
    a, b = link(3, 5, (1e4, 1e4), 200, straight(0.7e12, 0.0))
    state = timing.find_clock(a, b, search_frequency=0.0)
    assert state.locked
    assert state.offset_ps == pytest.approx(0.7e12, abs=4 * state.sigma_ps + 0.5)
    assert abs(state.frequency) < 4 * state.sigma_frequency


def test_no_light_is_no_lock() -> None:
    a, b = link(0, 2, (5e3, 5e3), 0, straight(0, 0))
    state = timing.find_clock(a, b, search_ps=10**10)
    assert not state.locked
    assert math.isnan(state.offset_ps)
    assert "no coincidence peak within +-10 ms and +-100 ppm in 2 s" in state.reason


def false_alarms(runs: int, search_ps: int) -> int:
    alarms = 0
    for seed in range(runs):
        rng = np.random.default_rng(1000 + seed)
        rates = 10 ** rng.uniform(1, 4.7, 2)
        seconds = float(rng.uniform(0.2, 3))
        a, b = link(seed, seconds, (rates[0], rates[1]), 0, straight(0, 0))
        alarms += timing.find_clock(a, b, search_ps=search_ps).locked
    return alarms


def test_no_false_lock() -> None:
    assert false_alarms(6, 10**9) == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_false_lock_in_many_runs() -> None:
    """pytest -m slow tests/protocols/test_timing_clocks.py -k many_runs: 100 s of CPU."""
    assert false_alarms(300, 10**10) == 0
    assert false_alarms(20, 10**12) == 0


def test_bursts_are_no_lock() -> None:
    """Two bursts of 300 clicks in 1 us: 9e4 differences at one offset."""
    a, b = link(5, 3, (3e3, 3e3), 0, straight(0, 0))
    rng = np.random.default_rng(5)
    noisy = []
    for batch, at in ((a, 1.0e12), (b, 1.003e12)):
        times = np.concatenate([batch.times_ps, rng.integers(0, 10**6, 300) + int(at)])
        channels = np.ones(times.size, np.int16)
        noisy.append(TagBatch(np.sort(times), channels, 0, batch.end_ps))
    assert not timing.find_clock(*noisy, search_ps=4 * 10**9).locked


@pytest.mark.parametrize("few", [0, 1, 9])
def test_too_few_clicks(few: int) -> None:
    a, b = link(5, 1, (1e3, 1e3), 0, straight(0, 0))
    b = TagBatch(b.times_ps[:few], b.channels[:few], 0, b.end_ps)
    state = timing.find_clock(a, b)
    assert not state.locked
    assert f"too few clicks: {len(a)} and {few}" in state.reason


def test_parameters_are_checked() -> None:
    with pytest.raises(ValueError, match="search_ps must be at least"):
        timing.ClockRecovery(search_ps=10)
    with pytest.raises(ValueError, match=r"search_frequency must lie in 0\.\.1e-3"):
        timing.ClockRecovery(search_frequency=math.nan)


# -- streams


def test_walking_clock_is_followed() -> None:
    """30 ppm, 80 ps, a fibre that walks by 50 ps/s and swings by 1 ns."""

    def truth(t: Float) -> Float:
        return 2.5e9 + 3e-5 * t + 50e-12 * t + 1e3 * np.sin(2 * np.pi * t / 20e12)

    a, b = link(2, 12, (3e4, 2e4), 3e3, truth)
    recovery, dated_a, dated_b = recovered(a, b, search_ps=10**10)
    assert recovery.state.locked
    miss = pulls(recovery, truth)
    assert miss.size > 50
    assert np.sqrt(np.mean(miss**2)) < 1.3
    assert np.abs(miss).max() < 5
    assert recovery.state.sigma_ps < 20
    # all there is of B where A recorded too, on A's clock
    assert len(dated_b) == np.count_nonzero(b.times_ps >= truth(np.zeros(1)))
    kept = timing.CoincidenceCounter([1], [1], 500)
    kept.add(dated_a, dated_b)
    assert int(kept.finish().counts[0, 0]) == pytest.approx(3e3 * 12, rel=0.02)
    assert [kind for kind, _, _ in lost(dated_b)] == ["gap"]  # where B had stopped
    times = b.times_ps[recovery.dated(b.times_ps)]
    assert times.size == len(dated_b)
    assert np.array_equal(recovery.to_a(times), dated_b.times_ps)
    with pytest.raises(ValueError, match="is not dated"):
        recovery.to_a(np.array([b.end_ps + 10**12]))


@settings(max_examples=5, deadline=None)
@given(edges=st.lists(st.floats(0.01, 7.9), max_size=6), ahead=st.floats(-0.9, 0.9))
def test_any_split_gives_the_same(edges: list[float], ahead: float) -> None:
    a, b = STREAMS
    whole, once_a, once_b = recovered(a, b, [], search_ps=10**9)
    split = timing.ClockRecovery(search_ps=10**9)
    outs = []
    parts_a = cut(a, edges)
    parts_b = cut(b, [min(max(edge + ahead, 0.0), 8.0) for edge in edges])
    for x, y in zip(parts_a, parts_b, strict=True):
        outs.append(split.add(x, y))
    outs.append(split.add(None, None))
    for out, once in zip(zip(*outs, strict=True), (once_a, once_b), strict=True):
        joined = concatenate(out)
        assert np.array_equal(joined.times_ps, once.times_ps)
        assert np.array_equal(joined.channels, once.channels)
        assert joined.losses == once.losses
    assert split.history == whole.history


def lossy_streams() -> tuple[TagBatch, TagBatch]:
    a, b = link(4, 8, (4e3, 3e3), 1.5e3, straight(-3e6, -4e-5), dark=((5.0, 6.0),))
    keep = (a.times_ps < 2e12) | (a.times_ps >= 3e12)
    a = TagBatch(
        a.times_ps[keep],
        a.channels[keep],
        0,
        a.end_ps,
        123,
        "lab",
        (Loss("overflow", 2 * 10**12, 3 * 10**12, 7),),
    )
    gone = (Loss("late", 4 * 10**12, 4 * 10**12 + 10**11, 3),)
    return a, TagBatch(b.times_ps, b.channels, 0, b.end_ps, 55, "field", gone)


STREAMS = lossy_streams()


def test_losses_travel() -> None:
    recovery, dated_a, dated_b = recovered(*STREAMS, search_ps=10**9)
    assert dated_a.losses == STREAMS[0].losses
    assert (dated_b.start_unix_ns, dated_b.clock_id) == (123, "lab")
    late = [x for x in dated_b.losses if x.kind == "late"]
    assert sum(x.count or 0 for x in late) == 3
    assert sum(x.end_ps - x.begin_ps for x in late) == pytest.approx(1e11, rel=1e-3)
    # partner of B's 4 s: t + 4e-5 t = 4 s + 3 us
    assert late[0].begin_ps == pytest.approx((4e12 + 3e6) / (1 - 4e-5), abs=1000)
    assert not [x for x in dated_b.losses if x.kind == "clock"]  # a dark second is bridged
    assert recovery.state.locked


def test_a_step_is_a_loss_and_then_followed() -> None:
    def truth(t: Float) -> Float:
        return 1e6 + 1e-5 * t + np.where(t > 6.01e12, 2e5, 0.0)

    a, b = link(6, 12, (2e4, 2e4), 2e3, truth)
    recovery, _, dated_b = recovered(a, b, search_ps=10**9)
    assert recovery.state.locked
    assert [s.locked for s in recovery.history].count(False) == 1
    clock = [x for x in lost(dated_b) if x[0] == "clock"]
    assert len(clock) == 1
    assert clock[0][1] <= 6.01 <= clock[0][2]
    assert clock[0][2] - clock[0][1] < 0.3
    live = dated_b.times_ps
    assert not np.any((live >= clock[0][1] * 1e12) & (live < clock[0][2] * 1e12))
    # no click is dated by the wrong side of the step
    assert np.abs(pulls(recovery, truth)).max() < 6


def test_a_small_step_is_covered_by_sigma() -> None:
    def truth(t: Float) -> Float:
        return 1e6 + 1e-5 * t + np.where(t > 4.03e12, 400.0, 0.0)

    for seed in (0, 3):
        a, b = link(seed, 8, (2e4, 2e4), 1e3, truth)
        recovery, _, _ = recovered(a, b, search_ps=10**9)
        assert recovery.state.locked
        assert np.abs(pulls(recovery, truth)).max() < 4.5
        assert recovery.state.sigma_ps < 20


def test_a_pulsed_source_keeps_its_peak() -> None:
    """80 MHz, few coincidences, and dark stretches; accidentals keep to the pulses too."""
    rng = np.random.default_rng(1)
    end, period = 24 * 10**12, 12_500
    pairs = rng.integers(0, end // period, 2400) * period
    pairs = pairs[((pairs < 6e12) | (pairs > 8e12)) & ((pairs < 10e12) | (pairs > 17e12))]
    streams = []
    for party in range(2):
        alone = rng.integers(0, end // period, 240_000) * period
        times = np.concatenate([pairs, alone]) + rng.normal(0, 70, pairs.size + alone.size)
        times = times + party * (1e8 + 1e-5 * times)
        whole = np.sort(np.rint(times[(times >= 0) & (times < end - 1)]).astype(np.int64))
        streams.append(TagBatch(whole, np.ones(whole.size, np.int16), 0, end))
    recovery, _, _ = recovered(streams[0], streams[1], search_ps=10**9)
    assert recovery.state.locked
    assert recovery.state.at_ps > 22e12
    miss = [s.offset_ps - 1e8 - 1e-5 * s.at_ps for s in recovery.history if s.locked]
    assert np.abs(miss).max() < 1000


def test_old_intervals_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing.ClockRecovery, "_KNOTS", 16)
    a, b = link(2, 4, (2e4, 2e4), 2e3, straight(1e6, 1e-5))
    recovery, _, dated_b = recovered(a, b, search_ps=10**9)
    assert len(recovery.history) == 16
    known = recovery.dated(b.times_ps)
    assert 0 < np.count_nonzero(known) < len(dated_b)
    moved = recovery.to_a(b.times_ps[known])
    assert np.array_equal(moved, dated_b.times_ps[-moved.size :])


def test_a_long_gap_is_bridged_by_search() -> None:
    a, b = link(7, 20, (1e4, 1e4), 1e3, straight(5e8, 2e-5), dark=((5.0, 13.0),))
    recovery, _, dated_b = recovered(a, b, search_ps=10**9)
    assert recovery.state.locked
    clock = [x for x in lost(dated_b) if x[0] == "clock"]
    assert len(clock) == 1
    assert 4.5 < clock[0][1] <= 5.1
    assert 12.9 <= clock[0][2] < 13.6
    assert np.abs(pulls(recovery, straight(5e8, 2e-5))).max() < 5


def test_streams_without_light() -> None:
    a, b = link(8, 2, (3e3, 3e3), 0, straight(0, 0))
    recovery, _, dated_b = recovered(a, b, search_ps=10**8)
    assert len(dated_b) == 0
    assert {kind for kind, _, _ in lost(dated_b)} == {"clock"}
    assert dated_b.live_s == pytest.approx(0, abs=1e-9)
    assert not recovery.state.locked
    assert "no coincidence peak" in recovery.state.reason


def test_unknown_delays_are_found_afterwards() -> None:
    delays = ((0, 7_000, -12_000, 3_300), (500, 20_000, -8_000, 1_250))
    a, b = link(9, 4, (4e4, 4e4), 1.2e4, straight(4e8, 3e-5), delays=delays)
    _, dated_a, dated_b = recovered(a, b, search_ps=10**9)
    found = timing.find_channel_delays(dated_a, dated_b, search_ps=1_000_000)
    for channel in range(1, 5):
        assert found.delays_a[channel] == pytest.approx(delays[0][channel - 1], abs=20)
        relative = found.delays_b[channel] - found.delays_b[1]
        assert relative == pytest.approx(delays[1][channel - 1] - 500, abs=20)
    known_a, known_b = ({k + 1: d for k, d in enumerate(x)} for x in delays)
    recovery, _, _ = recovered(a, b, search_ps=10**9, delays_a=known_a, delays_b=known_b)
    assert recovery.state.jitter_ps == pytest.approx(80, rel=0.1)
    assert np.abs(pulls(recovery, straight(4e8, 3e-5))).max() < 5


# -- pulses once per second


def with_pulses(
    streams: tuple[TagBatch, TagBatch],
    offset_ps: Callable[[Float], Float],
    starts_s: tuple[float, float],
    sigma_ps: float,
) -> tuple[TagBatch, TagBatch]:
    """Adds channel 9; A's clock shows true time, B started at ``starts_s[1]``."""
    rng = np.random.default_rng(3)
    at = (np.arange(-3, streams[0].duration_s + 3) + 0.25) * 1e12
    batches = []
    for party, batch in enumerate(streams):
        pulses = at + rng.normal(0, sigma_ps, at.size) + party * offset_ps(at)
        pulses = np.append(pulses, rng.uniform(0, batch.end_ps, 5))  # and five that are none
        pulses = np.rint(pulses[(pulses >= 0) & (pulses < batch.end_ps)]).astype(np.int64)
        times = np.concatenate([batch.times_ps, pulses])
        channels = np.concatenate([batch.channels, np.full(pulses.size, 9, np.int16)])
        order = np.argsort(times, kind="stable")
        start = round(starts_s[party] * 1e9)
        batches.append(TagBatch(times[order], channels[order], 0, batch.end_ps, start))
    return batches[0], batches[1]


@pytest.mark.parametrize("pairs", [0.0, 300.0])
@pytest.mark.parametrize("hosts", [(0, 0), (1.7e9, 1.7e9 - 2 + 0.1)])
def test_pulses_per_second(pairs: float, hosts: tuple[float, float]) -> None:
    """The light comes 80 us after what the pulses say, and B's host is 0.1 s wrong."""

    def truth(t: Float) -> Float:
        return 2e12 + 3e-5 * t

    light = link(11, 12, (2e3, 2e3), pairs, lambda t: truth(t) + 8e7)
    a, b = with_pulses(light, truth, hosts, 20_000.0)
    state = timing.find_clock(a, b, search_ps=22 * 10**11, pps=(9, 9))
    if not (pairs or hosts[0]):
        assert not state.locked
        assert "whole seconds apart, and no coincidences tell which" in state.reason
        return
    recovery, _, dated_b = recovered(a, b, search_ps=22 * 10**11, pps=(9, 9))
    assert state.locked, state.reason
    expected = truth(np.array(state.at_ps)) + (8e7 if pairs else 0)
    assert state.offset_ps == pytest.approx(float(expected), abs=5 * state.sigma_ps)
    assert state.sigma_ps < (100 if pairs else 20_000)
    assert state.frequency == pytest.approx(3e-5, abs=5 * state.sigma_frequency)
    assert recovery.state.locked
    assert recovery.state.sigma_ps < (100 if pairs else 100_000)
    miss = pulls(recovery, (lambda t: truth(t) + 8e7) if pairs else truth)
    assert np.abs(miss).max() < 5
    assert not [x for x in lost(dated_b) if x[0] == "clock" and x[2] > 1]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_half_an_hour_at_a_low_rate() -> None:
    """pytest -m slow tests/protocols/test_timing_clocks.py -k half_an_hour: 35 s of CPU.

    30 ppm, 80 ps, 10 kcps with 1 % heralding, a fibre that walks by 30 ps/sqrt(s), and a dark
    minute.
    """
    rng = np.random.default_rng(1)
    walk = np.cumsum(rng.normal(0, 30, 1810))

    def truth(t: Float) -> Float:
        path = np.interp(t, (np.arange(1810) - 3) * 1e12, walk)
        return -7e10 + 3e-5 * t + path

    a, b = link(12, 1800, (1e4, 1e4), 100, truth, dark=((600.0, 660.0),))
    recovery, _, dated_b = recovered(a, b, [5.0 * k for k in range(1, 360)])
    assert recovery.state.locked
    miss = pulls(recovery, truth)
    assert np.sqrt(np.mean(miss**2)) < 1.3
    assert np.abs(miss).max() < 6
    clock = [x for x in lost(dated_b) if x[0] == "clock"]
    assert sum(end - begin for _, begin, end in clock) < 75
    assert len(dated_b) > 0.95 * len(b)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_over_an_hour() -> None:
    """pytest -m slow tests/protocols/test_timing_clocks.py -k memory: 209 to 223 MB, 3 min."""
    recovery, grown = timing.ClockRecovery(search_ps=10**9), []
    for piece in range(720):
        begin = piece * 5 * 10**12
        parts = link(piece, 5, (5e3, 5e3), 500, straight(1e6 + 1e-9 * begin, 1e-9))
        moved = [TagBatch(x.times_ps + begin, x.channels, begin, begin + 5 * 10**12) for x in parts]
        recovery.add(moved[0], moved[1])
        if piece % 120 == 119:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            grown.append(pages * 4096 / 2**20)
    assert recovery.state.locked
    assert len(recovery.history) > 15_000
    # What is kept of the intervals: 0.6 kB each.
    assert grown[-1] - grown[0] < 25, grown
