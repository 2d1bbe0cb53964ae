"""The public checks pass what keeps its promise, and catch each way of breaking it."""

import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from bellbench.drivers.s_fifteen.tdc1 import SFifteenTDC1, TDC1Settings
from bellbench.drivers.thorlabs.tc200 import TC200Settings, ThorlabsTC200
from bellbench.instruments import (
    DelayGeneratorInfo,
    Identity,
    InstrumentError,
    Limits,
    Loss,
    TagBatch,
    TaggerInfo,
)
from bellbench.testing import (
    check_delay_generator,
    check_detector_array,
    check_instrument,
    check_pair_source,
    check_polarization_controller,
    check_power_meter,
    check_readable,
    check_settable,
    check_time_tagger,
)


class Number:
    """A signal in memory; ``hurt`` is what goes wrong when it is set."""

    def __init__(
        self,
        name: str,
        unit: str,
        value: Any,
        limits: Limits | None = None,
        hurt: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        self.name, self.unit, self.value, self.hurt = name, unit, value, hurt
        if limits is not None:
            self.limits = limits

    def get(self) -> Any:
        return self.value

    def set(self, value: Any) -> None:
        limits = getattr(self, "limits", None)
        if limits is not None and value not in limits:
            raise InstrumentError(f"{self.name} does not take {value}")
        self.value = self.hurt(value)


class Device:
    """An instrument in memory, with one fault of choice."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.name = "" if fault == "no name" else "device"
        self.is_open = False
        self.opened = 0
        self.signals: Sequence[Number] = [Number("power", "W", 1.0), Number("on", "", True)]
        if fault == "twice":
            self.signals = [Number("power", "W", 1.0)] * 2
        if fault == "unit":
            self.signals = [Number("power", "mW", 1.0)]
        if fault == "nan":
            self.signals = [Number("power", "W", float("nan"))]
        if fault == "no signals":
            self.signals = []

    def open(self) -> None:
        if self.is_open and self.fault == "open twice":
            raise InstrumentError("busy")
        self.is_open = True
        self.opened += 1

    def close(self) -> None:
        if not self.is_open and self.fault == "close twice":
            raise InstrumentError("not open")
        self.is_open = False

    def identify(self) -> Identity:
        if not self.is_open and self.fault != "answers closed":
            raise InstrumentError("not open")
        if self.fault == "serial changes":
            return Identity("me", "model", str(self.opened))
        return Identity("me", "" if self.fault == "no model" else "model")

    def ready(self) -> bool:
        return True

    def off(self) -> None: ...
    def safe(self) -> None: ...


def test_a_good_instrument() -> None:
    check_instrument(Device)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no name", "no name"),
        ("no model", "names no model"),
        ("twice", "of the same name: power"),
        ("unit", "'mW', not SI"),
        ("nan", "NaN"),
        ("no signals", "no signals"),
        ("answers closed", r"identify\(\) before open"),
        ("serial changes", "after reopening"),
    ],
)
def test_a_bad_instrument(fault: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_instrument(lambda: Device(fault))


@pytest.mark.parametrize("fault", ["open twice", "close twice"])
def test_an_instrument_that_cannot_be_opened_or_closed_twice(fault: str) -> None:
    with pytest.raises(InstrumentError):
        check_instrument(lambda: Device(fault))


def test_settables() -> None:
    limits = Limits(0.0, 1.0)
    good = Number("x", "A", 0.5, limits)
    check_settable(good, [0.1, 0.9], unit="A")
    assert good.value == 0.5  # restored
    check_settable(Number("x", "A", 0.5, hurt=lambda v: round(v, 2)), [0.123], tolerance=0.01)
    with pytest.raises(AssertionError, match=r"set to 0\.123 and reads 0\.12"):
        check_settable(Number("x", "A", 0.5, hurt=lambda v: round(v, 2)), [0.123])
    lax = Number("x", "A", 0.5)
    lax.limits = limits
    lax.set = lambda value: setattr(lax, "value", value)  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match=r"must raise InstrumentError"):
        check_settable(lax, [0.1])
    with pytest.raises(AssertionError, match="'A', not 'V'"):
        check_readable(good, unit="V")
    with pytest.raises(AssertionError, match="no identifier"):
        check_readable(Number("bias current", "A", 0.1))


class Source:
    def __init__(self, **change: Any) -> None:
        self.pump_current = Number("pump_current", "A", 0.1, Limits(0.0, 1.0))
        self.emission = Number("emission", "", True)
        self.crystal_temperature = Number("crystal_temperature", "degC", 38.0)
        self.measured_crystal_temperature = Number("measured", "degC", 38.1)
        for name, signal in change.items():
            setattr(self, name, signal)


def test_pair_sources() -> None:
    check_pair_source(Source())
    with pytest.raises(AssertionError, match="'mA', not 'A'"):
        check_pair_source(Source(pump_current=Number("pump_current", "mA", 100.0)))
    stuck = Number("emission", "", True, hurt=lambda value: True)
    with pytest.raises(AssertionError, match="switched off and reads as on"):
        check_pair_source(Source(emission=stuck))
    kelvin = Number("measured", "degC", 9999.0)
    with pytest.raises(AssertionError, match="which no crystal is"):
        check_pair_source(Source(measured_crystal_temperature=kelvin))
    with pytest.raises(AssertionError, match="PairSource protocol"):
        check_pair_source(Device())  # type: ignore[arg-type]


class Detectors:
    def __init__(self, count: int = 3, crosstalk: bool = False, rate: float = 100.0) -> None:
        self.detectors = count
        self.bias_currents = [
            Number(f"bias_{i}", "A", 10e-6, hurt=self.disturb if crosstalk else lambda v: v)
            for i in range(3)
        ]
        self.count_rates = [Number(f"rate_{i}", "Hz", rate) for i in range(3)]
        self.enabled = Number("enabled", "", True)

    def disturb(self, value: float) -> float:
        self.bias_currents[2].value += 1e-6
        return value


def test_detector_arrays() -> None:
    check_detector_array(Detectors())
    with pytest.raises(AssertionError, match="holds 3 signals for 4"):
        check_detector_array(Detectors(4))
    with pytest.raises(AssertionError, match="moved another bias"):
        check_detector_array(Detectors(crosstalk=True))
    with pytest.raises(AssertionError, match="negative"):
        check_detector_array(Detectors(rate=-1.0))


class Tagger:
    """A tagger in memory, with one fault of choice."""

    def __init__(self, clock: Any, fault: str = "") -> None:
        self.clock, self.fault = clock, fault
        self.info = TaggerInfo((1, 2), 1, 1e6, 0.05)
        self.began: float | None = None
        self.end = 0

    def start(self) -> None:
        if self.began is not None and self.fault != "starts twice":
            raise InstrumentError("recording")
        self.began = self.clock.now()
        self.end = 5 if self.fault == "does not begin at zero" else 0

    def stop(self) -> None:
        self.began = None

    def read(self) -> TagBatch:
        if self.began is None:
            if self.fault == "reads idle":
                return TagBatch(np.empty(0, np.int64), np.empty(0, np.int16), 0, 0)
            raise InstrumentError("not recording")
        latency = 0.0 if self.fault == "too early" else 0.05
        end = max(self.end, round((self.clock.now() - self.began - latency) * 1e12))
        begin, self.end = self.end, end
        if self.fault == "gap":
            begin = min(begin + 1, end)
        times = np.array([end - 3, end - 2, end - 1], dtype=np.int64)
        channels = np.array([1, 9 if self.fault == "channel" else 2, 1], dtype=np.int16)
        if self.fault == "disorder":
            times = times[[0, 2, 1]]
        losses: tuple[Loss, ...] = ()
        if self.fault == "loss":
            losses = (Loss("dropped", begin, end, 1),)
        unix = 0 if self.fault == "host time" else 1
        return TagBatch(times, channels, begin, end, unix, "clock", losses)


def test_a_good_tagger(clock: Any) -> None:
    check_time_tagger(Tagger(clock), clock)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("starts twice", r"start\(\) while recording"),
        ("reads idle", r"read\(\) before start"),
        ("does not begin at zero", "begins at 5 ps"),
        ("too early", "the watermark is"),
        ("gap", "the one before ended"),
        ("channel", r"info does not name: \[9\]"),
        ("loss", "no such kind of loss: 'dropped'"),
        ("host time", "no host time"),
    ],
)
def test_a_bad_tagger(clock: Any, fault: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_time_tagger(Tagger(clock, fault), clock)


def test_a_tagger_out_of_order(clock: Any) -> None:
    with pytest.raises(ValueError, match="must not decrease"):
        check_time_tagger(Tagger(clock, "disorder"), clock)


class Controller:
    def __init__(self, coupled: bool = False, stuck: bool = False) -> None:
        self.actuators = [
            Number(f"paddle_{i}", "deg", 160.0, Limits(0.0, 170.0), self.move) for i in range(3)
        ]
        self.coupled, self.stuck = coupled, stuck
        self.moving = 0

    def move(self, value: float) -> float:
        self.moving = 3
        if self.coupled:
            self.actuators[2].value += 5.0
        return value

    def ready(self) -> bool:
        self.moving -= not self.stuck
        return self.moving <= 0


def test_polarization_controllers(clock: Any) -> None:
    check_polarization_controller(Controller(), clock, tolerance=0.2)
    with pytest.raises(AssertionError, match="paddle_0 was sent to 143"):
        check_polarization_controller(Controller(coupled=True), clock, tolerance=0.2)
    with pytest.raises(AssertionError, match="has not arrived after 2 s"):
        check_polarization_controller(Controller(stuck=True), clock, tolerance=0.2, timeout_s=2.0)


class Meter:
    def __init__(self, wavelength: float = 810e-9) -> None:
        self.power = Number("power", "W", 1e-3)
        self.wavelength = Number("wavelength", "m", wavelength)


def test_power_meters() -> None:
    check_power_meter(Meter())
    with pytest.raises(AssertionError, match="in another unit"):
        check_power_meter(Meter(810.0))


class Generator:
    """A delay generator in memory, with one fault of choice."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        limits = Limits(0.0, 2000.0)
        grid = 7e-9 if fault == "coarse" else 5e-12
        self.delays = {
            each: Number(
                f"delay_{each}", "s", 0.0, limits, lambda value: grid * round(value / grid)
            )
            for each in ("A", "B")
        }
        if fault == "crosstalk":
            self.delays["B"].hurt = self._both
        self.amplitudes = {"AB": Number("amplitude", "V", 2.5)}
        self.positive = {} if fault == "no polarity" else {"AB": Number("positive", "", True)}
        self.trigger_source = Number("trigger_source", "", "single", hurt=self._source)
        self.trigger_rate = Number("trigger_rate", "Hz", 10.0, Limits(1e-4, 1e7))
        self.burst = Number("burst", "", False)
        self.burst_count = Number("burst_count", "", 1)
        self.burst_period = Number("burst_period", "s", 1e-5)
        if fault == "deaf burst":
            self.burst.hurt = lambda value: False
        sources = ("single",) if fault == "no internal" else ("single", "internal")
        self.info = DelayGeneratorInfo(("A", "B"), {"AB": ("A", "B")}, sources, 5e-12, 2000.0, 1e-7)

    def _both(self, value: float) -> float:
        self.delays["A"].value = value
        return value

    def _source(self, value: str) -> str:
        if value not in self.info.trigger_sources and self.fault != "any source":
            raise InstrumentError(f"no source {value}")
        return value

    def trigger(self) -> None:
        if self.trigger_source.value != "single" and self.fault != "fires anyhow":
            raise InstrumentError("not in single shot")


def test_delay_generators() -> None:
    good = Generator()
    good.delays["B"].value = 1e-6
    check_delay_generator(good)
    assert good.delays["B"].value == pytest.approx(1e-6)
    assert good.trigger_source.value == "single"
    for fault, words in (
        ("coarse", "delay_A was set"),
        ("crosstalk", "channel B was set"),
        ("no polarity", "positive holds"),
        ("no internal", "no trigger source 'internal'"),
        ("any source", "an unknown source"),
        ("deaf burst", "burst was set to True"),
        ("fires anyhow", r"trigger\(\) on the internal"),
    ):
        with pytest.raises(AssertionError, match=words):
            check_delay_generator(Generator(fault))


def test_a_real_oven_driver(lines: Any, clock: Any) -> None:
    state = {"tset": "30.0", "tmax": "200.0"}

    def answer(line: str) -> str:
        if line == "stat?":
            return "stat?\r11 > "
        name, equals, value = line.partition("=")
        if equals:
            state[name] = value
            return f"{line}\r> "
        known = {"tset?": f"{state['tset']} C", "tmax?": f"{state['tmax']} C", "tact?": "30.0 C"}
        return f"{line}\r{known.get(line, 'TC200')}\r> "

    server = lines(answer, b"\r", b"")

    def make() -> ThorlabsTC200:
        return ThorlabsTC200("oven", server.serial, TC200Settings(), clock)

    check_instrument(make)
    with make() as oven:
        check_settable(oven.temperature, [25.0, 60.5], unit="degC")


def test_a_real_tagger_driver(lines: Any, clock: Any) -> None:
    streaming = threading.Event()
    began = 0.0

    def answer(line: str) -> str | None:
        if line.startswith("INPKT"):
            streaming.set()
        return {"*IDN?": "TDC1", "timestamp;mode?": "3"}.get(line)

    class Synchronous(SFifteenTDC1):
        """Starts and stops only when the scripted box has done so."""

        def start(self) -> None:
            nonlocal began
            super().start()
            assert streaming.wait(5.0)
            began = clock.now()

        def stop(self) -> None:
            streaming.clear()
            super().stop()

    server = lines(answer, b"\r\n", b"\r\n")

    def step(now: float) -> None:
        # a click of input 2 each ms and the turns, as far as the clock has come
        if streaming.is_set():
            for ms in range(round((now - began - 0.1) * 1e3), round((now - began) * 1e3)):
                ticks = ms * 500_000
                turned = ticks // (1 << 27) != max(0, ticks - 500_000) // (1 << 27)
                codes = [0x10, 2] if turned else [2]
                stream = [struct.pack("<I", ticks % (1 << 27) << 5 | code) for code in codes]
                server.push(b"".join(stream))

    clock.on_sleep = step
    with Synchronous("tdc", server.serial, TDC1Settings(), clock) as tagger:
        check_time_tagger(tagger, clock)
