"""Twin of the OZ Optics DD-100-MC motorised attenuator (serial ASCII).

Sources: QMI's driver; the list of commands and errors of the maker's manual as quoted by
COO-Utilities' ozoptics. Not known from a real unit, and chosen here (unverified): an error is one
line and an empty one; a move is answered at once, with where it goes, and takes world time; steps
are linear in dB; ``A?`` answers like the second line of ``D``; the words of ``CD``.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field

from ...instruments import Unit
from ..elements import Attenuator
from .base import Setting
from .wire import DeviceSettings, Link, SerialEmulator, Splitter

__all__ = ["DD100MCEmulator"]

_STEPS_PER_DB = 100
_NUMBER = re.compile(r"[0-9]{1,3}(\.[0-9]{0,2})?")
_STEPS = re.compile(r"([+-]?)([0-9]{1,6})")


class _RefusedError(Exception):
    """The line that answers a refused command."""


class DD100MCEmulator(SerialEmulator):
    """A motor that turns one attenuator."""

    ELEMENT: ClassVar[type[Attenuator]] = Attenuator
    MODEL: ClassVar[str] = "DD-100-MC"

    class Settings(DeviceSettings):
        """Identity and abilities."""

        serial_number: str = "100-001"
        largest: Annotated[float, Field(gt=0, le=100), Unit("dB")] = 60.0
        """Most that the unit is calibrated for."""
        seconds_per_db: Annotated[float, Field(ge=0), Unit("s")] = 0.02
        """How long the motor takes for a dB; a plausible speed."""

    def __init__(self, setting: Setting, element: Attenuator, settings: Settings) -> None:
        super().__init__(setting, settings)
        self._attenuator = element
        self._settings = settings
        self._now = element.attenuation_db * _STEPS_PER_DB
        self._target = round(self._now)

    def begin_block(self, begin_ps: int, end_ps: int) -> None:
        """Turn the motor for one block, and set the world's attenuation to its middle."""
        before, pace = self._now, self._settings.seconds_per_db
        most = (end_ps - begin_ps) * 1e-12 / pace * _STEPS_PER_DB if pace > 0 else float("inf")
        self._now += min(max(self._target - before, -most), most)
        self._attenuator.attenuation_db = (before + self._now) / 2 / _STEPS_PER_DB

    async def _serve(self, link: Link) -> None:
        splitter = Splitter(b"\r\n")
        while data := await link.read():
            for line in splitter.feed(data):
                if line:
                    await link.send(self._reply(line.decode("latin-1").strip()))

    def _reply(self, command: str) -> bytes:
        try:
            lines = [*self._run(command), "Done", ""]
        except _RefusedError as error:
            lines = [str(error), ""]
        return "".join(f"{line}\r\n" for line in lines).encode("latin-1")

    def _run(self, command: str) -> list[str]:
        steps = round(self._now)
        decibels = f"ATTEN:{steps / _STEPS_PER_DB:.2f}"
        if command == "D":
            return [f"DPos:{steps}", decibels]
        if command == "A?":
            return [decibels]
        if command == "S?":
            return [f"Pos:{steps}"]
        if command == "CD":
            return [f"{self.MODEL} {self._settings.serial_number}", "ECHO: OFF"]
        if command == "H":
            return self._go(0)
        if command in ("F", "B"):
            return self._go(self._target + (1 if command == "F" else -1))
        if command[:1] == "A" and _NUMBER.fullmatch(command[1:]):
            return self._go(round(float(command[1:]) * _STEPS_PER_DB))
        if command[:1] == "S" and (found := _STEPS.fullmatch(command[1:])):
            sign, number = found[1], int(found[2])
            return self._go(
                {"": 0, "+": steps, "-": steps}[sign] + (-number if sign == "-" else number)
            )
        raise _RefusedError("Error-2")

    def _go(self, steps: int) -> list[str]:
        if not 0 <= steps <= round(self._settings.largest * _STEPS_PER_DB):
            raise _RefusedError("Error-6")
        self._target = steps
        return [f"Pos:{steps}"]
