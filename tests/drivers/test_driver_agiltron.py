"""The Agiltron switch's driver, byte for byte."""

from typing import Any

import pytest
from bellbench.drivers.agiltron.switch import AgiltronSwitch, AgiltronSwitchSettings
from bellbench.instruments import Identity, InstrumentError, InstrumentTimeout


def at(output: int) -> tuple[bytes, bytes]:
    return bytes([1, 0x11, 0, 0]), bytes([1, 0x11, 0, output])


def to(output: int) -> tuple[bytes, bytes]:
    return bytes([1, 0x12, 0, output]), bytes([1, 0x12, 0, output])


def switch(address: str, clock: Any, **settings: Any) -> AgiltronSwitch:
    settings = {"timeout": 0.4, **settings}
    return AgiltronSwitch("switch", address, AgiltronSwitchSettings(**settings), clock)


def test_conversation(script: Any, clock: Any) -> None:
    server = script(at(1), to(3), *[at(3)] * 3, to(8))
    with switch(server.serial, clock, outputs=8, output=8) as device:
        device.output.set(3)
        assert device.ready()
        assert device.output.get() == 3
        assert device.identify() == Identity("Agiltron", "1x8 switch")
        device.configure()
        device.off()
        device.safe()


def test_outputs_that_are_not_there(script: Any, clock: Any) -> None:
    with switch(script(at(1)).serial, clock) as device:
        wrong: Any
        for wrong in (0, 5, -1, 2.0, True, "2", None):
            with pytest.raises(InstrumentError, match="it is 1 to 4"):
                device.output.set(wrong)


@pytest.mark.parametrize("answer", [bytes([1, 0x11, 0, 2]), bytes([1, 0x12, 0, 2]), b"\xff" * 4])
def test_another_echo_is_a_refusal(script: Any, clock: Any, answer: bytes) -> None:
    server = script(at(2), (to(3)[0], answer), at(2))
    with switch(server.serial, clock) as device:
        with pytest.raises(InstrumentError, match=r"refused.*01 12 00 03.*4 outputs"):
            device.output.set(3)
        assert device.output.get() == 2


def test_pieces_nonsense_and_silence(script: Any, clock: Any) -> None:
    request, answer = at(2)
    server = script(
        at(1),
        (request, [answer[:1], answer[1:]]),
        (request, b"\x02" * 4),
        (request, answer[:3]),
        (request, answer),
    )
    with switch(server.serial, clock) as device:
        assert device.output.get() == 2
        with pytest.raises(InstrumentError, match="no answer to the question"):
            device.output.get()
        with pytest.raises(InstrumentTimeout, match="01 11 00 00"):
            device.output.get()
        assert device.output.get() == 2


@pytest.mark.parametrize("wrong", [{"outputs": 1}, {"output": 0}, {"outputs": 65}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        AgiltronSwitchSettings(**wrong)
