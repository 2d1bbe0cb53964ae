"""The WebSQ driver, byte for byte, with everything a stream socket can do to messages."""

import json
from typing import Any

import pytest
from bellbench.drivers.single_quantum.websq import SingleQuantumWebSQ, WebSQSettings
from bellbench.instruments import InstrumentError, InstrumentTimeout

ETB = b"\x17"
ASK = b'{"request": "labelProps", "value": "None"}'
LABELS = {
    "NumberOfDetectors": 4,
    "BiasCurrent": [0, 0, 0, 0],
    "TriggerLevel": [100, 100, 100, 100],
    "DetectorEnable": False,
    "InptMeasurementPeriod": 100,
    "temperature_long_memory": {"T": [2.5]},
}


def props(**changed: Any) -> bytes:
    told = [
        json.dumps({"label": label, "value": {"value": value, "unit": "any"}}).encode()
        for label, value in (LABELS | changed).items()
    ]
    return ETB.join(told) + ETB


def told(label: str, value: Any) -> bytes:
    return json.dumps({"label": label, "value": value}).encode() + ETB


def electronics(
    control: Any, clock: Any, counts: int = 1, timeout: float = 0.3, **settings: Any
) -> SingleQuantumWebSQ:
    address = f"tcp://127.0.0.1:{control.port}?counts={counts}"
    chosen = WebSQSettings(timeout=timeout, **settings)
    return SingleQuantumWebSQ("snspd", address, chosen, clock)


BIASES = b'{"command":"SetAllBiasCurrents","label":"BiasCurrent","value":[12.0,8.0,3.0,8.0]}'


def test_golden_conversation(script: Any, clock: Any) -> None:
    server = script((ASK, props()), (BIASES, told("BiasCurrent", [12.0, 8.0, 3.0, 8.0])))
    device = electronics(server, clock, bias_currents=("12 uA", "8 uA", "3 uA", "8 uA"))
    with device:
        assert device.detectors == 4
        assert [signal.get() for signal in device.bias_currents] == [0.0] * 4
        device.configure()
        read = [signal.get() for signal in device.bias_currents]
        assert read == pytest.approx([12e-6, 8e-6, 3e-6, 8e-6])
        assert device.identify().vendor == "Single Quantum"
        assert device.ready()


def test_every_setting(script: Any, clock: Any) -> None:
    server = script(
        (ASK, props()),
        (
            b'{"command":"SetMeasurementPeriod","label":"InptMeasurementPeriod","value":200}',
            told("InptMeasurementPeriod", 200),
        ),
        (
            b'{"command":"SetAllTriggerLevels","label":"TriggerLevel","value":[150.0,-150.0,'
            b"100.0,100.0]}",
            told("TriggerLevel", [150, -150, 100, 100]),
        ),
        (
            b'{"command":"SetAllBiasCurrents","label":"BiasCurrent","value":[1.0,2.0,3.0,4.0]}',
            told("BiasCurrent", [1, 2, 3, 4]),
        ),
        (
            b'{"command":"DetectorEnable","label":"DetectorEnable","value":true}',
            told("DetectorEnable", True),
        ),
        # one element: the list is written whole
        (
            b'{"command":"SetAllBiasCurrents","label":"BiasCurrent","value":[1.0,2.5,3.0,4.0]}',
            told("BiasCurrent", [1, 2.5, 3, 4]),
        ),
        # safe
        (
            b'{"command":"SetAllBiasCurrents","label":"BiasCurrent","value":[0.0,0.0,0.0,0.0]}',
            told("BiasCurrent", [0, 0, 0, 0]),
        ),
        (
            b'{"command":"DetectorEnable","label":"DetectorEnable","value":false}',
            told("DetectorEnable", False),
        ),
    )
    device = electronics(
        server,
        clock,
        measurement_period="200 ms",
        trigger_levels=("150 mV", "-150 mV", "0.1 V", "0.1 V"),
        bias_currents=(1e-6, 2e-6, 3e-6, 4e-6),
        enabled=True,
    )
    with device:
        device.configure()
        assert device.measurement_period.get() == pytest.approx(0.2)
        assert device.trigger_levels[1].get() == pytest.approx(-0.15)
        assert device.enabled.get() is True
        device.bias_currents[1].set(2.5e-6)
        assert device.bias_currents[1].get() == pytest.approx(2.5e-6)
        device.off()
        device.safe()
        assert device.enabled.get() is False


def test_split_and_glued_messages(script: Any, clock: Any) -> None:
    whole = props().replace(ETB, b"", 2)  # two messages glued `}{`
    pieces = [whole[i : i + 7] for i in range(0, len(whole), 7)]
    server = script((ASK, pieces))
    with electronics(server, clock) as device:
        assert device.trigger_levels[0].get() == pytest.approx(0.1)


def test_a_split_character(script: Any, clock: Any) -> None:
    text = '{"label":"note","value":"12 µA"}'.encode() + ETB
    cut = text.index("µ".encode()) + 1
    server = script((ASK, [text[:cut], text[cut:] + props()]))
    with electronics(server, clock) as device:
        assert device.detectors == 4


def test_broadcasts_of_others_are_heard(script: Any, clock: Any) -> None:
    enable = b'{"command":"DetectorEnable","label":"DetectorEnable","value":true}'
    news = told("BiasCurrent", [1, 1, 1, 1]) + told("TriggerLevel", [9, 9, 9, 9])
    server = script((ASK, props()), (enable, news + told("DetectorEnable", True)))
    with electronics(server, clock) as device:
        device.enabled.set(True)
        assert device.bias_currents[3].get() == pytest.approx(1e-6)
        assert device.trigger_levels[3].get() == pytest.approx(9e-3)


def test_an_error_label_is_a_refusal(script: Any, clock: Any) -> None:
    server = script((ASK, props()), (BIASES, told("Error", "Bias current out of range")))
    with electronics(server, clock, bias_currents=(12e-6, 8e-6, 3e-6, 8e-6)) as device:
        with pytest.raises(InstrumentError, match=r"SetAllBias.*Bias current out of range"):
            device.configure()
        assert device.bias_currents[0].get() == 0.0


def test_silence_after_a_set(script: Any, clock: Any) -> None:
    enable = b'{"command":"DetectorEnable","label":"DetectorEnable","value":true}'
    disable = enable.replace(b"true", b"false")
    server = script((ASK, props()), (enable, b""), (disable, b""))
    with electronics(server, clock) as device:
        with pytest.raises(InstrumentTimeout, match="no broadcast of DetectorEnable"):
            device.enabled.set(True)
        device.enabled.set(False)  # it is so already: no broadcast needed


def test_labels_that_never_come(script: Any, clock: Any) -> None:
    server = script((ASK, told("NumberOfDetectors", 4)))
    with pytest.raises(InstrumentTimeout, match="labelProps"):
        electronics(server, clock).open()


def test_another_number_of_detectors(script: Any, clock: Any) -> None:
    server = script((ASK, props(NumberOfDetectors=8, BiasCurrent=[0] * 8, TriggerLevel=[0] * 8)))
    with pytest.raises(InstrumentError, match=r"have 8 detectors.*detectors: 8"):
        electronics(server, clock).open()


@pytest.mark.parametrize(
    "nonsense",
    [b"{not json}" + ETB, b"[1]" + ETB, b"\xff" + ETB, told("BiasCurrent", [1, 2])],
)
def test_nonsense_breaks_the_connection(script: Any, clock: Any, nonsense: bytes) -> None:
    enable = b'{"command":"DetectorEnable","label":"DetectorEnable","value":true}'
    server = script((ASK, props()), (enable, nonsense))
    with electronics(server, clock) as device:
        for _ in range(2):  # and it stays said
            with pytest.raises(InstrumentError, match=r"not JSON|makes no sense"):
                device.enabled.set(True)


def test_a_lost_connection_and_opening_again(script: Any, clock: Any) -> None:
    enable = b'{"command":"DetectorEnable","label":"DetectorEnable","value":true}'
    server = script((ASK, props()))
    with electronics(server, clock) as device:
        server.drop()
        with device._news:
            assert device._news.wait_for(lambda: device._broken is not None, 5.0)
        with pytest.raises(InstrumentError, match="closed the connection"):
            device.enabled.get()
        server.extend((ASK, props()), (enable, told("DetectorEnable", True)))
        device.open()
        device.enabled.set(True)
        assert device.enabled.get() is True
    with pytest.raises(InstrumentError, match="not open"):
        device.enabled.get()


def test_refused_connection(nobody: int, clock: Any) -> None:
    chosen = WebSQSettings()
    device = SingleQuantumWebSQ("snspd", f"tcp://127.0.0.1:{nobody}", chosen, clock)
    with pytest.raises(InstrumentError, match="refuses the connection"):
        device.open()


@pytest.mark.parametrize(
    "address", ["192.168.1.1", "tcp://", "tcp://h:1?count=2", "tcp://h:1?counts=x", "tcp://h:x"]
)
def test_wrong_addresses(address: str, clock: Any) -> None:
    with pytest.raises(InstrumentError, match=r"address|port"):
        SingleQuantumWebSQ("snspd", address, WebSQSettings(), clock).open()


def test_limits(script: Any, clock: Any) -> None:
    server = script((ASK, props()))
    with (
        electronics(server, clock) as device,
        pytest.raises(InstrumentError, match="bias_current_1 cannot be set"),
    ):
        device.bias_currents[0].set(91e-6)


class Counting:
    """A counts port that pushes a line whenever the clock passes a multiple of the period."""

    def __init__(self, server: Any, clock: Any, period_s: float = 0.1, phase_s: float = 0.03):
        self.server, self.period_s = server, period_s
        self.next = clock.now() + phase_s
        self.n = 0
        clock.on_sleep = self.step

    def step(self, now: float) -> None:
        while self.next <= now + 1e-9:
            self.n += 1
            line = ",".join([f"{1.7e9 + self.next:.1f}", *(str(self.n * 10 + i) for i in range(4))])
            self.server.push(line[:9].encode())
            self.server.push(line[9:].encode() + b"\n")
            self.next += self.period_s


def test_rates(script: Any, clock: Any) -> None:
    control = script((ASK, props()), (ASK, props()))
    counts = script()
    with electronics(control, clock, counts.port, timeout=5.0) as device:
        assert counts.connections == 0  # an unread stream costs nothing
        Counting(counts, clock)
        # lines end at 30, 130, 230 ms: the second is the first that began after the call
        assert device.count_rates[0].get() == 200.0
        assert clock.slept == [pytest.approx(0.2)]
        # each reading measures anew, and which line it reads depends on the clock alone
        assert [rate.get() for rate in device.count_rates] == [400.0, 610.0, 820.0, 1030.0]
        clock.sleep(0.75)
        assert device.measure_rates() == (1900.0, 1910.0, 1920.0, 1930.0)
        clock.sleep(0.05)
        assert device.count_rates[0].get() == 2200.0


def test_rates_long_unread_and_a_fast_device(script: Any, clock: Any) -> None:
    control = script((ASK, props()), (ASK, props()))
    counts = script()
    with electronics(control, clock, counts.port, timeout=5.0) as device:
        source = Counting(counts, clock, period_s=0.1 * (1 - 1e-3))
        device.count_rates[0].get()
        for _ in range(5):
            clock.sleep(1000.0)
            rate = device.count_rates[0].get()
            assert source.n - 12 <= rate / 100.0 <= source.n


def test_a_new_period_begins_anew(script: Any, clock: Any) -> None:
    longer = b'{"command":"SetMeasurementPeriod","label":"InptMeasurementPeriod","value":500}'
    again = props(InptMeasurementPeriod=500)
    control = script(
        (ASK, props()), (ASK, props()), (longer, told("InptMeasurementPeriod", 500)), (ASK, again)
    )
    counts = script()
    with electronics(control, clock, counts.port, timeout=5.0) as device:
        Counting(counts, clock)
        assert device.count_rates[0].get() == 200.0
        device.measurement_period.set(0.5)
        source = Counting(counts, clock, period_s=0.5)
        assert device.count_rates[0].get() == source.n * 10 / 0.5
        assert counts.connections == 2


@pytest.mark.parametrize("line", [b"1.0,2,3\n", b"1.0,a,b,c,d\n"])
def test_bad_lines(script: Any, clock: Any, line: bytes) -> None:
    control = script((ASK, props()), (ASK, props()))
    counts = script()
    with electronics(control, clock, counts.port, timeout=5.0) as device:
        clock.on_sleep = lambda now: counts.push(line)
        with pytest.raises(InstrumentError, match="counts"):
            device.count_rates[0].get()


def test_no_counts(script: Any, clock: Any) -> None:
    control = script((ASK, props()), (ASK, props()))
    counts = script()
    device = electronics(control, clock, counts.port)
    with device, pytest.raises(InstrumentTimeout, match="no counts"):
        device.count_rates[0].get()


def test_two_threads_set_their_own_detectors(script: Any, clock: Any, together: Any) -> None:
    server = script((ASK, props()))
    biases = [0.0] * 4

    def serve(connection: Any) -> None:
        pending = ""
        decoder = json.JSONDecoder()
        while data := connection.recv(4096):
            pending += data.decode()
            while pending:
                try:
                    command, end = decoder.raw_decode(pending)
                except ValueError:
                    break
                pending = pending[end:]
                if "request" in command:
                    server.done = 1
                    connection.sendall(props())
                else:
                    biases[:] = command["value"]
                    connection.sendall(told("BiasCurrent", biases))

    server.serve = serve
    with electronics(server, clock, timeout=5.0) as device:

        def turn(i: int) -> None:
            for n in range(1, 40):
                device.bias_currents[i].set(n * 1e-6)
                assert device.bias_currents[i].get() == pytest.approx(n * 1e-6)

        together(lambda: turn(0), lambda: turn(1), lambda: turn(3))
        assert biases == [39.0, 39.0, 0.0, 39.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"bias_currents": (1e-6,)},
        {"detectors": 2, "trigger_levels": (0.1, 0.1, 0.1)},
        {"bias_currents": (91e-6, 0, 0, 0)},
        {"measurement_period": 0.001},
    ],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        WebSQSettings(**wrong)
