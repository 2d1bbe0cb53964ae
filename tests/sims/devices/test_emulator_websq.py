"""The WebSQ twin on its own wire: golden conversation, counts in world time, scans, strictness."""

import itertools
import json
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from bellbench.sims.devices.websq import WebSQEmulator
from bellbench.sims.elements import SnspdArray, SnspdModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LABELS = b'{"request": "labelProps", "value": "None"}'


class Client:
    def __init__(self, host: str, port: str) -> None:
        self.socket = socket.create_connection((host, int(port)), 10)
        self.buffer = b""

    def send(self, text: bytes | dict[str, Any]) -> None:
        self.socket.sendall(text if isinstance(text, bytes) else json.dumps(text).encode())

    def until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            data = self.socket.recv(4096)
            assert data, self.buffer
            self.buffer += data
        found, _, self.buffer = self.buffer.partition(end)
        return found

    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.until(b"\x17"))
        return found

    def label(self, name: str) -> Any:
        while (message := self.message())["label"] != name:
            pass
        return message["value"]


class Bench:
    def __init__(self, stage: Any, **kwargs: Any) -> None:
        detectors = [{"switching_current": 22e-6} for _ in range(4)]
        model = SnspdModel.model_validate({"kind": "snspd", "detectors": detectors})
        self.stage = stage
        self.array = SnspdArray(model)
        self.twin = WebSQEmulator(
            stage.setting(), self.array, WebSQEmulator.Settings.model_validate(kwargs)
        )
        address = stage.open(self.twin)
        assert address.startswith("tcp://")
        where, _, self.counts_port = address.removeprefix("tcp://").partition("?counts=")
        self.host, _, self.control_port = where.partition(":")
        self.clients: list[Client] = []

    def control(self) -> Client:
        self.clients.append(Client(self.host, self.control_port))
        return self.clients[-1]

    def counts(self) -> Client:
        client = Client(self.host, self.counts_port)
        self.clients.append(client)
        while not self.stage.call(lambda: bool(self.twin._feed.links)):
            pass
        return client

    def step(self, blocks: int, fill: Any = None) -> None:
        self.stage.step(self.twin, blocks, fill)

    def light(self, begin: int, end: int) -> None:
        """Ten counts per block and uA while superconducting; detector n gives n times that."""
        bias = np.array(self.array.bias_a) * 1e6
        rate = np.where(bias < 22, 10 * bias, 0) * np.arange(1, 5)
        self.array.counts = np.rint(rate).astype(np.int64) * self.array.enabled

    def close(self) -> None:
        for client in self.clients:
            client.socket.close()


@pytest.fixture
def bench(stage: Any) -> Iterator[Bench]:
    found = Bench(stage)
    yield found
    found.close()


def test_the_golden_conversation(bench: Bench) -> None:
    client = bench.control()
    client.send(LABELS)
    assert client.until(b"\x17") == b'{"label":"NumberOfDetectors","value":{"value":4}}'
    golden = b'{"label":"BiasCurrent","value":{"value":[0,0,0,0],"unit":"uA"}}'
    assert client.until(b"\x17") == golden
    client.send(
        b'{"command":"SetAllBiasCurrents","label":"BiasCurrent","value":[12.0,8.0,3.0,8.0]}'
    )
    while (line := client.until(b"\x17")).startswith(b'{"label":"BiasCurrent"') is False:
        pass
    assert line == b'{"label":"BiasCurrent","value":[12.0,8.0,3.0,8.0]}'


def test_a_change_is_told_to_every_client_and_reaches_the_wires_at_the_next_block(
    bench: Bench,
) -> None:
    one, two = bench.control(), bench.control()
    two.send(LABELS)
    two.label("IVScanEnable")
    one.send({"command": "DetectorEnable", "label": "DetectorEnable", "value": True})
    one.send({"command": "SetAllBiasCurrents", "label": "BiasCurrent", "value": [18.0, 17.0, 0, 5]})
    assert two.label("DetectorEnable") is True
    assert two.label("BiasCurrent") == [18.0, 17.0, 0, 5]
    before = bench.array.enabled
    bench.step(1)
    assert (before, bench.array.enabled) == (False, True)
    assert bench.array.bias_a == pytest.approx([18e-6, 17e-6, 0, 5e-6])


def test_counts_are_summed_over_the_measurement_period(bench: Bench) -> None:
    control, counts = bench.control(), bench.counts()
    before = bench.array.counting
    control.send({"command": "SetMeasurementPeriod", "label": "InptMeasurementPeriod", "value": 50})
    assert control.label("InptMeasurementPeriod") == 50

    def fill(begin: int, end: int) -> None:
        bench.array.counts = np.array([1, 2, 3, 4])

    bench.step(10, fill)
    assert (before, bench.array.counting) == (False, True)
    first = counts.until(b"\n").split(b",")
    assert first[1:] == [b"5", b"10", b"15", b"20"]
    second = counts.until(b"\n").split(b",")
    assert float(second[0]) - float(first[0]) == pytest.approx(0.05, abs=2e-3)


def test_nobody_listens_so_nothing_is_counted(bench: Bench) -> None:
    client = bench.counts()
    bench.step(1)
    assert bench.array.counting
    client.socket.close()
    while bench.stage.call(lambda: bool(bench.twin._feed.links)):
        pass
    bench.step(1)
    assert not bench.array.counting


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"command": "SetAllBiasCurrents", "value": [100.0, 0, 0, 0]}, "100.0 is out of range"),
        ({"command": "SetAllBiasCurrents", "value": [1.0]}, "a list of 4 numbers"),
        ({"command": "SetAllBiasCurrents", "value": [True, 0, 0, 0]}, "a number is expected"),
        ({"command": "SetMeasurementPeriod", "value": 5}, "10 ms or more"),
        ({"command": "DetectorEnable", "value": "on"}, "true or false"),
        ({"command": "IVScanEnable", "value": True}, "enable the detectors first"),
        ({"command": "Fly"}, "unknown command"),
        ({"request": "Moon"}, "unknown request"),
        ({"hello": 1}, "a request, a command"),
        (b'{"command":"SetAllBiasCurrents","value":[NaN,0,0,0]}', "out of range"),
        (b"[1, 2]", "not a JSON object"),
        (b"garbage", "not a JSON object"),
    ],
)
def test_what_the_server_refuses_is_told_in_a_label_error(
    bench: Bench, request_: Any, words: str
) -> None:
    client = bench.control()
    client.send(request_)
    message = client.message()
    assert "Error" in message["label"]
    assert words in message["value"]
    client.send(LABELS)  # and the server goes on
    assert client.label("NumberOfDetectors") == {"value": 4}


def test_a_scan_counts_at_every_current_and_shows_where_wires_go_normal(bench: Bench) -> None:
    client = bench.control()
    client.send({"command": "DetectorEnable", "value": True})
    client.send({"command": "SetMeasurementPeriod", "value": 10})
    for label, value in (("Start", 5), ("End", 25), ("Increment", 5)):
        client.send({"label": f"IVScan{label}", "value": value})
    client.send({"command": "IVScanEnable", "label": "IVScanEnable", "value": True})
    assert client.label("IVScanEnable") is True
    bench.step(6, bench.light)
    assert client.label("IVScanEnable") is False
    client.send({"request": "IVHistory"})
    rows = client.label("ic_scan_history")
    assert [row["biasCurrent"] for row in rows] == [5, 10, 15, 20, 25]
    assert [row["y2"] for row in rows] == [100, 200, 300, 400, 0]
    volts = [row["v1"] for row in client.label("iv_scan_history")]
    assert volts[:4] == [0, 0, 0, 0]
    assert volts[4] > 0


def test_a_latched_wire_shows_a_voltage_until_its_bias_has_been_low(bench: Bench) -> None:
    client = bench.control()

    def bias(*current_ua: float) -> Any:
        """Set one after the other in a block; the voltages after it, mV, as told to clients."""
        for one in current_ua:
            values = [one, 18.0, 0.0, 0.0]
            client.send({"command": "SetAllBiasCurrents", "value": values})
            while client.label("BiasCurrent") != values:
                pass
        bench.step(1)
        client.send({"request": "BiasVoltage"})
        client.send({"request": "StartAutoIV"})  # what is answered before is old or the answer
        told = {}
        while "StartAutoIV" not in told:
            message = client.message()
            told[message["label"]] = message["value"]
        return told["BiasVoltage"]

    client.send({"command": "DetectorEnable", "value": True})
    assert bias(18.0) == [0, 0, 0, 0]
    assert bias(23.0) == pytest.approx([230, 0, 0, 0])  # 10 kOhm in series
    assert bench.array.normal() == (True, False, False, False)
    assert bias(18.0) == pytest.approx([180, 0, 0, 0])  # it stays latched
    assert bench.array.efficiencies().tolist() == pytest.approx([0, 0.9, 0, 0])
    assert bias(0.0, 18.0) == [0, 0, 0, 0]  # zero for less than a block is enough
    assert bench.array.efficiencies()[0] == pytest.approx(0.9)
    assert bias(23.0)[0] == pytest.approx(230)
    for on in (False, True):
        client.send({"command": "DetectorEnable", "value": on})
        while client.label("DetectorEnable") is not on:
            pass
    assert bias(18.0) == [0, 0, 0, 0]


def test_a_scan_leaves_no_wire_latched(bench: Bench) -> None:
    client = bench.control()
    client.send({"command": "DetectorEnable", "value": True})
    client.send({"command": "SetMeasurementPeriod", "value": 10})
    client.send({"command": "SetAllBiasCurrents", "value": [18.0] * 4})
    for label, value in (("Start", 20), ("End", 24), ("Increment", 1)):
        client.send({"label": f"IVScan{label}", "value": value})
    client.send({"command": "IVScanEnable", "value": True})
    assert client.label("IVScanEnable") is True
    bench.step(5, bench.light)
    assert client.label("IVScanEnable") is False
    assert bench.array.normal() == (True,) * 4
    bench.step(1)
    assert bench.array.bias_a == pytest.approx([18e-6] * 4)
    assert bench.array.normal() == (False,) * 4


def test_a_trigger_level_above_the_pulses_sees_none(bench: Bench) -> None:
    model = {"kind": "snspd", "detectors": [{"pulse_height": 0.3}, {"pulse_height": 0.08}, {}]}
    array = SnspdArray(SnspdModel.model_validate(model))
    array.enabled, array.bias_a = True, [18e-6] * 3
    assert array.efficiencies().tolist() == pytest.approx([0.9, 0, 0.9])  # at 100 mV
    assert array.dark_rates()[1] == 0
    array.trigger_v = [-0.4, 0.05, 1.0]
    assert array.efficiencies().tolist() == pytest.approx([0, 0.9, 0.9])


def test_auto_bias_stops_where_the_dark_counts_pass_the_wish(bench: Bench) -> None:
    client = bench.control()
    client.send({"command": "DetectorEnable", "value": True})
    client.send({"command": "SetMeasurementPeriod", "value": 10})
    # detector n counts 1000 n per second and uA
    wish = [10_000, 10_000, 30_000, 1e8]
    client.send({"command": "DarkCountsAutoIV", "label": "DarkCountsAutoIV", "value": wish})
    client.send({"command": "AutoCaliBiasCurrents", "value": True})
    assert client.label("StartAutoIV") is True
    bench.step(61, bench.light)
    assert client.label("StartAutoIV") is False
    client.send({"request": "BiasCurrentAutoIV"})
    assert client.label("BiasCurrentAutoIV") == [10.0, 5.0, 10.0, 21.5]


def test_temperatures_have_a_history(bench: Bench) -> None:
    client = bench.control()
    bench.step(350)
    client.send({"request": "TemperatureHistory"})
    history = client.label("temperature_long_memory")
    assert len(history["x"]) == len(history["T"]) == len(history["T2"]) == 4
    assert history["T"][0] == pytest.approx(2.5, abs=0.05)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 120), max_size=6))
def test_any_split_of_the_requests_gives_the_same_answers(bench: Bench, cuts: list[int]) -> None:
    client = bench.control()
    stream = b'{"request":"StartAutoIV"} {"request":"Moon"}{"request":"BiasCurrent"}\n' * 2
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for begin, end in itertools.pairwise(edges):
        client.send(stream[begin:end])
    labels = [client.message()["label"] for _ in range(6)]
    assert labels == ["StartAutoIV", "Error", "BiasCurrent"] * 2
    client.socket.close()


def test_an_endless_request_is_cut_off(bench: Bench) -> None:
    bench.stage.flood((bench.host, int(bench.control_port)), b'{"request": "' + b"x" * 200_000)


def test_chaos_splits_and_glues_but_keeps_the_meaning(stage: Any) -> None:
    bench = Bench(stage, chaos=True)
    client = bench.control()
    client.send(LABELS)
    found, decoder, text = [], json.JSONDecoder(), ""
    while "IVScanEnable" not in found:
        text += client.until(b"\x17").decode()
        while text:
            message, end = decoder.raw_decode(text)
            found.append(message["label"])
            text = text[end:]
    assert found[:2] == ["NumberOfDetectors", "BiasCurrent"]
    bench.close()
