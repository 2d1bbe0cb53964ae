"""The PM100D twin, over a real socket, with plain pyvisa and plain bytes."""

from __future__ import annotations

import itertools
import socket
from typing import Any

import numpy as np
import pytest
from bellbench.sims.devices.pm100d import PM100DEmulator
from bellbench.sims.elements import PowerMeterHead, PowerMeterModel, PumpLaser, PumpLaserModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def head(noise: float = 0.0) -> PowerMeterHead:
    """1 % of a laser of 0.5 W/A above 40 mA."""
    laser = PumpLaser(PumpLaserModel(kind="pump_laser", threshold=0.04, slope=0.5))
    model = PowerMeterModel(kind="power_meter", at="laser", tap=0.01, noise=noise)
    return PowerMeterHead(model, laser)


def light(element: PowerMeterHead, power_w: float) -> None:
    """Put ``power_w`` on the head."""
    element.laser.emitting = power_w > 0
    element.laser.current_a = 0.04 + power_w / 0.5 / 0.01


def build(
    stage: Any, name: str = "meter", *, noise: float = 0.0, seed: int = 1, **changes: Any
) -> tuple[PM100DEmulator, PowerMeterHead, str]:
    element = head(noise)
    emulator = PM100DEmulator(
        stage.setting(name, seed=seed), element, PM100DEmulator.Settings(**changes)
    )
    return emulator, element, stage.open(emulator)


@pytest.fixture
def twin(stage: Any) -> tuple[PM100DEmulator, PowerMeterHead, str]:
    return build(stage)


@pytest.fixture
def device(visa: Any, twin: Any) -> Any:
    return visa(twin[2])


def error(device: Any) -> str:
    return str(device.query("SYST:ERR?"))


def test_console_and_head_tell_who_they_are(device: Any) -> None:
    assert device.query("*IDN?") == "Thorlabs,PM100D,P0000001,2.4.0"
    assert device.query("SYST:SENS:IDN?") == "S120VC,00000001,01-Jan-2026,1,18,33"
    assert error(device) == '+0,"No error"'


def test_a_reading_is_the_tapped_power_of_the_laser(twin: Any, device: Any) -> None:
    _, element, _ = twin
    assert device.query("MEAS:POW?") == "0.000000E+00"
    element.laser.emitting, element.laser.current_a = True, 0.12
    assert device.query("MEAS:POW?") == "4.000000E-04"
    assert device.query("MEASure:SCALar:POWer?") == "4.000000E-04"
    device.write("CONF:POW")
    assert device.query("CONF?;:READ?") == "POW;4.000000E-04"
    element.laser.emitting = False
    assert device.query("READ?") == "0.000000E+00"


def test_wavelength_turns_the_knob_at_the_next_block(stage: Any, twin: Any, device: Any) -> None:
    emulator, element, _ = twin
    assert device.query("SENS:CORR:WAV?") == "4.050000E+02"
    device.write("SENS:CORR:WAV 810")
    assert device.query("SENS:CORR:WAV?") == "8.100000E+02"
    assert element.wavelength_m == 405e-9
    stage.step(emulator)
    assert element.wavelength_m == pytest.approx(810e-9)
    device.write("SENS:CORR:WAV 405.25 nm")
    assert device.query("SENS:CORR:WAV?") == "4.052500E+02"
    assert device.query("SENS:CORR:WAV? MIN;WAV? MAX") == "2.000000E+02;1.100000E+03"
    for edge in ("200", "1100", "MIN", "MAX"):
        device.write(f"SENS:CORR:WAV {edge}")
        assert error(device) == '+0,"No error"'
    for outside in ("199.9", "1100.1", "-5", "1e300"):
        device.write(f"SENS:CORR:WAV {outside}")
        assert error(device) == '-222,"Data out of range"'
    assert device.query("SENS:CORR:WAV?") == "1.100000E+03"
    device.write("*RST")
    assert device.query("SENS:CORR:WAV?") == "4.050000E+02"


def test_the_range_follows_the_power_until_it_is_set(twin: Any, device: Any) -> None:
    _, element, _ = twin
    upper = "SENS:POW:RANG:UPP?"
    assert device.query(f"SENS:POW:RANG:AUTO?;:{upper}") == "1;5.000000E-08"
    light(element, 0.4e-3)
    assert device.query(upper) == "5.000000E-04"
    light(element, 0.6e-3)
    assert device.query(upper) == "5.000000E-03"
    device.write("SENS:POW:RANG:UPP 500uW")
    assert device.query(f"SENS:POW:RANG:AUTO?;:{upper}") == "0;5.000000E-04"
    assert device.query("MEAS:POW?") == "9.900000E+37"
    device.write("SENS:POW:RANG:UPP 501uW")
    assert device.query(upper) == "5.000000E-03"
    assert float(device.query("MEAS:POW?")) == pytest.approx(0.6e-3)
    device.write("SENS:POW:RANG:AUTO ON")
    light(element, 60e-3)  # more than the head takes
    assert device.query(f"{upper};:MEAS:POW?") == "5.000000E-02;9.900000E+37"
    light(element, 0.0)
    device.write("SENS:POW:RANG:UPP 60mW")
    assert error(device) == '-222,"Data out of range"'
    assert device.query("SENS:POW:RANG:AUTO?;UPP? MAX") == "1;5.000000E-02"


def test_switching_the_automatic_range_off_holds_the_present_one(twin: Any, device: Any) -> None:
    _, element, _ = twin
    light(element, 2e-6)
    device.write("SENS:POW:RANG:AUTO 0")
    assert device.query("SENS:POW:RANG:AUTO?;UPP?") == "0;5.000000E-06"
    light(element, 0.0)
    assert device.query("SENS:POW:RANG:UPP?") == "5.000000E-06"


def readings(device: Any, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([float(device.query("MEAS:POW?")) for _ in range(n)])


def test_averages_narrow_the_noise_by_their_root(stage: Any, visa: Any) -> None:
    _, element, resource = build(stage, noise=0.02)
    light(element, 1e-3)
    device = visa(resource)
    n = 400
    one = readings(device, n) / 1e-3
    device.write("SENS:AVER:COUN 100")
    assert device.query("SENS:AVER:COUN?") == "100"
    hundred = readings(device, n) / 1e-3
    # The mean of n readings is known to spread/sqrt(n), their spread to spread/sqrt(2n): 5 sigma.
    for sample, spread in ((one, 0.02), (hundred, 0.002)):
        assert sample.mean() == pytest.approx(1.0, abs=5 * spread / np.sqrt(n))
        assert sample.std() == pytest.approx(spread, abs=5 * spread / np.sqrt(2 * n))
    for refused in ("0", "10001"):
        device.write(f"SENS:AVER:COUN {refused}")
        assert error(device) == '-222,"Data out of range"'
    assert device.query("SENS:AVER:COUN? MIN;COUN? MAX") == "1;10000"


def test_the_noise_follows_from_the_seed(stage: Any, visa: Any) -> None:
    found = []
    for name, seed in (("meter", 1), ("meter", 1), ("meter", 2), ("other", 1)):
        _, element, resource = build(stage, name, noise=0.01, seed=seed)
        light(element, 1e-3)
        device = visa(resource)
        found.append(tuple(readings(device, 5)))
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_zeroing_takes_what_is_on_the_head_for_darkness(twin: Any, device: Any) -> None:
    _, element, _ = twin
    device.write("SENS:CORR:COLL:ZERO")
    assert device.query("SENS:CORR:COLL:ZERO:STAT?;MAGN?") == "0;0.000000E+00"
    light(element, 1e-6)
    device.write("SENS:CORR:COLL:ZERO:INIT")
    assert float(device.query("SENS:CORR:COLL:ZERO:MAGN?")) == pytest.approx(1e-6)
    light(element, 5e-6)
    assert float(device.query("MEAS:POW?")) == pytest.approx(4e-6)
    device.write("*RST")
    assert float(device.query("MEAS:POW?")) == pytest.approx(5e-6)


def test_readings_in_dbm(twin: Any, device: Any) -> None:
    _, element, _ = twin
    light(element, 0.1e-3)
    device.write("SENS:POW:UNIT DBM")
    assert float(device.query("MEAS:POW?")) == pytest.approx(-10.0, abs=1e-6)
    light(element, 0.0)
    assert device.query("SENS:POW:UNIT?;:MEAS:POW?") == "DBM;9.910000E+37"
    device.write("SENS:POW:UNIT HP")
    assert error(device) == '-141,"Invalid character data"'


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("FOO", '-113,"Undefined header"'),
        ("CONF:ENER", '-113,"Undefined header"'),
        ("SENS:CORR:WAV", '-109,"Missing parameter"'),
        ("SENS:CORR:WAV 405,406", '-108,"Parameter not allowed"'),
        ("SENS:CORR:WAV blue", '-104,"Data type error"'),
        ("SENS:CORR:WAV 405 s", '-131,"Invalid suffix"'),
        ("MEAS:POW? 1", '-108,"Parameter not allowed"'),
    ],
)
def test_refusals_go_to_the_error_queue(device: Any, command: str, expected: str) -> None:
    device.write(command)
    assert error(device) == expected
    assert error(device) == '+0,"No error"'


STREAM = b"*IDN?\nSENS:CORR:WAV 810;WAV?\nFOO\nSYST:ERR?\r\n\n*OPC?;:MEAS:POW?\n"
ANSWER = b'Thorlabs,PM100D,P0000001,2.4.0\n8.100000E+02\n-113,"Undefined header"\n1;0.000000E+00\n'


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
    _, _, resource = build(stage, chaos=True)
    assert stage.converse(stage.endpoint(resource), [STREAM] * 20, 20 * len(ANSWER)) == ANSWER * 20


def test_hostile_clients_are_survived(stage: Any, twin: Any, device: Any) -> None:
    where = stage.endpoint(twin[2])
    stage.flood(where, b"x" * 1_000_000)
    with socket.create_connection(where, 5) as client:
        client.sendall(bytes(range(256)) * 10)
    socket.create_connection(where, 5).close()
    assert device.query("*OPC?") == "1"


def test_two_of_a_kind_coexist(stage: Any, visa: Any) -> None:
    _, left, one = build(stage, "left", serial_number="P1")
    _, _, two = build(stage, "right", serial_number="P2")
    light(left, 1e-3)
    a, b = visa(one), visa(two)
    assert (a.query("*IDN?").split(",")[2], b.query("*IDN?").split(",")[2]) == ("P1", "P2")
    assert (a.query("MEAS:POW?"), b.query("MEAS:POW?")) == ("1.000000E-03", "0.000000E+00")
