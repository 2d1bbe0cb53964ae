"""The ID900 twin with plain ZeroMQ sockets: SCPI, DLT, streams, backpressure."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import numpy.typing as npt
import pytest
import zmq
from bellbench.sims.devices.id900 import ID900Emulator
from bellbench.sims.elements import TaggerInputs, TaggerModel
from zmq.utils.monitor import recv_monitor_message

Times = npt.NDArray[np.int64]
BLOCK_PS = 10_000_000_000


class Bench:
    """An ID900 twin and plain clients of it."""

    def __init__(
        self,
        stage: Any,
        *,
        lossless: bool = True,
        offset: float = 0.0,
        tagger: dict[str, Any] | None = None,
        **changes: Any,
    ):
        known = {"kind": "tagger", "start_offset": offset, **(tagger or {})}
        model = TaggerModel.model_validate(known)
        self.stage = stage
        self.element = TaggerInputs(model)
        name = changes.pop("name", "tagger")
        self.emulator = ID900Emulator(
            stage.setting(name, lossless=lossless),
            self.element,
            ID900Emulator.Settings(**changes),
        )
        self.address = stage.open(self.emulator)
        parts = urlsplit(self.address)
        options = parse_qs(parts.query)
        assert parts.scheme == "tcp"
        self.host = str(parts.hostname)
        self.port = int(parts.port or 0)
        self.dlt_port = int(options["dlt"][0].rpartition(":")[2])
        self.stream_port = int(options["stream"][0])
        self.context = zmq.Context()
        self.sockets: list[zmq.Socket[bytes]] = []
        self.control = self.request(self.port)
        self.dlt = self.request(self.dlt_port)

    def request(self, port: int) -> zmq.Socket[bytes]:
        found: zmq.Socket[bytes] = self.context.socket(zmq.REQ)
        self.sockets.append(found)
        found.setsockopt(zmq.RCVTIMEO, 10_000)
        found.setsockopt(zmq.SNDTIMEO, 10_000)
        found.setsockopt(zmq.LINGER, 0)
        found.connect(f"tcp://{self.host}:{port}")
        return found

    def ask(self, command: str) -> str:
        self.control.send_string(command)
        return self.control.recv().decode()

    def ask_dlt(self, command: str) -> Any:
        self.dlt.send_string(command)
        return json.loads(self.dlt.recv())

    def pair(self, channel: int, buffer: int = 1000) -> zmq.Socket[bytes]:
        found: zmq.Socket[bytes] = self.context.socket(zmq.PAIR)
        self.sockets.append(found)
        found.setsockopt(zmq.RCVTIMEO, 10_000)
        found.setsockopt(zmq.LINGER, 0)
        found.setsockopt(zmq.RCVHWM, buffer)
        found.connect(f"tcp://{self.host}:{self.stream_port + channel - 1}")
        return found

    def stream(self, channel: int, extra: str = "") -> str:
        answer = self.ask_dlt(
            f"start-stream --address {self.host} --channel {channel} "
            f"--stream-port {self.stream_port + channel - 1}{extra}"
        )
        return str(answer["id"])

    def prepare(self, *channels: int) -> None:
        for n in channels:
            assert self.ask(f"INPU{n}:ENAB ON;THRE 100mV") == ""
            assert self.ask(f"RAW{n}:SEND ON") == ""
        assert self.ask("REC:TRIG:ARM:MODE MANUal;:REC:ENABle ON;STOP;NUM INF") == ""

    def step(self, blocks: int = 1, fill: Callable[[int, int], None] | None = None) -> None:
        self.stage.step(self.emulator, blocks, fill or self.clicks())

    def clicks(self, *clicks: tuple[int, int]) -> Callable[[int, int], None]:
        """Physics of a block: clicks of (input, ps after the block's begin)."""

        def fill(begin: int, _end: int) -> None:
            ordered = sorted(clicks, key=lambda click: click[1])
            self.element.times_ps = np.array([begin + t for _, t in ordered], np.int64)
            self.element.inputs = np.array([n for n, _ in ordered], np.int16)

        return fill

    def pulses(self, *clicks: tuple[int, int]) -> Callable[[int, int], None]:
        """As :meth:`clicks`, but by way of the tagger's clock and memory."""
        rng = np.random.default_rng(1)

        def fill(begin: int, _end: int) -> None:
            self.element.step(rng, begin * 1e-12)
            for n, t in sorted(clicks, key=lambda click: click[1]):
                self.element.add(np.array([begin + t], np.int64), np.array([n], np.int16))
            self.element.end_block()

        return fill

    def close(self) -> None:
        for each in self.sockets:
            each.close(linger=0)
        self.context.term()


@pytest.fixture
def make(stage: Any) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def build(**changes: Any) -> Bench:
        made.append(Bench(stage, **changes))
        return made[-1]

    yield build
    for bench in made:
        bench.close()


def words(message: bytes) -> list[int]:
    return [int(word) for word in np.frombuffer(message, "<i8")]


def test_settings_answer_an_empty_message_and_queries_a_value(make: Any) -> None:
    bench = make()
    assert bench.ask("*IDN?") == "IDQ,ID900,1900001,1.20.0"
    assert bench.ask("INPU1:ENAB ON;COUP DC;EDGE FALLING;THRE -0.25V;SELE UNSHAPED") == ""
    assert bench.ask("inpu1:enab?;edge?;thre?;:INPUt2:ENABle?") == "ON\nFALLING\n-0.250V\nOFF"
    assert bench.ask("DELA1:VALU 3000;:DELAy2:VALUe 2GTB") == ""
    assert bench.ask("DELA1:VALU?;:DELA2:VALU?") == "3000TB\n2000000000TB"
    assert bench.ask("STAR:THRE 1000mV") == ""
    assert bench.ask("STARt:THREshold?") == "1.000V"
    assert bench.ask("REC:DUR 1e12;DUR?") == "1000000000000TB"
    assert bench.ask("DEVI:RES LOWRES;RES:BWID?") == "100TB"
    assert bench.ask("SYST:ERR?") == '+0,"No error"'


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("FOO", '-113,"Undefined header"'),
        ("FOO?", '-113,"Undefined header"'),
        ("INPU5:ENAB ON", '-113,"Undefined header"'),
        ("INPU1:THRE 5V", '-222,"Data out of range"'),
        ("INPU1:EDGE UP", '-141,"Invalid character data"'),
        ("DELA1:VALU 2000000000000", '-222,"Data out of range"'),
        ("RAW1:STOP:LINK INPU9", '-141,"Invalid character data"'),
        ("REC:NUM 7", '-222,"Data out of range"'),
        ("REC:PLAY", '-221,"Settings conflict"'),
    ],
)
def test_refusals_are_answered_and_queued(make: Any, command: str, error: str) -> None:
    bench = make()
    assert bench.ask(command) == f"error: {error}"
    assert bench.ask("SYST:ERR?") == error
    assert bench.ask("SYST:ERR?") == '+0,"No error"'


def test_the_golden_stream_with_reference_index(make: Any) -> None:
    bench = make()
    bench.prepare(1, 2)
    assert bench.ask("RAW1:REF:LINK INPU2") == ""
    bench.stream(1, " --with-ref-index")
    reader = bench.pair(1)
    bench.ask("REC:PLAY")
    bench.step(fill=bench.clicks((2, 1_000_000), (1, 1_123_456)))
    assert reader.recv() == bytes.fromhex("40e20100000000000100000000000000")
    bench.step(fill=bench.clicks((1, 5), (2, 10), (1, 40)))  # the reference of the block before
    assert words(reader.recv()) == [BLOCK_PS - 1_000_000 + 5, 1, 30, 2]


def test_a_record_from_play_to_stop(make: Any) -> None:
    bench = make(offset=123e-9)
    bench.prepare(1, 3)
    one, three = bench.stream(1), bench.stream(3)
    readers = {n: bench.pair(n) for n in (1, 3)}
    assert bench.ask("REC:STAG?") == "STOPPED"
    bench.step(2, bench.clicks((1, 1)))
    assert not bench.element.recording
    assert bench.ask("REC:PLAY") == ""
    assert bench.ask("REC:STAGe?") == "PLAYING"
    assert bench.ask("REC:PLAY") == 'error: -221,"Settings conflict"'
    assert not bench.element.recording
    # Zero is 123 ns after the block's begin; what is earlier, or not enabled, is not recorded.
    bench.step(fill=bench.clicks((1, 122_999), (1, 123_000), (2, 130_000), (3, 500_000)))
    assert bench.element.recording
    assert words(readers[1].recv()) == [0]
    assert words(readers[3].recv()) == [377_000]
    bench.step()  # no clicks: no message, since an empty one would end the stream
    bench.step(fill=bench.clicks((1, 0)))
    assert words(readers[1].recv()) == [2 * BLOCK_PS - 123_000]
    status = bench.ask_dlt(f"status --id {one}")
    assert (status["timestamps_count"], status["acquisitions_count"]) == (2, 0)
    assert status["inactivity"] == 0.0
    assert bench.ask_dlt(f"status --id {three}")["inactivity"] == pytest.approx(0.02)
    assert bench.ask_dlt("list") == [one, three]
    assert bench.ask("REC:STOP") == ""
    assert readers[1].recv() == b""  # at once: no block was under way
    assert readers[3].recv() == b""
    bench.step(fill=bench.clicks((1, 7)))
    assert not bench.element.recording
    assert bench.ask_dlt(f"stop --id {one}")["status"]["timestamps_count"] == 2
    assert bench.ask_dlt(f"stop --id {three}")["status"]["acquisitions_count"] == 1
    assert bench.ask_dlt("list") == []
    assert bench.ask("RAW1:ERRORS?") == "0"


def test_a_second_record_on_new_sockets_starts_at_zero_again(make: Any) -> None:
    bench = make()
    bench.prepare(1)
    for _ in range(4):
        number = bench.stream(1)
        reader = bench.pair(1)
        bench.ask("REC:PLAY")
        bench.step(fill=bench.clicks((1, 42)))
        assert words(reader.recv()) == [42]
        bench.ask("REC:STOP")
        assert reader.recv() == b""
        reader.close()
        bench.ask_dlt(f"stop --id {number}")


def test_a_reader_on_its_way_out_costs_the_next_one_nothing(make: Any) -> None:
    bench = make(max_rate=1e9)
    bench.prepare(1)
    number = bench.stream(1)
    late = bench.pair(1)
    news = late.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    assert news.poll(10_000)
    recv_monitor_message(news)
    bench.ask_dlt(f"stop --id {number}")
    assert news.poll(10_000)  # it has found the socket that waits for the next stream
    late.disable_monitor()
    news.close()
    late.close()
    spare = bench.emulator._spare[bench.stream_port]
    wait_until(spare._gone.is_set)
    number = bench.stream(1)
    bench.ask("REC:PLAY")
    run = run_blocks(bench, 1)  # waits for the reader
    reader = bench.pair(1)
    got = 0
    while got < 100_000:
        got += len(reader.recv()) // 8
    run.result(20)
    assert "errors" not in bench.ask_dlt(f"status --id {number}")


def test_a_record_of_given_duration_ends_by_itself(make: Any) -> None:
    bench = make()
    bench.prepare(1)
    bench.ask("REC:NUM 1;DUR 15000000000TB")
    bench.stream(1)
    reader = bench.pair(1)
    bench.ask("REC:PLAY")
    bench.step(3, bench.clicks((1, 4_999_999_999), (1, 5_000_000_000)))
    assert words(reader.recv()) == [4_999_999_999, 5_000_000_000]
    assert words(reader.recv()) == [14_999_999_999]
    assert reader.recv() == b""
    assert bench.ask("REC:STAGe?;NUM?") == "STOPPED\n1"


def test_delays_hold_clicks_back_across_blocks(make: Any) -> None:
    bench = make()
    bench.prepare(1, 2)
    bench.ask("DELA1:VALU 6000000000")
    bench.ask("RAW2:STOP:LINK TSCO5")  # forwards DELAY1: the same signal on another output
    bench.ask("DEVI:RES LOWRES")
    bench.stream(1)
    bench.stream(2)
    readers = [bench.pair(1), bench.pair(2)]
    bench.ask("REC:PLAY")
    bench.step(fill=bench.clicks((1, 3_000_000_123), (1, 5_000_000_000)))
    assert [words(r.recv()) for r in readers] == [[9_000_000_100]] * 2
    bench.step()
    assert [words(r.recv()) for r in readers] == [[11_000_000_000]] * 2


def test_only_a_running_stream_with_send_on_gets_tags(make: Any) -> None:
    bench = make()
    bench.prepare(1, 2)
    bench.ask("RAW2:SEND OFF")
    two = bench.stream(2)
    bench.ask("REC:PLAY")
    bench.step(fill=bench.clicks((1, 5), (2, 5)))  # nobody listens: nothing holds the world
    assert bench.ask_dlt(f"status --id {two}")["timestamps_count"] == 0


def test_counters_count_in_world_time(make: Any) -> None:
    bench = make()
    bench.ask("INPU1:ENAB ON;COUN:INTE 20000000000TB;:INPU2:ENAB ON;COUN:MODE ACCUM")
    assert bench.ask("INPU1:COUN?;:INPU2:COUN?") == "0\n0"
    fill = bench.clicks((1, 1), (1, 2), (2, 3), (3, 4))
    bench.step(1, fill)
    assert bench.ask("INPU1:COUN?;:INPU2:COUN?") == "0\n1"
    bench.step(4, fill)
    assert bench.ask("INPU1:COUN?;:INPU2:COUN?") == "4\n5"
    bench.ask("INPU2:COUN:RESE")
    assert bench.ask("INPU2:COUN?") == "0"


def test_tags_beyond_the_rate_of_the_device_are_lost_and_counted(make: Any) -> None:
    bench = make(max_rate=400.0)  # 4 per block
    bench.prepare(1, 2)
    bench.stream(1)
    bench.stream(2)
    readers = [bench.pair(1), bench.pair(2)]
    bench.ask("REC:PLAY")
    bench.step(fill=bench.clicks(*((1, 10 * k) for k in range(5)), (2, 15), (2, 55)))
    assert [words(r.recv()) for r in readers] == [[0, 10, 20], [15]]
    assert bench.ask("RAW1:ERRORS?;:RAW2:ERRORS?") == "2\n1"
    bench.ask("RAW1:ERRORS:CLEAR")
    assert bench.ask("RAW1:ERRORS?;:RAW2:ERRORS?") == "0\n1"


def clock(offset: float) -> dict[str, Any]:
    return {"clock": {"reference": "internal", "frequency_offset": offset}}


def test_words_go_by_the_tagger_s_own_clock_from_the_record_s_start(make: Any) -> None:
    bench = make(tagger=clock(1e-3))
    bench.prepare(1, 2)
    bench.ask("RAW2:REF:LINK INPU1;:DELA2:VALU 3000")
    bench.stream(1)
    bench.stream(2)
    one, two = bench.pair(1), bench.pair(2)
    fill = bench.pulses((1, 0), (1, 5_000_000_000), (2, 6_000_000_000))
    bench.step(3, fill)
    bench.ask("REC:PLAY")
    bench.step(2, fill)
    block = 10_010_000_000
    assert words(one.recv()) == [0, 5_005_000_000]
    assert words(one.recv()) == [block, block + 5_005_000_000]
    assert words(two.recv()) == words(two.recv()) == [1_001_003_000]  # since the last reference


def test_a_slow_clock_records_and_counts_for_longer(make: Any) -> None:
    bench = make(tagger=clock(-1e-3))
    bench.prepare(1)
    bench.ask("REC:NUM 1;DUR 20000000000TB;:INPU1:COUN:INTE 20000000000TB")
    assert bench.ask("INPU1:COUN?") == "0"
    bench.stream(1)
    reader = bench.pair(1)
    bench.ask("REC:PLAY")
    bench.step(2, bench.pulses((1, 10_000_000), (1, 30_000_000)))  # 10 us, 30 us
    assert bench.ask("REC:STAG?") == "PLAYING"  # 19.98 ms so far
    assert bench.ask("INPU1:COUN?") == "0"
    bench.step(1, bench.pulses((1, 10_000_000), (1, 30_000_000)))  # 20 ms are over after 20.02 ms
    assert bench.ask("REC:STAG?") == "STOPPED"
    assert bench.ask("INPU1:COUN?") == "5"
    assert [words(reader.recv()) for _ in range(4)] == [
        [9_990_000, 29_970_000],
        [9_999_990_000, 10_019_970_000],
        [19_989_990_000],
        [],
    ]
    bench.step(2, bench.pulses((1, 1)))
    assert bench.ask("INPU1:COUN?") == "3"  # the one after 20.02 ms, and these two


def test_what_the_memory_had_no_room_for_is_counted_by_input(make: Any) -> None:
    bench = make(tagger={"buffer": 2, "buffer_rate": 1e6})  # one in 1 us
    bench.prepare(1, 2)
    bench.ask("RAW2:STOP:LINK TSCO6")
    bench.stream(1)
    bench.stream(2)
    readers = [bench.pair(1), bench.pair(2)]
    bench.ask("REC:PLAY")
    fill = bench.pulses((1, 0), (2, 1), (1, 2), (2, 3), (2, 4), (3, 5), (1, 3_000_000))
    bench.step(fill=fill)
    assert [words(r.recv()) for r in readers] == [[0, 3_000_000], [1]]
    assert bench.ask("RAW1:ERRORS?;:RAW2:ERRORS?") == "1\n2"


def big_block(bench: Bench) -> Callable[[int, int], None]:
    def fill(begin: int, end: int) -> None:
        bench.element.times_ps = np.linspace(begin, end - 1, 100_000).astype(np.int64)
        bench.element.inputs = np.ones(100_000, np.int16)

    return fill


def run_blocks(bench: Bench, blocks: int) -> Any:
    async def inner() -> None:
        for _ in range(blocks):
            await bench.stage.block(bench.emulator, big_block(bench))

    return bench.stage.submit(inner())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stalled(bench: Bench) -> None:
    """Return once world time has stood still for a while."""
    seen, since = -1, time.monotonic()

    def still() -> bool:
        nonlocal seen, since
        if bench.stage.now_ps != seen:
            seen, since = bench.stage.now_ps, time.monotonic()
        return seen > 0 and time.monotonic() - since > 0.3

    wait_until(still)


def test_a_slow_reader_holds_the_world_back_and_loses_nothing(make: Any) -> None:
    bench = make(max_rate=1e9)
    bench.prepare(1)
    number = bench.stream(1)
    reader = bench.pair(1, buffer=1)
    bench.ask("REC:PLAY")
    blocks = 60  # 48 MB: far more than sockets hold
    run = run_blocks(bench, blocks)
    stalled(bench)
    assert not run.done()
    assert bench.ask("REC:STAGe?") == "PLAYING"  # commands are answered meanwhile
    got: list[Times] = []
    while sum(part.size for part in got) < blocks * 100_000:
        got.append(np.frombuffer(reader.recv(), "<i8"))
    run.result(20)
    times = np.concatenate(got)
    assert bool(np.all(np.diff(times) >= 0))
    assert int(times[-1]) == blocks * BLOCK_PS - 1
    assert bench.ask_dlt(f"status --id {number}")["timestamps_count"] == blocks * 100_000
    assert bench.ask("RAW1:ERRORS?") == "0"


def test_a_reader_that_leaves_while_it_holds_the_world_releases_it(make: Any) -> None:
    bench = make(max_rate=1e9)
    bench.prepare(1)
    number = bench.stream(1)
    reader = bench.pair(1, buffer=1)
    bench.ask("REC:PLAY")
    run = run_blocks(bench, 60)
    stalled(bench)
    reader.close()
    run.result(20)
    status = bench.ask_dlt(f"status --id {number}")
    assert status["timestamps_count"] < 60 * 100_000
    assert int(bench.ask("RAW1:ERRORS?")) > 0
    assert "lost" in status["errors"][0]["description"]


def test_stopping_the_stream_releases_the_world(make: Any) -> None:
    bench = make(max_rate=1e9)
    bench.prepare(1)
    number = bench.stream(1)
    bench.pair(1, buffer=1)
    bench.ask("REC:PLAY")
    run = run_blocks(bench, 60)
    stalled(bench)
    bench.ask("REC:STOP")
    bench.ask_dlt(f"stop --id {number}")
    run.result(20)


def test_a_paced_world_never_waits_and_counts_what_is_lost(make: Any) -> None:
    bench = make(lossless=False, max_rate=1e9)
    bench.prepare(1)
    number = bench.stream(1)
    reader = bench.pair(1, buffer=1)
    bench.ask("REC:PLAY")
    blocks = 300
    bench.step(blocks, big_block(bench))  # returns although nobody reads
    lost = int(bench.ask("RAW1:ERRORS?"))
    assert lost > 0
    assert lost % 100_000 == 0
    bench.ask("REC:STOP")
    got = 0
    while message := reader.recv():
        got += len(message) // 8
    assert got + lost == blocks * 100_000
    assert bench.ask_dlt(f"status --id {number}")["timestamps_count"] == got


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("", "unknown command"),
        ("frobnicate", "unknown command"),
        ("status --id 99", "no acquisition"),
        ("stop", "no acquisition"),
        ("start-stream --address {host} --channel 5", "--channel"),
        ("start-stream --address {host} --channel x", "--channel"),
        ("start-stream --address 10.9.8.7 --channel 1", "cannot reach"),
        ("start-stream --channel 1", "cannot reach"),
        ("start-stream --address {host} --channel", "needs a value"),
        ("start-stream --address {host} --channel 1 --colour red", "unknown option"),
        ("start-stream --address {host} --channel 1 --stream-port {port}", "cannot bind"),
        ("start-save --address {host} --channel 1 --filename x", "not served"),
        ('list "', "quotation"),
        ("list " + "x" * 5000, "too long"),
    ],
)
def test_dlt_errors_are_json(make: Any, command: str, text: str) -> None:
    bench = make()
    answer = bench.ask_dlt(command.format(host=bench.host, port=bench.port))
    assert text in answer["error"]["description"].lower()
    assert bench.ask_dlt("list") == []


def test_one_acquisition_per_channel_and_any_free_port(make: Any) -> None:
    bench = make()
    number = bench.stream(1)
    again = bench.ask_dlt(f"start-stream --address {bench.host} --channel 1")
    assert "already" in again["error"]["description"]
    bench.ask_dlt(f"stop --id {number}")
    with socket.socket() as probe:
        probe.bind((bench.host, 0))
        free = probe.getsockname()[1]
    answer = bench.ask_dlt(f"start-stream --address localhost --channel 1 --stream-port {free}")
    assert "id" in answer


def test_chaos_cuts_messages_between_events(make: Any) -> None:
    bench = make(chaos=True)
    bench.prepare(1)
    bench.stream(1, " --with-ref-index")
    reader = bench.pair(1)
    bench.ask("REC:PLAY")
    clicks = [(1, 100 * k) for k in range(50)]
    bench.step(10, bench.clicks(*clicks))
    bench.ask("REC:STOP")
    sizes, got = [], b""
    while message := reader.recv():
        sizes.append(len(message))
        got += message
    assert len(sizes) > 10
    assert all(size % 16 == 0 for size in sizes)
    expected = [k * BLOCK_PS + t for k in range(10) for _, t in clicks]
    assert words(got)[::2] == expected


def test_hostile_clients_are_survived(make: Any) -> None:
    bench = make()
    for port in (bench.port, bench.dlt_port, bench.stream_port):
        with socket.create_connection((bench.host, port), 5) as client:
            client.sendall(bytes(range(256)) * 64)
        socket.create_connection((bench.host, port), 5).close()
    bench.control.send(bytes(range(256)))
    assert bench.control.recv().startswith(b"error: -10")
    bench.dlt.send(b"\xff\xfe")
    assert "error" in json.loads(bench.dlt.recv())
    big = bench.request(bench.port)
    big.send(b"x" * 1_000_000)  # the twin drops the connection
    big.close()
    bench.prepare(1)
    bench.stream(1)
    reader = bench.pair(1)
    bench.ask("REC:PLAY")
    bench.step(fill=bench.clicks((1, 9)))
    assert words(reader.recv()) == [9]


def test_two_of_a_kind_coexist(make: Any) -> None:
    benches = [make(name=name, serial_number=name) for name in ("alice", "bob")]
    ports = [b.port for b in benches] + [b.dlt_port for b in benches]
    ports += [b.stream_port + n for b in benches for n in range(4)]
    assert len(set(ports)) == 12
    for bench, other in itertools.permutations(benches):
        bench.prepare(1)
        bench.stream(1)
        reader = bench.pair(1)
        bench.ask("REC:PLAY")
        bench.step(fill=bench.clicks((1, 5)))
        assert words(reader.recv()) == [5]
        assert bench.ask("*IDN?") != other.ask("*IDN?")
