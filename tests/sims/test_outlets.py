"""Detectors at the end of paths: what they make of light, whoever listened before."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import ConfigError
from bellbench.protocols import calibration
from bellbench.sims.elements import Light, SnspdArray, SnspdModel, SpadModel, TaggerInputs
from bellbench.sims.physics import snspd
from bellbench.sims.server import _Server
from bellbench.sims.world import BLOCK_PS, World, WorldModel
from pydantic import ValidationError

QUIET = {"efficiency": 1.0, "dark_rate": 0.0, "jitter": 0.0, "dead_time": 0.0}
EVERYTHING = {
    "dead_time": 20e-9,
    "jitter": 60e-12,
    "jitter_tail": 40e-12,
    "recovery_time": 10e-9,
    "pulse_height": 0.3,
    "rise_time": 300e-12,
    "afterpulse": 0.05,
    "afterpulse_time": 60e-9,
}


HALF = {"kind": "splitter", "transmission": 0.5}


class Bench:
    """Light straight onto detectors, counted and tagged."""

    def __init__(
        self,
        *detectors: dict[str, Any],
        kind: str = "snspd",
        rate: float = 1e6,
        between: dict[str, Any] | None = None,
        polarization: tuple[float, float, float] = (0, 0, 0),
        seed: int = 1,
        record: bool = True,
    ) -> None:
        optics = {} if between is None else {"optic": between}
        elements: dict[str, Any] = {
            "lamp": {"kind": "light", "rate": rate, "polarization": polarization},
            **optics,
            "array": {"kind": kind, "detectors": [QUIET | detector for detector in detectors]},
            "tagger": {"kind": "tagger"},
        }
        path = ["lamp.out", *optics, "array", "tagger"]
        model = WorldModel.model_validate({"elements": elements, "paths": [path]})
        self.world = World(model, seed)
        self.array: Any = self.world.elements["array"]
        lamp, tagger = self.world.elements["lamp"], self.world.elements["tagger"]
        assert isinstance(lamp, Light)
        assert isinstance(tagger, TaggerInputs)
        self.lamp, self.tagger = lamp, tagger
        tagger.recording = record
        if isinstance(self.array, SnspdArray):
            self.array.enabled, self.array.bias_a = True, [18e-6] * len(detectors)

    def run(self, blocks: int) -> tuple[Any, Any]:
        times, inputs = [], []
        for _ in range(blocks):
            self.world.run_block()
            times.append(self.tagger.times_ps)
            inputs.append(self.tagger.inputs)
        return np.concatenate(times), np.concatenate(inputs)

    def rates(self, blocks: int) -> list[float]:
        """Clicks of each detector, Hz."""
        self.run(1)  # what is on its way
        found = np.bincount(self.run(blocks)[1], minlength=len(self.array.detectors) + 1)[1:]
        return [float(n) for n in found / (blocks * BLOCK_PS * 1e-12)]


def within(sigmas: float, counted_hz: float, expected_hz: float, seconds: float) -> bool:
    return abs(counted_hz - expected_hz) < sigmas * math.sqrt(expected_hz / seconds)


# -- the pass as a whole, in a world


def test_clicks_are_the_same_whoever_listened_before_and_lie_in_their_block() -> None:
    always, late = (Bench(EVERYTHING, rate=2e7, record=record) for record in (True, False))
    expected = always.run(4)
    assert (np.diff(expected[0]) >= 0).all()
    late.run(2)
    late.tagger.recording = True
    for block in (2, 3):
        times, _ = late.run(1)
        begin, end = block * BLOCK_PS, (block + 1) * BLOCK_PS
        part = (expected[0] >= begin) & (expected[0] < end)
        assert times.tolist() == expected[0][part].tolist()
    assert Bench(EVERYTHING, rate=2e7, seed=2).run(1)[0].size != expected[0].size


@pytest.mark.parametrize("detector", [{"dead_time": 50e-9, "jitter": 60e-12}, EVERYTHING])
def test_weeks_from_the_beginning_clicks_are_what_they_were_at_first(
    detector: dict[str, Any],
) -> None:
    """The same draws, 40 hours (2^57 ps) and 70 days later: the same clicks, as much later."""

    def clicks(start: int) -> Any:
        bench = Bench(detector, detector, between=HALF)
        [outlet] = bench.world.outlets
        rng, begin, parts = np.random.default_rng(3), start * BLOCK_PS, []
        for _ in range(3):
            outlet.begin(begin)
            outlet.add(begin + rng.integers(0, BLOCK_PS, 50_000), rng.integers(0, 2, 50_000), rng)
            outlet.finish(outlet.take(), rng, begin, begin + BLOCK_PS)
            bench.tagger.end_block()
            times, inputs = bench.tagger.times_ps, bench.tagger.inputs
            assert begin <= times[0] <= times[-1] < begin + BLOCK_PS
            parts.append(np.stack([times - start * BLOCK_PS, inputs]))
            begin += BLOCK_PS
        return np.concatenate(parts, 1)

    first = clicks(0)
    assert first.shape[1] > 100_000
    for start in (2**57 // BLOCK_PS - 1, 70 * 86_400 * 100):
        assert (clicks(start) == first).all()


def test_a_world_runs_on_after_40_hours() -> None:
    for detector in ({"dead_time": 50e-9}, EVERYTHING):
        early, late = Bench(detector), Bench(detector)
        late.world.now_ps = (2**57 // BLOCK_PS - 2) * BLOCK_PS
        times, _ = late.run(4)
        assert (np.diff(times) >= 0).all()
        assert times[0] < 2**57 < times[-1]
        expected = early.run(4)[0].size
        assert abs(times.size - expected) < 5 * math.sqrt(2 * expected)


@pytest.mark.parametrize("dead_time", [1e-6, 1e-4])
def test_long_dead_times_do_not_tell_who_listened_before(dead_time: float) -> None:
    for kind in ("snspd", "spad"):
        always, late = (
            Bench({"dead_time": dead_time}, kind=kind, rate=2e4, record=record)
            for record in (True, False)
        )
        always.run(3), late.run(3)
        late.tagger.recording = True
        assert late.run(2)[0].tolist() == always.run(2)[0].tolist()


def test_both_ways_to_the_tagger_agree() -> None:
    """A tail too short to see asks for the long way: photons first, jitter last."""
    short, long = (Bench({"dead_time": 50e-9, "jitter_tail": t}, rate=1e7) for t in (0, 1e-15))
    expected = 1e7 / 1.5
    for bench in (short, long):
        assert within(4, bench.rates(20)[0], expected, 0.2)
        assert np.diff(bench.run(1)[0]).min() >= 50_000


def test_pairs_keep_their_correlation_through_jitter_with_a_tail() -> None:
    """Two detectors behind one crystal: the spread of their differences is that of both."""
    detector = QUIET | {"jitter": 100e-12, "jitter_tail": 80e-12, "recovery_time": 5e-9}
    elements: dict[str, Any] = {
        "pump": {"kind": "pump_laser", "threshold": 0.04, "slope": 0.5},
        "crystal": {"kind": "spdc", "pump": "pump", "pair_rate": 1e7},
        "array": {"kind": "snspd", "detectors": [detector] * 2},
        "tagger": {"kind": "tagger", "jitter": 50e-12},
    }
    paths = [
        [f"crystal.{p}", f"array.{n}", f"tagger.{n}"] for p, n in (("signal", 1), ("idler", 2))
    ]
    world = World(WorldModel.model_validate({"elements": elements, "paths": paths}), 1)
    pump, array, tagger = (world.elements[name] for name in ("pump", "array", "tagger"))
    assert isinstance(array, SnspdArray)
    assert isinstance(tagger, TaggerInputs)
    array.enabled, array.bias_a, tagger.recording = True, [18e-6] * 2, True
    pump.current_a, pump.emitting = 0.1, True  # type: ignore[attr-defined]
    for _ in range(5):
        world.run_block()
    times, inputs = tagger.times_ps, tagger.inputs
    first, second = times[inputs == 1], times[inputs == 2]
    at = np.clip(np.searchsorted(second, first), 1, second.size - 1)
    gaps = np.where(first - second[at - 1] < second[at] - first, second[at - 1], second[at]) - first
    paired = gaps[np.abs(gaps) < 1500]
    assert paired.size > 0.97 * first.size
    sigma = math.sqrt(2) * math.hypot(math.hypot(100, 50) / 2.3548, 80)
    assert paired.std() == pytest.approx(sigma, rel=4 / math.sqrt(paired.size) + 0.02)
    assert paired.mean() == pytest.approx(0, abs=4 * sigma / math.sqrt(paired.size) + 1)


def test_recovery_lowers_the_efficiency_with_the_rate() -> None:
    slow = {"recovery_time": 20e-9}
    shares = [
        Bench(slow, rate=rate).rates(n)[0] / rate for rate, n in ((1e5, 50), (1e7, 5), (3e7, 2))
    ]
    assert shares[0] > 0.98
    assert shares[1] < 0.9 * shares[0]
    assert shares[2] < 0.8 * shares[1]


def test_a_paced_world_is_served_with_its_kernels_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snspd, "_filtered", 0)
    bench = Bench({"dead_time": 50e-9})

    async def story() -> None:
        server = _Server(bench.world, [], host="127.0.0.1", factor=1.0)
        told = asyncio.Event()
        running = asyncio.create_task(server.run(lambda line: told.set(), port=0))
        await asyncio.wait_for(told.wait(), 60)
        server.stopping.set()
        await running

    asyncio.run(story())
    assert snspd._filtered >= snspd._LOAD_AFTER
    assert bench.run(1)[0].size > 9000


# -- polarization


def test_polarization_matters_where_no_analyzer_stands_before() -> None:
    wire = {"polarization_extinction": 4.0, "polarization_angle": 45.0}
    light: dict[str, tuple[float, float, float]] = {
        "best": (0, 1, 0),
        "worst": (0, -1, 0),
        "none": (0, 0, 0),
    }
    found = {name: Bench(wire, polarization=s).rates(10)[0] for name, s in light.items()}
    for name, expected in (("best", 1e6), ("worst", 0.25e6), ("none", 0.625e6)):
        assert within(4, found[name], expected, 0.1), name
    half = {"kind": "splitter", "transmission": 0.5}
    one, other = Bench(wire, {}, between=half, polarization=(0, -1, 0)).rates(10)
    assert within(4, one, 0.125e6, 0.1)
    assert within(4, other, 0.5e6, 0.1)
    behind = Bench(*[wire] * 4, between={"kind": "analyzer"}, polarization=(0, -1, 0)).rates(10)
    for got, expected in zip(behind, (0.25e6, 0.25e6, 0, 0.5e6), strict=True):
        assert abs(got - expected) < 4 * math.sqrt(max(expected, 10) / 0.1)


# -- bright light


def test_counts_saturate_and_then_vanish_in_light_that_blinds() -> None:
    """As many photons as a milliwatt has are never made."""
    bench = Bench({"dead_time": 100e-9, "blinding_rate": 1e8})
    bench.lamp.rate_hz = 5e7
    assert bench.rates(2)[0] == pytest.approx(5e7 / 6, rel=0.01)
    for blinding in (1.5e8, 1e16):
        bench.lamp.rate_hz = blinding
        assert bench.rates(1) == [0.0]
    bench.lamp.rate_hz = 1e6
    assert within(4, bench.rates(10)[0], 1e6 / 1.1, 0.1)


def test_light_of_two_sources_blinds_together() -> None:
    lamps = {f"lamp{n}": {"kind": "light", "rate": 0.6e7} for n in (1, 2)}
    elements = lamps | {
        "array": {"kind": "snspd", "detectors": [QUIET | {"blinding_rate": 1e7}]},
        "tagger": {"kind": "tagger"},
    }
    paths = [["lamp1.out+lamp2.out", "array", "tagger"]]
    world = World(WorldModel.model_validate({"elements": elements, "paths": paths}), 1)
    array, tagger = world.elements["array"], world.elements["tagger"]
    assert isinstance(array, SnspdArray)
    assert isinstance(tagger, TaggerInputs)
    array.enabled, array.bias_a, tagger.recording = True, [18e-6], True
    world.run_block()
    assert not tagger.times_ps.size
    lamp = world.elements["lamp1"]
    assert isinstance(lamp, Light)
    lamp.rate_hz = 0.3e7
    for _ in range(2):
        world.run_block()
    assert tagger.times_ps.size == pytest.approx(0.9e5, rel=0.02)


@pytest.mark.parametrize(("pairs_hz", "seen_hz"), [(1e9, 1e6), (1e15, 1e6), (1e15, 1e15)])
def test_pairs_that_blind_one_party_leave_the_other_its_singles(
    pairs_hz: float, seen_hz: float
) -> None:
    """Only photons that somebody can see are made, however bright the crystal."""
    weak = {"kind": "fibre", "loss": 10 * math.log10(pairs_hz / seen_hz)}
    elements: dict[str, Any] = {
        "pump": {"kind": "pump_laser", "threshold": 0.04, "slope": 0.5},
        "crystal": {"kind": "spdc", "pump": "pump", "pair_rate": pairs_hz / 0.03},
        "weak": weak,
        "array": {"kind": "snspd", "detectors": [QUIET] * 2},
        "tagger": {"kind": "tagger"},
    }
    paths = [
        ["crystal.signal", "array.1", "tagger.1"],
        ["crystal.idler", "weak", "array.2", "tagger.2"],
    ]
    world = World(WorldModel.model_validate({"elements": elements, "paths": paths}), 1)
    pump, array, tagger = (world.elements[name] for name in ("pump", "array", "tagger"))
    assert isinstance(array, SnspdArray)
    assert isinstance(tagger, TaggerInputs)
    array.enabled, array.bias_a, tagger.recording = True, [18e-6] * 2, True
    pump.current_a, pump.emitting = 0.1, True  # type: ignore[attr-defined]
    for _ in range(2):
        world.run_block()
    assert (tagger.inputs == 2).all()
    expected = 1e4 if seen_hz == 1e6 else 0
    assert abs(tagger.times_ps.size - expected) <= 5 * math.sqrt(expected)


@pytest.mark.parametrize("record", [True, False])
def test_a_detector_is_blind_when_the_light_arrives(record: bool) -> None:
    """6000 km of fibre, 29 ms: 10 ms of glare, seen by whoever began to listen on its way too."""
    fibre = {"kind": "fibre", "length": 6e6, "attenuation": 0.0}
    detector = {"dead_time": 10e-9, "dark_rate": 1e5, "blinding_rate": 1e8}
    bench = Bench(detector, between=fibre, record=record)
    flight = round(6e6 * 1.468 / 299_792_458 * 1e12)
    parts = []
    for block in range(8):
        bench.lamp.rate_hz = 1e16 if block == 2 else 1e6
        bench.tagger.recording = record or block >= 3
        parts.append(bench.run(1)[0])
    times = np.concatenate(parts)
    begin = 2 * BLOCK_PS + flight
    [first] = np.flatnonzero(np.diff(times) > BLOCK_PS / 2)
    assert times[first] == pytest.approx(begin, abs=1e8)
    assert times[first + 1] == pytest.approx(begin + BLOCK_PS, abs=1e8)


# -- latching


def test_a_wire_latches_above_its_switching_current_until_its_bias_has_been_low() -> None:
    bench = Bench({}, {}, between={"kind": "splitter", "transmission": 0.5})

    def counts(bias_a: float) -> bool:
        bench.array.bias_a[0] = bias_a
        first, second = bench.rates(2)
        assert second > 0.4e6
        return first > 0

    assert counts(18e-6)
    assert not counts(22e-6)
    assert not counts(18e-6)
    assert not counts(5e-6)  # above the retrapping current: 15 % of 22 uA
    bench.array.bias_a[0] = 0.0
    bench.run(1)
    assert counts(18e-6)


def test_a_wire_that_resets_faster_than_it_cools_latches_at_its_operating_bias() -> None:
    fast = {"recovery_time": 1e-9, "cooling_time": 0.5e-9}
    slow = fast | {"recovery_time": 5e-9}
    between = {"kind": "splitter", "transmission": 0.5}
    bench = Bench(fast, slow, between=between)
    latching = bench.array.detectors[0].latching_current
    assert latching == pytest.approx(0.15 * 22e-6 / (1 - math.exp(-0.5)))
    assert bench.rates(2)[0] == 0.0
    assert bench.rates(2)[1] > 0.4e6
    bench.array.bias_a[0] = 0.0
    bench.run(1)
    bench.array.bias_a[0] = 0.95 * latching
    assert bench.array.normal() == (False, False)


class _Knob:
    def __init__(self, get: Callable[[], Any], put: Callable[[Any], None]) -> None:
        self.get, self.set = get, put


class _Box:
    """The array as electronics show it, no wire between."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self.detectors = bench, len(bench.array.bias_a)
        self.count_rates: Any = ()
        self.enabled = _Knob(lambda: True, lambda on: None)
        self.bias_currents = [self._bias(i) for i in range(self.detectors)]

    def _bias(self, i: int) -> _Knob:
        array = self._bench.array

        def turn(amps: float) -> None:
            array.bias_a[i] = amps
            array.normal()  # wires follow at once, not at the next block

        return _Knob(lambda: array.bias_a[i], turn)

    def measure_rates(self) -> tuple[float, ...]:
        return tuple(self._bench.rates(4))


class _Clock:
    def now(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        pass


@pytest.mark.parametrize("form", ["erf", "logistic"])
def test_the_bias_scan_finds_its_point_on_a_wire_with_everything(form: str) -> None:
    """99 % of the plateau, and below the current at which it latches."""
    detector = EVERYTHING | {
        "pulse_height": 0.5,
        "efficiency": 0.8,
        "efficiency_form": form,
        "dark_rate": 1e3,
        "cooling_time": 1.8e-9,
    }
    bench = Bench(detector, rate=5e5)
    latching = bench.array.detectors[0].latching_current
    assert 18e-6 < latching < 21e-6
    source: Any = _Box(bench)

    def light(on: bool) -> None:
        bench.lamp.rate_hz = 5e5 if on else 0.0

    source.emission = _Knob(lambda: True, light)
    array: Any = _Box(bench)
    found = calibration.find_bias(
        array, source, _Clock(), integration_s=0.04, repeats=2, dark_repeats=2, settle_s=0.0
    )
    assert found.ok, found.reason
    scan = found.scans[0]
    assert latching - 0.75e-6 <= scan.switching_a < latching
    assert 0.6 * 22e-6 < scan.bias_a < latching
    assert bench.array.bias_a == [scan.bias_a]
    assert bench.array.normal() == (False,)
    light(True)
    assert bench.array.efficiencies()[0] > 0.95 * 0.8


# -- avalanche diodes


def test_a_diode_needs_no_box_and_counts_as_its_closed_form() -> None:
    for extending in (False, True):
        diode = {"dead_time": 200e-9, "extending_dead_time": extending, "efficiency": 0.5}
        bench = Bench(diode, kind="spad", rate=1e7)
        plain = 5e6 * (math.exp(-1.0) if extending else 0.5)
        assert within(4, bench.rates(10)[0], plain, 0.1)


def test_a_diode_dark_counts_and_afterpulses() -> None:
    diode = {"dark_rate": 2e4, "dead_time": 50e-9, "afterpulse": 0.2, "afterpulse_time": 100e-9}
    bench = Bench(diode, kind="spad", rate=0.0)
    first = 0.2 * math.exp(-0.5)
    expected = 2e4 / (1 - first) / (1 + 2e4 * 50e-9)
    assert bench.rates(100)[0] == pytest.approx(expected, abs=5 * math.sqrt(2 * expected))


# -- what is refused


@pytest.mark.parametrize(
    ("detector", "place", "words"),
    [
        ({"efficiency": 1.2}, "efficiency", "less than or equal to 1"),
        ({"dark_background": -0.1}, "dark_background", "greater than or equal to 0"),
        ({"polarization_extinction": 0.5}, "polarization_extinction", "greater than or equal to 1"),
        ({"recovery_time": 1e-3}, "recovery_time", "less than or equal to"),
        ({"dead_time": 1e-3}, "dead_time", "less than or equal to 0.0001"),
        ({"jitter": 2e-6}, "jitter", "less than or equal to 0.000001"),
        ({"blinding_rate": 0}, "blinding_rate", "greater than 0"),
        ({"operating_bias": 22e-6}, "", "operating_bias 22 uA must be below switching_current 22"),
        ({"cooling_time": 1e-9}, "", "needs a recovery_time, such as 10 ns"),
        ({"rise_time": 1e-10}, "", "needs a pulse_height and a recovery_time"),
        ({"afterpulse": 0.1, "afterpulse_time": 0}, "", "afterpulse_time, such as 50 ns"),
        ({"efficiency_form": "sigmoid"}, "efficiency_form", "'erf', 'logistic' or 'power'"),
    ],
)
def test_a_wire_that_cannot_be_is_refused_with_place_and_remedy(
    detector: dict[str, Any], place: str, words: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        SnspdModel.model_validate({"kind": "snspd", "detectors": [{}, detector]})
    [error] = caught.value.errors()
    assert error["loc"] == ("detectors", 1, *filter(None, [place]))
    assert words in error["msg"]


def test_a_diode_that_cannot_be_is_refused() -> None:
    limits: tuple[dict[str, Any], ...] = ({"dead_time": 1e-3}, {"jitter": 2e-6})
    for wrong in ({"bias": 1}, {"afterpulse": 0.9}, {"efficiency": -0.1}, *limits):
        with pytest.raises(ValidationError) as caught:
            SpadModel.model_validate({"kind": "spad", "detectors": [wrong]})
        assert caught.value.errors()[0]["loc"][:2] == ("detectors", 0)


def test_a_spad_is_told_by_its_name_where_a_layout_is_wrong() -> None:
    with pytest.raises(ConfigError, match="the path has 1 output, the spad 2"):
        Bench({}, {}, kind="spad")
