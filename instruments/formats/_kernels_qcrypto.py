"""Compiled loops over qcrypto's packed differences of time; imported when first needed (2 s)."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["pack", "unpack"]

Words = npt.NDArray[np.uint32]
Ints = npt.NDArray[np.int64]


@numba.njit(cache=True, nogil=True)
def unpack(
    words: Words, order: int, bits: int, state: Ints, times: Ints, values: Ints
) -> tuple[int, int, bool]:
    """Decode entries of ``order`` bits of time difference and ``bits`` bits of value.

    Args:
        words: The next words of the packet.
        order: Bits of a difference; 0 escapes to 32 bits, 1 ends the packet.
        bits: Bits of a value.
        state: Bits held, how many, time, what is due (0 difference, 1 its 32 bits, 2 value,
            3 value of the end); zeros at first, kept between calls.
        times: Times in steps since the epoch's start; room for ``32 * words.size + 64`` events.
        values: Their values.

    Returns:
        Number of events, words used, and whether the packet has ended.
    """
    held, count, time, due = np.uint64(state[0]), state[1], state[2], state[3]
    found, used, ended = 0, 0, False
    while not ended:
        need = order if due == 0 else 32 if due == 1 else bits
        if count < need:
            if used == words.size:
                break
            held = (held << np.uint64(32)) | np.uint64(words[used])
            used += 1
            count += 32
        count -= need
        code = np.int64(held >> np.uint64(count))
        held &= (np.uint64(1) << np.uint64(count)) - np.uint64(1)
        if due == 0 and code < 2:
            due = 1 if code == 0 else 3
        elif due < 2:
            time += code
            due = 2
        elif due == 2:
            times[found] = time
            values[found] = code
            found += 1
            due = 0
        else:
            ended = True
    state[0], state[1], state[2], state[3] = np.int64(held), count, time, due
    return found, used, ended


@numba.njit(cache=True, nogil=True)
def pack(differences: Ints, values: Ints, order: int, bits: int, words: Words) -> int:
    """Encode a packet with its end; the inverse of `unpack`.

    Args:
        differences: Steps since the event before, the first since the epoch's start; 2 to
            2^32 - 1.
        values: Values of ``bits`` bits.
        order: Bits of a difference.
        bits: Bits of a value.
        words: Room for ``2 * differences.size + 4`` words.

    Returns:
        Number of words.
    """
    held, count, used = np.uint64(0), 0, 0
    for i in range(differences.size + 1):
        last = i == differences.size
        difference = 1 if last else differences[i]
        escaped = difference >= np.int64(1) << order
        for step in range(3):
            if step == 0:
                code, width = np.int64(0) if escaped else np.int64(difference), order
            elif step == 1:
                code, width = np.int64(difference), 32 if escaped else 0
            else:
                code, width = np.int64(0) if last else values[i], bits
            if width == 0:
                continue
            held = (held << np.uint64(width)) | np.uint64(code)
            count += width
            if count >= 32:
                count -= 32
                words[used] = np.uint32(held >> np.uint64(count))
                used += 1
                held &= (np.uint64(1) << np.uint64(count)) - np.uint64(1)
    if count:
        words[used] = np.uint32(held << np.uint64(32 - count))
        used += 1
    return used
