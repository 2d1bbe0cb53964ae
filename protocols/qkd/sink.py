"""Where finished keys go: what a key store promises the parties, and one in memory.

A key passes through two steps at each end, so that a crash at any moment loses no key that was
confirmed and leaves no key at one end only:

1. *prepared*: durable, but of no use to anybody yet;
2. *committed*: durable and deliverable. Alice's commit is the decision; Bob commits what she
   says she committed and discards the rest, after a crash in the handshake of the next session.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING, Literal, Protocol

from ...instruments import ProtocolError
from .authentication import PAIR_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["BlockState", "KeySink", "MemorySink", "check_kind", "key_id"]

BlockState = Literal["unknown", "prepared", "committed", "discarded"]

_LONGEST_ID = 100


class KeySink(Protocol):
    """A key store, as one party sees it. Block ids are public text, the same at both ends."""

    @property
    def rehearsal(self) -> bool:
        """Whether it takes keys that are no secrets (twins, seeded randomness), and only those."""
        ...

    def prepare(self, block: str, key: bytes, reserve: int) -> None:
        """Keep the key of a block, durably, for the time being.

        Args:
            block: Id of the block; used once, whatever becomes of it.
            key: The whole key.
            reserve: So many of its first bytes go to the authentication pool at the commit; a
                multiple of :data:`~.authentication.PAIR_BYTES`, 32.

        Raises:
            ProtocolError: where the block was prepared before, or the reserve does not fit.
        """
        ...

    def commit(self, block: str) -> None:
        """Make a prepared key deliverable and append its reserve to the pool, durably.

        Again has no effect. Both ends must commit in the same order: the pool grows by it.

        Raises:
            ProtocolError: where the block is unknown or discarded.
        """
        ...

    def discard(self, block: str) -> None:
        """Forget a prepared key; again, or of an unknown block, has no effect.

        Raises:
            ProtocolError: where the block is committed.
        """
        ...

    def state(self, block: str) -> BlockState:
        """What became of a block."""
        ...

    @property
    def commits(self) -> int:
        """Number of blocks committed so far.

        Once Bob's pending blocks are settled it is the same at both ends, unless a store was put
        back from a copy or made anew.
        """
        ...

    def prepared(self) -> list[str]:
        """Blocks that wait for a decision, in the order in which they were prepared."""
        ...

    def committed(self, blocks: Iterable[str]) -> list[str]:
        """Those of ``blocks`` that are committed, in the order of the commits.

        It is what Alice answers to the blocks that Bob still has prepared, and the order in which
        he must commit them.
        """
        ...


class MemorySink:
    """A :class:`KeySink` for both parties in one process and for tests; nothing is durable.

    Args:
        rehearsal: See :class:`KeySink`.
        append: Takes the reserve of each block as it is committed, as a pool would.
    """

    def __init__(
        self, *, rehearsal: bool = True, append: Callable[[bytes], object] | None = None
    ) -> None:
        self.rehearsal = rehearsal
        self._append = append
        self._waiting: dict[str, tuple[bytes, int]] = {}  # key and reserve
        self._keys: dict[str, bytes] = {}  # without the reserve, in the order of the commits
        self._discarded: set[str] = set()

    def prepare(self, block: str, key: bytes, reserve: int) -> None:
        """See :meth:`KeySink.prepare`."""
        check_prepare(block, len(key), reserve)
        if (state := self.state(block)) != "unknown":
            raise ProtocolError(f"block {block} cannot be prepared: it is {state} already")
        self._waiting[block] = bytes(key), reserve

    def commit(self, block: str) -> None:
        """See :meth:`KeySink.commit`."""
        if block in self._keys:
            return
        if block not in self._waiting:
            raise ProtocolError(f"block {block} cannot be committed: it is {self.state(block)}")
        key, reserve = self._waiting.pop(block)
        self._keys[block] = key[reserve:]
        if self._append is not None and reserve:
            self._append(key[:reserve])

    def discard(self, block: str) -> None:
        """See :meth:`KeySink.discard`."""
        if block in self._keys:
            raise ProtocolError(f"block {block} cannot be discarded: it is committed")
        if self._waiting.pop(block, None) is not None:
            self._discarded.add(block)

    def state(self, block: str) -> BlockState:
        """See :meth:`KeySink.state`."""
        if block in self._waiting:
            return "prepared"
        if block in self._keys:
            return "committed"
        return "discarded" if block in self._discarded else "unknown"

    @property
    def commits(self) -> int:
        """See :attr:`KeySink.commits`."""
        return len(self._keys)

    def prepared(self) -> list[str]:
        """See :meth:`KeySink.prepared`."""
        return list(self._waiting)

    def committed(self, blocks: Iterable[str]) -> list[str]:
        """See :meth:`KeySink.committed`."""
        wanted = set(blocks)
        return [block for block in self._keys if block in wanted]

    def key(self, block: str) -> bytes:
        """The key of a committed block, without what went to the pool."""
        if block not in self._keys:
            raise ProtocolError(f"block {block} has no key: it is {self.state(block)}")
        return self._keys[block]


def check_kind(sink: KeySink, *, rehearsal: bool) -> None:
    """Refuse a store of the other kind: keys of twins never mix with keys of photons.

    Args:
        sink: Where the keys are to go.
        rehearsal: Whether the keys of this session are no secrets.

    Raises:
        ProtocolError: where store and session differ.
    """
    if sink.rehearsal != rehearsal:
        raise ProtocolError(
            "this session runs on twins or seeded randomness, the key store is for real keys"
            if rehearsal
            else "this session makes real keys, the key store is for rehearsals only"
        )


def check_prepare(block: str, size: int, reserve: int) -> None:
    """Raise ProtocolError where a block id, or a reserve of a key of ``size`` bytes, is wrong."""
    if not (0 < len(block) <= _LONGEST_ID and block.isascii() and block.isprintable()):
        raise ProtocolError(f"a block id is 1 to {_LONGEST_ID} printable ASCII characters")
    if not 0 <= reserve <= size or reserve % PAIR_BYTES:
        raise ProtocolError(
            f"block {block}: the reserve must be a multiple of {PAIR_BYTES} bytes and fit into"
            f" the key of {size} bytes, not {reserve}"
        )


def key_id(block: str, position: int) -> uuid.UUID:
    """The id of one key of a block: public, and the same at both ends.

    A UUID of version 8 (RFC 9562, 5.8): 90 bits of BLAKE2b of the block id, then the position of
    the key in the block in 32 bits, so that its last eight digits are the position.

    Args:
        block: Id of the block.
        position: 0 <= position < 2^32.
    """
    if not 0 <= position < 1 << 32:
        raise ValueError(f"a key's position is a 32-bit number, not {position}")
    return _uuid8(int.from_bytes(block_tag(block), "big"), position)


def block_tag(block: str) -> bytes:
    """The 90 bits of a block id that are in the ids of its keys, as 12 bytes."""
    digest = hashlib.blake2b(block.encode(), digest_size=12, person=b"bellbench key id")
    return (int.from_bytes(digest.digest(), "big") >> 6).to_bytes(12, "big")


def split_key_id(key: uuid.UUID) -> tuple[bytes, int]:
    """The tag of the block and the position that are in a key id.

    Raises:
        ValueError: for a UUID that is no key id.
    """
    tag = (key.int >> 80 << 42) | ((key.int >> 64 & 0xFFF) << 30) | (key.int >> 32 & 0x3FFFFFFF)
    position = key.int & 0xFFFFFFFF
    if _uuid8(tag, position) != key:
        raise ValueError(f"{key} is not the id of a key of ours")
    return tag.to_bytes(12, "big"), position


def _uuid8(tag: int, position: int) -> uuid.UUID:
    high, middle, low = tag >> 42, tag >> 30 & 0xFFF, tag & 0x3FFFFFFF
    number = high << 80 | 8 << 76 | middle << 64 | 2 << 62 | low << 32 | position
    return uuid.UUID(int=number)
