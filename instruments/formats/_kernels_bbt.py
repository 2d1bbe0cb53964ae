"""Inner loops of the `bbt` codec, compiled. Import this module lazily: it loads numba.

Words are 64 bits, filled from bit 0 upwards; docs/tag-format.md has the layout. Readers trust
nothing but the checksum: every index is checked, and False means bits that make no sense. They
need one spare word behind the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # numba's own
from numba import types
from numba.extending import intrinsic

from ..compiled import compiled

Int16 = npt.NDArray[np.int16]
Int64 = npt.NDArray[np.int64]
UInt16 = npt.NDArray[np.uint16]
Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]

#: Clicks per block with one number of low bits.
BLOCK = 128
#: Longest code of a group of channels, in bits.
LONGEST = 12
#: Most clicks per group, and spare places `read_groups` needs behind the channels.
WIDEST = 8

_U = np.uint64
_0, _1, _6, _63 = _U(0), _U(1), _U(6), _U(63)
_CODES = _U((1 << LONGEST) - 1)


def _cttz(typing: Any, word: Any) -> Any:

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), code


#: Number of zero bits below the lowest set one.
_low_zeros = cast(Callable[[Any], Any], intrinsic(_cttz))


@compiled
def decreases(times: Int64) -> bool:
    """Return whether any time is less than the one before it."""
    found = False
    for i in range(1, times.size):
        found |= times[i] < times[i - 1]
    return found


@compiled
def scaled(times: Int64, numerator: int, denominator: int) -> Int64:
    """Return increasing times times a ratio of two numbers below 2^31, halves rounded up.

    Exact, as `to_ps`, but by floating point from a near whole multiple, hence without division.
    """
    out = np.empty_like(times)
    far = _U((1 << 52) // numerator)
    half, inverse = denominator // 2, 1.0 / denominator
    base, base_out, near = 0, 0, _0
    for i in range(times.size):
        step = times[i] - base
        if _U(step) > near:
            whole = times[i] // denominator
            base, base_out, near = whole * denominator, whole * numerator, far
            step = times[i] - base
        value = step * numerator + half
        guess = int(value * inverse)
        rest = value - guess * denominator
        out[i] = base_out + guess + (rest >= denominator) - (rest < 0)
    return out


@compiled
def write_times(
    times: Int64, begin: int, blocks: Bytes, low: Words, high: Words
) -> tuple[int, int]:
    """Pack times in order; return the words used of ``low`` and ``high``.

    A block's clicks take at most 64 bits each of ``low`` and 5 of ``high``.
    """
    steps = np.empty(BLOCK, np.uint64)
    before = _U(begin)
    lows = 0
    where, word, place = _0, _0, _0
    for b in range(blocks.size):
        first = b * BLOCK
        size = min(times.size - first, BLOCK)
        start = before
        for i in range(size):
            time = _U(times[first + i])
            steps[i] = time - before
            before = time
        mean = (before - start) // _U(size)
        k = _0
        while mean >> (k + _1):
            k += _1
        if k:  # the best is the logarithm of the mean, or one less
            more = _0
            for i in range(size):
                more += (steps[i] >> (k - _1)) - (steps[i] >> k)
            if more < _U(size):
                k -= _1
        blocks[b] = k
        mask = (_1 << k) - _1
        bits, used = _0, _0
        for i in range(size):
            value = steps[i] & mask
            bits |= value << used
            used += k
            if used >= _U(64):
                low[lows] = bits
                lows += 1
                used -= _U(64)
                bits = value >> (k - used)
            place += steps[i] >> k
            while where < place >> _6:
                high[where] = word
                word = _0
                where += _1
            word |= _1 << (place & _63)
            place += _1
        if used:
            low[lows] = bits
            lows += 1
    if word:
        high[where] = word
        where += _1
    return lows, int(where)


@compiled
def read_times(
    words: Words, blocks: Bytes, low: int, high: int, stop: int, begin: int, end: int, times: Int64
) -> bool:
    """Fill ``times`` from the words at ``low`` and from ``high`` to ``stop``."""
    count = times.size
    now, span = _U(begin), _0
    at, where, last = _U(low), _U(high), _U(stop)
    word = words[where] if where < last else _0
    after = where << _6  # the bit after the last one set
    good = True
    for b in range(blocks.size):
        k = _U(blocks[b])
        mask = (_1 << k) - _1
        bit = _0
        for i in range(b * BLOCK, min(count, (b + 1) * BLOCK)):
            j = at + (bit >> _6)
            shift = bit & _63
            bits = ((words[j] >> shift) | ((words[j + _1] << _1) << (_63 - shift))) & mask
            bit += k
            while word == _0:
                where += _1
                if where >= last:
                    return False
                word = words[where]
            place = (where << _6) + _low_zeros(word)
            word &= word - _1
            later = span + (((place - after) << k) | bits)
            after = place + _1
            good &= bool(later >= span)
            span = later
            times[i] = np.int64(now + span)
        at += (bit + _63) >> _6
    return bool(good and (count == 0 or span < _U(end) - now))


@compiled
def mark(channels: Int16, seen: npt.NDArray[np.bool_]) -> None:
    """Set ``seen[channel + 2^15]`` for each channel that occurs."""
    for channel in channels:
        seen[int(channel) + 32768] = True


@compiled
def write_fixed(channels: Int16, index: UInt16, width: int, out: Words) -> int:
    """Pack each channel's index in ``width`` bits; return the words used."""
    bits, used, words = _0, _0, 0
    k = _U(width)
    for channel in channels:
        value = _U(index[np.int64(channel) & 0xFFFF])
        bits |= value << used
        used += k
        if used >= _U(64):
            out[words] = bits
            words += 1
            used -= _U(64)
            bits = value >> (k - used)
    if used:
        out[words] = bits
        words += 1
    return words


@compiled
def read_fixed(words: Words, at: int, width: int, known: Int16, channels: Int16) -> bool:
    """Unpack what `write_fixed` wrote; the words for all channels are there."""
    if width == 0:
        channels[:] = known[0]
        return True
    table = np.zeros(1 << width, np.int16)
    table[: known.size] = known
    k, most = _U(width), _U(known.size)
    mask = (_1 << k) - _1
    good = True
    bits, left = _0, 0  # what the word before left over
    i = 0
    while i < channels.size:
        word = words[at]
        at += 1
        used = 0
        if left:
            value = (bits | word << _U(left)) & mask
            good &= bool(value < most)
            channels[i] = table[value]
            i += 1
            used = width - left
        bits = word >> _U(used)
        left = 64 - used
        count = min(left // width, channels.size - i)
        for j in range(i, i + count):
            value = bits & mask
            good &= bool(value < most)
            channels[j] = table[value]
            bits >>= k
        i += count
        left -= count * width
    return good


@compiled
def groups_of(
    channels: Int16, index: UInt16, known: int, group: int, symbols: Bytes, counts: Int64
) -> None:
    """Fill ``symbols`` with the numbers of each ``group`` channels, and count them.

    The first channel is the lowest digit to base ``known``; missing ones are zero.
    """
    counts[:] = 0
    whole = channels.size // group
    for i in range(symbols.size):
        symbol, weight = 0, 1
        for j in range(i * group, (i + 1) * group if i < whole else channels.size):
            symbol += int(index[int(channels[j]) & 0xFFFF]) * weight
            weight *= known
        symbols[i] = symbol
        counts[symbol] += 1


@compiled
def code_lengths(weights: Int64, lengths: Bytes) -> None:
    """Fill in Huffman's code lengths of increasing weights, none longer than `LONGEST`."""
    many = weights.size
    if many == 1:
        lengths[0] = 1
        return
    tree = np.empty(2 * many - 1, np.int64)
    parent = np.zeros(2 * many - 1, np.int64)
    depth = np.zeros(2 * many - 1, np.int64)
    for i in range(many):
        tree[i] = weights[i]
    while True:
        leaf, node = 0, many
        for new in range(many, 2 * many - 1):
            tree[new] = 0
            for _ in range(2):
                if leaf < many and (node >= new or tree[leaf] <= tree[node]):
                    least = leaf
                    leaf += 1
                else:
                    least = node
                    node += 1
                tree[new] += tree[least]
                parent[least] = new
        longest = 0
        for i in range(2 * many - 3, -1, -1):
            depth[i] = depth[parent[i]] + 1
            longest = max(longest, depth[i])
        if longest <= LONGEST:
            break
        for i in range(many):
            tree[i] = (tree[i] + 1) // 2  # flatter, hence less deep
    for i in range(many):
        lengths[i] = depth[i]


@compiled
def codes_of(lengths: Bytes, codes: UInt16) -> bool:
    """Fill in the canonical codes of DEFLATE (RFC 1951, 3.2.2), first bit lowest."""
    code = 0
    for length in range(1, LONGEST + 1):
        code <<= 1
        for symbol in range(lengths.size):
            if lengths[symbol] == length:
                turned = 0
                for bit in range(length):
                    turned |= ((code >> bit) & 1) << (length - 1 - bit)
                codes[symbol] = turned
                code += 1
        if code > 1 << length:
            return False
    return lengths.size == 0 or lengths.max() <= LONGEST


@compiled
def write_groups(symbols: Bytes, lengths: Bytes, codes: UInt16, out: Words) -> int:
    """Pack the codes of symbols; return the words used."""
    bits, used, words = _0, _0, 0
    for symbol in symbols:
        value = _U(codes[symbol])
        k = _U(lengths[symbol])
        bits |= value << used
        used += k
        if used >= _U(64):
            out[words] = bits
            words += 1
            used -= _U(64)
            bits = value >> (k - used)
    if used:
        out[words] = bits
        words += 1
    return words


@compiled
def read_groups(
    words: Words, at: int, stop: int, lengths: Bytes, known: Int16, group: int, channels: Int16
) -> bool:
    """Unpack what `write_groups` wrote; ``channels`` has `WIDEST` spare places at its end."""
    codes = np.zeros(lengths.size, np.uint16)
    if not codes_of(lengths, codes):
        return False
    table = np.zeros(1 << LONGEST, np.uint16)  # symbol and length by the next bits
    wide = np.zeros((lengths.size, WIDEST), np.int16)
    for symbol in range(lengths.size):
        size = int(lengths[symbol])
        if size:
            for start in range(int(codes[symbol]), 1 << LONGEST, 1 << size):
                table[start] = symbol << 4 | size
        rest = symbol
        for j in range(group):
            wide[symbol, j] = known[rest % known.size]
            rest //= known.size
    bit, end = _U(at) << _6, _U(stop) << _6
    good = True
    count = channels.size - WIDEST
    i = 0
    while i < count:
        if bit >= end:
            return False
        here = bit >> _6
        shift = bit & _63
        bits = (words[here] >> shift) | ((words[here + _1] << _1) << (_63 - shift))
        for _ in range(4):  # 4 of the longest codes fit a word
            entry = _U(table[bits & _CODES])
            length = entry & _U(15)
            good &= bool(length > _0)
            bits >>= length
            bit += length
            row = wide[entry >> _U(4)]
            # All are read before one is written: a compiler then moves them at once.
            a, b, c, d = row[0], row[1], row[2], row[3]
            e, f, g, h = row[4], row[5], row[6], row[7]
            channels[i], channels[i + 1], channels[i + 2], channels[i + 3] = a, b, c, d
            channels[i + 4], channels[i + 5], channels[i + 6], channels[i + 7] = e, f, g, h
            i += group
            if i >= count:
                break
        if not good:
            return False
    return bool(bit <= end)
