"""A PTU T2 file to clicks, to coincidences and to correlations, beside others on the same file.

The clicks of devices.md 10, see `pairs.streams`, written by us. Files are in the page cache.
``python benchmarks/ptu.py [--json] [SECONDS]``; PicoQuant's engine takes about 1 s to start and
stop, so 20 s are fairer to it than 4.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pairs
import peers
from bellbench.instruments.formats import create_tags, open_tags
from bellbench.protocols.timing import CoincidenceCounter, CorrelationHistogram
from side_by_side import Row, rates, seconds, show
from tag_file import stream_of_pairs

SPAN_PS = pairs.BINS * pairs.BIN_PS


def rows(length_s: float = 4.0) -> Iterator[Row]:
    """Yield the rows of the table."""
    times, channels = stream_of_pairs(length_s)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clicks.ptu"
        with create_tags(path, "ptu") as writer:
            for batch in pairs.batches(times, channels):
                writer.write(batch)
        records = open_tags(path).info.records
        yield from _decoding(path, records)
        yield from _analysis(path, times.size)


def _decoding(path: Path, records: int) -> Iterator[Row]:
    works = {
        "ours": lambda: sum(len(batch) for batch in open_tags(path)),
        "ptufile": peers.ptufile_decode(path),
        "phconvert": peers.phconvert_load(path),
        "tttrlib": peers.tttrlib_read(path),
    }
    spent = seconds({name: work for name, work in works.items() if work is not None})
    if engine := peers.snapi(path, "unfold", records=records):
        spent["snAPI, with start and stop"] = engine[0]
    yield from rates("PTU T2 to batches", records / 1e6, spent.pop("ours"), spent, "Mrec/s")


def _analysis(path: Path, tags: int) -> Iterator[Row]:
    def counted() -> int:
        counter = CoincidenceCounter([1], [2], pairs.WINDOW_PS, delays_b={2: pairs.DELAY_PS})
        for batch in open_tags(path):
            counter.add(batch)
        return int(counter.finish().counts[0, 0])

    def correlated() -> int:
        histogram = CorrelationHistogram(1, 2, SPAN_PS, pairs.BIN_PS)
        for batch in open_tags(path):
            histogram.add(batch)
        return int(histogram.finish().counts.sum())

    correlator = peers.tttrlib_correlate(path, pairs.BINS)
    spent = seconds({"coincidences": counted, "correlation": correlated})
    answers = {"coincidences": counted(), "correlation": correlated()}
    options = {"coincidences": {"window_ps": pairs.WINDOW_PS, "delay_ps": pairs.DELAY_PS}}
    options["correlation"] = {"window_ps": SPAN_PS, "bin_ps": pairs.BIN_PS}
    for work, name in (("coincidences", "coincidences"), ("correlation", "g2")):
        engine = peers.snapi(path, name, records=4 * tags, **options[work])
        if engine is not None:
            print(f"{work}: ours {answers[work]:,}, snAPI's {engine[1]:,.0f}", file=sys.stderr)
            peer = {"snAPI, with start and stop": engine[0]}
            yield from rates(f"PTU file to {work}", tags / 1e6, spent[work], peer)
    if correlator is not None:
        peer = {"tttrlib, file read": seconds({"": correlator}, 1)[""]}
        yield from rates("PTU file to correlation", tags / 1e6, spent["correlation"], peer)


if __name__ == "__main__":
    numbers = [float(word) for word in sys.argv[1:] if not word.startswith("-")]
    show(rows(*numbers))
