"""OZ Optics DD-100-MC: a motorised variable attenuator.

Serial, 9600 8N1. Commands end CR; answers are lines, then ``Done`` and an empty line, or an
``Error-n``.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field

from ...instruments import Clock, Identity, Limits, Unit
from ..base import DriverSettings, SerialDriver
from ..signal import LimitedSignal, ReadOnlySignal

__all__ = ["DD100MCSettings", "OzOpticsDD100MC"]

_LINES = 64  # longest answer
_ARRIVED_DB = 0.02
_NUMBER = r"([+-]?\d+(?:\.\d+)?)"
_ERRORS = {
    "Error-2": "bad command",
    "Error-5": "home sensor error: it has to go back to the maker",
    "Error-6": "out of range",
    "Error-7": "motor voltage beyond its safe limits",
}


class DD100MCSettings(DriverSettings):
    """Settings of a DD-100-MC. None leaves the instrument as it is."""

    timeout: Annotated[float, Field(gt=0, le=600), Unit("s")] = 10.0
    """Longest wait for an answer, in wall time: it may answer when it has arrived, s."""
    attenuation: Annotated[float, Field(ge=0, le=100), Unit("dB")] | None = None
    """Attenuation besides the insertion loss, dB, on a grid of 0.01 dB."""
    largest: Annotated[float, Field(gt=0, le=100), Unit("dB")] = 60.0
    """Most that this unit is calibrated for: its label says it, dB."""


class OzOpticsDD100MC(SerialDriver):
    """A variable attenuator.

    Args:
        name: Name on the bench.
        address: Serial port (``COM5``, ``/dev/ttyUSB0``) or pyserial URL.
        settings: What :meth:`configure` writes.
        clock: The bench's clock.
    """

    MODEL = "OZ Optics DD-100-MC"
    Settings: ClassVar[type[DD100MCSettings]] = DD100MCSettings

    def __init__(self, name: str, address: str, settings: DD100MCSettings, clock: Clock) -> None:
        super().__init__(name, address, settings, clock, baudrate=9600)
        self._settings = settings
        self._target: float | None = None
        self.attenuation = LimitedSignal(
            "attenuation",
            "dB",
            lambda: self._position()[1],
            self._set_attenuation,
            label="Attenuation besides the insertion loss",
            limits=Limits(0.0, settings.largest),
            endpoint=self._endpoint,
        )
        self.steps: ReadOnlySignal[int] = ReadOnlySignal(
            "steps", "", lambda: self._position()[0], label="Motor steps from its home position"
        )

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the attenuator."""
        return (self.attenuation, self.steps)

    def identify(self) -> Identity:
        """Say what answers: how it tells its serial number is not known."""
        self._position()
        return Identity("OZ Optics", "DD-100-MC")

    def configure(self) -> None:
        """Write the settings; a move starts and goes on by itself."""
        if self._settings.attenuation is not None:
            self.attenuation.set(self._settings.attenuation)

    def ready(self) -> bool:
        """Whether it has come to where it was set."""
        found = self._position()[1]
        return self._target is None or abs(found - self._target) <= _ARRIVED_DB

    def off(self) -> None:
        """Nothing: the motor holds without power."""

    def safe(self) -> None:
        """Attenuate most, so that no detector behind it sees too much light."""
        self.open()
        self.attenuation.set(self._settings.largest)

    def _greet(self) -> None:
        self._target = None
        self._position()

    def _set_attenuation(self, decibels: float) -> None:
        command = f"A{decibels:.2f}"
        answer = self._ask(command)
        if not answer or not answer[-1].startswith("Pos:"):
            raise self._endpoint.error(
                "a position expected", command=command, reply="; ".join(answer)
            )
        self._target = round(decibels, 2)

    def _position(self) -> tuple[int, float]:
        """Steps from home, and attenuation in dB."""
        answer = "; ".join(self._ask("D"))
        found = re.fullmatch(rf"DPos: ?([+-]?\d+); ATTEN: ?{_NUMBER}", answer)
        if found is None:
            raise self._endpoint.error(
                "position and attenuation expected",
                command="D",
                reply=answer,
                hint="is this port a DD-100-MC? has it been homed?",
            )
        return int(found[1]), float(found[2])

    def _ask(self, command: str) -> list[str]:
        """Send a command and return the lines that answer it."""
        with self._answer_to(command.encode("ascii") + b"\r"):
            answer: list[str] = []
            while (line := self._line(command)) != "Done":
                if line.startswith("Error"):
                    words = _ERRORS.get(line, "an error")
                    raise self._endpoint.error(f"refused: {words}", command=command, reply=line)
                if len(answer) == _LINES:
                    raise self._endpoint.error(
                        f"{_LINES} lines and no end", command=command, reply=line
                    )
                answer.append(line)
            self._line(command)  # an empty one
            return [line for line in answer if line]
