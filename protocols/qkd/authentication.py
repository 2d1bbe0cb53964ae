"""Authentication that no computing power breaks: Wegman-Carter tags on whole transcripts.

All messages of one direction and one purpose (say, a block) make a :class:`Transcript`. At its end
the sender tags it::

    tag = (Poly1305_r(transcript) + pad) mod 2^128

Poly1305_r is the polynomial hash of Bernstein (FSE 2005), computed as Poly1305 with the key
``r || 0``. ``r`` is secret, one for each direction, drawn afresh for each session and fixed in it;
``pad`` is 128 bits of key that no other tag ever uses. Both are taken from a common pool of
numbered pads (:class:`PadSource`).

**Why no computation helps.** For two different transcripts of at most L bytes and any difference
g, ``Poly1305_r(t) - Poly1305_r(t') = g mod 2^128`` holds for at most ``8 ceil(L/16)`` of the 2^106
values of r (Bernstein 2005, Theorem 3.3): the hash is almost-Delta-universal. The pad hides the
hash completely, so that tags tell nothing about r and it may serve for many of them (Wegman and
Carter, J. Comput. Syst. Sci. 22, 265 (1981)). Whatever the forger saw, each of his attempts passes
with probability at most :func:`forgery_probability`, D attempts with D times that. That a hash key
may be kept where its tags are encrypted with pads, whether they are accepted or refused, and that
the probabilities add up with those of everything else, composably: Portmann, IEEE Trans. Inf.
Theory 60, 4383 (2014), arXiv:1202.1229. One refused tag ends the session here, and r with it.

L is the longer of what was sent and what came, which neither party knows alone. No transcript may
exceed :data:`LONGEST_TRANSCRIPT`, so each tag is charged :data:`TAG_EPSILON` (2^-71 = 4.2e-22),
known before the data.

**What is assumed.** The pool is uniform and known to the two parties only. For bytes of a QKD key
that holds up to its epsilon, which adds up. For bytes made by a first trust with ML-KEM
(:mod:`.trust`) it is computational: they are the first :attr:`PadSource.provisional` pads, and r
of a session is as good as the pads it began with. No pad serves twice, whatever fails: a source
forgets a pad durably before it hands it out. Comparing tags takes constant time; the rest of
Python does not.

**Layout of a pool.** The first :data:`HEAD_BYTES` (32) are the key of the filter of :mod:`.trust`.
Then come pads in pairs of :data:`PAIR_BYTES` (32): 16 bytes for Alice's tags, 16 for Bob's. Pair i
holds pad number i of both directions. Reserves of later keys are appended; of each only whole pairs
count.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from ...instruments import ProtocolError

__all__ = [
    "HEAD_BYTES",
    "KEPT_PADS",
    "LONGEST_TRANSCRIPT",
    "PAD_BYTES",
    "PAIR_BYTES",
    "TAG_EPSILON",
    "Authenticator",
    "MemoryPads",
    "OutOfPads",
    "PadSource",
    "Role",
    "Tag",
    "Transcript",
    "forgery_probability",
    "memory_pads",
    "padded",
]

Role = Literal["alice", "bob"]

#: Bytes at the beginning of a pool that are no pads.
HEAD_BYTES: Final = 32
#: Bytes of a pad, a tag, and a hash key.
PAD_BYTES: Final = 16
#: Bytes that hold one pad of each direction: Alice's first.
PAIR_BYTES: Final = 32

#: Own pads that a session leaves for the handshakes of the next ones.
KEPT_PADS: Final = 16
#: Bytes hashed for one tag, at most.
LONGEST_TRANSCRIPT: Final = 1 << 36
#: Chance at most that an attempt to forge a tag passes: ``forgery_probability`` of the longest.
TAG_EPSILON: Final = 2.0**-71

_ROLES: tuple[Role, Role] = ("alice", "bob")
_DOMAIN = b"bellbench transcript 1\0"
_MAX_CONTEXT = 255
_MAX_INDEX = 1 << 62


class OutOfPads(ProtocolError):  # noqa: N818 - reads as what happened
    """The pool holds no key to authenticate with."""


class PadSource(Protocol):
    """One party's end of a pool of common secret key. A pad handed out is burnt before.

    Every method that burns does so durably before it returns: after a crash at any instruction, no
    pad is handed out a second time. One session at a time uses a source.
    """

    @property
    def pool_id(self) -> str:
        """Public name of the pool, the same at both parties: 1 to 64 printable ASCII characters."""
        ...

    @property
    def filter_key(self) -> bytes:
        """The first 32 bytes of the pool."""
        ...

    @property
    def provisional(self) -> int:
        """Pads at the beginning, in each direction, that come from a computational first trust."""
        ...

    @property
    def position(self) -> tuple[int, int]:
        """Number of the next own pad, and the lowest number of the peer's that is not burnt."""
        ...

    @property
    def remaining(self) -> tuple[int, int]:
        """Pads that are left: own, the peer's."""
        ...

    def draw(self) -> tuple[int, bytes]:
        """Take the next own pad: its number and 16 bytes.

        Raises:
            OutOfPads: where none is left.
        """
        ...

    def peer(self, index: int) -> bytes:
        """Take the pad that the peer says it used; all of the peer's below are burnt, too.

        Raises:
            ProtocolError: where ``index`` is burnt already.
            OutOfPads: where the pool does not reach so far.
        """
        ...

    def skip(self, own: int, peer: int) -> None:
        """Burn all own pads below ``own`` and all of the peer's below ``peer``; never goes back.

        Raises:
            OutOfPads: where the pool does not reach so far; then nothing is burnt.
        """
        ...


class MemoryPads:
    """A pool in memory, for runs in one process and for tests. It forgets with the process.

    Args:
        secret: The pool: head and pads, see the module. It is copied.
        role: Whose end this is.
        pool_id: See :attr:`PadSource.pool_id`.
        provisional: True where the pool comes from a computational first trust.
    """

    def __init__(
        self, secret: bytes, role: Role, *, pool_id: str = "memory", provisional: bool = False
    ) -> None:
        if len(secret) < HEAD_BYTES:
            raise ProtocolError(f"a pool has at least {HEAD_BYTES} bytes, this has {len(secret)}")
        self.pool_id = pool_id
        self.filter_key = bytes(secret[:HEAD_BYTES])
        self._side = _ROLES.index(role)
        self._pads = bytearray()
        self._next = [0, 0]  # own, peer's
        self.extend(secret[HEAD_BYTES:])
        self.provisional = self._pairs if provisional else 0

    def extend(self, reserve: bytes) -> None:
        """Append key, the same and in the same order at both parties; whole pairs count."""
        self._pads += reserve[: len(reserve) // PAIR_BYTES * PAIR_BYTES]

    @property
    def position(self) -> tuple[int, int]:
        """See :class:`PadSource`."""
        return self._next[0], self._next[1]

    @property
    def remaining(self) -> tuple[int, int]:
        """See :class:`PadSource`."""
        return self._pairs - self._next[0], self._pairs - self._next[1]

    def draw(self) -> tuple[int, bytes]:
        """See :class:`PadSource`."""
        index = self._next[0]
        return index, self._take(0, index)

    def peer(self, index: int) -> bytes:
        """See :class:`PadSource`."""
        if index < self._next[1]:
            raise ProtocolError(f"pad {index} of the peer is used or skipped already")
        return self._take(1, index)

    def skip(self, own: int, peer: int) -> None:
        """See :class:`PadSource`."""
        if max(own, peer) > self._pairs:
            raise OutOfPads(
                f"pool {self.pool_id} ends at pad {self._pairs}, the peer is at {max(own, peer)}"
            )
        for direction, index in enumerate((own, peer)):
            for burnt in range(self._next[direction], index):
                self._take(direction, burnt)

    @property
    def _pairs(self) -> int:
        return len(self._pads) // PAIR_BYTES

    def _take(self, direction: int, index: int) -> bytes:
        if index >= self._pairs:
            raise OutOfPads(
                f"pool {self.pool_id} holds no key any more to authenticate with:"
                f" pad {index} of {self._pairs} was asked for"
            )
        for burnt in range(self._next[direction], index + 1):
            begin = PAIR_BYTES * burnt + PAD_BYTES * (self._side ^ direction)
            pad = bytes(self._pads[begin : begin + PAD_BYTES])
            self._pads[begin : begin + PAD_BYTES] = bytes(PAD_BYTES)
        self._next[direction] = index + 1
        return pad


def memory_pads(secret: bytes, pool_id: str = "memory") -> tuple[MemoryPads, MemoryPads]:
    """Alice's and Bob's end of one pool in memory; see :class:`MemoryPads`."""
    return MemoryPads(secret, "alice", pool_id=pool_id), MemoryPads(secret, "bob", pool_id=pool_id)


def forgery_probability(length: int) -> float:
    """Chance at most that one attempt to forge a tag on ``length`` bytes or fewer passes.

    ``8 ceil(length / 16) / 2^106``: Bernstein, FSE 2005, Theorem 3.3 with uniform pads.
    """
    return 8 * -(-length // 16) / 2**106


def padded(digest: bytes, pad: bytes) -> bytes:
    """``(digest + pad) mod 2^128``, little-endian as in Poly1305; 16 bytes each."""
    total = int.from_bytes(digest, "little") + int.from_bytes(pad, "little")
    return (total % (1 << 128)).to_bytes(PAD_BYTES, "little")


@dataclass(frozen=True, slots=True)
class Tag:
    """What authenticates a transcript; public.

    Attributes:
        index: Number of the pad, in the direction of the sender.
        tag: 16 bytes.
    """

    index: int
    tag: bytes

    def check(self) -> None:
        """Raise ProtocolError unless well-formed."""
        if type(self.index) is not int or not 0 <= self.index < _MAX_INDEX:
            raise ProtocolError("the number of a pad is no count")
        if type(self.tag) is not bytes or len(self.tag) != PAD_BYTES:
            raise ProtocolError(f"an authentication tag has {PAD_BYTES} bytes")


class Transcript:
    """Messages of one sender under one context, hashed as they come; see :class:`Authenticator`.

    What is hashed, integers little-endian::

        "bellbench transcript 1" NUL   sender (1 byte: 0 Alice, 1 Bob)   session id (16)
        length of the context (1)      context
        for each message: its length (8), the message
        number of messages (8)         bytes of all messages (8)

    The end gives the number of messages and each message its length, so different lists of
    messages, or equal ones of another sender, session or context, are different strings.
    """

    def __init__(self, key: bytes, sender: Role, session: bytes, context: bytes) -> None:
        from cryptography.hazmat.primitives.poly1305 import Poly1305

        if len(context) > _MAX_CONTEXT:
            raise ProtocolError(f"a transcript's context has more than {_MAX_CONTEXT} bytes")
        self.sender = sender
        self.messages = 0
        self._bytes = 0
        self._closed = False
        self._hash = Poly1305(key + bytes(PAD_BYTES))
        head = _DOMAIN + bytes([_ROLES.index(sender)]) + session + bytes([len(context)]) + context
        self._hash.update(head)
        self._head_bytes = len(head)

    def update(self, message: bytes) -> None:
        """Append a message as it goes over the wire."""
        if self._closed:
            raise ProtocolError("a message was added to a transcript that has its tag")
        if self.length + 8 + len(message) > LONGEST_TRANSCRIPT:
            raise ProtocolError(
                f"more than {LONGEST_TRANSCRIPT >> 30} GiB of messages for one tag: shorten blocks"
            )
        self._hash.update(struct.pack("<Q", len(message)))
        self._hash.update(message)
        self.messages += 1
        self._bytes += len(message)

    @property
    def length(self) -> int:
        """Bytes hashed, when closed now."""
        return self._head_bytes + 8 * self.messages + self._bytes + 16

    def _close(self) -> bytes:
        if self._closed:
            raise ProtocolError("a transcript has one tag only")
        self._closed = True
        self._hash.update(struct.pack("<QQ", self.messages, self._bytes))
        return self._hash.finalize()


class Authenticator:
    """Signs and verifies the transcripts of one session of one party.

    It draws the session's two hash keys from ``pads`` at once, which must stand where the peer's
    stand (:class:`~.trust.Handshake` sees to that). Tags then use pads in their order and none is
    left out, so a tag under any other number is refused before a pad is burnt. After one refused
    tag nothing is signed or verified any more.

    Args:
        pads: This party's end of the pool.
        role: Which party this is.
        session: Id of the session, 16 bytes, never used before.

    Attributes:
        epsilon: :data:`TAG_EPSILON` for each tag signed or looked at so far.
        pads_spent: Pads taken so far of both directions, hash keys included; 128 bits each.

    Raises:
        OutOfPads: where the pool is empty.
    """

    def __init__(self, pads: PadSource, role: Role, session: bytes) -> None:
        if len(session) != 16:
            raise ProtocolError("a session id has 16 bytes")
        self.role: Role = role
        self.session = session
        self.epsilon = 0.0
        self.pads_spent = 2
        self._pads = pads
        self._failed = False
        self._opened = False  # the first tag is the handshake's
        mine: Role = role
        other: Role = "bob" if role == "alice" else "alice"
        self._keys = {mine: pads.draw()[1], other: pads.peer(pads.position[1])}

    def __repr__(self) -> str:
        return f"<Authenticator of {self.role}, session {self.session.hex()}>"

    def transcript(self, sender: Role, context: bytes) -> Transcript:
        """Begin a transcript of what ``sender`` says.

        Args:
            sender: Who sends, and signs.
            context: What it is about, at most 255 bytes, such as block number and purpose. Two
                transcripts of one sender must not have the same.
        """
        return Transcript(self._keys[sender], sender, self.session, context)

    def sign(self, transcript: Transcript) -> Tag:
        """Close an own transcript and tag it with a fresh pad.

        Raises:
            OutOfPads: where no more than :data:`KEPT_PADS` own pads are left. Without them parties
                that crash could not tell each other any more which keys they have in common.
        """
        self._alive()
        if transcript.sender != self.role:
            raise ProtocolError(f"{self.role} cannot sign what {transcript.sender} says")
        if self._opened and self._pads.remaining[0] <= KEPT_PADS:
            raise OutOfPads(
                f"pool {self._pads.pool_id} has {self._pads.remaining[0]} pads left, which are kept"
                " for handshakes: import a new pool at both ends, and reserve more of each key"
            )
        self._opened = True
        digest = transcript._close()
        self.epsilon += TAG_EPSILON
        index, pad = self._pads.draw()
        self.pads_spent += 1
        return Tag(index, padded(digest, pad))

    def verify(self, transcript: Transcript, tag: Tag) -> None:
        """Close a transcript of the peer and check its tag. The pad is burnt whatever comes out.

        Raises:
            ProtocolError: where the tag is not that of this transcript; the session is then over.
        """
        self._alive()
        if transcript.sender == self.role:
            raise ProtocolError(f"{self.role} does not verify what {self.role} says")
        self._failed = True  # until shown otherwise
        tag.check()
        expected = self._pads.position[1]
        if tag.index != expected:
            raise ProtocolError(
                f"a tag of {transcript.sender} comes with pad {tag.index}, not {expected}:"
                " one was lost, repeated or forged"
            )
        digest = transcript._close()
        self.epsilon += TAG_EPSILON
        pad = self._pads.peer(tag.index)
        self.pads_spent += 1
        if not hmac.compare_digest(padded(digest, pad), tag.tag):
            raise ProtocolError(
                f"messages of {transcript.sender} were altered on the way: their tag does not match"
            )
        self._failed = False

    def _alive(self) -> None:
        if self._failed:
            raise ProtocolError("authentication failed before: this session is over")
