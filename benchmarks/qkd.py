"""QKD post-processing beside its peers: the same frames, the same machine, the same run.

``python benchmarks/qkd.py [--json]`` prints speeds, the efficiency f of reconciliation and frames
that failed, of both sides where they count them; about ten minutes. Its parts run by themselves
too: sifting, cascade, ldpc, amplify, pipeline. One core each. Peers that are not installed are
skipped and said: ``pip install ".[benchmark]"`` brings all that a registry has.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

from side_by_side import Row, show

PARTS = ("sifting", "cascade", "ldpc", "amplify", "pipeline")


def rows() -> Iterator[Row]:
    """Yield the whole table."""
    for part in PARTS:
        if Path(__file__).with_name(f"{part}.py").exists():
            yield from importlib.import_module(part).rows()
        else:
            print(f"skipped: benchmarks/{part}.py is not there", file=sys.stderr)


if __name__ == "__main__":
    show(rows())
