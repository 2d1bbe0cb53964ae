"""APT, the binary protocol of Thorlabs motion controllers: its messages, nothing of a device.

Little-endian. A short message is ``u16 id, u8 p1, u8 p2, u8 dest, u8 source``; a long one is
``u16 id, u16 length, u8 dest | 0x80, u8 source`` and the data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

__all__ = ["CONTROLLER", "HEADER", "HOST", "Id", "Message", "Status", "long", "short"]

HOST = 0x01
CONTROLLER = 0x50
HEADER = 6
_LONG = 0x80
_MAX_DATA = 4096


class Id(IntEnum):
    """Message ids used here, by their APT names."""

    HW_REQ_INFO = 0x0005
    HW_GET_INFO = 0x0006
    HW_STOP_UPDATEMSGS = 0x0012
    HW_NO_FLASH_PROGRAMMING = 0x0018
    HW_RESPONSE = 0x0080
    HW_RICHRESPONSE = 0x0081
    MOD_SET_CHANENABLESTATE = 0x0210
    MOD_IDENTIFY = 0x0223
    MOT_MOVE_HOME = 0x0443
    MOT_MOVE_HOMED = 0x0444
    MOT_MOVE_ABSOLUTE = 0x0453
    MOT_MOVE_COMPLETED = 0x0464
    MOT_MOVE_STOP = 0x0465
    MOT_MOVE_STOPPED = 0x0466
    MOT_REQ_DCSTATUSUPDATE = 0x0490
    MOT_GET_DCSTATUSUPDATE = 0x0491
    POL_SET_PARAMS = 0x0530
    POL_REQ_PARAMS = 0x0531
    POL_GET_PARAMS = 0x0532


class Status(IntFlag):
    """Status bits of a channel."""

    HARDWARE_LIMIT = 0b11
    SOFTWARE_LIMIT = 0b1100
    MOVING = 0b1111 << 4  # forward, reverse, jogging forward, jogging reverse
    HOMING = 1 << 9
    HOMED = 1 << 10
    MOTION_ERROR = 1 << 14
    INSTRUCTION_ERROR = 1 << 15
    INTERLOCK = 1 << 16
    OVER_TEMPERATURE = 1 << 17
    SUPPLY = 1 << 18
    OVERLOAD = 1 << 24
    ENCODER_FAULT = 1 << 25
    OVER_CURRENT = 1 << 26
    CURRENT_FAULT = 1 << 27
    ERROR = 1 << 30
    ENABLED = 1 << 31


@dataclass(frozen=True, slots=True)
class Message:
    """A message from the device: its id, its two parameters (short) or its data (long)."""

    id: int
    p1: int = 0
    p2: int = 0
    data: bytes = b""


def short(id_: int, p1: int = 0, p2: int = 0) -> bytes:
    """Bytes of a message without data, from host to controller."""
    return struct.pack("<HBBBB", id_, p1, p2, CONTROLLER, HOST)


def long(id_: int, data: bytes) -> bytes:
    """Bytes of a message with data, from host to controller."""
    return struct.pack("<HHBB", id_, len(data), CONTROLLER | _LONG, HOST) + data


def data_length(header: bytes) -> int:
    """Number of data bytes that follow a header from the controller.

    Raises:
        ValueError: where the six bytes are no such header, as after a lost byte.
    """
    _, length, dest, source = struct.unpack("<HHBB", header)
    if dest & ~_LONG != HOST or source != CONTROLLER:
        raise ValueError(f"destination 0x{dest:02x}, source 0x{source:02x}")
    if not dest & _LONG:
        return 0
    if length > _MAX_DATA:
        raise ValueError(f"{length} data bytes announced")
    return int(length)


def decode(header: bytes, data: bytes) -> Message:
    """Message from its header and data."""
    id_, p1, p2, dest, _ = struct.unpack("<HBBBB", header)
    return Message(id_, data=data) if dest & _LONG else Message(id_, p1, p2)
