"""The S-Fifteen LCR driver, byte for byte: silent settings, read back."""

from typing import Any

import pytest
from bellbench.drivers.s_fifteen.lcr import LCRSettings, SFifteenLCR
from bellbench.instruments import Identity, InstrumentError, InstrumentTimeout

OPEN = (b"*IDN?\r\n", b"LCD cell driver LCR-001\r\n")


def cells(address: str, clock: Any, **settings: Any) -> SFifteenLCR:
    return SFifteenLCR("cells", address, LCRSettings(timeout=0.4, **settings), clock)


def told(channel: int, volts: str) -> tuple[bytes, bytes]:
    sent = f"AMPLITUDE {channel} {volts}\r\nAMP? {channel}\r\n"
    return sent.encode(), f"{volts}\r\n".encode()


def test_conversation(script: Any, clock: Any) -> None:
    server = script(OPEN, told(3, "4.125"), (b"AMP? 2\r\n", b"1.5\r\n"), OPEN)
    with cells(server.serial, clock) as device:
        assert device.ready()
        device.actuators[2].set(4.125)
        assert not device.ready()  # the cell relaxes
        clock.sleep(0.19)
        assert not device.ready()
        clock.sleep(0.02)
        assert device.ready()
        assert device.actuators[1].get() == 1.5
        assert device.identify() == Identity("S-Fifteen", "LCD cell driver LCR-001")


def test_settings_are_written(script: Any, clock: Any) -> None:
    asked = b"AMP? 1\r\n"
    server = script(
        OPEN,
        (b"FREQ 2000\r\n" + asked, b"0.000\r\n"),
        *[told(1, "0.000"), told(2, "1.500"), told(3, "9.999"), told(4, "0.001")],
        (b"ON\r\n" + asked, b"0.000\r\n"),
        (b"DARK\r\n" + asked, b"0.000\r\n"),
    )
    settings = {
        "frequency": "2 kHz",
        "amplitudes": (0, "1500 mV", "9.999 V", "1 mV"),
        "driven": True,
        "dark": True,
    }
    with cells(server.serial, clock, **settings) as device:
        device.configure()
        assert not device.ready()


def test_nothing_said_nothing_written(script: Any, clock: Any) -> None:
    with cells(script(OPEN).serial, clock) as device:
        device.configure()
        device.off()
        device.safe()
        assert device.ready()


def test_limits(script: Any, clock: Any) -> None:
    with cells(script(OPEN).serial, clock) as device:
        for bad in (-0.001, 10.0, float("nan")):
            with pytest.raises(InstrumentError, match=r"accepts 0 to 9\.999 V"):
                device.actuators[0].set(bad)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"unknown command\r\n4.000\r\n", "refused.*AMPLITUDE 1 4.000.*unknown command"),
        (b"1.000\r\n", "cell 1 stays at 1 V"),
        (b"nonsense\r\n", "refused.*nonsense"),
    ],
)
def test_refusals_and_it_goes_on(script: Any, clock: Any, answer: bytes, words: str) -> None:
    server = script(
        OPEN, (b"AMPLITUDE 1 4.000\r\nAMP? 1\r\n", answer), (b"AMP? 2\r\n", b"2.000\r\n")
    )
    with cells(server.serial, clock) as device:
        with pytest.raises(InstrumentError, match=words):
            device.actuators[0].set(4.0)
        assert device.ready()
        assert device.actuators[1].get() == 2.0


def test_half_an_answer_and_silence(script: Any, clock: Any) -> None:
    request = b"AMP? 1\r\n"
    server = script(
        OPEN,
        (request, b"1.2"),
        (request, b""),
        (request, [b"1", b".25\r", b"\n"]),
        (request, b"x\r\n"),
    )
    with cells(server.serial, clock) as device:
        for _ in range(2):
            with pytest.raises(InstrumentTimeout, match=r"AMP\? 1"):
                device.actuators[0].get()
        assert device.actuators[0].get() == 1.25
        with pytest.raises(InstrumentError, match="a voltage expected"):
            device.actuators[0].get()


def test_another_box_is_refused_at_opening(script: Any, clock: Any) -> None:
    server = script((b"*IDN?\r\n", b"TDC1 0014\r\n"))
    with pytest.raises(InstrumentError, match=r"holds no 'LCD cell driver'.*port of the LCR"):
        cells(server.serial, clock).open()


def test_refused_connection(nobody: int, clock: Any) -> None:
    with pytest.raises(InstrumentError, match="cannot open the port"):
        cells(f"socket://127.0.0.1:{nobody}", clock).open()


@pytest.mark.parametrize("wrong", [{"amplitudes": (0, 0, 0)}, {"amplitudes": (0, 0, 0, 10)}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        LCRSettings(**wrong)
