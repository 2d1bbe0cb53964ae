"""Emitters in a world: heralds at a station and read-outs, against the closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.sims.elements import DelayGenerator, SnspdArray, TaggerInputs
from bellbench.sims.physics import states
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
            "station": {"kind": "bell_station", "extinction": 300.0, **station},
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
