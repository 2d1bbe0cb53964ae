"""Coincidences of eight channels at once, beside one pass per pair.

Run ``python benchmarks/many.py [--json]`` where bellbench is installed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from bellbench.instruments import TagBatch
from bellbench.protocols.timing import CoincidenceCounter, FoldCounter
from pairs import coincidences
from side_by_side import Row, rates, seconds, show

CHANNELS = tuple(range(1, 9))
WINDOW_PS = 1000
FOURFOLDS = ((1, 2, 5, 6), (3, 4, 7, 8), (1, 3, 5, 7))
CABLES_PS = {channel: 3_700 * channel for channel in CHANNELS}
Counts = npt.NDArray[np.int64]


def stream(length_s: float = 1.0, delays: Mapping[int, int] | None = None) -> TagBatch:
    """Clicks as of devices.md 10, on eight channels: 2.5 M pairs/s, 40 % efficiency, darks."""
    rng = np.random.default_rng(1)
    end = int(length_s * 1e12)
    pairs = np.sort(rng.integers(0, end, rng.poisson(2.5e6 * length_s)))
    times, channels = [], []
    for first in (1, 5):
        seen = pairs[rng.random(pairs.size) < 0.4]
        seen = seen + np.rint(rng.normal(0, 60, seen.size)).astype(np.int64)
        dark = rng.integers(0, end, rng.poisson(0.5e6 * length_s))
        times += [seen, dark]
        channels.append(rng.integers(first, first + 4, seen.size + dark.size))
    t, c = np.concatenate(times), np.concatenate(channels).astype(np.int16)
    for channel, delay in (delays or {}).items():
        t[c == channel] += delay
    inside = (t >= 0) & (t < end)
    t, c = t[inside], c[inside]
    order = np.argsort(t, kind="stable")
    return TagBatch(t[order], c[order], 0, end)


def in_batches(whole: TagBatch, tags: int = 500_000) -> list[TagBatch]:
    """The stream in batches as a tagger hands them out."""
    parts = []
    while len(whole) > tags:
        first, whole = whole.split(int(whole.times_ps[tags]))
        parts.append(first)
    return [*parts, whole]


def folds(parts: Sequence[TagBatch], delays: Mapping[int, int] | None) -> Counts:
    counter = FoldCounter(CHANNELS, WINDOW_PS, folds=FOURFOLDS, delays_ps=delays)
    for part in parts:
        counter.add(part)
    return counter.finish().pairs


def pair_by_pair(parts: Sequence[TagBatch], delays: Mapping[int, int] | None) -> Counts:
    """The pairs alone: one pass each."""
    pairs = np.zeros((8, 8), np.int64)
    for a, b in itertools.combinations(range(8), 2):
        of_a, of_b = ({c: (delays or {}).get(c, 0)} for c in (CHANNELS[a], CHANNELS[b]))
        counter = CoincidenceCounter(
            CHANNELS[a : a + 1], CHANNELS[b : b + 1], WINDOW_PS, delays_a=of_a, delays_b=of_b
        )
        for part in parts:
            counter.add(part)
        pairs[a, b] = pairs[b, a] = counter.finish().counts[0, 0]
    return pairs


def by_hand(parts: Sequence[TagBatch], delays: Mapping[int, int] | None) -> Counts:
    """The pairs alone: a plain two-pointer loop in numba per pair, channels taken apart once."""
    pairs = np.zeros((8, 8), np.int64)
    for part in parts:  # pairs across the edges of batches are lost
        times = [
            part.times_ps[part.channels == channel] - (delays or {}).get(channel, 0)
            for channel in CHANNELS
        ]
        for a, b in itertools.combinations(range(8), 2):
            pairs[a, b] += coincidences(times[a], times[b], 0, WINDOW_PS // 2)
    return pairs + pairs.T


def set_by_set(parts: Sequence[TagBatch], delays: Mapping[int, int] | None) -> Counts:
    """The pairs alone: all channels with all, each pair twice and clicks with themselves."""
    counter = CoincidenceCounter(CHANNELS, CHANNELS, WINDOW_PS, delays_a=delays, delays_b=delays)
    for part in parts:
        counter.add(part, part)
    pairs = counter.finish().counts.copy()
    np.fill_diagonal(pairs, 0)
    return pairs


def rows(length_s: float = 1.0) -> list[Row]:
    """Rows of the table of issue 5."""
    found = []
    for name, delays in (("", None), (", cables of 4-30 ns", CABLES_PS)):
        parts = in_batches(stream(length_s, delays))
        ours, one, other, hand = (
            functools.partial(work, parts, delays)
            for work in (folds, pair_by_pair, set_by_set, by_hand)
        )
        assert np.array_equal(ours(), one())
        assert np.array_equal(ours(), other())
        assert np.allclose(ours(), hand(), rtol=1e-4)
        works = {
            "ours": ours,
            "numba loop per pair, no folds": hand,
            "CoincidenceCounter per pair, no folds": one,
            "CoincidenceCounter of all with all, no folds": other,
        }
        spent = seconds(works, 7)
        found += rates(
            f"28 pairs + 3 4-folds of 8{name}", sum(map(len, parts)) / 1e6, spent.pop("ours"), spent
        )
    return found


if __name__ == "__main__":
    show(rows())
