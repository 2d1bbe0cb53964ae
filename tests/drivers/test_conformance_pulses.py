"""The checks of sequencers and weak coherent sources pass what is right, and catch what is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import (
    InstrumentError,
    Levels,
    Limits,
    PulseSequence,
    PulseSequencerInfo,
    WeakCoherentSourceInfo,
)
from bellbench.testing import check_pulse_sequencer, check_weak_coherent_source


class Value:
    def __init__(self, name: str, value: Any, allowed: tuple[str, ...] = ()) -> None:
        self.name, self.unit, self.value, self.allowed = name, "", value, allowed

    def get(self) -> Any:
        return self.value() if callable(self.value) else self.value

    def set(self, value: Any) -> None:
        if self.allowed and value not in self.allowed:
            raise InstrumentError(f"no {value}")
        self.value = value


class Sequencer:
    """A sequencer in memory, with one fault of choice."""

    def __init__(self, clock: Any, fault: str = "") -> None:
        self.clock, self.fault = clock, fault
        sources = ("immediate", "software")
        self.info = PulseSequencerInfo(
            8, 2, Limits(-1, 1), 1000, 8000, 8000, 1000, sources, ("internal",)
        )
        allowed = () if fault == "any source" else sources
        self.trigger_source = Value("trigger_source", "immediate", allowed)
        self.clock_source = Value("clock_source", "internal")
        self.end = math.inf
        self.state = "held"
        self.streaming = Value("streaming", self._streaming)
        self.finished = Value("finished", self._finished)
        self.runs: int | None = None
        self.sequence: PulseSequence | None = None

    def _update(self) -> None:
        if self.state == "streaming" and self.clock.now() >= self.end:
            self.state = "finished"

    def _streaming(self) -> bool:
        self._update()
        return self.state == "streaming"

    def _finished(self) -> bool:
        self._update()
        return self.state == "finished" and self.fault != "never finished"

    def stream(
        self, sequence: PulseSequence, *, runs: int | None = None, final: Levels | None = None
    ) -> None:
        if self.fault == "forgets" and runs == 0:
            self.state = "held"
        if runs is not None and runs < 1 and self.fault != "no runs":
            raise InstrumentError("no runs")
        if sequence.digital.max() > 255 and self.fault != "ninth output":
            raise InstrumentError("no such output")
        if np.abs(sequence.analog_v).max() > 1 and self.fault != "any volts":
            raise InstrumentError("too high")
        if (sequence.durations_ps % 1000).any() and self.fault != "any time":
            raise InstrumentError("off the grid")
        self.sequence, self.runs, self.state = sequence, runs, "armed"
        if self.trigger_source.get() == "immediate" or self.fault == "never waits":
            self._begin()

    def _begin(self) -> None:
        assert self.sequence is not None
        self.state = "streaming"
        runs = math.inf if self.runs is None else self.runs
        self.end = self.clock.now() + runs * self.sequence.duration_ps * 1e-12

    def start(self) -> None:
        if self.fault == "always starts" and self.state != "held":
            return
        if self.trigger_source.get() != "software":
            raise InstrumentError("the trigger source is immediate")
        if self.state != "armed":
            if self.fault == "starts nothing" and self.state == "held":
                return
            raise InstrumentError("nothing waits")
        self._begin()

    def hold(self, levels: Levels) -> None:
        if levels.digital > 255 and self.fault != "wide mask":
            raise InstrumentError("no such output")
        self.state = "streaming" if self.fault == "goes on" else "held"


def test_a_good_sequencer(clock: Any) -> None:
    check_pulse_sequencer(Sequencer(clock), clock)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("any source", "an unknown source"),
        ("never finished", "after two runs"),
        ("no runs", "0 runs"),
        ("forgets", "after refusals"),
        ("ninth output", "a digital output too many"),
        ("any volts", "an analog level too high"),
        ("any time", "steps off the grid"),
        ("never waits", r"before start\(\)"),
        ("always starts", r"start\(\) without a software trigger"),
        ("starts nothing", r"start\(\) without a sequence"),
        ("wide mask", "a mask too wide"),
        ("goes on", "while levels are held"),
    ],
)
def test_a_bad_sequencer(clock: Any, fault: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_pulse_sequencer(Sequencer(clock, fault), clock)


class Source:
    """A weak coherent source in memory, with one fault of choice."""

    def __init__(self, clock: Any, fault: str = "") -> None:
        self.clock, self.fault = clock, fault
        states = ("H", "H") if fault == "states" else ("H", "V")
        mean = -0.5 if fault == "negative" else 0.5
        self.info = WeakCoherentSourceInfo({"only": mean}, states, 1e7, 100, 1000, True)
        self.emission = Value("emission", False)
        self.end = -math.inf
        self.playing = Value("playing", lambda: self.clock.now() < self.end)

    def play(
        self,
        intensities: npt.ArrayLike,
        states: npt.ArrayLike,
        rate_hz: float,
        *,
        runs: int | None = None,
    ) -> npt.NDArray[np.int64]:
        which, turned = np.asarray(intensities), np.asarray(states)
        bad = {
            "intensity": which.size and which.max() > 0,
            "state": turned.size and turned.min() < 0,
            "shape": which.size != turned.size,
            "empty": not which.size,
            "fast": rate_hz > self.info.max_rate_hz,
            "still": rate_hz <= 0,
            "runs": runs is not None and runs < 1,
        }
        for what, wrong in bad.items():
            if wrong and self.fault != what:
                raise InstrumentError(what)
            if wrong:
                return np.zeros(1, np.int64)
        spacing = 1e12 / rate_hz * (2 if self.fault == "slow" else 1)
        long = math.inf if runs is None or self.fault == "endless" else runs
        self.end = self.clock.now() + long * which.size / rate_hz
        times: npt.NDArray[np.int64] = np.rint(np.arange(which.size) * spacing).astype(np.int64)
        return times

    def stop(self) -> None:
        if self.fault != "goes on":
            self.end = -math.inf


def test_a_good_source(clock: Any) -> None:
    check_weak_coherent_source(Source(clock), clock)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("states", "states of the same name"),
        ("negative", "a negative mean photon number"),
        ("intensity", "an unknown intensity"),
        ("state", "an unknown state"),
        ("shape", "intensities without states"),
        ("empty", "no pulses"),
        ("fast", "a rate too high"),
        ("still", "no rate"),
        ("runs", "0 runs"),
        ("slow", "leave at"),
        ("endless", "after its runs"),
        ("goes on", r"after stop\(\)"),
    ],
)
def test_a_bad_source(clock: Any, fault: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_weak_coherent_source(Source(clock, fault), clock)
