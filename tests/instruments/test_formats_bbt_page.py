"""docs/tag-format.md holds: a reader written from that page alone reads what we write."""

import io
import json
import re
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from bellbench.instruments import Loss, TagBatch
from bellbench.instruments.formats.bbt import BbtReader, BbtWriter

PAGE = Path(__file__).parents[2] / "docs" / "tag-format.md"


class Bits:
    def __init__(self, data: bytes) -> None:
        self.bits = [byte >> i & 1 for byte in data for i in range(8)]
        self.at = 0

    def one(self) -> int:
        self.at += 1
        return self.bits[self.at - 1]

    def number(self, width: int) -> int:
        return sum(self.one() << i for i in range(width))


def stranger(data: bytes) -> list[dict[str, object]]:
    """Read a file as the page says, a bit at a time."""
    at, chunks, start = 0, [], {}
    while at < len(data):
        head = data[at : at + 56]
        magic, kind, version, zero, size, count = struct.unpack_from("<4sBBHII", head)
        numerator, denominator, before, begin, end = struct.unpack_from("<IIQqq", head, 16)
        of_payload, of_head = struct.unpack_from("<II", head, 48)
        payload = data[at + 56 : at + 56 + size]
        assert (magic, version, zero) == (b"\xbbBBT", 1, 0)
        assert zlib.crc32(head[:52]) == of_head
        assert zlib.crc32(payload) == of_payload
        at += 56 + size

        def ps(time: int, step: Fraction = Fraction(numerator, denominator)) -> int:
            return (time * step + Fraction(1, 2)).__floor__()

        if kind == ord("S"):
            start = json.loads(payload)
        if kind == ord("C"):
            times, channels, losses = clicks(payload, count, begin)
            chunks.append(
                {
                    "clicks": [(ps(t), c) for t, c in zip(times, channels, strict=True)],
                    "losses": [Loss(k, ps(b), ps(e), n) for k, b, e, n in losses],
                    "marks": (ps(begin), ps(end)),
                    "before": before,
                    **start,
                }
            )
    return chunks


def clicks(
    payload: bytes, count: int, begin: int
) -> tuple[list[int], list[int], list[tuple[str, int, int, int | None]]]:
    m, c, u, g = struct.unpack_from("<4I", payload)
    at = 16

    def section(size: int) -> bytes:
        nonlocal at
        at += size + -size % 8
        return payload[at - size - -size % 8 : at - -size % 8]

    losses = [
        (k.rstrip(b"\0").decode(), b, e, None if n < 0 else n)
        for k, b, e, n in struct.iter_unpack("<16sqqq", section(40 * m))
    ]
    known = [x for (x,) in struct.iter_unpack("<h", section(2 * c))]
    lengths = section(c**g if g else 0)
    ks = section((count + 127) // 128)
    low = []
    for b, k in enumerate(ks):
        size = min(128, count - 128 * b)
        bits = Bits(section((k * size + 63) // 64 * 8))
        low += [(bits.number(k), k) for _ in range(size)]
    bits, time, times = Bits(section(8 * u)), begin, []
    for rest, k in low:
        high = 0
        while not bits.one():
            high += 1
        time += high << k | rest
        times.append(time)
    bits, channels = Bits(payload[at:]), list[int]()
    if g:
        codes, code = {}, 0
        for length in range(1, 13):
            code <<= 1
            for symbol, its in enumerate(lengths):
                if its == length:
                    codes[length, code] = symbol
                    code += 1
        while len(channels) < count:
            length, code = 0, 0
            while (length, code) not in codes:
                length, code = length + 1, code << 1 | bits.one()
            symbol = codes[length, code]
            channels += [known[symbol // c**i % c] for i in range(g)]
    else:
        width = (c - 1).bit_length() if c else 0
        channels = [known[bits.number(width)] for _ in range(count)]
    return times, channels[:count], losses


def example() -> bytes:
    rows = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)", PAGE.read_text("utf-8"), re.MULTILINE)
    return bytes.fromhex("".join(rows))


def test_the_example(tmp_path: Path) -> None:
    losses = (Loss("gap", 28, 36, 9),)
    times, channels = np.array([3, 10, 10, 27]), np.array([2, 1, 2, 2], np.int16)
    batch = TagBatch(times, channels, 0, 40, 5, "A", losses)
    file = io.BytesIO()
    writer = BbtWriter(file)
    writer.write(batch)
    writer.finish()
    assert file.getvalue() == example()
    assert stranger(example()) == [
        {
            "clicks": [(3, 2), (10, 1), (10, 2), (27, 2)],
            "losses": [*losses],
            "marks": (0, 40),
            "before": 0,
            "start_unix_ns": 5,
            "clock_id": "A",
            "metadata": {},
        }
    ]
    path = tmp_path / "x.bbt"
    path.write_bytes(example())
    (found,) = BbtReader(path)
    assert repr(found) == repr(batch)


@pytest.mark.parametrize("shares", [[1.0], [0.97, 0.03], [0.4, 0.3, 0.3], [0.9] + [0.1 / 6] * 6])
@pytest.mark.parametrize("resolution", [None, 3.90625, 81])
def test_a_stranger_reads_what_we_write(
    tmp_path: Path, shares: list[float], resolution: float | None
) -> None:
    rng = np.random.default_rng(len(shares))
    file = io.BytesIO()
    writer = BbtWriter(file, resolution_ps=resolution, metadata={"µ": [1, None]})
    at = -5000
    for n, rate in ((300, 1e-3), (0, 1.0), (1, 1e-8), (5000, 0.05)):
        times = at + np.cumsum(rng.geometric(rate, n))
        end = int(times[-1]) + 1000 if n else at + 10**6
        channels = (rng.choice(len(shares), n, p=shares) - 1).astype(np.int16)
        writer.write(TagBatch(times, channels, at, end, losses=(Loss("clock", at + 3, at + 90),)))
        writer.flush()
        at = end
    writer.finish()
    path = tmp_path / "x.bbt"
    path.write_bytes(file.getvalue())
    found = stranger(file.getvalue())
    for ours, theirs in zip(BbtReader(path), found, strict=True):
        pairs = list(zip(ours.times_ps.tolist(), ours.channels.tolist(), strict=True))
        assert pairs == theirs["clicks"]
        assert list(ours.losses) == theirs["losses"]
        assert (ours.begin_ps, ours.end_ps) == theirs["marks"]
        assert theirs["metadata"] == {"µ": [1, None]}
    assert [b["before"] for b in found] == [0, 300, 300, 301]
    last = file.getvalue().rindex(b"\xbbBBTC") + 56
    assert bool(struct.unpack_from("<I", file.getvalue(), last + 12)[0]) == (0.8 < shares[0] < 1)
