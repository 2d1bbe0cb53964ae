"""Slots: choices of a sender, shots found on a foreign clock, clicks put into slots."""

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import Loss, ProtocolError
from bellbench.protocols.qkd import SeededRandomness, SystemRandomness
from bellbench.protocols.qkd.slots import (
    Detections,
    Shot,
    channel_delays,
    draw_pulses,
    find_shot,
    public_pulses,
    to_slots,
)
from hypothesis import given, settings
from hypothesis import strategies as st

PERIOD = 80_000
PREAMBLE = 4096
SLOTS = 40_000
RANDOM = SeededRandomness(3, "receiver")


def light(
    rng: np.random.Generator,
    preamble: npt.NDArray[np.uint8],
    gain: float,
    begin: float,
    period: float,
    darks: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sorted clicks of a shot whose later slots are half as bright, and dark ones; their slots."""
    bright = np.concatenate([preamble * gain, np.full(SLOTS - preamble.size, gain / 2)])
    slot = np.flatnonzero(rng.random(SLOTS) < bright)
    times = begin + slot * period + rng.normal(0.0, 120.0, slot.size)
    noise = rng.uniform(begin - 10 * PERIOD * PREAMBLE, begin + SLOTS * 1.5 * period, darks)
    all_times = np.concatenate([times, noise])
    order = np.argsort(all_times)
    slots = np.concatenate([slot, np.full(darks, -1)])[order]
    return np.rint(all_times[order]).astype(np.int64), slots


def test_choices_have_their_probabilities_and_nothing_in_common() -> None:
    n = 200_000
    p = (0.5, 0.3, 0.2)
    found = draw_pulses(RANDOM, 0, n, p, 0.7)
    assert len(found) == n
    for i, share in enumerate(p):
        for basis, part in ((0, 0.7), (1, 0.3)):
            for bit in (0, 1):
                chosen = (found.intensities == i) & (found.bases == basis) & (found.bits == bit)
                mean = n * share * part / 2
                assert abs(np.count_nonzero(chosen) - mean) < 5 * np.sqrt(mean), (i, basis, bit)
    assert (found.states == 2 * found.bases + found.bits).all()
    again, other = (draw_pulses(RANDOM, shot, n, p, 0.7) for shot in (0, 1))
    assert (found.bits == again.bits).all()
    assert abs(np.mean(found.bits == other.bits) - 0.5) < 0.01
    # neighbours are independent
    assert abs(np.mean(found.states[1:] == found.states[:-1]) - (0.7**2 + 0.3**2) / 2) < 0.01
    fresh = (draw_pulses(SystemRandomness(), 0, n, p, 0.7) for _ in range(2))
    first, second = fresh
    assert abs(np.mean(first.bits == second.bits) - 0.5) < 0.01
    assert "array" not in repr(found)


def test_a_preamble_is_known_to_everybody() -> None:
    one, same, other = (public_pulses(name, 1000, 2) for name in ("a", "a", "b"))
    assert (one.states == same.states).all()
    assert (one.intensities == same.intensities).all()
    assert 400 < np.count_nonzero(one.intensities == other.intensities) < 600
    assert set(np.unique(one.intensities).tolist()) == {0, 2}
    assert set(np.unique(one.states).tolist()) == {0, 1, 2, 3}
    joined = other.after(one)
    assert (joined.bits[:1000] == one.bits).all()
    assert (joined.bits[1000:] == other.bits).all()


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    begin=st.integers(-(10**12), 10**13),
    ppm=st.floats(-45.0, 45.0),
    darks=st.integers(0, 300),
    gain=st.sampled_from([0.06, 0.1, 0.4]),
)
def test_a_shot_is_found_on_a_clock_of_its_own(
    seed: int, begin: int, ppm: float, darks: int, gain: float
) -> None:
    rng = np.random.default_rng(seed)
    bright = 1 - public_pulses(f"shot {seed}", PREAMBLE, 1).intensities
    period = PERIOD * (1 + ppm * 1e-6)
    times, slots = light(rng, bright, gain, begin, period, darks)
    shot = find_shot(times, bright, PERIOD)
    assert shot is not None
    assert shot.begin_ps == pytest.approx(begin, abs=40)
    assert shot.period_ps * SLOTS == pytest.approx(period * SLOTS, abs=60)
    found = to_slots(
        times,
        np.zeros(times.size, np.uint8),
        shot,
        SLOTS,
        gate_ps=1000,
        dead_time_ps=0,
        randomness=RANDOM,
        purpose="x",
    )
    true = np.unique(slots[slots >= 0])
    missed = np.setdiff1d(true, found.slots).size
    assert missed <= 2  # beyond 4 sigma of the jitter
    assert np.setdiff1d(found.slots, true).size <= 2 + darks // 20  # 1 ns of 80


def test_no_shot_is_found_where_there_is_none() -> None:
    rng = np.random.default_rng(5)
    bright = 1 - public_pulses("one", PREAMBLE, 1).intensities
    other = 1 - public_pulses("two", PREAMBLE, 1).intensities
    times, _ = light(rng, bright, 0.1, 1e9, PERIOD, 100)
    assert find_shot(times, bright, PERIOD) is not None
    assert find_shot(times, other, PERIOD) is None
    assert find_shot(times, bright, 81_000) is None
    assert find_shot(times[:20], bright, PERIOD) is None
    dark = np.sort(rng.integers(0, 10**10, 3000))
    assert find_shot(dark, bright, PERIOD) is None
    assert find_shot(np.zeros(100, np.int64), bright, PERIOD) is None


@settings(max_examples=8, deadline=None)
@given(
    delays=st.lists(st.integers(-19_000, 19_000), min_size=3, max_size=3),
    ppm=st.floats(-45.0, 45.0),
)
def test_delays_of_channels(delays: list[int], ppm: float) -> None:
    rng = np.random.default_rng(7)
    bright = np.ones(PREAMBLE, np.uint8)
    times, slots = light(rng, bright, 0.2, 3e9, PERIOD * (1 + ppm * 1e-6), 50)
    channels = rng.integers(1, 5, times.size).astype(np.int16)
    true = np.array([0, 0, *delays])
    shifted = times + true[channels]
    order = np.argsort(shifted)
    found = channel_delays(shifted[order], channels[order], (1, 2, 3, 4), PERIOD)
    for channel in (1, 2, 3, 4):
        assert found[channel] == pytest.approx(true[channel], abs=25)
    assert slots.size
    with pytest.raises(ProtocolError, match="channel 5 shows no pulses"):
        channel_delays(times, channels, (1, 5), PERIOD)


SHOT = Shot(1_000_000.0, 100_000.0, 20.0)


def slotted(
    times: list[int],
    outcomes: list[int],
    *,
    dead_time_ps: int = 0,
    losses: tuple[Loss, ...] = (),
    purpose: str = "doubles",
) -> Detections:
    return to_slots(
        np.array(times, np.int64),
        np.array(outcomes, np.uint8),
        SHOT,
        10,
        gate_ps=1000,
        dead_time_ps=dead_time_ps,
        randomness=RANDOM,
        purpose=purpose,
        losses=losses,
    )


def test_clicks_go_to_the_slot_whose_gate_they_are_in() -> None:
    times = [899_999, 999_499, 999_500, 1_100_500, 1_200_501, 1_300_000, 1_900_000, 2_000_000]
    found = slotted(times, [0, 0, 1, 2, 3, 3, 2, 0])
    assert found.slots.tolist() == [0, 1, 3, 9]
    assert (2 * found.bases + found.bits).tolist() == [1, 2, 3, 2]
    assert (found.doubles, found.blind, found.outside) == (0, 0, 2)
    empty = slotted([], [])
    assert empty.slots.size == empty.bases.size == empty.bits.size == 0


def test_a_slot_behind_a_click_is_not_detected() -> None:
    """Whichever detector clicked before, and whether in a gate or not."""
    times = [940_000, 1_000_000, 1_050_001, 1_100_000, 1_140_000, 1_200_000, 1_300_000]
    assert slotted(times, [0] * 7).slots.tolist() == [0, 1, 2, 3]
    found = slotted(times, [0, 1, 2, 3, 0, 1, 2], dead_time_ps=50_000)
    assert found.slots.tolist() == [0, 2, 3]
    assert found.blind == 1


def test_a_slot_in_or_behind_a_loss_is_not_detected() -> None:
    times = [1_000_000, 1_100_000, 1_200_000, 1_300_000]
    loss = (Loss("overflow", 1_050_000, 1_160_000),)
    found = slotted(times, [0, 1, 2, 3], losses=loss, dead_time_ps=50_000)
    assert found.slots.tolist() == [0, 3]
    assert found.blind == 2


def test_double_clicks_become_random_bits() -> None:
    """Of one basis a random bit; of two bases a random bit in a random one of them."""
    n = 4000
    shot = dataclasses.replace(SHOT, begin_ps=0.0)
    slots = np.repeat(np.arange(n), 2)
    for pair, bases in (((0, 1), {0}), ((2, 3), {1}), ((1, 2), {0, 1})):
        found = to_slots(
            slots * 100_000 + np.tile([0, 10], n),
            np.tile(np.array(pair, np.uint8), n),
            shot,
            n,
            gate_ps=1000,
            dead_time_ps=0,
            randomness=RANDOM,
            purpose=f"doubles of {pair}",
        )
        assert found.slots.tolist() == list(range(n))
        assert found.doubles == n
        assert abs(found.bits.mean() - 0.5) < 0.05
        assert set(np.unique(found.bases).tolist()) == bases
        if len(bases) == 2:
            assert abs(found.bases.mean() - 0.5) < 0.05
            assert abs(np.mean(found.bases == found.bits) - 0.5) < 0.05
    twice = slotted([1_000_000, 1_000_100], [3, 3])
    assert (twice.slots.tolist(), twice.doubles) == ([0], 0)
    assert (2 * twice.bases + twice.bits).tolist() == [3]


def test_nothing_secret_is_shown() -> None:
    assert "bits" not in repr(slotted([1_000_000], [1]))
