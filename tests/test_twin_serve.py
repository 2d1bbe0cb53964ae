"""``bellbench twin serve`` as other programs use it: plain pyvisa, pyserial, zmq and sockets.

Nothing of Bellbench's drivers is used here but where an experiment runs on the served twins.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import bellbench
import numpy as np
import numpy.typing as npt
import pytest
import pyvisa
import serial
import zmq
from bellbench.configs import find_config
from ruamel.yaml import YAML

Times = npt.NDArray[np.int64]

BLOCK_S = 0.01
PATIENCE_S = 20.0

#: The metro world, settling quickly, with a power meter at the pump's pick-off.
WORLD_CHANGES = (
    ("slope: 0.5 W/A", "slope: 0.5 W/A\n    tec_time_constant: 0.2 s"),
    ("ambient: 22 degC", "ambient: 30 degC"),
    ("start: 36 degC", "start: 30 degC"),
    ("time_constant: 5 s ", "time_constant: 0.2 s "),
    ("  crystal:\n", "  meter: {kind: power_meter, at: pump, tap: 1 %, noise: 0}\n  crystal:\n"),
)
FIBRE_S_PER_M = 1.468 / 299_792_458.0
CABLES_PS = {
    "alice": np.array([23_400, 24_100, 22_800, 23_900]),
    "bob": np.array([41_700, 40_900, 42_600, 41_200]),
}
START_PS = {"alice": 2_718_281_000, "bob": 6_180_339_000}

#: Every kind of instrument; the settings are those of an experiment in paced time.
BENCH = """\
bellbench: bench/1
world: world.yaml
twin: true
instruments:
  oven:
    driver: thorlabs.tc200
    settings: {temperature: 40 degC, heating: true, tolerance: 0.05 K}
    on_exit: leave
    twin: {reading: 30 C}
  pump:
    driver: thorlabs.cld1015
    settings:
      current: 65 mA
      current_limit: 150 mA
      temperature: 25 degC
      tec: true
      emission: true
    twin: {serial_number: M00512345}
  meter: {driver: thorlabs.pm100d, twin: {serial_number: P0012345}}
  alice_paddles:
    driver: thorlabs.mpc320
    settings: {paddles: [151.01 deg, 135.01 deg, 88.23 deg]}
    twin: {serial_number: 38000001}
  alice_snspd:
    driver: single_quantum.websq
    settings: {bias_currents: [18 uA, 18 uA, 18 uA, 18 uA], enabled: true}
  alice_tagger:
    driver: id_quantique.id900
    settings: {enabled: [true, true, true, true]}
  bob_paddles:
    driver: thorlabs.mpc320
    settings: {paddles: [38.09 deg, 146.92 deg, 20.97 deg]}
    twin: {serial_number: 38000002}
  bob_snspd:
    driver: single_quantum.websq
    settings: {bias_currents: [18 uA, 18 uA, 18 uA, 18 uA], enabled: true}
  bob_tagger:
    driver: s_fifteen.tdc1
    settings: {pulses: TTL, clock_source: external}
    twin: {serial_number: "00141", external_clock: true}
parties:
  alice: {tagger: alice_tagger, detectors: alice_snspd, channels: {1: H, 2: V, 3: D, 4: A}}
  bob: {tagger: bob_tagger, detectors: bob_snspd, channels: {1: H, 2: V, 3: D, 4: A}}
"""


def edited(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def write_bench(folder: Path) -> Path:
    world = find_config("metro", "worlds").read_text(encoding="utf-8")
    # one clock for all: here the times of two boxes are compared
    world = re.sub(r"^    clock: .*\n", "", edited(world, *WORLD_CHANGES), flags=re.MULTILINE)
    (folder / "world.yaml").write_text(world, encoding="utf-8")
    path = folder / "bench.yaml"
    path.write_text(BENCH, encoding="utf-8")
    return path


class Served:
    """A served world: its process, what it printed, and where its twins are."""

    def __init__(self, bench: Path, *options: str) -> None:
        command = [sys.executable, "-P", "-m", "bellbench", "twin", "serve", str(bench), *options]
        self._errors = (bench.parent / f"stderr{'-'.join(options)}.txt").open("w+")
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._errors, stdin=subprocess.DEVNULL
        )
        self.lines: list[dict[str, Any]] = []

    def wait(self) -> None:
        """Read what it prints up to the control port, the last."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))
            if "control" in self.lines[-1]:
                return
        pytest.fail(f"the world did not start: {self.said()}")

    @property
    def addresses(self) -> dict[str, str]:
        return {line["instrument"]: line["address"] for line in self.lines[:-1]}

    @property
    def control(self) -> tuple[str, int]:
        host, _, port = self.lines[-1]["control"].rpartition(":")
        return host, int(port)

    def said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


@contextlib.contextmanager
def serving(bench: Path, *options: str) -> Iterator[Served]:
    served = Served(bench, *options)
    try:
        served.wait()
        yield served
    finally:
        served.end()


class StepTime:
    """World time over the control port, in lines of JSON."""

    def __init__(self, where: tuple[str, int]) -> None:
        self._socket = socket.create_connection(where, PATIENCE_S)
        self._lines = self._socket.makefile("rb")
        self.hello = self.say({"op": "hello"})
        self.now_ps: int = self.hello["now_ps"]
        self._granted_ps = self.now_ps

    def say(self, message: dict[str, object]) -> dict[str, Any]:
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._lines.readline())
        return found

    def grant(self, seconds: float) -> None:
        """Let the world go on, without waiting for it."""
        self._granted_ps += round(seconds * 1e12)
        self._socket.sendall(b'{"op": "grant", "until_ps": %d}\n' % self._granted_ps)

    def reached(self) -> None:
        while True:
            message = self._hear()
            assert message["event"] in ("reached", "held"), message
            if message["event"] == "reached":
                self.now_ps = message["now_ps"]
                assert self.now_ps == self._granted_ps
                return

    def sleep(self, seconds: float) -> None:
        self.grant(seconds)
        self.reached()

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class Visa:
    """A SCPI instrument through plain pyvisa."""

    def __init__(self, address: str) -> None:
        self._manager = pyvisa.ResourceManager("@py")
        resource = self._manager.open_resource(
            address, read_termination="\n", write_termination="\n", timeout=PATIENCE_S * 1e3
        )
        assert isinstance(resource, pyvisa.resources.MessageBasedResource)
        self.resource = resource

    def ask(self, command: str) -> str:
        return self.resource.query(command)

    def tell(self, *commands: str) -> None:
        for command in commands:
            self.resource.write(command)

    def number(self, command: str) -> float:
        return float(self.ask(command))

    def error(self) -> str:
        return self.ask("SYST:ERR?")

    def close(self) -> None:
        self.resource.close()
        self._manager.close()


class Serial:
    """A serial instrument through plain pyserial."""

    def __init__(self, address: str) -> None:
        self.port = serial.serial_for_url(address, timeout=PATIENCE_S)

    def send(self, data: bytes) -> None:
        self.port.write(data)

    def read(self, size: int) -> bytes:
        data: bytes = self.port.read(size)
        assert len(data) == size, data
        return data

    def line(self) -> bytes:
        data: bytes = self.port.read_until(b"\n")
        return data

    def close(self) -> None:
        self.port.close()


class WebSQ:
    """The two ports of the nanowire electronics, through plain sockets."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        assert parts.scheme == "tcp"
        self._where = str(parts.hostname)
        self._counts_port = int(parse_qs(parts.query)["counts"][0])
        self.socket = socket.create_connection((self._where, int(parts.port or 0)), PATIENCE_S)
        self._heard = b""

    def counts(self) -> socket.socket:
        return socket.create_connection((self._where, self._counts_port), PATIENCE_S)

    def say(self, message: object) -> None:
        self.socket.sendall(json.dumps(message).encode())  # no terminator

    def message(self) -> bytes:
        """The next message with its 0x17."""
        while b"\x17" not in self._heard:
            data = self.socket.recv(4096)
            assert data
            self._heard += data
        message, _, self._heard = self._heard.partition(b"\x17")
        return message + b"\x17"

    def hear(self, label: str) -> Any:
        message = json.loads(self.message().removesuffix(b"\x17"))
        while message["label"] == "BiasVoltage" != label:  # told when a wire latches
            message = json.loads(self.message().removesuffix(b"\x17"))
        assert message["label"] == label, message
        return message["value"]

    def command(self, command: str, label: str, value: object) -> None:
        self.say({"command": command, "label": label, "value": value})

    def switch_on(self) -> None:
        """18 uA on every wire, from 0: what has latched recovers. Brings the broadcasts along."""
        for current in (0.0, 18.0):
            self.command("SetAllBiasCurrents", "BiasCurrent", [current] * 4)
            assert self.hear("BiasCurrent") == [current] * 4
        self.command("DetectorEnable", "DetectorEnable", True)
        assert self.hear("DetectorEnable") is True

    def close(self) -> None:
        self.socket.close()


class TimeController:
    """An ID900 and its DLT through plain ZeroMQ."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        options = parse_qs(parts.query)
        self.host = str(parts.hostname)
        self.stream_port = int(options["stream"][0])
        self._context = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        self._box = self._connect(zmq.REQ, f"{self.host}:{parts.port}")
        self._dlt = self._connect(zmq.REQ, options["dlt"][0])

    def _connect(self, kind: int, where: str) -> zmq.Socket[bytes]:
        made: zmq.Socket[bytes] = self._context.socket(kind)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1e3))
        made.setsockopt(zmq.SNDTIMEO, int(PATIENCE_S * 1e3))
        made.connect(f"tcp://{where}")
        self._sockets.append(made)
        return made

    def ask(self, command: str) -> str:
        self._box.send_string(command)
        return self._box.recv_string()

    def tell(self, *commands: str) -> None:
        for command in commands:
            assert self.ask(command) == "", command

    def ask_dlt(self, command: str) -> Any:
        self._dlt.send_string(command)
        return json.loads(self._dlt.recv())

    def start_stream(self, channel: int, *options: str) -> tuple[str, zmq.Socket[bytes]]:
        """Start a stream at the DLT; return its id and a PAIR socket on it."""
        port = self.stream_port + channel - 1
        command = f"start-stream --address {self.host} --channel {channel} --stream-port {port}"
        answer = self.ask_dlt(" ".join([command, *options]))
        assert set(answer) == {"id"}, answer
        return answer["id"], self._connect(zmq.PAIR, f"{self.host}:{port}")

    def stop_stream(self, number: str) -> None:
        assert set(self.ask_dlt(f"stop --id {number}")) == {"status"}

    def close(self) -> None:
        for each in self._sockets:
            each.close()
        self._context.term()


def words_of(stream: zmq.Socket[bytes]) -> Times:
    """The 64-bit words up to the empty message that ends a record."""
    parts = []
    while message := stream.recv():
        assert len(message) % 8 == 0
        parts.append(np.frombuffer(message, "<i8"))
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A stepped world; tests that need light switch it on themselves."""
    bench = write_bench(tmp_path_factory.mktemp("stepped"))
    with serving(bench, "--stepped", "--seed", "1") as found:
        yield found
        assert found.process.poll() is None, found.said()
        assert found.said() == ""


@pytest.fixture
def step(served: Served) -> Iterator[StepTime]:
    made = StepTime(served.control)
    yield made
    made.close()


@pytest.fixture
def client(served: Served) -> Iterator[Callable[..., Any]]:
    """Opens ``kind`` on an instrument's printed address."""
    with contextlib.ExitStack() as stack:

        def connect(kind: Callable[[str], Any], name: str) -> Any:
            made = kind(served.addresses[name])
            stack.callback(made.close)
            return made

        yield connect


@pytest.fixture
def light(served: Served, step: StepTime) -> None:
    """Pump, oven and all detectors on, each over its wire, and left to others."""
    with contextlib.closing(Serial(served.addresses["oven"])) as oven:
        oven.send(b"stat?\r")
        if not int(oven.read(len(b"stat?\r10 > "))[6:8], 16) & 1:
            oven.send(b"ens\r")
            assert oven.read(6) == b"ens\r> "
        oven.send(b"tset=40\r")
        assert oven.read(10) == b"tset=40\r> "
    with contextlib.closing(Visa(served.addresses["pump"])) as pump:
        pump.tell("*RST", "SOUR:CURR 0.05", "OUTP2:STAT ON")
        assert pump.ask("*OPC?") == "1"
        step.sleep(1.5)
        pump.tell("OUTP:STAT ON")
        assert pump.ask("OUTP:STAT?") == "1"
    for name in ("alice_snspd", "bob_snspd"):
        with contextlib.closing(WebSQ(served.addresses[name])) as box:
            box.switch_on()
    step.sleep(2 * BLOCK_S)


# -- what is printed ---------------------------------------------------------------------------


def test_each_line_names_an_instrument_and_the_control_port_comes_last(served: Served) -> None:
    drivers = {line["instrument"]: line["driver"] for line in served.lines[:-1]}
    assert drivers == {
        "alice_paddles": "thorlabs.mpc320",
        "alice_snspd": "single_quantum.websq",
        "alice_tagger": "id_quantique.id900",
        "bob_paddles": "thorlabs.mpc320",
        "bob_snspd": "single_quantum.websq",
        "bob_tagger": "s_fifteen.tdc1",
        "meter": "thorlabs.pm100d",
        "oven": "thorlabs.tc200",
        "pump": "thorlabs.cld1015",
    }
    shapes = {
        "thorlabs.cld1015": r"TCPIP::127\.0\.0\.1::\d+::SOCKET",
        "thorlabs.pm100d": r"TCPIP::127\.0\.0\.1::\d+::SOCKET",
        "thorlabs.tc200": r"socket://127\.0\.0\.1:\d+",
        "thorlabs.mpc320": r"socket://127\.0\.0\.1:\d+",
        "s_fifteen.tdc1": r"socket://127\.0\.0\.1:\d+",
        "single_quantum.websq": r"tcp://127\.0\.0\.1:\d+\?counts=\d+",
        "id_quantique.id900": r"tcp://127\.0\.0\.1:\d+\?dlt=127\.0\.0\.1:\d+&stream=\d+",
    }
    for line in served.lines[:-1]:
        assert set(line) == {"instrument", "driver", "address"}
        assert re.fullmatch(shapes[line["driver"]], line["address"])
    last = dict(served.lines[-1])
    assert re.fullmatch(r"127\.0\.0\.1:\d+", last.pop("control"))
    assert last == {
        "mode": "stepped",
        "factor": 0.0,
        "seed": 1,
        "block_ps": 10_000_000_000,
        "now_ps": 0,
        "lag_s": 0.0,
    }


def test_the_control_port_tells_the_twins_and_takes_grants(served: Served, step: StepTime) -> None:
    assert step.hello["event"] == "hello"
    assert step.hello["twins"] == served.addresses
    before = step.now_ps
    step.sleep(0.03)
    assert step.now_ps == before + 30_000_000_000
    answer = step.say({"op": "grant", "until_ps": before})  # the past is reached already
    assert answer == {"event": "reached", "now_ps": step.now_ps}


# -- CLD1015 (devices.md 2.1) ------------------------------------------------------------------


@pytest.fixture
def pump(client: Callable[..., Any]) -> Visa:
    made: Visa = client(Visa, "pump")
    made.tell("*CLS", "*RST")
    return made


def test_cld1015_identity_and_common_commands(pump: Visa) -> None:
    assert pump.ask("*IDN?") == "THORLABS,CLD1015,M00512345,1.4.0/2.0.3/1.6.0"
    assert pump.ask("*OPC?") == "1"
    assert pump.ask("*TST?") == "0"
    pump.tell("*ESE 36", "*SRE 32")
    assert [pump.ask(f"*{name}?") for name in ("ESE", "SRE", "STB")] == ["36", "32", "0"]
    pump.tell("NONSENSE")  # a command error sets bit 5, enabled above
    assert int(pump.ask("*STB?")) & 0b0110_0100 == 0b0110_0100
    assert int(pump.ask("*ESR?")) & 32
    pump.tell("*WAI", "*ESE 0", "*SRE 0", "*CLS")


def test_cld1015_error_queue_is_first_in_first_out_and_ten_deep(pump: Visa) -> None:
    assert pump.error() == '+0,"No error"'
    pump.tell("SOUR:CURR 99", "SOUR:CURR", *["NONSENSE"] * 10)
    pump.tell("*RST")  # does not clear
    assert pump.error().startswith("-222,")
    assert pump.ask("SYSTem:ERRor:NEXT?") == '-109,"Missing parameter"'
    assert [pump.error() for _ in range(7)] == ['-113,"Undefined header"'] * 7
    assert pump.error() == '-350,"Error queue overflow"'
    assert pump.error() == '+0,"No error"'
    pump.tell("NONSENSE", "*CLS")
    assert pump.error() == '+0,"No error"'


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("SOUR:CURR \u00b5", -101),
        ("SOUR:CURR abc", -104),
        ("SOUR:CURR? 1", -104),
        ("OUTP? 1", -108),
        ("SOUR:CURR", -109),
        ("SOUR:CURRR 1", -113),
        ("SOUR:CURR 99", -222),
        ("OUTP ON", -221),  # the TEC is off
    ],
)
def test_cld1015_refuses_by_code(pump: Visa, command: str, code: int) -> None:
    pump.resource.write_raw(command.encode("latin-1") + b"\n")
    assert pump.error().startswith(f"{code},")


@pytest.mark.parametrize(
    ("text", "amperes"),
    [
        *((text, 0.09) for text in ("0.09", "9E-2", "90m", "90000u", "90mA")),
        *((text, 0.0) for text in ("MIN", "DEF", "#H0", "#Q0", "#B0")),
        ("MAX", 0.15),
    ],
)
def test_cld1015_takes_every_form_of_number(pump: Visa, text: str, amperes: float) -> None:
    pump.tell("SOUR:CURR:LIM 150m", f"SOURce1:CURRent:LEVel:IMMediate:AMPLitude {text}")
    assert pump.number("sour:curr?") == pytest.approx(amperes)
    assert pump.number("SOUR:CURR? MAX") == pytest.approx(0.15)
    assert pump.number("SOUR:CURR? MIN") == 0.0
    assert pump.error() == '+0,"No error"'


def test_cld1015_units_modes_and_protection(pump: Visa) -> None:
    for unit, shown in (("F", "FAR"), ("K", "K"), ("C", "CEL")):
        pump.tell(f"UNIT:TEMP {unit}")
        assert pump.ask("UNIT:TEMP?") == shown
    pump.tell("SOUR2:TEMP 77F")
    assert pump.number("SOUR2:TEMP:SPO?") == pytest.approx(25.0)
    pump.tell("SOUR2:TEMP 20.0C")
    assert pump.number("SOUR2:TEMP?") == 20.0
    for mode in ("POW", "CURR"):
        pump.tell(f"SOUR:FUNC:MODE {mode}")
        assert pump.ask("SOUR:FUNC:MODE?") == mode
    pump.tell("SOUR:AM 1", "SOUR:POW 10m")
    assert pump.ask("SOUR:AM?") == "1"
    assert pump.number("SOUR:POW?") == pytest.approx(0.01)
    assert pump.ask("OUTP:PROT:KEYL:TRIP?") == "0"
    assert pump.ask("OUTP:PROT:INTL:TRIP?") == "0"
    pump.tell("OUTP:PROT:EXT:MODE PROTection", "*SAV 3", "*RST", "*RCL 3")
    assert pump.ask("OUTP:PROT:EXT:MODE?") == "PROT"
    assert pump.error() == '+0,"No error"'


def test_cld1015_cooler_before_laser_and_the_readings(pump: Visa, step: StepTime) -> None:
    step.sleep(1.5)  # with the TEC off the diode goes to the ambient temperature
    pump.tell("SOUR:CURR:LIM 90m", "SOUR:CURR 90m", "SOUR2:TEMP 25", "OUTP2:STAT ON")
    assert pump.ask("OUTP2:STAT?") == "1"
    assert pump.ask("OUTP:STAT?") == "0"
    assert int(pump.ask("STAT:MEAS:COND?")) == 1 << 9  # outside its temperature window
    step.sleep(1.5)
    assert abs(pump.number("MEAS:SCAL:TEMP?") - 25.0) < 0.05
    assert pump.number("SENS2:TEMP:DATA?") == pump.number("MEAS:TEMP?")
    pump.tell("OUTP1:STAT 1")
    step.sleep(BLOCK_S)
    assert int(pump.ask("STAT:MEAS:COND?")) == 1 << 3  # at the current limit
    assert int(pump.ask("STAT:MEAS?")) & 1 << 3
    assert int(pump.ask("STAT:MEAS:EVEN?")) == 0
    assert pump.number("MEAS:CURR?") == pytest.approx(0.09)
    assert pump.number("SENS3:CURR:DC:DATA?") == pytest.approx(0.09)
    assert pump.number("MEAS:VOLT?") == pump.number("SENS4:VOLT:DATA?") > 1.0
    assert pump.number("MEAS:POW2?") == pytest.approx(0.5 * (0.09 - 0.04))
    pump.tell("OUTP OFF", "SOUR:CURR:LIM 150m")
    step.sleep(BLOCK_S)
    assert pump.number("MEAS:CURR?") == 0.0
    pump.tell("OUTP2 OFF")
    assert pump.error() == '+0,"No error"'


# -- PM100D (devices.md 7) ---------------------------------------------------------------------


def test_pm100d_reads_the_pump_through_its_own_wire(
    client: Callable[..., Any], light: None
) -> None:
    meter: Visa = client(Visa, "meter")
    meter.tell("*CLS", "*RST")
    assert meter.ask("*IDN?") == "Thorlabs,PM100D,P0012345,2.4.0"
    name, number, calibration, kind, subtype, flags = meter.ask("SYST:SENS:IDN?").split(",")
    assert name
    assert number
    assert calibration
    assert kind.isdigit()
    assert subtype.isdigit()
    assert int(flags) & (1 | 32) == 1 | 32  # a power sensor with a settable wavelength
    meter.tell("SENS:CORR:WAV 405", "SENS:POW:RANG:AUTO ON", "SENS:AVER:COUN 10", "CONF:POW")
    assert meter.number("SENS:CORR:WAV?") == 405
    assert meter.number("SENS:CORR:WAV? MIN") < 405 < meter.number("SENS:CORR:WAV? MAX")
    assert meter.number("SENS:AVER:COUN?") == 10
    expected = 0.01 * 0.5 * (0.05 - 0.04)  # tap x slope x (current - threshold)
    assert meter.number("READ?") == pytest.approx(expected)
    assert meter.number("MEAS:POW?") == pytest.approx(expected)
    meter.tell("SENS:POW:RANG:UPP 1m")
    assert meter.ask("SENS:POW:RANG:AUTO?") == "0"
    assert meter.number("SENS:POW:RANG:UPP?") >= 1e-3
    assert meter.number("MEAS:POW?") == pytest.approx(expected)
    meter.tell("CORR:COLL:ZERO")  # the root node is optional
    assert meter.ask("SYST:ERR?") == '+0,"No error"'
    assert abs(meter.number("MEAS:POW?")) < 1e-9
    meter.tell("SENS:CORR:WAV 1")
    assert meter.error().startswith("-222,")
    meter.tell("*RST")  # forgets the zero
    assert meter.number("MEAS:POW?") == pytest.approx(expected)


# -- TC200 (devices.md 2.5, 9) -----------------------------------------------------------------


def test_tc200_echoes_prompts_and_answers_byte_for_byte(
    client: Callable[..., Any], step: StepTime
) -> None:
    oven: Serial = client(Serial, "oven")

    def says(command: bytes, answer: bytes) -> None:
        oven.send(command)
        assert oven.read(len(answer)) == answer

    def status() -> int:
        oven.send(b"stat?\r")
        answer = oven.read(len(b"stat?\r10 > "))
        assert re.fullmatch(rb"stat\?\r[0-9A-F]{2} > ", answer)
        return int(answer[6:8], 16)

    if status() & 1:
        says(b"ens\r", b"ens\r> ")
    assert status() & 0b0011_0011 == 0x10  # disabled, normal mode, degrees Celsius
    says(b"tset=30\r", b"tset=30\r> ")
    says(b"tset?\r", b"tset?\r30 C\r> ")
    step.sleep(2.0)
    says(b"tact?\r", b"tact?\r30 C\r> ")  # the ambient temperature of this world
    says(b"ens\r", b"ens\r> ")
    assert status() & 1
    says(b"tset=40\r", b"tset=40\r> ")
    step.sleep(2.0)
    says(b"tact?\r", b"tact?\r40 C\r> ")
    says(b"ens\r", b"ens\r> ")
    assert not status() & 1
    says(b"tset=201\r", b"tset=201\rCommand error CMD_ARG_RANGE_ERR\r> ")
    says(b"pmax=0.05\r", b"pmax=0.05\rCommand error CMD_ARG_RANGE_ERR\r> ")
    says(b"fly\r", b"fly\rCommand error CMD_NOT_DEFINED\r> ")
    says(b"pgain=250\r", b"pgain=250\r> ")
    says(b"igain=0\r", b"igain=0\r> ")
    says(b"dgain=7\r", b"dgain=7\r> ")
    says(b"pid?\r", b"pid?\r250 0 7\r> ")
    says(b"mode=cycle\r", b"mode=cycle\r> ")
    assert status() & 2
    says(b"mode=normal\r", b"mode=normal\r> ")
    says(b"sns=ptc1000\r", b"sns=ptc1000\r> ")
    assert status() & 0x0C == 0x08
    says(b"unit=f\r", b"unit=f\r> ")
    assert status() & 0x30 == 0x20
    says(b"unit=c\r", b"unit=c\r> ")
    says(b"tmax=150\r", b"tmax=150\r> ")
    says(b"tmax?\r", b"tmax?\r150 C\r> ")
    for part in (b"ta", b"ct?", b"\r"):  # a command in pieces
        oven.send(part)
    assert oven.read(6) == b"tact?\r"
    assert re.fullmatch(rb"\d+ C\r> ", oven.port.read_until(b"> "))
    for query in (b"id?", b"*idn?", b"config?"):
        oven.send(query + b"\r")
        echo, *answers, prompt = oven.port.read_until(b"\r> ").split(b"\r")
        assert echo == query
        assert answers
        assert prompt == b"> "


# -- MPC320 (devices.md 5.1, 9) ----------------------------------------------------------------


def test_mpc320_answers_the_golden_messages(client: Callable[..., Any], step: StepTime) -> None:
    paddles: Serial = client(Serial, "alice_paddles")

    def send(text: str) -> None:
        paddles.send(bytes.fromhex(text))

    def says(text: str) -> None:
        answer = bytes.fromhex(text)
        assert paddles.read(len(answer)) == answer

    def status(identity: int, channel: int, counts: int) -> int:
        """The status bits of a 14-byte status message."""
        message = paddles.read(20)
        assert message[:6] == struct.pack("<HHBB", identity, 14, 0x81, 0x50)
        bit, position, velocity, current, bits = struct.unpack("<HihHI", message[6:])
        assert (bit, position, velocity, current) == (channel, counts, 0, 0)
        assert bits & 1 << 8  # the motor is there
        return int(bits)

    enabled, homed, moving = 1 << 31, 1 << 10, 0b11_0000
    send("05 00 00 00 50 01")  # HW_REQ_INFO
    info = paddles.read(90)
    assert info[:6] == bytes.fromhex("06 00 54 00 81 50")
    number, model, _kind, _firmware, _hardware, _modified, channels = struct.unpack(
        "<I8sH4s60xHHH", info[6:]
    )
    assert (number, model.rstrip(b"\0"), channels) == (38000001, b"MPC320", 3)
    send("18 00 00 00 50 01")  # NO_FLASH_PROGRAMMING
    send("23 02 01 00 50 01")  # MOD_IDENTIFY
    send("11 02 01 00 50 01")  # REQ_CHANENABLESTATE
    says("12 02 01 02 01 50")
    send("53 04 06 00 d0 01 01 00 ad 02 00 00")  # a disabled channel does not move
    step.sleep(0.5)
    send("11 04 01 00 50 01")  # REQ_POSCOUNTER
    says("12 04 06 00 81 50 01 00 00 00 00 00")
    send("30 05 0c 00 d0 01 00 00 32 00 ad 02 0a 00 14 00 1e 00")  # POL_SET_PARAMS
    send("31 05 00 00 50 01")  # POL_REQ_PARAMS
    says("32 05 0c 00 81 50 00 00 32 00 ad 02 0a 00 14 00 1e 00")
    send("13 04 0e 00 d0 01 01 00 00 00 00 00 64 00 00 00 c8 00 00 00")  # SET_VELPARAMS
    send("b9 04 04 00 d0 01 01 00 13 04")  # SET_EEPROMPARAMS

    send("10 02 01 01 50 01 11 02 01 00 50 01")  # SET_ and REQ_CHANENABLESTATE, glued
    says("12 02 01 01 01 50")
    send("43 04 01 00 50 01")  # MOVE_HOME: 85 deg at 50 % of 400 deg/s
    step.sleep(0.3)
    send("90 04 01 00 50 01")  # REQ_DCSTATUSUPDATE
    moved = paddles.read(20)
    assert moved[:6] == bytes.fromhex("91 04 0e 00 81 50")
    assert struct.unpack_from("<I", moved, 16)[0] & moving == 1 << 4
    step.sleep(0.3)
    says("44 04 01 00 01 50")  # MOVE_HOMED
    send("92 04 00 00 50 01")  # ACK_DCSTATUSUPDATE
    send("90 04 01 00 50 01")
    assert status(0x0491, 1, 685) & (enabled | homed | moving) == enabled | homed
    send("6a 04 01 01 50 01")  # MOVE_JOG forward by 10
    step.sleep(0.1)
    assert status(0x0464, 1, 695) & moving == 0
    send("53 04 06 00 d0 01 01 00 ad 02 00 00")  # MOVE_ABSOLUTE 685
    step.sleep(0.1)
    status(0x0464, 1, 685)
    send("53 04 06 00 d0 01 01 00 d5 02 00 00")  # 90 deg; the next request overtakes the move
    step.sleep(0.1)
    send("11 04 01 00 50 01")
    status(0x0464, 1, 725)  # unsolicited, before the reply
    says("12 04 06 00 81 50 01 00 d5 02 00 00")
    send("53 04 06 00 d0 01 01 00 00 00 00 00")
    step.sleep(0.1)
    send("65 04 01 02 50 01")  # MOVE_STOP
    stopped = paddles.read(20)
    assert stopped[:8] == bytes.fromhex("66 04 0e 00 81 50 01 00")
    assert 500 < struct.unpack_from("<i", stopped, 8)[0] < 725

    send("10 02 06 01 50 01")  # enabling channels 2 and 4 disables 1
    send("11 02 01 00 50 01 11 02 02 00 50 01 11 02 04 00 50 01")
    says("12 02 01 02 01 50 12 02 02 01 01 50 12 02 04 01 01 50")
    send("11 00 00 00 50 01")  # START_UPDATEMSGS: 10 Hz in world time
    step.sleep(0.4)
    send("12 00 00 00 50 01 31 05 00 00 50 01")  # STOP_UPDATEMSGS
    updates = 0
    while (message := paddles.read(6))[:2] != b"\x32\x05":
        assert message[:2] == b"\x91\x04"
        paddles.read(14)
        updates += 1
    paddles.read(12)
    assert updates in (3 * 4, 3 * 5)
    send("ff 7f 00 00 50 01")  # not a message of the protocol
    rich = paddles.read(6 + 68)
    assert rich[:6] == bytes.fromhex("81 00 44 00 81 50")
    assert struct.unpack_from("<H", rich, 6)[0] == 0x7FFF


# -- WebSQ (devices.md 3.1, 9) -----------------------------------------------------------------


def test_websq_conversation_and_its_end_marks(client: Callable[..., Any]) -> None:
    box: WebSQ = client(WebSQ, "alice_snspd")
    other: WebSQ = client(WebSQ, "alice_snspd")
    other.say({"request": "NumberOfDetectors"})
    assert other.hear("NumberOfDetectors") == 4  # it is listening now
    box.command("SetAllBiasCurrents", "BiasCurrent", [0, 0, 0, 0])
    assert box.message() == b'{"label":"BiasCurrent","value":[0,0,0,0]}\x17'
    other.message()
    box.socket.sendall(b'{"request": "labelProps", "value": "None"}')
    assert box.message() == b'{"label":"NumberOfDetectors","value":{"value":4}}\x17'
    expected = b'{"label":"BiasCurrent","value":{"value":[0,0,0,0],"unit":"uA"}}\x17'
    assert box.message() == expected
    labels = {"NumberOfDetectors", "BiasCurrent"}
    wanted = (
        "BiasVoltage TriggerLevel InptMeasurementPeriod DetectorEnable StartAutoIV"
        " BiasCurrentAutoIV IVScanStart IVScanEnd IVScanIncrement"
    )
    while not set(wanted.split()) <= labels:
        message = json.loads(box.message()[:-1])
        assert "value" in message["value"]
        labels.add(message["label"])
    box.command("SetMeasurementPeriod", "InptMeasurementPeriod", 100)
    while json.loads(box.message()[:-1])["label"] != "InptMeasurementPeriod":
        pass
    other.message()
    box.socket.sendall(
        b'{"command":"SetAllBiasCurrents","label":"BiasCurrent","value":[12.0,8.0,3.0,8.0]}'
    )
    golden = b'{"label":"BiasCurrent","value":[12.0,8.0,3.0,8.0]}\x17'
    assert box.message() == golden
    assert other.message() == golden  # changes are broadcast
    first, second = (
        json.dumps({"command": f"SetAll{name}s", "label": name, "value": [20.0, 30.5, 40.0, 50.0]})
        for name in ("BiasCurrent", "TriggerLevel")
    )
    glued = (first + second).encode()
    for piece in (glued[:9], glued[9:-5], glued[-5:]):  # split and glued as TCP likes
        box.socket.sendall(piece)
    assert box.hear("BiasCurrent") == [20.0, 30.5, 40.0, 50.0]
    assert box.hear("TriggerLevel") == [20.0, 30.5, 40.0, 50.0]
    box.command("SetAllBiasCurrents", "BiasCurrent", [91.0, 0, 0, 0])  # beyond 90.9 uA
    refusal = json.loads(box.message()[:-1])
    assert "Error" in refusal["label"]
    assert isinstance(refusal["value"], str)
    box.command("SetMeasurementPeriod", "InptMeasurementPeriod", 9)  # ms; 10 is the least
    assert "Error" in json.loads(box.message()[:-1])["label"]


def test_websq_counts_are_pushed_line_by_line_each_period(
    client: Callable[..., Any], step: StepTime, light: None
) -> None:
    box: WebSQ = client(WebSQ, "alice_snspd")
    box.command("SetMeasurementPeriod", "InptMeasurementPeriod", 100)
    assert box.hear("InptMeasurementPeriod") == 100
    with box.counts() as counts, counts.makefile("rb") as lines:
        step.sleep(BLOCK_S)  # a client that is here when a block begins is counted for
        step.sleep(0.3)
        pushed = [lines.readline() for _ in range(3)]
    for line in pushed:
        assert re.fullmatch(rb"\d{10}\.\d{1,3},\d+,\d+,\d+,\d+\n", line)
    stamps = [float(line.split(b",")[0]) for line in pushed]
    assert np.diff(stamps) == pytest.approx([0.1, 0.1], abs=2e-3)
    assert abs(stamps[0] - time.time()) < 3600
    assert all(int(n) > 1000 for n in pushed[1].split(b",")[1:])


def test_websq_finds_its_bias_and_scans_it(client: Callable[..., Any], step: StepTime) -> None:
    client(Visa, "pump").tell("OUTP OFF")
    box: WebSQ = client(WebSQ, "bob_snspd")
    box.switch_on()
    box.command("SetMeasurementPeriod", "InptMeasurementPeriod", 10)
    assert box.hear("InptMeasurementPeriod") == 10
    for label, value in (("IVScanStart", 14), ("IVScanEnd", 26), ("IVScanIncrement", 4)):
        box.say({"label": label, "value": value})
        assert box.hear(label) == value
    box.command("IVScanEnable", "IVScanEnable", True)
    assert box.hear("IVScanEnable") is True
    step.sleep(0.1)
    assert box.hear("IVScanEnable") is False
    box.say({"request": "IVHistory"})
    counts, volts = box.hear("ic_scan_history"), box.hear("iv_scan_history")
    assert [row["biasCurrent"] for row in counts] == [14, 18, 22, 26]
    assert set(counts[0]) == {"biasCurrent", "y1", "y2", "y3", "y4"}
    assert set(volts[0]) == {"biasCurrent", "v1", "v2", "v3", "v4"}
    assert counts[3]["y1"] == 0  # above 22 uA the wire is normal
    assert volts[0]["v1"] == 0
    assert volts[3]["v1"] > 0
    box.command("DarkCountsAutoIV", "DarkCountsAutoIV", [1e4] * 4)
    assert box.hear("DarkCountsAutoIV") == [1e4] * 4
    box.say({"command": "AutoCaliBiasCurrents", "value": True})
    assert box.hear("StartAutoIV") is True
    box.say({"request": "StartAutoIV"})
    assert box.hear("StartAutoIV") is True
    step.sleep(0.7)
    found = box.hear("BiasCurrentAutoIV")
    assert len(found) == 4
    assert all(0 < current < 22 for current in found)
    assert box.hear("StartAutoIV") is False
    box.say({"request": "TemperatureHistory"})
    history = box.hear("temperature_long_memory")
    assert 1 < history["T"][-1] < 5 < history["T2"][-1] < 80
    assert time.strptime(history["x"][-1].partition(".")[0], "%d-%b-%y %H:%M:%S")
    assert len(history["x"]) == len(history["T"]) <= 200


# -- ID900 (devices.md 4.1, 9) -----------------------------------------------------------------


@pytest.fixture
def controller(client: Callable[..., Any]) -> TimeController:
    made: TimeController = client(TimeController, "alice_tagger")
    for channel in range(1, 5):
        made.tell(f"INPU{channel}:ENAB ON", f"RAW{channel}:STOP:LINK INPU{channel}")
        made.tell(f"RAW{channel}:REF:LINK NONE", f"RAW{channel}:SEND OFF")
    made.tell("REC:TRIG:ARM:MODE MANU", "REC:ENAB ON", "REC:STOP", "REC:NUM INF")
    return made


def test_id900_scpi_in_messages(controller: TimeController) -> None:
    assert controller.ask("*IDN?") == "IDQ,ID900,1900001,1.20.0"
    controller.tell("devi:resolution lowres")
    controller.tell("DEVIce:RESolution HIRES", "DEVIce:SAMPling:RECAlibrate")
    assert re.fullmatch(r"\d+(TB)?", controller.ask("DEVI:RES:BWID?"))
    # `;` goes on in the branch, `;:` at the root; each query has a line of its own
    answer = controller.ask("INPU2:ENAB ON;EDGE FALLING;:INPUt2:ENABle?;EDGE?;COUP?;SELE?")
    assert answer.split("\n") == ["ON", "FALLING", "DC", "UNSHAPED"]
    controller.tell("INPU2:EDGE RISING;SELE UNSHAPED;COUP DC")
    controller.tell("STAR:THRE 1V", "INPU1:THRE 250mV", "inpu1:coun:mode accum")
    assert float(controller.ask("INPU1:THRE?").removesuffix("V")) == 0.25
    controller.tell("INPU1:COUN:INTE 2 GTB")
    assert controller.ask("INPU1:COUN:INTE?") == "2000000000TB"
    controller.tell("DELA1:VALU 3000")
    assert controller.ask("DELA1:VALU?") == "3000TB"
    controller.tell("DELA1:VALU 0", "INPU1:COUN:INTE 1000 GTB", "INPU1:COUN:MODE CYCL")
    assert controller.ask("INPU1:HIRES:ERROR?") == "0"
    controller.tell("INPU1:HIRES:ERROR:CLEAR", "RAW1:ERRORS:CLEAR", "INPU1:THRE 100mV")
    assert controller.ask("RAW1:ERRORS?") == "0"
    controller.tell("REC:NUM 0", "REC:NUM 1", "REC:DUR 3000 GTB", "REC:NUM INF")
    assert controller.ask("REC:DUR?") == "3000000000000TB"
    assert controller.ask("REC:STAG?") != "PLAYING"
    assert "rror" in controller.ask("NONSENSE")  # exactly one reply, whatever is asked


def test_id900_dlt_answers_in_json(controller: TimeController) -> None:
    assert controller.ask_dlt("list") == []
    number, _ = controller.start_stream(2)
    assert controller.ask_dlt("list") == [number]
    status = controller.ask_dlt(f"status --id {number}")
    assert {"timestamps_count", "acquisitions_count", "inactivity"} <= set(status)
    assert status["timestamps_count"] == 0
    controller.stop_stream(number)
    assert controller.ask_dlt("list") == []
    for wrong in (f"status --id {number}", "fly", "start-stream --channel 9"):
        answer = controller.ask_dlt(wrong)
        assert set(answer) == {"error"}
        assert answer["error"]["description"]


def test_id900_streams_words_with_and_without_index(
    controller: TimeController, step: StepTime, light: None
) -> None:
    assert np.frombuffer(
        bytes.fromhex("40 e2 01 00 00 00 00 00  01 00 00 00 00 00 00 00"), "<i8"
    ).tolist() == [123456, 1]  # the golden vector; below the twin is read the same way
    controller.tell(
        "RAW1:REF:LINK INPU2", "RAW3:STOP:LINK INPU1", "DELA4:LINK INPU1", "DELA4:VALU 3000"
    )
    controller.tell("RAW4:STOP:LINK DELA4")
    streams = {1: controller.start_stream(1, "--with-ref-index")}
    streams |= {n: controller.start_stream(n) for n in (2, 3, 4)}
    controller.tell(*[f"RAW{n}:SEND ON" for n in range(1, 5)])
    controller.tell("REC:PLAY")
    assert controller.ask("REC:STAG?") == "PLAYING"
    step.sleep(0.1)
    counts = {
        n: controller.ask_dlt(f"status --id {number}")["timestamps_count"]
        for n, (number, _) in streams.items()
    }
    controller.tell("REC:STOP")
    found = {n: words_of(stream) for n, (_, stream) in streams.items()}
    for n, (number, _) in streams.items():
        controller.stop_stream(number)
        assert controller.ask(f"RAW{n}:ERRORS?") == "0"
    controller.tell("DELA4:VALU 0", "DELA4:LINK INPU4")
    pairs = found[1].reshape(-1, 2)
    times, refs = found[3], found[2]
    assert counts == {1: len(pairs), 2: len(refs), 3: len(times), 4: len(found[4])}
    assert len(times) > 1000
    assert np.all(np.diff(times) > 0)
    assert 0 <= times[0] < times[-1] < 100_000_000_000
    index = np.searchsorted(refs, times, side="right")
    last = np.concatenate(([0], refs))[index]  # the last REF event, or the record's start
    assert np.array_equal(pairs[:, 1], index)
    assert np.array_equal(pairs[:, 0], times - last)
    assert np.array_equal(found[4], (times + 3000)[: len(found[4])])
    assert len(times) - len(found[4]) <= 1  # one may be in the delay line at the end


# -- TDC1 (devices.md 4.2, 9) ------------------------------------------------------------------


def decode(data: bytes) -> tuple[Times, Times]:
    """Times in 2 ns bins, rollovers undone, and patterns of TDC1 words."""
    words = np.frombuffer(data, "<u4").astype(np.int64)
    bins, dummies = words >> 5, words >> 4 & 1
    # the vendor's rule: a drop of more than 2^25 ns is a rollover
    turns = np.cumsum(np.diff(bins, prepend=0) < -(1 << 24))
    events = dummies == 0
    assert np.all((words & 15 == 0) == ~events)  # a dummy is no event, an event has a channel
    return (bins + (turns << 27))[events], (words & 15)[events]


def test_tdc1_answers_in_text(client: Callable[..., Any], step: StepTime, light: None) -> None:
    tagger: Serial = client(Serial, "bob_tagger")

    def says(command: bytes, answer: bytes) -> None:
        tagger.send(command)
        assert tagger.read(len(answer)) == answer

    tagger.send(b"abort\r\n*RST\r\n*IDN?\r\n")
    assert b"TDC1" in tagger.line()
    says(b"singles;mode?\r\n", b"0\r\n")
    says(b"pairs;mode?;", b"1\r\n")
    says(b"timestamp\rmode?\r\n", b"3\r\n")
    says(b"time 300;time?;", b"300\r\n")
    says(b"time 65535;time?;", b"-1\r\n")  # a signed 16-bit number
    says(b"time 40000;time?;", b"-25536\r\n")
    for setting, volts in ((b"NEG 0.7", -0.7), (b"POS 1.25", 1.25)):
        tagger.send(setting + b";level?\r\n")
        assert float(tagger.line().split()[0]) == volts
    for setting in (b"NIM", b"TTL"):
        tagger.send(setting + b";level?\r\n")
        float(tagger.line().split()[0])
    says(b"REFCLK 1;REFCLK?;", b"1\r\n")
    says(b"ECLOCK?;", b"1\r\n")
    tagger.send(b"time 100;pairs;counts?\r\n")  # answered when the integration time is over
    step.sleep(0.2)
    pairs = tagger.line()
    assert re.fullmatch(rb"\d+( \d+){7}\r\n", pairs)
    c1, c2, c3, c4, c13, c14, c23, c24 = map(int, pairs.split())
    assert min(c1, c2, c3, c4) > 1000
    assert max(c13, c14, c23, c24) < min(c1, c2, c3, c4)
    tagger.send(b"singles;counts?\r\n")
    step.sleep(0.2)
    assert re.fullmatch(rb"\d+( \d+){3}\r\n", tagger.line())


def test_tdc1_streams_raw_words(client: Callable[..., Any], step: StepTime, light: None) -> None:
    golden = bytes.fromhex("e5 d0 5a 02")
    assert [a.tolist() for a in decode(golden)] == [[1234567], [0b0101]]
    assert struct.pack("<I", 1234567 << 5 | 0b0101) == golden
    tagger: Serial = client(Serial, "bob_tagger")
    tagger.send(b"abort\r\ntimestamp\r\nINPKT;time 300;counts?;\r\nmode?\r\n")
    step.grant(0.32)
    tail = b"3\r\n"  # mode? waits for the end of the stream
    data = b""
    while not (data.endswith(tail) and len(data) % 4 == len(tail)):
        data += tagger.read(1) + tagger.port.read(tagger.port.in_waiting)
    step.reached()
    data = data.removesuffix(tail)
    bins, patterns = decode(data)
    assert data[:4] != b"\x10\0\0\0"
    assert np.frombuffer(data, "<u4").tolist().count(1 << 4) == 1  # one rollover in 300 ms
    assert len(bins) > 10_000
    assert np.all(np.diff(bins) > 0)
    assert bins[0] >= 0
    assert 149_900_000 < bins[-1] < 150_000_000  # 300 ms, to within a few clicks
    for channel in range(4):
        assert np.count_nonzero(patterns & 1 << channel) > 1000
    # without end, until abort
    tagger.send(b"INPKT;time 0;counts?;\r\n")
    step.sleep(0.03)
    tagger.send(b"abort\r\nmode?\r\n")
    data = b""
    while not (data.endswith(tail) and len(data) % 4 == len(tail)):
        data += tagger.read(1)
    assert len(decode(data.removesuffix(tail))[0]) > 100


# -- one world behind all of them --------------------------------------------------------------


def test_boxes_on_the_same_detectors_count_the_same_clicks(
    client: Callable[..., Any], step: StepTime, controller: TimeController, light: None
) -> None:
    box: WebSQ = client(WebSQ, "alice_snspd")
    controller.ask("INPU1:COUN?")
    step.sleep(BLOCK_S)
    with box.counts() as counts, counts.makefile("rb") as lines:
        for channel in range(1, 5):
            controller.tell(f"INPU{channel}:COUN:MODE ACCUM", f"INPU{channel}:COUN:RESE")
        box.command("SetMeasurementPeriod", "InptMeasurementPeriod", 100)  # a period begins
        assert box.hear("InptMeasurementPeriod") == 100
        step.sleep(0.1)
        pushed = [int(n) for n in lines.readline().split(b",")[1:]]
    assert [int(controller.ask(f"INPU{n}:COUN?")) for n in range(1, 5)] == pushed
    assert min(pushed) > 1000


def test_clicks_of_a_pair_meet_at_the_delay_of_the_layout(
    client: Callable[..., Any], step: StepTime, controller: TimeController, light: None
) -> None:
    """Absolute scale and channels of both taggers' words, against the world file."""
    tagger: Serial = client(Serial, "bob_tagger")
    streams = [controller.start_stream(n) for n in range(1, 5)]
    controller.tell(*[f"RAW{n}:SEND ON" for n in range(1, 5)])
    controller.tell("REC:PLAY")
    tagger.send(b"abort\r\ntimestamp\r\nmode?\r\nINPKT;time 100;counts?;\r\nmode?\r\n")
    assert tagger.read(3) == b"3\r\n"
    step.grant(0.12)
    data = b""
    while not (data.endswith(b"3\r\n") and len(data) % 4 == 3):
        data += tagger.read(1) + tagger.port.read(tagger.port.in_waiting)
    step.reached()
    controller.tell("REC:STOP")
    alice = [words_of(stream) for _, stream in streams]
    for number, _ in streams:
        controller.stop_stream(number)
    bins, patterns = decode(data.removesuffix(b"3\r\n"))
    bob = [bins[patterns & 1 << i != 0] * 2000 for i in range(4)]
    flight_ps = {"alice": 10e3 * FIBRE_S_PER_M * 1e12, "bob": 15e3 * FIBRE_S_PER_M * 1e12}
    whole = {}
    for party, channels in (("alice", alice), ("bob", bob)):
        shift = START_PS[party] - round(flight_ps[party]) - CABLES_PS[party]
        whole[party] = np.sort(
            np.concatenate([times + shift[i] for i, times in enumerate(channels)])
        )
    a, b = whole["alice"], whole["bob"] + 1000  # the middle of a bin

    def coincidences(delay_ps: int) -> int:
        low = np.searchsorted(a, b - delay_ps - 1500)
        high = np.searchsorted(a, b - delay_ps + 1500, side="right")
        return int((high - low).sum())

    # 2e6 pairs/s, of which 1e4 are seen by both; 2e5 and 1e5 clicks/s give 60/s by accident
    met = coincidences(0)
    assert met == pytest.approx(1e4 * (0.1 - 0.006), rel=0.15)
    assert met > 20 * max(coincidences(d) for d in (-50_000, -10_000, 10_000, 50_000))


# -- who joins ---------------------------------------------------------------------------------


def test_a_bench_joins_a_stepped_world_by_twin_addresses(
    served: Served, light: None, step: StepTime, tmp_path: Path
) -> None:
    step.close()  # who grants nothing more must leave, or the world stands
    host, port = served.control
    bench = tmp_path / "bench.yaml"
    bench.write_text(
        "bellbench: bench/1\n"
        "instruments:\n"
        f"  heater: {{driver: thorlabs.tc200, address: 'twin://{host}:{port}/oven'}}\n"
        f"  laser: {{driver: thorlabs.cld1015, address: 'twin://{host}:{port}/pump',"
        " settings: {current: 60 mA}, on_exit: leave}\n"
        f"  power: {{driver: thorlabs.pm100d, address: 'twin://{host}:{port}/meter'}}\n"
    )
    with bellbench.open_bench(bench) as lab:
        before = lab.clock.now()
        lab.clock.sleep(0.5)
        assert lab.clock.now() == pytest.approx(before + 0.5)
        assert lab.power.power.get() == pytest.approx(0.01 * 0.5 * (0.06 - 0.04))
        assert lab.heater.measured_temperature.get() == pytest.approx(40, abs=0.5)
        assert lab.all_twins


# -- paced time --------------------------------------------------------------------------------


def at_addresses(bench: Path, addresses: dict[str, str], into: Path) -> None:
    """Write the bench as a user does for instruments at these addresses."""
    yaml = YAML(typ="safe")
    content = yaml.load(bench)
    del content["world"]
    content["twin"] = False
    for name, address in addresses.items():
        content["instruments"][name]["address"] = address
    yaml.dump(content, into)


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    bench = write_bench(tmp_path_factory.mktemp("paced"))
    with serving(bench, "--seed", "2") as found:
        yield found, bench
        assert found.said() == ""


def test_an_experiment_runs_on_served_addresses_as_on_instruments(
    paced: tuple[Served, Path], tmp_path: Path
) -> None:
    served, bench = paced
    assert served.lines[-1]["mode"] == "paced"
    assert served.lines[-1]["factor"] == 1.0
    at_addresses(bench, served.addresses, tmp_path / "bench.yaml")
    (tmp_path / "exchange.yaml").write_text(
        "bellbench: experiment/1\n"
        "protocol: bbm92\n"
        "bench: bench.yaml\n"
        "duration: 2.5 s\n"
        "calibration: 0.5 s\n"
        "coincidence_window: 4 ns\n"
        "key: {qber_tolerance: 4 %, expected_sifted_rate: 12 kHz}\n"
    )
    options = ["--json", "--out", str(tmp_path / "runs")]
    result = subprocess.run(
        [sys.executable, "-P", "-m", "bellbench", "run", str(tmp_path / "exchange.yaml"), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads(result.stdout)
    assert not metrics["aborted"], metrics["reason"]
    assert metrics["seed"] is None
    assert metrics["randomness"] == "system"  # nothing tells these addresses from instruments
    assert metrics["secret_key_bits"] > 0
    (folder,) = (tmp_path / "runs").iterdir()
    keys = [(folder / f"{party}.key").read_bytes() for party in ("alice", "bob")]
    assert keys[0] == keys[1]
    assert keys[0]


def test_a_paced_world_keeps_wall_time(paced: tuple[Served, Path]) -> None:
    served, _ = paced
    with contextlib.closing(WebSQ(served.addresses["bob_snspd"])) as box:
        box.command("SetMeasurementPeriod", "InptMeasurementPeriod", 100)
        box.hear("InptMeasurementPeriod")
        with box.counts() as counts, counts.makefile("rb") as lines:
            stamps = [float(lines.readline().split(b",")[0])]
            begin = time.monotonic()
            stamps += [float(lines.readline().split(b",")[0]) for _ in range(10)]
            elapsed = time.monotonic() - begin
    assert np.diff(stamps) == pytest.approx(0.1, abs=2e-3)
    assert elapsed == pytest.approx(1.0, abs=0.5)
    control = StepTime(served.control)
    try:
        refusal = control.say({"op": "grant", "until_ps": 10**13})
    finally:
        control.close()
    assert refusal["event"] == "error"
    assert "paced" in refusal["message"]


def test_a_served_twin_beside_a_twin_of_ones_own(
    paced: tuple[Served, Path], tmp_path: Path
) -> None:
    served, bench = paced
    own = tmp_path / "bench.yaml"
    (tmp_path / "world.yaml").write_text((bench.parent / "world.yaml").read_text())
    own.write_text(
        "bellbench: bench/1\n"
        "world: world.yaml\n"
        "instruments:\n"
        "  oven: {driver: thorlabs.tc200, address: twin, settings: {temperature: 33 degC}}\n"
        f"  elsewhere: {{driver: thorlabs.tc200, address: '{served.addresses['oven']}'}}\n"
    )
    with bellbench.open_bench(own, seed=3) as lab:
        assert not lab.all_twins
        lab.elsewhere.temperature.set(36.0)
        assert lab.oven.temperature.get() == 33.0
        assert lab.elsewhere.temperature.get() == 36.0


# -- the end -----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals for a child")
def test_a_signal_ends_the_server_cleanly_with_clients_connected(tmp_path: Path) -> None:
    servers = []
    try:
        for name, options in (("a", ["--stepped"]), ("b", [])):
            (tmp_path / name).mkdir()
            servers.append(Served(write_bench(tmp_path / name), *options, "--seed", "4"))
        for server, number in zip(servers, (signal.SIGINT, signal.SIGTERM), strict=True):
            server.wait()
            end_by(server, number)
    finally:
        for server in servers:
            server.end()


def end_by(server: Served, number: int) -> None:
    kinds: Sequence[tuple[Callable[[str], Any], str]] = (
        (Visa, "pump"),
        (Visa, "meter"),
        (Serial, "oven"),
        (Serial, "bob_paddles"),
        (Serial, "bob_tagger"),
        (WebSQ, "bob_snspd"),
        (TimeController, "alice_tagger"),
    )
    with contextlib.ExitStack() as stack:
        made = {}
        for kind, name in kinds:
            made[name] = stack.enter_context(contextlib.closing(kind(server.addresses[name])))
        made["bob_snspd"].switch_on()
        counts = stack.enter_context(made["bob_snspd"].counts())
        made["bob_tagger"].send(b"timestamp\r\nINPKT;time 0;counts?;\r\n")
        made["alice_tagger"].start_stream(1)
        made["alice_tagger"].tell("RAW1:SEND ON", "INPU1:ENAB ON", "REC:ENAB ON", "REC:PLAY")
        control = stack.enter_context(contextlib.closing(StepTime(server.control)))
        if server.lines[-1]["mode"] == "stepped":
            control.grant(1000.0)  # busy with blocks when the signal comes
        counts.recv(4096)
        server.process.send_signal(number)
        assert server.process.wait(PATIENCE_S) in (0, 128 + number)
        assert "Traceback" not in server.said()
        assert "xception" not in server.said()
        while counts.recv(4096):
            pass
