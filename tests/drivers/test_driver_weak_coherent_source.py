"""The weak coherent source: what it makes its sequencer play."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bellbench.drivers.weak_coherent_source import (
    Intensity,
    WeakCoherentSettings,
    WeakCoherentSource,
)
from bellbench.instruments import (
    ConfigError,
    Identity,
    InstrumentError,
    Levels,
    Limits,
    PulseSequence,
    PulseSequencerInfo,
)
from bellbench.instruments import WeakCoherentSource as Role
from hypothesis import given, settings
from hypothesis import strategies as st


class Value:
    def __init__(self, name: str, value: Any) -> None:
        self.name, self.unit, self.value = name, "", value

    def get(self) -> Any:
        return self.value

    def set(self, value: Any) -> None:
        self.value = value


class Part:
    """Something of a bench; notes what is done to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.signals: list[Any] = []
        self.done: list[str] = []

    def open(self) -> None:
        self.done.append("open")

    def close(self) -> None:
        self.done.append("close")

    def identify(self) -> Identity:
        return Identity("maker", self.name, "7", "1.0")

    def ready(self) -> bool:
        return True

    def off(self) -> None:
        self.done.append("off")

    def safe(self) -> None:
        self.done.append("safe")


class Laser(Part):
    def __init__(self) -> None:
        super().__init__("laser")
        self.current, self.emission = Value("current", 0.1), Value("emission", False)


class Sequencer(Part):
    info = PulseSequencerInfo(
        8, 2, Limits(-1, 1), 1000, 8000, 8000, 3000, ("immediate", "software"), ("internal",)
    )

    def __init__(self) -> None:
        super().__init__("pulses")
        self.trigger_source = Value("trigger_source", "immediate")
        self.clock_source = Value("clock_source", "internal")
        self.streaming, self.finished = Value("streaming", False), Value("finished", False)
        self.played: list[tuple[PulseSequence, int | None, Levels | None]] = []
        self.held: list[Levels] = []

    def stream(
        self, sequence: PulseSequence, *, runs: int | None = None, final: Levels | None = None
    ) -> None:
        at = np.cumsum(sequence.durations_ps)
        assert (sequence.durations_ps % 1000 == 0).all()
        assert at[-1] % 8000 == 0
        changes = (sequence.analog_v[1:] != sequence.analog_v[:-1]).any(1)
        assert (at[:-1][changes] % 8000 == 0).all()
        assert at.size <= self.info.max_steps
        self.played.append((sequence, runs, final))

    def start(self) -> None: ...

    def hold(self, levels: Levels) -> None:
        self.held.append(levels)


def source(clock: Any = None, **wanted: Any) -> tuple[WeakCoherentSource, Sequencer, Laser]:
    sequencer, laser = Sequencer(), Laser()
    made = WeakCoherentSource(
        "alice",
        {"laser": laser, "pulse_sequencer": sequencer},
        WeakCoherentSettings(**wanted),
        clock,
    )
    return made, sequencer, laser


def shown(sequence: PulseSequence, runs: int) -> tuple[Any, Any]:
    """Mask and levels in each nanosecond."""
    step = np.tile(
        np.repeat(np.arange(sequence.durations_ps.size), sequence.durations_ps // 1000), runs
    )
    return sequence.digital[step], sequence.analog_v[step]


def test_what_it_is() -> None:
    alice, sequencer, laser = source()
    assert isinstance(alice, Role)
    assert alice.info.intensities == {"signal": 0.5, "decoy": 0.1, "vacuum": 0.0}
    assert alice.info.states == ("H", "V", "D", "A")
    assert alice.info.max_rate_hz == pytest.approx(1 / 32e-9)
    assert alice.info.max_pulses == 1000
    assert alice.identify().model == "weak coherent source (laser, pulses)"
    alice.emission.set(True)
    assert laser.emission.get() is True
    assert alice.playing.get() is False
    assert alice.ready()
    with alice:
        alice.stop()
    assert sequencer.held == [Levels(0, (0.0, 0.0))]
    alice.off()
    alice.safe()
    assert laser.done == ["open", "close", "off", "safe"]
    assert sequencer.done == ["open", "close", "safe"]
    assert len(sequencer.held) == 2


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=9),
    st.integers(32, 120),
    st.one_of(st.none(), st.integers(1, 9)),
)
def test_each_pulse_finds_its_levels(
    choices: list[tuple[int, int]], period_ns: int, runs: int | None
) -> None:
    alice, sequencer, _ = source(sync_output=7)
    which, turned = np.array(choices).T
    times = alice.play(which, turned, 1e9 / period_ns, runs=runs)
    sequence, count, final = sequencer.played[0]
    assert final == Levels(0, (0.0, 0.0))
    patterns = int(sequence.durations_ps.sum()) // (1000 * period_ns * len(choices))
    assert (count is None) == (runs is None)
    if runs is not None and count is not None:
        assert count * patterns == runs
    played = 2 if count is None else count
    mask, levels = shown(sequence, played)
    rises = np.flatnonzero(np.diff(mask & 1, prepend=0) == 1)
    every = np.arange(patterns * played)[:, None] * len(choices) * period_ns + times // 1000
    assert rises.tolist() == every.ravel().tolist()
    volts = np.array([1.0, 0.2952, 0.0])[which], np.array([0.0, 1.0, 0.5, -0.5])[turned]
    for k in (-16, 0, 7):  # settled before, and as long as the pulse lasts
        found = levels[rises + k].reshape(patterns * played, len(choices), 2)
        assert (found == np.stack(volts, 1)).all()
    assert (mask[rises + 7] & 1 == 1).all()
    assert (mask[rises + 8] & 1 == 0).all()
    synced = np.flatnonzero(np.diff((mask >> 7 & 1).astype(int), prepend=0) == 1)
    assert synced.tolist() == every[:, 0].tolist()


def test_wiring_can_be_another() -> None:
    alice, sequencer, _ = source(
        intensity_output=1,
        state_output=0,
        pulse_output=3,
        intensities={"only": Intensity(level=0.25, photons=0.4)},
        states={"D": -0.75},
        settling=8e-9,
        pulse_width=2.5e-9,
    )
    times = alice.play([0, 0], [0, 0], 1e7)
    assert times.tolist() == [8000, 108_000]
    sequence, _, _ = sequencer.played[0]
    assert sequence.durations_ps[:3].tolist() == [8000, 3000, 85_000]
    assert sequence.digital[:3].tolist() == [0, 8, 0]
    assert sequence.analog_v[0].tolist() == [-0.75, 0.25]


@pytest.mark.parametrize(
    ("which", "turned", "rate", "words"),
    [
        ([3], [0], 1e7, "intensities go from 0 to 2, not 3 to 3"),
        ([0], [-1], 1e7, "states go from 0 to 3, not -1 to -1"),
        ([0, 1], [0], 1e7, "2 intensities for 1 states"),
        ([], [], 1e7, "one for each pulse"),
        ([0.0], [0], 1e7, "whole numbers"),
        ([[0]], [[0]], 1e7, "one for each pulse"),
        ([0], [0], 5e7, "a rate of 5e.07 Hz is not above 0 and at most 3.125e.07 Hz"),
        ([0], [0], 0.0, "a rate of 0 Hz"),
        ([0], [0], float("nan"), "a rate of nan Hz"),
        ([0], [0], 3e7, r"33.3333 ns is off the sequencer's grid of 1 ns; try: ask for 30303030"),
        ([0] * 1001, [0] * 1001, 1.25e7, "3003 steps of the sequencer, which takes 3000"),
    ],
)
def test_what_cannot_be_played(which: Any, turned: Any, rate: float, words: str) -> None:
    alice, sequencer, _ = source()
    with pytest.raises(InstrumentError, match=words):
        alice.play(which, turned, rate)
    for runs in (0, -1, 1.5, True):
        with pytest.raises(InstrumentError, match="it plays 1 run and more"):
            alice.play([0], [0], 1e7, runs=runs)  # type: ignore[arg-type]
    assert not sequencer.played


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"pulse_output": 8}, "pulse_output: pulses has no digital output 8"),
        ({"sync_output": 9}, "sync_output: pulses has no digital output 9"),
        ({"state_output": 2}, "state_output: pulses has no analog output 2"),
        ({"states": {"H": 1.5}}, "states.H: pulses goes from -1 V to 1 V, not to 1.5 V"),
        (
            {"intensities": {"signal": Intensity(level=-2.0, photons=1.0)}},
            "intensities.signal: pulses goes",
        ),
    ],
)
def test_settings_that_do_not_fit_the_sequencer(wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        source(**wanted)


def test_settings_that_contradict_themselves() -> None:
    with pytest.raises(ValueError, match="same analog output"):
        WeakCoherentSettings(intensity_output=1)
    with pytest.raises(ValueError, match="same digital output"):
        WeakCoherentSettings(sync_output=0)


def test_parts_are_checked() -> None:
    with pytest.raises(ConfigError, match="the parts laser and pulse_sequencer; laser is missing"):
        WeakCoherentSource("a", {"pulse_sequencer": Sequencer()}, WeakCoherentSettings(), None)  # type: ignore[arg-type]
