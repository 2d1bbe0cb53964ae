"""Where a party's random choices come from.

Random words are addressed by purpose and position and not by the order of the calls, so that a
seeded run does not depend on how the clicks were cut into batches.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Randomness", "SeededRandomness", "SystemRandomness", "philox_words", "random_bits"]

Words = npt.NDArray[np.uint64]


class Randomness(Protocol):
    """A source of uniform 64-bit words."""

    @property
    def kind(self) -> Literal["system", "seeded"]:
        """``"system"`` where the words may protect a real key."""
        ...

    def words(self, purpose: str, start: int, count: int) -> Words:
        """Words ``start .. start + count`` of the stream named ``purpose``, uint64.

        Each word may be asked for once: a true source has no memory.
        """
        ...


class SystemRandomness:
    """The operating system's cryptographic generator."""

    kind: Literal["system"] = "system"

    def words(self, purpose: str, start: int, count: int) -> Words:
        """Fresh words, whatever the address."""
        return np.frombuffer(secrets.token_bytes(8 * count), dtype=np.uint64)


class SeededRandomness:
    """Reproducible words for runs on twins only. Keys made with it are no secrets.

    Args:
        seed: Seed of the run.
        party: Name of the party; two parties never share words.
    """

    kind: Literal["seeded"] = "seeded"

    def __init__(self, seed: int, party: str) -> None:
        self._name = f"bellbench qkd/{seed}/{party}/"

    def words(self, purpose: str, start: int, count: int) -> Words:
        """Words of Philox, keyed by seed, party and purpose."""
        digest = hashlib.blake2b((self._name + purpose).encode(), digest_size=16).digest()
        return philox_words(int.from_bytes(digest, "little"), start, count)


def philox_words(key: int, start: int, count: int) -> Words:
    """Words of Philox4x64-10 with a 128-bit key and the counter starting at zero.

    Args:
        key: 0 <= key < 2^128.
        start: Index of the first word.
        count: Number of words.
    """
    skip = start % 4
    # numpy steps the counter before it makes a block of four words.
    generator = np.random.Philox(key=key, counter=(start // 4 - 1) % (1 << 256))
    words: Words = generator.random_raw(skip + count)[skip:]
    return words


def random_bits(randomness: Randomness, purpose: str, count: int) -> npt.NDArray[np.uint8]:
    """``count`` uniform bits, uint8 zeros and ones."""
    words = randomness.words(purpose, 0, -(-count // 64))
    return np.unpackbits(words.astype("<u8").view(np.uint8), count=count)
