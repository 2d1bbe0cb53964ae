"""Damaged tag files by the million: every reader must end, in bounded memory, with a clear error.

    python tests/fuzz/fuzz_tags.py --format ptu --cases 1000000
    python tests/fuzz/fuzz_tags.py --format ptu --cases 1000000 --atheris

The first damages recordings of our own writers at random and runs anywhere; the second (pip
install 'bellbench[fuzz]'; Linux) lets libFuzzer look for bytes that reach new code. `all` takes
the formats in turn. What breaks is written beside, and its name told.

Of each file is checked: only `TagFileError` is raised, and it names a byte of the file; the
batches before follow on each other, are in order of time and no more than the bytes can hold; in
a sample also that the clicks are those of the bytes before the damage, and the same in chunks of
any size; CPU time and memory of a case.
"""

from __future__ import annotations

import argparse
import faulthandler
import math
import os
import random
import struct
import sys
import tempfile
import time
import traceback
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bellbench.instruments import TagBatch

MOST_BYTES = (1 << 16) - 1
SECONDS = 2.0  # of CPU time for a file of 64 kB
HANGS = 120.0
PEAK_BYTES = 64 << 20
GROWTH_BYTES = 200 << 20
_INT64 = range(-(1 << 63), 1 << 63)
_RATHER = tuple(
    struct.pack(code, value)
    for code, values in {
        "<q": (-1, 0, 1, 2**31, 2**32, 2**48, 2**60, 2**62, 2**63 - 1, -(2**63), -(2**62)),
        "<I": (0, 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1),
        "<d": (math.nan, math.inf, -math.inf, 0.0, -1.0, 5e-324, 1e-15, 1e-12, 1e-3, 1e300),
    }.items()
    for value in values
)
_LETTERS = b"0123456789abcdefABCDEF;\n\r -+.x\0\xff"
_BBT = struct.Struct("<4sBBHIIIIQqqII")


class BrokenError(AssertionError):
    """A promise of the readers does not hold."""


def seeds_of(name: str) -> list[bytes]:
    """Return small sound files of a format, made by our own writers."""
    from bellbench.instruments import Loss, TagBatch
    from bellbench.instruments.formats import create_tags

    rng = np.random.default_rng(7)
    found: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        for clicks, span in ((1, 10**6), (20, 10**8), (60, 10**12), (300, 3 * 10**12)):
            times = np.sort(rng.integers(0, span, clicks)).astype(np.int64)
            channels = rng.integers(1, 5, clicks).astype(np.int16)
            if name.startswith("id900"):
                channels[:] = 1
            for kind in ("overflow", ""):
                half = int(np.searchsorted(times, span // 2))
                losses = (Loss("overflow", span // 3, span // 2 + span // 8, 5),) if kind else ()
                first = (times[:half], channels[:half], 0, span // 2, 0, "", losses)
                second = (times[half:], channels[half:], span // 2, span, 0, "", losses)
                path = Path(folder) / f"{len(found)}.part"
                if name.startswith("qcrypto"):
                    from bellbench.instruments.formats import encode_tags

                    whole = TagBatch(times, channels, 0, span, 10**18 if kind else 0, "", losses)
                    found.append(encode_tags(whole, name))
                    continue
                with create_tags(path, name) as writer:
                    for parts in (first, second):
                        writer.write(TagBatch(*parts))
                        if name == "bbt":
                            writer._writer.flush()  # type: ignore[attr-defined]
                found.append(path.read_bytes())
    if name == "ptu":
        found += list(_ptu_of_every_type(found[2], rng))
    return sorted({data for data in found if 0 < len(data) <= MOST_BYTES}, key=len)


def _ptu_of_every_type(sound: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """Make a file of every type of record from the header of a sound T2 file."""
    from bellbench.instruments.formats.ptu import _KINDS

    end = sound.index(b"Header_End\0") + 48
    for number, kind in _KINDS.items():
        head = bytearray(sound[:end])
        step = 1e-12 if kind.mode == 2 else 12.5e-9
        for entry, value in {
            "TTResultFormat_TTTRRecType": struct.pack("<q", number),
            "Measurement_Mode": struct.pack("<q", kind.mode),
            "MeasDesc_GlobalResolution": struct.pack("<d", step),
            "TTResult_NumberOfRecords": struct.pack("<q", 120),
        }.items():
            at = head.index(entry.encode() + b"\0") + 40
            head[at : at + 8] = value
        bits = {(2, True): 28, (2, False): 25, (3, True): 16, (3, False): 10}[
            kind.mode, kind.picoharp
        ]
        counter = np.sort(rng.integers(0, 1 << bits, 120))
        records = counter % (1 << bits)
        if kind.mode == 3:
            records |= rng.integers(0, 1 << (12 if kind.picoharp else 15), 120) << bits
        records |= rng.integers(1, 4, 120) << kind.shift
        full = (1 << (32 - kind.shift)) - 1
        records[40::40] = full << kind.shift | (0 if kind.picoharp else 1)
        counter[80:] %= 1 << (bits - 1)
        yield bytes(head) + records.astype("<u4").tobytes()


def damaged(rng: random.Random, seeds: Sequence[bytes], name: str) -> bytes:
    """Return one of the files with some damage."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        if rng.random() < 0.2:
            at = min(at, rng.randrange(64))
        elif name == "ptu" and rng.random() < 0.7:  # most of these files is header
            records = data.find(b"Header_End\0") + 48
            at = max(at, rng.randrange(min(records, len(data)), len(data) + 1))
        length = min(rng.choice((1, 2, 4, 8, 16, 64, 1000)), MOST_BYTES)
        match rng.randrange(11):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.randrange(256)
            case 2:
                del data[at:]
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = rng.choice((b"\0", b"\xff")) * length
            case 5:
                data[at : at + length] = rng.choice((b"\0", b"\xff")) * length
            case 6:
                data[at:at] = rng.randbytes(length)
            case 7:
                other = rng.choice(seeds)
                data[at:] = other[rng.randrange(len(other)) :]
            case 8:
                data[at:at] = data[rng.randrange(len(data) + 1) :][: 8 * length]
            case 9:
                number = rng.choice(_RATHER)
                at -= at % rng.choice((1, 4, 8))
                data[at : at + len(number)] = number
            case _:
                data[at : at + 1] = bytes([rng.choice(_LETTERS)])
    out = bytes(data[:MOST_BYTES])
    return repaired(out) if name == "bbt" and rng.random() < 0.7 else out


def repaired(data: bytes) -> bytes:
    """Make the checksums of bbt chunks right again, so that damage reaches what is behind."""
    out = bytearray(data)
    at = out.find(b"\xbbBBT")
    while 0 <= at <= len(out) - _BBT.size:
        size = int.from_bytes(out[at + 8 : at + 12], "little")
        payload = bytes(out[at + _BBT.size : at + _BBT.size + size])
        struct.pack_into("<I", out, at + 48, zlib.crc32(payload))
        struct.pack_into("<I", out, at + 52, zlib.crc32(bytes(out[at : at + 52])))
        at = out.find(b"\xbbBBT", at + 1)
    return bytes(out)


class Checker:
    """Reads files of one format and checks what the readers promise.

    Args:
        name: The format.
        folder: Where the files lie; best in memory.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.path = folder / f"case.{name}"
        self.outcomes: Counter[str] = Counter()
        self._file = self.path.open("w+b", buffering=0)

    def close(self) -> None:
        self._file.close()

    def put(self, data: bytes) -> None:
        self._file.seek(0)
        self._file.write(data)
        self._file.truncate(len(data))

    def read(
        self, data: bytes, chunk_records: int, *, recognise: bool = False, **options: Any
    ) -> tuple[list[TagBatch], Any]:
        """Return all batches of a file, and its error."""
        from bellbench.instruments import TagFileError
        from bellbench.instruments.formats import open_tags

        self.put(data)
        batches: list[TagBatch] = []
        opened = False
        try:
            file = open_tags(
                self.path, None if recognise else self.name, chunk_records=chunk_records, **options
            )
            opened = True
            for batch in file:
                batches.append(batch)
                self._check(batch, batches[-2] if len(batches) > 1 else None, data)
        except TagFileError as error:
            self.outcomes["refused" if not opened else "damaged"] += 1
            self._check_error(error, data, recognise)
            return batches, error
        self.outcomes["whole"] += 1
        return batches, None

    def _check(self, batch: TagBatch, before: TagBatch | None, data: bytes) -> None:
        batch.checked()
        if before is not None and (
            batch.begin_ps != before.end_ps
            or batch.clock_id != before.clock_id
            or batch.start_unix_ns != before.start_unix_ns
        ):
            raise BrokenError(f"{batch.begin_ps} does not follow on {before.end_ps}")
        if batch.begin_ps not in _INT64 or batch.end_ps not in _INT64:
            raise BrokenError(f"{batch.begin_ps}..{batch.end_ps} do not fit 64 bits")
        if len(batch) > 16 * len(data):
            raise BrokenError(f"{len(batch)} clicks from {len(data)} bytes")
        for loss in batch.losses:
            if loss.begin_ps > loss.end_ps:
                raise BrokenError(f"{loss} ends before it begins")
        if not -1e-9 <= batch.live_s <= batch.duration_s * (1 + 1e-12):
            raise BrokenError(f"{batch.live_s} s live of {batch.duration_s} s")

    def _check_error(self, error: Any, data: bytes, recognise: bool) -> None:
        message = str(error)
        if not message or "\n" in message or len(message) > 2000 or str(self.path) not in message:
            raise BrokenError(f"message {message!r}")
        if error.offset is None:
            if data and not recognise:
                raise BrokenError(f"no byte is named: {message}")
        elif not 0 <= error.offset <= len(data):
            raise BrokenError(f"byte {error.offset} of {len(data)}: {message}")

    def case(self, data: bytes, number: int = 0) -> None:
        """Check one file; some in more ways than others.

        Raises:
            BrokenError: for a promise that does not hold; and whatever else a reader raises.
        """
        options: dict[str, Any] = {}
        if number % 3 == 0:
            if self.name in ("id900ref", "id900txt"):
                options["period_ps"] = (1, 12_500, 10**15)[number % 5 % 3]
            elif self.name.startswith("qu"):
                options["resolution_ps"] = (1.0, 162.3, 1e-3, 1e9)[number % 7 % 4]
        chunk = 7 if number % 64 == 5 else 64 if number % 16 == 9 else 1 << 18
        batches, error = self.read(data, chunk, **options)
        if number % 16 == 1:
            self.read(data, chunk, recognise=True)
        if number % 16 == 2:
            again, other = self.read(data, (50, 9)[number % 64 == 2], **options)
            where = _where(error), _where(other)
            # That of a qcrypto T2 entry is the byte where the piece of its packet begins.
            if _clicks(again) != _clicks(batches) or (
                where[0] != where[1] and self.name != "qcrypto_t2"
            ):
                raise BrokenError(f"in other chunks: byte {where[0]} or {where[1]}")
        if number % 16 == 3 and error is not None and "announce" not in str(error):
            first, _ = self.read(data[: error.offset or 0], chunk, **options)
            mine, before = _clicks(batches), _clicks(first)
            if self.name.startswith("qcrypto"):  # the byte of a packet or a piece of it
                missing = Counter(before) - Counter(mine)
            else:
                missing = (Counter(before) - Counter(mine)) + (Counter(mine) - Counter(before))
            if missing:
                raise BrokenError(f"before the damage lie {len(before)} clicks, not {len(mine)}")


def _clicks(batches: list[TagBatch]) -> list[tuple[int, int]]:
    return sorted(
        pair
        for batch in batches
        for pair in zip(batch.times_ps.tolist(), batch.channels.tolist(), strict=True)
    )


def _where(error: Any) -> int | None:
    return None if error is None else error.offset


def _resident() -> int:
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:  # elsewhere tracemalloc alone
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def fuzz(name: str, cases: int, seed: int, folder: Path, *, limits: bool = True) -> dict[str, Any]:
    """Check ``cases`` damaged files; return what was seen.

    Raises:
        BrokenError: at the first that breaks a promise, with the number of the case.
    """
    seeds = seeds_of(name)
    checker = Checker(name, folder)
    try:
        for number, data in enumerate(seeds):
            _, error = checker.read(data, 1 << 18)
            if error is not None:
                raise BrokenError(f"seed {number} of {name} is refused: {error}")
        slowest, peak, resident = 0.0, 0, 0
        begin = time.perf_counter()
        for number in range(cases):
            data = damaged(random.Random(seed << 40 | number), seeds, name)
            traced = limits and number % 1009 == 1008
            if limits and number % 256 == 0:
                faulthandler.dump_traceback_later(HANGS, exit=True)
            if number == 2000:
                resident = _resident()
            if traced:
                tracemalloc.start()
            used = time.process_time()
            try:
                checker.case(data, number)
                used = time.process_time() - used
                if used > SECONDS:  # the first use of a kernel compiles it
                    used = time.process_time()
                    checker.case(data, number)
                    used = time.process_time() - used
                if traced:
                    peak = max(peak, tracemalloc.get_traced_memory()[1])
                    tracemalloc.stop()
                elif number > 100:
                    slowest = max(slowest, used)
                if limits and (slowest > SECONDS or peak > PEAK_BYTES):
                    raise BrokenError(f"{slowest:.1f} s of CPU time, {peak >> 20} MiB")
            except Exception as error:
                error.add_note(f"format {name}, --seed {seed}, case {number}, {len(data)} bytes")
                error.__dict__["reproducer"] = data
                raise
        grown = max(_resident() - resident, 0) if resident else 0
        if limits and grown > GROWTH_BYTES:
            raise BrokenError(f"memory grew by {grown >> 20} MiB in {cases} cases of {name}")
    finally:
        if limits:
            faulthandler.cancel_dump_traceback_later()
            tracemalloc.stop()
        checker.close()
    seconds = time.perf_counter() - begin
    return {
        "cases": cases,
        **checker.outcomes,
        "per_second": round(cases / seconds) if cases else 0,
        "slowest_ms": round(1e3 * slowest),
        "peak_MiB": round(peak / 2**20, 1),
        "grown_MiB": grown >> 20,
    }


def _fuzz_guided(name: str, cases: int, seed: int, folder: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["bellbench.instruments.formats"]):
        import bellbench.instruments.formats  # noqa: F401
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(seeds_of(name)):
        (corpus / str(number)).write_bytes(data)
    checker = Checker(name, folder)

    def one(data: bytes) -> None:
        number = zlib.crc32(data)
        checker.case(data, number)
        if name == "bbt":
            checker.case(repaired(data), number)

    options = [f"-runs={cases}", f"-seed={seed}", f"-max_len={MOST_BYTES}", "-rss_limit_mb=2048"]
    options += [f"-timeout={HANGS:.0f}", f"-artifact_prefix=broken.{name}.", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--format", default="all", help="one of open_tags, or all")
    parser.add_argument("--cases", type=int, default=100_000, help="of each format")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="this one alone, written as broken.<format>")
    parser.add_argument("--atheris", action="store_true", help="guided by coverage")
    args = parser.parse_args()
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where, prefix="bellbench_fuzz_") as folder:
        if args.atheris:
            _fuzz_guided(args.format, args.cases, args.seed, Path(folder))
            return
        from bellbench.instruments.formats import FORMATS

        failed = 0
        for name in FORMATS if args.format == "all" else [args.format]:
            if args.case is not None:
                rng = random.Random(args.seed << 40 | args.case)
                Path(f"broken.{name}").write_bytes(damaged(rng, seeds_of(name), name))
                continue
            try:
                say(f"{name} {fuzz(name, args.cases, args.seed, Path(folder))}")
            except Exception as error:  # noqa: BLE001 - whatever a reader raises is the find
                failed += 1
                path = Path(f"broken.{name}.{args.seed}")
                path.write_bytes(error.__dict__.get("reproducer", b""))
                notes = "; ".join(getattr(error, "__notes__", []))
                say(f"{name} BROKEN: {type(error).__name__}: {error} ({notes}); {path}")
                say("".join(traceback.format_exception(error)))
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
