"""Cascade reconciliation between two parties that exchange arrays.

"Option 8" of Martinez-Mateo, Pacher, Peev, Ciurana, Martin, QIC 15, 453 (2015), Table 1: 14 passes,
blocks of ``k1 = 2^ceil(a)``, ``k2``, 4096 and from then on half a frame, with
``a = log2(1/Q) - 1/2``; every parity learnt in any pass, of blocks and of parts of them, is used
again. What differs:

- k2 is ``2^ceil(a + 2.35)``, a block of some four to seven errors, where theirs is
  ``2^ceil((a + 12)/2)``. At 3 % that takes a quarter of the round trips and 0.7 % more leak.
- A bit that is alone in its block with bits known to be right is known, too, in all passes, and
  never asked for. Small blocks are parted by where their error can be, as the parities of other
  passes tell, and not in the middle. At 3 % that takes 0.6 % of the leak away, more above.
- Frames are 2^16 bits, not 2^14, and where a frame has little left to search in the first passes,
  the later ones join.

All searches of all frames go on at once: one message carries the next questions of each, so that
the number of round trips hardly depends on the length of the block. Measured on 64 frames of
2^16 bits (``benchmarks/cascade.py``); of 51200 frames of 2^14 bits at 3 % two kept two errors each:

========== ===== ===== ===== ===== ===== =====
Q            1 %   2 %   3 %   5 %   8 %  11 %
f          1.037 1.034 1.039 1.036 1.038 1.036
rounds       450   330   230   290   280   320
========== ===== ===== ===== ===== ===== =====

**What both parties must agree on**, which other programs can follow:

- *Frames.* A block of n bits is F = ceil(n / 2^16) frames of L = ceil(n / F) places; bit i is place
  ``i // F`` of frame ``i % F``. Places beyond the block hold zeros. Neighbours, and so bursts of
  errors, are dealt to different frames.
- *Orders.* Pass 0 takes the places as they come. The order of pass p > 0 is the same for all
  frames: a Fisher-Yates shuffle of ``0 .. L-1``, which for i = L-1 down to 1 swaps the entries i
  and ``floor(u_i (i + 1) / 2^32)``. ``u_i`` is a half of word ``(p - 1) ceil(L / 2) + i // 2`` of
  Philox4x64-10 (see :func:`~.randomness.philox_words`) under the announced key: the low half
  where i is even, the high half where it is odd. The key must be drawn after the bits are fixed.
- *Questions.* The parity of the first m places of frame f in the order of pass p has the number
  ``(14 f + p) (L + 1) + m``, with 1 <= m < L, and m = L in pass 0 only. Two of them give the parity
  of the block between. A request is an increasing array of numbers, none asked before; a frame's
  pass p + 1 comes after its pass p. The answer is one bit each, in the order of the request.

So no question is implied by others of its pass, and each answer is a bit of leak. Which blocks to
ask for is the corrector's own choice; it follows from the error pattern alone, which it therefore
reveals: see ``docs/security.md``.
"""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import numpy.typing as npt

from ...instruments import ProtocolError
from .randomness import philox_words

__all__ = ["PASSES", "Corrector", "Reference"]

Bits = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Places = npt.NDArray[np.uint16]

PASSES = 14
_FRAME = 1 << 16  # places are uint16


def _kernels() -> ModuleType:
    from . import _kernels_cascade

    return _kernels_cascade


def _frames(n: int) -> tuple[int, int]:
    """Number and length of the frames of a block."""
    if n < 16:
        raise ValueError(f"a block of {n} bits is too short to reconcile")
    frames = -(-n // _FRAME)
    return frames, -(-n // frames)


def _orders(length: int, key: int) -> Places:
    """The place that comes k-th in each pass, shape (PASSES, length)."""
    orders = np.empty((PASSES, length), np.uint16)
    orders[0] = np.arange(length)
    words = -(-length // 2)
    for index, order in enumerate(orders[1:]):
        _kernels().shuffle(philox_words(key, index * words, words), order)
    return orders


def _sizes(n: int, error_rate: float) -> Indices:
    """Sizes of the blocks of each pass."""
    length = _frames(n)[1]
    half = -(-length // 2)
    a = math.log2(1.0 / min(max(error_rate, 1.0 / n), 0.5)) - 0.5
    sizes = [2 ** math.ceil(a), min(2 ** math.ceil(a + 2.35), half), min(4096, half)]
    return np.array(sizes + [half] * (PASSES - 3), np.int64)


def _weights(error_rate: float) -> npt.NDArray[np.float64]:
    """How a block of another pass changes the odds of an error, by parity and size up to 64.

    The message of a parity check in Gallager's decoder: (1 - t) / (1 + t), t = (1 - 2 Q)^(size-1),
    where the block is even, and its inverse where it is odd.
    """
    others = np.maximum(np.arange(65.0) - 1.0, 0.0)
    t = (1.0 - 2.0 * min(max(error_rate, 1e-6), 0.25)) ** others
    even = np.maximum((1.0 - t) / (1.0 + t), 1e-12)
    return np.stack([even, 1.0 / even])


def _laid_out(bits: Bits, orders: Places, depth: int) -> Indices:
    """Words of each frame and pass, ``depth`` of a kind, the first filled with the bits."""
    frames, length = _frames(bits.size)
    block = np.zeros((length, -(-frames // 64) * 64), np.uint8)
    whole = bits.size // frames
    block[:whole, :frames] = bits[: whole * frames].reshape(whole, frames)
    block[whole:, : bits.size - whole * frames] = bits[whole * frames :]
    rows = np.packbits(block, axis=1, bitorder="little").view("<u8").astype(np.uint64)
    words = np.zeros((frames, PASSES, length // 64 + 1, depth), np.int64)
    _kernels().spread(np.ascontiguousarray(rows.T), orders, words.view(np.uint64)[..., 0])
    return words


class Reference:
    """The party whose bits are taken as right: answers parities and changes nothing.

    Holds 3.5 bytes per bit of the block.

    Args:
        bits: uint8 zeros and ones, at least 16.
        error_rate: The estimate that the corrector uses; the reference has no use for it.
        key: Public key of the orders, 0 <= key < 2^128.
    """

    def __init__(self, bits: Bits, error_rate: float, key: int) -> None:
        frames, self._length = _frames(bits.size)
        # Prefix parities, and which of them were asked for.
        self._words = _laid_out(bits, _orders(self._length, key), 2)
        _kernels().prefixes(self._words)
        self._begun = np.zeros(frames, np.int64)

    def answer(self, wanted: Indices) -> Bits:
        """Parities asked for: uint8 zeros and ones.

        Args:
            wanted: int64 numbers of questions, increasing.

        Raises:
            ProtocolError: for a question that does not exist, was asked before, or comes before
                its turn. The reference must then not be used any more.
        """
        if wanted.ndim != 1 or wanted.dtype != np.int64:
            raise ProtocolError("a request for parities is a row of 64-bit numbers")
        wanted = np.require(wanted, requirements=["C", "W"])  # one type, compiled once
        parities = np.empty(wanted.size, np.uint8)
        wrong = _kernels().answer(wanted, self._length, self._words, self._begun, parities)
        if wrong >= 0:
            raise ProtocolError(
                f"a request asks for parity {wanted[wrong]}, which does not exist, was asked for"
                " before or is out of turn"
            )
        return parities


class Corrector:
    """The party that corrects its bits: asks, and flips what the answers show to be wrong.

    Holds 10 bytes per bit of the block.

    Args:
        bits: uint8 zeros and ones, at least 16; copied.
        error_rate: Estimate from the sample; only efficiency depends on it.
        key: Public key of the orders, 0 <= key < 2^128.

    Attributes:
        bits: The bits; corrected when :meth:`request` returns None.
    """

    def __init__(self, bits: Bits, error_rate: float, key: int) -> None:
        frames, length = _frames(bits.size)
        orders = _orders(length, key)
        places = np.empty_like(orders)
        np.put_along_axis(places, orders.astype(np.int64), np.arange(length)[np.newaxis], axis=1)
        state = _laid_out(bits, orders, 5)
        words = state.shape[2]
        self.bits = bits.copy()
        # Sure bits and corrected bits, by position.
        self._found = np.zeros((frames, words, 2), np.int64)
        self._state = (
            orders,
            places,
            np.zeros(frames, np.int64),
            state.reshape(-1),
            np.zeros(frames * PASSES * -(-words // 64), np.int64),
            self._found,
        )
        self._plan = _sizes(bits.size, error_rate), _weights(error_rate)
        self._room = np.empty(4 * length, np.int64)
        self._stack = np.empty(PASSES * length + 2, np.int64)
        self._asked: Indices | None = None
        self._over = False

    @property
    def errors(self) -> int:
        """Number of bits found to be wrong."""
        return int(np.count_nonzero(self._flips()))

    def _flips(self) -> Bits:
        """Whether each bit was wrong, shape (frames, length)."""
        corrected = np.ascontiguousarray(self._found[:, :, 1]).astype("<i8").view(np.uint8)
        length = self._state[0].shape[1]
        return np.unpackbits(corrected, axis=1, bitorder="little", count=length)

    def request(self) -> Indices | None:
        """Numbers of the parities to ask for next, increasing; None when all passes are done.

        Raises:
            ProtocolError: while an answer is outstanding, or where answers contradict each other.
        """
        if self._asked is not None:
            raise ProtocolError("the last parities have not been answered yet")
        if self._over:
            return None
        parts = []
        frame = 0
        while frame < self._found.shape[0]:
            count, frame = _kernels().ask(frame, self._room, *self._plan, *self._state)
            if frame < 0:
                raise ProtocolError(_CONTRADICTION)
            parts.append(self._room[:count].copy())
        wanted = np.concatenate(parts)
        if wanted.size:
            self._asked = wanted
            return wanted
        self._over = True
        self.bits ^= self._flips().T.reshape(-1)[: self.bits.size]
        return None

    def accept(self, parities: Bits) -> None:
        """Take the answers to the last request, in its order.

        Raises:
            ProtocolError: where they are not as many bits as were asked for, or contradict what
                was told before. The corrector must then not be used any more.
        """
        asked = self._asked
        if asked is None or parities.shape != asked.shape or parities.dtype != np.uint8:
            raise ProtocolError(f"{parities.size} parities answer no request of that size")
        if np.any(parities > 1):
            raise ProtocolError("a parity is neither 0 nor 1")
        self._asked = None
        asked = np.require(asked, requirements=["C", "W"])
        parities = np.require(parities, requirements=["C", "W"])
        if _kernels().accept(asked, parities, *self._state, self._stack):
            raise ProtocolError(_CONTRADICTION)


_CONTRADICTION = "the parities received contradict each other"
