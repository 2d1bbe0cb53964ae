"""Cascade of two parties beside PyPI's ``qkd``, in CPU seconds of one core for both parties.

Run ``python benchmarks/cascade.py [--json]``; `rows` serves ``benchmarks/qkd.py``. Ours exchanges
arrays between a reference and a corrector, frames of 2^16 bits. The peer holds both strings and
counts the parities, frames of 2^16 bits as well and the published ones of 2^14. Errors are drawn at
random at the rate that both are told.

The last rows put a round trip of 20 ms between the parties. Time is simulated: what was computed,
on one core for both, as measured; and 10 ms for each message. Several blocks are in flight.
"""

from __future__ import annotations

import heapq
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from bellbench.protocols.qkd.cascade import Corrector, Reference
from bellbench.protocols.qkd.finite_key import binary_entropy
from peers import outside
from side_by_side import Row, show

Bits = npt.NDArray[np.uint8]
FRAME = 1 << 16
ROUND_TRIP_S = 0.02


def noisy(n: int, rate: float, seed: int) -> tuple[Bits, Bits]:
    rng = np.random.default_rng(seed)
    alice = rng.integers(0, 2, n, dtype=np.uint8)
    return alice, alice ^ (rng.random(n) < rate).astype(np.uint8)


def failed(alice: Bits, corrected: Bits) -> int:
    """Frames that differ; bit i is of frame i % frames."""
    return np.unique(np.flatnonzero(alice != corrected) % -(-alice.size // FRAME)).size


def reconcile(alice: Bits, bob: Bits, rate: float, key: int) -> tuple[Corrector, int, int]:
    """Corrector, bits of leak, rounds."""
    reference, corrector = Reference(alice, rate, key), Corrector(bob, rate, key)
    leak = rounds = 0
    while (request := corrector.request()) is not None:
        leak, rounds = leak + request.size, rounds + 1
        corrector.accept(reference.answer(request))
    return corrector, leak, rounds


def beside_peers(rate: float, frames: int, times: int) -> Iterator[Row]:
    """Rows of an error rate, each side's least CPU time of several turns."""
    n = frames * FRAME
    spent: dict[str, float] = {}
    f: dict[str, float] = {}
    failures: dict[str, int] = {}
    peers: dict[str, tuple[Any, int]] = {}
    try:
        peer = outside("qkd.reconcile")
    except ImportError:
        print("skipped: qkd is not installed", file=sys.stderr)
    else:
        for size in (FRAME, 1 << 14):
            name = f"qkd run_cascade, counts only, 2^{size.bit_length() - 1}"
            peers[name] = (peer.Cascade(frame=size), n // size)
    rounds = 0
    for seed in range(times):
        alice, bob = noisy(n, rate, seed)
        start = time.process_time()
        corrector, leak, rounds = reconcile(alice, bob, rate, seed)
        took = time.process_time() - start
        spent["ours"] = min(took, spent.get("ours", took))
        f["ours"] = f.get("ours", 0.0) + leak / n / binary_entropy(float(np.mean(alice != bob)))
        failures["ours"] = failures.get("ours", 0) + failed(alice, corrector.bits)
        for name, (config, count) in peers.items():
            start = time.process_time()
            mean, wrong = peer.run_cascade(rate, count, seed + 1, config)
            took = time.process_time() - start
            spent[name] = min(took, spent.get(name, took))
            f[name] = f.get(name, 0.0) + mean / config.frame / binary_entropy(rate)
            failures[name] = failures.get(name, 0) + wrong
    speed = n / 1e6 / spent["ours"]
    work = f"Cascade {rate:.0%}, {frames} frames of 2^16, {rounds} rounds"
    mine = (f["ours"] / times, failures["ours"], frames * times)
    for name, (_, count) in peers.items():
        theirs = (f[name] / times, failures[name], count * times)
        ratio = spent[name] / spent["ours"]
        yield Row(work, speed, name, n / 1e6 / spent[name], "Mbit/s", ratio, *mine, *theirs)
    if not peers:
        yield Row(work, speed, "", None, "Mbit/s", None, *mine)


def exchange(alice: Bits, bob: Bits, rate: float, key: int) -> Iterator[None]:
    """The two parties, one after the other; each step ends with a message on its way."""
    reference, corrector = Reference(alice, rate, key), Corrector(bob, rate, key)
    while (request := corrector.request()) is not None:
        yield
        parities = reference.answer(request)
        yield
        corrector.accept(parities)
    assert failed(alice, corrector.bits) <= 1


def completions(start: Callable[[int], Iterator[None]], blocks: int, flying: int) -> list[float]:
    """When each block is done, on one core and with messages between the parties.

    So many are in flight; the next begins when one is done.
    """
    core, begun = 0.0, min(flying, blocks)
    # When each block can go on.
    ready = [(0.0, k, start(k)) for k in range(begun)]
    done = []
    while ready:
        at, k, steps = heapq.heappop(ready)
        began = time.process_time()
        on = next(steps, k) is None
        core = max(core, at) + time.process_time() - began
        if on:
            heapq.heappush(ready, (core + ROUND_TRIP_S / 2, k, steps))
            continue
        done.append(core)
        if begun < blocks:
            heapq.heappush(ready, (core, begun, start(begun)))
            begun += 1
    return done


def with_latency(rate: float, frames: int, flying: int) -> Row:
    """Row of the speed at 20 ms, once all is in full flow, beside that without latency."""
    n = frames * FRAME
    alice, bob = noisy(n, rate, 1)

    def block(key: int) -> Iterator[None]:
        return exchange(alice, bob, rate, key)

    without = []
    for key in range(5):
        began = time.process_time()
        for _ in block(key):
            pass
        without.append(time.process_time() - began)
    done = completions(block, 4 * flying, flying)
    each = (done[3 * flying] - done[flying]) / (2 * flying)
    work = f"Cascade {rate:.0%}, 20 ms, {flying} blocks of {n / 1e6:.1f} Mbit in flight"
    at_once = sorted(without)[2]
    return Row(work, n / 1e6 / each, "no latency", n / 1e6 / at_once, "Mbit/s", at_once / each)


def rows() -> Iterator[Row]:
    """Yield the rows of Cascade."""
    reconcile(*noisy(1000, 0.03, 1), 0.03, 1)  # compiles
    for rate in (0.01, 0.02, 0.03, 0.05, 0.08, 0.11):
        yield from beside_peers(rate, 64, 3)
    yield with_latency(0.03, 64, 24)


if __name__ == "__main__":
    show(rows())
