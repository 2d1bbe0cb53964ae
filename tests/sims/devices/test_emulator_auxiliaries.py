"""The twins of the attenuator and the switch on their own wires."""

import itertools
import socket
from typing import Any

import pytest
from bellbench.sims.devices.agiltron_switch import AgiltronSwitchEmulator
from bellbench.sims.devices.dd100mc import DD100MCEmulator
from bellbench.sims.elements import Attenuator, AttenuatorModel, OpticalSwitch, SwitchModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


class Motor:
    def __init__(self, stage: Any, **keys: Any) -> None:
        self.stage = stage
        self.element = Attenuator(AttenuatorModel(kind="attenuator", attenuation=10.0))
        self.twin = DD100MCEmulator(
            stage.setting(), self.element, DD100MCEmulator.Settings.model_validate(keys)
        )
        self.where = stage.endpoint(stage.open(self.twin))

    def ask(self, command: str) -> list[str]:
        got = b""
        with socket.create_connection(self.where, 10) as client:
            client.sendall(command.encode("latin-1") + b"\r")
            while not got.endswith(b"\r\n\r\n"):
                data = client.recv(4096)
                assert data, got
                got += data
        return got.decode().removesuffix("\r\n\r\n").split("\r\n")


def test_the_conversation_of_an_attenuator(stage: Any) -> None:
    motor = Motor(stage)
    assert stage.converse(motor.where, [b"D\r"], 32) == (
        b"DPos:1000\r\nATTEN:10.00\r\nDone\r\n\r\n"
    )
    assert motor.ask("A12.5") == ["Pos:1250", "Done"]
    assert motor.ask("D") == ["DPos:1000", "ATTEN:10.00", "Done"]  # on its way in world time
    stage.step(motor.twin, 5)
    assert motor.ask("D") == ["DPos:1250", "ATTEN:12.50", "Done"]
    for command, position in (("S100", 100), ("S+5", 1255), ("S-5", 1245), ("F", 1246), ("H", 0)):
        assert motor.ask(command) == [f"Pos:{position}", "Done"]
    assert motor.ask("S?") == ["Pos:1250", "Done"]
    assert motor.ask("A?") == ["ATTEN:12.50", "Done"]
    assert motor.ask("CD")[0] == "DD-100-MC 100-001"


@pytest.mark.parametrize(
    ("command", "error"),
    [
        *[(c, "Error-2") for c in ("A-1", "A1.234", "Anan", "A", "Q", "Dx", "S", "S1.5", "\xe4")],
        *[(c, "Error-6") for c in ("A60.01", "A999", "S6001", "S-2000")],
    ],
)
def test_nonsense_is_an_error(stage: Any, command: str, error: str) -> None:
    motor = Motor(stage)
    assert motor.ask(command) == [error]
    stage.step(motor.twin, 20)
    assert motor.ask("D")[0] == "DPos:1000"


def test_light_meets_what_lies_on_the_way(stage: Any) -> None:
    """20 ms per dB: half a dB in a block, of which light meets the middle."""
    motor = Motor(stage)
    motor.ask("A12")
    seen = []
    for _ in range(5):
        stage.step(motor.twin)
        seen.append(motor.element.attenuation_db)
    assert seen == pytest.approx([10.25, 10.75, 11.25, 11.75, 12.0])
    passage = motor.element.passage()
    assert passage.transmission == pytest.approx(10**-1.3)  # with 1 dB insertion loss
    assert motor.element.passage() is passage
    fast = Motor(stage, seconds_per_db=0.0)
    fast.ask("A60")
    stage.step(fast.twin, 2)
    assert fast.element.attenuation_db == 60.0


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 10), max_size=4))
def test_any_split_of_the_bytes_gives_the_same_replies(stage: Any, cuts: list[int]) -> None:
    motor = Motor(stage)
    stream = b"A10\rQ\r\nS?\r"
    pieces = [stream[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), len(stream)])]
    wanted = b"Pos:1000\r\nDone\r\n\r\nError-2\r\n\r\nPos:1000\r\nDone\r\n\r\n"
    assert stage.converse(motor.where, [p for p in pieces if p], len(wanted)) == wanted


def test_a_switch_switches_at_the_next_block(stage: Any) -> None:
    element = OpticalSwitch(SwitchModel(kind="switch", outputs=4, selected=2, isolation=40.0))
    twin = AgiltronSwitchEmulator(stage.setting(), element, AgiltronSwitchEmulator.Settings())
    where = stage.endpoint(stage.open(twin))

    def ask(text: str) -> bytes:
        data = bytes.fromhex(text)
        return bytes(stage.converse(where, [data[:3], data[3:]], 4))

    assert ask("01 11 00 00") == b"\x01\x11\x00\x02"
    assert ask("01 12 00 03") == b"\x01\x12\x00\x03"
    assert ask("01 11 00 00") == b"\x01\x11\x00\x03"
    assert element.selected == 2
    stage.step(twin)
    assert element.selected == 3
    passages = [element.passage_to(port) for port in (1, 2, 3, 4)]
    assert [p.transmission for p in passages] == pytest.approx(
        [10**-4.1, 10**-4.1, 0.1**0.1, 10**-4.1]
    )
    assert element.passage_to(3) is passages[2]
    for wrong in ("01 12 00 00", "01 12 00 05", "01 12 01 01", "02 12 00 01", "ff ff ff ff"):
        assert ask(wrong) == b"\x01\x11\x00\x03"
    with pytest.raises(ValueError, match="output 3 of 2"):
        SwitchModel(kind="switch", outputs=2, selected=3)
