"""Weak coherent pulses in the world, against closed forms: BB84 with decoys, and MDI."""

from __future__ import annotations

import math
from typing import Any

import bellbench.sims.world
import numpy as np
import numpy.typing as npt
import pytest
from bellbench.sims.elements import Fibre, PulseSequencer, PumpLaser, SnspdArray, TaggerInputs
from bellbench.sims.elements.sequencer import Program, hold
from bellbench.sims.physics.coherent import click_patterns, station_means
from bellbench.sims.physics.pulses import meetings
from bellbench.sims.world import BLOCK_PS, World, WorldModel, check_layout
from hypothesis import given, settings
from hypothesis import strategies as st

DETECTOR = {"efficiency": 0.8, "dark_rate": 0.0, "jitter": 60e-12, "dead_time": 0.0}
LEVELS = (1.0, 0.2952, 0.0)
STATES = (0.0, 1.0, 0.5, -0.5)  # H V D A
MINUS = (0b1001, 0b0110)


def source(output: str, **extra: Any) -> dict[str, Any]:
    return {
        "kind": "weak_coherent",
        "trigger": output,
        "mean_photons": 0.5,
        "pulse_width": 200e-12,
        "intensity_extinction": 30.0,
        **extra,
    }


def bb84_layout(dead_time: float = 0.0, **extra: Any) -> dict[str, Any]:
    detector = {**DETECTOR, "dark_rate": 2000.0, "dead_time": dead_time}
    return {
        "elements": {
            "pulses": {"kind": "pulse_sequencer"},
            "alice": source("pulses.0", **extra),
            "fibre": {"kind": "fibre", "length": 10e3, "rotation": [0.0, 0.0, 10.0]},
            "analyzer": {"kind": "analyzer"},
            "snspd": {"kind": "snspd", "detectors": [detector] * 4},
            "tagger": {"kind": "tagger"},
        },
        "paths": [
            ["alice.out", "fibre", "analyzer", "snspd", "tagger"],
            ["pulses.7", "tagger.5"],
        ],
    }


def mdi_layout(length_a: float = 10.0, length_b: float = 12.0, **station: Any) -> dict[str, Any]:
    return {
        "elements": {
            "a_pulses": {"kind": "pulse_sequencer"},
            "b_pulses": {"kind": "pulse_sequencer"},
            "a": source("a_pulses.0"),
            "b": source("b_pulses.1", mean_photons=0.4),
            "a_fibre": {"kind": "fibre", "length": length_a, "loss": 3.0},
            "b_fibre": {"kind": "fibre", "length": length_b, "loss": 2.0},
            "station": {"kind": "bell_station", "extinction": 60.0, **station},
            "snspd": {"kind": "snspd", "detectors": [DETECTOR] * 4},
            "tagger": {"kind": "tagger"},
        },
        "paths": [
            ["a.out", "a_fibre", "station.left"],
            ["b.out", "b_fibre", "station.right"],
            ["station", "snspd", "tagger"],
        ],
    }


def pattern(
    which: npt.NDArray[np.int64],
    turned: npt.NDArray[np.int64],
    period_ns: int,
    output: int = 0,
    lead_ns: int = 8,
) -> Program:
    """Each pulse ``lead_ns`` after its levels change; output 7 rises with the first."""
    n = which.size
    durations = np.tile([lead_ns, 8, period_ns - 8 - lead_ns], n)
    digital = np.tile([0, 1 << output, 0], n)
    digital[1] |= 1 << 7
    analog = np.stack([np.array(LEVELS)[which], np.array(STATES)[turned]], 1)
    analog = np.rint(analog * 0x7FFF) / 0x7FFF
    return Program(
        durations.astype(np.int64),
        np.append(digital, 0).astype(np.uint8),
        np.concatenate([np.repeat(analog, 3, axis=0), np.zeros((1, 2))]),
    )


class Bench:
    """A world with its detectors biased and its tagger recording."""

    def __init__(self, layout: dict[str, Any], seed: int = 1) -> None:
        self.world = World(WorldModel.model_validate(layout), seed)
        for element in self.world.elements.values():
            if isinstance(element, SnspdArray):
                element.enabled, element.bias_a = True, [18e-6] * len(element.model.detectors)
        self.tags = self.get("tagger", TaggerInputs)
        self.tags.recording = True

    def get(self, name: str, kind: type[Any]) -> Any:
        element = self.world.elements[name]
        assert isinstance(element, kind)
        return element

    def play(self, name: str, program: Program) -> None:
        self.get(name, PulseSequencer).play(program, self.world.now_ps)

    def run(self, blocks: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]:
        times, inputs = [], []
        for _ in range(blocks):
            begin = self.world.now_ps
            self.world.run_block()
            assert ((self.tags.times_ps >= begin) & (self.tags.times_ps < begin + BLOCK_PS)).all()
            times.append(self.tags.times_ps)
            inputs.append(self.tags.inputs)
        return np.concatenate(times), np.concatenate(inputs)


def test_bb84_gains_and_errors_per_intensity_and_state() -> None:
    bench = Bench(bb84_layout(dead_time=50e-9))  # a pulse makes one click at a detector
    rng = np.random.default_rng(5)
    n, period_ns = 2000, 104
    which, turned = rng.integers(0, 3, n), rng.integers(0, 4, n)
    bench.play("pulses", pattern(which, turned, period_ns))
    blocks = 40
    times, inputs = bench.run(blocks)
    sync = times[inputs == 5]
    period_ps = period_ns * 1000
    assert (np.diff(sync) == n * period_ps).all()
    flight = round(10e3 * 1.468 / 299_792_458 * 1e12)
    clicks, at = inputs[inputs < 5], times[inputs < 5]
    # 1 ns of each pulse's period, around where the pulse comes
    slot, off = np.divmod(at - sync[0] - flight + 500, period_ps)
    near = (off < 1000) & (slot >= 0)
    detector, slot = clicks[near] - 1, slot[near] % n
    pulses = blocks * BLOCK_PS / period_ps / n * np.ones(n)
    pulses *= 1 - flight / (blocks * BLOCK_PS)
    eta = 10 ** (-0.2) * 0.8 / 2  # 10 km, detector, half of the light in each basis
    share = 0.001 + 0.999 * np.sin(np.pi / 2 * np.rint(np.array(LEVELS) * 0x7FFF) / 0x7FFF) ** 2
    dark = 2000 * 1e-9
    tilt = math.sin(math.radians(10 / 2)) ** 2
    for i in range(3):
        mu = 0.5 * float(share[i])
        for s in range(4):
            chosen = (which == i) & (turned == s)
            sent = pulses[chosen].sum()
            counts = np.bincount(detector[chosen[slot]], minlength=4) / sent
            for d in range(4):
                # A turn about S3: the state's angle on the Poincare sphere grows by 10 deg.
                angle = (0, 180, 90, -90)[d] - (0, 180, 90, -90)[s]
                seen = math.cos(math.radians(angle - 10) / 2) ** 2
                expected = 1 - (1 - dark) * math.exp(-eta * mu * seen)
                sigma = math.sqrt(expected * (1 - expected) / sent)
                assert abs(counts[d] - expected) < 4 * sigma, (i, s, d)
        for basis in ((0, 1), (2, 3)):
            right = wrong = sent = 0.0
            for bit, s in enumerate(basis):
                chosen = (which == i) & (turned == s)
                sent += pulses[chosen].sum()
                counts = np.bincount(detector[chosen[slot]], minlength=4)
                right += counts[basis[bit]]
                wrong += counts[basis[1 - bit]]
            gain = 1 - (1 - 2 * dark) * math.exp(-eta * mu)
            assert right + wrong == pytest.approx(sent * gain, abs=4 * math.sqrt(sent * gain))
            bad = dark + (1 - math.exp(-eta * mu)) * tilt
            assert wrong == pytest.approx(sent * bad, abs=4 * math.sqrt(sent * bad) + 1)


def clicks_of(layout: dict[str, Any], blinding: list[float], **source: Any) -> list[int]:
    """Clicks of each detector in 50 ms of equal pulses at 10 MHz."""
    for element in layout["elements"].values():
        if element["kind"] == "weak_coherent":
            element.update(source)
    detectors = layout["elements"]["snspd"]["detectors"]
    layout["elements"]["snspd"]["detectors"] = [
        {**d, "dark_rate": 0.0, "blinding_rate": hz}
        for d, hz in zip(detectors, blinding, strict=True)
    ]
    bench = Bench(layout)
    for name, element in bench.world.elements.items():
        if isinstance(element, PulseSequencer):
            program = pattern(np.zeros(4, int), np.full(4, 2), 100, int(name == "b_pulses"), 1)
            bench.play(name, program)
    bench.run(1)
    return [int(n) for n in np.bincount(bench.run(5)[1], minlength=6)[1:5]]


@pytest.mark.parametrize("layout", [bb84_layout, mdi_layout])
def test_pulses_that_blind_a_detector_make_no_photons_for_it(layout: Any) -> None:
    """1e11 photons a second are never made, and other detectors count what they did."""
    assert clicks_of(layout(), [1e7] * 4, mean_photons=1e4) == [0] * 4
    all_see = clicks_of(layout(), [3e8] * 4, mean_photons=0.1)
    bright = int(np.argmax(all_see))
    limits = [2e4 if n == bright else 3e8 for n in range(4)]
    found = clicks_of(layout(), limits, mean_photons=0.1)
    assert found[bright] == 0
    for n in range(4):
        if n != bright:
            assert abs(found[n] - all_see[n]) < 5 * math.sqrt(all_see[n] + found[n])
            assert found[n] > 30


def test_photons_go_with_the_laser_and_the_pattern_with_the_sequencer() -> None:
    layout = bb84_layout(laser="laser", power=5e-3)
    layout["elements"]["laser"] = {"kind": "pump_laser"}
    bench = Bench(layout)
    bench.get("snspd", SnspdArray).enabled = True
    laser = bench.get("laser", PumpLaser)
    both = pattern(np.zeros(1, np.int64), np.zeros(1, np.int64), 104)

    def clicks(blocks: int = 10) -> int:
        bench.run(1)
        _, inputs = bench.run(blocks)
        return int((inputs < 5).sum())

    dark = clicks()
    assert dark < 1200
    bench.play("pulses", both)
    assert clicks() < 1200  # the laser is off
    laser.current_a, laser.emitting = 0.05, True  # 5 mW
    once = clicks() - dark
    eta = 10 ** (-0.2) * 0.8
    expected = 0.1 / 104e-9 * 0.5 * eta
    assert once == pytest.approx(expected, rel=0.03)
    laser.current_a = 0.06
    assert clicks() - dark == pytest.approx(2 * once, rel=0.03)
    bench.play("pulses", hold())
    assert clicks() < 1200


def test_a_run_is_reproducible() -> None:
    found = []
    for listen_from in (0, 0, 3):
        bench = Bench(bb84_layout(), seed=9)
        bench.play("pulses", pattern(np.array([0, 1]), np.array([0, 2]), 1000))
        bench.tags.recording = listen_from == 0
        for n in range(6):
            bench.tags.recording = n >= listen_from
            bench.world.run_block()
        found.append((bench.tags.times_ps.copy(), bench.tags.inputs.copy()))
    assert all((a == b).all() for a, b in zip(found[0], found[1], strict=True))
    assert all((a == b).all() for a, b in zip(found[0], found[2], strict=True))


def fold(
    bench: Bench, blocks: int, period_ps: int, flight: int, shift: int = 0
) -> npt.NDArray[np.int64]:
    """Pattern of clicks of each slot; clicks further than 2 ns from their slot are counted, too."""
    times, inputs = bench.run(blocks)
    slot = (times - flight - shift + period_ps // 2) // period_ps
    masks = np.zeros(blocks * BLOCK_PS // period_ps, np.int64)
    inside = (slot >= 0) & (slot < masks.size)
    np.bitwise_or.at(masks, slot[inside], 1 << (inputs[inside].astype(np.int64) - 1))
    return masks


@pytest.mark.parametrize("overlap", [1.0, 0.7])
def test_mdi_gains(overlap: float) -> None:
    """Every pattern of the station, for each pair of intensities and states."""
    period_ns, blocks, n = 200, 20, 480
    bench = Bench(mdi_layout(mode_overlap=overlap), seed=3)
    rng = np.random.default_rng(8)
    ways = [rng.integers(0, k, n) for k in (2, 4, 2, 4)]
    # b is 2 m farther away: its light has to leave as much earlier.
    flight = [length * 1.468 / 299_792_458 * 1e12 for length in (10.0, 12.0)]
    late = round((flight[1] - flight[0]) / 1000)
    bench.play("a_pulses", pattern(ways[0], ways[1], period_ns, lead_ns=40 + late))
    bench.play("b_pulses", pattern(ways[2], ways[3], period_ns, output=1, lead_ns=40))
    gap = abs(flight[0] + late * 1000 - flight[1])
    assert gap < 500
    patch = 20_000
    masks = fold(bench, blocks, period_ns * 1000, round(flight[1]) + 40_000 + patch)
    turn = np.arange(masks.size) % n
    whole = slice(n, masks.size - n)
    sigma_t = 200 / math.sqrt(8 * math.log(2))
    together = overlap * math.exp(-((gap / 2 / sigma_t) ** 2))
    share = 0.001 + 0.999 * np.sin(np.pi / 2 * np.array(LEVELS)) ** 2
    angle = np.pi / 2 * np.array(STATES)
    jones = np.stack([np.cos(angle), np.sin(angle)], 1)
    pull = []
    for i in range(2):
        for j in range(2):
            for s in range(4):
                for t in range(4):
                    chosen = (ways[0] == i) & (ways[1] == s) & (ways[2] == j) & (ways[3] == t)
                    if not chosen.any():
                        continue
                    left = math.sqrt(0.5 * share[i] * 10**-0.3 * 10 ** (-2e-4)) * jones[s]
                    right = math.sqrt(0.4 * share[j] * 10**-0.2 * 10 ** (-2.4e-4)) * jones[t]
                    one, two, cross = station_means(
                        left, right, extinction_db=60.0, overlap=together
                    )
                    expected = click_patterns(0.8 * (one + two), 0.8 * cross)
                    mine = masks[whole][chosen[turn[whole]]]
                    counts = np.bincount(mine, minlength=16)
                    sigma = np.sqrt(mine.size * expected * (1 - expected))
                    likely = mine.size * expected > 5
                    pull.append(((counts - mine.size * expected) / np.maximum(sigma, 1))[likely])
    pulls = np.concatenate(pull)
    assert pulls.size > 300
    assert np.abs(pulls).max() < 4.5
    assert (pulls**2).mean() == pytest.approx(1.0, abs=4 * math.sqrt(2 / pulls.size))


def test_pulses_meet_across_blocks() -> None:
    """Light emitted in one block meets light emitted in the next where one way is longer."""
    far = 299_792_458 / 1.468 * 100e-6  # 100 us of fibre
    layout = mdi_layout(length_a=far, length_b=0.0)
    layout["elements"]["a_fibre"]["attenuation"] = 0.0
    bench = Bench(layout, seed=4)
    period_ns = 1000
    same = np.zeros(1, np.int64)
    for name, output in (("a_pulses", 0), ("b_pulses", 1)):
        bench.play(name, pattern(same, same, period_ns, output=output))
    bench.run(1)
    masks = fold(bench, 40, period_ns * 1000, 20_000 + 8000)[200:]
    left = math.sqrt(0.5 * 10**-0.3) * np.array([1, 0])
    right = math.sqrt(0.4 * 10**-0.2) * np.array([1, 0])
    one, two, cross = station_means(left, right, extinction_db=60.0)
    expected = float(click_patterns(0.8 * (one + two), 0.8 * cross)[0b0101])
    apart = float(click_patterns(0.8 * (one + two), 0 * cross)[0b0101])
    found = (masks == 0b0101).mean()
    sigma = math.sqrt(expected / masks.size)
    assert found == pytest.approx(expected, abs=4 * sigma)
    assert found < apart - 10 * sigma
    # all along, at the borders of blocks too
    borders = masks[np.arange(masks.size) % 10_000 < 200]
    assert (borders > 0).mean() == pytest.approx((masks > 0).mean(), abs=0.05)


def test_light_of_a_fibre_comes_through_the_station() -> None:
    layout = mdi_layout(reflectivity=0.3, loss=3.0)
    layout["elements"]["tap"] = {"kind": "eavesdropper", "light": 1e6}
    layout["paths"][0].insert(2, "tap")
    model = WorldModel.model_validate(layout)
    assert any("'tap'" in m or "a and a station" in m for _, m in check_layout(model))
    # Nothing else adds light of a known rate; here it is as unpolarized as any.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bellbench.sims.world, "check_layout", lambda model: [])
        bench = Bench(layout, seed=2)
    _, inputs = bench.run(50)
    counts = np.bincount(inputs - 1, minlength=4)
    expected = 0.5 * 1e6 * 10**-0.3 * 0.8 / 2 * np.array([0.7, 0.7, 0.3, 0.3])
    assert counts == pytest.approx(expected, abs=4 * math.sqrt(expected.max()))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 60), max_size=12),
    st.lists(st.integers(0, 60), max_size=12),
    st.integers(0, 5),
)
def test_who_meets_whom(left: list[int], right: list[int], window: int) -> None:
    a, b = np.sort(np.array(left, np.int64)), np.sort(np.array(right, np.int64))
    rows, times = meetings(a, b, window)
    both = (rows >= 0).all(0)
    found = dict(zip(*(row.tolist() for row in rows[:, both]), strict=True))
    for row, own, other in ((rows[0], a, times[0]), (rows[1], b, times[1])):
        assert sorted(row[row >= 0]) == list(range(own.size))  # each once, met or alone
        assert (own[row[row >= 0]] == other[row >= 0]).all()
    assert (times[0] == times[1])[~both].all()
    expected: dict[int, int] = {}
    for i, time in enumerate(a):
        close = np.flatnonzero(np.abs(b - time) <= window)
        if close.size and int(close[0]) not in expected.values():
            expected[i] = int(close[0])
    assert found == expected


def test_without_power_a_sequencer_plays_nothing() -> None:
    layout = bb84_layout()
    layout["events"] = [{"event": "power_cut", "at": 0.02, "to": "pulses", "lasting": 0.02}]
    bench = Bench(layout)
    bench.play("pulses", pattern(np.zeros(1, np.int64), np.zeros(1, np.int64), 104))
    bench.run(1)
    assert (bench.run(1)[1] < 5).sum() > 5000
    assert (bench.run(4)[1] < 5).sum() < 600  # and it does not go on by itself
    bench.play("pulses", pattern(np.zeros(1, np.int64), np.zeros(1, np.int64), 104))
    bench.run(1)
    assert (bench.run(1)[1] < 5).sum() > 5000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": {"trigger": "a_pulses.8"}}, "names no channel; write for example 'a_pulses.0'"),
        ({"a": {"trigger": "b_fibre.0"}}, "is a fibre, a pulse_sequencer is needed here"),
        ({"a": {"laser": "station", "power": 1e-3}}, "a pump_laser is needed here"),
        ({"b": {"pulse_width": 1e-9}}, "a and b interfere: they need the same pulse_width"),
        ({"b_fibre": {"dispersion": 17e-6}}, "not modelled between b and a station"),
        ({"b_fibre": {"pmd": 3e-15}}, "not modelled between b and a station"),
    ],
)
def test_what_cannot_be(change: dict[str, Any], words: str) -> None:
    layout = mdi_layout()
    for name, values in change.items():
        layout["elements"][name] |= values
    issues = check_layout(WorldModel.model_validate(layout))
    assert any(words in message for _, message in issues), issues


def test_a_crystal_and_a_laser_do_not_interfere_here() -> None:
    layout = mdi_layout()
    layout["elements"] |= {
        "pump": {"kind": "pump_laser"},
        "pulser": {"kind": "delay_generator"},
        "b": {
            "kind": "spdc",
            "pump": "pump",
            "trigger": "pulser.A",
            "pair_rate": 1e6,
            "pulse_width": 200e-12,
        },
        "own": {"kind": "snspd", "detectors": [DETECTOR]},
    }
    layout["paths"][1][0] = "b.signal"
    layout["paths"].append(["b.idler", "own"])
    issues = check_layout(WorldModel.model_validate(layout))
    assert any("a and b interfere: they need to be of one kind" in m for _, m in issues), issues


def test_models_that_contradict_themselves() -> None:
    for bad, words in (
        ({"laser": "laser"}, "laser and power belong together"),
        ({"state_output": 0}, "same analog output"),
    ):
        layout = bb84_layout(**bad)
        with pytest.raises(ValueError, match=words):
            WorldModel.model_validate(layout)


def test_dispersion_and_pmd_of_the_way() -> None:
    layout = bb84_layout(bandwidth=0.1e-9, pulse_width=20e-12)
    layout["elements"]["fibre"] |= {"dispersion": 17e-6, "pmd": 1e-18, "rotation": [0.0] * 3}
    for detector in layout["elements"]["snspd"]["detectors"]:
        detector |= {"jitter": 0.0, "dark_rate": 0.0}
    bench = Bench(layout, seed=6)
    bench.run(1)
    # Principal states H and V, so long apart that D and A lose most of their contrast.
    dgd, width = 15e-12, 2 * math.pi * 299_792_458 * 0.1e-9 / 1550e-9**2 / 2.3548
    bench.get("fibre", Fibre).pmd_s = np.array([dgd, 0.0, 0.0])
    turned = np.array([0, 2])
    bench.play("pulses", pattern(np.zeros(2, np.int64), turned, 1000))
    bench.run(1)
    times, inputs = bench.run(8)
    times, inputs = times[inputs < 5], inputs[inputs < 5]
    slot, off = np.divmod(times, 1_000_000)
    spread = 17e-6 * 10e3 * 0.1e-9 / 2.3548 * 1e12
    sigma = math.hypot(spread, 20 / 2.3548)
    assert np.std(off) == pytest.approx(sigma, rel=0.03)
    at_h = inputs <= 2
    bright = slot[inputs == 1] % 2
    even = np.bincount(bright).argmax()  # the pulses of H
    h = inputs[at_h & (slot % 2 == even)]
    assert (h == 2).mean() < 1e-3
    d = inputs[~at_h & (slot % 2 != even)]
    contrast = 1 - 2 * (d == 4).mean()
    kept = math.exp(-((width * dgd) ** 2) / 2)
    assert contrast == pytest.approx(kept, abs=4 / math.sqrt(d.size))
    assert 0.1 < kept < 0.9
