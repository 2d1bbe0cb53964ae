"""Toeplitz hashing over GF(2): privacy amplification and verification both use it.

Uniformly random Toeplitz matrices are a universal_2 family with collision probability exactly
``2^-l`` (Krawczyk, CRYPTO '94; Mansour, Nisan, Tiwari 1993): for ``x != 0`` the product ``T x`` is
uniform. The seed is public, but must be drawn after the quantum phase, fresh for each block.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...instruments import ProtocolError

__all__ = ["seed_bits", "toeplitz_hash"]

Bits = npt.NDArray[np.uint8]

#: Above this the rounding error of a float64 transform is no longer known to be harmless.
MAX_BITS = 1 << 28


def seed_bits(n: int, length: int) -> int:
    """Seed bits of a Toeplitz matrix of ``length`` rows and ``n`` columns, ``n + length - 1``."""
    return n + length - 1


def toeplitz_hash(bits: Bits, seed: Bits, length: int) -> Bits:
    """Product of a Toeplitz matrix and ``bits``, modulo 2.

    Row i, column j of the matrix is ``seed[i - j + n - 1]``. The product is a convolution, done
    by a float64 real transform whose distance from whole numbers is checked.

    Args:
        bits: uint8 zeros and ones, shape (n,).
        seed: uint8 zeros and ones, shape (n + length - 1,).
        length: Rows of the matrix, that is bits of the result.

    Returns:
        uint8 zeros and ones, shape (length,).

    Raises:
        ValueError: where shapes do not fit or the arrays hold other than bits.
        ProtocolError: where rounding could have changed a bit.
    """
    n = bits.size
    if length < 1 or n < 1 or bits.shape != (n,) or seed.shape != (seed_bits(n, length),):
        raise ValueError(
            f"{bits.shape} bits to {length} need {seed_bits(n, length)} seed bits, got {seed.shape}"
        )
    for name, array in (("bits", bits), ("seed", seed)):
        if array.dtype != np.uint8 or array.max() > 1:
            raise ValueError(f"{name} must be uint8 zeros and ones")
    if seed.size > MAX_BITS:
        raise ProtocolError(
            f"hashing {n} bits to {length} exceeds the {MAX_BITS} bits that a float64 transform"
            " is trusted with; use smaller blocks"
        )
    from scipy import fft

    # Only entries n-1 .. n+length-2 are wanted, and a cyclic convolution of this size leaves
    # those free of wrap-around.
    size = fft.next_fast_len(seed.size, real=True)
    product = fft.irfft(
        fft.rfft(seed.astype(np.float64), size) * fft.rfft(bits.astype(np.float64), size), size
    )[n - 1 : n - 1 + length]
    whole = np.rint(product)
    error = float(np.max(np.abs(product - whole)))
    if not error < 1.0 / 64.0:
        raise ProtocolError(f"rounding error {error:.3g} of the Toeplitz transform is unsafe")
    return (whole.astype(np.int64) & 1).astype(np.uint8)
