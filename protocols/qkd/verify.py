"""Verification that both parties hold the same corrected block."""

from __future__ import annotations

from .amplify import Bits, seed_bits, toeplitz_hash

__all__ = ["tag_seed_bits", "verification_tag"]


def tag_seed_bits(n: int, tag_bits: int) -> int:
    """Random bits that a tag of ``tag_bits`` on ``n`` bits needs."""
    return seed_bits(n, tag_bits)


def verification_tag(bits: Bits, seed: Bits, tag_bits: int) -> Bits:
    """Universal hash of a block: ``tag_bits`` rows of a random Toeplitz matrix.

    Two different blocks get the same tag with probability exactly ``2^-tag_bits`` over the seed:
    the tags differ by ``T d`` with ``d != 0``, and fixing all of the seed but the ``tag_bits``
    entries that meet the first one of ``d``, ``T d`` is a bijection of those. This is the
    ``eps_ec = 2^-t`` of Tomamichel and Leverrier. The tag is public and its length is charged.

    Raises:
        ValueError: where the seed does not fit; see :func:`toeplitz_hash`.
    """
    return toeplitz_hash(bits, seed, tag_bits)
