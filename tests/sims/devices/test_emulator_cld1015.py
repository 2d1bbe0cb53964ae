"""The CLD1015 twin, over a real socket, with plain pyvisa and plain bytes."""

from __future__ import annotations

import itertools
import socket
from typing import Any

import pytest
from bellbench.sims.devices.cld1015 import CLD1015Emulator
from bellbench.sims.elements import PumpLaser, PumpLaserModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def laser() -> PumpLaser:
    return PumpLaser(PumpLaserModel(kind="pump_laser", threshold=0.04, slope=0.5))


def build(stage: Any, name: str = "laser", **changes: Any) -> tuple[CLD1015Emulator, str]:
    emulator = CLD1015Emulator(stage.setting(name), laser(), CLD1015Emulator.Settings(**changes))
    return emulator, stage.open(emulator)


@pytest.fixture
def twin(stage: Any) -> tuple[CLD1015Emulator, PumpLaser, str]:
    emulator, resource = build(stage)
    return emulator, emulator._laser, resource


@pytest.fixture
def device(visa: Any, twin: Any) -> Any:
    return visa(twin[2])


def tell(device: Any, command: str) -> None:
    """Send a setting and return when it has acted: world time is about to pass."""
    assert device.query(f"{command};*OPC?") == "1"


def error(device: Any) -> str:
    return str(device.query("SYST:ERR?"))


def test_identity_and_an_empty_error_queue(device: Any) -> None:
    assert device.query("*IDN?") == "THORLABS,CLD1015,M00000001,1.4.0/2.0.3/1.6.0"
    assert error(device) == '+0,"No error"'


def test_knobs_turn_at_the_next_block_and_registers_at_once(
    stage: Any, twin: Any, device: Any
) -> None:
    emulator, element, _ = twin
    device.write("OUTP2 ON;:SOUR:CURR 0.1;:SOUR2:TEMP 20.0C;:OUTP ON")
    assert device.query("SOUR:CURR?;:OUTP?;:OUTP2?") == "1.000000E-01;1;1"
    assert error(device) == '+0,"No error"'
    assert not element.emitting
    assert element.current_a == 0.0
    assert float(device.query("MEAS:CURR?")) == 0.0
    stage.step(emulator)
    assert element.emitting
    assert element.tec_on
    assert (element.current_a, element.tec_setpoint_c) == (0.1, 20.0)
    assert float(device.query("MEAS:CURR?")) == 0.1
    assert float(device.query("SENS3:CURR:DATA?")) == 0.1
    assert float(device.query("MEAS:VOLT?")) == pytest.approx(1.4)
    assert float(device.query("MEAS:POW2?")) == pytest.approx(0.03)


def test_current_above_the_limit_is_refused(stage: Any, twin: Any, device: Any) -> None:
    device.write("SOUR:CURR:LIM 200mA")
    device.write("SOUR:CURR 0.2001")
    assert error(device) == '-222,"Data out of range"'
    assert device.query("SOUR:CURR?") == "0.000000E+00"
    assert device.query("SOUR:CURR? MAX") == "2.000000E-01"
    device.write("SOUR:CURR MAX;:SOUR:CURR:LIM 0.15")
    assert device.query("SOUR:CURR?") == "1.500000E-01"
    device.write("SOUR:CURR:LIM 1.6")
    assert error(device) == '-222,"Data out of range"'
    device.write("SOUR:CURR -0.1")
    assert error(device) == '-222,"Data out of range"'


def test_no_laser_without_its_cooler(stage: Any, twin: Any, device: Any) -> None:
    emulator, element, _ = twin
    device.write("OUTP ON")
    assert error(device) == '-221,"Settings conflict"'
    device.write("OUTP2 ON;:OUTP ON;:OUTP2 OFF")
    assert device.query("OUTP?") == "0"
    stage.step(emulator)
    assert not element.emitting
    assert not element.tec_on


@pytest.mark.parametrize(
    ("changes", "header", "bit"),
    [({"key_locked": True}, "KEYL", 1), ({"interlock_open": True}, "INTL", 4)],
)
def test_protections_keep_the_laser_off(
    stage: Any, visa: Any, changes: dict[str, Any], header: str, bit: int
) -> None:
    _, resource = build(stage, **changes)
    device = visa(resource)
    device.write("OUTP2 ON;:OUTP ON")
    assert error(device) == '-221,"Settings conflict"'
    assert device.query(f"OUTP:PROT:{header}:TRIP?") == "1"
    assert int(device.query("STAT:MEAS:COND?")) & bit


def test_the_rear_enable_input_holds_the_laser(device: Any) -> None:
    device.write("OUTP:PROT:EXT:MODE ENABLE;:OUTP2 ON;:OUTP ON")
    assert error(device) == '-221,"Settings conflict"'
    assert device.query("OUTP:PROT:EXT:MODE?") == "ENAB"
    device.write("OUTP:PROT:EXT:MODE OFF;:OUTP ON")
    assert device.query("OUTP?") == "1"


def test_temperature_unit_and_window(stage: Any, twin: Any, device: Any) -> None:
    emulator, element, _ = twin
    device.write("UNIT:TEMP K")
    assert device.query("UNIT:TEMP?") == "K"
    assert float(device.query("SOUR2:TEMP?")) == pytest.approx(298.15)
    device.write("SOUR2:TEMP 300")
    device.write("UNIT:TEMP C")
    assert device.query("UNIT:TEMP?") == "CEL"
    assert float(device.query("SOUR2:TEMP?")) == pytest.approx(26.85)
    device.write("SOUR2:TEMP 77F")
    assert float(device.query("SOUR2:TEMP?")) == pytest.approx(25.0)
    device.write("SOUR2:TEMP 100")
    assert error(device) == '-222,"Data out of range"'
    tell(device, "OUTP2 ON")
    stage.step(emulator, fill=lambda _begin, _end: element.settle(0.01))
    assert int(device.query("STAT:MEAS:COND?")) & (1 << 9)
    stage.step(emulator, 1000, fill=lambda _begin, _end: element.settle(0.01))
    assert float(device.query("MEAS:TEMP?")) == pytest.approx(25.0, abs=0.01)
    assert int(device.query("STAT:MEAS:COND?")) & (1 << 9) == 0
    assert int(device.query("STAT:MEAS?")) & (1 << 9)  # latched...
    assert int(device.query("STAT:MEAS?")) == 0  # ...until read


def test_constant_power_finds_the_current(stage: Any, twin: Any, device: Any) -> None:
    emulator, element, _ = twin
    tell(device, "SOUR:FUNC:MODE POW;:SOUR:POW 20mW;:OUTP2 ON;:OUTP ON")
    stage.step(emulator)
    assert element.power_w == pytest.approx(0.02)
    device.write("SOUR:FUNC:MODE CURR")
    assert error(device) == '-221,"Settings conflict"'
    assert device.query("SOUR:FUNC:MODE?") == "POW"
    tell(device, "SOUR:CURR:LIM 50mA")
    stage.step(emulator)
    assert element.current_a == 0.05
    assert int(device.query("STAT:MEAS:COND?")) & (1 << 3)


def test_reset_switches_off_and_keeps_the_limit(stage: Any, twin: Any, device: Any) -> None:
    emulator, element, _ = twin
    device.write("SOUR:CURR:LIM 0.3;:SOUR:CURR 0.1;:OUTP2 ON;:OUTP ON;*SAV 1;*RST")
    assert device.query("OUTP?;:OUTP2?;:SOUR:CURR?") == "0;0;0.000000E+00"
    assert device.query("SOUR:CURR:LIM?") == "3.000000E-01"
    device.write("*RCL 1")
    assert device.query("OUTP?;:SOUR:CURR?") == "0;1.000000E-01"
    stage.step(emulator)
    assert not element.emitting


STREAM = b"*IDN?\nSOUR:CURR 0.1;CURR?\nFOO\nSYST:ERR?\r\n\n*OPC?;:OUTP?\n"
ANSWER = (
    b'THORLABS,CLD1015,M00000001,1.4.0/2.0.3/1.6.0\n1.000000E-01\n-113,"Undefined header"\n1;0\n'
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.sets(st.integers(1, len(STREAM) - 1)))
def test_any_split_of_the_commands_gives_the_same_replies(
    stage: Any, twin: Any, cuts: set[int]
) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in itertools.pairwise(edges)]
    assert stage.converse(stage.endpoint(twin[2]), pieces, len(ANSWER)) == ANSWER


def test_chaos_changes_packets_and_not_bytes(stage: Any) -> None:
    _, resource = build(stage, chaos=True)
    assert stage.converse(stage.endpoint(resource), [STREAM] * 20, 20 * len(ANSWER)) == ANSWER * 20


def test_hostile_clients_are_survived(stage: Any, twin: Any, device: Any) -> None:
    where = stage.endpoint(twin[2])
    stage.flood(where, b"x" * 1_000_000)
    with socket.create_connection(where, 5) as client:
        client.sendall(bytes(range(256)) * 10)
    socket.create_connection(where, 5).close()
    assert device.query("*OPC?") == "1"


def test_two_of_a_kind_coexist(stage: Any, visa: Any) -> None:
    _, one = build(stage, "left", serial_number="M1")
    _, two = build(stage, "right", serial_number="M2")
    assert one != two
    a, b = visa(one), visa(two)
    a.write("SOUR:CURR 0.1")
    assert (a.query("*IDN?").split(",")[2], b.query("*IDN?").split(",")[2]) == ("M1", "M2")
    assert (a.query("SOUR:CURR?"), b.query("SOUR:CURR?")) == ("1.000000E-01", "0.000000E+00")
