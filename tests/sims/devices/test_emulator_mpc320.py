"""The MPC320's twin on its own wire: golden messages, strictness, motion in world time."""

import itertools
import socket
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from bellbench.sims.devices.mpc320 import MPC320Emulator
from bellbench.sims.elements import Paddles, PaddlesModel
from bellbench.sims.physics.polarization import retarders
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ENABLE_ALL = bytes.fromhex("10 02 07 01 50 01")
MOVE_1_TO_685 = bytes.fromhex("53 04 06 00 d0 01 01 00 ad 02 00 00")
STATUS_1 = bytes.fromhex("90 04 01 00 50 01")
MOVING_FORWARD, SETTLED, ENABLED = 1 << 4, 1 << 13, 1 << 31


class Client:
    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("socket://").split(":")
        self.socket = socket.create_connection((host, int(port)), 10)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            piece = self.socket.recv(size - len(got))
            assert piece, got
            got += piece
        return got

    def message(self) -> tuple[int, bytes]:
        """The next message: its id, and its data or its two parameters."""
        header = self.exactly(6)
        identity, length = struct.unpack_from("<HH", header)
        if header[4] & 0x80:
            return identity, self.exactly(length)
        return identity, header[2:4]

    def ask(self, data: bytes) -> tuple[int, bytes]:
        self.send(data)
        return self.message()


class Bench:
    def __init__(self, stage: Any, **kwargs: Any) -> None:
        self.stage = stage
        self.paddles = Paddles(PaddlesModel(kind="paddles"))
        self.twin = MPC320Emulator(
            stage.setting(), self.paddles, MPC320Emulator.Settings.model_validate(kwargs)
        )
        self.client = Client(stage.open(self.twin))

    def step(self, blocks: int = 1) -> None:
        self.stage.step(self.twin, blocks)

    def status(self, reply: tuple[int, bytes]) -> tuple[int, int]:
        identity, data = reply
        assert identity in (0x0491, 0x0464, 0x0466)
        _, position, _, _, bits = struct.unpack("<HihHI", data)
        return position, bits


@pytest.fixture
def bench(stage: Any) -> Iterator[Bench]:
    found = Bench(stage)
    yield found
    found.client.socket.close()


def test_identity_is_84_bytes_with_serial_model_and_channels(bench: Bench) -> None:
    identity, data = bench.client.ask(bytes.fromhex("05 00 00 00 50 01"))
    assert identity == 0x0006
    assert len(data) == 84
    serial, model = struct.unpack_from("<I8s", data)
    assert (serial, model.rstrip(b"\0")) == (38123456, b"MPC320")
    assert data[14:18] == bytes([5, 0, 3, 0])
    assert struct.unpack_from("<H", data, 82) == (3,)


def test_the_enable_mask_names_all_that_is_on(bench: Bench) -> None:
    request = bytes.fromhex("11 02 01 00 50 01")
    assert bench.client.ask(request) == (0x0212, b"\x01\x02")
    bench.client.send(bytes.fromhex("10 02 01 01 50 01"))
    assert bench.client.ask(request) == (0x0212, b"\x01\x01")
    bench.client.send(bytes.fromhex("10 02 02 01 50 01"))  # enabling paddle 2 disables paddle 1
    assert bench.client.ask(request) == (0x0212, b"\x01\x02")


def test_a_disabled_paddle_does_not_move(bench: Bench) -> None:
    bench.client.send(MOVE_1_TO_685)
    bench.client.ask(STATUS_1)
    bench.step(200)
    assert bench.status(bench.client.ask(STATUS_1))[0] == 0


def test_a_move_takes_world_time_and_ends_with_a_message(bench: Bench) -> None:
    bench.client.send(ENABLE_ALL + MOVE_1_TO_685)
    position, bits = bench.status(bench.client.ask(STATUS_1))
    assert position == 0
    assert bits & MOVING_FORWARD
    assert not bits & SETTLED
    # 50 % of 400 deg/s: 85 degrees take 0.425 s
    bench.step(21)
    assert 0 < bench.status(bench.client.ask(STATUS_1))[0] < 685
    assert bench.paddles.angles_deg[0] == pytest.approx(21 * 2 - 1, abs=0.5)
    bench.step(22)
    assert bench.status(bench.client.message())[0] == 685
    position, bits = bench.status(bench.client.ask(STATUS_1))
    assert position == 685
    assert bits & SETTLED
    assert bits & ENABLED
    bench.step()  # the block of arrival had the paddle on its way
    assert bench.paddles.angles_deg == [pytest.approx(85.0), 0.0, 0.0]


def test_light_meets_the_angles_in_between(bench: Bench) -> None:
    """200 deg/s: in each block of 10 ms the paddle stands where it is in the block's middle."""
    bench.client.send(ENABLE_ALL + MOVE_1_TO_685)
    bench.client.ask(STATUS_1)
    before = bench.paddles.passage()
    for block in range(42):
        bench.step()
        now = bench.paddles.passage()
        assert now is not before
        assert np.allclose(now.jones, retarders((90, 180, 90), (2 * block + 1, 0, 0)))
        before = now
    bench.step(2)
    arrived = bench.paddles.passage()
    bench.step()
    assert bench.paddles.passage() is arrived
    assert np.allclose(arrived.jones, retarders((90, 180, 90), (85, 0, 0)))


def test_speed_home_and_jog_steps_are_parameters(bench: Bench) -> None:
    assert bench.client.ask(bytes.fromhex("31 05 00 00 50 01")) == (
        0x0532,
        struct.pack("<6H", 0, 50, 685, 25, 25, 25),
    )
    golden = bytes.fromhex("30 05 0c 00 d0 01 00 00 32 00 ad 02 0a 00 14 00 1e 00")
    bench.client.send(golden + ENABLE_ALL + bytes.fromhex("6a 04 01 01 50 01"))
    assert bench.client.ask(bytes.fromhex("31 05 00 00 50 01")) == (0x0532, golden[6:])
    bench.step(10)
    assert bench.status(bench.client.message())[0] == 10  # jog 1 is ten counts


def test_homing_ends_with_its_own_message(bench: Bench) -> None:
    bench.client.send(ENABLE_ALL + bytes.fromhex("43 04 01 00 50 01"))
    bench.client.ask(STATUS_1)
    bench.step(60)
    assert bench.client.message() == (0x0444, b"\x01\x00")
    assert bench.status(bench.client.ask(STATUS_1))[0] == 685


def test_stopping_leaves_the_paddle_where_it_is(bench: Bench) -> None:
    bench.client.send(ENABLE_ALL + MOVE_1_TO_685)
    bench.client.ask(STATUS_1)
    bench.step(10)
    position, _ = bench.status(bench.client.ask(bytes.fromhex("65 04 01 02 50 01")))
    assert 0 < position < 685
    bench.step(50)
    assert bench.status(bench.client.ask(STATUS_1))[0] == position


def test_status_updates_come_ten_times_a_second_between_replies(bench: Bench) -> None:
    bench.client.send(bytes.fromhex("11 00 00 00 50 01"))
    bench.client.ask(STATUS_1)
    bench.step(21)
    updates = [bench.client.message() for _ in range(9)]  # at 10, 110 and 210 ms, three paddles
    assert {identity for identity, _ in updates} == {0x0491}
    bench.client.send(bytes.fromhex("12 00 00 00 50 01"))
    bench.client.ask(STATUS_1)
    bench.step(30)
    assert bench.client.ask(bytes.fromhex("11 02 01 00 50 01"))[0] == 0x0212


@pytest.mark.parametrize(
    "message",
    [
        "ff 7f 00 00 50 01",  # no such message
        "53 04 06 00 d0 01 03 00 ad 02 00 00",  # no channel 3; they are 1, 2 and 4
        "53 04 06 00 d0 01 01 00 5b 05 00 00",  # 1371 counts, past the end
        "53 04 06 00 d0 01 01 00 ff ff ff ff",  # below zero
        "53 04 02 00 d0 01 01 00",  # too short
        "30 05 0c 00 d0 01 00 00 65 00 ad 02 0a 00 14 00 1e 00",  # 101 % of the speed
    ],
)
def test_nonsense_is_answered_with_a_rich_response(bench: Bench, message: str) -> None:
    bench.client.send(ENABLE_ALL)
    identity, data = bench.client.ask(bytes.fromhex(message))
    assert identity == 0x0081
    assert len(data) == 68
    assert struct.unpack_from("<H", data)[0] == struct.unpack_from("<H", bytes.fromhex(message))[0]


def test_a_message_for_another_device_is_not_answered(bench: Bench) -> None:
    bench.client.send(bytes.fromhex("05 00 00 00 21 01"))
    assert bench.client.ask(STATUS_1)[0] == 0x0491


def test_a_stream_out_of_step_drops_the_connection(bench: Bench) -> None:
    bench.client.send(b"\xff" * 64)
    assert bench.client.socket.recv(1) == b""


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 42), max_size=5))
def test_any_split_of_the_bytes_gives_the_same_replies(bench: Bench, cuts: list[int]) -> None:
    stream = ENABLE_ALL + bytes.fromhex("11 02 07 00 50 01") * 2 + STATUS_1 + STATUS_1 * 3
    edges = [0, *sorted(cuts), len(stream)]
    for begin, end in itertools.pairwise(edges):
        bench.client.send(stream[begin:end])
    replies = [bench.client.message()[0] for _ in range(6)]
    assert replies == [0x0212, 0x0212, *[0x0491] * 4]


def test_power_up_positions_are_the_worlds_angles(stage: Any) -> None:
    bench = Bench(stage, start=[10.0, 20.0, 30.0])
    bench.step()
    grid = 170 / 1370
    assert bench.paddles.angles_deg == [pytest.approx(a, abs=grid / 2) for a in (10, 20, 30)]
    bench.client.socket.close()
