"""Heralding through a memory: against closed forms, brute force, and any cut of the stream."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import Loss, MemoryInfo, ProtocolError, TagBatch
from bellbench.protocols.estimates import Estimate
from bellbench.protocols.heralding import (
    GateCounts,
    HeraldCounter,
    HeraldCounts,
    HeraldLayout,
    find_layout,
    fit_decay,
    heralding_efficiency,
    noise_per_mode,
    relative_efficiency,
)
from hypothesis import given, settings
from hypothesis import strategies as st

PERIOD = 200_000  # of the pump, ps
CYCLE = 80_000_000
HERALD, C, D, TRIGGER = 1, 2, 3, 4
INFO = MemoryInfo(
    kind="AFC spin-wave",
    mode_kind="temporal",
    modes=40,
    mode_duration_s=200e-9,
    prepared_s=11e-6,
    window_s=(12e-6, 20e-6),
    on_demand=True,
    echo_s=10e-6,
    min_storage_s=10.5e-6,
    max_storage_s=59e-6,
    cycle_s=80e-6,
    decay="gaussian",
    noise_per_mode=0.0,
)
WINDOW = (12_100_000, 19_900_000)  # half a mode less at either end
GATE = 4_000


@dataclass(frozen=True)
class Bench:
    """A source of thermal pairs, a memory, three detectors; delays as the cables give them."""

    mean_pairs: float = 0.05
    herald: float = 0.3
    signal: float = 0.45  # crystal to click, but for the memory
    transparency: float = 0.95
    leak: float = 0.1
    efficiency: float = 0.35
    storage_ps: int = 0  # 0: bypassed
    noise: float = 0.0  # photons per mode and recall
    dark_hz: float = 100.0
    delays_ps: tuple[int, int, int, int] = (0, 12_300, 14_700, 0)  # of the inputs
    to_memory_ps: int = 1_234_567  # from the crystal
    behind_ps: int = 5_000

    def record(self, seconds: float, seed: int) -> TagBatch:
        rng = np.random.default_rng(seed)
        end = round(seconds * 1e12)
        pulses = np.arange(0, end, PERIOD, dtype=np.int64)
        pairs = rng.geometric(1 / (1 + self.mean_pairs), pulses.size) - 1
        some = pairs > 0
        t = np.repeat(pulses[some], pairs[some])
        t = t + rng.integers(-500, 501, t.size)
        triggers = np.arange(0, end, CYCLE, dtype=np.int64) + 40_001
        heralds = t[rng.random(t.size) < self.herald]
        out = self._through(t + self.to_memory_ps, triggers, rng)
        if self.storage_ps and self.noise:
            # from the recall on, for one echo time
            recall = 20_000_000 + self.storage_ps - 10_000_000
            n = rng.poisson(self.noise * 50, triggers.size)
            at = np.repeat(triggers + recall, n)
            out = np.append(out, at + rng.integers(0, 10_000_000, at.size))
        seen = out[rng.random(out.size) < self.signal] + self.behind_ps
        half = rng.random(seen.size) < 0.5
        streams = [heralds, seen[half], seen[~half], triggers]
        for i in range(3):
            dark = rng.integers(0, end, rng.poisson(self.dark_hz * seconds))
            streams[i] = _alive(np.sort(np.append(streams[i], dark)))
        times = np.concatenate([s + d for s, d in zip(streams, self.delays_ps, strict=True)])
        which = np.repeat(np.arange(1, 5, dtype=np.int16), [s.size for s in streams])
        order = np.argsort(times, kind="stable")
        times, which = times[order], which[order]
        keep = (times >= 0) & (times < end)
        return TagBatch(times[keep], which[keep], 0, end)

    def _through(self, t: Any, triggers: Any, rng: np.random.Generator) -> Any:
        cycle = np.searchsorted(triggers, t, side="right") - 1
        t, cycle = t[cycle >= 0], cycle[cycle >= 0]
        after = t - triggers[cycle]
        open_ = after >= 11_000_000
        chance = rng.random(t.size)
        if not self.storage_ps:
            return t[open_ & (chance < self.transparency)]
        leaks = open_ & (chance < self.leak)
        kept = open_ & ~leaks & (chance < self.leak + self.efficiency)
        stored = (after < 20_000_000) & (after > 10_000_000)
        delay = np.where(stored, self.storage_ps, 10_000_000)
        return np.concatenate([t[leaks], (t + delay)[kept]])


def _alive(times: Any) -> Any:
    """Without the clicks within 30 ns of the one before."""
    return times[np.diff(times, prepend=-(10**9)) > 30_000]


def layout(of: Bench) -> HeraldLayout:
    """The truth."""
    h, c, d, trigger = of.delays_ps
    prompt = of.to_memory_ps + of.behind_ps
    delays = {C: prompt + c - h, D: prompt + d - h, TRIGGER: of.to_memory_ps + trigger - h}
    return HeraldLayout(HERALD, C, D, TRIGGER, delays, 0.0, 1e3)


def counter(of: HeraldLayout, **wanted: Any) -> HeraldCounter:
    given: dict[str, Any] = {
        "window_ps": WINDOW,
        "mode_ps": PERIOD,
        "delays_ps": {"prompt": 0},
        "gate_ps": GATE,
        "beside_ps": (-2 * PERIOD, -PERIOD, PERIOD, 2 * PERIOD),
    }
    return HeraldCounter(of, **(given | wanted))


def count(of: Bench, seconds: float, seed: int, **wanted: Any) -> HeraldCounts:
    counting = counter(layout(of), **wanted)
    batch = of.record(seconds, seed)
    for at in range(100_000_000_000, batch.end_ps, 100_000_000_000):
        first, batch = batch.split(at)
        counting.add(first)
    counting.add(batch)
    return counting.finish()


def silent(mean: float, *efficiencies: float) -> float:
    """No click of a thermal pair source: partners lost together or apart."""
    return 1 / (1 + mean * (1 - math.prod(1 - e for e in efficiencies)))


def within(measured: Estimate, expected: float, sigmas: float = 3.0) -> None:
    assert measured.sigma > 0
    off = (measured.value - expected) / measured.sigma
    assert abs(off) < sigmas, f"{measured} is {off:+.1f} sigma from {expected:.6g}"


# -- the layout


@pytest.mark.parametrize(
    "bench",
    [
        Bench(),
        Bench(to_memory_ps=0, delays_ps=(90_000, 10_000, 5_000, 70_000)),
        Bench(to_memory_ps=333_000_000),  # 70 km of fibre: four cycles
        Bench(to_memory_ps=70_000_000),
        Bench(mean_pairs=0.01),
    ],
)
def test_the_layout_is_found_in_the_clicks(bench: Bench) -> None:
    found = find_layout(bench.record(1.0, 3), herald=1, c=2, d=3, trigger=4, info=INFO)
    truth = layout(bench)
    for channel in (C, D):
        assert abs(found.delays_ps[channel] - truth.delays_ps[channel]) < 100
    lag = (found.delays_ps[TRIGGER] - truth.delays_ps[TRIGGER] + CYCLE // 2) % CYCLE - CYCLE // 2
    assert abs(lag) <= found.sigma_ps + 1000


@pytest.mark.parametrize(
    ("bench", "drop", "words"),
    [
        (Bench(signal=0.0), 0, "no coincidence peak"),
        (Bench(), TRIGGER, "input 4 saw 0 triggers: is the sequencer running"),
        (Bench(mean_pairs=0.001), 0, "too few to find the memory's clock"),
    ],
)
def test_what_is_missing_is_said(bench: Bench, drop: int, words: str) -> None:
    batch = bench.record(0.3, 1)
    batch = batch.select([c for c in (1, 2, 3, 4) if c != drop])
    with pytest.raises(ProtocolError, match=words):
        find_layout(batch, herald=1, c=2, d=3, trigger=4, info=INFO)


def test_something_else_on_the_trigger() -> None:
    batch = Bench().record(0.3, 1)
    with pytest.raises(ProtocolError, match=r"come every 80 us.*cycle is 100 us"):
        find_layout(batch, herald=1, c=2, d=3, trigger=4, info=replace(INFO, cycle_s=100e-6))


def test_a_cycle_without_dark_part() -> None:
    class Missing(Bench):
        def _through(self, t: Any, triggers: Any, rng: np.random.Generator) -> Any:
            return t[rng.random(t.size) < self.transparency]

    with pytest.raises(ProtocolError, match="no part of the cycle of 80 us is dark"):
        find_layout(Missing().record(0.5, 1), herald=1, c=2, d=3, trigger=4, info=INFO)


# -- closed forms


def test_heralding_and_g2_of_the_reference() -> None:
    bench = Bench(mean_pairs=0.2)
    found = count(bench, 2.0, 11)
    assert found.cycles == pytest.approx(2.0 / 80e-6, abs=3)
    a, b, mean = bench.signal * bench.transparency, bench.herald, bench.mean_pairs
    window = 39 * found.cycles
    within(Estimate(found.heralds / window, math.sqrt(found.heralds) / window),
           1 - silent(mean, b) + 100 * 200e-9)  # fmt: skip
    both = 1 - silent(mean, a) - silent(mean, b) + silent(mean, a, b)
    given_h = both / (1 - silent(mean, b))
    within(found.gates["prompt"].probability, given_h)
    at_random = 1 - silent(mean, a)
    within(found.beside["prompt"].probability, at_random)
    within(heralding_efficiency(found, "prompt"), (given_h - at_random) / (1 - at_random))
    within(found.cross_g2("prompt"), given_h / at_random)

    def joint(x: float) -> float:  # of herald and a share x of the light
        return 1 - silent(mean, x) - silent(mean, b) + silent(mean, x, b)

    one, two = joint(a / 2), joint(a)
    cd = 2 * one - two
    exact = cd * (1 - silent(mean, b)) / one**2
    assert exact == pytest.approx(4 * mean, rel=0.5)  # K = 1, small mean
    within(found.gates["prompt"].g2, exact)


def test_klyshko_for_few_pairs_is_transmission_times_efficiency() -> None:
    bench = Bench(mean_pairs=0.005, dark_hz=2000.0)
    found = count(bench, 3.0, 12)
    dark = 2000 * 200e-9 / (found.heralds / (39 * found.cycles))
    eta = bench.signal * bench.transparency
    # half a per cent for pairs that come together
    within(heralding_efficiency(found, "prompt", dark_heralds=dark), eta * 1.005)
    assert dark > 0.15  # and it matters


def test_storage_echo_and_leak() -> None:
    storage = 30_000_000
    reference = count(Bench(), 2.0, 1)
    stored = count(
        Bench(storage_ps=storage, noise=5e-3),
        2.0,
        2,
        delays_ps={"leak": 0, "echo": 10_000_000, "recalled": storage},
        histogram_ps=(-1_000_000, 40_000_000, PERIOD),
    )
    for gate, share in (("leak", 0.1), ("echo", 0.0), ("recalled", 0.35)):
        measured = relative_efficiency(stored, gate, reference, "prompt")
        # 2 % of 0.05 pairs: saturation of the threshold detectors differs by efficiency
        within(measured, share / 0.95 * 1.01)
    assert stored.by_mode.shape == (39, 4)
    assert stored.by_mode[:, 0].sum() == stored.heralds
    assert stored.by_mode[:, 3].sum() == stored.gates["recalled"].clicked
    assert stored.by_mode[:, 3].min() > 0
    peaks = np.argsort(stored.histogram)[-2:]
    assert set(stored.histogram_ps[peaks]) == {0.0, storage}
    after = stored.gates["recalled"].g2
    assert after.value < 0.5  # still single photons


def test_noise_of_the_recall() -> None:
    storage = 30_000_000
    bench = Bench(mean_pairs=0.0, storage_ps=storage, noise=5e-3, dark_hz=300.0)
    slots = {"recalled": storage, "before": 0}
    found = count(bench, 3.0, 5, delays_ps=slots)
    within(noise_per_mode(found, "recalled", "before"), 5e-3 * bench.signal)
    within(noise_per_mode(found, "recalled"), 5e-3 * bench.signal + 2 * 300 * 200e-9)
    within(noise_per_mode(found, "before"), 2 * 300 * 200e-9)


def test_nothing_seen() -> None:
    found = counter(layout(Bench())).finish()
    assert found.heralds == found.cycles == 0
    assert math.isnan(found.gates["prompt"].probability.value)
    assert math.isnan(found.gates["prompt"].g2.value)
    assert math.isnan(found.cross_g2("prompt").value)
    assert math.isnan(noise_per_mode(found, "prompt").value)
    assert math.isnan(relative_efficiency(found, "prompt", found, "prompt").value)


def test_gate_counts() -> None:
    gate = GateCounts(1000, 100, 50, 5)
    assert gate.clicked == 145
    assert gate.probability.value == 0.145
    assert gate.g2.value == 1.0
    drawn = 2 * 5 / (100 * 50) - 1 / 100 - 1 / 50 - 1 / 1000  # both is part of c and d
    assert gate.g2.sigma == pytest.approx(math.sqrt(1 / 5 + drawn))
    none = GateCounts(1000, 100, 50, 0).g2
    assert none.value == 0.0
    assert none.sigma == pytest.approx(0.2)  # what one coincidence would make
    assert GateCounts(10, 0, 0, 0).probability.sigma > 0


# -- the stream

SMALL = HeraldLayout(HERALD, C, D, TRIGGER, {C: 7, D: -3, TRIGGER: 20}, 0.0, 1.0)
DELAYS = {"prompt": 0, "later": 150}


def small_counter() -> HeraldCounter:
    return HeraldCounter(
        SMALL,
        window_ps=(10, 40),
        mode_ps=10,
        delays_ps=DELAYS,
        gate_ps=8,
        beside_ps=(-30, 30),
        histogram_ps=(-40, 200, 15),
    )


def brute(batch: TagBatch) -> dict[str, Any]:
    """The same counted click by click, from the definitions."""
    shift = {HERALD: 0, **SMALL.delays_ps}
    lost = [(x.begin_ps, x.end_ps) for x in batch.losses]
    clicks: dict[int, list[int]] = {c: [] for c in shift}
    for t, c in zip(batch.times_ps.tolist(), batch.channels.tolist(), strict=True):
        if not any(b <= t < e for b, e in lost):
            clicks[c].append(t - shift[c])
    triggers = sorted(clicks[TRIGGER])
    watermark = batch.end_ps - max(shift.values())
    result: dict[str, Any] = {"cycles": 0, "heralds": 0}
    for name in DELAYS:
        result |= {name: [0, 0, 0, 0], f"{name} beside": [0, 0, 0, 0], f"{name} slot": 0}
    low, high = left_and_right()
    for i, start in enumerate(triggers):
        until = triggers[i + 1] if i + 1 < len(triggers) else math.inf
        first, last = start + 10 + low - 3, start + 40 + high + 20
        if start + 40 + high >= watermark or any(b <= last and first < e for b, e in lost):
            continue
        result["cycles"] += 1
        inside = [h for h in clicks[HERALD] if start + 10 <= h < min(start + 40, until)]
        result["heralds"] += len(inside)
        for name, delay in DELAYS.items():
            for s, key in ((0, name), (-30, f"{name} beside"), (30, f"{name} beside")):
                for h in inside:
                    hit = [any(abs(t - h - delay - s) <= 4 for t in clicks[k]) for k in (C, D)]
                    for k, yes in enumerate((True, *hit, all(hit))):
                        result[key][k] += yes
            for k in (C, D):
                for t in clicks[k]:
                    came = t - delay
                    result[f"{name} slot"] += start + 10 <= came < min(start + 40, until)
    return result


def left_and_right() -> tuple[int, int]:
    """Earliest and latest delay that anything is looked for at."""
    left = -45 - 7  # bins of 15 centred on 0
    right = left
    while right < 200:
        right += 15
    return left, right


def told(found: HeraldCounts) -> dict[str, Any]:
    result: dict[str, Any] = {"cycles": found.cycles, "heralds": found.heralds}
    for name in DELAYS:
        for key, gate in ((name, found.gates[name]), (f"{name} beside", found.beside[name])):
            result[key] = [gate.trials, gate.c, gate.d, gate.both]
        result[f"{name} slot"] = found.slots[name]
    return result


@st.composite
def streams(draw: st.DrawFn) -> tuple[TagBatch, list[int]]:
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    end = draw(st.integers(500, 5000))
    cycle = draw(st.sampled_from([60, 100, 350]))
    triggers = np.arange(rng.integers(0, 100), end, cycle)
    triggers = triggers[rng.random(triggers.size) < 0.9]
    n = draw(st.integers(0, 300))
    times = np.concatenate([triggers, rng.integers(0, end, n)]).astype(np.int64)
    which = np.concatenate([np.full(triggers.size, TRIGGER), rng.integers(1, 4, n)])
    order = np.argsort(times, kind="stable")
    begins = draw(st.lists(st.integers(0, end - 1), max_size=2))
    losses = tuple(Loss("gap", b, min(b + 70, end)) for b in sorted(begins))
    batch = TagBatch(times[order], which[order].astype(np.int16), 0, end, losses=losses)
    return batch, draw(st.lists(st.integers(0, end), max_size=6))


@settings(max_examples=150, deadline=None)
@given(streams())
def test_any_cut_of_the_stream_counts_the_same(drawn: tuple[TagBatch, list[int]]) -> None:
    whole, cuts = drawn
    expected = small_counter()
    expected.add(whole)
    one = expected.finish()
    assert told(one) == brute(whole)
    counting, rest = small_counter(), whole
    for at in sorted(cuts):
        first, rest = rest.split(at)
        counting.add(first)
    counting.add(rest)
    found = counting.finish()
    assert told(found) == told(one)
    assert np.array_equal(found.by_mode, one.by_mode)
    assert np.array_equal(found.histogram, one.histogram)
    assert found.live_s == pytest.approx(one.live_s)


def test_memory_is_bounded() -> None:
    bench = Bench(mean_pairs=0.3)
    batch = bench.record(0.5, 1)
    for drop in (0, TRIGGER):  # also where no trigger ever comes
        counting = counter(layout(bench), delays_ps={"late": 60_000_000})
        rest = batch.select([c for c in (1, 2, 3, 4) if c != drop])
        held = []
        for at in range(10_000_000_000, batch.end_ps, 10_000_000_000):
            first, rest = rest.split(at)
            counting.add(first)
            held.append(sum(w.size for w in counting._waiting))
        # some two cycles of 200 us at 1e6 clicks per second
        assert max(held) < 1000
    assert len(batch) > 400_000


def test_batches_come_in_order_and_not_after_the_end() -> None:
    first, rest = Bench().record(0.001, 1).split(300_000_000)
    second, third = rest.split(600_000_000)
    counting = small_counter()
    counting.add(first)
    with pytest.raises(ValueError, match="does not follow on the last"):
        counting.add(third)
    counting.add(second)
    assert told(counting.so_far()) == told(counting.finish())
    with pytest.raises(ValueError, match="HeraldCounter is finished: make a new one"):
        counting.add(third)


def test_settings_that_make_no_sense() -> None:
    of = layout(Bench())
    with pytest.raises(ValueError, match="gate is a whole number"):
        counter(of, gate_ps=10.5)
    with pytest.raises(ValueError, match=r"delays for channels \[77\]"):
        counter(replace(of, delays_ps={**of.delays_ps, 77: 5}))
    with pytest.raises(ValueError, match="is empty"):
        counter(of, window_ps=(5, 5))
    with pytest.raises(ValueError, match="no gate of"):
        counter(of, gate_ps=-1)
    with pytest.raises(ValueError, match="no bins"):
        counter(of, histogram_ps=(5, 5, 1))


# -- the fit


@pytest.mark.parametrize("decay", ["gaussian", "exponential"])
def test_the_fit_of_exact_points_is_exact(decay: Any) -> None:
    t = np.array([12e-6, 20e-6, 30e-6, 45e-6])
    x = (t - 10e-6) / 25e-6
    exact = 0.4 * np.exp(-(x ** (2 if decay == "gaussian" else 1)))
    fit = fit_decay(t.tolist(), [Estimate(v, 0.01) for v in exact], decay=decay, echo_s=10e-6)
    assert fit.efficiency.value == pytest.approx(0.4, rel=1e-6)
    assert fit.lifetime_s.value == pytest.approx(25e-6, rel=1e-6)
    assert fit.chi2 == pytest.approx(0, abs=1e-9)
    assert fit.degrees == 2
    assert np.allclose(fit(t), exact)


def test_its_errors_are_those_of_the_counting() -> None:
    rng = np.random.default_rng(1)
    t = np.array([12e-6, 20e-6, 30e-6, 45e-6])
    exact = 0.4 * np.exp(-(((t - 10e-6) / 25e-6) ** 2))
    pulls = []
    for _ in range(100):
        noisy = [Estimate(v, 0.01) for v in exact + 0.01 * rng.standard_normal(4)]
        fit = fit_decay(t.tolist(), noisy, decay="gaussian", echo_s=10e-6)
        pulls.append((fit.lifetime_s.value - 25e-6) / fit.lifetime_s.sigma)
    assert abs(np.mean(pulls)) < 3 / math.sqrt(100) + 0.1  # the fit is not linear
    assert np.std(pulls) == pytest.approx(1, abs=0.22)


def test_no_decay_no_lifetime() -> None:
    flat = [Estimate(0.4, 0.01), Estimate(0.41, 0.01), Estimate(0.4, 0.01)]
    with pytest.raises(ProtocolError, match=r"does not fall within 20 us.*store for longer"):
        fit_decay([12e-6, 20e-6, 32e-6], flat, decay="gaussian", echo_s=10e-6)
    with pytest.raises(ValueError, match="two storage times"):
        fit_decay([12e-6, 12e-6], flat[:2], decay="gaussian", echo_s=10e-6)
