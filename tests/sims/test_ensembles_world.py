"""Ensembles that are written and read, in the world, against the laws of thermal pairs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.sims.elements import DelayGenerator, PulseSequencer, SnspdArray, TaggerInputs
from bellbench.sims.elements.sequencer import Program
from bellbench.sims.physics.memory import Ensemble, readouts, retained
from bellbench.sims.world import BLOCK_PS, World, WorldModel, check_layout
from hypothesis import given, settings
from hypothesis import strategies as st

US = 1_000_000
WRITE, C, D, T0 = 1, 2, 3, 4
DETECTOR = {"efficiency": 0.9, "dark_rate": 0.0, "jitter": 60e-12, "dead_time": 1e-6}
QUIET = {"read_noise": 0.0, "efficiency": 0.6, "lifetime": 20e-6}
LOSS_DB = 3.0


def layout(**ensemble: Any) -> dict[str, Any]:
    """Write photons to a detector, read ones over a splitter to two."""
    return {
        "elements": {
            "sequencer": {"kind": "delay_generator"},
            "atoms": {
                "kind": "dlcz",
                "prepare": "sequencer.T0",
                "write": "sequencer.C",
                "read": "sequencer.E",
                **QUIET,
                **ensemble,
            },
            "fibre": {"kind": "fibre", "length": 10.0, "attenuation": 0.0, "loss": LOSS_DB},
            "splitter": {"kind": "splitter"},
            "snspd": {"kind": "snspd", "detectors": [DETECTOR] * 3},
            "tags": {"kind": "tagger"},
        },
        "paths": [
            ["atoms.write", "fibre", "snspd.1", "tags.1"],
            ["atoms.read", "splitter", "snspd.2", "tags.2"],
            ["sequencer.T0", "tags.4"],
        ],
    }


def listening(raw: dict[str, Any], seed: int = 1) -> World:
    world = World(WorldModel.model_validate(raw), seed)
    for element in world.elements.values():
        if isinstance(element, SnspdArray):
            element.enabled, element.bias_a = True, [18e-6] * len(element.model.detectors)
        if isinstance(element, TaggerInputs):
            element.recording = True
    return world


def run(world: World, blocks: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]:
    times, inputs = [], []
    tags = world.elements["tags"]
    assert isinstance(tags, TaggerInputs)
    for _ in range(blocks):
        world.run_block()
        times.append(tags.times_ps)
        inputs.append(tags.inputs)
    return np.concatenate(times), np.concatenate(inputs)


def cycles_of(world: World, rate_hz: int, **edges_us: float) -> None:
    sequencer = world.elements["sequencer"]
    assert isinstance(sequencer, DelayGenerator)
    sequencer.source, sequencer.rate_uhz = "internal", rate_hz * 10**6
    for channel, delay in edges_us.items():
        sequencer.delays_ps["ABCDEFGH".index(channel)] = round(delay * US)


def trials(world: World, blocks: int, **edges_us: float) -> npt.NDArray[np.bool_]:
    """Whether write, c and d clicked in each cycle, (3, n)."""
    cycles_of(world, 50_000, **edges_us)
    run(world, 1)
    times, inputs = run(world, blocks)
    starts = times[inputs == T0]
    found = np.zeros((3, starts.size), np.bool_)
    for row, channel in enumerate((WRITE, C, D)):
        cycle = np.searchsorted(starts, times[inputs == channel]) - 1
        found[row, cycle[cycle >= 0]] = True
    return found[:, :-1]


def agrees(clicked: npt.NDArray[np.bool_], chance: float) -> None:
    sigma = math.sqrt(clicked.size * chance * (1 - chance))
    assert abs(int(clicked.sum()) - clicked.size * chance) <= 3 * sigma + 1e-9


@pytest.mark.parametrize("mean", [0.02, 0.3, 1.0])
def test_clicks_and_heralded_g2_are_those_of_thermal_pairs(mean: float) -> None:
    world = listening(layout(excitations=mean))
    write, c, d = trials(world, 100, C=2, D=3, E=8, F=9)
    assert write.size > 49_900
    seen = 10 ** (-LOSS_DB / 10) * 0.9
    kept = float(retained(6e-6, 0.6, 20e-6, "gaussian")) * 0.9
    both = Ensemble(mean, seen, kept)
    one = Ensemble(mean, seen, kept / 2)
    agrees(write, both.clicks[0])
    agrees(c | d, both.clicks[1])
    agrees(write & (c | d), both.clicks[2])
    agrees(c[write], one.clicks[2] / one.clicks[0])
    # P(c and d | write) = 2 P(c | write) - P(c or d | write)
    twice = (2 * one.clicks[2] - both.clicks[2]) / both.clicks[0]
    agrees((c & d)[write], twice)
    agrees(c & d, 2 * one.clicks[1] - both.clicks[1])
    if mean < 1:
        return
    # g2 of what is read, with and without a herald: thermal light bunches, heralded light less.
    found = []
    for trials_of, p_one, p_two in (
        (slice(None), one.clicks[1], 2 * one.clicks[1] - both.clicks[1]),
        (write, one.clicks[2] / one.clicks[0], twice),
    ):
        at_c, at_d = c[trials_of], d[trials_of]
        p_c, p_d, p_cd = at_c.mean(), at_d.mean(), (at_c & at_d).mean()
        # The error of n_cd n/(n_c n_d), with all three from the same trials.
        share = (at_c & at_d) / p_cd - at_c / p_c - at_d / p_d
        g2, sigma = p_cd / (p_c * p_d), share.std() / math.sqrt(share.size) * p_cd / (p_c * p_d)
        assert g2 == pytest.approx(p_two / p_one**2, abs=4 * sigma)
        assert 4 * sigma < 0.05 * g2
        found.append(g2)
    assert found[0] > 1.05 * found[1]


@pytest.mark.parametrize("decay", ["gaussian", "exponential"])
def test_retrieval_decays_with_the_time_of_storage(decay: Any) -> None:
    world = listening(layout(excitations=0.1, decay=decay, lifetime=5e-6))
    seen = 10 ** (-LOSS_DB / 10) * 0.9
    for wait in (1.0, 4.0, 8.0):
        write, c, d = trials(world, 25, C=2, D=2.1, E=2 + wait, F=15)
        memory = Ensemble(0.1, seen, 0.9 * float(retained(wait, 0.6, 5.0, decay)))
        agrees((c | d)[write], memory.clicks[2] / memory.clicks[0])


@pytest.mark.parametrize(
    ("edges_us", "written", "correlated"),
    [
        pytest.param({"C": 2, "D": 3, "E": 8, "F": 9}, True, True, id="written and read"),
        pytest.param({"C": 8, "D": 9, "E": 2, "F": 3}, True, False, id="read too early: erased"),
        pytest.param({"C": 0.5, "D": 1, "E": 8, "F": 9}, False, False, id="while being pumped"),
    ],
)
def test_what_the_sequencer_does_too_early_or_too_late(
    edges_us: dict[str, float], written: bool, correlated: bool
) -> None:
    world = listening(layout(excitations=0.1))
    write, c, d = trials(world, 10, **edges_us)
    assert (write.sum() > 100) == written
    assert ((write & (c | d)).sum() > 30) == ((c | d).sum() > 30) == correlated


def test_noise_of_either_pulse_and_the_signal_to_noise() -> None:
    world = listening(layout(excitations=0.02, write_noise=0.05, read_noise=0.01))
    edges_us = {"C": 0.5, "D": 1.0, "E": 8.0, "F": 9.0}  # not pumped yet: nothing but noise
    write, c, d = trials(world, 60, **edges_us)
    agrees(write, 1 - math.exp(-0.05 * 10 ** (-LOSS_DB / 10) * 0.9))
    agrees(c | d, 1 - math.exp(-0.01 * 0.9))
    agrees(write & (c | d), write.mean() * (1 - math.exp(-0.01 * 0.9)))
    # with pairs: P(c or d | write) = 1 - P(no pair seen | write) P(no noise seen)
    write, c, d = trials(world, 60, C=2, D=3, E=8, F=9)
    seen, kept = 10 ** (-LOSS_DB / 10) * 0.9, 0.9 * float(retained(6, 0.6, 20, "gaussian"))
    p_w, p_r, p_both = Ensemble(0.02, seen, kept).clicks
    no_pair = 1 - p_w - p_r + p_both, 1 - p_r  # nothing at all; nothing read
    quiet = math.exp(-0.05 * seen), math.exp(-0.009)
    clicked = 1 - (1 - p_w) * quiet[0]
    agrees(write, clicked)
    agrees(write & (c | d), clicked - (no_pair[1] - no_pair[0] * quiet[0]) * quiet[1])


def test_excitations_outlive_their_block_and_nobody_has_to_listen() -> None:
    """Written 1 ms before the end of a block, read 1 ms after it began."""
    raw = layout(excitations=0.5, lifetime=10e-3, decay="exponential")
    raw["elements"]["sequencer"] = {"kind": "pulse_sequencer"}
    raw["elements"]["atoms"] |= {
        "prepare": "sequencer.0",
        "write": "sequencer.1",
        "read": "sequencer.2",
    }
    raw["paths"][2] = ["sequencer.2", "tags.4"]

    def started() -> World:
        world = listening(raw)
        steps = np.array([9_000_000, 100, 1_999_900, 100, 8_999_900, 100], np.int64)  # 20 ms
        levels = np.array([0, 2, 0, 4, 0, 1, 0], np.uint8)
        sequencer = world.elements["sequencer"]
        assert isinstance(sequencer, PulseSequencer)
        sequencer.play(Program(steps, levels, np.zeros((7, 2))), 0)
        return world

    early, late = started(), started()
    tags = late.elements["tags"]
    assert isinstance(tags, TaggerInputs)
    run(early, 41)
    tags.recording = False
    run(late, 41)  # in the middle of storage
    tags.recording = True
    a, b = run(early, 200), run(late, 200)
    assert a[0].size > 110
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])
    times, inputs = a
    reads = times[inputs == T0]
    at = np.searchsorted(reads, times[(inputs == C) | (inputs == D)] + US) - 1
    clicked = np.isin(np.arange(reads.size), at)
    expected = Ensemble(0.5, 0.0, 0.9 * 0.6 * math.exp(-0.2)).clicks[1]
    agrees(clicked, expected)


def test_spatial_modes_are_memories_of_their_own() -> None:
    raw = layout(excitations=0.1, spatial_modes=2)
    raw["elements"]["more"] = {"kind": "snspd", "detectors": [DETECTOR]}
    del raw["elements"]["splitter"], raw["elements"]["fibre"]
    raw["paths"] = [
        ["atoms.write1", "snspd.1", "tags.1"],
        ["atoms.read1", "snspd.2", "tags.2"],
        ["atoms.write2", "snspd.3", "tags.3"],
        ["atoms.read2", "more.1", "tags.5"],
        ["sequencer.T0", "tags.4"],
    ]
    world = listening(raw)
    cycles_of(world, 50_000, C=2, D=3, E=8, F=9)
    run(world, 1)
    times, inputs = run(world, 40)
    starts = times[inputs == T0]
    clicked = []
    for channel in (1, 2, 3, 5):
        cycle = np.searchsorted(starts, times[inputs == channel]) - 1
        clicked.append(np.isin(np.arange(starts.size - 1), cycle))
    memory = Ensemble(0.1, 0.9, 0.9 * float(retained(6, 0.6, 20, "gaussian")))
    p_w, p_r, both = memory.clicks
    for write, read, other in ((0, 1, 3), (2, 3, 1)):
        agrees(clicked[write] & clicked[read], both)
        agrees(clicked[write] & clicked[other], p_w * p_r)
    # multiplexed: heralded in either mode
    agrees(clicked[0] | clicked[2], 1 - (1 - p_w) ** 2)


times_ps = st.lists(st.integers(0, 50), max_size=6).map(sorted)


@settings(max_examples=30)
@given(times_ps, times_ps, times_ps)
def test_each_excitation_meets_the_first_pulse_after_it(
    born: list[int], reads: list[int], cleans: list[int]
) -> None:
    found, age = readouts(*(np.array(x, np.int64) for x in (born, reads, cleans)))
    for t, row, waited in zip(born, found, age, strict=True):
        read = next((r for r in reads if r > t), None)
        clean = next((c for c in cleans if c > t), None)
        if read is not None and (clean is None or read < clean):
            assert (reads[row], waited) == (read, read - t)
        else:
            assert (row, waited) == (-1 if read is None and clean is None else -2, 0)


MEMORY = {"kind": "memory", "sequencer": "sequencer"}


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        (lambda w: w["elements"]["atoms"].update(write="sequencer"), "write", "'sequencer.A'"),
        (lambda w: w["elements"]["atoms"].update(read="sequenser.E"), "read", "mean 'sequencer'"),
        (lambda w: w["elements"]["atoms"].update(prepare="snspd.1"), "prepare", "is a snspd"),
        (lambda w: w["elements"]["atoms"].update(read="sequencer.C"), "atoms", "a channel each"),
        (lambda w: w["paths"][0].__setitem__(0, "atoms"), 0, "write atoms.write or atoms.read"),
        (lambda w: w["elements"]["atoms"].update(spatial_modes=2), 0, "up to atoms.read2"),
        (
            lambda w: w["elements"].update(mem=MEMORY) or w["paths"][1].insert(1, "mem"),
            0,
            "those of a dlcz are not",
        ),
    ],
)
def test_what_does_not_join_at_an_ensemble_is_refused(change: Any, place: Any, words: str) -> None:
    raw = layout()
    change(raw)
    issues = check_layout(WorldModel.model_validate(raw))
    assert any(words in message and loc[-1] == place for loc, message in issues), issues


def test_clicks_come_within_their_block() -> None:
    world = listening(layout(pulse_width=1e-6, excitations=1.0))
    cycles_of(world, 50_000, C=2, D=3, E=8, F=9)
    tags = world.elements["tags"]
    assert isinstance(tags, TaggerInputs)
    for _ in range(3):
        begin = world.now_ps
        world.run_block()
        assert ((tags.times_ps >= begin) & (tags.times_ps < begin + BLOCK_PS)).all()
        assert tags.times_ps.size > 500
