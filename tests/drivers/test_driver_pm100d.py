"""The PM100D driver, byte for byte."""

from typing import Any

import pytest
from bellbench.drivers.thorlabs.pm100d import PM100DSettings, ThorlabsPM100D
from bellbench.instruments import InstrumentError, PowerMeter

NONE = (b"SYST:ERR?\n", b'+0,"No error"\n')
OPEN = (
    NONE,
    (b"SENS:CORR:WAV? MIN\n", b"4.000000E+02\n"),
    (b"SENS:CORR:WAV? MAX\n", b"1.100000E+03\n"),
)


def meter(address: str, clock: Any, **settings: Any) -> ThorlabsPM100D:
    return ThorlabsPM100D("meter", address, PM100DSettings(timeout=0.4, **settings), clock)


def setting(command: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return (command + b"\n", b""), NONE


def test_conversation(script: Any, clock: Any) -> None:
    server = script(
        *OPEN,
        (b"*IDN?\n", b"Thorlabs,PM100D,P0012345,2.4.0\n"),
        (b"MEAS:POW?\n", b"1.234500E-03\n"),
        (b"SENS:CORR:WAV?\n", b"8.100000E+02\n"),
        (b"SENS:AVER:COUN?\n", b"10\n"),
        (b"SENS:POW:RANG:AUTO?\n", b"1\n"),
        (b"SENS:POW:RANG:UPP?\n", b"5.0E-3\n"),
        *setting(b"SENS:CORR:WAV 405"),
        *setting(b"SENS:AVER:COUN 100"),
        *setting(b"SENS:POW:RANG:AUTO OFF"),
        *setting(b"SENS:POW:RANG:UPP 0.005"),
    )
    settings = {"wavelength": "405 nm", "averages": 100, "auto_range": False, "range": "5 mW"}
    with meter(server.visa, clock, **settings) as device:
        assert isinstance(device, PowerMeter)
        assert device.identify().serial == "P0012345"
        assert device.power.get() == 1.2345e-3
        assert device.wavelength.get() == pytest.approx(810e-9)
        assert device.averages.get() == 10
        assert device.auto_range.get() is True
        assert device.range.get() == 5e-3
        limits = device.wavelength.limits
        assert [limits.low, limits.high] == pytest.approx([400e-9, 1100e-9])
        device.configure()
        with pytest.raises(InstrumentError, match="wavelength cannot be set"):
            device.wavelength.set(1550e-9)


def test_no_valid_reading(script: Any, clock: Any) -> None:
    server = script(*OPEN, (b"MEAS:POW?\n", b"9.9E+37\n"))
    with meter(server.visa, clock) as device, pytest.raises(InstrumentError, match="over range"):
        device.power.get()


def test_both_ranges() -> None:
    with pytest.raises(ValueError, match="either auto_range or range"):
        PM100DSettings(auto_range=True, range=1e-3)
