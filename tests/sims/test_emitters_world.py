"""Emitters in a world: heralds at a station and read-outs, against the closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.sims.elements import DelayGenerator, SnspdArray, TaggerInputs
from bellbench.sims.physics import emission, states
from bellbench.sims.physics.emitter import Emitter, Station, one_click
from bellbench.sims.world import BLOCK_PS, World, WorldModel, check_layout

Ints = npt.NDArray[np.int64]

DETECTOR = {
    "efficiency": 1.0,
    "dark_rate": 0.0,
    "operating_bias": 18e-6,
    "switching_current": 22e-6,
    "jitter": 0.0,
    "dead_time": 1e-9,
}
NODE = {
    "kind": "emitter",
    "alpha": 0.1,
    "efficiency": 0.1,
    "lifetime": 12e-9,
    "fluorescence": 30e6,
    "background": 0.0,
}


def emitters(node: dict[str, Any] | None = None, **station: Any) -> dict[str, Any]:
    """Two equal nodes, each with its sequencer, and a station between them."""
    both = NODE | (node or {})
    return {
        "elements": {
            "alice_timing": {"kind": "delay_generator"},
            "bob_timing": {"kind": "delay_generator"},
            "alice": both | {"sequencer": "alice_timing"},
            "bob": both | {"sequencer": "bob_timing"},
            "station": {"kind": "bell_station", "extinction": 200.0, **station},
            "seen": {"kind": "snspd", "detectors": [DETECTOR] * 4},
            "read": {"kind": "snspd", "detectors": [DETECTOR] * 2},
            "tagger": {"kind": "tagger", "jitter": 0.0},
        },
        "paths": [
            ["alice.out", "station.left"],
            ["bob.out", "station.right"],
            ["station", "seen", "tagger.1"],
            ["alice.readout", "read.1", "tagger.5"],
            ["bob.readout", "read.2", "tagger.6"],
        ],
    }


@dataclass
class Cycle:
    """What a sequencer does, ns."""

    excite: int = 100
    read: int = 1100
    window: int = 500
    pulse: str = ""
    at: int = 1000
    period: int = 2000

    def delays_ps(self) -> list[int]:
        delays = [self.excite, self.excite + 20, 0, 0, 0, 0, self.read, self.read + self.window]
        for axis, first in (("x", 2), ("y", 4)):
            if axis in self.pulse:
                delays[first : first + 2] = [self.at, self.at + 50]
        return [1000 * delay for delay in delays]


class Bench:
    """A world with its detectors biased, its tagger recording and its sequencers running."""

    def __init__(self, layout: dict[str, Any], seed: int = 1) -> None:
        model = WorldModel.model_validate(layout)
        assert check_layout(model) == []
        self.world = World(model, seed)
        for element in self.world.elements.values():
            if isinstance(element, SnspdArray):
                element.enabled, element.bias_a = True, [18e-6] * len(element.model.detectors)
                element.normal()
        tags = self.world.elements["tagger"]
        assert isinstance(tags, TaggerInputs)
        self.tags = tags
        tags.recording = True

    def run(self, name: str, cycle: Cycle) -> None:
        """Give a sequencer its cycle: bursts that begin with blocks, so that all keep step."""
        generator = self.world.elements[name]
        assert isinstance(generator, DelayGenerator)
        generator.delays_ps = cycle.delays_ps()
        generator.burst, generator.burst_period_ps = True, cycle.period * 1000
        generator.burst_count = BLOCK_PS // (cycle.period * 1000) - 1
        generator.source, generator.rate_uhz = "internal", 100 * 10**6

    def clicks(self, blocks: int) -> list[Ints]:
        """Times at each input from 1, with all cables equal, ps."""
        times, inputs = [], []
        for _ in range(blocks):
            begin = self.world.now_ps
            self.world.run_block()
            assert ((self.tags.times_ps >= begin) & (self.tags.times_ps < begin + BLOCK_PS)).all()
            times.append(self.tags.times_ps)
            inputs.append(self.tags.inputs)
        time, at = np.concatenate(times), np.concatenate(inputs)
        return [np.sort(time[at == n]) for n in range(1, 7)]


def shots(clicks: list[Ints], station: int, ends: tuple[int, int], period_ps: int) -> Ints:
    """Clicks per cycle: of the station's four detectors in one, and of both ends' read-outs.

    Args:
        clicks: Of each input.
        station: When the first photon can come, ps after a cycle's beginning.
        ends: When either read-out begins.
        period_ps: Of a cycle; bursts begin with blocks.
    """
    per_block = BLOCK_PS // period_ps
    blocks = 1 + max(int(c[-1]) // BLOCK_PS for c in clicks if c.size)
    found = np.zeros((6, blocks * per_block), np.int64)
    for row, (times, begin) in enumerate(zip(clicks, [station] * 4 + [*ends], strict=True)):
        block, within = np.divmod(times - begin + 1000, BLOCK_PS)
        cycle = within // period_ps
        fits = (cycle < per_block) & (times >= begin)
        np.add.at(found[row], (block * per_block + cycle)[fits], 1)
    return found


def correlations(
    bench: Bench, blocks: int, alice: Cycle, bob: Cycle
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Run both, and return clicks at the station and outcomes of both spins by cycle."""
    bench.run("alice_timing", alice)
    bench.run("bob_timing", bob)
    clicks = bench.clicks(blocks)
    patch = bench.world.outlets[0].longest_ps
    found = shots(
        clicks,
        patch + 1000 * alice.excite,
        (patch + 1000 * alice.read, patch + 1000 * bob.read),
        1000 * alice.period,
    )
    return found[:4], np.where(found[4:] > 0, -1.0, 1.0)


@pytest.mark.parametrize("axis", ["", "x", "y"])
def test_one_click_heralds_the_state_of_the_closed_form(axis: str) -> None:
    alpha, eta, overlap, noise = 0.3, 0.2, 0.9, math.radians(20)
    layout = emitters(
        {"alpha": alpha, "efficiency": eta, "phase_noise": math.degrees(noise) / math.sqrt(2)},
        mode_overlap=overlap,
    )
    cycle = Cycle(pulse=axis, window=800)
    blocks = 16
    seen, spins = correlations(Bench(layout, 5), blocks, cycle, cycle)
    node = Emitter(alpha, eta)
    expected = one_click(node, node, Station(overlap, 0.0, 0.0, noise))
    lit = seen[[0, 2]] > 0
    attempts = blocks * (BLOCK_PS // 2_000_000 - 1)
    for which, heralds in enumerate((lit[0] & ~lit[1], lit[1] & ~lit[0])):
        p = float(expected.probability[which])
        count = int(heralds.sum())
        assert count == pytest.approx(attempts * p, abs=4 * math.sqrt(attempts * p))
        mean = float((spins[0] * spins[1])[heralds].mean())
        i = "xyz".index(axis or "z")
        of_state = float(states.correlations(expected.states[which])[i, i])
        assert mean == pytest.approx(of_state, abs=4 / math.sqrt(count))
    # Without a herald the spins are what they are: nothing is entangled.
    silent = ~lit.any(0)
    if axis:
        assert abs(float((spins[0] * spins[1])[silent].mean())) < 5 / math.sqrt(silent.sum())


def test_phase_diffusion_in_a_world_leaves_one_photon_m_of_its_coherence() -> None:
    """g T1 = 0.5: the photons overlap by 0.5, and so do the spins that one click heralds."""
    alpha, eta, lifetime = 0.3, 0.4, 12e-9
    linewidth = (1 / (2 * lifetime) + 0.5 / lifetime) / math.pi
    layout = emitters({"alpha": alpha, "efficiency": eta, "linewidth": linewidth})
    cycle = Cycle(pulse="x", window=800)
    seen, spins = correlations(Bench(layout, 6), 16, cycle, cycle)
    lit = seen[[0, 2]] > 0
    node = Emitter(alpha, eta)
    phase = math.sqrt(math.log(2))  # e^(-s^2/2) = sqrt(0.5)
    state = one_click(node, node, Station(0.5, 0.0, 0.0, phase)).states
    for which, heralds in enumerate((lit[0] & ~lit[1], lit[1] & ~lit[0])):
        expected = float(states.correlations(state[which])[0, 0])
        mean = float((spins[0] * spins[1])[heralds].mean())
        sigma = 1 / math.sqrt(heralds.sum())
        assert mean == pytest.approx(expected, abs=4 * sigma)
        assert abs(mean - expected * math.sqrt(2)) > 4 * sigma  # sqrt(M) would be more


@pytest.mark.parametrize("encoding", ["number", "polarization"])
def test_clicks_come_with_the_photons_of_either_node(encoding: str) -> None:
    """10 dB on the left way, whose photons are late: 9.1 % of them, or as alpha says."""
    alpha, late_ns = 0.2, 60
    layout = emitters({"alpha": alpha, "efficiency": 0.1, "encoding": encoding, "lifetime": 8e-9})
    layout["elements"]["fibre"] = {"kind": "fibre", "length": 0.1, "loss": 10.0}
    layout["elements"]["bob"]["alpha"] = 0.6
    layout["paths"][0] = ["alice.out", "fibre", "station.left"]
    bench = Bench(layout, 7)
    bench.run("alice_timing", Cycle(excite=100 + late_ns, window=800))
    bench.run("bob_timing", Cycle(window=800))
    clicks = bench.clicks(20)
    first = bench.world.outlets[0].longest_ps + 100_000
    bright = 0.1 * alpha, 0.6
    dark = 0.1 * (1 - alpha), 0.4
    for detector, (left, right) in enumerate([bright if encoding == "number" else dark, bright]):
        times = np.concatenate([clicks[detector], clicks[detector + 2]])
        if not times.size:
            assert (encoding, detector) == ("number", 1)
            continue
        since = (times - first) % BLOCK_PS % 2_000_000
        # What of the early ones decays late.
        early = 1 - math.exp(-late_ns / 8)
        expected = 1 - early * right / (left + right)
        late = int((since > 1000 * late_ns).sum())
        sigma = math.sqrt(times.size * expected * (1 - expected))
        assert late == pytest.approx(times.size * expected, abs=4 * sigma)


@pytest.mark.parametrize("side", ["left", "right"])
def test_light_added_on_the_way_to_a_station_is_counted(side: str) -> None:
    """1 MHz at one input, 2 dB behind it and 1 dB in the station, and no photon of the nodes."""
    layout = emitters({"efficiency": 0.0}, reflectivity=0.3, loss=1.0)
    layout["elements"]["sky"] = {"kind": "free_space", "length": 1.0, "stray_light": 1e6}
    layout["elements"]["fibre"] = {"kind": "fibre", "length": 1.0, "attenuation": 0.0, "loss": 2.0}
    path = layout["paths"][0 if side == "left" else 1]
    path[1:1] = ["sky", "fibre"]
    clicks = Bench(layout).clicks(2)
    for detector, share in enumerate((0.7, 0.7, 0.3, 0.3)):
        share = share if side == "left" else 1 - share
        expected = 2e4 * 10 ** (-3 / 10) / 2 * share
        assert clicks[detector].size == pytest.approx(expected, abs=4 * math.sqrt(expected))


def test_polarization_heralds_both_psi_states() -> None:
    eta, overlap = 0.5, 0.92
    layout = emitters(
        {"encoding": "polarization", "alpha": 0.5, "efficiency": eta}, mode_overlap=overlap
    )
    found = {}
    blocks = 10
    for axis in ("", "x", "y"):
        cycle = Cycle(pulse=axis, window=800)
        seen, spins = correlations(Bench(layout, 7), blocks, cycle, cycle)
        lit = seen > 0
        plus = (lit[0] & lit[1] & ~lit[2] & ~lit[3]) | (lit[2] & lit[3] & ~lit[0] & ~lit[1])
        minus = (lit[0] & lit[3] & ~lit[1] & ~lit[2]) | (lit[1] & lit[2] & ~lit[0] & ~lit[3])
        attempts = blocks * (BLOCK_PS // 2_000_000 - 1)
        for sign, heralds in (("+", plus), ("-", minus)):
            expected = attempts * eta**2 / 4
            assert int(heralds.sum()) == pytest.approx(expected, abs=4 * math.sqrt(expected))
            found[sign, axis or "z"] = float((spins[0] * spins[1])[heralds].mean())
    sigma = 1 / math.sqrt(attempts * eta**2 / 4)
    for sign in "+-":
        value = 1 if sign == "+" else -1
        assert found[sign, "z"] == -1
        assert found[sign, "x"] == pytest.approx(value * overlap, abs=4 * sigma)
        assert found[sign, "y"] == pytest.approx(value * overlap, abs=4 * sigma)


def test_the_state_decays_while_it_is_stored() -> None:
    alpha, eta, time = 0.05, 1.0, 2e-6
    layout = emitters({"alpha": alpha, "efficiency": eta, "coherence_time": time})
    for stored in (0.3, 2.0):
        turn = round(100 + 1000 * stored)
        cycle = Cycle(pulse="x", at=turn, read=turn + 50, window=800, period=4000)
        seen, spins = correlations(Bench(layout, 3), 40, cycle, cycle)
        expected = one_click(Emitter(alpha, eta), Emitter(alpha, eta), Station())
        lit = seen[0] > 0
        heralds = lit & ~(seen[2] > 0)
        whole = float(states.correlations(expected.states[0])[0, 0])
        mean = float((spins[0] * spins[1])[heralds].mean())
        kept = whole * math.exp(-2 * stored * 1e-6 / time)
        assert mean == pytest.approx(kept, abs=4 / math.sqrt(heralds.sum()))


def test_nodes_out_of_step_show_single_photons_and_no_correlation() -> None:
    alpha, eta = 0.4, 0.8
    layout = emitters({"alpha": alpha, "efficiency": eta})
    bench, blocks = Bench(layout, 2), 8
    seen, spins = correlations(bench, blocks, Cycle(window=800), Cycle(excite=500, window=800))
    attempts = blocks * (BLOCK_PS // 2_000_000 - 1)
    # Of either node's photon: alone it clicks with eta, at either port.
    for detector in (0, 2):
        mean = attempts * alpha * eta / 2 * 2
        both = attempts * (alpha * eta / 2) ** 2  # two photons in one cycle
        clicks = seen[detector].sum()
        assert clicks == pytest.approx(mean, abs=4 * math.sqrt(mean + both))
    bright = spins < 0
    for spin in bright:
        sigma = math.sqrt(alpha * (1 - alpha) / attempts)
        assert spin.sum() / attempts == pytest.approx(alpha, abs=4 * sigma)
    joint = (bright[0] & bright[1]).sum() / attempts
    assert joint == pytest.approx(alpha**2, abs=4 * math.sqrt(alpha**2 / attempts))


def alone(node: dict[str, Any], *optics: str, **more: Any) -> dict[str, Any]:
    """One node on detectors of its own."""
    whole = emitters(node)
    elements = {name: whole["elements"][name] for name in ("alice_timing", "alice", "tagger")}
    elements |= {"seen": {"kind": "snspd", "detectors": [DETECTOR] * (4 if optics else 1)}}
    elements |= {"read": {"kind": "snspd", "detectors": [DETECTOR]}, **more}
    paths = [["alice.out", *optics, "seen", "tagger.1"], ["alice.readout", "read", "tagger.5"]]
    return {"elements": elements, "paths": paths}


def test_one_node_steers_its_spin_by_the_photon_seen() -> None:
    analyzer = {"kind": "analyzer", "z_fraction": 0.5, "extinction": 200.0}
    layout = alone(
        {"encoding": "polarization", "alpha": 0.5, "efficiency": 0.6},
        "analyzer",
        analyzer=analyzer,
    )
    for axis in ("z", "x"):
        bench = Bench(layout, 4)
        cycle = Cycle(pulse=axis, window=800)
        bench.run("alice_timing", cycle)
        clicks, patch = bench.clicks(5), bench.world.outlets[0].longest_ps
        found = shots(clicks, patch + 100_000, (patch + 1_100_000,) * 2, 2_000_000)
        spin = np.where(found[4] > 0, -1.0, 1.0)
        assert found[:4].sum() == pytest.approx(0.6 * 5 * 4999, abs=4 * 80)
        # H goes with |0>, V with |1>; D with |+>, A with |->.
        for detector, expected in enumerate((1, -1, 0, 0) if axis == "z" else (0, 0, 1, -1)):
            shown = spin[found[detector] > 0]
            assert float(shown.mean()) == pytest.approx(expected, abs=4 / math.sqrt(shown.size))


def test_photons_decay_with_the_lifetime_and_the_amplitude_makes_alpha() -> None:
    layout = alone({"efficiency": 1.0, "lifetime": 30e-9})
    layout["elements"]["alice"].pop("alpha")
    layout["elements"]["alice"]["pi_voltage"] = 4.0
    for volts in (1.0, 2.0, 4.0):
        bench, cycle = Bench(layout, 6), Cycle(window=800)
        generator = bench.world.elements["alice_timing"]
        assert isinstance(generator, DelayGenerator)
        generator.amplitudes_v[1] = volts
        bench.run("alice_timing", cycle)
        photons = bench.clicks(2)[0]
        attempts, alpha = 2 * 4999, math.sin(math.pi / 8 * volts) ** 2
        sigma = math.sqrt(attempts * alpha * (1 - alpha))
        assert photons.size == pytest.approx(attempts * alpha, abs=4 * sigma + 1)
        patch = bench.world.outlets[0].longest_ps
        late = ((photons - patch) % BLOCK_PS) % 2_000_000 - 100_000
        assert late.min() >= 0
        assert late.mean() == pytest.approx(30_000, abs=4 * 30_000 / math.sqrt(photons.size))


def test_read_outs_have_bright_and_dark_counts() -> None:
    """Without an attempt the spin is |0>, dark; at alpha = 1 it is bright, until it is pumped.

    Light of a time L that ends at random comes in bunches: the variance of a read-out's counts is
    their mean and that of L times the square of the rate.
    """
    bright_hz, dark_hz, tau, window = 10e6, 1e6, 300e-9, 500e-9
    node = {
        "alpha": 1.0,
        "efficiency": 0.0,
        "fluorescence": bright_hz,
        "background": dark_hz,
        "pumping_time": tau,
    }
    left = math.exp(-window / tau)
    lit = tau * (1 - left)
    of_lit = 2 * tau**2 * (1 - left) - 2 * window * tau * left - lit**2
    for excited in (False, True):
        layout = alone(node)
        layout["elements"]["read"]["detectors"] = [{**DETECTOR, "dead_time": 1e-12}]
        bench = Bench(layout, 8)
        bench.run("alice_timing", Cycle())
        if not excited:
            generator = bench.world.elements["alice_timing"]
            assert isinstance(generator, DelayGenerator)
            generator.delays_ps[1] = generator.delays_ps[0]
        clicks, patch = bench.clicks(10), bench.world.outlets[0].longest_ps
        counts = shots(clicks, patch, (patch + 1_100_000,) * 2, 2_000_000)[4]
        counts = counts.reshape(10, -1)[:, :-1].ravel()  # bursts leave the last cycle out
        assert counts.sum() == clicks[4].size
        dark, bright = emission.mean_photons(emission.Fluorescence(bright_hz, dark_hz, tau), window)
        mean = bright if excited else dark
        variance = mean + (bright_hz**2 * of_lit if excited else 0.0)
        assert counts.mean() == pytest.approx(mean, abs=4 * math.sqrt(variance / counts.size))
        fourth = ((counts - mean) ** 4).mean()
        sigma = math.sqrt((fourth - variance**2) / counts.size)
        assert counts.var() == pytest.approx(variance, abs=4 * sigma)
        assert 4 * sigma < 0.06 * variance


def test_fluorescence_that_blinds_makes_no_photons() -> None:
    """1e15 photons a second: terabytes, were they made; the other detector goes on."""
    layout = alone({"fluorescence": 1e15, "alpha": 0.5, "efficiency": 1.0})
    bench = Bench(layout, 3)
    bench.run("alice_timing", Cycle())
    clicks = bench.clicks(2)
    assert clicks[4].size == 0
    assert clicks[0].size > 4000


def test_what_a_block_shows_does_not_depend_on_who_listened_before() -> None:
    late, whole = Bench(emitters(), 9), Bench(emitters(), 9)
    late.tags.recording = False
    for bench in (late, whole):
        for name in ("alice_timing", "bob_timing"):
            bench.run(name, Cycle(period=1999))
        bench.clicks(3)
        late.tags.recording = True
    found = [bench.clicks(2) for bench in (late, whole)]
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"alice": {"alpha": 0.1, "pi_voltage": 5.0}}, "and not both"),
        ({"alice": {"linewidth": 1e6}}, "leave it out"),
        ({"alice": {"read": "AB"}}, "cannot do two things"),
        ({"alice": {"encoding": "polarization"}}, "need the same encoding"),
        ({"alice": {"lifetime": 1e-9}}, "need the same lifetime"),
        ({"alice": {"sequencer": "tagger"}}, "a delay_generator is needed"),
        (["alice.readout", "station.left"], "alice.out ends at a station"),
        (["alice.light", "station.left"], "write alice.out or alice.readout"),
    ],
)
def test_mistakes_are_told(change: Any, told: str) -> None:
    layout = emitters()
    if isinstance(change, dict):
        layout["elements"]["alice"] |= change["alice"]
    else:
        layout["paths"][0] = change
        layout["paths"][3] = ["alice.out", "read.1", "tagger.5"]
    try:
        mistakes = [message for _, message in check_layout(WorldModel.model_validate(layout))]
    except ValueError as error:
        mistakes = [str(error)]
    assert any(told in mistake for mistake in mistakes), mistakes


def test_photons_of_unequal_ways_meet_where_the_delays_say_so() -> None:
    """Triggers that fall anywhere, across blocks: the later node excites ahead of the other."""
    length = 2000.0
    flight_ns = round(length * 1.468 / 299_792_458 * 1e9)
    layout = emitters({"alpha": 0.1, "efficiency": 1.0})
    layout["elements"]["fibre"] = {"kind": "fibre", "length": length, "attenuation": 0.0}
    layout["paths"][0] = ["alice.out", "fibre", "station.left"]
    cycle = Cycle(pulse="x", at=11_000, read=11_100, window=800, period=13_000)
    for offset, overlap in ((0, 1.0), (8, math.exp(-8 / 12))):
        bench = Bench(layout, 12)
        bench.run("alice_timing", cycle)
        bench.run("bob_timing", Cycle(**(vars(cycle) | {"excite": 100 + flight_ns + offset})))
        for name in ("alice_timing", "bob_timing"):
            generator = bench.world.elements[name]
            assert isinstance(generator, DelayGenerator)
            generator.burst, generator.rate_uhz = False, round(1e6 * 1e9 / 13_000)
        clicks = bench.clicks(25)
        first = bench.world.outlets[0].longest_ps
        period = 13_000_000
        # All folds on one grid: of the internal trigger's ticks.
        grid = [
            np.rint((times - first - begin) / period).astype(np.int64)
            for times, begin in zip(
                clicks,
                [(100 + flight_ns) * 1000 + 15_000] * 4 + [11_500_000] * 2,
                strict=True,
            )
        ]
        cycles = max(int(g.max()) for g in grid if g.size)
        lit = np.zeros((6, cycles + 1), np.bool_)
        for row, found in enumerate(grid):
            lit[row, found[found >= 0]] = True
        heralds = lit[0] & ~lit[2]
        assert 0.9 < heralds.sum() / (cycles * 0.095) < 1.1
        spins = np.where(lit[4:], -1.0, 1.0)
        mean = float((spins[0] * spins[1])[heralds].mean())
        state = one_click(Emitter(0.1, 1.0), Emitter(0.1, 1.0), Station(overlap)).states[0]
        expected = float(states.correlations(state)[0, 0])
        assert mean == pytest.approx(expected, abs=4 / math.sqrt(heralds.sum()))
