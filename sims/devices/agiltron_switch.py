"""Twin of an Agiltron fibre switch with a CL-LB driver board (frames of four bytes).

Source: QMI's driver, after the maker's command list. Not known from a real unit, and chosen here
(unverified): what it does not know or cannot do is answered with the output it is at, as if asked.
It switches at the next block; the real one takes some ms.
"""

from __future__ import annotations

from typing import ClassVar

from ..elements import OpticalSwitch
from .base import Setting
from .wire import DeviceSettings, Link, Port, chaos_generator, reachable

__all__ = ["AgiltronSwitchEmulator"]

_FRAME = 4


class AgiltronSwitchEmulator:
    """The drive of one switch."""

    ELEMENT: ClassVar[type[OpticalSwitch]] = OpticalSwitch
    MODEL: ClassVar[str] = "CL-LB switch"

    class Settings(DeviceSettings):
        """Nothing but the port."""

    def __init__(self, setting: Setting, element: OpticalSwitch, settings: Settings) -> None:
        self._setting = setting
        self._switch = element
        self._settings = settings
        self._output = element.selected
        self._port = Port(
            setting, self._serve, clients=1, chaos=chaos_generator(setting, settings.chaos)
        )

    async def open(self) -> str:
        """Bind the port; return the pyserial URL."""
        port = await self._port.open(self._settings.port)
        return f"socket://{reachable(self._setting.host)}:{port}"

    def begin_block(self, begin_ps: int, end_ps: int) -> None:
        """Join the output that was asked for."""
        self._switch.selected = self._output

    def end_block(self, begin_ps: int, end_ps: int) -> None:
        """Nothing is pushed."""

    async def close(self) -> None:
        """Close the connection and the port."""
        await self._port.close()

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
