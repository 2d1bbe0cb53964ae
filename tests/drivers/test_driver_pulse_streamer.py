"""The Pulse Streamer driver, byte for byte."""

import base64
import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bellbench.drivers.swabian.pulse_streamer import PulseStreamerSettings, SwabianPulseStreamer82
from bellbench.drivers.transports.recording import Recorder, ReplayClock
from bellbench.instruments import (
    Identity,
    InstrumentError,
    InstrumentTimeout,
    Levels,
    PulseSequence,
    PulseSequencer,
)


class Box:
    """A Pulse Streamer's two ports; answers by table, notes what it is sent."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []
        self.uploads: list[bytes] = []
        self.replies: dict[str, Any] = {"getFirmwareVersion": "1.7.2", "getSerial": "00:26:32"}
        self.status = 0
        self.raw: Callable[[bytes], tuple[int, bytes]] | None = None
        box = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, reply = box.answer(self.path, body)
                with contextlib.suppress(OSError):  # who gave up waiting has gone
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(reply)))
                    self.end_headers()
                    self.wfile.write(reply)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.data = socket.create_server(("127.0.0.1", 0))
        self.threads = [
            threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True),
            threading.Thread(target=self.take, daemon=True),
        ]
        for thread in self.threads:
            thread.start()

    @property
    def address(self) -> str:
        ports = self.http.server_port, self.data.getsockname()[1]
        return "http://127.0.0.1:{}?data={}".format(*ports)

    def answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        if self.raw is not None:
            return self.raw(body)
        assert path == "/json-rpc"
        told = json.loads(body)
        assert told.pop("jsonrpc") == "2.0"
        number, method = told.pop("id"), told.pop("method")
        self.calls.append([method, *told.pop("params", [])])
        assert not told
        reply = {"jsonrpc": "2.0", "id": number, "result": self.replies.get(method, 0)}
        return 200, json.dumps(reply).encode()

    def take(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.data.accept()
                with connection, connection.makefile("rb") as file:
                    head = file.read(32)
                    magic, number, _, _, length, _ = struct.unpack("<4I2Q", head)
                    self.uploads.append(head + file.read(length))
                    connection.sendall(struct.pack("<4I2Q", magic, number, self.status, 0, 0, 0))

    def close(self) -> None:
        if not self.threads[0].is_alive():
            return
        self.http.shutdown()
        self.http.server_close()
        with contextlib.suppress(OSError):
            self.data.shutdown(socket.SHUT_RDWR)
        self.data.close()
        for thread in self.threads:
            thread.join(5)


@pytest.fixture
def box() -> Iterator[Box]:
    made = Box()
    yield made
    made.close()


def streamer(address: str, clock: Any, **wanted: Any) -> SwabianPulseStreamer82:
    settings = PulseStreamerSettings(**{"timeout": 2.0, **wanted})
    return SwabianPulseStreamer82("pulses", address, settings, clock)


def sequence(*steps: tuple[int, int, float, float]) -> PulseSequence:
    ns, digital, a0, a1 = zip(*steps, strict=True)
    return PulseSequence(
        np.array(ns, np.int64) * 1000,
        np.array(digital, np.uint32),
        np.array([a0, a1], np.float64).T.copy(),
    )


def test_conversation(box: Box, clock: Any) -> None:
    box.replies |= {
        "getTriggerStart": 1,
        "getClock": 2,
        "isStreaming": True,
        "hasFinished": 0,
        "hasSequence": 1,
        "getTemperature": 45.25,
    }
    with streamer(
        box.address, clock, trigger_source="rising", rearm=False, clock_source="external_125MHz"
    ) as pulses:
        assert isinstance(pulses, PulseSequencer)
        who = Identity("Swabian Instruments", "Pulse Streamer 8/2", "00:26:32", "1.7.2")
        assert pulses.identify() == who
        box.calls.clear()
        pulses.configure()
        assert box.calls == [
            ["selectClock", 1],
            ["getTriggerRearm"],
            ["setTrigger", 2, 0],
            ["getTriggerStart"],
            ["setTrigger", 1, 1],
        ]
        box.calls.clear()
        assert pulses.trigger_source.get() == "software"
        assert pulses.clock_source.get() == "external_10MHz"
        assert pulses.streaming.get() is True
        assert pulses.finished.get() is False
        assert pulses.temperature.get() == 45.25
        assert pulses.ready()
        pulses.start()
        pulses.hold(Levels(0b101, (1.0, -0.5)))
        pulses.off()
        assert box.calls[-3:] == [
            ["startNow"],
            ["constant", [0, 5, 32767, -16384]],
            ["constant", [0, 0, 0, 0]],
        ]


def test_an_upload_byte_for_byte(box: Box, clock: Any) -> None:
    with streamer(box.address, clock) as pulses:
        pulses.stream(
            sequence((16, 1, 0.5, 0.0), (88, 0, 0.5, 0.0), (56, 128, -1.0, 1.0)),
            runs=3,
            final=Levels(2, (0.25, 0.0)),
        )
    # By hand: magic SPIS, call 1, stream; 3 runs, 3 pulses, final 8192, 0, mask 2; the pulses;
    # zeros to a multiple of 32.
    assert box.uploads == [
        bytes.fromhex("53495053 01000000 00000000 00000000 4000000000000000 0000000000000000")
        + bytes.fromhex("0300000000000000 0300000000000000 0020 0000 02 00 00 00 0000000000000000")
        + bytes.fromhex("10000000 01 0040 0000  58000000 00 0040 0000  38000000 80 0180 ff7f")
        + bytes(5)
    ]


def test_endless_and_long_steps(box: Box, clock: Any) -> None:
    with streamer(box.address, clock) as pulses:
        pulses.stream(sequence((2**33, 1, 0.0, 0.0)))
    body = box.uploads[0][32:]
    assert struct.unpack("<qQ", body[:16]) == (-1, 3)
    steps = [struct.unpack_from("<IBhh", body, 32 + 9 * i) for i in range(3)]
    assert sum(step[0] for step in steps) == 2**33
    assert {step[1:] for step in steps} == {(1, 0, 0)}


def test_firmware_without_a_binary_port_is_sent_json(box: Box, clock: Any) -> None:
    box.replies["getFirmwareVersion"] = "1.0.4"
    with streamer(box.address, clock) as pulses:
        pulses.identify()
        assert ["getSerial", 1] in box.calls
        pulses.stream(sequence((16, 1, 0.5, 0.0)), runs=7)
    text = base64.b64encode(bytes.fromhex("00000010 01 4000 0000")).decode()
    assert box.calls[-1] == ["stream", text, 7, [0, 0, 0, 0]]
    assert not box.uploads


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([(12, 0, 0.0, 0.0)], "12 ns is no multiple of 8 ns"),
        ([(12, 0, 0.0, 0.0), (4, 0, 0.5, 0.0)], "changes at 12 ns, off its grid"),
        ([(8, 256, 0.0, 0.0)], "beyond 7"),
        ([(8, 0, 1.1, 0.0)], "-1 V to 1 V"),
    ],
)
def test_what_it_cannot_play(box: Box, clock: Any, steps: list[Any], words: str) -> None:
    with streamer(box.address, clock) as pulses:
        with pytest.raises(InstrumentError, match=words):
            pulses.stream(sequence(*steps))
        assert not box.uploads


def test_other_refusals_of_its_own(box: Box, clock: Any) -> None:
    good = sequence((8, 1, 0.0, 0.0))
    with streamer(box.address, clock) as pulses:
        for runs in (0, -1, 2.5, True):
            with pytest.raises(InstrumentError, match="1 to 2"):
                pulses.stream(good, runs=runs)  # type: ignore[arg-type]
        with pytest.raises(InstrumentError, match="two analog outputs"):
            pulses.stream(good, final=Levels(0, (0.0,)))
        with pytest.raises(InstrumentError, match="0x100: it has digital outputs 0 to 7"):
            pulses.hold(Levels(256))
        odd = PulseSequence(np.array([8500]), good.digital, good.analog_v)
        with pytest.raises(InstrumentError, match="whole number of nanoseconds"):
            pulses.stream(odd)
        with pytest.raises(InstrumentError, match="it takes immediate, software, rising"):
            pulses.trigger_source.set("line")
        with pytest.raises(InstrumentError, match="'immediate'; sent 'startNow'"):
            pulses.start()
        box.replies["getTriggerStart"] = 1
        with pytest.raises(InstrumentError, match=r"no sequence to start.*stream\(\) one first"):
            pulses.start()
        assert not box.uploads


def test_its_refusals_are_told(box: Box, clock: Any) -> None:
    with streamer(box.address, clock) as pulses:
        box.status = 1
        with pytest.raises(InstrumentError, match=r"pulses .*refused the sequence, status 1"):
            pulses.stream(sequence((8, 1, 0.0, 0.0)))

        def refuse(body: bytes) -> tuple[int, bytes]:
            told = {"code": -32601, "message": "Method not found"}
            return 200, json.dumps({"jsonrpc": "2.0", "id": 9, "error": told}).encode()

        box.raw = refuse
        with pytest.raises(InstrumentError, match=r"Method not found \(-32601\).*isStreaming.*upd"):
            pulses.streaming.get()


@pytest.mark.parametrize(
    ("status", "reply", "words"),
    [
        (404, b"", "HTTP status 404"),
        (200, b"<html>", "not JSON"),
        (200, b"[]", "a JSON-RPC reply expected"),
        (200, b'{"id": 99, "result": 1}', "the reply is to call 99"),
        (200, b'{"id": 2, "result": 7}', "a number from 0 to 1 expected"),
        (200, b'{"id": 2, "result": "x"}', "a number from 0 to 1 expected"),
        (200, b" " * (1 << 21), "a reply longer than"),
    ],
)
def test_nonsense(box: Box, clock: Any, status: int, reply: bytes, words: str) -> None:
    with streamer(box.address, clock) as pulses:
        box.raw = lambda body: (status, reply)
        with pytest.raises(InstrumentError, match=words):
            pulses.streaming.get()


def test_silence_is_a_timeout(box: Box, clock: Any) -> None:
    go_on = threading.Event()

    def wait(body: bytes) -> tuple[int, bytes]:
        go_on.wait(10)
        return 200, b"{}"

    with streamer(box.address, clock, timeout=0.2) as pulses:
        box.raw = wait
        with pytest.raises(InstrumentTimeout, match=r"no answer within 0.2 s.*isStreaming"):
            pulses.streaming.get()
        go_on.set()


def test_nobody_there(nobody: int, clock: Any) -> None:
    pulses = streamer(f"http://127.0.0.1:{nobody}", clock)
    with pytest.raises(InstrumentError, match="refuses the connection"):
        pulses.open()
    with pytest.raises(InstrumentError, match="not open"):
        pulses.streaming.get()
    with pytest.raises(InstrumentError, match="not open"):
        pulses.stream(sequence((8, 1, 0.0, 0.0)))


def test_two_threads_share_it(box: Box, clock: Any, together: Any) -> None:
    box.replies |= {"getTemperature": 45.0, "getClock": 1}
    with streamer(box.address, clock) as pulses:

        def read() -> None:
            for _ in range(20):
                assert pulses.temperature.get() == 45.0

        def other() -> None:
            for _ in range(20):
                assert pulses.clock_source.get() == "external_125MHz"

        together(read, other, read)


@pytest.mark.parametrize(
    ("durations", "digital", "analog", "words"),
    [
        (np.array([8000]), np.array([1], np.int64), np.zeros((1, 2)), "uint32"),
        (np.array([8000]), np.array([1, 2], np.uint32), np.zeros((1, 2)), "differ in steps"),
        (np.array([0]), np.array([1], np.uint32), np.zeros((1, 2)), "takes time"),
        (np.array([1]), np.array([1], np.uint32), np.full((1, 2), np.nan), "finite"),
        (np.empty(0, np.int64), np.empty(0, np.uint32), np.zeros((0, 2)), "at least one"),
        (np.array([1]), np.array([1], np.uint32), np.zeros(1), "not"),
    ],
)
def test_a_sequence_is_checked(durations: Any, digital: Any, analog: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PulseSequence(durations, digital, analog)


def test_a_recording_of_both_ports_replays(box: Box, clock: Any, tmp_path: Path) -> None:
    box.replies |= {"isStreaming": 1, "getTemperature": 44.5}
    file = tmp_path / "pulses.jsonl"

    def work(pulses: SwabianPulseStreamer82, volts: float = 0.5) -> None:
        with pulses:
            pulses.stream(sequence((16, 1, volts, 0.0), (88, 0, 0.0, 0.0)), runs=4)
            assert pulses.streaming.get() is True
            assert pulses.temperature.get() == 44.5

    pulses = streamer(box.address, clock)
    told = {"pulses": ("swabian.pulse_streamer", box.address)}
    recorder = Recorder(file, clock, told)
    pulses.record(recorder)
    work(pulses)
    recorder.close()
    box.close()
    work(streamer(f"replay://{file}#pulses", ReplayClock()))
    with pytest.raises(InstrumentError, match="the recording sends"):
        work(streamer(f"replay://{file}#pulses", ReplayClock()), volts=0.6)
