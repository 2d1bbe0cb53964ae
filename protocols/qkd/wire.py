"""Messages as bytes and back: what travels is what is authenticated.

A frame is the version, the kind of the message, the block (0 for the session, b + 1 for block b)
and the number of the frame in its direction, then the fields of the message in their order.
Integers are LEB128, signed ones zigzag; bits are packed, most significant first. Increasing numbers
(times, indices) are Golomb-Rice coded gaps: the quotients in unary, then the remainders, which
takes some ``log2(mean gap) + 1.5`` bits each (the entropy of random gaps is 1.44 instead of 1.5).

:func:`decode` raises ProtocolError for anything that :func:`encode` would not have written: other
versions, unknown kinds, wrong sizes, bits set in the padding, numbers of more bytes than needed,
and whatever a message's own ``check`` refuses. No array is larger than its limit before it is made.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

import numpy as np
import numpy.typing as npt

from ...instruments import ProtocolError
from ...instruments.tags import Channels
from . import messages as msg

__all__ = ["MAX_FRAME", "VERSION", "Frame", "decode", "encode"]

VERSION = 1
#: Bytes of one frame.
MAX_FRAME = 1 << 26

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

#: Kinds by their number on the wire; a number is never used for anything else again.
_KINDS: dict[int, type[Any]] = {
    1: msg.Calibration,
    2: msg.Delays,
    3: msg.Announcement,
    4: msg.Paired,
    5: msg.Bases,
    6: msg.Sifted,
    7: msg.Monitored,
    8: msg.Sample,
    9: msg.SampleReply,
    10: msg.Reconciliation,
    11: msg.ParityRequest,
    12: msg.ParityReply,
    13: msg.Syndrome,
    14: msg.Undecoded,
    15: msg.Reconciled,
    16: msg.Verification,
    17: msg.Verdict,
    18: msg.Confirmation,
    19: msg.Failed,
    20: msg.Tag,
    21: msg.Abort,
    22: msg.Sent,
    23: msg.Received,
    24: msg.Detected,
    25: msg.Prepared,
    26: msg.Tested,
    27: msg.Heralds,
    28: msg.Heralded,
    29: msg.Matched,
    30: msg.Compared,
    31: msg.SiftedTests,
}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}
_GOLDEN = -math.log((math.sqrt(5.0) - 1.0) / 2.0)  # ln of the golden ratio
#: Arrays that hold neither bits nor increasing numbers: values a byte, or of no order.
_SMALL = {"outcomes": 4, "rows": 256, "intensities": 4}
_ANY_ORDER = {"known_ps", "delays_ps", "coincidences"}
#: What is wrong with increasing numbers.
_GAPS = {
    1: "gaps between numbers are not written as they should be",
    2: "a gap between numbers is too large",
    3: "numbers grow too large",
}
#: Increasing, but two may be equal; of the others, indices, no two are.
_TIMES = {"times", "times_ps"}


@dataclass(frozen=True, slots=True)
class Frame:
    """A message on its way.

    Attributes:
        block: Number of its block; None for the session.
        number: Of the frame in its direction, from 0.
        message: The message.
    """

    block: int | None
    number: int
    message: msg.Message


def encode(frame: Frame) -> bytes:
    """The bytes of a frame.

    Raises:
        ProtocolError: where the message is malformed or too large.
    """
    frame.message.check()
    out = bytearray((VERSION, _NUMBERS[type(frame.message)]))
    _put_count(out, 0 if frame.block is None else frame.block + 1)
    _put_count(out, frame.number)
    for name, put, _ in _FIELDS[type(frame.message)]:
        put(out, getattr(frame.message, name))
    if len(out) > MAX_FRAME:
        raise ProtocolError(
            f"a {type(frame.message).__name__} of {len(out):,} bytes; {MAX_FRAME:,} is the most:"
            " feed shorter batches, or make smaller blocks"
        )
    return bytes(out)


def decode(data: bytes) -> Frame:
    """The frame in these bytes, checked.

    Raises:
        ProtocolError: where they are anything else.
    """
    if type(data) is not bytes or not 4 <= len(data) <= MAX_FRAME:
        raise ProtocolError(f"what came is no message: not 4 to {MAX_FRAME:,} bytes")
    if data[0] != VERSION:
        raise ProtocolError(f"a message of version {data[0]}; this is version {VERSION}")
    kind = _KINDS.get(data[1])
    if kind is None:
        raise ProtocolError(f"a message of kind {data[1]}, which this version does not know")
    reader = _Reader(data, 2)
    block, number = reader.count(), reader.count()
    message = kind(*(get(reader) for _, _, get in _FIELDS[kind]))
    reader.end()
    message.check()
    return Frame(block - 1 if block else None, number, message)


class _Reader:
    """Takes fields off a frame."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise ProtocolError("a message ends before its last field")
        begin, self._at = self._at, self._at + size
        return self._data[begin : self._at]

    def end(self) -> None:
        if self._at != len(self._data):
            raise ProtocolError("a message goes on after its last field")

    def count(self) -> int:
        """An unsigned number of up to 63 bits."""
        if self._at < len(self._data) and (byte := self._data[self._at]) < 128:
            self._at += 1
            return byte
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                if (byte == 0 and shift) or value >> 63:
                    raise ProtocolError("a number is not written as it should be")
                return value
            shift += 7
            if shift > 56:
                raise ProtocolError("a number is too large")

    def whole(self) -> int:
        value = self.count()
        return (value >> 1) ^ -(value & 1)

    def flag(self) -> bool:
        byte = self.take(1)[0]
        if byte > 1:
            raise ProtocolError("a flag is neither true nor false")
        return bool(byte)

    def data(self) -> bytes:
        return self.take(self._size(msg.MAX_BITS // 8))

    def text(self) -> str:
        try:
            return self.data().decode()
        except UnicodeDecodeError as error:
            raise ProtocolError("a text is not UTF-8") from error

    def bits(self) -> UInt8:
        return self._unpack(self._size(msg.MAX_BITS))

    def small(self, values: int) -> UInt8:
        """Numbers below ``values``, in as few whole bits as hold them."""
        width = (values - 1).bit_length()
        count = self._size(msg.MAX_EVENTS)
        planes = self._unpack(count * width).reshape(width, count)
        found = np.zeros(count, np.uint8)
        for plane in planes:
            found = found << np.uint8(1) | plane
        return found

    def increasing(self, step: int) -> Int64:
        count = self._size(2 * msg.MAX_EVENTS)
        if not count:
            return np.zeros(0, np.int64)
        first, k, length = self.whole(), self.count(), self.count()
        if k > 62 or not count - 1 <= length <= 8 * len(self._data):
            raise ProtocolError(_GAPS[1])
        from . import _kernels_wire

        values = np.empty(count, np.int64)
        values[0] = first
        quotients, rests = self._packed(length), self._packed(k * (count - 1))
        wrong = _kernels_wire.get_gaps(quotients, length, rests, k, step, values)
        if wrong:
            raise ProtocolError(_GAPS[wrong])
        return values

    def numbers(self) -> Int64:
        return np.array([self.whole() for _ in range(self._size(256))], np.int64)

    def channels(self) -> Channels:
        found = self.numbers()
        if found.size and int(np.abs(found).max()) >= 1 << 15:
            raise ProtocolError("a channel beyond 16 bits")
        return found.astype(np.int16)

    def matrix(self) -> Int64:
        found = self.numbers()
        if found.size != 16:
            raise ProtocolError("a table that is not of 4 by 4")
        return found.reshape(4, 4)

    def _size(self, most: int) -> int:
        size = self.count()
        if size > most:
            raise ProtocolError(f"a field of {size:,} entries; {most:,} is the most")
        return size

    def _packed(self, count: int) -> UInt8:
        packed = np.frombuffer(self.take(-(-count // 8)), np.uint8)
        if count % 8 and packed[-1] & (0xFF >> count % 8):
            raise ProtocolError("bits are set in the padding")
        return packed

    def _unpack(self, count: int) -> UInt8:
        return np.unpackbits(self._packed(count), count=count)


def _put_count(out: bytearray, value: int) -> None:
    if not 0 <= value < 1 << 63:
        raise ProtocolError(f"{value} is not a number of up to 63 bits")
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def _put_whole(out: bytearray, value: int) -> None:
    _put_count(out, value << 1 if value >= 0 else (-value << 1) - 1)


def _put_data(out: bytearray, value: bytes) -> None:
    _put_count(out, len(value))
    out += value


def _put_bits(out: bytearray, value: UInt8) -> None:
    _put_count(out, value.size)
    out += np.packbits(value).tobytes()


def _put_small(out: bytearray, value: UInt8, values: int) -> None:
    _put_count(out, value.size)
    width = (values - 1).bit_length()
    planes = [(value >> np.uint8(shift)) & np.uint8(1) for shift in reversed(range(width))]
    out += np.packbits(np.concatenate(planes)).tobytes()


def _put_increasing(out: bytearray, value: Int64, step: int) -> None:
    _put_count(out, value.size)
    if not value.size:
        return
    n = value.size - 1
    # Best for geometric gaps (Kiely, IPN Progress Report 42-159, 2004, eq. (4)). Outliers cannot
    # make it costly, since the quotients add up to at most 2.1 for each gap.
    mean = (int(value[-1]) - int(value[0])) / n - step if n else 0.0
    k = max(0, 1 + math.floor(math.log2(_GOLDEN * mean + 1e-9)))
    from . import _kernels_wire

    length = _kernels_wire.unary_bits(value, step, k)
    unary = np.zeros(-(-length // 8), np.uint8)
    rests = np.empty(-(-k * n // 8), np.uint8)
    _kernels_wire.put_gaps(value, step, k, unary, rests)
    _put_whole(out, int(value[0]))
    _put_count(out, k)
    _put_count(out, length)
    out += unary.tobytes()
    out += rests.tobytes()


def _put_numbers(out: bytearray, value: npt.NDArray[Any]) -> None:
    flat = value.reshape(-1).tolist()
    _put_count(out, len(flat))
    for one in flat:
        _put_whole(out, one)


_Put = Callable[[bytearray, Any], None]
_Get = Callable[[_Reader], Any]


def _fields_of(kind: Any) -> tuple[tuple[str, _Put, _Get], ...]:
    """How each field of a message is written and read."""
    types = get_type_hints(kind)
    return tuple(
        (field.name, *_field(field.name, types[field.name])) for field in dataclasses.fields(kind)
    )


def _field(name: str, wanted: Any) -> tuple[_Put, _Get]:
    if name in _SMALL:
        values = _SMALL[name]
        return lambda out, value: _put_small(out, value, values), lambda r: r.small(values)
    if name == "coincidences":
        return _put_numbers, _Reader.matrix
    if name in _ANY_ORDER:
        return _put_numbers, _Reader.numbers
    ways: dict[Any, tuple[_Put, _Get]] = {
        bool: (lambda out, value: out.append(value), _Reader.flag),
        int: (_put_whole, _Reader.whole),
        bytes: (_put_data, _Reader.data),
        str: (lambda out, value: _put_data(out, value.encode()), _Reader.text),
    }
    if wanted in ways:
        return ways[wanted]
    if wanted == msg.Bits:
        return _put_bits, _Reader.bits
    if wanted == Channels:
        return _put_numbers, _Reader.channels
    step = 0 if name in _TIMES else 1
    return lambda out, value: _put_increasing(out, value, step), lambda r: r.increasing(step)


_FIELDS: dict[type[Any], tuple[tuple[str, _Put, _Get], ...]] = {
    kind: _fields_of(kind) for kind in _KINDS.values()
}
