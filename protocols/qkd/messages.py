"""What two BBM92 parties say to each other.

Each message checks itself in ``check``, called on receipt before anything is used: types, shapes,
ranges, order. What depends on the receiver's state is checked by the receiver. All of it is public.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...instruments import ProtocolError, TimesPs
from ...instruments.tags import Channels
from .parameters import Detectors, Parameters

__all__ = [
    "Abort",
    "Announcement",
    "Bases",
    "Calibration",
    "Confirmation",
    "Delays",
    "Envelope",
    "Message",
    "Monitored",
    "Paired",
    "ParityReply",
    "ParityRequest",
    "Reconciled",
    "Sample",
    "SampleReply",
    "Sifted",
    "Transcript",
    "Verdict",
    "Verification",
]

Bits = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

#: Times beyond this could overflow when delays are added; it is 26 days.
MAX_TIME_PS = 1 << 61
#: Clicks or events in one message.
MAX_EVENTS = 1 << 24
#: Delays that Bob is told: the clocks' offset, up to 1 s, and cables; and what channels may differ.
MAX_DELAY_PS = 2 * 10**12
MAX_SPREAD_PS = 10**6


def _array(name: str, value: object, dtype: type[np.generic], shape: tuple[int, ...] = ()) -> None:
    if not isinstance(value, np.ndarray) or value.dtype != np.dtype(dtype):
        raise ProtocolError(f"{name} is not an array of {np.dtype(dtype)}")
    if value.shape != shape if shape else value.ndim != 1:
        raise ProtocolError(f"{name} has shape {value.shape}")


def _bits(name: str, value: Bits) -> None:
    _array(name, value, np.uint8)
    if value.size and int(value.max()) > 1:
        raise ProtocolError(f"{name} holds other than zeros and ones")


def _increasing(name: str, value: Indices) -> None:
    _array(name, value, np.int64)
    if value.size and (int(value[0]) < 0 or bool(np.any(value[1:] <= value[:-1]))):
        raise ProtocolError(f"{name} are not increasing indices")


def _sorted_times(name: str, value: TimesPs) -> None:
    _array(name, value, np.int64)
    if value.size > MAX_EVENTS:
        raise ProtocolError(f"{name} are more than {MAX_EVENTS:,}: feed shorter batches")
    if not value.size:
        return
    if bool(np.any(value[1:] < value[:-1])):
        raise ProtocolError(f"{name} are not sorted")
    _time(name, int(value[0]))
    _time(name, int(value[-1]))


def _time(name: str, value: object) -> None:
    if type(value) is not int or abs(value) > MAX_TIME_PS:
        raise ProtocolError(f"{name} is not a time in ps within +-2^61")


def _count(name: str, value: object) -> None:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ProtocolError(f"{name} is not a count")


def _digest(name: str, value: object) -> None:
    if type(value) is not bytes or len(value) != 32:
        raise ProtocolError(f"{name} is not a digest of 32 bytes")


def _flag(name: str, value: object) -> None:
    if type(value) is not bool:
        raise ProtocolError(f"{name} is not a flag")


@dataclass(frozen=True, eq=False)
class Calibration:
    """Bob to Alice: every click of the sacrificed segment, and the terms he runs under."""

    parameters: Parameters
    detectors: Detectors
    begin_ps: int
    end_ps: int
    times_ps: TimesPs
    channels: Channels

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        if not isinstance(self.parameters, Parameters):
            raise ProtocolError("parameters are missing")
        if not isinstance(self.detectors, Detectors):
            raise ProtocolError("the map of detectors is missing")
        _time("begin", self.begin_ps)
        _time("end", self.end_ps)
        if self.begin_ps > self.end_ps:
            raise ProtocolError("the calibration segment ends before it begins")
        _sorted_times("calibration times", self.times_ps)
        _array("calibration channels", self.channels, np.int16, self.times_ps.shape)
        if self.times_ps.size and not (
            self.begin_ps <= self.times_ps[0] and self.times_ps[-1] < self.end_ps
        ):
            raise ProtocolError("calibration clicks leave their segment")
        if bool(np.any(~np.isin(self.channels, self.detectors.channels))):
            raise ProtocolError("calibration clicks come from channels that have no meaning")


@dataclass(frozen=True, eq=False)
class Delays:
    """Alice to Bob: what to subtract from each of his channels, and the coincidences found.

    ``coincidences`` counts pairs by outcome, rows Alice, columns Bob, order Z0 Z1 X0 X1.
    """

    channels: Channels
    delays_ps: TimesPs
    coincidences: Indices

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _array("delay channels", self.channels, np.int16)
        _array("delays", self.delays_ps, np.int64, self.channels.shape)
        for delay in self.delays_ps.tolist():
            if abs(delay) > MAX_DELAY_PS:
                raise ProtocolError(f"a delay of {delay} ps is beyond 2 s")
        if self.delays_ps.size and int(np.ptp(self.delays_ps)) > MAX_SPREAD_PS:
            raise ProtocolError("delays of one party's channels differ by more than 1 us")
        if np.unique(self.channels).size != self.channels.size:
            raise ProtocolError("two delays for one channel")
        _array("calibration coincidences", self.coincidences, np.int64, (4, 4))
        if bool(np.any(self.coincidences < 0)):
            raise ProtocolError("negative coincidence counts")


@dataclass(frozen=True, eq=False)
class Announcement:
    """Bob to Alice: times of his next events; nothing earlier than the horizon follows.

    ``first`` is the index of the first event.
    """

    first: int
    times_ps: TimesPs
    horizon_ps: int
    final: bool

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("first event", self.first)
        _sorted_times("event times", self.times_ps)
        _time("horizon", self.horizon_ps)
        _flag("final", self.final)
        if self.times_ps.size and self.times_ps[-1] >= self.horizon_ps:
            raise ProtocolError("events do not lie before their own horizon")


@dataclass(frozen=True, eq=False)
class Paired:
    """Alice to Bob: which of his events below ``upto`` coincide with hers. Never taken back."""

    upto: int
    paired: Indices
    final: bool

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("decided events", self.upto)
        _increasing("paired events", self.paired)
        _flag("final", self.final)
        if self.paired.size and self.paired[-1] >= self.upto:
            raise ProtocolError("paired events lie beyond those decided")


@dataclass(frozen=True, eq=False)
class Bases:
    """Bob to Alice: bases of the events of one :class:`Paired`, 0 for Z, 1 for X, 2 for neither."""

    bases: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _array("bases", self.bases, np.uint8)
        if self.bases.size and int(self.bases.max()) > 2:
            raise ProtocolError("bases are other than Z, X and none")


@dataclass(frozen=True, eq=False)
class Sifted:
    """Alice to Bob: which events of one :class:`Paired` are kept, and which of these she reveals.

    ``kept`` are positions in ``paired``, ``monitored`` positions in ``kept``; ``bits`` her outcomes
    there.
    """

    kept: Indices
    monitored: Indices
    bits: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _increasing("kept events", self.kept)
        _increasing("monitored events", self.monitored)
        _bits("monitor bits", self.bits)
        if self.bits.shape != self.monitored.shape:
            raise ProtocolError("monitored events and bits differ in number")
        if self.monitored.size and self.monitored[-1] >= self.kept.size:
            raise ProtocolError("monitored events are not among those kept")


@dataclass(frozen=True, eq=False)
class Monitored:
    """Bob to Alice: his outcomes of the monitored events of one :class:`Sifted`."""

    bits: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _bits("monitor bits", self.bits)


@dataclass(frozen=True, eq=False)
class Sample:
    """Alice to Bob: the random sample of the block, her bits there, and the lengths to come."""

    block: int
    positions: Indices
    bits: Bits
    leak_budget: int
    key_bits: int
    cascade_key: int

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("block length", self.block)
        _increasing("sample positions", self.positions)
        _bits("sample bits", self.bits)
        _count("leak budget", self.leak_budget)
        _count("key length", self.key_bits)
        if type(self.cascade_key) is not int or not 0 <= self.cascade_key < 1 << 128:
            raise ProtocolError("the permutation key is not one of 128 bits")
        if self.bits.shape != self.positions.shape:
            raise ProtocolError("sample positions and bits differ in number")
        if self.positions.size and self.positions[-1] >= self.block:
            raise ProtocolError("sample positions leave the block")


@dataclass(frozen=True, eq=False)
class SampleReply:
    """Bob to Alice: his bits of the sample."""

    bits: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _bits("sample bits", self.bits)


@dataclass(frozen=True, eq=False)
class ParityRequest:
    """Bob to Alice: the parities he needs, by their numbers in :mod:`.cascade`."""

    wanted: Indices

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _array("wanted", self.wanted, np.int64)
        if not self.wanted.size:
            raise ProtocolError("a request for no parities")


@dataclass(frozen=True, eq=False)
class ParityReply:
    """Alice to Bob: the parities asked for. Each one is a bit of leak."""

    parities: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _bits("parities", self.parities)


@dataclass(frozen=True, eq=False)
class Reconciled:
    """Bob to Alice: all passes done, with this many bits corrected."""

    errors: int

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("errors", self.errors)


@dataclass(frozen=True, eq=False)
class Verification:
    """Alice to Bob: seed and tag of the verification hash, and the seed of the amplification.

    Seeds are packed, eight bits a byte, most significant first.
    """

    seed: Bits
    tag: Bits
    amplification_seed: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _array("verification seed", self.seed, np.uint8)
        _bits("verification tag", self.tag)
        _array("amplification seed", self.amplification_seed, np.uint8)


@dataclass(frozen=True, eq=False)
class Verdict:
    """Bob to Alice: whether the tags agree, and digests of all he sent and received before."""

    equal: bool
    sent: bytes
    received: bytes

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _flag("verdict", self.equal)
        _digest("sent", self.sent)
        _digest("received", self.received)


@dataclass(frozen=True, eq=False)
class Confirmation:
    """Alice to Bob: she holds the key; digests of all she sent and received before."""

    sent: bytes
    received: bytes

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _digest("sent", self.sent)
        _digest("received", self.received)


@dataclass(frozen=True, eq=False)
class Abort:
    """Either way: no key, and why."""

    reason: str

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        if type(self.reason) is not str or len(self.reason) > 1000 or not self.reason.isprintable():
            raise ProtocolError("the reason of an abort is no short line of text")


Message = (
    Calibration
    | Delays
    | Announcement
    | Paired
    | Bases
    | Sifted
    | Monitored
    | Sample
    | SampleReply
    | ParityRequest
    | ParityReply
    | Reconciled
    | Verification
    | Verdict
    | Confirmation
    | Abort
)


@dataclass(frozen=True, eq=False)
class Envelope:
    """A message and its number in its direction, from 0, so that losses and repeats show."""

    number: int
    message: Message

    def check(self) -> None:
        """Raise ProtocolError unless it holds a message, well-formed."""
        message: object = self.message
        if not isinstance(message, Message):
            raise ProtocolError("what came is no message")
        message.check()


class Transcript:
    """Running digest of the messages of one direction.

    It shows accidents on the channel, not an adversary who can rewrite both directions: for that
    the two digests must be authenticated with shared secret key.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=32)

    def add(self, envelope: Envelope) -> None:
        """Append a message."""
        self._text(f"{envelope.number} {type(envelope.message).__name__}")
        for field in dataclasses.fields(envelope.message):
            value: object = getattr(envelope.message, field.name)
            if isinstance(value, np.ndarray):
                little = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"))
                self._text(f"{field.name} {value.dtype.name} {value.shape}")
                self._hash.update(little.tobytes())
            else:
                # ints, flags, text, bytes and the frozen dataclasses of parameters.py, whose
                # repr is the same for equal values
                self._text(f"{field.name} {value!r}")

    def digest(self) -> bytes:
        """Digest of all messages so far, 32 bytes."""
        return self._hash.digest()

    def _text(self, text: str) -> None:
        data = text.encode()
        self._hash.update(len(data).to_bytes(8, "little") + data)
