"""Agiltron fibre switch with a CL-LB driver board (FF 1x4, 1x8 and the like).

Serial, 9600 8N1: frames of four bytes. ``01 12 00 n`` switches and comes back as it is,
``01 11 00 00`` asks, and the last byte of the answer is the output.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from ...instruments import Clock, Identity
from ..base import DriverSettings, SerialDriver
from ..signal import ReadOnlySignal, Signal

__all__ = ["AgiltronSwitch", "AgiltronSwitchSettings"]

_ASK = bytes([0x01, 0x11, 0x00, 0x00])
_FRAME = 4

Output = Annotated[int, Field(ge=1, le=64)]


class AgiltronSwitchSettings(DriverSettings):
    """Settings of a switch. None leaves the instrument as it is."""

    outputs: Annotated[int, Field(ge=2, le=64)] = 4
    """How many outputs it has: it does not tell."""
    output: Output | None = None
    """The output that is joined to the input, from 1."""


class AgiltronSwitch(SerialDriver):
    """A switch from one fibre to one of several; it latches.

    Args:
        name: Name on the bench.
        address: Serial port (``COM5``, ``/dev/ttyUSB0``) or pyserial URL.
        settings: What :meth:`configure` writes.
        clock: The bench's clock.
    """

    MODEL = "Agiltron switch"
    Settings: ClassVar[type[AgiltronSwitchSettings]] = AgiltronSwitchSettings

    def __init__(
        self, name: str, address: str, settings: AgiltronSwitchSettings, clock: Clock
    ) -> None:
        super().__init__(name, address, settings, clock, baudrate=9600)
        self._settings = settings
        self.output: Signal[int] = Signal(
            "output", "", self._output, self._set_output, label="Output that is joined to the input"
        )

    @property
    def outputs(self) -> int:
        """How many outputs it has; they are counted from 1."""
        return self._settings.outputs

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the switch."""
        return (self.output,)

    def identify(self) -> Identity:
        """Say what answers: it has no command for that."""
        self._output()
        return Identity("Agiltron", f"1x{self.outputs} switch")

    def configure(self) -> None:
        """Write the settings."""
        if self._settings.output is not None:
            self.output.set(self._settings.output)

    def ready(self) -> bool:
        """Whether it has switched: what it has answered it has done."""
        self._output()
        return True

    def off(self) -> None:
        """Nothing: it latches."""

    def safe(self) -> None:
        """Nothing: which output is the safe one, the bench knows."""

    def _greet(self) -> None:
        self._output()

    def _output(self) -> int:
        reply = self._exchange(_ASK)
        if reply[:3] != _ASK[:3]:
            raise self._endpoint.error(
                "no answer to the question for the output",
                command=_ASK.hex(" "),
                reply=reply.hex(" "),
                hint="is this port an Agiltron switch, at 9600 baud?",
            )
        return reply[3]

    def _set_output(self, output: object) -> None:
        number = output if isinstance(output, (int, np.integer)) else 0
        if isinstance(output, bool) or not 1 <= number <= self.outputs:
            raise self._endpoint.error(
                f"output cannot be {output!r}: it is 1 to {self.outputs}",
                hint="a switch of more outputs says so in its settings: `outputs`",
            )
        frame = bytes([0x01, 0x12, 0x00, int(number)])
        reply = self._exchange(frame)
        if reply != frame:
            raise self._endpoint.error(
                "refused: what it sends back is something else",
                command=frame.hex(" "),
                reply=reply.hex(" "),
                hint=f"does it have {self.outputs} outputs?",
            )

    def _exchange(self, frame: bytes) -> bytes:
        with self._answer_to(frame):
            return self._port.read_exactly(_FRAME, command=frame.hex(" "))
