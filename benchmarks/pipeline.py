"""From recorded clicks to keys in two stores. Run: python benchmarks/pipeline.py [--minute]

Both parties' sessions whole: clock recovery, sifting, messages as bytes, estimation, Cascade,
verification, amplification, authentication. CPU seconds of each party are counted, behind the
calibration. The limit is the goal of a bench: 10 Mtags/s of both sides together.

``--minute`` prints what each second of a minute takes, and the memory held.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from bellbench.instruments import TagBatch
from bellbench.protocols.qkd import Detectors, Parameters, Session
from bellbench.protocols.qkd.authentication import Role, memory_pads
from bellbench.protocols.qkd.sink import MemorySink
from side_by_side import Row, show

Clocks = Literal["recovered", "shared"]

STEP_PS = 10**11
CALIBRATION_PS = 5 * 10**11
BLOCK_PS = 2 * 10**12
WINDOW_PS = 300
JITTER_PS = 40
ERRORS = 0.02
OFFSET_PS, FREQUENCY = 3 * 10**9, 2e-6  # of Bob's clock where clocks are recovered
GOAL_MTAGS = 10.0
DETECTORS = Detectors.of({1: ("Z", 0), 2: ("Z", 1), 3: ("X", 0), 4: ("X", 1)})
DELAYS = ((0, 23_400, 24_100, 22_800, 23_900), (0, 41_700, 40_900, 42_600, 41_200))
LONGEST_PS = 100_000  # any delay and jitter


def recording(
    singles: int, pairs: int, seconds: float, clocks: Clocks, seed: int = 1
) -> Iterator[tuple[TagBatch, TagBatch]]:
    """Clicks of Alice and of Bob, in batches: ``pairs`` of the ``singles`` per second are pairs."""
    rng = np.random.default_rng(seed)
    share = STEP_PS * 1e-12
    n, others = round(pairs * share), round((singles - pairs) * share)
    for begin in range(0, round(seconds * 1e12), STEP_PS):
        end = begin + STEP_PS
        born = rng.integers(begin, end - LONGEST_PS, n)
        bases, bits = rng.integers(0, 2, (2, n)), rng.integers(0, 2, (2, n))
        same = bases[0] == bases[1]
        bits[1, same] = bits[0, same] ^ (rng.random(int(same.sum())) < ERRORS)
        found = []
        for party in range(2):
            times = np.concatenate([born, rng.integers(begin, end - LONGEST_PS, others)])
            channels = np.concatenate(
                [1 + 2 * bases[party] + bits[party], rng.integers(1, 5, others)]
            ).astype(np.int16)
            times[:n] += np.abs(rng.normal(5 * JITTER_PS, JITTER_PS, n)).astype(np.int64)
            times += np.array(DELAYS[party])[channels]
            span = (begin, end)
            if party and clocks == "recovered":
                times += OFFSET_PS + np.rint(times * FREQUENCY).astype(np.int64)
                span = (
                    begin + OFFSET_PS + round(begin * FREQUENCY),
                    end + OFFSET_PS + round(end * FREQUENCY),
                )
            order = np.argsort(times)
            found.append(TagBatch(times[order], channels[order], *span))
        yield found[0], found[1]


class Exchange:
    """Two sessions in one process, and the CPU time of each.

    Attributes:
        spent: CPU time of alice and bob, ns.
    """

    def __init__(self, pairs: int, clocks: Clocks) -> None:
        parameters = Parameters.plan(
            window_ps=WINDOW_PS,
            calibration_ps=CALIBRATION_PS,
            block_ps=BLOCK_PS,
            expected_bits=round(0.45 * pairs * BLOCK_PS * 1e-12),
            clocks=clocks,
        )
        roles: tuple[Role, Role] = ("alice", "bob")
        pads = memory_pads(bytes(range(256)) * 64)
        self.alice, self.bob = (
            Session(
                role,
                DETECTORS,
                parameters,
                sink=MemorySink(rehearsal=True),
                pads=pad,
                twins=True,
            )
            for role, pad in zip(roles, pads, strict=True)
        )
        self.spent: Counter[str] = Counter()

    def _timed(self, party: Session, work: Callable[[], object]) -> None:
        start = time.process_time_ns()
        work()
        self.spent[party.role] += time.process_time_ns() - start

    def feed(self, a: TagBatch, b: TagBatch) -> None:
        """Clicks of both, and all that is said about them."""
        self._timed(self.alice, lambda: self.alice.feed(a))
        self._timed(self.bob, lambda: self.bob.feed(b))
        self.talk()

    def talk(self) -> None:
        """Carry frames until neither party has anything to say."""
        while frames := [(self.alice, f) for f in self.bob.send()] + [
            (self.bob, f) for f in self.alice.send()
        ]:
            for party, frame in frames:
                self._timed(party, lambda p=party, f=frame: p.receive(f))  # type: ignore[misc]
        for party in (self.alice, self.bob):
            assert not party.reason, party.reason

    def finish(self) -> int:
        """End; returns the key bits."""
        for party in (self.alice, self.bob):
            self._timed(party, party.finish)
        self.talk()
        made = self.alice.progress.key_bits
        assert made == self.bob.progress.key_bits > 0, self.alice.take_reports()
        return made


def exchange(
    clicks: list[tuple[TagBatch, TagBatch]], pairs: int, clocks: Clocks
) -> tuple[Counter[str], Counter[str]]:
    """CPU time of each party, ns, in the calibration, and after it."""
    both = Exchange(pairs, clocks)
    calibration: Counter[str] = Counter()
    for a, b in clicks:
        both.feed(a, b)
        if a.begin_ps < CALIBRATION_PS:
            calibration, both.spent = calibration + both.spent, Counter()
    both.finish()
    return calibration, both.spent


def rows() -> Iterator[Row]:
    """Recorded clicks of both parties through one core, or each party through its own."""
    for singles, pairs, clocks in (
        (1_000_000, 50_000, "recovered"),
        (2_500_000, 200_000, "recovered"),
        (2_500_000, 200_000, "shared"),
    ):
        after = 2 * BLOCK_PS * 1e-12
        clicks = list(recording(singles, pairs, after + CALIBRATION_PS * 1e-12, clocks))  # type: ignore[arg-type]
        exchange(clicks[:15], pairs, clocks)  # type: ignore[arg-type] # compiles
        runs = [exchange(clicks, pairs, clocks) for _ in range(2)]  # type: ignore[arg-type]
        calibration, spent = min(runs, key=lambda run: run[1].total())
        mtags = 2e-6 * singles * after
        name = f"{2e-6 * singles:g} Mtags/s, clocks {clocks}"
        for cores, took in (("one core", spent.total()), ("two", max(spent.values()))):
            rate = 1e9 * mtags / took
            yield Row(
                f"tags to key, {name}, {cores}",
                rate,
                "goal",
                GOAL_MTAGS,
                "Mtags/s",
                rate / GOAL_MTAGS,
            )
        yield Row(f"calibration, {name}", 1e-9 * calibration.total(), "", None, "s", None)


def minute(seconds: int = 60, singles: int = 500_000, pairs: int = 40_000) -> None:
    """Print CPU seconds of each second of recording, by tens, and the memory held."""
    import resource

    both = Exchange(pairs, "recovered")
    per_second = round(1e12 / STEP_PS)
    for i, (a, b) in enumerate(recording(singles, pairs, seconds, "recovered"), 1):
        both.feed(a, b)
        if i % (10 * per_second) == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            spent = {party: round(1e-10 * took, 3) for party, took in sorted(both.spent.items())}
            print(f"to {i // per_second} s: CPU s per s {spent}, peak memory {peak:.0f} MB")
            both.spent.clear()
    print(f"{both.finish():,} bits of key")


if __name__ == "__main__":
    if "--minute" in sys.argv[1:]:
        minute()
    else:
        show(rows())
