"""The MPC320 driver, byte for byte: the golden APT vectors."""

import struct
from typing import Any

import pytest
from bellbench.drivers.thorlabs import apt
from bellbench.drivers.thorlabs.apt import Id
from bellbench.drivers.thorlabs.mpc320 import MPC320Settings, ThorlabsMPC320
from bellbench.instruments import InstrumentError, InstrumentTimeout

ENABLED, MOVING = 1 << 31, 1 << 4


def x(text: str) -> bytes:
    return bytes.fromhex(text)


def reply(id_: int, data: bytes) -> bytes:
    return struct.pack("<HHBB", id_, len(data), 0x81, 0x50) + data


def status(channel: int, position: int = 0, bits: int = ENABLED) -> bytes:
    return reply(0x0491, struct.pack("<HihhI", channel, position, 0, 0, bits))


def completed(channel: int, position: int) -> bytes:
    return reply(0x0464, struct.pack("<HihHI", channel, position, 0, 0, ENABLED))


def asked(channel: int, position: int = 0, bits: int = ENABLED) -> tuple[bytes, bytes]:
    return bytes([0x90, 0x04, channel, 0, 0x50, 1]), status(channel, position, bits)


def all_asked(bits: int = ENABLED) -> list[tuple[bytes, bytes]]:
    return [asked(channel, 0, bits) for channel in (1, 2, 4)]


OPEN = (
    (x("18 00 00 00 50 01"), b""),
    (x("12 00 00 00 50 01"), b""),
    *all_asked(),
)
PARAMS = (x("31 05 00 00 50 01"), reply(0x0532, struct.pack("<6H", 0, 50, 685, 10, 20, 30)))


def paddles(address: str, clock: Any, **settings: Any) -> ThorlabsMPC320:
    return ThorlabsMPC320("paddles", address, MPC320Settings(timeout=0.4, **settings), clock)


@pytest.mark.parametrize(
    ("message", "golden"),
    [
        (apt.short(Id.HW_REQ_INFO), "05 00 00 00 50 01"),
        (apt.short(Id.MOD_IDENTIFY, 1), "23 02 01 00 50 01"),
        (apt.short(Id.MOD_SET_CHANENABLESTATE, 1, 1), "10 02 01 01 50 01"),
        (apt.short(Id.MOT_MOVE_HOME, 1), "43 04 01 00 50 01"),
        (
            apt.long(Id.MOT_MOVE_ABSOLUTE, struct.pack("<Hi", 1, 685)),
            "53 04 06 00 d0 01 01 00 ad 02 00 00",
        ),
        (apt.short(Id.MOT_MOVE_STOP, 1, 2), "65 04 01 02 50 01"),
        (apt.short(Id.MOT_REQ_DCSTATUSUPDATE, 1), "90 04 01 00 50 01"),
        (
            apt.long(Id.POL_SET_PARAMS, struct.pack("<6H", 0, 50, 685, 10, 20, 30)),
            "30 05 0c 00 d0 01 00 00 32 00 ad 02 0a 00 14 00 1e 00",
        ),
        (apt.short(Id.POL_REQ_PARAMS), "31 05 00 00 50 01"),
    ],
)
def test_golden_vectors(message: bytes, golden: str) -> None:
    assert message == x(golden)


def test_a_move_to_90_degrees(script: Any, clock: Any) -> None:
    server = script(
        *OPEN,
        *all_asked(),
        (x("53 04 06 00 d0 01 01 00 d5 02 00 00"), b""),
        asked(1, 0),
        # ready(): not there yet although it does not move yet; moving; arrived
        *[asked(1, 0), asked(2), asked(4)],
        *[asked(1, 300, ENABLED | MOVING), asked(2), asked(4)],
        *[asked(1, 725), asked(2), asked(4)],
        asked(1, 725),
    )
    with paddles(server.serial, clock) as device:
        device.actuators[0].set(90.0)
        assert not device.ready()
        assert not device.ready()
        assert device.ready()
        assert device.actuators[0].get() == pytest.approx(90.0, abs=0.05)


def test_all_channels_are_enabled_with_the_full_mask(script: Any, clock: Any) -> None:
    server = script(
        *OPEN,
        asked(1, 0, 0),
        *[(x("10 02 07 01 50 01"), b""), asked(1)],
        *[(x("53 04 06 00 d0 01 04 00 ad 02 00 00"), b""), asked(4)],
    )
    with paddles(server.serial, clock) as device:
        device.actuators[2].set(85.0)


def test_channels_are_bits(script: Any, clock: Any) -> None:
    server = script(*OPEN, asked(2, 1370))
    with paddles(server.serial, clock) as device:
        assert device.actuators[1].get() == pytest.approx(170.0)


def test_unsolicited_messages_are_told_apart(script: Any, clock: Any) -> None:
    request, answer = asked(1, 685)
    homed = x("44 04 01 00 01 50")
    other = status(2, 7)  # an update of another channel
    server = script(*OPEN, (request, completed(1, 680) + homed + other + answer))
    with paddles(server.serial, clock) as device:
        assert device.actuators[0].get() == pytest.approx(85.0)


def test_pieces(script: Any, clock: Any) -> None:
    request, answer = asked(1, 685)
    whole = completed(1, 680) + answer
    server = script(*OPEN, (request, [whole[:3], whole[3:19], whole[19:23], whole[23:]]))
    with paddles(server.serial, clock) as device:
        assert device.actuators[0].get() == pytest.approx(85.0)


def test_a_rich_response_is_a_refusal(script: Any, clock: Any) -> None:
    refusal = reply(0x0081, struct.pack("<HH64s", 0x0453, 1234, b"Channel not enabled"))
    request, answer = asked(1)
    server = script(
        *OPEN,
        *all_asked(),
        (x("53 04 06 00 d0 01 01 00 00 00 00 00"), refusal),
        (request, answer),
        asked(2, 8),
    )
    with paddles(server.serial, clock) as device:
        with pytest.raises(InstrumentError, match=r"53 04.*0x0453, code 1234: Channel not en"):
            device.actuators[0].set(0.0)
        assert device.actuators[1].get() == pytest.approx(8 * 170 / 1370)


def test_identity(script: Any, clock: Any) -> None:
    info = struct.pack(
        "<I8sH4s60sHHH", 38123456, b"MPC320\0\0", 16, bytes([3, 2, 1, 0]), b"", 1, 0, 3
    )
    server = script(*OPEN, (x("05 00 00 00 50 01"), reply(0x0006, info)))
    with paddles(server.serial, clock) as device:
        identity = device.identify()
    assert (identity.model, identity.serial, identity.firmware) == ("MPC320", "38123456", "1.2.3")


def test_settings_are_written(script: Any, clock: Any) -> None:
    moves = [
        (channel, x(f"53 04 06 00 d0 01 {channel:02x} 00") + struct.pack("<i", counts))
        for channel, counts in ((1, 0), (2, 806), (4, 1370))
    ]
    server = script(
        *OPEN,
        PARAMS,
        (x("30 05 0c 00 d0 01 00 00 64 00 ad 02 0a 00 14 00 1e 00"), b""),
        asked(1),
        *[step for channel, move in moves for step in (*all_asked(), (move, b""), asked(channel))],
    )
    with paddles(server.serial, clock, velocity="100 %", paddles=(0, "100 deg", 170)) as device:
        device.configure()


def test_home_and_safe(script: Any, clock: Any) -> None:
    def told(message: str, channel: int, position: int = 0) -> list[tuple[bytes, bytes]]:
        return [(x(message), b""), asked(channel, position)]

    server = script(
        *OPEN,
        *all_asked(),
        PARAMS,
        *told("43 04 01 00 50 01", 1),
        *told("43 04 02 00 50 01", 2),
        *told("43 04 04 00 50 01", 4),
        *all_asked(),
        *told("65 04 01 02 50 01", 1, 300),
        *told("65 04 02 02 50 01", 2, 300),
        *told("65 04 04 02 50 01", 4, 300),
        *all_asked(),
    )
    with paddles(server.serial, clock) as device:
        device.home()
        assert not device.ready()
        device.safe()
        assert device.ready()  # stopped: nothing left to reach


def test_limits(script: Any, clock: Any) -> None:
    server = script(*OPEN)
    with paddles(server.serial, clock) as device:
        for bad in (-0.1, 170.1, float("nan")):
            with pytest.raises(InstrumentError, match="accepts 0 to 170 deg"):
                device.actuators[0].set(bad)


def test_a_fault_is_explained(script: Any, clock: Any) -> None:
    server = script(*OPEN, asked(1), asked(2, 0, ENABLED | 1 << 14))
    with (
        paddles(server.serial, clock) as device,
        pytest.raises(InstrumentError, match=r"paddle 2.*is the paddle blocked"),
    ):
        device.ready()


def test_a_lost_byte(script: Any, clock: Any) -> None:
    request, answer = asked(1, 685)
    server = script(*OPEN, (request, answer[1:] + b"\0"), asked(2, 8))
    with paddles(server.serial, clock) as device:
        with pytest.raises(InstrumentError, match="not an APT message"):
            device.actuators[0].get()
        assert device.actuators[1].get() == pytest.approx(8 * 170 / 1370)


def test_half_a_reply_and_silence(script: Any, clock: Any) -> None:
    request, answer = asked(1, 685)
    server = script(*OPEN, (request, answer[:10]), (request, b""), (request, answer))
    with paddles(server.serial, clock) as device:
        for _ in range(2):
            with pytest.raises(InstrumentTimeout, match="90 04 01"):
                device.actuators[0].get()
        assert device.actuators[0].get() == pytest.approx(85.0)


def test_two_threads_get_their_own_replies(script: Any, clock: Any, together: Any) -> None:
    class Box:
        def serve(self, data: bytes) -> bytes:
            out = b""
            for i in range(0, len(data), 6):
                channel = data[i + 2]
                if data[i : i + 2] == x("90 04"):
                    out += completed(channel, 1) + status(channel, channel * 100)
            return out

    box = Box()
    server = script()

    def serve(connection: Any) -> None:
        pending = b""
        while data := connection.recv(4096):
            pending += data
            whole = len(pending) // 6 * 6
            connection.sendall(box.serve(pending[:whole]))
            pending = pending[whole:]

    server.serve = serve
    with paddles(server.serial, clock) as device:

        def ask(i: int, counts: int) -> None:
            wanted = counts * 170 / 1370
            assert all(device.actuators[i].get() == wanted for _ in range(150))

        together(lambda: ask(0, 100), lambda: ask(1, 200), lambda: ask(2, 400))


def test_refused_connection(nobody: int, clock: Any) -> None:
    with pytest.raises(InstrumentError, match="cannot open the port"):
        paddles(f"socket://127.0.0.1:{nobody}", clock).open()


@pytest.mark.parametrize("wrong", [{"paddles": (0, 0)}, {"paddles": (0, 0, 171)}, {"velocity": 0}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        MPC320Settings(**wrong)
