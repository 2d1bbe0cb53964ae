"""Pulsed sources in the world: interference at a station, a memory that obeys its sequencer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.sims.elements import (
    DelayGenerator,
    Fibre,
    Passage,
    PumpLaser,
    SnspdArray,
    Squeezers,
    TaggerInputs,
)
from bellbench.sims.world import BLOCK_PS, World, WorldModel, check_layout

PS_PER_M = 1.468 / 299_792_458 * 1e12
DETECTOR = {"efficiency": 0.8, "dark_rate": 0.0, "jitter": 60e-12, "dead_time": 30e-9}
PERFECT = {**DETECTOR, "efficiency": 1.0}
MEAN = 0.01  # pairs per pulse at 25 mW
SOURCE = {
    "kind": "spdc",
    "pump": "pump",
    "pair_rate": MEAN / 0.025 / 300e-12,
    "pulse_width": 300e-12,
}
Clicks = tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]


def station_layout(**station: Any) -> dict[str, Any]:
    """Two sources 10 m and 12 m from the station, each 5 m from its own analyzer."""
    elements: dict[str, Any] = {
        "pump": {"kind": "pump_laser"},
        "pulser": {"kind": "delay_generator"},
        "station": {"kind": "bell_station", **station},
        "mid_snspd": {"kind": "snspd", "detectors": [PERFECT] * 4},
        "mid": {"kind": "tagger"},
    }
    paths = [["station", "mid_snspd", "mid"]]
    for name, channel, length, side in (("west", "A", 10.0, "left"), ("east", "C", 12.0, "right")):
        elements |= {
            name: {**SOURCE, "trigger": f"pulser.{channel}"},
            f"{name}_link": {"kind": "fibre", "length": length},
            f"{name}_fibre": {"kind": "fibre", "length": 5.0},
            f"{name}_analyzer": {"kind": "analyzer"},
            f"{name}_snspd": {"kind": "snspd", "detectors": [PERFECT] * 4},
            f"{name}_tags": {"kind": "tagger"},
        }
        arm = (f"{name}_{part}" for part in ("fibre", "analyzer", "snspd", "tags"))
        paths += [[f"{name}.signal", *arm], [f"{name}.idler", f"{name}_link", f"station.{side}"]]
    return {"elements": elements, "paths": paths}


def memory_layout(**memory: Any) -> dict[str, Any]:
    """A heralded source, 20 m before the memory, and 4 m behind it a splitter."""
    return {
        "elements": {
            "pump": {"kind": "pump_laser"},
            "pulser": {"kind": "delay_generator"},
            "sequencer": {"kind": "delay_generator"},
            "west": {**SOURCE, "trigger": "pulser.A"},
            "before": {"kind": "fibre", "length": 20.0},
            "memory": {"kind": "memory", "sequencer": "sequencer", "noise": 0.0, **memory},
            "behind": {"kind": "fibre", "length": 4.0},
            "splitter": {"kind": "splitter"},
            "snspd": {"kind": "snspd", "detectors": [DETECTOR] * 3},
            "tags": {"kind": "tagger"},
        },
        "paths": [
            ["west.idler", "snspd.1", "tags.1"],
            ["west.signal", "before", "memory", "behind", "splitter", "snspd.2", "tags.2"],
            ["sequencer.T0", "tags.4"],
        ],
    }


class Bench:
    """A world with its pump on, its detectors biased, its taggers recording."""

    def __init__(self, layout: dict[str, Any], seed: int = 1, rate_hz: int = 5_000_000) -> None:
        self.world = World(WorldModel.model_validate(layout), seed)
        self.pump = self.get("pump", PumpLaser)
        self.pump.current_a, self.pump.emitting = 0.09, True
        pulser = self.get("pulser", DelayGenerator)
        pulser.source, pulser.rate_uhz = "internal", rate_hz * 10**6
        for element in self.world.elements.values():
            if isinstance(element, SnspdArray):
                element.enabled, element.bias_a = True, [18e-6] * len(element.model.detectors)
            if isinstance(element, TaggerInputs):
                element.recording = True

    def get(self, name: str, kind: type[Any]) -> Any:
        element = self.world.elements[name]
        assert isinstance(element, kind)
        return element

    def run(self, blocks: int, *taggers: str) -> dict[str, Clicks]:
        parts: dict[str, list[Clicks]] = {name: [] for name in taggers}
        for _ in range(blocks):
            begin = self.world.now_ps
            self.world.run_block()
            for name in taggers:
                tags = self.get(name, TaggerInputs)
                assert ((tags.times_ps >= begin) & (tags.times_ps < begin + BLOCK_PS)).all()
                assert (np.diff(tags.times_ps) >= 0).all()
                parts[name].append((tags.times_ps, tags.inputs))
        return {
            name: (np.concatenate([p[0] for p in part]), np.concatenate([p[1] for p in part]))
            for name, part in parts.items()
        }


def outcomes(reference: Clicks, at: npt.NDArray[np.int64], offset: float, window_ps: int) -> Any:
    """Input of the first click within half a window of each time, 0 where there is none."""
    times, inputs = reference
    first = np.searchsorted(times, at + (offset - window_ps / 2))
    close = np.append(times, 1 << 62)[first] <= at + (offset + window_ps / 2)
    return np.where(close, np.append(inputs, 0)[first], 0)


def four_folds(bench: Bench, blocks: int, window_ps: int = 3000) -> dict[str, Any]:
    """Counts [west outcome][east outcome], H V D A, by what the station showed."""
    clicks = bench.run(blocks, "mid", "west_tags", "east_tags")
    times, inputs = clicks["mid"]
    near = np.diff(times) < window_ps
    alone = near & ~np.append(False, near[:-1]) & ~np.append(near[1:], False)
    i = np.flatnonzero(alone)
    pair = np.sort(np.stack([inputs[i], inputs[i + 1]]), axis=0)
    west = outcomes(clicks["west_tags"], times[i], -5 * PS_PER_M, window_ps)
    east = outcomes(clicks["east_tags"], times[i], -7 * PS_PER_M, window_ps)
    found = {}
    shown = {"psi-": [(1, 4), (2, 3)], "psi+": [(1, 2), (3, 4)], "hom": [(1, 3), (2, 4)]}
    for name, patterns in shown.items():
        chosen = np.any([(pair[0] == a) & (pair[1] == b) for a, b in patterns], axis=0)
        table = np.zeros((5, 5), int)
        np.add.at(table, (west[chosen], east[chosen]), 1)
        found[name] = table
    return found


def at_the_dip(bench: Bench, late_ps: int = 0) -> None:
    bench.get("pulser", DelayGenerator).delays_ps[0] = round(2 * PS_PER_M) + late_ps


def correlation(block: Any) -> tuple[float, float]:
    n = block.sum()
    mean = (block[0, 0] + block[1, 1] - block[0, 1] - block[1, 0]) / n
    return mean, math.sqrt((1 - mean**2) / n)


def test_the_station_swaps_entanglement_and_tells_which_bell_state() -> None:
    """Signs: network.md 5; size V_w V_e M at low gain, less some mean pairs."""
    layout = station_layout(mode_overlap=0.8)
    for name in ("west", "east"):
        layout["elements"][name]["visibility"] = 0.95
    bench = Bench(layout, seed=2)
    bench.pump.current_a = 0.04 + 0.05 * 2
    at_the_dip(bench)
    found = four_folds(bench, 200)
    z, z_error = correlation(found["psi-"][1:3, 1:3] + found["psi+"][1:3, 1:3])
    x, x_error = correlation(found["psi+"][3:5, 3:5] + found["psi-"][3:5, :2:-1])
    mixed, error = correlation(found["psi-"][1:3, 3:5] + found["psi+"][1:3, 3:5])
    assert -z == pytest.approx(0.95**2, abs=3 * z_error + 2 * MEAN)
    assert x == pytest.approx(0.95**2 * 0.8, abs=3 * x_error + 2 * MEAN)
    assert abs(mixed) < 4 * error
    minus, _ = correlation(found["psi-"][3:5, 3:5])
    assert minus < -0.4


@pytest.mark.parametrize(("late_ps", "overlap"), [(0, 0.96), (150, None), (5_000, 0.0)])
def test_photons_bunch_as_far_as_they_overlap(late_ps: int, overlap: float | None) -> None:
    """Of heralded photons of equal polarization, (1 - M)/2 leave by both ports (physics.md 7)."""
    if overlap is None:
        sigma = 300 / (2 * math.sqrt(2 * math.log(2)))
        overlap = 0.96 * math.exp(-((late_ps / (2 * sigma)) ** 2))
    bench = Bench(station_layout(mode_overlap=0.96), seed=3)
    bench.pump.current_a = 0.04 + 0.05 * 2
    at_the_dip(bench, late_ps)
    found = four_folds(bench, 60, window_ps=12_000)
    equal = found["hom"][1, 1] + found["hom"][2, 2]
    # photons of opposite polarization are told apart: opposite ports in half of all cases
    other = found["psi-"][1:3, 1:3].sum() - np.trace(found["psi-"][1:3, 1:3])
    n = other / 0.5
    error = math.sqrt(equal + other * (1 - overlap) ** 2)
    assert n > 100
    assert equal == pytest.approx(n * (1 - overlap) / 2, abs=3 * error + 2 * MEAN * n)


def test_raising_the_pump_spoils_the_swapped_state() -> None:
    seen = []
    for power in (1, 12):
        bench = Bench(station_layout(), seed=5)
        bench.pump.current_a = 0.04 + 0.05 * power
        at_the_dip(bench)
        found = four_folds(bench, 60 if power == 1 else 6)
        seen.append(correlation(found["psi-"][1:3, 1:3]))
    (low, low_error), (high, high_error) = seen
    assert high - low > 3 * math.hypot(low_error, high_error)
    assert low < -0.9


US = 1_000_000


def sequence(bench: Bench, **edges_us: float) -> None:
    """25 us cycles of 40 us: comb burned for 8 us, transfer and recall where said."""
    sequencer = bench.get("sequencer", DelayGenerator)
    sequencer.source, sequencer.rate_uhz = "internal", 10**10  # 100 us
    delays = {"A": 0.0, "B": 20.0, "G": 21.0, "H": 21.0, **edges_us}
    for channel, delay in delays.items():
        sequencer.delays_ps["ABCDEFGH".index(channel)] = round(delay * US)


def delays_after_the_herald(clicks: Clicks) -> npt.NDArray[np.int64]:
    """Time from each herald to every click behind the splitter up to 70 us later."""
    times, inputs = clicks
    heralds, others = times[inputs == 1], times[(inputs == 2) | (inputs == 3)]
    low = np.searchsorted(others, heralds)
    high = np.searchsorted(others, heralds + 70 * US)
    found = [others[a:b] - h for h, a, b in zip(heralds, low, high, strict=True)]
    return np.concatenate(found)


def heralds_between(clicks: Clicks, first_us: float, last_us: float) -> Clicks:
    """Only heralds whose photon came to the memory so long after the sequencer's T0."""
    times, inputs = clicks
    starts = times[inputs == 4]
    at = times - starts[np.maximum(np.searchsorted(starts, times) - 1, 0)] + 20 * PS_PER_M
    keep = (inputs != 1) | ((at >= first_us * US) & (at < last_us * US))
    return times[keep], inputs[keep]


def peak(delays: npt.NDArray[np.int64], at_us: float) -> int:
    return int((np.abs(delays - (at_us * US + 24 * PS_PER_M)) < 2000).sum())


@pytest.mark.parametrize(
    ("edges_us", "passed", "at_us", "share"),
    [
        pytest.param({}, 0.3, 10, 0.5, id="no transfer: plain echo"),
        pytest.param({"C": 36, "D": 37, "E": 46, "F": 47}, 0.3, 10, 0.5, id="transfer too late"),
        pytest.param({"C": 33, "D": 34, "E": 53, "F": 54}, 0.3, 30, 0.5 / math.e, id="stored"),
        pytest.param({"C": 33, "D": 34}, 0.3, 10, 0.0, id="never recalled"),
        pytest.param({"C": 22, "D": 23, "E": 53, "F": 54}, 0.3, 10, 0.5, id="transfer too early"),
        pytest.param({"G": 0, "H": 5}, 0.9, 10, 0.0, id="pit"),
        pytest.param({"B": 0}, 0.0, 10, 0.0, id="nothing burned"),
    ],
)
def test_the_memory_does_what_its_sequencer_says(
    edges_us: dict[str, float], passed: float, at_us: float, share: float
) -> None:
    bench = Bench(
        memory_layout(
            echo_time=10e-6,
            efficiency=0.5,
            absorption=0.7,
            transparency=0.9,
            spin_coherence_time=20e-6,
            burn_time=1e-6,
            comb_lifetime=1.0,
        )
    )
    sequence(bench, **edges_us)
    # photons that come 24 to 32 us after T0, when the comb is ready and no transfer has come yet
    clicks = heralds_between(bench.run(50, "tags")["tags"], 24, 25.5 if "C" in edges_us else 32)
    heralds = int((clicks[1] == 1).sum())
    assert heralds > 250
    delays = delays_after_the_herald(clicks)
    loss = 0.8 * 10 ** (-0.2 * 24e-3 / 10)
    for at, expected in ((0, passed), (at_us, share)):
        mean = heralds * expected * loss
        # once in 1/MEAN heralds another pair, of this pulse or of one before, is seen as well
        assert peak(delays, at) == pytest.approx(
            mean, abs=3 * math.sqrt(mean) + MEAN * (4 * mean + 2 * heralds) + 3
        )


def test_a_comb_without_control_pulses_does_not_heed_them() -> None:
    bench = Bench(
        memory_layout(spin_wave=False, echo_time=10e-6, efficiency=0.5, burn_time=1e-6, noise=0.1)
    )
    sequence(bench, C=33, D=34, E=53, F=54)  # photons that a transfer would hold
    clicks = heralds_between(bench.run(20, "tags")["tags"], 24, 32)
    heralds = int((clicks[1] == 1).sum())
    mean = heralds * 0.5 * 0.8 * 10 ** (-0.2 * 24e-3 / 10)
    delays = delays_after_the_herald(clicks)
    assert peak(delays, 10) == pytest.approx(mean, abs=3 * math.sqrt(mean) + 4 * MEAN * mean)
    bench.pump.emitting = False  # no recall, no noise
    bench.run(1)
    assert set(bench.run(5, "tags")["tags"][1].tolist()) == {4}


GAS = {
    "kind": "gas_memory",
    "group_delay": 10e-6,
    "efficiency": 0.5,
    "absorption": 0.7,
    "transparency": 0.9,
    "spin_coherence_time": 20e-6,
    "decay": "exponential",
    "pump_time": 1e-6,
    "pumped_lifetime": 1.0,
}


@pytest.mark.parametrize(
    ("edges_us", "passed", "at_us", "share"),
    [
        pytest.param({"C": 23, "D": 60}, 0.3, 10, 0.5, id="control on: slow light"),
        pytest.param({"C": 23, "D": 33, "E": 53, "F": 64}, 0.3, 30, 0.5 / math.e, id="stored"),
        pytest.param({"G": 0, "H": 5, "C": 23, "D": 60}, 0.9, 10, 0.0, id="transparent"),
    ],
)
def test_stopped_light_does_what_its_sequencer_says(
    edges_us: dict[str, float], passed: float, at_us: float, share: float
) -> None:
    bench = Bench(memory_layout(**GAS))
    sequence(bench, **edges_us)
    clicks = heralds_between(bench.run(20, "tags")["tags"], 24, 31)
    heralds = int((clicks[1] == 1).sum())
    delays = delays_after_the_herald(clicks)
    loss = 0.8 * 10 ** (-0.2 * 24e-3 / 10)
    for at, expected in ((0, passed), (at_us, share)):
        mean = heralds * expected * loss
        assert peak(delays, at) == pytest.approx(
            mean, abs=3 * math.sqrt(mean) + MEAN * (4 * mean + 2 * heralds) + 3
        )


def test_reading_a_gas_adds_noise_while_it_lasts() -> None:
    bench = Bench(memory_layout(**GAS, noise=0.02, mode_duration=200e-9))
    bench.pump.emitting = False
    sequence(bench, C=23, D=33, E=53, F=66)
    times, inputs = bench.run(20, "tags")["tags"]
    starts, lights = times[inputs == 4], times[(inputs == 2) | (inputs == 3)]
    after = lights - starts[np.searchsorted(starts, lights) - 1] - 4 * PS_PER_M
    assert 53 * US <= after.min() < after.max() < 66 * US
    expected = starts.size * 0.02 * 65 * 0.8 * 10 ** (-0.2 * 4e-3 / 10)
    assert lights.size == pytest.approx(expected, abs=3 * math.sqrt(expected))


def test_a_narrow_memory_takes_a_share_of_a_short_pulse() -> None:
    """300 ps last as long as 1.47 GHz are wide."""
    narrow = {"efficiency": 0.7, "pumped_lifetime": 1.0, "bandwidth": 1e9}
    bench = Bench(memory_layout(**GAS | narrow))
    sequence(bench, C=23, D=60)
    clicks = heralds_between(bench.run(30, "tags")["tags"], 24, 32)
    share = 1 / math.hypot(1, 2 * math.log(2) / math.pi / 300e-12 / 1e9)
    mean = int((clicks[1] == 1).sum()) * 0.7 * share * 0.8 * 10 ** (-0.2 * 24e-3 / 10)
    found = peak(delays_after_the_herald(clicks), 10)
    assert found == pytest.approx(mean, abs=3 * math.sqrt(mean) + 4 * MEAN * mean)


def test_recalls_add_noise_where_the_echo_comes() -> None:
    bench = Bench(memory_layout(noise=0.02, mode_duration=200e-9, echo_time=10e-6))
    bench.pump.emitting = False
    sequence(bench, C=33, D=34, E=53, F=54)
    times, inputs = bench.run(50, "tags")["tags"]
    starts = times[inputs == 4]
    lights = times[(inputs == 2) | (inputs == 3)]
    after = lights - starts[np.searchsorted(starts, lights) - 1] - 4 * PS_PER_M
    assert 53 * US <= after.min() < after.max() < 63 * US
    expected = starts.size * 0.02 * 50 * 0.8 * 10 ** (-0.2 * 4e-3 / 10)
    assert lights.size == pytest.approx(expected, abs=3 * math.sqrt(expected))
    sequence(bench, C=33, D=34, E=53, F=53)  # a recall pulse of no length
    bench.run(1)
    assert set(bench.run(20, "tags")["tags"][1].tolist()) == {4}


def test_clicks_do_not_depend_on_when_somebody_begins_to_listen() -> None:
    early, late = Bench(memory_layout()), Bench(memory_layout())
    for bench in (early, late):
        sequence(bench, C=33, D=34, E=53, F=54)
    late.get("tags", TaggerInputs).recording = False
    late.run(3)
    late.get("tags", TaggerInputs).recording = True
    early.run(3)
    a, b = early.run(3, "tags")["tags"], late.run(3, "tags")["tags"]
    assert a[0].size > 1000
    np.testing.assert_array_equal(a[0][1:], b[0][1:])  # the first edge may have been on its way
    np.testing.assert_array_equal(a[1][1:], b[1][1:])


def test_the_first_block_holds_its_pulses_once() -> None:
    bench = Bench(station_layout())
    first = bench.run(1, "west_tags")["west_tags"][0].size
    rest = bench.run(9, "west_tags")["west_tags"][0].size / 9
    assert first == pytest.approx(rest, abs=4 * math.sqrt(rest))


def test_one_source_may_meet_itself() -> None:
    """Both photons of one pair at the station: |HH> + |VV> has no antisymmetric part."""
    layout = station_layout()
    elements = {n: e for n, e in layout["elements"].items() if not n.startswith("east")}
    for unused in ("fibre", "analyzer", "snspd", "tags"):
        del elements[f"west_{unused}"]
    elements["short"] = {"kind": "fibre", "length": 10.0}
    paths = [
        ["station", "mid_snspd", "mid"],
        ["west.signal", "short", "station.left"],
        ["west.idler", "west_link", "station.right"],
    ]
    bench = Bench({"elements": elements, "paths": paths})
    times, inputs = bench.run(20, "mid")["mid"]
    near = np.flatnonzero(np.diff(times) < 3000)
    opposite = sum(
        {int(inputs[i]), int(inputs[i + 1])} in ({1, 4}, {2, 3}, {1, 3}, {2, 4}) for i in near
    )
    assert near.size == 0 or opposite < 0.1 * (inputs.size / 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w["elements"]["west"].update(trigger="pulser"), "write for example 'pulser.A'"),
        (lambda w: w["elements"]["west"].update(trigger="puser.A"), "did you mean 'pulser'"),
        (lambda w: w["elements"]["west"].pop("pulse_width"), "needs a pulse_width"),
        (lambda w: w["elements"]["west"].pop("trigger"), "pulses need a trigger"),
        (lambda w: w["elements"]["west"].update(fluorescence=1.0), "continuous pump only"),
        (lambda w: w["elements"]["west"].update(schmidt_number=2.0), "the same schmidt_number"),
        (lambda w: w["paths"].pop(0), "the detectors of 'station' need a path"),
        (lambda w: w["elements"]["west_link"].update(dispersion=17e-6), "not modelled"),
        (lambda w: w["paths"][2].__setitem__(2, "station.middle"), "write station.left or"),
        (lambda w: w["paths"][2].__setitem__(2, "station.right"), "already in path"),
        (lambda w: w["paths"].pop(2), "no light comes to station.left"),
        (lambda w: w["paths"][0].insert(1, "west_link"), "follow it at once"),
    ],
)
def test_what_does_not_join_at_a_station_is_refused(change: Any, words: str) -> None:
    raw = station_layout()
    change(raw)
    issues = check_layout(WorldModel.model_validate(raw))
    assert any(words in message for _, message in issues), issues


STOPS = {"kind": "gas_memory", "sequencer": "sequencer"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w["elements"]["memory"].update(sequencer="pump"), "is a pump_laser"),
        (lambda w: w["elements"]["memory"].update(recall="AB"), "cannot do two things"),
        (lambda w: w["elements"]["memory"].update(efficiency=0.95), "exceeds absorption"),
        (lambda w: w["elements"]["memory"].update(spin_wave=False, pit="AB"), "two things"),
        (lambda w: w["elements"].update(memory=STOPS | {"read": "CD"}), "output CD cannot do two"),
        (lambda w: w["elements"].update(memory=STOPS | {"efficiency": 1.0}), "exceeds absorption"),
        (lambda w: w["elements"].update(memory=STOPS | {"sequencer": "pulsr"}), "'pulser'"),
        (lambda w: w["paths"][0].__setitem__(1, "snspd"), "name the first to use: 'snspd.1'"),
        (lambda w: w["paths"][1].__setitem__(5, "snspd.3"), "the snspd has only 3"),
        (lambda w: w["paths"][0].__setitem__(2, "tags.3"), "input 3 of 'tags' is already"),
        (lambda w: w["paths"][2].__setitem__(0, "sequencer.Q"), "names no channel"),
        (lambda w: w["paths"][2].append("splitter"), "and nowhere else"),
        (lambda w: w["paths"][1].insert(1, "memory"), "takes one memory"),
        (lambda w: w["paths"][1].__setitem__(1, "before.2"), "a fibre has no ports"),
    ],
)
def test_what_does_not_join_at_a_memory_is_refused(change: Any, words: str) -> None:
    raw = memory_layout()
    change(raw)
    issues = check_layout(WorldModel.model_validate(raw))
    assert any(words in message for _, message in issues), issues


def test_an_arm_that_becomes_longer_makes_pulses_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 us/s, as of a satellite: pulses of 200 ns come 200 ns and 4 ps apart."""
    layout = memory_layout()
    del layout["elements"]["memory"], layout["elements"]["sequencer"]
    del layout["elements"]["before"]
    layout["paths"] = layout["paths"][:2]
    layout["paths"][1][1:3] = []
    here = Passage(delay_s=1e-6, delay_rate=2e-5)
    monkeypatch.setattr(Fibre, "passage", lambda fibre: here)
    bench = Bench(layout)
    times = bench.run(1, "tags")["tags"][0]
    inputs = bench.get("tags", TaggerInputs).inputs
    for channels, slew in (((1,), 0.0), ((2, 3), 2e-5)):
        seen = times[np.isin(inputs, channels)]
        phase = (seen - seen[0]) / (1 + slew)
        off = phase - np.rint(phase / 200_000) * 200_000
        assert abs(np.polyfit(phase, off, 1)[0]) < 1e-7  # pulses of 300 ps, 10 ms


def test_a_satellite_before_a_station_is_refused() -> None:
    layout = station_layout()
    layout["elements"]["west_link"] = {"kind": "satellite_pass"}
    [(loc, message)] = check_layout(WorldModel.model_validate(layout))
    assert loc == ("elements", "west_link")
    assert "take a free_space" in message


@pytest.mark.parametrize("pulsed", [True, False])
def test_the_delay_is_that_of_the_emission(pulsed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A way that becomes longer by 20 us/s, 1 ms long: pulses and a continuous pump alike."""
    layout = memory_layout()
    for name in ("memory", "sequencer", "before"):
        del layout["elements"][name]
    layout["paths"] = [
        layout["paths"][0],
        ["west.signal", "behind", "splitter", "snspd.2", "tags.2"],
    ]
    if not pulsed:
        layout["elements"]["west"] = {"kind": "spdc", "pump": "pump", "pair_rate": 2e5 / 0.025}
    here = Passage(delay_s=1e-3, delay_rate=2e-5)
    monkeypatch.setattr(Fibre, "passage", lambda fibre: here)
    bench = Bench(layout)
    first = bench.world.now_ps + bench.world.outlets[0].longest_ps
    times, inputs = bench.run(1, "tags")["tags"]
    heralds, lights = times[inputs == 1], times[inputs > 1]
    expected = heralds + 1_000_000_000 + np.rint(2e-5 * (heralds - first)).astype(np.int64)
    low = np.searchsorted(lights, expected - 2000)
    found = np.append(lights, 1 << 62)[low] - expected
    found = found[found < 2000]
    assert found.size > 200
    assert abs(found.mean()) < 4 * found.std() / math.sqrt(found.size)


@pytest.mark.parametrize(
    ("loss_db", "west", "share"),
    [
        pytest.param(20.0, {}, (1 / 101, 1 / 101), id="little light from the left"),
        # H alone, of as many pairs: at the detectors of H twice the photons of the right, halved.
        pytest.param(10 * math.log10(2), {"imbalance": 0.0}, (1 / 2, 0.0), id="H from the left"),
    ],
)
def test_clicks_come_with_the_pulse_that_has_the_photons(
    loss_db: float, west: dict[str, float], share: tuple[float, float]
) -> None:
    layout = station_layout(extinction=100.0)
    layout["elements"]["west"] |= west
    layout["elements"]["west_link"] |= {"loss": loss_db, "attenuation": 0.0}
    layout["elements"]["east_link"]["attenuation"] = 0.0
    bench = Bench(layout, seed=4)
    late_ps = 900
    at_the_dip(bench, late_ps)
    times, inputs = bench.run(20, "mid")["mid"]
    patch = bench.world.outlets[0].longest_ps
    emitted = times - patch - round(12 * PS_PER_M)
    phase = (emitted + 100_000) % 200_000 - 100_000
    for polarization, expected in enumerate(share):
        seen = phase[inputs % 2 == 1 - polarization]
        late = int((seen > late_ps / 2).sum())
        assert late == pytest.approx(
            seen.size * expected, abs=4 * math.sqrt(seen.size * expected * (1 - expected)) + 2
        )
        assert seen.size > 2000


def test_light_added_on_the_way_to_a_station_is_counted() -> None:
    """A pump that is off; 1 MHz from the left, 3 dB of the fibre behind it, 70 % through."""
    layout = station_layout(reflectivity=0.3, loss=1.0)
    layout["elements"]["west_link"] |= {"attenuation": 0.0, "loss": 3.0}
    layout["elements"]["sky"] = {"kind": "free_space", "length": 1.0, "stray_light": 1e6}
    layout["paths"][2].insert(1, "sky")
    bench = Bench(layout)
    bench.pump.emitting = False
    inputs = bench.run(2, "mid")["mid"][1]
    for detector, share in enumerate((0.7, 0.7, 0.3, 0.3), start=1):
        expected = 2e4 * 10 ** (-4 / 10) / 2 * share
        found = int((inputs == detector).sum())
        assert found == pytest.approx(expected, abs=4 * math.sqrt(expected))


def test_squeezers_that_scramble_leave_no_correlation() -> None:
    """An arm with detectors of its own meets the mean of all that a sweep passes through."""
    layout = memory_layout()
    for name in ("memory", "sequencer", "before", "behind", "splitter"):
        del layout["elements"][name]
    layout["elements"] |= {
        "turn": {"kind": "squeezers", "hysteresis": 0.0, "creep": 0.0},
        "one": {"kind": "polarizing_splitter"},
        "two": {"kind": "polarizing_splitter"},
        "snspd": {"kind": "snspd", "detectors": [PERFECT] * 4},
    }
    layout["paths"] = [
        ["west.idler", "one", "snspd.1", "tags.1"],
        ["west.signal", "turn", "two", "snspd.3", "tags.3"],
    ]
    bench = Bench(layout)
    # Two squeezers at 45 degrees to each other; over whole turns of both nothing is left.
    turns = np.arange(8) / 8 * 2 * 1.4
    swept = np.array([[0.0, b, c, 0.0] for b in turns for c in turns])
    means = []
    for volts in (None, swept):
        bench.get("turn", Squeezers).sweep(volts)
        bench.run(1)
        times, inputs = bench.run(20, "tags")["tags"]
        near = np.flatnonzero((np.diff(times) < 2000) & ((inputs[1:] > 2) != (inputs[:-1] > 2)))
        alike = (inputs[near] - inputs[near + 1]) % 2 == 0
        assert near.size > 3000
        means.append((2 * alike.mean() - 1, 1 / math.sqrt(near.size)))
    (straight, error), (scrambled, _) = means
    assert straight > 1 - 4 * MEAN
    assert abs(scrambled) < 4 * error


@pytest.mark.parametrize("memory", [{"echo_time": 10e-6}, GAS])
def test_noise_that_blinds_makes_no_photons(memory: dict[str, Any]) -> None:
    """1e14 photons a second: terabytes, were they made; the herald's detector goes on."""
    bench = Bench(memory_layout(**{**memory, "noise": 100.0, "mode_duration": 1e-12}))
    sequence(bench, C=33, D=34, E=53, F=54)
    inputs = bench.run(3, "tags")["tags"][1]
    assert set(inputs.tolist()) == {1, 4}
