"""Privacy amplification and verification beside their peers, in CPU seconds of one core.

Run ``python benchmarks/amplify.py [--json]``; `rows` serves ``benchmarks/qkd.py``. Hashing is to
half the length and counted in bits that go in. Results are compared before times are. Peers come
with ``pip install python-flint cryptomite`` (the latter is not for commercial use).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from bellbench.protocols.qkd import amplify, verify
from bellbench.protocols.qkd.amplify import toeplitz_hash_packed
from bellbench.protocols.qkd.verify import verification_tag
from peers import installed
from side_by_side import Row, rates, seconds, show

Bits = npt.NDArray[np.uint8]


def toeplitz_by_fft(bits: Bits, seed: Bits, length: int) -> Bits:
    """What a float64 transform does, its distance from whole numbers checked."""
    from scipy import fft

    n = bits.size
    size = fft.next_fast_len(seed.size, real=True)
    spectrum = fft.rfft(seed.astype(np.float64), size) * fft.rfft(bits.astype(np.float64), size)
    product = fft.irfft(spectrum, size)[n - 1 : n - 1 + length]
    whole = np.rint(product)
    assert np.max(np.abs(product - whole)) < 1 / 64
    return (whole.astype(np.int64) & 1).astype(np.uint8)


def toeplitz_by_flint(bits: Bits, seed: Bits, length: int) -> tuple[Callable[[], object], Bits]:
    import flint

    first, second = flint.nmod_poly(bits.tolist(), 2), flint.nmod_poly(seed.tolist(), 2)
    n, product = bits.size, first * second
    return lambda: first * second, np.array([int(product[n - 1 + i]) for i in range(length)])


def toeplitz_by_cryptomite(
    bits: Bits, seed: Bits, length: int
) -> tuple[Callable[[], object], Bits]:
    from cryptomite.toeplitz import Toeplitz

    n = bits.size
    extract = functools.partial(
        Toeplitz(n, length).extract,
        bits.tolist(),
        [*seed[n - 1 :].tolist(), *seed[: n - 1].tolist()],
    )
    return extract, np.array(extract())


def some_bits(seed: int, count: int) -> Bits:
    return np.random.default_rng(seed).integers(0, 2, count, dtype=np.uint8)


def amplification(n: int, times: int, peers: bool = True) -> Iterator[Row]:
    length = n // 2
    bits, seed = some_bits(1, n), some_bits(2, n + length - 1)
    packed_bits, packed_seed = np.packbits(bits), np.packbits(seed)
    by = "carry-less" if amplify.carryless() == 0 else "portable"
    result = np.unpackbits(toeplitz_hash_packed(packed_bits, n, packed_seed, length), count=length)
    works: dict[str, Callable[[], object]] = {
        "ours": lambda: toeplitz_hash_packed(packed_bits, n, packed_seed, length),
        "portable": functools.partial(
            amplify._product,
            amplify._words(packed_bits),
            n,
            amplify._words(packed_seed),
            length,
            None,
        ),
    }
    if peers:
        works["scipy rfft, float64"] = lambda: toeplitz_by_fft(bits, seed, length)
        assert np.array_equal(toeplitz_by_fft(bits, seed, length), result)
        for name, module, make in (
            ("FLINT nmod_poly", "flint", toeplitz_by_flint),
            ("cryptomite", "cryptomite", toeplitz_by_cryptomite),
        ):
            if n <= 10**6 and installed(module):
                works[name], same = make(bits, seed, length)
                assert np.array_equal(same, result), name
    spent = seconds(works, times, time.process_time)
    for work, path in ((by, "ours"), ("portable", "portable")):
        if path == "portable" and by == "portable":
            continue
        name = f"Toeplitz {n:.0e} to {length:.0e}, {work}".replace("e+0", "e")
        others = {peer: value for peer, value in spent.items() if peer not in ("ours", "portable")}
        yield from rates(name, n / 1e6, spent[path], others, "Mbit/s")
        if not others:
            yield Row(name, n / 1e6 / spent[path], "", None, "Mbit/s", None)


def verification(n: int, t: int) -> Iterator[Row]:
    bits, short, long = some_bits(1, n), some_bits(2, 256), some_bits(3, n + t - 1)
    works: dict[str, Callable[[], object]] = {
        "ours": lambda: verification_tag(bits, short, t),
        "portable": lambda: verify._tag(np.packbits(bits), np.packbits(short), None),
        "Toeplitz by scipy rfft": lambda: toeplitz_by_fft(bits, long, t),
    }
    spent = seconds(works, 5, time.process_time)
    peers = {"Toeplitz by scipy rfft": spent["Toeplitz by scipy rfft"]}
    yield from rates(f"tag of {t} bits, {n / 1e6:g} Mbit", n / 1e6, spent["ours"], peers, "Mbit/s")
    name = f"tag of {t} bits, {n / 1e6:g} Mbit, portable"
    yield from rates(name, n / 1e6, spent["portable"], peers, "Mbit/s")


def rows() -> Iterator[Row]:
    """Yield the rows of amplification and verification."""
    yield from amplification(10**5, 9)
    yield from amplification(10**6, 7)
    yield from amplification(10**7, 2)
    yield from amplification(10**8, 1, peers=False)
    yield from verification(10**6, 50)


if __name__ == "__main__":
    show(rows())
