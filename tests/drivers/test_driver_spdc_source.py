"""The SPDC source: what it passes on, in which order, and which parts it takes."""

from typing import Any

import pytest
from bellbench.drivers.spdc_source import SPDCSource, SPDCSourceSettings
from bellbench.drivers.thorlabs.cld1015 import CLD1015Settings, ThorlabsCLD1015
from bellbench.drivers.thorlabs.tc200 import TC200Settings, ThorlabsTC200
from bellbench.instruments import (
    ConfigError,
    Identity,
    Instrument,
    InstrumentError,
    Limits,
    PairSource,
)

NONE = (b"SYST:ERR?\n", b'+0,"No error"\n')
LASER_OPEN = (NONE, (b"UNIT:TEMP?\n", b"CEL\n"))
OVEN_OPEN = ((b"stat?\r", b"stat?\r11 > "),)


def source(laser: str, oven: str, clock: Any) -> SPDCSource:
    parts: dict[str, Instrument] = {
        "laser": ThorlabsCLD1015("pump", laser, CLD1015Settings(timeout=0.5), clock),
        "oven": ThorlabsTC200("oven", oven, TC200Settings(timeout=0.5), clock),
    }
    return SPDCSource("source", parts, SPDCSourceSettings(), clock)


def test_signals_are_those_of_its_parts(script: Any, clock: Any) -> None:
    laser = script(*LASER_OPEN, (b"SOUR:CURR 0.1\n", b""), NONE, (b"OUTP1:STAT?\n", b"1\n"))
    oven = script(
        *OVEN_OPEN,
        (b"tset=38.5\r", b"tset=38.5\r> "),
        (b"tset?\r", b"tset?\r38.5 C\r> "),
        (b"tact?\r", b"tact?\r37.9 C\r> "),
        (b"stat?\r", b"stat?\r11 > "),
    )
    with source(laser.visa, oven.serial, clock) as pairs:
        assert isinstance(pairs, PairSource)
        pairs.pump_current.set(0.1)
        assert pairs.emission.get() is True
        pairs.crystal_temperature.set(38.5)
        assert pairs.crystal_temperature.get() == 38.5
        assert pairs.measured_crystal_temperature.get() == 37.9
        assert pairs.heating.get() is True
        assert pairs.pump_current.limits == Limits(0.0, 1.5)
        with pytest.raises(InstrumentError, match=r"source.*pump_current cannot be set to 2"):
            pairs.pump_current.set(2.0)
        with pytest.raises(InstrumentError, match="True or False"):
            pairs.emission.set("on")  # type: ignore[arg-type]


def test_safe_tries_laser_and_oven(script: Any, clock: Any) -> None:
    laser = script(
        *LASER_OPEN,
        *[(b"OUTP1:STAT OFF\n", b""), NONE, (b"MEAS:CURR?\n", b"0\n")],
        *[(b"OUTP2:STAT OFF\n", b""), (b"SYST:ERR?\n", b'-221,"Settings conflict"\n'), NONE],
    )
    oven = script(*OVEN_OPEN, (b"stat?\r", b"stat?\r10 > "))
    with source(laser.visa, oven.serial, clock) as pairs:
        with pytest.raises(InstrumentError, match="Settings conflict"):
            pairs.safe()
        oven.finish()  # it was made safe although the laser refused


def test_off_leaves_the_oven_warm(script: Any, clock: Any) -> None:
    off = [(b"OUTP1:STAT OFF\n", b""), NONE, (b"MEAS:CURR?\n", b"0\n")]
    laser, oven = script(*LASER_OPEN, *off), script(*OVEN_OPEN)
    with source(laser.visa, oven.serial, clock) as pairs:
        pairs.off()


class Thing:
    name = "thing"
    signals = ()

    def open(self) -> None: ...
    def close(self) -> None: ...
    def off(self) -> None: ...
    def safe(self) -> None: ...
    def ready(self) -> bool:
        return True

    def identify(self) -> Identity:
        return Identity("", "thing")


def test_wrong_parts(clock: Any) -> None:
    laser = ThorlabsCLD1015("pump", "", CLD1015Settings(), clock)
    settings = SPDCSourceSettings()
    with pytest.raises(ConfigError, match="oven is missing"):
        SPDCSource("source", {"laser": laser}, settings, clock)
    with pytest.raises(
        ConfigError, match="thing cannot be the oven: it has no heating, measured_temperature, te"
    ):
        SPDCSource("source", {"laser": laser, "oven": Thing()}, settings, clock)
    oven = ThorlabsTC200("oven", "", TC200Settings(), clock)
    with pytest.raises(ConfigError, match="no part 'fan'"):
        SPDCSource("source", {"laser": laser, "oven": oven, "fan": Thing()}, settings, clock)
