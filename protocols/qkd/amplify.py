"""Privacy amplification: Toeplitz hashing over GF(2), exact at any size.

Uniformly random Toeplitz matrices are a universal_2 family with collision probability exactly
``2^-l`` (Krawczyk, CRYPTO '94; Mansour, Nisan, Tiwari 1993): for ``x != 0`` the product ``T x`` is
uniform. The seed is public, but must be drawn after the quantum phase, fresh for each block, and
its ``n + l - 1`` bits must be uniform and authentic; :class:`Seeds` keeps to what can be checked.

The product is cut in pieces of 30 bits and done by the additive FFT of :mod:`._kernels_gf2`, in
blocks: beside its arguments and the result it holds about one byte per bit of ``n + l``.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import numpy.typing as npt

from ...instruments import ProtocolError
from .randomness import Randomness

__all__ = ["Packed", "Seeds", "pack", "seed_bits", "toeplitz_hash", "toeplitz_hash_packed"]

Bits = npt.NDArray[np.uint8]
#: Bits eight a byte, the first the highest, the rest of the last byte zero.
Packed = npt.NDArray[np.uint8]
_Schedule = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

_MODULUS = 1 << 64 | 0b11011
#: Transforms have 2^5 to 2^18 words: more blocks of fewer words stay in the cache.
_SMALLEST, _LARGEST = 5, 18
_REMEMBERED = 1 << 16
#: Words (log2) that stay in the first and in the second cache.
_CACHES = 11, 15
#: Cost of a product beside that of a word in one layer.
_PRODUCT = 2.0


def seed_bits(n: int, length: int) -> int:
    """Seed bits of a Toeplitz matrix of ``length`` rows and ``n`` columns, ``n + length - 1``."""
    return n + length - 1


def pack(bits: Bits) -> Packed:
    """Zeros and ones, eight a byte.

    Raises:
        ValueError: where the array is not one-dimensional uint8 zeros and ones.
    """
    if bits.ndim != 1 or bits.dtype != np.uint8 or (bits.size and bits.max() > 1):
        raise ValueError("bits must be uint8 zeros and ones in one dimension")
    return np.packbits(bits)


def toeplitz_hash(bits: Bits, seed: Bits, length: int) -> Bits:
    """Product of a Toeplitz matrix and ``bits``, modulo 2.

    Row i, column j of the matrix is ``seed[i - j + n - 1]``.

    Args:
        bits: uint8 zeros and ones, shape (n,).
        seed: uint8 zeros and ones, shape (n + length - 1,).
        length: Rows of the matrix, that is bits of the result.

    Returns:
        uint8 zeros and ones, shape (length,).

    Raises:
        ValueError: where shapes do not fit or the arrays hold other than bits.
    """
    n = bits.size
    if length < 1 or n < 1 or bits.shape != (n,) or seed.shape != (seed_bits(n, length),):
        raise ValueError(
            f"{bits.shape} bits to {length} need {seed_bits(n, length)} seed bits, got {seed.shape}"
        )
    return np.unpackbits(toeplitz_hash_packed(pack(bits), n, pack(seed), length), count=length)


def toeplitz_hash_packed(bits: Packed, n: int, seed: Packed, length: int) -> Packed:
    """:func:`toeplitz_hash` of ``n`` bits that are packed, with a packed seed.

    Args:
        bits: Shape (ceil(n / 8),).
        n: Bits in it.
        seed: Shape (ceil((n + length - 1) / 8),).
        length: Bits of the result.

    Returns:
        The packed result, shape (ceil(length / 8),).

    Raises:
        ValueError: where shapes do not fit or what follows the last bit is not zero.
    """
    if n < 1 or length < 1:
        raise ValueError(f"cannot hash {n} bits to {length}")
    for name, array, count in (("bits", bits, n), ("seed", seed, seed_bits(n, length))):
        _check_packed(name, array, count)
    result = _product(_words(bits), n, _words(seed), length, carryless())
    packed = result.astype(">u8").view(np.uint8)[: -(-length // 8)]
    packed[-1] &= 0xFF << (-length % 8) & 0xFF
    return packed


class Seeds:
    """The seeds of a session, each for one block: a second use is refused.

    Security of the block rests on a seed that was not known while photons were on their way, so
    ask for one (or take one from the peer) only after the block's sifting has ended. The last
    65 536 blocks are remembered.
    """

    def __init__(self) -> None:
        # Block to digest and back, oldest first.
        self._digests: dict[str, bytes] = {}
        self._blocks: dict[bytes, str] = {}

    def draw(self, randomness: Randomness, block: str, n: int, length: int) -> Packed:
        """Return a fresh seed to hash the ``n`` bits of ``block`` to ``length``.

        Raises:
            ProtocolError: where the block had one, or the source repeats itself.
        """
        count = seed_bits(n, length)
        words = randomness.words(f"amplify/{block}", 0, -(-count // 64))
        seed = words.astype("<u8").view(np.uint8)[: -(-count // 8)]
        seed[-1] &= 0xFF << (-count % 8) & 0xFF
        return self.admit(block, seed, n, length)

    def admit(self, block: str, seed: Packed, n: int, length: int) -> Packed:
        """Take the seed that the peer drew for ``block``.

        Raises:
            ValueError: where it has another size than it needs.
            ProtocolError: where the block had one already, or another block had this one.
        """
        if n < 1 or length < 1:
            raise ValueError(f"cannot hash {n} bits to {length}")
        count = seed_bits(n, length)
        _check_packed("seed", seed, count)
        if block in self._digests:
            raise ProtocolError(f"block {block} was amplified already; no seed serves it twice")
        digest = hashlib.blake2b(seed.tobytes(), digest_size=16).digest()
        # Short seeds, of tests only, do repeat.
        if count >= 128 and digest in self._blocks:
            raise ProtocolError(
                f"the amplification seed of block {block} was used before: the randomness of"
                " who drew it cannot be trusted"
            )
        self._digests[block] = digest
        self._blocks[digest] = block
        if len(self._digests) > _REMEMBERED:
            oldest = next(iter(self._digests))
            self._blocks.pop(self._digests.pop(oldest), None)
        return seed


def _check_packed(name: str, array: Packed, count: int) -> None:
    if array.dtype != np.uint8 or array.shape != (-(-count // 8),):
        raise ValueError(
            f"{count} packed bits of {name} are uint8 of shape ({-(-count // 8)},),"
            f" not {array.dtype} of shape {array.shape}"
        )
    if int(array[-1]) & (0xFF >> (8 - -count % 8)):
        raise ValueError(f"{name} has ones after its {count} bits")


def _words(packed: Packed) -> _Words:
    padded = np.zeros(-(-packed.size // 8) * 8, dtype=np.uint8)
    padded[: packed.size] = packed
    return padded.view(">u8").astype(np.uint64)


@functools.cache
def carryless() -> int | None:
    from . import _kernels_gf2 as kernels

    return 0 if kernels.has_carryless() else None


def _product(bits: _Words, n: int, seed: _Words, length: int, how: int | None) -> _Words:
    """Return the hash in words; what follows its last bit is noise.

    With pieces of W = 30 bits, piece I of the result is the middle of the sum over J of b_J W_(I-J)
    where W_D are the 2 W - 1 bits of the seed that those two have to do with. That is a transposed
    product of polynomials over F, so it is computed by the transposed algorithm (Bostan, Lecerf,
    Schost, ISSAC 2003): no transform is longer than the seed.
    """
    from . import _kernels_gf2 as kernels

    w = kernels.PIECE
    columns, rows = -(-n // w), -(-length // w)
    k, width, height = _blocks(columns, rows)
    size, twiddles, divisions, layers = 1 << k, _twiddles(k), _divisions(k), _layers(k)
    across, down = -(-columns // width), -(-rows // height)
    factors = np.empty((across, size), dtype=np.uint64)
    for j, factor in enumerate(factors):
        kernels.windows(bits, w * ((j + 1) * width - 1), w, -w, factor, width)
        kernels.convert(factor, divisions, kernels.EVALUATE)
        kernels.layers(factor, twiddles, layers, kernels.EVALUATE, how)
    sums = np.zeros((down, size), dtype=np.uint64)
    diagonals: dict[int, list[tuple[int, int]]] = {}
    for i in range(down):
        for j in range(across):
            diagonals.setdefault(i * height - j * width, []).append((i, j))
    diagonal = np.empty(size, dtype=np.uint64)
    for start, places in diagonals.items():
        first = w * (start - width) + n
        kernels.windows(seed, first, 2 * w - 1, w, diagonal, width + height - 1)
        kernels.convert(diagonal, divisions, kernels.INTERPOLATE_T)
        kernels.layers(diagonal, twiddles, layers, kernels.INTERPOLATE_T, how)
        for i, j in places:
            kernels.add_products(sums[i], factors[j], diagonal, how)
    result = np.zeros(-(-length // 64), dtype=np.uint64)
    for i, total in enumerate(sums):
        kernels.layers(total, twiddles, layers, kernels.EVALUATE_T, how)
        kernels.convert(total, divisions, kernels.EVALUATE_T)
        kernels.join(total, min(height, rows - i * height), result, w * i * height)
    return result


@functools.lru_cache(maxsize=256)
def _blocks(columns: int, rows: int) -> tuple[int, int, int]:
    """Size 2^k of the transforms and pieces per block, across and down, that cost least."""

    def cost(plan: tuple[int, int, int]) -> float:
        k, width, height = plan
        across, down = -(-columns // width), -(-rows // height)
        # A diagonal of blocks shares one transform: squares, a single row or a single column.
        transforms = 2 * (across + down) - 1
        return float((transforms * k + across * down * _PRODUCT) * 2.0**k)

    plans = []
    for k in range(_SMALLEST, _LARGEST + 1):
        most = (1 << k) + 1
        plans.append((k, most // 2, most // 2))
        if columns + rows <= most:
            plans.append((k, columns, rows))
        if columns < most:
            plans.append((k, columns, most - columns))
        if rows < most:
            plans.append((k, most - rows, rows))
    return min(plans, key=cost)


@functools.cache
def _basis() -> list[int]:
    """Cantor basis v_0 .. v_63 of GF(2^64): v_i = v_(i+1)^2 + v_(i+1), down from trace one."""
    basis = [1 << 61]
    for _ in range(63):
        basis.append(_times(basis[-1], basis[-1]) ^ basis[-1])
    assert basis[-1] == 1
    return basis[::-1]


def _times(a: int, b: int) -> int:
    product = 0
    while b:
        product ^= a * (b & 1)
        b >>= 1
        a <<= 1
        a ^= _MODULUS * (a >> 64)
    return product


@functools.lru_cache(maxsize=4)
def _twiddles(k: int) -> _Words:
    twiddles = np.zeros(1 << (k - 1), dtype=np.uint64)
    for t, v in enumerate(_basis()[1:k]):
        np.bitwise_xor(twiddles[: 1 << t], np.uint64(v), out=twiddles[1 << t : 2 << t])
    return twiddles


@functools.lru_cache(maxsize=4)
def _layers(k: int) -> _Schedule:
    """Layers of butterflies, each part of the words staying in its cache as long as it can."""

    def part(top: int, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return the layers below ``top`` from ``start`` to ``stop``."""
        if top <= _CACHES[0]:
            return [(i, start, stop) for i in reversed(range(1, top))]
        fit = max(cache for cache in _CACHES if cache < top)
        rows = [(i, start, stop) for i in reversed(range(fit, top))]
        for x in range(start, stop, 1 << fit):
            rows += part(fit, x, x + (1 << fit))
        return rows

    return np.array(part(k, 0, 1 << k), dtype=np.int64)


@functools.lru_cache(maxsize=4)
def _divisions(k: int) -> _Schedule:
    """Divisions that write a polynomial in products of the s_i.

    With h the greatest power of two below k, s_h(x) = x^(2^h) + x and s_(h+j)(x) = s_j(s_h(x)):
    expand in powers of s_h, then take s_h for the variable, then each coefficient.
    """

    def steps(k: int, unit: int) -> list[tuple[int, int]]:
        if k < 2:
            return []
        h = 1 << ((k - 1).bit_length() - 1)
        own = [(1 << (h + m + unit), 1 << (m + unit)) for m in reversed(range(k - h))]
        return own + steps(k - h, unit + h) + steps(h, unit)

    rows = steps(k, 0)
    assert rows[-4:] == [(8, 2), (4, 1), (8, 4), (2, 1)]
    rows[-4:] = [(8, 0)]
    tile = 1 << min(k, _CACHES[0])
    near = next(i for i in range(len(rows)) if all(2 * half <= tile for half, _ in rows[i:]))
    schedule = [(half, shift, 0, 1 << k) for half, shift in rows[:near]]
    for start in range(0, 1 << k, tile):
        schedule += [(half, shift, start, start + tile) for half, shift in rows[near:]]
    return np.array(schedule, dtype=np.int64)
