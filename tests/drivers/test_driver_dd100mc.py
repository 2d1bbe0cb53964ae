"""The DD-100-MC driver, byte for byte: lines, Done, an empty line."""

from typing import Any

import pytest
from bellbench.drivers.oz_optics.dd100mc import DD100MCSettings, OzOpticsDD100MC
from bellbench.instruments import Identity, InstrumentError, InstrumentTimeout


def at(steps: int, decibels: str) -> tuple[bytes, bytes]:
    return b"D\r", f"DPos:{steps}\r\nATTEN:{decibels}\r\nDone\r\n\r\n".encode()


def moved(decibels: str, steps: int) -> tuple[bytes, bytes]:
    return f"A{decibels}\r".encode(), f"Pos:{steps}\r\nDone\r\n\r\n".encode()


def attenuator(address: str, clock: Any, **settings: Any) -> OzOpticsDD100MC:
    return OzOpticsDD100MC("att", address, DD100MCSettings(timeout=0.4, **settings), clock)


def test_conversation(script: Any, clock: Any) -> None:
    server = script(
        at(0, "0.0"),
        moved("12.50", 1250),
        *[at(700, "7.00"), at(1249, "12.49"), at(1249, "12.49"), at(1249, "12.49")],
        at(1249, "12.49"),
    )
    with attenuator(server.serial, clock) as device:
        device.attenuation.set(12.5)
        assert not device.ready()
        assert device.ready()
        assert device.attenuation.get() == 12.49
        assert device.steps.get() == 1249
        assert device.identify() == Identity("OZ Optics", "DD-100-MC")


def test_settings_and_safe(script: Any, clock: Any) -> None:
    server = script(at(0, "0"), moved("3.00", 1), moved("45.00", 2))
    with attenuator(server.serial, clock, attenuation="3 dB", largest="45 dB") as device:
        device.configure()
        device.off()
        device.safe()


def test_limits(script: Any, clock: Any) -> None:
    with attenuator(script(at(0, "0")).serial, clock) as device:
        for bad in (-0.01, 60.01, float("nan")):
            with pytest.raises(InstrumentError, match="accepts 0 to 60 dB"):
                device.attenuation.set(bad)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"Error-2\r\n\r\n", "refused: bad command.*'A1.00'"),
        (b"Error-6\r\n", "refused: out of range"),
        (b"Error-5\r\nDone\r\n\r\n", "back to the maker"),
        (b"Error-9\r\n", "refused: an error.*Error-9"),
        (b"Done\r\n\r\n", "a position expected"),
        (b"x\r\n" * 70, "64 lines and no end"),
    ],
)
def test_refusals_and_it_goes_on(script: Any, clock: Any, answer: bytes, words: str) -> None:
    server = script(at(0, "0"), (b"A1.00\r", answer), at(5, "0.05"))
    with attenuator(server.serial, clock) as device:
        with pytest.raises(InstrumentError, match=words):
            device.attenuation.set(1.0)
        assert device.attenuation.get() == 0.05


def test_nonsense_pieces_and_silence(script: Any, clock: Any) -> None:
    request, answer = at(5, "0.05")
    server = script(
        at(0, "0"),
        (request, b"hello\r\nDone\r\n\r\n"),
        (request, [answer[:3], answer[3:-3], answer[-3:]]),
        (request, answer[:-2]),  # the empty line is missing
        (request, answer),
    )
    with attenuator(server.serial, clock) as device:
        with pytest.raises(InstrumentError, match=r"position and attenuation expected.*homed"):
            device.attenuation.get()
        assert device.attenuation.get() == 0.05
        with pytest.raises(InstrumentTimeout, match="'D'"):
            device.attenuation.get()
        assert device.steps.get() == 5


@pytest.mark.parametrize("wrong", [{"attenuation": -1}, {"largest": 0}, {"largest": "101 dB"}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        DD100MCSettings(**wrong)
