"""Verification that both parties hold the same corrected block.

The block, cut in m = ceil(n / 128) elements b_i of GF(2^128) (the last filled with zeros), is
hashed to the first ``t`` bits of::

    beta (b_1 alpha^(m-1) + b_2 alpha^(m-2) + ... + b_m)

with alpha and beta uniform: a polynomial evaluated at a random point (den Boer, J. Comput. Secur.
2, 65 (1993); Johansson, Kabatianskii, Smeets, EUROCRYPT '93), where two blocks differ by a
polynomial of degree below m, which has at most m - 1 roots; then the multiplication by beta, which
sends an element that is not zero to a uniform one. Both together collide with probability at most
the sum (composition of universal families: Stinson, Des. Codes Cryptogr. 4, 369 (1994)), which is
:func:`collision_probability`. A string of 128 bits is a polynomial, its first bit at x^127, modulo
x^128 + x^7 + x^2 + x + 1.

The seed has 256 bits whatever the length of the block. It is public, but the block must not have
been chosen (or attacked) with knowledge of it: draw it when reconciliation has ended, for one block
only, and send it authenticated together with the tag.
"""

from __future__ import annotations

import numpy as np

from .amplify import Bits, Packed, carryless, pack

__all__ = ["collision_probability", "extra_collision", "tag_seed_bits", "verification_tag"]

_SEED_BITS = 256


def tag_seed_bits(n: int, tag_bits: int) -> int:
    """Random bits that a tag of ``tag_bits`` on ``n`` bits needs: 256.

    Raises:
        ValueError: where no such tag exists; it has 1 to 128 bits.
    """
    if n < 1 or not 1 <= tag_bits <= 128:
        raise ValueError(f"a tag has 1 to 128 bits, not {tag_bits}, of 1 bit or more, not {n}")
    return _SEED_BITS


def collision_probability(n: int, tag_bits: int) -> float:
    """Greatest chance, over the seed, that two different blocks of ``n`` bits have equal tags.

    It is ``2^-t + (ceil(n / 128) - 1) 2^-128``, and takes the place of ``eps_ec = 2^-t`` in the
    theorems on key length, where ``t`` bits are charged. At t <= 64 and n <= 10^8 the second term
    is below 10^-13 of the first.
    """
    tag_seed_bits(n, tag_bits)
    return 2.0**-tag_bits + extra_collision(n)


def extra_collision(n: int) -> float:
    """What :func:`collision_probability` has beyond ``2^-t``: what a session spends in addition."""
    return max(0, -(-n // 128) - 1) * 2.0**-128


def verification_tag(bits: Bits, seed: Bits, tag_bits: int) -> Bits:
    """Tag of a block, for comparison by ``hmac.compare_digest``.

    The tag is public, and ``tag_bits`` are charged to the key.

    Args:
        bits: uint8 zeros and ones, shape (n,).
        seed: uint8 zeros and ones, shape (256,): alpha, then beta.
        tag_bits: Bits of the tag, t, from 1 to 128.

    Returns:
        uint8 zeros and ones, shape (tag_bits,).

    Raises:
        ValueError: where shapes do not fit or the arrays hold other than bits.
    """
    needed = tag_seed_bits(bits.size, tag_bits)
    if seed.shape != (needed,):
        raise ValueError(f"a tag needs {needed} seed bits, got an array of shape {seed.shape}")
    return np.unpackbits(_tag(pack(bits), pack(seed), carryless()), count=tag_bits)


def _tag(bits: Packed, seed: Packed, how: int | None) -> Packed:
    from . import _kernels_gf2 as kernels

    padded = np.zeros(-(-bits.size // 16) * 16, dtype=np.uint8)
    padded[: bits.size] = bits
    words, points = (array.view(">u8").astype(np.uint64) for array in (padded, seed))
    return np.array(kernels.evaluate(words, points, how), dtype=">u8").view(np.uint8)
