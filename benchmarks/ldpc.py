"""One-way LDPC reconciliation: ``python benchmarks/ldpc.py [--json]``.

Both parties in one process, CPU seconds on one core. Eight frames of 2^18 bits at each error rate:
as planned (f <= 1.13 from 1.85 % on), and with the error rate estimated high so that f is just
below 1.20, which is faster. Frames that failed are those that asked for a second round; f counts
what they got.

The peer is the sum-product decoder of PyPI ``ldpc``, on our code and syndrome of one short frame, a
size at which it is not slowed down by memory; decoding only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from bellbench.protocols.qkd import ldpc
from bellbench.protocols.qkd.finite_key import binary_entropy
from peers import outside
from side_by_side import Row, show

FRAME, FRAMES, SHORT, MIN = 1 << 18, 8, 1 << 14, ldpc.MIN_BITS
RATES = (0.0125, 0.0185, 0.027, 0.0355, 0.047, 0.059, 0.071, 0.084, 0.097, 0.11)


def rows() -> Iterator[Row]:
    """Yield two rows for each error rate, and those beside the peer."""
    reconcile(MIN, 0.03, 0.03)  # compiles
    reconcile(MIN, 0.09, 0.09)
    for rate in RATES:
        for goal, estimate in (("as planned", rate), ("f <= 1.20", loose(rate, 1.195))):
            reconcile(FRAME, rate, estimate)  # makes the codes
            speed, f, failures, iterations = max(
                reconcile(FRAME * FRAMES, rate, estimate) for _ in range(3)
            )
            work = f"LDPC, {100 * rate:.2f} %, {goal}, {iterations:.0f} iterations"
            yield Row(work, speed, "", None, "Mbit/s", None, f, failures, FRAMES)
    for rate in (0.03, 0.09):
        theirs = peer(rate)
        if theirs is not None:
            speed, f, failures, _ = max(reconcile(SHORT, rate, rate) for _ in range(20))
            work, ratio = f"LDPC, {100 * rate:.2f} %, 2^14 bits", speed / theirs.value
            us, them = (f, failures, 1), (theirs.f, theirs.failures, 1)
            yield Row(work, speed, theirs.name, theirs.value, "Mbit/s", ratio, *us, *them)


def loose(rate: float, goal: float) -> float:
    """Error rate for which the codes leak ``goal`` times what ``rate`` must."""
    low, high = rate, ldpc.ERROR_RATES[1]
    least = goal * FRAME * binary_entropy(rate)
    for _ in range(40):
        middle = (low + high) / 2
        if ldpc.leak_budget(FRAME, middle).syndrome <= least:
            low = middle
        else:
            high = middle
    return low


def reconcile(n: int, rate: float, estimate: float) -> tuple[float, float, int, float]:
    """Mbit/s, f, frames that failed at first, iterations for each frame."""
    rng = np.random.default_rng(1)
    alice = rng.integers(0, 2, n, dtype=np.uint8)
    bob = alice ^ (rng.random(n) < rate).astype(np.uint8)
    start = time.process_time()
    reference = ldpc.Reference(alice, estimate, 1)
    corrector = ldpc.Corrector(bob, estimate, 1)
    parities = reference.syndrome()
    leak, failures = parities.size, None
    while (frames := corrector.accept(parities)) is not None:
        failures = frames.size if failures is None else failures
        parities = reference.more(frames)
        leak += parities.size
    seconds = time.process_time() - start
    if not np.array_equal(alice, corrector.bits):
        raise SystemExit(f"wrong bits at {rate}")
    f = leak / (n * binary_entropy(corrector.errors / n))
    count = ldpc.leak_budget(n, estimate).frames
    return n / seconds / 1e6, f, failures or 0, corrector.iterations / count


class Peer(NamedTuple):
    """What it did with one frame."""

    name: str
    value: float
    f: float
    failures: int


def peer(rate: float) -> Peer | None:
    """The peer on one of our frames."""
    mine = sys.modules.pop("ldpc", None)  # this file, where another one imported it
    try:
        decoder_of: Any = outside("ldpc").BpDecoder
    except ImportError:
        print("skipped: ldpc is not installed", file=sys.stderr)
        return None
    finally:
        if mine is not None:
            sys.modules["ldpc"] = mine
    matrix, channel, hidden = graph(rate)
    rng = np.random.default_rng(2)
    errors = (rng.random(channel.size) < channel).astype(np.uint8)
    decoder = decoder_of(
        matrix, error_channel=channel, max_iter=100, bp_method="product_sum", schedule="parallel"
    )
    # Here the hidden bits are drawn, and all checks of them told: the same work for a decoder.
    syndrome = (matrix @ errors % 2).astype(np.uint8)
    start = time.process_time()
    found = decoder.decode(syndrome)
    seconds = time.process_time() - start
    lost = int(not np.array_equal(found[hidden:], errors[hidden:]))
    least = SHORT * binary_entropy(float(errors[hidden:].sum()) / SHORT)
    f = ldpc.leak_budget(SHORT, rate).syndrome / least
    return Peer(f"ldpc {version('ldpc')}", SHORT / seconds / 1e6, f, lost)


def graph(rate: float) -> tuple[Any, npt.NDArray[np.float64], int]:
    """Parity-check matrix of our code, error rate of each bit, and how many are hidden."""
    import scipy.sparse

    shape = ldpc._plan(SHORT, rate).shape
    code, z = ldpc._code(shape, 0), shape.lifting
    row = np.repeat(np.arange(code.rows), np.diff(code.row_start))
    lane = np.arange(z)[:, np.newaxis]
    used = lane < code.length[row]
    ones_row = (row * z + lane)[used]
    ones_column = (code.column * z + (lane + code.shift.astype(np.int64)) % z)[used]
    kept = np.flatnonzero((np.arange(z) < code.length[:, np.newaxis]).reshape(-1))
    own = np.flatnonzero(np.repeat(code.has_own, z)[kept])
    size = shape.columns * z
    ones = np.ones(ones_row.size, dtype=np.uint8)
    matrix = scipy.sparse.csr_matrix((ones, (ones_row, ones_column)), (code.rows * z, size))[kept]
    if own.size:
        parts = (np.ones(own.size, dtype=np.uint8), (own, np.arange(own.size)))
        matrix = scipy.sparse.hstack(
            [matrix, scipy.sparse.csr_matrix(parts, (kept.size, own.size))], format="csr"
        )
    channel = np.full(size + own.size, rate)
    channel[: code.hidden * z] = 0.5
    known = size + own.size - code.hidden * z - SHORT
    channel[size - known : size] = 1e-9
    return matrix, channel, code.hidden * z


if __name__ == "__main__":
    show(rows())
