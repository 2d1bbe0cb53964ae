"""Every driver of ours, on its twin, passes the conformance checks that any driver must pass."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bellbench
import pytest
from bellbench import testing
from bellbench.bench import BenchConfig, Lab, load_bench
from bellbench.configs import bundled
from bellbench.instruments import Clock, InstrumentError, SystemClock
from bellbench.twins import PacedClock

BENCHES = ("metro", "metro_tdc1")


def with_chaos(bench: Path) -> BenchConfig:
    """The bench with twins that split and glue what they send at random places."""
    config = load_bench(bench, twin=True)
    instruments = {
        name: dataclasses.replace(
            each, twin_settings=each.twin_settings.model_copy(update={"chaos": True})
        )
        if each.twin_settings is not None
        else each
        for name, each in config.instruments.items()
    }
    return dataclasses.replace(config, instruments=instruments)


@pytest.fixture(scope="module", params=BENCHES)
def lab(request: pytest.FixtureRequest, warm: Path) -> Iterator[Lab]:
    with bellbench.open_bench(with_chaos(warm / f"{request.param}.yaml"), seed=21) as found:
        yield found


def test_clock(lab: Lab) -> None:
    testing.check_clock(lab.clock)


@pytest.mark.parametrize("clock", [SystemClock(), PacedClock(3.0, 20.0)])
def test_clocks_of_the_wall(clock: Clock) -> None:
    testing.check_clock(clock)


class Backwards:
    """A clock that is wrong on purpose."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class Hasty(Backwards):
    def sleep(self, seconds: float) -> None:
        self.time += max(0.0, seconds) / 2


@pytest.mark.parametrize(
    ("clock", "words"), [(Backwards(), "time went back"), (Hasty(), r"sleep\(0.05\) took")]
)
def test_a_wrong_clock_is_told(clock: Clock, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        testing.check_clock(clock)


def test_pair_source(lab: Lab) -> None:
    testing.check_pair_source(lab.source)


@pytest.mark.parametrize("party", ["alice", "bob"])
def test_detector_array(lab: Lab, party: str) -> None:
    testing.check_detector_array(lab.instruments[f"{party}_snspd"])


@pytest.mark.parametrize("party", ["alice", "bob"])
def test_polarization_controller(lab: Lab, party: str) -> None:
    # half a count of the controller's grid of 1370 counts in 170 deg
    testing.check_polarization_controller(
        lab.instruments[f"{party}_paddles"], lab.clock, tolerance=0.07
    )


@pytest.mark.parametrize("party", ["alice", "bob"])
def test_time_tagger(lab: Lab, party: str) -> None:
    testing.check_time_tagger(lab.instruments[f"{party}_tagger"], lab.clock)


def test_every_signal_can_be_read(lab: Lab) -> None:
    for name, content in lab.snapshot().items():
        errors: dict[str, Any] = {
            signal: entry["error"]
            for signal, entry in content["signals"].items()
            if "error" in entry
        }
        assert not errors, (name, errors)


def test_power_meter(tmp_path: Path) -> None:
    world = bundled("worlds")["metro"].read_text(encoding="utf-8")
    (tmp_path / "world.yaml").write_text(
        world.replace("elements:", "elements:\n  meter: {kind: power_meter, at: pump, tap: 1 %}")
    )
    bench = tmp_path / "bench.yaml"
    bench.write_text(
        "bellbench: bench/1\nworld: world.yaml\ntwin: true\ninstruments:\n"
        "  pump: {driver: thorlabs.cld1015, settings: {current: 90 mA, tec: true,"
        " temperature: 25 degC, emission: true}}\n"
        "  meter: {driver: thorlabs.pm100d, settings: {wavelength: 405 nm}}\n"
    )
    with bellbench.open_bench(bench, seed=1) as lab:
        testing.check_power_meter(lab.meter)
        lab.clock.sleep(0.1)
        # 1 % of 0.5 W/A x 50 mA
        assert lab.meter.power.get() == pytest.approx(0.25e-3, rel=0.01)
        lab.pump.emission.set(False)
        lab.clock.sleep(0.1)
        assert lab.meter.power.get() == pytest.approx(0.0, abs=1e-9)


def test_delay_generator(tmp_path: Path) -> None:
    world = bundled("worlds")["metro"].read_text(encoding="utf-8")
    (tmp_path / "world.yaml").write_text(
        world.replace("elements:", "elements:\n  delays: {kind: delay_generator}")
    )
    bench = tmp_path / "bench.yaml"
    bench.write_text(
        "bellbench: bench/1\nworld: world.yaml\ntwin: true\ninstruments:\n"
        "  delays:\n    driver: stanford.dg645\n    twin: {chaos: true}\n"
        "    settings: {delays: {A: 1 us, B: 1.5 us}, amplitudes: {AB: 4 V},"
        " trigger_source: internal, trigger_rate: 10 kHz}\n"
    )
    with bellbench.open_bench(bench, seed=1) as lab:
        delays = lab.delays
        testing.check_instrument(
            lambda: type(delays)("again", delays.address, type(delays).Settings(), lab.clock)
        )
        lab.clock.sleep(0.1)
        assert delays.events() == ("triggered", "cycle ended")
        delays.delays["B"].set(150e-6)  # longer than the period
        lab.clock.sleep(0.1)
        assert "trigger ignored: a cycle was running" in delays.events()
        delays.off()
        lab.clock.sleep(0.1)
        delays.events()
        lab.clock.sleep(0.1)
        assert delays.events() == ()
        testing.check_delay_generator(delays)
        assert delays.delays["B"].get() == 150e-6
        delays.link("B", "A", 500e-9)
        delays.delays["A"].set(2e-6)
        assert delays.delays["B"].get() == 2.5e-6
        with pytest.raises(InstrumentError, match=r"illegal link \(13\)"):
            delays.link("A", "B")
        delays.trigger_source.set("internal")


def test_pulse_sequencer(tmp_path: Path) -> None:
    world = bundled("worlds")["metro"].read_text(encoding="utf-8")
    (tmp_path / "world.yaml").write_text(
        world.replace("elements:", "elements:\n  pulses: {kind: pulse_sequencer}")
    )
    bench = tmp_path / "bench.yaml"
    bench.write_text(
        "bellbench: bench/1\nworld: world.yaml\ntwin: true\ninstruments:\n"
        "  pulses:\n    driver: swabian.pulse_streamer\n    twin: {chaos: true}\n"
        "    settings: {trigger_source: software, clock_source: external_10MHz, rearm: true}\n"
    )
    with bellbench.open_bench(bench, seed=1) as lab:
        pulses = lab.pulses
        testing.check_instrument(
            lambda: type(pulses)("again", pulses.address, type(pulses).Settings(), lab.clock)
        )
        testing.check_pulse_sequencer(pulses, lab.clock)
        assert pulses.trigger_source.get() == "software"
        assert pulses.clock_source.get() == "external_10MHz"
