"""Sifting of both parties' clicks: events, pairing, kept bits. Run: python benchmarks/sifting.py

The limit is that of Yuan et al., J. Lightwave Technol. 36, 3427 (2018): 60 Mcounts/s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
from bellbench.instruments import TagBatch
from bellbench.protocols.qkd import Detectors, SystemRandomness
from bellbench.protocols.qkd.dating import Dating
from bellbench.protocols.qkd.sifting import BLIND, Clicks, Events, Sifter
from bellbench.protocols.timing import match
from side_by_side import Row, seconds, show

SECOND_PS = 10**12
BATCHES = 10
WINDOW_PS = 300
DEAD_TIME_PS = 50_000
JITTER_PS = 50
PEER_MCOUNTS = 60.0
DETECTORS = Detectors.of({1: ("Z", 0), 2: ("Z", 1), 3: ("X", 0), 4: ("X", 1)})
DELAYS = {1: 23_400, 2: 24_100, 3: 22_800, 4: 23_900}


def batches(pairs: np.ndarray, singles: int, rng: np.random.Generator) -> list[TagBatch]:
    """A second of one party: photons of pairs and others, on four channels."""
    times = np.concatenate(
        [
            pairs + rng.normal(0, JITTER_PS, pairs.size).astype(np.int64),
            rng.integers(0, SECOND_PS, singles - pairs.size),
        ]
    )
    channels = rng.integers(1, 5, times.size).astype(np.int16)
    times += np.array([0, *DELAYS.values()])[channels]
    order = np.argsort(times)
    times, channels = times[order], channels[order]
    edges = np.arange(BATCHES + 1) * (SECOND_PS // BATCHES)
    cuts = np.searchsorted(times, edges)
    return [
        TagBatch(times[a:b], channels[a:b], int(begin), int(end))
        for a, b, begin, end in zip(cuts, cuts[1:], edges, edges[1:], strict=False)
    ]


def events(clicks: list[TagBatch]) -> Iterator[Events]:
    """A party's own part: its clicks in order, double clicks, dead time."""
    party = Clicks(DETECTORS, 1, WINDOW_PS, SystemRandomness(), DEAD_TIME_PS)
    for number, batch in enumerate(clicks):
        party.add(batch)
        if not number:
            party.set_delays(DELAYS)
        yield party.take()


def sift(alice: list[TagBatch], bob: Iterable[Events]) -> int:
    """Everything between Alice's clicks, Bob's announced events and kept bits; how many."""
    sifter, dating = Sifter(WINDOW_PS, match), Dating()
    kept = 0
    for own, peer in zip(events(alice), bob, strict=True):
        dating.add_own(own)
        dating.add_peer(peer.times_ps, peer.horizon_ps)
        sifter.add_own(own)
        sifter.add_peer(dating.take())
        pairs = sifter.take()
        if pairs is not None:
            kept += int(np.count_nonzero(pairs.bases != BLIND))
    return kept


def rows() -> Iterator[Row]:
    """Clicks of both parties, on one core; and what Alice's core alone can take."""
    rng = np.random.default_rng(1)
    for singles, share in ((1_000_000, 0.1), (2_500_000, 0.2)):
        pairs = np.sort(rng.integers(0, SECOND_PS, round(share * singles)))
        alice, bob = (batches(pairs, singles, rng) for _ in range(2))
        announced = list(events(bob))
        spent = seconds(
            {
                "one core": partial(lambda a, b: sift(a, events(b)), alice, bob),
                "Alice's core": partial(sift, alice, announced),
            }
        )
        for where, took in spent.items():
            rate = 2e-6 * singles / took
            yield Row(
                f"sifting {2e-6 * singles:g} Mcounts/s of both, {where}",
                rate,
                "Yuan 2018",
                PEER_MCOUNTS,
                "Mcounts/s",
                rate / PEER_MCOUNTS,
            )


if __name__ == "__main__":
    show(rows())
