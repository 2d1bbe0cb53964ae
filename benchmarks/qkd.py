"""BBM92 post-processing: Cascade and Toeplitz hashing. Run: python benchmarks/qkd.py"""

from __future__ import annotations

import time

import numpy as np
from bellbench.protocols.qkd.amplify import seed_bits, toeplitz_hash
from bellbench.protocols.qkd.cascade import Corrector, Reference
from bellbench.protocols.qkd.finite_key import binary_entropy


def cascade(n: int, rate: float) -> None:
    rng = np.random.default_rng(1)
    alice = rng.integers(0, 2, n, dtype=np.uint8)
    bob = alice ^ (rng.random(n) < rate).astype(np.uint8)
    wrong = float(np.mean(alice != bob))
    start = time.perf_counter()
    reference, corrector = Reference(alice, rate, 1), Corrector(bob, rate, 1)
    leak = rounds = 0
    while (request := corrector.request()) is not None:
        parities = reference.answer(*request)
        leak, rounds = leak + parities.size, rounds + 1
        corrector.accept(parities)
    seconds = time.perf_counter() - start
    print(
        f"cascade n={n} Q={rate:.3f}: f={leak / (n * binary_entropy(wrong)):.4f} rounds={rounds}"
        f" {seconds:.3f} s, both parties ({n / seconds / 1e6:.2f} Mbit/s)"
        f" equal={np.array_equal(corrector.bits, alice)}"
    )


def toeplitz(n: int) -> None:
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2, n, dtype=np.uint8)
    seed = rng.integers(0, 2, seed_bits(n, n // 2), dtype=np.uint8)
    start = time.perf_counter()
    toeplitz_hash(bits, seed, n // 2)
    seconds = time.perf_counter() - start
    print(f"toeplitz n={n} l=n/2: {seconds:.3f} s ({n / seconds / 1e6:.1f} Mbit/s)")


if __name__ == "__main__":
    for length in (16_384, 87_000, 1_000_000):
        for q in (0.01, 0.03, 0.08):
            cascade(length, q)
    toeplitz(1000)  # loads scipy
    for length in (100_000, 1_000_000, 10_000_000):
        toeplitz(length)
