"""Twin of an Agiltron fibre switch with a CL-LB driver board (frames of four bytes).

Source: QMI's driver, after the maker's command list. Not known from a real unit, and chosen here
(unverified): what it does not know or cannot do is answered with the output it is at, as if asked.
It switches at the next block; the real one takes some ms.
"""

from __future__ import annotations

from typing import ClassVar

from ..elements import OpticalSwitch
from .base import Setting
from .wire import DeviceSettings, Link, SerialEmulator

__all__ = ["AgiltronSwitchEmulator"]

_FRAME = 4


class AgiltronSwitchEmulator(SerialEmulator):
    """The drive of one switch."""

    ELEMENT: ClassVar[type[OpticalSwitch]] = OpticalSwitch
    MODEL: ClassVar[str] = "CL-LB switch"

    class Settings(DeviceSettings):
        """Nothing but the port."""

    def __init__(self, setting: Setting, element: OpticalSwitch, settings: Settings) -> None:
        super().__init__(setting, settings)
        self._switch = element
        self._output = element.selected

    def begin_block(self, begin_ps: int, end_ps: int) -> None:
        """Join the output that was asked for."""
        self._switch.selected = self._output

    async def _serve(self, link: Link) -> None:
        buffer = bytearray()
        while data := await link.read():
            buffer += data
            while len(buffer) >= _FRAME:
                frame = bytes(buffer[:_FRAME])
                del buffer[:_FRAME]
                await link.send(self._answer(frame))

    def _answer(self, frame: bytes) -> bytes:
        if frame[:3] == b"\x01\x12\x00" and 1 <= frame[3] <= self._switch.model.outputs:
            self._output = frame[3]
            return frame
        return bytes([0x01, 0x11, 0x00, self._output])
