"""What two parties say to each other; :mod:`.wire` turns it into bytes.

Each message checks itself in ``check``, called on receipt before anything is used: types, shapes,
ranges, order. What depends on the receiver's state is checked by the receiver. All of it is public.

A message belongs to one block, or to the session as a whole (``SESSION``). What is ``SIGNED`` is
followed at once by a :class:`Tag` over all messages of its block in its direction, and does nothing
before the tag was found right. ``SENDER`` is the role that says it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ...instruments import ProtocolError, TimesPs
from ...instruments.tags import Channels

__all__ = [
    "Abort",
    "Announcement",
    "Bases",
    "Calibration",
    "Compared",
    "Confirmation",
    "Delays",
    "Detected",
    "Failed",
    "Heralded",
    "Heralds",
    "Matched",
    "Message",
    "Monitored",
    "Paired",
    "ParityReply",
    "ParityRequest",
    "Prepared",
    "Received",
    "Reconciled",
    "Reconciliation",
    "Sample",
    "SampleReply",
    "Sent",
    "Sifted",
    "SiftedTests",
    "Syndrome",
    "Tag",
    "Tested",
    "Undecoded",
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
#: Bits of one message: seeds of the largest hashes.
MAX_BITS = 1 << 28


def _array(name: str, value: object, dtype: type[np.generic], shape: tuple[int, ...] = ()) -> None:
    if not isinstance(value, np.ndarray) or value.dtype != np.dtype(dtype):
        raise ProtocolError(f"{name} is not an array of {np.dtype(dtype)}")
    if value.shape != shape if shape else value.ndim != 1:
        raise ProtocolError(f"{name} has shape {value.shape}")


def _bits(name: str, value: Bits, most: int = MAX_BITS) -> None:
    _array(name, value, np.uint8)
    if value.size > most:
        raise ProtocolError(f"{name} holds more than {most:,} bits")
    if value.size and int(value.max()) > 1:
        raise ProtocolError(f"{name} holds other than zeros and ones")


def _increasing(name: str, value: Indices) -> None:
    _array(name, value, np.int64)
    if value.size > 2 * MAX_EVENTS:
        raise ProtocolError(f"{name} are more than {2 * MAX_EVENTS:,}")
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


def _count(name: str, value: object, most: int = (1 << 62) - 1) -> None:
    if type(value) is not int or not 0 <= value <= most:
        raise ProtocolError(f"{name} is not a count")


def _flag(name: str, value: object) -> None:
    if type(value) is not bool:
        raise ProtocolError(f"{name} is not a flag")


def _line(name: str, value: object) -> None:
    if type(value) is not str or len(value) > 1000 or not value.isprintable():
        raise ProtocolError(f"{name} is no short line of text")


@dataclass(frozen=True, eq=False)
class _Said:
    SENDER: ClassVar[tuple[str, ...]] = ("alice",)
    SIGNED: ClassVar[bool] = False
    SESSION: ClassVar[bool] = False

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""


@dataclass(frozen=True, eq=False)
class Calibration(_Said):
    """Bob to Alice: every click of the sacrificed segment, and what his channels mean.

    Attributes:
        channels: His tagger's channels, increasing.
        outcomes: Meaning of each, 0 to 3 for Z0, Z1, X0, X1.
        known_ps: Delays of his channels among themselves from a calibration of his own, or empty.
        begin_ps: Begin of the segment.
        end_ps: Its end.
        times_ps: The clicks.
        rows: For each click the position in ``channels``.
    """

    SENDER: ClassVar[tuple[str, ...]] = ("bob",)
    SIGNED: ClassVar[bool] = True
    SESSION: ClassVar[bool] = True

    channels: Channels
    outcomes: Bits
    known_ps: TimesPs
    begin_ps: int
    end_ps: int
    times_ps: TimesPs
    rows: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _array("calibration channels", self.channels, np.int16)
        if not 1 <= self.channels.size <= 256 or bool(
            np.any(self.channels[1:] <= self.channels[:-1])
        ):
            raise ProtocolError("calibration channels are not 1 to 256 increasing numbers")
        _array("calibration outcomes", self.outcomes, np.uint8, self.channels.shape)
        if int(self.outcomes.max()) > 3:
            raise ProtocolError("calibration outcomes are other than Z0, Z1, X0, X1")
        _array("known delays", self.known_ps, np.int64)
        if self.known_ps.size:
            _array("known delays", self.known_ps, np.int64, self.channels.shape)
            for delay in self.known_ps.tolist():
                if abs(delay) > MAX_SPREAD_PS:
                    raise ProtocolError("a known delay is beyond 1 us")
        _time("begin", self.begin_ps)
        _time("end", self.end_ps)
        if self.begin_ps > self.end_ps:
            raise ProtocolError("the calibration segment ends before it begins")
        _sorted_times("calibration times", self.times_ps)
        _array("calibration clicks", self.rows, np.uint8, self.times_ps.shape)
        if not self.times_ps.size:
            return
        if not (self.begin_ps <= self.times_ps[0] and self.times_ps[-1] < self.end_ps):
            raise ProtocolError("calibration clicks leave their segment")
        if int(self.rows.max()) >= self.channels.size:
            raise ProtocolError("calibration clicks come from channels that have no meaning")


@dataclass(frozen=True, eq=False)
class Delays(_Said):
    """Alice to Bob: what to subtract from each of his channels, and the coincidences found.

    Attributes:
        channels: Bob's channels.
        delays_ps: For each of them.
        coincidences: Pairs by outcome, rows Alice, columns Bob, order Z0 Z1 X0 X1.
        begin: Where the first block begins, in announced times, in steps of the time grid.
    """

    SIGNED: ClassVar[bool] = True
    SESSION: ClassVar[bool] = True

    channels: Channels
    delays_ps: TimesPs
    coincidences: Indices
    begin: int

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
        _time("begin of the first block", self.begin)


@dataclass(frozen=True, eq=False)
class Announcement(_Said):
    """Bob to Alice: times of his next events; nothing earlier than the horizon follows.

    Attributes:
        first: Number of the first event, counted over the session.
        times: In steps of the time grid.
        horizon: Likewise.
        final: No event of this block follows; the next one begins.
        over: The recording has ended with this block.
    """

    SENDER: ClassVar[tuple[str, ...]] = ("bob",)

    first: int
    times: TimesPs
    horizon: int
    final: bool
    over: bool

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("first event", self.first)
        _sorted_times("event times", self.times)
        _time("horizon", self.horizon)
        _flag("final", self.final)
        _flag("over", self.over)
        if self.over and not self.final:
            raise ProtocolError("the recording ends within a block that goes on")
        if self.times.size and self.times[-1] >= self.horizon:
            raise ProtocolError("events do not lie before their own horizon")


@dataclass(frozen=True, eq=False)
class Paired(_Said):
    """Alice to Bob: which of his events below ``upto`` coincide with hers. Never taken back.

    With ``final`` all events of the block are decided.
    """

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
class Bases(_Said):
    """Bob to Alice: bases of the events of one :class:`Paired`.

    Attributes:
        bases: 0 for Z, 1 for X; of more bases the highest bit of each number, then the next ones.
        blind: Positions of the events that have no basis; theirs in ``bases`` are 0.
    """

    SENDER: ClassVar[tuple[str, ...]] = ("bob",)

    bases: Bits
    blind: Indices

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _bits("bases", self.bases, 2 * MAX_EVENTS)
        _increasing("events without a basis", self.blind)
        if self.blind.size and (
            self.blind[-1] >= self.bases.size or bool(np.any(self.bases[self.blind]))
        ):
            raise ProtocolError("events without a basis are not among those told")


@dataclass(frozen=True, eq=False)
class Sifted(_Said):
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
class SiftedTests(Sifted):
    """:class:`Sifted` where there are more bases than two, or tests: with her bases of ``bits``.

    Of a test the bases differ, and both bits are revealed. ``bases``: see :class:`Bases`.
    """

    bases: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        super().check()
        _bits("bases", self.bases)


@dataclass(frozen=True, eq=False)
class Monitored(_Said):
    """Bob to Alice: his outcomes of the monitored events of one :class:`Sifted`."""

    SENDER: ClassVar[tuple[str, ...]] = ("bob",)

    bits: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _bits("monitor bits", self.bits)


@dataclass(frozen=True, eq=False)
class Sent(_Said):
    """Alice to Bob: all pulses of a shot have left. The first one opens the block."""

    shot: int

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("shot", self.shot)


@dataclass(frozen=True, eq=False)
class Received(_Said):
    """Bob to Alice: no later click belongs to this shot; whether he found it at all."""

    SENDER: ClassVar[tuple[str, ...]] = ("bob",)

    shot: int
    found: bool

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("shot", self.shot)
        _flag("found", self.found)


@dataclass(frozen=True, eq=False)
class Detected(_Said):
    """Bob to Alice: slots of a shot, behind its preamble, in which he detected something.

    ``bases``: 0 for Z, 1 for X.
    """

    SENDER: ClassVar[tuple[str, ...]] = ("bob",)

    shot: int
    slots: Indices
    bases: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("shot", self.shot)
        _increasing("detected slots", self.slots)
        _bits("bases", self.bases)
        if self.bases.shape != self.slots.shape:
            raise ProtocolError("detected slots and bases differ in number")


@dataclass(frozen=True, eq=False)
class Prepared(_Said):
    """Alice to Bob: what she prepared in the slots of one :class:`Detected`.

    Attributes:
        shot: Of which shot.
        kept: For each slot 1 where the bases are equal.
        intensities: Of those kept, 0 the strongest.
        bits: Of those kept in the test basis.
    """

    shot: int
    kept: Bits
    intensities: Bits
    bits: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("shot", self.shot)
        _bits("kept slots", self.kept)
        _array("intensities", self.intensities, np.uint8)
        _bits("test bits", self.bits)
        if self.intensities.size != int(np.count_nonzero(self.kept)):
            raise ProtocolError("kept slots and intensities differ in number")
        if self.bits.size > self.intensities.size:
            raise ProtocolError("more test bits than kept slots")


@dataclass(frozen=True, eq=False)
class Tested(_Said):
    """Bob to Alice: his bits in the test basis of one :class:`Prepared`."""

    SENDER: ClassVar[tuple[str, ...]] = ("bob",)

    shot: int
    bits: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("shot", self.shot)
        _bits("test bits", self.bits)


@dataclass(frozen=True, eq=False)
class Heralds(_Said):
    """An MDI relay to Alice: slots of a shot in which it saw a Bell state. Nobody trusts it.

    Attributes:
        shot: Of which shot.
        offset: Alice's slot k met Bob's slot k - offset.
        slots: Alice's slots, her preamble included.
        states: For each slot 0 for psi-, 1 for psi+.
    """

    SENDER: ClassVar[tuple[str, ...]] = ("relay",)
    SESSION: ClassVar[bool] = True

    shot: int
    offset: int
    slots: Indices
    states: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("shot", self.shot)
        _time("offset", self.offset)
        _increasing("heralded slots", self.slots)
        _bits("Bell states", self.states, 2 * MAX_EVENTS)
        if self.states.shape != self.slots.shape:
            raise ProtocolError("heralded slots and Bell states differ in number")


@dataclass(frozen=True, eq=False)
class Heralded(_Said):
    """Alice to Bob: what she sent in the slots that the relay heralded with the block's Bell state.

    Attributes:
        shot: Of which shot; the block's first opens it.
        offset: As in :class:`Heralds`.
        slots: Her slots, her preamble included.
        bases: 0 for Z, 1 for X.
        intensities: 0 the strongest.
    """

    shot: int
    offset: int
    slots: Indices
    bases: Bits
    intensities: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("shot", self.shot)
        _time("offset", self.offset)
        _increasing("heralded slots", self.slots)
        _bits("bases", self.bases, 2 * MAX_EVENTS)
        _array("intensities", self.intensities, np.uint8, self.slots.shape)
        if self.bases.shape != self.slots.shape:
            raise ProtocolError("heralded slots and bases differ in number")


@dataclass(frozen=True, eq=False)
class Matched(_Said):
    """Bob to Alice: what he sent there, and his bits where that is for testing."""

    SENDER: ClassVar[tuple[str, ...]] = ("bob",)

    shot: int
    bases: Bits
    intensities: Bits
    bits: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("shot", self.shot)
        _bits("bases", self.bases, 2 * MAX_EVENTS)
        _array("intensities", self.intensities, np.uint8, self.bases.shape)
        _bits("test bits", self.bits, self.bases.size)


@dataclass(frozen=True, eq=False)
class Compared(_Said):
    """Alice to Bob: her bits where that is for testing."""

    shot: int
    bits: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("shot", self.shot)
        _bits("test bits", self.bits, 2 * MAX_EVENTS)


@dataclass(frozen=True, eq=False)
class Sample(_Said):
    """Alice to Bob: the random sample of the block, her bits there, and the leak to come."""

    block: int
    positions: Indices
    bits: Bits
    leak_budget: int

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("block length", self.block)
        _increasing("sample positions", self.positions)
        _bits("sample bits", self.bits)
        _count("leak budget", self.leak_budget)
        if self.bits.shape != self.positions.shape:
            raise ProtocolError("sample positions and bits differ in number")
        if self.positions.size and self.positions[-1] >= self.block:
            raise ProtocolError("sample positions leave the block")


@dataclass(frozen=True, eq=False)
class SampleReply(_Said):
    """Bob to Alice: his bits of the sample."""

    SENDER: ClassVar[tuple[str, ...]] = ("bob",)

    bits: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _bits("sample bits", self.bits)


@dataclass(frozen=True, eq=False)
class Reconciliation(_Said):
    """Alice to Bob: how the block is reconciled, and the public key of the permutations."""

    method: str
    key: bytes

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        if self.method not in ("cascade", "ldpc"):
            raise ProtocolError("a method of reconciliation that is not known here")
        if type(self.key) is not bytes or len(self.key) != 16:
            raise ProtocolError("the permutation key is not one of 128 bits")


@dataclass(frozen=True, eq=False)
class ParityRequest(_Said):
    """Bob to Alice: the parities he needs; see :mod:`.cascade` for their numbers."""

    SENDER: ClassVar[tuple[str, ...]] = ("bob",)

    wanted: Indices

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _increasing("wanted parities", self.wanted)
        if not self.wanted.size:
            raise ProtocolError("a request for no parities")


@dataclass(frozen=True, eq=False)
class ParityReply(_Said):
    """Alice to Bob: the parities asked for. Each one is a bit of leak."""

    parities: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _bits("parities", self.parities)


@dataclass(frozen=True, eq=False)
class Syndrome(_Said):
    """Alice to Bob: the syndrome, or more of it. Each bit is a bit of leak."""

    bits: Bits

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _bits("the syndrome", self.bits)
        if not self.bits.size:
            raise ProtocolError("a syndrome of no bits")


@dataclass(frozen=True, eq=False)
class Undecoded(_Said):
    """Bob to Alice: frames for which he needs more of the syndrome."""

    SENDER: ClassVar[tuple[str, ...]] = ("bob",)

    frames: Indices

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _increasing("undecoded frames", self.frames)
        if not self.frames.size:
            raise ProtocolError("a request for no frames")


@dataclass(frozen=True, eq=False)
class Reconciled(_Said):
    """Bob to Alice: reconciliation is done, with this many bits corrected."""

    SENDER: ClassVar[tuple[str, ...]] = ("bob",)

    errors: int

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("errors", self.errors)


@dataclass(frozen=True, eq=False)
class Verification(_Said):
    """Alice to Bob: seed and tag of the verification hash, and how the key is made of the block.

    Seeds are packed, eight bits a byte, most significant first, zero filled.

    Attributes:
        seed: Of the verification hash.
        tag: The hash of her block.
        amplification_seed: Of the hash that makes the key, drawn after the block's last click.
        key_bytes: Length of the key.
        reserve: So many of its first bytes go to the authentication pool.
    """

    SIGNED: ClassVar[bool] = True

    seed: bytes
    tag: Bits
    amplification_seed: bytes
    key_bytes: int
    reserve: int

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        for name, seed in (("verification", self.seed), ("amplification", self.amplification_seed)):
            if type(seed) is not bytes or len(seed) > MAX_BITS // 8:
                raise ProtocolError(f"the {name} seed is not at most {MAX_BITS:,} bits")
        _bits("verification tag", self.tag, 256)
        _count("key length", self.key_bytes, MAX_BITS // 8)
        _count("reserve", self.reserve, self.key_bytes)
        if self.reserve % 32:
            raise ProtocolError("a reserve that is not the same for both directions")


@dataclass(frozen=True, eq=False)
class Verdict(_Said):
    """Bob to Alice: whether the tags agree; where they do, he holds the key and waits."""

    SENDER: ClassVar[tuple[str, ...]] = ("bob",)
    SIGNED: ClassVar[bool] = True

    equal: bool

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _flag("verdict", self.equal)


@dataclass(frozen=True, eq=False)
class Confirmation(_Said):
    """Alice to Bob: the key is hers; from now on it is his too."""

    SIGNED: ClassVar[bool] = True


@dataclass(frozen=True, eq=False)
class Failed(_Said):
    """Either way: no key from this block, and why. The session goes on."""

    SENDER: ClassVar[tuple[str, ...]] = ("alice", "bob")

    reason: str

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _line("the reason of a failure", self.reason)


@dataclass(frozen=True, eq=False)
class Tag(_Said):
    """Either way: authenticates all messages of its block, or the session's, in its direction.

    Attributes:
        index: Number of the one-time pad.
        tag: 16 bytes.
    """

    SENDER: ClassVar[tuple[str, ...]] = ("alice", "bob")

    index: int
    tag: bytes

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _count("pad", self.index)
        if type(self.tag) is not bytes or len(self.tag) != 16:
            raise ProtocolError("a tag that is not of 16 bytes")


@dataclass(frozen=True, eq=False)
class Abort(_Said):
    """Either way: the session is over, and why."""

    SENDER: ClassVar[tuple[str, ...]] = ("alice", "bob")
    SESSION: ClassVar[bool] = True

    reason: str

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        _line("the reason of an abort", self.reason)


Message = (
    Calibration
    | Delays
    | Announcement
    | Paired
    | Bases
    | Sifted
    | SiftedTests
    | Monitored
    | Sent
    | Received
    | Detected
    | Prepared
    | Tested
    | Heralds
    | Heralded
    | Matched
    | Compared
    | Sample
    | SampleReply
    | Reconciliation
    | ParityRequest
    | ParityReply
    | Syndrome
    | Undecoded
    | Reconciled
    | Verification
    | Verdict
    | Confirmation
    | Failed
    | Tag
    | Abort
)
