"""The TDC1 twin with plain pyserial and sockets: commands, counts, the raw stream, losses."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pytest
import serial
from bellbench.instruments.formats import Tdc1Decoder
from bellbench.sims.devices.tdc1 import TDC1Emulator
from bellbench.sims.elements import TaggerInputs, TaggerModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BLOCK_PS = 10_000_000_000
PERIOD_PS = 2**28 * 1000
ROLLOVER = 0x10
Click = tuple[int, int]


class Bench:
    """A TDC1 twin and a plain serial client of it."""

    def __init__(
        self,
        stage: Any,
        *,
        name: str = "tagger",
        lossless: bool = True,
        offset: float = 0.0,
        tagger: dict[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        self.stage = stage
        known = {"kind": "tagger", "start_offset": offset, **(tagger or {})}
        self.element = TaggerInputs(TaggerModel.model_validate(known))
        self.emulator = TDC1Emulator(
            stage.setting(name, lossless=lossless), self.element, TDC1Emulator.Settings(**changes)
        )
        self.url = stage.open(self.emulator)
        parts = urlsplit(self.url)
        assert parts.scheme == "socket"
        self.where = (str(parts.hostname), int(parts.port or 0))
        self._serial: Any = None

    @property
    def serial(self) -> Any:
        if self._serial is None:
            self._serial = serial.serial_for_url(self.url, timeout=10)
        return self._serial

    def ask(self, command: str, lines: int = 1) -> str:
        self.serial.write(command.encode() + b"\r\n")
        return b"".join(self.serial.read_until(b"\r\n") for _ in range(lines)).decode()

    def start(self, command: str) -> None:
        """Send a command that begins a run and wait until the twin has it."""
        self.serial.write(command.encode())
        wait_until(lambda: self.emulator._run is not None)

    def words(self, n: int) -> list[int]:
        data = self.serial.read(4 * n)
        return [int(w) for w in np.frombuffer(data, "<u4")]

    def silent(self) -> bool:
        """Whether nothing but the answer to a query comes."""
        return self.ask("time?") == f"{self.emulator._registers.time_ms}\r\n"

    def step(self, blocks: int = 1, fill: Callable[[int, int], None] | None = None) -> None:
        self.stage.step(self.emulator, blocks, fill)

    def clicks(self, *clicks: Click) -> Callable[[int, int], None]:
        """Physics of every block: clicks of (input, ps after the block's begin)."""
        return self.physics([(n, t) for n, t in clicks], per_block=True)

    def physics(
        self, clicks: list[Click], *, per_block: bool = False
    ) -> Callable[[int, int], None]:
        """Clicks of (input, ps of world time), or ps after each block's begin."""
        inputs = np.array([n for n, _ in clicks], np.int16)
        times = np.array([t for _, t in clicks], np.int64)
        order = np.argsort(times, kind="stable")
        inputs, times = inputs[order], times[order]

        def fill(begin: int, end: int) -> None:
            shown = times + begin if per_block else times
            here = (shown >= begin) & (shown < end)
            self.element.times_ps, self.element.inputs = shown[here], inputs[here]

        return fill

    def pulses(self, clicks: list[Click]) -> Callable[[int, int], None]:
        """Physics by way of the tagger's clock and memory: (input, ps after each block's begin)."""
        rng = np.random.default_rng(1)
        inputs = np.array([n for n, _ in clicks], np.int16)
        times = np.array([t for _, t in clicks], np.int64)

        def fill(begin: int, _end: int) -> None:
            self.element.step(rng, begin * 1e-12)
            self.element.add(times + begin, inputs)
            self.element.end_block()

        return fill

    def close(self) -> None:
        if self._serial is not None:
            self._serial.close()


@pytest.fixture
def make(stage: Any) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def build(**changes: Any) -> Bench:
        made.append(Bench(stage, **changes))
        return made[-1]

    yield build
    for bench in made:
        bench.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def word(t_ps: int, pattern: int) -> int:
    return (t_ps // 2000 % 2**27) << 5 | pattern


# -- commands -------------------------------------------------------------------------------------


def test_identity_and_defaults(make: Any) -> None:
    bench = make()
    assert "TDC1" in bench.ask("*IDN?")
    assert bench.ask("mode?;time?;refclk?;ECLOCK?", 4) == "0\r\n1000\r\n0\r\n0\r\n"
    assert float(bench.ask("level?").split()[0]) == -0.5
    assert bench.ask("help", 5).count("\r\n") == 5


def test_registers_take_their_commands_and_answer_nothing(make: Any) -> None:
    bench = make(external_clock=True)
    for mode, number in (("pairs", 1), ("timestamp", 3), ("singles", 0)):
        assert bench.ask(f"{mode};mode?") == f"{number}\r\n"
    for command, volts in (("TTL", 1.2), ("NIM", -0.5), ("NEG -1.25", -1.25), ("POS 0.8", 0.8)):
        assert float(bench.ask(f"{command};level?").split()[0]) == volts
    assert bench.ask("REFCLK 1;REFCLK?") == "1\r\n"
    assert bench.ask("ECLOCK?") == "1\r\n"
    assert bench.ask("pairs;time 5;*RST;mode?;time?;level?;REFCLK?", 4) == (
        "0\r\n1000\r\n-0.500 V\r\n0\r\n"
    )


@pytest.mark.parametrize(
    ("time_ms", "shown"), [(0, 0), (1, 1), (32_767, 32_767), (32_768, -32_768), (65_535, -1)]
)
def test_the_time_reads_back_as_a_signed_16_bit_number(make: Any, time_ms: int, shown: int) -> None:
    assert make().ask(f"time {time_ms};time?") == f"{shown}\r\n"


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("frobnicate", "unknown command"),
        ("foo?", "unknown command"),
        ("level 1", "unknown command"),
        ("time x", "unknown command"),
        ("time nan", "unknown command"),
        ("time 65536", "argument out of range"),
        ("time -1", "argument out of range"),
        ("POS 3.4", "argument out of range"),
        ("POS -1", "argument out of range"),
        ("REFCLK 3", "argument out of range"),
        ("time " + "9" * 400, "argument out of range"),
    ],
)
def test_refusals_are_a_line_and_change_nothing(make: Any, command: str, error: str) -> None:
    bench = make()
    assert bench.ask(command) == f"{error}\r\n"
    assert bench.ask("mode?;time?;level?;REFCLK?", 4) == "0\r\n1000\r\n-0.500 V\r\n0\r\n"


# -- counts ---------------------------------------------------------------------------------------


def test_the_golden_pairs_conversation(make: Any) -> None:
    bench = make()
    clicks: list[Click] = []
    t = itertools.count(1_000_000, 1_000_000)  # 1 us apart
    for (a, b), n in zip(((1, 3), (1, 4), (2, 3), (2, 4)), (10, 11, 12, 13), strict=True):
        for _ in range(n):
            at = next(t)
            clicks += [(a, at), (b, at + 2500)]  # half of the 5 ns window
    for n, total in zip((1, 2, 3, 4), (100, 200, 300, 400), strict=True):
        have = sum(1 for m, _ in clicks if m == n)
        clicks += [(n, next(t)) for _ in range(total - have)]
    bench.serial.write(b"time 10\r\n")
    bench.start("pairs;counts?\r\n")
    bench.step(fill=bench.physics(clicks))
    assert bench.serial.read_until(b"\r\n") == b"100 200 300 400 10 11 12 13\r\n"


def test_a_count_blocks_for_its_time_and_begins_with_the_next_block(make: Any) -> None:
    bench = make()
    fill = bench.clicks((1, 0), (1, BLOCK_PS - 1), (2, 5), (4, 6), (4, 7), (4, 8))
    bench.step(2, fill)
    assert not bench.element.recording
    bench.start("singles;time 20;counts?;mode?\r\n")
    assert not bench.element.recording
    bench.step(1, fill)
    assert bench.element.recording
    assert bench.serial.in_waiting == 0  # nothing yet, nor the answer to what came later
    bench.step(1, fill)
    assert bench.serial.read_until(b"\r\n") == b"4 2 0 6\r\n"
    assert bench.serial.read_until(b"\r\n") == b"0\r\n"
    bench.step(1, fill)
    assert not bench.element.recording


def test_the_start_offset_shifts_the_counted_time(make: Any) -> None:
    bench = make(offset=4e-3)
    bench.start("time 10;counts?\r\n")
    bench.step(2, bench.clicks((1, 3_999_999_999), (2, 4_000_000_000)))
    # Of 4 ms to 14 ms: input 2 at 4 ms, input 1 at 10 + 3.999... ms.
    assert bench.serial.read_until(b"\r\n") == b"1 1 0 0\r\n"


def test_chained_counts_take_consecutive_blocks(make: Any) -> None:
    bench = make()
    bench.start("time 10;counts?;pairs;counts?;singles;counts?\r\n")
    for n in range(3):
        bench.step(1, bench.clicks(*((1, 1000 * k) for k in range(n + 1))))
    answer = [bench.serial.read_until(b"\r\n") for _ in range(3)]
    assert answer == [b"1 0 0 0\r\n", b"2 0 0 0 0 0 0 0\r\n", b"3 0 0 0\r\n"]


@pytest.fixture
def by_window(make: Any) -> dict[int, Bench]:
    """A twin for each coincidence window, in ns."""
    return {ns: make(coincidence_window=ns * 1e-9) for ns in (0, 5, 12)}


EVENTS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 40_000)), max_size=40)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(events=EVENTS, window_ns=st.sampled_from([0, 5, 12]))
def test_pairs_are_all_pairs_within_the_window_across_blocks(
    by_window: dict[int, Bench], events: list[Click], window_ns: int
) -> None:
    bench = by_window[window_ns]
    begin = bench.stage.now_ps
    # 20 ns before and 20 ns after the edge between two blocks.
    clicks = [(n, begin + BLOCK_PS - 20_000 + t) for n, t in events]
    bench.start("pairs;time 20;counts?\r\n")
    bench.step(2, bench.physics(clicks))
    found = [int(n) for n in bench.serial.read_until(b"\r\n").split()]
    expected = [sum(1 for n, _ in events if n == channel) for channel in (1, 2, 3, 4)]
    for a, b in ((1, 3), (1, 4), (2, 3), (2, 4)):
        both = itertools.product((t for n, t in events if n == a), (t for n, t in events if n == b))
        expected.append(sum(1 for s, t in both if 2 * abs(s - t) <= 1000 * window_ns))
    assert found == expected


# -- the stream -----------------------------------------------------------------------------------


def test_the_golden_word_byte_for_byte(make: Any) -> None:
    bench = make()
    bench.serial.write(b"timestamp\r\n")
    bench.start("INPKT;time 10;counts?;\r\n")
    bench.step(fill=bench.clicks((1, 2_469_134_000), (3, 2_469_135_999)))
    assert bench.serial.read(4) == bytes.fromhex("e5d05a02")
    assert bench.silent()


def test_a_stream_of_given_time_ends_by_itself(make: Any) -> None:
    bench = make()
    bench.start("INPKT;NEG -0.5;time 20;timestamp;counts?;")  # the vendor library's order
    fill = bench.clicks((1, 0), (2, 1999), (4, 2000), (3, BLOCK_PS - 1))
    bench.step(4, fill)
    one = [word(0, 0b0011), word(2000, 0b1000), word(BLOCK_PS - 1, 0b0100)]
    two = [
        word(BLOCK_PS, 0b0011),
        word(BLOCK_PS + 2000, 0b1000),
        word(2 * BLOCK_PS - 1, 0b0100),
    ]
    assert bench.words(6) == one + two
    assert bench.silent()
    assert not bench.element.recording


def test_time_counts_from_the_start_offset_and_nothing_is_sent_before(make: Any) -> None:
    bench = make(offset=123e-9)
    bench.step(3)
    bench.start("timestamp;INPKT;time 10;counts?;")
    bench.step(2, bench.clicks((1, 122_999), (2, 123_000), (3, 200_000)))
    # The 10 ms end 123 ns into the second block.
    assert bench.words(3) == [
        word(0, 0b0010),
        word(77_000, 0b0100),
        word(BLOCK_PS - 1, 0b0001),
    ]
    assert bench.silent()


def test_clicks_of_one_bin_are_one_word_even_where_a_block_cuts_the_bin(make: Any) -> None:
    bench = make(offset=1e-12)
    bench.start("timestamp;INPKT;time 0;counts?;")
    # Of one 2 ns bin: 2 ps and 1 ps before its end.
    fill = bench.physics([(1, BLOCK_PS - 1), (4, BLOCK_PS), (2, BLOCK_PS + 1)])
    bench.step(2, fill)
    assert bench.words(2) == [word(BLOCK_PS - 1, 0b1001), word(BLOCK_PS, 0b0010)]
    bench.serial.write(b"abort;")
    assert bench.silent()


def test_without_inpkt_nothing_is_sent(make: Any) -> None:
    bench = make()
    for chain, sent in (("", 0), ("INPKT;", 1), ("", 0)):
        bench.start(f"timestamp;time 10;{chain}counts?;")
        bench.step(fill=bench.clicks((1, 0)))
        assert bench.words(sent) == [1] * sent
        assert bench.silent()


def test_rollovers_are_marked_in_order_and_on_silent_inputs(make: Any) -> None:
    bench = make()
    bench.start("timestamp;INPKT;time 0;counts?;")
    bench.step(54)  # two periods of 268.4 ms
    assert bench.words(2) == [ROLLOVER, ROLLOVER]
    around = [
        (1, 3 * PERIOD_PS - 1),
        (2, 3 * PERIOD_PS),
        (3, 3 * PERIOD_PS + 1999),
        (4, 3 * PERIOD_PS + 2000),
    ]
    bench.step(27, bench.physics(around))
    assert bench.words(4) == [word(-1, 0b0001), ROLLOVER, word(0, 0b0110), word(2000, 0b1000)]
    bench.serial.write(b"abort\r\n")
    assert bench.ask("mode?") == "3\r\n"


@pytest.fixture
def by_offset(make: Any) -> dict[int, Bench]:
    """A twin for each start offset, in ps."""
    return {ps: make(offset=ps * 1e-12) for ps in (0, 1, 2000, 4001)}


def decode(words: npt.NDArray[np.uint32]) -> dict[int, list[int]]:
    """Bins of each input's clicks, by the vendor's rule: dummies count the periods."""
    dummy = (words & ROLLOVER) != 0
    bins = (words >> 5).astype(np.int64) + (np.cumsum(dummy) << 27)
    return {n: bins[~dummy & ((words >> (n - 1) & 1) == 1)].tolist() for n in (1, 2, 3, 4)}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    gaps=st.lists(
        st.tuples(
            st.integers(1, 4),
            st.one_of(st.integers(0, 5000), st.integers(0, 10**8), st.integers(0, 10**10)),
        ),
        max_size=60,
    ),
    offset_ps=st.sampled_from([0, 1, 2000, 4001]),
    first_ps=st.integers(0, 28 * BLOCK_PS),
)
def test_the_stream_holds_every_click_in_its_bin(
    by_offset: dict[int, Bench], gaps: list[Click], offset_ps: int, first_ps: int
) -> None:
    bench = by_offset[offset_ps]
    begin = bench.stage.now_ps
    moments = itertools.accumulate((gap for _, gap in gaps), initial=begin + first_ps)
    clicks = [(n, t) for (n, _), t in zip(gaps, moments, strict=False)]
    zero = begin + offset_ps
    bench.start("timestamp;INPKT;time 300;counts?;")
    bench.step(31, bench.physics(clicks))
    expected = {
        n: sorted(
            {(t - zero) // 2000 for m, t in clicks if m == n and zero <= t < zero + 30 * BLOCK_PS}
        )
        for n in (1, 2, 3, 4)
    }
    answer = b"0\r\n"
    bench.serial.write(b"singles;mode?\r\n")
    distinct = len({b for bins in expected.values() for b in bins})
    data = bench.serial.read(4 * (distinct + 1) + len(answer))  # one rollover in 300 ms
    assert data.endswith(answer)
    words = np.frombuffer(data[: -len(answer)], "<u4")
    assert words.size == distinct + 1
    assert decode(words) == expected


def test_abort_ends_a_stream_and_later_answers_follow_its_words(make: Any) -> None:
    bench = make()
    bench.start("timestamp;INPKT;time 0;counts?;mode?;")
    bench.step(2, bench.clicks((1, 0)))
    bench.serial.write(b"abort\r\n")
    assert bench.serial.read(8 + 3) == (
        word(0, 1).to_bytes(4, "little") + word(BLOCK_PS, 1).to_bytes(4, "little") + b"3\r\n"
    )
    bench.step(2, bench.clicks((1, 0)))
    assert bench.silent()
    assert not bench.element.recording
    bench.start("INPKT;counts?;")  # a second run counts from zero again
    bench.step(1, bench.clicks((2, 4000)))
    assert bench.words(1) == [word(4000, 2)]
    bench.serial.write(b"abort\r\n")
    assert bench.silent()


def test_abort_of_a_count_answers_nothing(make: Any) -> None:
    bench = make()
    bench.start("time 0;counts?;")
    bench.step(300, bench.clicks((1, 0)))
    bench.serial.write(b"abort;abort;")
    assert bench.silent()


# -- flow -----------------------------------------------------------------------------------------


def big_block(bench: Bench) -> Callable[[int, int], None]:
    """A word every 100 ns: 400 kB a block."""

    def fill(begin: int, end: int) -> None:
        bench.element.times_ps = np.arange(begin, end, 100_000)
        bench.element.inputs = np.ones(bench.element.times_ps.size, np.int16)

    return fill


def run_blocks(bench: Bench, blocks: int) -> Any:
    async def inner() -> None:
        for _ in range(blocks):
            await bench.stage.block(bench.emulator, big_block(bench))

    return bench.stage.submit(inner())


def stalled(bench: Bench) -> None:
    """Return once world time has stood still for a while."""
    seen, since = -1, time.monotonic()

    def still() -> bool:
        nonlocal seen, since
        if bench.stage.now_ps != seen:
            seen, since = bench.stage.now_ps, time.monotonic()
        return seen > 0 and time.monotonic() - since > 0.3

    wait_until(still)


def slow_client(bench: Bench, command: bytes) -> socket.socket:
    """A client with a small buffer that has asked for something and does not read."""
    client = socket.socket()
    client.settimeout(10)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    client.connect(bench.where)
    client.sendall(command)
    wait_until(lambda: bench.emulator._run is not None)
    return client


def read_exactly(client: socket.socket, length: int) -> bytes:
    got = bytearray()
    while len(got) < length:
        data = client.recv(length - len(got))
        assert data
        got += data
    return bytes(got)


BLOCKS = 40  # 16 MB: more than sockets hold
STREAM_COMMAND = b"timestamp;INPKT;time 0;counts?;"


def test_a_slow_reader_holds_the_world_back_and_loses_nothing(make: Any) -> None:
    bench = make(max_rate=1e9)
    with slow_client(bench, STREAM_COMMAND) as client:
        run = run_blocks(bench, BLOCKS)
        stalled(bench)
        assert not run.done()
        n = BLOCKS * 100_000
        words = np.frombuffer(read_exactly(client, 4 * (n + BLOCKS * BLOCK_PS // PERIOD_PS)), "<u4")
        run.result(20)
    assert decode(words)[1] == list(range(0, 50 * n, 50))


def test_abort_is_heard_while_the_reader_holds_the_world(make: Any) -> None:
    bench = make(max_rate=1e9)
    with slow_client(bench, STREAM_COMMAND) as client:
        run = run_blocks(bench, BLOCKS)
        stalled(bench)
        client.sendall(b"abort;mode?;")
        wait_until(lambda: bench.emulator._run is not None and bench.emulator._run.aborted)
        blocks = bench.stage.now_ps // BLOCK_PS + 1  # the one that is held is still sent
        rollovers = blocks * BLOCK_PS // PERIOD_PS
        data = read_exactly(client, 4 * (blocks * 100_000 + rollovers) + 3)
        assert data[-3:] == b"3\r\n"
        run.result(20)


@pytest.mark.parametrize("half", [False, True])
def test_a_reader_that_leaves_releases_the_world(make: Any, half: bool) -> None:
    bench = make(max_rate=1e9)
    client = slow_client(bench, STREAM_COMMAND)
    run = run_blocks(bench, BLOCKS)
    stalled(bench)
    if half:
        client.shutdown(socket.SHUT_WR)
    else:
        client.close()
    run.result(20)
    client.close()
    bench.step()
    assert not bench.element.recording
    assert bench.ask("mode?") == "3\r\n"  # registers stay


def whole_words(halves: npt.NDArray[np.uint16]) -> int:
    """How many words lie in a row of even spacing at the start of ``halves``."""
    words = halves[: halves.size // 2 * 2].view("<u4")
    marks = (words & 0x1F) == ROLLOVER
    steps = np.diff(words >> 5).astype(np.int64) % 2**27
    even = ((words[1:] & 0x1F) == 1) & ((steps == 50) | marks[:-1])
    fits = np.concatenate(([True], even | marks[1:]))
    return words.size if bool(fits.all()) else int(np.argmin(fits))


def test_a_paced_world_never_waits_and_lost_words_leave_half_a_word(make: Any) -> None:
    bench = make(lossless=False, max_rate=1e9)
    with slow_client(bench, STREAM_COMMAND) as client:
        link = bench.emulator._run.link
        bench.step(BLOCKS, big_block(bench))  # returns although nobody reads
        data = bytearray(read_exactly(client, 2_000_000))
        wait_until(lambda: link.backlog < 100_000)
        bench.step(20, big_block(bench))
        assert link.backlog <= 1 << 20
        client.sendall(b"abort;*IDN?;")
        while not data.endswith(b"TDC1 00141 1.0\r\n"):
            data += client.recv(1 << 20)
    halves = np.frombuffer(bytes(data[:-16]), "<u2")
    lost = 2 * (BLOCKS + 20) * 100_000 - halves.size
    assert lost > 0
    rows = []
    while halves.size:
        rows.append(whole_words(halves))
        halves = halves[2 * rows[-1] + 1 :]  # every loss leaves the first half of a word
    assert len(rows) >= 2
    assert min(rows) >= 1


def test_words_beyond_the_rate_of_the_device_are_lost(make: Any) -> None:
    bench = make(max_rate=400.0)  # 4 per block
    bench.start("timestamp;INPKT;time 30;counts?;")
    bench.step(1, bench.clicks(*((1, 2000 * k) for k in range(4))))
    assert bench.words(4) == [word(2000 * k, 1) for k in range(4)]
    bench.step(2, bench.clicks(*((2, 2000 * k) for k in range(5))))
    blocks = [[word(n * BLOCK_PS + 2000 * k, 2) for k in range(4)] for n in (1, 2)]
    expected = b"".join(np.array(block, "<u4").tobytes()[:-2] for block in blocks)
    assert bench.serial.read(len(expected)) == expected
    assert bench.silent()


def clock(offset: float) -> dict[str, Any]:
    return {"clock": {"reference": "internal", "frequency_offset": offset}}


def test_words_and_rollovers_go_by_the_tagger_s_own_clock(make: Any) -> None:
    bench = make(tagger=clock(1e-3))
    bench.step(3, bench.pulses([]))
    bench.start("timestamp;INPKT;time 0;counts?;")
    bench.step(1, bench.pulses([(1, 5_000_000_000), (3, 9_000_000_000)]))
    bench.step(294, bench.pulses([]))
    # 295 blocks are 2950 ms, 10 rollovers of 268.4 ms; by this clock 2952.95 ms, and 11.
    assert bench.words(13) == [
        word(5_005_000_000, 0b0001),
        word(9_009_000_000, 0b0100),
        *[ROLLOVER] * 11,
    ]
    bench.step(1, bench.pulses([(2, 0)]))
    assert bench.words(1) == [word(295 * 10_010_000_000, 0b0010)]
    bench.serial.write(b"abort;")
    assert bench.silent()


def test_a_slow_clock_counts_for_longer(make: Any) -> None:
    bench = make(tagger=clock(-1e-3))
    bench.start("time 20;counts?\r\n")
    bench.step(2, bench.pulses([(1, 10_000_000), (2, 30_000_000)]))  # 10 us, 30 us
    assert bench.serial.in_waiting == 0  # 19.98 ms so far
    bench.step(1, bench.pulses([(1, 10_000_000), (2, 30_000_000)]))  # over after 20.02 ms
    assert bench.serial.read_until(b"\r\n") == b"3 2 0 0\r\n"


def test_a_full_memory_cuts_a_word_in_two(make: Any) -> None:
    bench = make(tagger={"buffer": 3, "buffer_rate": 1e6})  # one in 1 us
    bench.start("timestamp;INPKT;time 0;counts?;")
    clicks = [(1, 0), (2, 2000), (3, 4000), (4, 6000), (1, 8000), (2, 4_000_000), (3, 4_002_000)]
    bench.step(1, bench.pulses(clicks))
    first, second = (
        np.array([word(t, 1 << n - 1) for n, t in some], "<u4").tobytes()
        for some in (clicks[:3], clicks[5:])
    )
    assert bench.serial.read(18) == first[:-2] + second
    bench.serial.write(b"abort;")
    assert bench.silent()


def test_a_reader_finds_the_gap_of_a_full_memory(make: Any) -> None:
    bench = make(tagger={"buffer": 1000, "buffer_rate": 1e6})  # 1 ms to empty it
    bench.start("timestamp;INPKT;time 10;counts?;")
    # One each 4 us, but for 0.5 ms one each 100 ns.
    burst = range(5_000_000_000, 5_500_000_000, 100_000)
    steady = [t for t in range(0, BLOCK_PS, 4_000_000) if t not in burst]
    bench.step(1, bench.pulses([(1, t) for t in sorted([*steady, *burst])]))
    assert bench.element.gaps_ps.size == 1
    data = bench.serial.read(4 * bench.element.times_ps.size - 2)
    assert bench.silent()
    decoder = Tdc1Decoder()
    batches = [decoder.feed(data), decoder.flush()]
    losses = [loss for batch in batches for loss in batch.losses]
    assert len(losses) == 1
    times = np.concatenate([batch.times_ps for batch in batches])
    full, empty = 5_111_000_000, 6_111_000_000  # 1000 more by 9 a us
    assert losses[0].begin_ps == pytest.approx(full, abs=2_000_000)
    assert losses[0].end_ps == pytest.approx(empty, abs=5_000_000)
    assert set(times.tolist()) <= {*steady, *burst}
    lost = (times > losses[0].begin_ps) & (times < losses[0].end_ps)
    assert not lost.any()
    assert times[times > empty + 5_000_000].tolist() == [t for t in steady if t > empty + 5_000_000]


def test_who_queues_commands_without_end_is_disconnected(make: Any) -> None:
    bench = make()
    with slow_client(bench, b"time 0;counts?;") as client, contextlib.suppress(ConnectionError):
        client.sendall(b"mode?;" * 100_000)
        while client.recv(4096):
            pass
    assert bench.ask("mode?") == "0\r\n"


def test_who_never_reads_the_answers_of_queued_commands_is_disconnected(make: Any) -> None:
    bench = make()
    chain = b"help;" * 1000 + b"counts?;"  # 170 kB of answers when the run ends, and a new run
    with slow_client(bench, b"time 1;counts?;") as client:
        link = bench.emulator._run.link
        for _ in range(100):
            client.sendall(chain)
            wait_until(lambda: len(bench.emulator._queue) == 1001)
            bench.step()
            if link.closed:
                break
            assert link.backlog <= 1 << 21
        assert link.closed
    assert bench.ask("mode?") == "0\r\n"


# -- wire -----------------------------------------------------------------------------------------


@pytest.fixture
def default(make: Any) -> Bench:
    found: Bench = make()
    return found


STREAM = b"mode?;pairs;mode?\r\nTIME 65535;time?\r;;\nfoo;POS 9;singles;mode?;"
ANSWER = b"0\r\n1\r\n-1\r\nunknown command\r\nargument out of range\r\n0\r\n"


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.sets(st.integers(1, len(STREAM) - 1)))
def test_any_split_of_the_commands_gives_the_same_replies(
    stage: Any, default: Bench, cuts: set[int]
) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in itertools.pairwise(edges)]
    assert stage.converse(default.where, pieces, len(ANSWER)) == ANSWER


def test_chaos_changes_packets_and_not_bytes(make: Any) -> None:
    bench = make(chaos=True)
    assert bench.stage.converse(bench.where, [STREAM] * 10, 10 * len(ANSWER)) == ANSWER * 10
    bench.start("timestamp;INPKT;time 30;counts?;")
    bench.step(3, bench.clicks(*((1, 2000 * k) for k in range(100))))
    assert bench.words(300) == [
        word(n * BLOCK_PS + 2000 * k, 1) for n in range(3) for k in range(100)
    ]


def test_a_second_client_is_disconnected_and_a_reconnect_is_served(make: Any) -> None:
    bench = make()
    assert bench.ask("mode?") == "0\r\n"
    with socket.create_connection(bench.where, 5) as second:
        second.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert second.recv(10) == b""
    assert bench.ask("mode?") == "0\r\n"
    bench.serial.close()
    for _ in range(2):
        with serial.serial_for_url(bench.url, timeout=5) as again:
            again.write(b"mode?\r\n")
            assert again.read_until(b"\r\n") == b"0\r\n"


def test_hostile_clients_are_survived(make: Any) -> None:
    bench = make()
    bench.stage.flood(bench.where, b"x" * 1_000_000)
    with socket.create_connection(bench.where, 5) as client:
        client.sendall(bytes(range(256)) * 10 + b"\r\ntime 1e9;*IDN\x00?;")
    assert bench.ask("mode?") == "0\r\n"


def test_two_of_a_kind_coexist(make: Any) -> None:
    a, b = make(name="left", serial_number="1"), make(name="right", serial_number="2")
    assert a.ask("pairs;*IDN?") != b.ask("*IDN?")
    assert (a.ask("mode?"), b.ask("mode?")) == ("1\r\n", "0\r\n")
