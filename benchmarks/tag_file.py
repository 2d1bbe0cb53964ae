"""Our stream format on disk beside numpy's raw arrays and Blosc2 (delta, shuffle, LZ4 or ZSTD).

The clicks of `pairs.streams` and a flat stream of 8 channels, 1 ps steps; one thread, file in the
page cache. Ours checksums everything; numpy's arrays have no checksum, Blosc2's neither.
Run ``python benchmarks/tag_file.py [--json]``; `rows` serves ``benchmarks/timing.py``.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import side_by_side
from bellbench.instruments import TagBatch
from bellbench.instruments.formats.bbt import BbtReader, BbtWriter
from pairs import batches, streams

Int16 = npt.NDArray[np.int16]
Int64 = npt.NDArray[np.int64]
Work = Callable[[], object]

PIECE = 1 << 17  # clicks that Blosc2 packs at once, as many as in our chunks


def stream_of_pairs(seconds: float) -> tuple[Int64, Int16]:
    """The clicks of two channels with pairs, in order."""
    a, b = streams(seconds)
    both = np.concatenate([a, b])
    order = np.argsort(both, kind="stable")
    return both[order], np.repeat(np.array([1, 2], np.int16), [a.size, b.size])[order]


def flat_stream(count: int, rate: float = 4e6) -> tuple[Int64, Int16]:
    """Independent clicks, spread evenly over 8 channels."""
    rng = np.random.default_rng(2)
    times = np.cumsum(rng.exponential(1e12 / rate, count)).astype(np.int64)
    return times, rng.integers(1, 9, count).astype(np.int16)


def ours(path: Path, parts: list[TagBatch]) -> tuple[Work, Work]:
    def write() -> None:
        with path.open("wb") as file:
            writer = BbtWriter(file)
            for part in parts:
                writer.write(part)
            writer.finish()

    def read() -> int:
        return sum(len(batch) for batch in BbtReader(path))

    return write, read


def of_numpy(path: Path, times: Int64, channels: Int16) -> tuple[Work, Work]:
    def write() -> None:
        with path.open("wb") as file:
            np.save(file, times)
            np.save(file, channels)

    def read() -> int:
        with path.open("rb") as file:
            return int(min(np.load(file).size, np.load(file).size))

    return write, read


def of_blosc(path: Path, times: Int64, channels: Int16, codec: str) -> tuple[Work, Work]:
    import blosc2  # type: ignore[import-untyped]

    level = {"LZ4": 5, "ZSTD": 1}[codec]
    filters = [blosc2.Filter.DELTA, blosc2.Filter.SHUFFLE]
    packed = {"codec": blosc2.Codec[codec], "clevel": level, "nthreads": 1, "filters": filters}
    packed["filters_meta"] = [0, 0]

    def write() -> None:
        with path.open("wb") as file:
            for i in range(0, times.size, PIECE):
                for array in (np.diff(times[i : i + PIECE], prepend=0), channels[i : i + PIECE]):
                    data = blosc2.compress2(
                        np.ascontiguousarray(array), typesize=array.itemsize, **packed
                    )
                    file.write(len(data).to_bytes(8, "little") + data)

    def read() -> int:
        count = 0
        with path.open("rb") as file:
            while head := file.read(8):
                steps = blosc2.decompress2(file.read(int.from_bytes(head, "little")), nthreads=1)
                size = int.from_bytes(file.read(8), "little")
                which = blosc2.decompress2(file.read(size), nthreads=1)
                found = np.cumsum(np.frombuffer(steps, np.int64))
                count += min(found.size, np.frombuffer(which, np.int16).size)
        return count

    return write, read


def rows(seconds: float = 0.2, times: int = 60) -> Iterator[side_by_side.Row]:
    """Yield the rows: write, read, and bytes per tag, ours beside each peer's."""
    clicks = {"pairs": stream_of_pairs(seconds), "8 channels": flat_stream(int(4e6 * seconds))}
    for name, (when, where) in clicks.items():
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            works = {
                "bbt": ours(place / "bbt", batches(when, where)),
                "numpy": of_numpy(place / "numpy", when, where),
            }
            try:
                for codec in ("LZ4", "ZSTD"):
                    works[f"blosc2 {codec}"] = of_blosc(
                        place / f"blosc2 {codec}", when, where, codec
                    )
            except ImportError:
                pass  # the rows that are missing say so
            spent = {}
            for i, what in enumerate(("write", "read")):
                spent[what] = side_by_side.seconds({k: v[i] for k, v in works.items()}, times)
            for work in works.values():
                assert work[1]() == when.size
            size = {key: (place / key).stat().st_size / when.size for key in works}
        peers = [key for key in works if key != "bbt"]
        for what, least in spent.items():
            yield from side_by_side.rates(
                f"tag file, {what}, {name}",
                when.size / 1e6,
                least["bbt"],
                {peer: least[peer] for peer in peers},
            )
        for peer in peers:
            yield side_by_side.Row(
                f"tag file, size, {name}",
                size["bbt"],
                peer,
                size[peer],
                "B/tag",
                size[peer] / size["bbt"],
            )


if __name__ == "__main__":
    side_by_side.show(rows())
