"""Twin of the Thorlabs MPC320 motorised fibre polarization controller (binary APT).

Sources: Thorlabs' APT protocol as read in thorlabs_apt_device, QMI and pylablib. Paddles turn at a
constant speed in world time; acceleration is left out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from ...instruments import Unit
from ..elements import Paddles
from .base import Setting
from .wire import DeviceSettings, Link, SerialEmulator

__all__ = ["MPC320Emulator"]

Byte = Annotated[int, Field(ge=0, le=255)]
Angle = Annotated[float, Field(ge=0, le=170), Unit("deg")]

_HOST, _DEVICE = 0x01, 0x50
_LONG = 0x80
_COUNTS, _DEGREES = 1370, 170.0
_MAX_SPEED = 400.0 * _COUNTS / _DEGREES  # counts/s at 100 %
_MASK = 0b111
_STATUS_PERIOD_PS = 100_000_000_000  # 10 Hz

# Messages, by the names of the protocol.
_HW_DISCONNECT, _HW_REQ_INFO, _HW_GET_INFO = 0x0002, 0x0005, 0x0006
_START_UPDATE, _STOP_UPDATE, _NO_FLASH = 0x0011, 0x0012, 0x0018
_RICH_RESPONSE = 0x0081
_SET_ENABLE, _REQ_ENABLE, _GET_ENABLE = 0x0210, 0x0211, 0x0212
_IDENTIFY = 0x0223
_SET_POSITION, _REQ_POSITION, _GET_POSITION = 0x0410, 0x0411, 0x0412
_SET_SPEED, _REQ_SPEED, _GET_SPEED = 0x0413, 0x0414, 0x0415
_REQ_BITS, _GET_BITS = 0x0429, 0x042A
_MOVE_HOME, _MOVE_HOMED = 0x0443, 0x0444
_MOVE_RELATIVE, _MOVE_ABSOLUTE, _MOVE_COMPLETED = 0x0448, 0x0453, 0x0464
_MOVE_STOP, _MOVE_STOPPED, _MOVE_JOG = 0x0465, 0x0466, 0x046A
_REQ_STATUS, _GET_STATUS = 0x0480, 0x0481
_REQ_DC_STATUS, _GET_DC_STATUS, _ACK_DC_STATUS = 0x0490, 0x0491, 0x0492
_SAVE = 0x04B9
_SET_POL, _REQ_POL, _GET_POL = 0x0530, 0x0531, 0x0532

#: Data bytes of each message that carries data; the others are six bytes long.
_DATA = {_SET_POSITION: 6, _SET_SPEED: 14, _SAVE: 4, _SET_POL: 12}
_DATA_OR_SHORT = {_MOVE_RELATIVE: 6, _MOVE_ABSOLUTE: 6}
_SHORT = {
    _HW_DISCONNECT, _HW_REQ_INFO, _START_UPDATE, _STOP_UPDATE, _NO_FLASH, _SET_ENABLE, _REQ_ENABLE,
    _IDENTIFY, _REQ_POSITION, _REQ_SPEED, _REQ_BITS, _MOVE_HOME, _MOVE_STOP, _MOVE_JOG,
    _REQ_STATUS, _REQ_DC_STATUS, _ACK_DC_STATUS, _REQ_POL, *_DATA_OR_SHORT,
}  # fmt: skip


@dataclass
class _Channel:
    """One paddle's motor."""

    bit: int
    position: float
    target: float
    jog: int = 25
    moving: bool = False
    homing: bool = False
    homed: bool = False
    forward: bool = True
    stored_absolute: int = 0
    stored_relative: int = 0


class MPC320Emulator(SerialEmulator):
    """A controller with three paddles; channels are the bits 1, 2 and 4."""

    ELEMENT: ClassVar[type[Paddles]] = Paddles
    MODEL: ClassVar[str] = "MPC320"

    class Settings(DeviceSettings):
        """Identity, and where the paddles stood when the box was switched on."""

        serial_number: Annotated[int, Field(ge=0, lt=1 << 32)] = 38123456
        firmware: tuple[Byte, Byte, Byte] = (3, 0, 5)
        """Major, interim, minor."""
        start: tuple[Angle, Angle, Angle] = (0.0, 0.0, 0.0)
        """Angle of each paddle at power-up, deg."""

    def __init__(self, setting: Setting, element: Paddles, settings: Settings) -> None:
        super().__init__(setting, settings)
        self._paddles = element
        self._settings = settings
        positions = [_counts(angle) for angle in settings.start]
        self._channels = [_Channel(1 << i, p, p) for i, p in enumerate(positions)]
        self._enabled = 0
        self._velocity = 50
        self._home = 685
        self._updating = False
        self._now_ps = 0
        self._next_update_ps = 0

    def begin_block(self, begin_ps: int, end_ps: int) -> None:
        """Turn the paddles for one block and set the world's angles to their middle positions."""
        seconds = (end_ps - begin_ps) * 1e-12
        step = self._velocity / 100 * _MAX_SPEED * seconds
        self._now_ps = end_ps
        for i, channel in enumerate(self._channels):
            before = channel.position
            left = channel.target - before
            channel.position = channel.target if abs(left) <= step else before + _sign(left) * step
            angle = (before + channel.position) / 2 * _DEGREES / _COUNTS
            self._paddles.angles_deg[i] = angle

    def end_block(self, begin_ps: int, end_ps: int) -> None:
        """Tell of moves that ended, and the status ten times a second where it was asked for."""
        for channel in self._channels:
            if channel.moving and channel.position == channel.target:
                channel.moving = False
                if channel.homing:
                    channel.homing, channel.homed = False, True
                    self._push(f"homed{channel.bit}", _short(_MOVE_HOMED, channel.bit))
                else:
                    self._push(f"done{channel.bit}", self._completed(_MOVE_COMPLETED, channel))
        if self._updating and end_ps >= self._next_update_ps:
            self._next_update_ps = end_ps + _STATUS_PERIOD_PS
            for channel in self._channels:
                self._push(f"status{channel.bit}", self._completed(_GET_DC_STATUS, channel))

    def _push(self, key: str, message: bytes) -> None:
        for link in self._port.links:
            link.push(key, message)

    async def _serve(self, link: Link) -> None:
        self._updating = False
        buffer = bytearray()
        while data := await link.read():
            buffer += data
            while len(buffer) >= 6:
                size = 6 + (int.from_bytes(buffer[2:4], "little") if buffer[4] & _LONG else 0)
                if size > 255 + 6:
                    # Nothing an APT device takes is that long: the stream has lost its step.
                    link.abort()
                    return
                if len(buffer) < size:
                    break
                message = bytes(buffer[:size])
                del buffer[:size]
                for reply in self._answer(message):
                    await link.send(reply)

    def _answer(self, message: bytes) -> list[bytes]:
        identity, p1, p2, destination = struct.unpack_from("<HBBB", message)
        if destination & ~_LONG != _DEVICE:
            return []  # for another device on the bus
        data = message[6:]
        expected = _DATA.get(identity, _DATA_OR_SHORT.get(identity) if data else 0)
        if (identity not in _SHORT and identity not in _DATA) or len(data) != expected:
            return [_rich(identity, 1, "message not known or of the wrong length")]
        if data:
            return self._take_data(identity, data)
        return self._take_short(identity, p1, p2)

    def _take_data(self, identity: int, data: bytes) -> list[bytes]:
        if identity == _SET_POL:
            _, velocity, home, *jogs = struct.unpack("<6H", data)
            fits = 10 <= velocity <= 100 and all(0 <= c <= _COUNTS for c in (home, *jogs))
            if not fits:
                return [_rich(identity, 2, "parameter out of range")]
            self._velocity, self._home = velocity, home
            for paddle, jog in zip(self._channels, jogs, strict=True):
                paddle.jog = jog
            return []
        channel = self._channel(int.from_bytes(data[:2], "little"))
        if channel is None:
            return [_rich(identity, 3, "no such channel")]
        if identity in (_MOVE_ABSOLUTE, _MOVE_RELATIVE, _SET_POSITION):
            counts = struct.unpack("<i", data[2:])[0]
            if identity == _SET_POSITION:
                channel.position = channel.target = counts
                channel.moving = False
                return []
            if identity == _MOVE_ABSOLUTE:
                channel.stored_absolute = target = counts
            else:
                channel.stored_relative = counts
                target = round(channel.position) + counts
            return self._move(identity, channel, target)
        return []  # velocity of a single channel and saving: taken, without effect here

    def _take_short(self, identity: int, p1: int, p2: int) -> list[bytes]:
        if identity == _HW_REQ_INFO:
            return [self._info()]
        if identity in (_START_UPDATE, _STOP_UPDATE):
            self._updating = identity == _START_UPDATE
            self._next_update_ps = self._now_ps
            return []
        if identity == _SET_ENABLE:
            # The mask is the whole truth: what it does not name is disabled.
            self._enabled = p1 & _MASK if p2 == 1 else self._enabled & ~p1
            return []
        if identity == _REQ_ENABLE:
            # Real units answer with the channels asked for that are on.
            state = 1 if p1 & self._enabled else 2
            return [_short(_GET_ENABLE, p1, state)]
        if identity == _REQ_POL:
            jogs = (channel.jog for channel in self._channels)
            return [_long(_GET_POL, struct.pack("<6H", 0, self._velocity, self._home, *jogs))]
        if identity in (_HW_DISCONNECT, _NO_FLASH, _IDENTIFY, _ACK_DC_STATUS):
            return []
        channel = self._channel(p1)
        if channel is None:
            return [_rich(identity, 3, "no such channel")]
        return self._take_channel(identity, channel, p2)

    def _take_channel(self, identity: int, channel: _Channel, p2: int) -> list[bytes]:
        counts = round(channel.position)
        if identity == _REQ_POSITION:
            return [_long(_GET_POSITION, struct.pack("<Hi", channel.bit, counts))]
        if identity == _REQ_SPEED:
            speed = round(self._velocity / 100 * _MAX_SPEED)
            return [_long(_GET_SPEED, struct.pack("<Hiii", channel.bit, 0, 0, speed))]
        if identity == _REQ_BITS:
            return [_long(_GET_BITS, struct.pack("<HI", channel.bit, self._bits(channel)))]
        if identity == _REQ_STATUS:
            status = struct.pack("<HiiI", channel.bit, counts, counts, self._bits(channel))
            return [_long(_GET_STATUS, status)]
        if identity == _REQ_DC_STATUS:
            return [self._completed(_GET_DC_STATUS, channel)]
        if identity == _MOVE_STOP:
            channel.target = channel.position = counts
            channel.moving = channel.homing = False
            return [self._completed(_MOVE_STOPPED, channel)]
        if identity == _MOVE_HOME:
            return self._move(identity, channel, self._home)
        if identity == _MOVE_JOG:
            return self._move(
                identity, channel, counts + (channel.jog if p2 == 1 else -channel.jog)
            )
        if identity == _MOVE_ABSOLUTE:
            return self._move(identity, channel, channel.stored_absolute)
        return self._move(identity, channel, counts + channel.stored_relative)

    def _move(self, identity: int, channel: _Channel, target: int) -> list[bytes]:
        if not channel.bit & self._enabled:
            return []  # a disabled channel does not move, and says nothing
        if not 0 <= target <= _COUNTS:
            return [_rich(identity, 2, "position out of range")]
        channel.forward = target >= channel.position
        channel.target = target
        channel.moving = True
        channel.homing = identity == _MOVE_HOME
        return []

    def _channel(self, bit: int) -> _Channel | None:
        return next((channel for channel in self._channels if channel.bit == bit), None)

    def _bits(self, channel: _Channel) -> int:
        moving = channel.moving and channel.position != channel.target
        return (
            (moving and channel.forward) << 4
            | (moving and not channel.forward) << 5
            | 1 << 8
            | (moving and channel.homing) << 9
            | channel.homed << 10
            | (not moving) << 13
            | bool(channel.bit & self._enabled) << 31
        )

    def _completed(self, identity: int, channel: _Channel) -> bytes:
        status = (channel.bit, round(channel.position), 0, 0, self._bits(channel))
        return _long(identity, struct.pack("<HihHI", *status))

    def _info(self) -> bytes:
        firmware = bytes([*reversed(self._settings.firmware), 0])  # minor, interim, major
        info = struct.pack(
            "<I8sH4s60xHHH", self._settings.serial_number, b"MPC320", 44, firmware, 1, 0, 3
        )
        return _long(_HW_GET_INFO, info)


def _counts(degrees: float) -> float:
    return round(degrees * _COUNTS / _DEGREES)


def _sign(value: float) -> int:
    return 1 if value > 0 else -1


def _short(identity: int, p1: int, p2: int = 0) -> bytes:
    return struct.pack("<HBBBB", identity, p1, p2, _HOST, _DEVICE)


def _long(identity: int, data: bytes) -> bytes:
    return struct.pack("<HHBB", identity, len(data), _HOST | _LONG, _DEVICE) + data


def _rich(identity: int, code: int, text: str) -> bytes:
    return _long(_RICH_RESPONSE, struct.pack("<HH64s", identity, code, text.encode()))
