"""What every driver on a serial port shares: greeting, and answers that were not read."""

import select
from typing import Any

import pytest
from bellbench.drivers.base import DriverSettings, SerialDriver
from bellbench.instruments import InstrumentError

GREETING = (b"hello\r\n", b"hello back\r\n")


class Box(SerialDriver):
    """Answers each line with a line."""

    MODEL = "Box"

    def ask(self, command: str) -> str:
        with self._answer_to(command.encode() + b"\r\n"):
            return self._line(command)

    def ask_and_be_interrupted(self, command: str) -> None:
        with self._answer_to(command.encode() + b"\r\n"):
            raise KeyboardInterrupt

    def await_bytes(self) -> None:
        """Wait until something has come that nobody has read."""
        port: Any = self._port._port
        assert select.select([port._socket], [], [], 5.0)[0]

    @property
    def is_open(self) -> bool:
        return self._port.is_open

    def _greet(self) -> None:
        if self.ask("hello") != "hello back":
            raise self._endpoint.error("another box")


@pytest.fixture
def box(script: Any, clock: Any) -> Any:
    def make(*steps: tuple[bytes, bytes]) -> Box:
        return Box("box", script(*steps).serial, DriverSettings(timeout=5), clock)

    return make


def test_opening_greets_once_and_again_after_closing(box: Any) -> None:
    device = box(GREETING, GREETING)
    device.open()
    device.open()
    device.close()
    device.close()
    with device:
        assert device.is_open
    assert not device.is_open


def test_who_greets_wrongly_is_closed_and_can_be_opened_again(box: Any) -> None:
    device = box((GREETING[0], b"who?\r\n"), GREETING)
    with pytest.raises(InstrumentError, match="another box"):
        device.open()
    assert not device.is_open
    with device:
        assert device.is_open


def test_the_answer_of_an_interrupted_question_is_thrown_away(box: Any) -> None:
    with box(
        GREETING, (b"one\r\n", b"1\r\n"), (b"two\r\n", b"2\r\n"), (b"three\r\n", b"3\r\n")
    ) as device:
        with pytest.raises(KeyboardInterrupt):
            device.ask_and_be_interrupted("one")
        device.await_bytes()
        assert device.ask("two") == "2"
        assert device.ask("three") == "3"


def test_what_comes_after_a_complete_answer_is_kept(box: Any) -> None:
    with box(GREETING, (b"one\r\n", b"1\r\nmore\r\n"), (b"two\r\n", b"2\r\n")) as device:
        assert device.ask("one") == "1"
        device.await_bytes()
        assert device.ask("two") == "more"
