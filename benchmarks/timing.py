"""The click engine beside its peers: the same tags, the same machine, the same run.

``python benchmarks/timing.py [--json]`` prints the table of docs/speed.md; a row may take some
seconds. Its parts run by themselves too: pairs, many, ptu, tag_file, clock. One core each. Peers
that are not installed are skipped and said: ``pip install ".[benchmark]"`` brings all of them.
"""

from collections.abc import Iterator

import clock
import many
import pairs
import ptu
import tag_file
from side_by_side import Row, show


def rows() -> Iterator[Row]:
    """Yield the whole table."""
    yield from pairs.rows()
    yield from many.rows()
    yield from ptu.rows()
    yield from tag_file.rows()
    yield from clock.rows()


if __name__ == "__main__":
    show(rows())
