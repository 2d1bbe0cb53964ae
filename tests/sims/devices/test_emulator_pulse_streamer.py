"""The twin of a Pulse Streamer, spoken to with plain HTTP and plain bytes."""

import base64
import http.client
import json
import struct
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from bellbench.sims.devices.pulse_streamer import PulseStreamerEmulator
from bellbench.sims.elements.sequencer import PulseSequencer, PulseSequencerModel

BLOCK_PS = 10_000_000_000


class Client:
    def __init__(self, stage: Any, **settings: Any) -> None:
        self.element = PulseSequencer(PulseSequencerModel(kind="pulse_sequencer"))
        made = PulseStreamerEmulator.Settings(**settings)
        self.emulator = PulseStreamerEmulator(stage.setting(), self.element, made)
        address = urlsplit(stage.open(self.emulator))
        assert address.path == "/json-rpc"
        self.where = str(address.hostname), int(str(address.port))
        self.data = str(address.hostname), int(parse_qs(address.query)["data"][0])
        self.stage = stage

    def post(self, body: bytes, path: str = "/json-rpc", method: str = "POST") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*self.where, timeout=10)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def call(self, method: str, *parameters: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 5, "method": method, "params": parameters}
        status, reply = self.post(json.dumps(body).encode())
        assert status == 200
        told = json.loads(reply)
        assert told["jsonrpc"] == "2.0"
        assert told["id"] == 5
        return told.get("error", told.get("result"))

    def stream(self, *steps: tuple[int, int, int, int], runs: int = -1, final: Any = None) -> Any:
        text = base64.b64encode(b"".join(struct.pack(">IBhh", *step) for step in steps)).decode()
        return self.call("stream", text, runs, final or [0, 0, 0, 0])

    def upload(self, *steps: tuple[int, int, int, int], runs: int = -1, **odd: Any) -> bytes:
        data = b"".join(struct.pack("<IBhh", *step) for step in steps)
        pad = 32 - len(data) % 32
        body = struct.pack("<qQ2h4BQ", runs, odd.get("n", len(steps)), 0, 0, 0, 0, 0, 0, 0)
        body += data + bytes(pad)
        magic, command = odd.get("magic", 0x53504953), odd.get("command", 0)
        head = struct.pack("<4I2Q", magic, 77, command, 0, len(body), 0)
        found: bytes = self.stage.converse(self.data, [head + body[:10], body[10:]], 32)
        return found

    def step(self, blocks: int = 1) -> None:
        self.stage.step(self.emulator, blocks)

    def edges(self, output: int) -> list[int]:
        begin = self.stage.now_ps
        times, _ = self.element.edges(output, begin - BLOCK_PS, begin)
        return [int(t) - begin + BLOCK_PS for t in times[:3]]


def test_who_it_is(stage: Any) -> None:
    client = Client(stage, chaos=True)
    assert client.call("getSerial") == "00:26:32:f0:09:7b"
    assert client.call("getSerial", 1) == "00:26:32:f0:09:7b"
    assert client.call("getFirmwareVersion") == "1.7.2"
    assert 40 < client.call("getTemperature") < 50
    assert client.call("getUnderflow") == 0


def test_a_sequence_begins_with_the_next_block(stage: Any) -> None:
    client = Client(stage, chaos=True)
    assert client.stream((10, 1, 0x7FFF, -0x7FFF), (90, 0, 0, 0), (4, 2, 0, 0)) == 0
    assert client.call("isStreaming") is True  # as its display shows
    client.step()
    assert client.edges(0) == [0, 104_000, 208_000]
    assert client.edges(1) == [100_000, 204_000, 308_000]
    assert client.element.program.analog_v[0].tolist() == [1.0, -1.0]
    client.step()
    first = -(-BLOCK_PS // 104_000) * 104_000 - BLOCK_PS
    assert client.edges(0)[0] == first
    client.call("constant", [0, 3, 0, 0])
    assert client.call("isStreaming") is False
    assert client.call("hasSequence") is False
    client.step(2)
    assert client.edges(0) == []


def test_runs_end_and_rearm(stage: Any) -> None:
    client = Client(stage)
    assert client.call("setTrigger", 1, 0) == 0
    client.stream((5_000_000, 1, 0, 0), (5_000_000, 0, 0, 0), runs=2, final=[0, 4, 0, 0])
    assert client.call("isStreaming") is False
    assert client.call("hasSequence") is True
    client.step()
    assert client.edges(0) == []
    client.call("startNow")
    client.step()
    assert client.edges(0) == [0]
    assert client.call("isStreaming") is True
    assert client.call("hasFinished") is False
    client.step()
    assert client.edges(0) == [0]
    assert client.call("isStreaming") is False
    assert client.call("hasFinished") is True
    client.step()
    assert client.edges(2) == [0]  # the final state
    client.call("startNow")  # it has rearmed by itself
    client.step()
    assert client.edges(0) == [0]


def test_manual_rearm_and_force_final(stage: Any) -> None:
    client = Client(stage)
    client.call("setTrigger", 1, 1)
    client.stream((8, 1, 0, 0), (8, 0, 0, 0), final=[0, 8, 0, 0])
    client.call("startNow")
    client.step()
    assert client.edges(0) == [0, 16_000, 32_000]
    client.call("forceFinal")
    client.step()
    assert client.edges(0) == []
    assert client.edges(3) == [0]
    assert client.call("hasFinished") is True
    client.call("startNow")
    client.step()
    assert client.edges(0) == []
    assert client.call("rearm") is True
    client.call("startNow")
    client.step()
    assert client.edges(0) == [0, 16_000, 32_000]


def test_an_external_trigger_never_comes(stage: Any) -> None:
    client = Client(stage)
    client.call("setTrigger", 2, 0)
    client.stream((8, 1, 0, 0), (8, 0, 0, 0))
    client.call("startNow")
    client.step()
    assert client.edges(0) == []
    assert client.call("isStreaming") is False


def test_the_binary_port(stage: Any) -> None:
    client = Client(stage, chaos=True)
    reply = client.upload((10, 1, 0, 0), (90, 0, 0, 0))
    assert struct.unpack("<4I2Q", reply) == (0x53504953, 77, 0, 0, 0, 0)
    client.step()
    # 100 ns are filled up to 104 with the last step
    assert client.edges(0) == [0, 104_000, 208_000]
    for refused in ({"command": 0x100}, {"n": 40}, {"n": 0}, {"runs": 0}, {"runs": -2}):
        reply = client.upload((8, 1, 0, 0), **refused)
        assert struct.unpack("<4I2Q", reply)[:3] == (0x53504953, 77, 1)
    assert client.call("isStreaming") is True  # what was refused has changed nothing
    stage.flood(client.data, struct.pack("<4I2Q", 1, 1, 0, 0, 64, 0))


@pytest.mark.parametrize(
    ("method", "parameters", "code"),
    [
        ("noSuch", [], -32601),
        ("setSquareWave125MHz", [1], -32601),
        ("getClock", [1], -32602),
        ("constant", [], -32602),
        ("constant", [[0, 256, 0, 0]], -32602),
        ("constant", [[0, 1, 40_000, 0]], -32602),
        ("constant", [[0, 1, 0.5, 0]], -32602),
        ("constant", [7], -32602),
        ("setTrigger", [5, 0], -32602),
        ("setTrigger", ["software"], -32602),
        ("selectClock", [3], -32602),
        ("stream", ["", -1, [0, 0, 0, 0]], -32602),
        ("stream", ["AAAA", -1, [0, 0, 0, 0]], -32602),
        ("stream", ["%%%%", -1, [0, 0, 0, 0]], -32602),
        ("stream", [3, -1, [0, 0, 0, 0]], -32602),
        ("stream", ["AAAAAAAAAAAA", -1, [0, 0, 0, 0]], -32602),  # no time
        ("stream", ["AAAACAAAAAAA", 0, [0, 0, 0, 0]], -32602),
        ("stream", ["AAAACAAAAAAA", -1], -32602),
    ],
)
def test_refusals(stage: Any, method: str, parameters: list[Any], code: int) -> None:
    client = Client(stage)
    assert client.call(method, *parameters)["code"] == code
    assert client.call("isStreaming") is False


def test_too_many_steps(stage: Any) -> None:
    client = Client(stage)
    step = struct.pack(">IBhh", 8, 1, 0, 0)
    most = base64.b64encode(step * 2_000_000).decode()
    assert client.call("stream", most, -1, [0, 0, 0, 0]) == 0
    more = base64.b64encode(step * 2_000_001).decode()
    assert client.call("stream", more, -1, [0, 0, 0, 0])["code"] == -32602


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", -32700), (b"[]", -32600), (b'{"method": "getClock", "id": 1}', -32600)],
)
def test_what_is_no_call(stage: Any, body: bytes, code: int) -> None:
    status, reply = Client(stage).post(body)
    assert status == 200
    assert json.loads(reply)["error"]["code"] == code


def test_what_is_no_post(stage: Any) -> None:
    client = Client(stage)
    assert client.post(b"", "/")[0] == 404
    assert client.post(b"", method="GET")[0] == 405
    stage.flood(client.where, b"x" * 200_000)
    stage.flood(client.where, b"what\r\n\r\n")
    stage.flood(client.where, b"POST /json-rpc HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n")
    connection = http.client.HTTPConnection(*client.where, timeout=10)
    for _ in range(2):  # kept alive
        call = b'{"jsonrpc": "2.0", "id": 1, "method": "getClock"}'
        connection.request("POST", "/json-rpc", call)
        assert json.loads(connection.getresponse().read())["result"] == 0
    connection.close()
