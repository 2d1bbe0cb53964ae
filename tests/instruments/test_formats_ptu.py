import math
import struct
import tracemalloc
from collections.abc import Callable
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from bellbench.instruments import TagBatch, TagFileError, concatenate
from bellbench.instruments.formats import open_tags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HYDRAHARP2, GENERIC, PICOHARP = 0x01010204, 0x00010207, 0x00010203
Values = dict[str, int | float | str]
T3: Values = {
    "Measurement_Mode": 3,
    "MeasDesc_GlobalResolution": 1.25e-8,
    "MeasDesc_Resolution": 4e-12,
}


def tag(name: str, value: int | float | str) -> bytes:
    head = struct.pack("<32si", name.encode(), -1)
    if isinstance(value, str):
        data = value.encode().ljust((len(value) // 8 + 1) * 8, b"\0")
        return head + struct.pack("<Iq", 0x4001FFFF, len(data)) + data
    if isinstance(value, float):
        return head + struct.pack("<Id", 0x20000008, value)
    return head + struct.pack("<Iq", 0x10000008, value)


def ptu(records: npt.ArrayLike, **changes: int | float | str) -> bytes:
    """A T2 file as PicoQuant's format demo describes it."""
    body = np.asarray(records, "<u4")
    values: Values = {
        "File_Comment": "made for a test",
        "Measurement_Mode": 2,
        "Measurement_SubMode": 0,
        "TTResultFormat_TTTRRecType": HYDRAHARP2,
        "TTResultFormat_BitsPerRecord": 32,
        "MeasDesc_GlobalResolution": 1e-12,
        "TTResult_NumberOfRecords": body.size,
    }
    values |= changes
    header = b"PQTTTR\0\0" + b"1.0.00\0\0" + b"".join(tag(k, v) for k, v in values.items())
    header += struct.pack("<32siIq", b"Header_End", -1, 0xFFFF0008, 0)
    return header + body.tobytes()


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(data: bytes, name: str = "x.ptu") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def read(path: Path, chunk: int = 1 << 18) -> TagBatch:
    return concatenate(open_tags(path, chunk_records=chunk)).checked()


def clicks(batch: TagBatch) -> list[tuple[int, int]]:
    return list(zip(batch.times_ps.tolist(), batch.channels.tolist(), strict=True))


#: devices.md section 9: input 1 at 1000, sync at 2000, three overflows, marker 1 at 5.
GOLDEN = [0x000003E8, 0x800007D0, 0xFE000003, 0x82000005]


@pytest.mark.parametrize("kind", [HYDRAHARP2, GENERIC, 0x00010205, 0x00010206])
def test_golden_records(write: Write, kind: int) -> None:
    path = write(ptu([*GOLDEN, 0x02000007], TTResultFormat_TTTRRecType=kind))
    batch = read(path)
    assert clicks(batch) == [(1000, 0), (2000, -1), (3 * 33554432 + 7, 1)]
    assert (batch.begin_ps, batch.end_ps) == (0, 3 * 33554432 + 8)


def test_hydraharp_1_overflow_is_one_of_its_own_length(write: Write) -> None:
    batch = read(write(ptu([0xFE000003, 1], TTResultFormat_TTTRRecType=0x00010204)))
    assert clicks(batch) == [(33552001, 0)]


def test_picoharp_records(write: Write) -> None:
    records = [0x000003E8, 0x100007D0, 0xF0000000, 0xF0000002, 0x20000005]
    batch = read(write(ptu(records, TTResultFormat_TTTRRecType=PICOHARP)))
    assert clicks(batch) == [(1000, 0), (2000, 1), (210698240 + 5, 2)]


def test_a_file_that_ends_in_silence_lasts_to_its_last_overflow(write: Write) -> None:
    batch = read(write(ptu([10, 0xFE000002])))
    assert clicks(batch) == [(10, 0)]
    assert batch.end_ps == 2 * 33554432 + 1


@pytest.mark.parametrize(
    ("tick", "expected"),
    [(4e-12, [4, 12, 40]), (2.5e-10, [250, 750, 2500]), (3.90625e-12, [4, 12, 39])],
)
def test_ticks_become_whole_picoseconds(write: Write, tick: float, expected: list[int]) -> None:
    batch = read(write(ptu([1, 3, 10], MeasDesc_GlobalResolution=tick)))
    assert batch.times_ps.tolist() == expected


@given(
    steps=st.lists(st.tuples(st.integers(0, 10**8), st.integers(0, 3)), max_size=40),
    chunk=st.integers(1, 50),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_clicks_in_any_chunks(write: Write, steps: list[tuple[int, int]], chunk: int) -> None:
    times = np.cumsum([s for s, _ in steps], dtype=np.int64) if steps else np.zeros(0, np.int64)
    records, turns = [], 0
    for time, (_, channel) in zip(times.tolist(), steps, strict=True):
        if time >> 25 > turns:
            records.append(0xFE000000 | (time >> 25) - turns)
            turns = time >> 25
        records.append(channel << 25 | time & 0x1FFFFFF)
    if not records:
        records = [0xFE000001]
    batch = read(write(ptu(records)), chunk)
    assert batch.times_ps.tolist() == times.tolist()
    assert batch.channels.tolist() == [c for _, c in steps]


def rejected(path: Path) -> TagFileError:
    with pytest.raises(TagFileError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return caught.value


def read_until_damage(path: Path, chunk: int = 1 << 18) -> tuple[TagBatch | None, int | None]:
    """What a damaged file still gives (None: its header is damaged), and the byte of the damage."""
    batches: list[TagBatch] = []
    offset = None
    try:
        batches.extend(open_tags(path, chunk_records=chunk))
    except TagFileError as error:
        offset = error.offset
    return concatenate(batches).checked() if batches else None, offset


@pytest.mark.parametrize("chunk", [1, 7, 1 << 18])
@pytest.mark.parametrize("cut", [1, 4, 400, 3999])
def test_truncated_records_are_read_to_the_last_whole_one(
    write: Write, cut: int, chunk: int
) -> None:
    data = ptu(np.arange(1000))
    path = write(data[:-cut])
    kept, offset = read_until_damage(path, chunk)
    assert offset == len(data) - cut
    assert kept is not None
    assert kept.times_ps.tolist() == list(range((4000 - cut) // 4))
    if chunk > 1:
        assert "truncated" in str(rejected(path))


@pytest.mark.parametrize("cut", [8, 16, 40, 100, 300])
def test_truncated_header(write: Write, cut: int) -> None:
    error = rejected(write(ptu(np.arange(10))[:cut]))
    assert "truncated" in str(error)
    assert error.offset == cut


@pytest.mark.parametrize("claimed", [0, -1, 9, 11, 2**31, 2**60, -(2**63)])
def test_header_lies_about_its_records(write: Write, claimed: int) -> None:
    path = write(ptu(np.arange(10), TTResult_NumberOfRecords=claimed))
    tracemalloc.start()
    error = rejected(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"announces {claimed} records, but 10" in str(error)
    assert error.offset is not None
    assert peak < 5e6


@pytest.mark.parametrize("length", [2**60, 2**31, -8])
def test_header_entry_lies_about_its_length(write: Write, length: int) -> None:
    data = ptu(np.arange(10))
    at = data.index(struct.pack("<I", 0x4001FFFF)) + 4
    error = rejected(write(data[:at] + struct.pack("<q", length) + data[at + 8 :]))
    assert error.offset == at
    assert f"claims {length} bytes" in str(error)


@pytest.mark.parametrize("mode", [0, 3, 2**40, "T2"])
def test_mode_and_record_type_must_agree(write: Write, mode: int | str) -> None:
    assert "damaged header" in str(rejected(write(ptu([1], Measurement_Mode=mode))))


@pytest.mark.parametrize(
    "changes",
    [
        {"TTResultFormat_TTTRRecType": 0x12345},
        {"TTResultFormat_TTTRRecType": "text"},
        {"TTResultFormat_BitsPerRecord": 64},
        {"MeasDesc_GlobalResolution": 0.0},
        {"MeasDesc_GlobalResolution": float("nan")},
        {"MeasDesc_GlobalResolution": float("inf")},
        {"MeasDesc_GlobalResolution": 7},
        {"TTResult_NumberOfRecords": 1.0},
    ],
)
def test_impossible_headers(write: Write, changes: Values) -> None:
    data = ptu([1], **changes)
    (name,) = changes
    assert rejected(write(data)).offset == data.index(name.encode()) + 40


@pytest.mark.parametrize("name", ["MeasDesc_GlobalResolution", "TTResult_NumberOfRecords"])
def test_headers_without_an_entry(write: Write, name: str) -> None:
    data = ptu([1]).replace(name.encode(), b"Lost".ljust(len(name), b"\0"))
    error = rejected(write(data))
    assert name in str(error)
    assert error.offset == data.index(b"Header_End")


@pytest.mark.parametrize("chunk", [1, 2, 3, 1 << 18])
@pytest.mark.parametrize(
    ("bad", "message"),
    [(150, "its time lies before"), (0xF0000000, "special record of unknown meaning")],
)
def test_damage_names_its_byte_and_keeps_what_was_before(
    write: Write, bad: int, message: str, chunk: int
) -> None:
    data = ptu([100, 200, 200, bad, 300])
    path = write(data)
    with pytest.raises(TagFileError, match=f"record 3: .*{message}"):
        read(path, chunk)
    kept, offset = read_until_damage(path, chunk)
    assert offset == len(data) - 8
    assert kept is not None
    assert kept.times_ps.tolist() == [100, 200, 200]


def test_time_beyond_int64(write: Write) -> None:
    with pytest.raises(TagFileError, match="years ahead"):
        read(write(ptu([0xFFFFFFFF] * 9000, MeasDesc_GlobalResolution=1e-3)))


@pytest.mark.parametrize("channel", [5, 14])
def test_channels_a_picoharp_does_not_have(write: Write, channel: int) -> None:
    path = write(ptu([1, channel << 28], TTResultFormat_TTTRRecType=PICOHARP))
    assert "unknown meaning" in str(rejected(path))


def test_a_file_of_zeros_ends_in_an_error_not_in_all_memory(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bellbench.instruments.formats.ptu._MOST_AT_ONCE", 1000)
    kept, offset = read_until_damage(write(ptu(np.zeros(5000))), 100)
    assert offset is not None
    assert kept is not None
    assert len(kept) == 1200


def test_header_without_an_end(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bellbench.instruments.formats.ptu._HEADER_BYTES", 4800)
    header = ptu([])[:-48] + tag("X", 1) * 200
    assert "longer than" in str(rejected(write(header)))


@given(data=st.data(), kind=st.sampled_from([HYDRAHARP2, PICOHARP, 0x01010304, 0x00010303]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_raise_tag_file_error_or_nothing(
    write: Write, data: st.DataObject, kind: int
) -> None:
    records = {HYDRAHARP2: np.arange(0, 4000, 20), 0x01010304: np.arange(1000)}
    body = records.get(kind, np.arange(0, 4000, 20) | 0x10000000)
    header = T3 if kind & 0xF00 == 0x300 else {}
    whole = ptu(body, TTResultFormat_TTTRRecType=kind, **header)
    begin = len(whole) - 4 * body.size
    chunk = data.draw(st.sampled_from([3, 50, 1 << 18]))
    good = read(write(whole, "good.ptu"), chunk)
    damaged = bytearray(whole)
    at = data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=6))
    for i in at:
        damaged[i] ^= data.draw(st.integers(1, 255))
    path = write(bytes(damaged))
    tracemalloc.start()
    kept, offset = read_until_damage(path, chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
    if min(at) >= begin:
        before = (min(at) - begin) // 4  # records, each of them a click
        assert kept is not None
        assert len(kept) >= before
        assert offset is None or offset >= begin + 4 * before
        if not header:  # in T3 a later record may lie before an earlier one
            assert kept.times_ps[:before].tolist() == good.times_ps[:before].tolist()


Epochs = list[tuple[int, list[tuple[float, int, int]]]]
#: Overflows before it, then (place in the epoch, code, delay or marker bits) of its records.
EPOCHS: st.SearchStrategy[Epochs] = st.lists(
    st.tuples(
        st.integers(0, 127),  # ptufile 2026.2.6 multiplies in 32 bits: 128 of 2^25 are none to it
        st.lists(
            st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 79), st.integers(0, 32767)),
            max_size=8,
        ),
    ),
    max_size=12,
)


def epoch_records(epochs: Epochs, kind: int) -> list[int]:
    """Records of a type, ordered in time but for the markers."""
    picoharp, t3 = kind & 0xFF == 3, kind & 0xF00 == 0x300
    turn = {True: 65536, False: 210698240} if picoharp else {True: 1024, False: 33552000}
    records = []
    for overflows, places in epochs:
        if picoharp:
            records += [0xF0000000] * (overflows % 3 + 1)
        else:
            records.append(0xFE000000 | overflows)
        times = iter(sorted(int(place * turn[t3]) for place, code, _ in places if code <= 64))
        for place, code, extra in places:
            marker = code > 64
            time = int(place * turn[t3]) if marker else next(times)
            if picoharp and t3:
                channel, extra = (15, extra % 15 + 1) if marker else (code % 4 + 1, extra % 4096)
                records.append(channel << 28 | extra << 16 | time)
            elif picoharp:
                channel, time = (15, time | 1) if marker else (code % 5, time)
                records.append(channel << 28 | time)
            elif t3:
                records.append((code % 64 if not marker else code) << 25 | extra << 10 | time)
            else:
                records.append(code << 25 | time)
    return records


T2_KINDS = [0x00010203, 0x00010204, 0x01010204, 0x00010205, 0x00010206, 0x00010207]
T3_KINDS = [0x00010303, 0x00010304, 0x01010304, 0x00010305, 0x00010306, 0x00010307]


@pytest.mark.parametrize("kind", T2_KINDS)
@given(epochs=EPOCHS, chunk=st.integers(1, 30))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_t2_type_as_ptufile_reads_it(
    write: Write, kind: int, epochs: Epochs, chunk: int
) -> None:
    ptufile = pytest.importorskip("ptufile")
    path = write(ptu(epoch_records(epochs, kind), TTResultFormat_TTTRRecType=kind))
    batch = read(path, chunk)
    with ptufile.PtuFile(path) as file:
        expected = file.decode_records()
    expected = expected[expected["channel"] >= 0]
    assert batch.times_ps.tolist() == expected["time"].tolist()
    assert np.maximum(batch.channels, 0).tolist() == expected["channel"].tolist()


@pytest.mark.parametrize("kind", T3_KINDS)
@given(
    epochs=EPOCHS,
    chunk=st.integers(1, 30),
    period=st.sampled_from([1 / 80e6, 1 / 79_998_765, 1 / 3, 2e-9]),
    step=st.sampled_from([1e-12, 4e-12, 2.5e-10, 1 / 3e11]),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_t3_type_as_ptufile_reads_it(
    write: Write, kind: int, epochs: Epochs, chunk: int, period: float, step: float
) -> None:
    ptufile = pytest.importorskip("ptufile")
    steps: Values = {"MeasDesc_GlobalResolution": period, "MeasDesc_Resolution": step}
    header = T3 | steps | {"TTResultFormat_TTTRRecType": kind}
    path = write(ptu(epoch_records(epochs, kind), **header))
    batch = read(path, chunk)
    with ptufile.PtuFile(path) as file:
        decoded = file.decode_records()
    decoded = decoded[decoded["channel"] >= 0]
    # ptufile counts the PicoHarp's inputs from 0 in T3, but not in T2.
    channels = decoded["channel"].astype(int) + (kind & 0xFF == 3)
    assert sorted(batch.channels.tolist()) == sorted(channels.tolist())
    for channel in set(channels.tolist()):
        exact = sorted(
            (int(sync) * Fraction(period) + int(delay) * Fraction(step)) * 10**12
            for sync, delay in decoded[["time", "dtime"]][channels == channel].tolist()
        )
        times = batch.times_ps[batch.channels == channel].tolist()
        for time, wanted in zip(times, exact, strict=True):
            # A header's 1/3 s is taken for a third, not for the double next to it.
            assert abs(time - wanted) <= Fraction(1, 2) + wanted / 2**51 + Fraction(1, 10**6)


def test_t3_tells_its_mode_and_its_steps(write: Write) -> None:
    # input 1, delay 5, sync 3; two overflows; input 2, delay 6, sync 1
    records = [5 << 10 | 3, 0xFE000002, 1 << 25 | 6 << 10 | 1]
    file = open_tags(write(ptu(records, TTResultFormat_TTTRRecType=0x00010307, **T3)))
    assert file.info.header["Measurement_Mode"] == 3
    assert file.info.resolution_ps == 4
    batch = concatenate(file)
    assert clicks(batch) == [(3 * 12500 + 20, 0), (2049 * 12500 + 24, 1)]
    assert batch.end_ps == 2049 * 12500 + 25


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_t3_clicks_of_one_sync_are_put_in_order(write: Write, chunk: int) -> None:
    # Delays of 4000 (longer than a period) and 800 steps of 4 ps at sync 0, then sync 1.
    records = [4000 << 10, 1 << 25 | 800 << 10, 2 << 25 | 0 << 10 | 1, 0 << 10 | 2]
    batch = read(write(ptu(records, TTResultFormat_TTTRRecType=0x01010304, **T3)), chunk)
    assert clicks(batch) == [(3200, 1), (12500, 2), (16000, 0), (25000, 0)]


@pytest.mark.parametrize(
    "changes",
    [
        {"MeasDesc_GlobalResolution": 0.0},
        {"MeasDesc_GlobalResolution": float("inf")},
        {"MeasDesc_Resolution": float("nan")},
        {"MeasDesc_Resolution": -4e-12},
        {"MeasDesc_Resolution": 4},
    ],
)
def test_impossible_t3_headers(write: Write, changes: Values) -> None:
    header = T3 | {"TTResultFormat_TTTRRecType": 0x01010304} | changes
    data = ptu([1], **header)
    (name,) = changes
    assert rejected(write(data)).offset == data.index(name.encode()) + 40


@pytest.mark.parametrize("kind", [0x01010304, 0x00010303])
def test_damage_in_t3(write: Write, kind: int) -> None:
    one = 0x10000000 if kind & 0xFF == 3 else 0
    unknown = 0x50000000 if kind & 0xFF == 3 else 0x80000000
    header = T3 | {"TTResultFormat_TTTRRecType": kind}
    for bad in (one | 1, unknown):  # sync 1 after sync 2; a code without meaning
        data = ptu([one | 1, one | 2, bad, one | 3], **header)
        kept, offset = read_until_damage(write(data))
        assert offset == len(data) - 8
        assert kept is not None
        assert kept.times_ps.tolist() == [12500, 25000]
    data = ptu([one | 1, one | 2, one | 3], **header)
    kept, offset = read_until_damage(write(data[:-3]))
    assert offset == len(data) - 3
    assert kept is not None
    assert len(kept) == 2


def test_header_entries_of_every_type(write: Write) -> None:
    def entry(name: str, kind: int, value: bytes, data: bytes = b"", index: int = -1) -> bytes:
        return struct.pack("<32siI", name.encode(), index, kind) + value + data

    days = struct.pack("<d", 43865.5)
    nothing = struct.pack("<d", float("nan"))
    extra = (
        entry("Empty", 0xFFFF0008, bytes(8))
        + entry("Yes", 0x00000008, struct.pack("<q", -1))
        + entry("Bits", 0x11000008, struct.pack("<q", 5))
        + entry("Color", 0x12000008, struct.pack("<q", 6))
        + entry("Date", 0x21000008, days)
        + entry("NoDate", 0x21000008, nothing)
        + entry("Floats", 0x2001FFFF, struct.pack("<q", 16), struct.pack("<2d", 1.5, 2.5))
        + entry("Wide", 0x4002FFFF, struct.pack("<q", 8), "µm".encode("utf-16-le") + bytes(4))
        + entry("Blob", 0xFFFFFFFF, struct.pack("<q", 8), bytes(8))
        + entry("List", 0x10000008, struct.pack("<q", 7), index=0)
        + entry("List", 0x10000008, struct.pack("<q", 8), index=1)
    )
    data = ptu([3])
    path = write(data[:16] + extra + data[16:])
    file = open_tags(path)
    header = dict(file.info.header)
    assert math.isnan(header.pop("NoDate"))
    assert (
        header.items()
        >= {
            "Empty": None,
            "Yes": True,
            "Bits": 5,
            "Color": 6,
            "Date": datetime(2020, 2, 4, 12),
            "Floats": (1.5, 2.5),
            "Wide": "µm",
            "Blob": 8,
            "List": [7, 8],
            "File_Comment": "made for a test",
        }.items()
    )
    assert clicks(concatenate(file)) == [(3, 0)]
