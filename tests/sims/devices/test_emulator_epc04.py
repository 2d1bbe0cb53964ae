"""The EPC-DRIVER-04's twin on its own wire, and what its squeezers do to light."""

import itertools
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import ConfigError
from bellbench.sims.devices.epc04 import EPC04Emulator
from bellbench.sims.elements import Squeezers, SqueezersModel
from bellbench.sims.physics.polarization import retarders
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


class Port:
    """What is needed of pyserial, whose sockets take 0.3 s to close."""

    def __init__(self, where: tuple[str, int]) -> None:
        self._socket = socket.create_connection(where, 10)
        self._got = b""

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read_until(self, end: bytes) -> bytes:
        while end not in self._got:
            self._more()
        return self.read(self._got.index(end) + len(end))

    def read(self, size: int) -> bytes:
        while len(self._got) < size:
            self._more()
        found, self._got = self._got[:size], self._got[size:]
        return found

    def close(self) -> None:
        self._socket.close()

    def _more(self) -> None:
        data = self._socket.recv(4096)
        assert data, self._got
        self._got += data


class Bench:
    def __init__(self, stage: Any, model: dict[str, Any] | None = None, **keys: Any) -> None:
        self.stage = stage
        self.squeezers = Squeezers(SqueezersModel(kind="squeezers", **(model or {})))
        self.twin = EPC04Emulator(
            stage.setting(), self.squeezers, EPC04Emulator.Settings.model_validate(keys)
        )
        self.where = stage.endpoint(stage.open(self.twin))
        self.port = Port(self.where)

    def ask(self, command: str) -> str:
        self.port.write(command.encode() + b"\r\n")
        content = self.port.read_until(b"\r\n").decode()
        if content != "Error!\r\n":
            assert self.port.read_until(b"\r\n") == b"Done\r\n"
        return str(content.removesuffix("\r\n"))

    def step(self, blocks: int = 1) -> None:
        self.stage.step(self.twin, blocks)


@pytest.fixture
def bench(stage: Any) -> Iterator[Bench]:
    found = Bench(stage)
    yield found
    found.port.close()


def test_the_golden_conversation(bench: Bench) -> None:
    bench.port.write(b"V1,1500\r\n")
    golden = b"Set CH1 DC Voltage at: 1500mV\r\nDone\r\n"
    assert bench.port.read(len(golden)) == golden
    for command, answer in (
        ("V1,2200", "Set CH1 DC Voltage at: 2200mV"),
        ("VH2", "Set CH2 DC Voltage at: 5000mV"),
        ("V3,-1000", "Set CH3 DC Voltage at: -1000mV"),
        ("VL4", "Set CH4 DC Voltage at: -5000mV"),
        ("V4,-4000", "Set CH4 DC Voltage at: -4000mV"),
        ("V?", "Voltage(mV): CH1 +2200 CH2 +5000 CH3 -1000 CH4 -4000"),
        ("VZ2", "Set CH2 DC Voltage at: 0mV"),
        ("M?", "Work Mode: DC"),
        ("MAC", "Set To AC Mode"),
        ("M?", "Work Mode: AC(Sine)"),
        ("MDC", "Set To DC Mode"),
        ("F?", "Frequency(Hz): CH1 007  CH2 017  CH3 037  CH4 071"),
        ("F1,50", "Set CH1 AC Frequency at: 50Hz"),
        ("WF?", "AC Waveform: Sine"),
        ("WF2", "Set AC Waveform at: Triangle"),
        ("WF?", "AC Waveform: Triangle"),
        ("ENVF1", "Enable DC Voltage Output at AC Mode"),
        ("VF2", "Set CH2 output to: Volt (if possible)"),
        ("VF?", "Hz<->Volt at AC Mode is enabled: CH1-F,CH2-V,CH3-F,CH4-F"),
        ("ENVF0", "Disable DC Voltage Output at AC Mode"),
        ("SAVE", "Write Setting to Flash memory"),
    ):
        assert bench.ask(command) == answer


@pytest.mark.parametrize(
    "command",
    [
        *["V1,5001", "V1,-5001", "V0,0", "V5,0", "V1,1.5", "V1", "V1,", "V1,99999999", "V,100"],
        *["F1,101", "F1,-1", "F5,1", "VH5", "VZ", "WF3", "WF", "ENVF2", "VF9", "Q?", "MXX", "M"],
        *["v1,0", "V?1", "MAC1", "\xe4"],
    ],
)
def test_nonsense_is_answered_with_an_error(bench: Bench, command: str) -> None:
    before = bench.ask("V?")
    assert bench.ask(command) == "Error!"
    assert bench.ask("V?") == before


def test_voltages_act_at_the_next_block_in_their_order(bench: Bench) -> None:
    bench.ask("V2,1400")
    assert bench.squeezers.volts == [0.0] * 4
    bench.step()
    assert bench.squeezers.volts == [0.0, 1.4, 0.0, 0.0]
    # Over the top and back within one block: hysteresis has seen the way.
    straight = bench.squeezers.retardances_deg[1]
    bench.ask("VH2")
    bench.ask("V2,1400")
    bench.step()
    assert bench.squeezers.volts[1] == 1.4
    assert bench.squeezers.retardances_deg[1] > straight + 5


def test_the_flash_holds_the_voltages_at_power_up(stage: Any) -> None:
    bench = Bench(stage, {"hysteresis": 0, "creep": 0}, start=[1.4, 0, -0.7, 5])
    assert bench.ask("V?") == "Voltage(mV): CH1 +1400 CH2 +0 CH3 -700 CH4 +5000"
    bench.step()
    made = bench.squeezers.passage().jones
    wanted = retarders((180.0, 0.0, -90.0, 5 / 1.4 * 180), (0.0, 45.0, 0.0, 45.0))
    assert np.abs(made - wanted).max() < 1e-12
    bench.port.close()


def test_three_squeezers_are_driven_and_five_are_refused(stage: Any) -> None:
    bench = Bench(stage, {"axes": (0.0, 45.0, 0.0)})
    bench.ask("V4,1000")
    bench.step()
    assert bench.squeezers.volts == [0.0] * 3
    bench.port.close()
    with pytest.raises(ConfigError, match="drives four squeezers, the element has 5 axes"):
        Bench(stage, {"axes": (0.0,) * 5})


def test_scrambling_depolarizes_within_a_block(stage: Any) -> None:
    """One squeezer about S1 swung by 100 Hz: the mean of S2 is a Bessel function, J0(phi)."""
    bench = Bench(stage, {"axes": (0.0,), "pi_voltage": 5.0})
    for command in ("F1,100", "MAC"):
        bench.ask(command)
    bench.step()
    passage = bench.squeezers.passage()
    assert passage.stokes is not None
    j0 = -0.30424217764409384  # J0(pi)
    assert np.diag(passage.stokes) == pytest.approx([1, 1, j0, j0], abs=1e-6)
    bench.ask("MDC")
    bench.step()
    still = bench.squeezers.passage()
    assert still.stokes is None
    assert np.abs(still.jones - np.eye(2)).max() < 1e-12
    bench.port.close()


def test_a_channel_can_stand_while_others_swing(stage: Any) -> None:
    bench = Bench(stage, {"axes": (0.0, 0.0), "pi_voltage": 5.0})
    for command in ("F1,0", "V2,2500", "VF2", "ENVF1", "MAC"):
        bench.ask(command)
    bench.step()
    turned = bench.squeezers.passage().stokes
    assert turned is not None
    # 90 degrees about S1, wholly polarized
    assert turned[2:, 2:] == pytest.approx(np.array([[0.0, -1.0], [1.0, 0.0]]), abs=1e-9)
    bench.port.close()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 22), max_size=5))
def test_any_split_of_the_bytes_gives_the_same_replies(bench: Bench, cuts: list[int]) -> None:
    stream = b"V1,1500\r\nV9,0\r\n\r\nM?\r\n"
    edges = [0, *sorted(cuts), len(stream)]
    for begin, end in itertools.pairwise(edges):
        bench.port.write(stream[begin:end])
    wanted = b"Set CH1 DC Voltage at: 1500mV\r\nDone\r\nError!\r\nWork Mode: DC\r\nDone\r\n"
    assert bench.port.read(len(wanted)) == wanted


def test_one_client_and_no_floods(bench: Bench, stage: Any) -> None:
    bench.port.close()
    stage.flood(bench.where, b"V" * 200_000)
    assert stage.converse(bench.where, [b"M?\r\n"], 21) == b"Work Mode: DC\r\nDone\r\n"
