"""The TC200 twin, with plain pyserial: echo, prompt, the stat? exception, refusals."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import serial
from bellbench.sims.devices.tc200 import TC200Emulator
from bellbench.sims.elements import Oven, OvenModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def build(stage: Any, name: str = "oven", **changes: Any) -> tuple[TC200Emulator, Oven, str]:
    oven = Oven(OvenModel(kind="oven", ambient=22.0, start=30.0))
    emulator = TC200Emulator(stage.setting(name), oven, TC200Emulator.Settings(**changes))
    return emulator, oven, stage.open(emulator)


def ask(port: Any, command: str, end: bytes = b"\r> ") -> bytes:
    port.write(command.encode() + b"\r")
    reply: bytes = port.read_until(end)
    return reply


@pytest.fixture
def twin(stage: Any) -> tuple[TC200Emulator, Oven, str]:
    return build(stage)


@pytest.fixture
def port(twin: Any) -> Iterator[Any]:
    with serial.serial_for_url(twin[2], baudrate=115200, timeout=5) as found:
        yield found


def test_the_golden_conversation_byte_for_byte(stage: Any) -> None:
    _, _, url = build(stage, reading="30 C")
    with serial.serial_for_url(url, baudrate=115200, timeout=5) as port:
        assert ask(port, "tset=30") == b"tset=30\r> "
        assert ask(port, "tact?") == b"tact?\r30 C\r> "
        assert ask(port, "tset=40") == b"tset=40\r> "


@pytest.mark.parametrize(
    ("reading", "answer"),
    [
        ("30 C", b"30 C"),
        ("30.0 C", b"30.0 C"),
        ("30 Celsius", b"30 Celsius"),
        ("30.0 Celsius", b"30.0 Celsius"),
    ],
)
def test_firmware_variants_of_a_reading(stage: Any, reading: str, answer: bytes) -> None:
    _, _, url = build(stage, reading=reading)
    with serial.serial_for_url(url, timeout=5) as port:
        assert ask(port, "tact?") == b"tact?\r" + answer + b"\r> "


def test_knobs_turn_at_the_next_block(stage: Any, twin: Any, port: Any) -> None:
    emulator, oven, _ = twin
    ask(port, "tset=41.7")
    ask(port, "ens")
    assert ask(port, "tset?") == b"tset?\r41.7 Celsius\r> "
    assert ask(port, "stat?", b" > ") == b"stat?\r15 > "
    assert not oven.heating
    stage.step(emulator, fill=lambda _begin, _end: oven.settle(0.01))
    assert oven.heating
    assert oven.setpoint_c == 41.7
    stage.step(emulator, 6000, fill=lambda _begin, _end: oven.settle(0.01))
    assert ask(port, "tact?") == b"tact?\r41.7 Celsius\r> "
    ask(port, "ens")
    stage.step(emulator)
    assert not oven.heating
    assert oven.setpoint_c == 41.7


def test_stat_answers_a_hexadecimal_byte_after_the_echo(port: Any) -> None:
    assert ask(port, "stat?", b" > ") == b"stat?\r14 > "
    assert ask(port, "unit=f") == b"unit=f\r> "
    assert ask(port, "sns=ptc1000") == b"sns=ptc1000\r> "
    assert ask(port, "mode=cycle") == b"mode=cycle\r> "
    assert ask(port, "stat?", b" > ") == b"stat?\r2A > "
    assert ask(port, "tact?") == b"tact?\r86.0 Fahrenheit\r> "
    assert ask(port, "unit=k") == b"unit=k\r> "
    assert ask(port, "tact?") == b"tact?\r303.1 Kelvin\r> "


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("tset=19.9", "CMD_ARG_RANGE_ERR"),
        ("tset=200.1", "CMD_ARG_RANGE_ERR"),
        ("tset=nan", "CMD_ARG_RANGE_ERR"),
        ("tset=", "CMD_ARG_RANGE_ERR"),
        ("tset=hot", "CMD_ARG_RANGE_ERR"),
        ("pgain=0", "CMD_ARG_RANGE_ERR"),
        ("dgain=251", "CMD_ARG_RANGE_ERR"),
        ("pmax=18.1", "CMD_ARG_RANGE_ERR"),
        ("unit=r", "CMD_ARG_RANGE_ERR"),
        ("mode=fast", "CMD_ARG_RANGE_ERR"),
        ("foo", "CMD_NOT_DEFINED"),
        ("foo?", "CMD_NOT_DEFINED"),
        ("foo=1", "CMD_NOT_DEFINED"),
        ("TSET?", "CMD_NOT_DEFINED"),
    ],
)
def test_refusals_are_the_device_s_own(port: Any, command: str, error: str) -> None:
    expected = f"{command}\rCommand error {error}\r> ".encode()
    assert ask(port, command) == expected
    assert ask(port, "tset?") == b"tset?\r20.0 Celsius\r> "


def test_the_maximum_temperature_bounds_the_set_point(port: Any) -> None:
    assert ask(port, "tmax=50") == b"tmax=50\r> "
    assert ask(port, "tset=51") == b"tset=51\rCommand error CMD_ARG_RANGE_ERR\r> "
    assert ask(port, "tmax?") == b"tmax?\r50.0 Celsius\r> "


def test_registers_and_the_lines_of_config(port: Any) -> None:
    for command in ("pgain=100", "igain=10", "dgain=5", "pmax=9.5"):
        assert ask(port, command) == command.encode() + b"\r> "
    assert ask(port, "pid?") == b"pid?\r100 10 5\r> "
    assert ask(port, "pmax?") == b"pmax?\r9.5\r> "
    assert ask(port, "*idn?") == b"*idn?\rTHORLABS TC200 VERSION 2.0\r> "
    lines = ask(port, "config?").split(b"\r")
    assert lines[0] == b"config?"
    assert b"pid = 100 10 5" in lines
    assert lines[-1] == b"> "


def test_the_spurious_error_of_mode_normal(stage: Any) -> None:
    _, _, url = build(stage, spurious_mode_error=True)
    with serial.serial_for_url(url, timeout=5) as port:
        ask(port, "mode=cycle")
        assert ask(port, "mode=normal") == b"mode=normal\rCommand error CMD_ARG_RANGE_ERR\r> "
        assert ask(port, "stat?", b" > ") == b"stat?\r14 > "


STREAM = b"tact?\rtset=50\r\nstat?\rfoo\r\rtset?\r"
ANSWER = (
    b"tact?\r30.0 Celsius\r> tset=50\r> stat?\r14 > foo\rCommand error CMD_NOT_DEFINED\r> "
    b"\r> tset?\r50.0 Celsius\r> "
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
    _, _, url = build(stage, chaos=True)
    assert stage.converse(stage.endpoint(url), [STREAM] * 10, 10 * len(ANSWER)) == ANSWER * 10


def test_a_second_client_is_disconnected_and_a_reconnect_is_served(
    stage: Any, twin: Any, port: Any
) -> None:
    assert ask(port, "tset?").endswith(b"> ")
    with socket.create_connection(stage.endpoint(twin[2]), 5) as second:
        second.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert second.recv(10) == b""
    assert ask(port, "tset?").endswith(b"> ")
    port.close()
    for _ in range(5):
        with serial.serial_for_url(twin[2], timeout=5) as again:
            assert ask(again, "tset?").endswith(b"> ")


def test_hostile_clients_are_survived(stage: Any, twin: Any) -> None:
    where = stage.endpoint(twin[2])
    stage.flood(where, b"x" * 1_000_000)
    with socket.create_connection(where, 5) as client:
        client.sendall(bytes(range(256)) + b"\rtset=1e999\r")
        client.settimeout(5)
        got = b""
        while b"tset=1e999\rCommand error CMD_ARG_RANGE_ERR\r> " not in got:
            got += client.recv(4096)
    assert stage.converse(where, [b"tset?\r"], 21)[-2:] == b"> "
