"""The TC200 driver, byte for byte."""

from typing import Any

import pytest
from bellbench.drivers.thorlabs.tc200 import TC200Settings, ThorlabsTC200
from bellbench.instruments import InstrumentError, InstrumentTimeout

STATUS_OFF = (b"stat?\r", b"stat?\r10 > ")
STATUS_ON = (b"stat?\r", b"stat?\r11 > ")


def oven(address: str, clock: Any, **settings: Any) -> ThorlabsTC200:
    return ThorlabsTC200("oven", address, TC200Settings(timeout=0.4, **settings), clock)


def test_golden_conversation(script: Any, clock: Any) -> None:
    server = script(
        STATUS_OFF,
        (b"tset=30\r", b"tset=30\r> "),
        (b"tact?\r", b"tact?\r30 C\r> "),
        (b"id?\r", b"id?\rTHORLABS TC200 VERSION 2.0\r> "),
        (b"tmax?\r", b"tmax?\r200.0 C\r> "),
        (b"tset=38.25\r", b"tset=38.25\r> "),
    )
    with oven(server.serial, clock) as device:
        device.temperature.set(30.0)
        assert device.measured_temperature.get() == 30.0
        assert device.identify().firmware == "THORLABS TC200 VERSION 2.0"
        assert device.max_temperature.get() == 200.0
        device.temperature.set(38.25)


@pytest.mark.parametrize("reply", [b"30 C", b"30 Celsius", b"30.0 Celsius", b" 30.0 C "])
def test_firmwares_answer_differently(script: Any, clock: Any, reply: bytes) -> None:
    server = script(STATUS_OFF, (b"tset?\r", b"tset?\r" + reply + b"\r> "))
    with oven(server.serial, clock) as device:
        assert device.temperature.get() == 30.0


def test_celsius_is_asked_for(script: Any, clock: Any) -> None:
    server = script((b"stat?\r", b"stat?\r20 > "), (b"unit=c\r", b"unit=c\r> "))
    oven(server.serial, clock).__enter__().close()


def test_the_heater_is_a_toggle(script: Any, clock: Any) -> None:
    server = script(
        STATUS_OFF,
        *[STATUS_OFF, (b"ens\r", b"ens\r> "), STATUS_ON],  # on
        *[STATUS_ON],  # on again: nothing to do
        *[STATUS_ON, (b"ens\r", b"ens\r> "), STATUS_OFF],  # safe
    )
    with oven(server.serial, clock) as device:
        device.heating.set(True)
        device.heating.set(True)
        device.off()
        device.safe()


def test_a_heater_that_stays_off(script: Any, clock: Any) -> None:
    server = script(STATUS_OFF, STATUS_OFF, (b"ens\r", b"ens\r> "), STATUS_OFF)
    with (
        oven(server.serial, clock) as device,
        pytest.raises(InstrumentError, match=r"stays off.*sensor"),
    ):
        device.heating.set(True)


def test_settings_are_written_heater_last(script: Any, clock: Any) -> None:
    server = script(
        STATUS_OFF,
        STATUS_OFF,
        (b"tmax=60\r", b"tmax=60\r> "),
        (b"pmax=12.5\r", b"pmax=12.5\r> "),
        (b"pgain=100\r", b"pgain=100\r> "),
        (b"igain=50\r", b"igain=50\r> "),
        (b"dgain=0\r", b"dgain=0\r> "),
        (b"tset=35\r", b"tset=35\r> "),
        *[STATUS_OFF, (b"ens\r", b"ens\r> "), STATUS_ON],
    )
    settings = {"temperature": 35.0, "max_temperature": 60.0, "max_power": 12.5, "heating": True}
    gains = {"p_gain": 100, "i_gain": 50, "d_gain": 0}
    with oven(server.serial, clock, **settings, **gains) as device:
        device.configure()


def test_the_spurious_error_of_leaving_cycle_mode(script: Any, clock: Any) -> None:
    spurious = b"mode=normal\rCommand error CMD_ARG_RANGE_ERR\r> "
    cycling = (b"stat?\r", b"stat?\r12 > ")
    server = script(
        STATUS_OFF,
        cycling,
        (b"mode=normal\r", spurious),
        STATUS_OFF,
        (b"tset=30\r", b"tset=30\r> "),
    )
    with oven(server.serial, clock, temperature=30.0) as device:
        device.configure()
    server = script(STATUS_OFF, cycling, (b"mode=normal\r", spurious), cycling)
    with (
        oven(server.serial, clock, temperature=30.0) as device,
        pytest.raises(InstrumentError, match="CMD_ARG_RANGE_ERR"),
    ):
        device.configure()


def test_ready_within_the_tolerance(script: Any, clock: Any) -> None:
    def reading(actual: bytes) -> list[tuple[bytes, bytes]]:
        return [
            STATUS_ON,
            (b"tact?\r", b"tact?\r" + actual + b" C\r> "),
            (b"tset?\r", b"tset?\r35.0 C\r> "),
        ]

    server = script(STATUS_OFF, STATUS_OFF, *reading(b"34.8"), *reading(b"34.9"))
    with oven(server.serial, clock) as device:
        assert device.ready()  # not heated: nothing to wait for
        assert not device.ready()
        assert device.ready()


def test_the_sensor_alarm_is_told(script: Any, clock: Any) -> None:
    alarm = (b"stat?\r", b"stat?\r51 > ")
    server = script(STATUS_OFF, alarm, alarm)
    with oven(server.serial, clock) as device:
        assert device.sensor_alarm.get() is True
        with pytest.raises(InstrumentError, match="sensor alarm"):
            device.ready()


def test_command_errors(script: Any, clock: Any) -> None:
    server = script(
        STATUS_OFF,
        (b"tset=150\r", b"tset=150\rCommand error CMD_ARG_RANGE_ERR\r> "),
        (b"tact?\r", b"tact?\rCommand error CMD_NOT_DEFINED\r> "),
        (b"tset?\r", b"tset?\rhot\r> "),
        (b"tact?\r", b"tact?\r40.0 C\r> "),
    )
    with oven(server.serial, clock) as device:
        with pytest.raises(InstrumentError, match=r"'tset=150'.*CMD_ARG_RANGE_ERR"):
            device.temperature.set(150.0)
        with pytest.raises(InstrumentError, match="CMD_NOT_DEFINED"):
            device.measured_temperature.get()
        with pytest.raises(InstrumentError, match="a temperature expected"):
            device.temperature.get()
        with pytest.raises(InstrumentError, match=r"accepts 20 to 200 degC"):
            device.temperature.set(201.0)
        assert device.measured_temperature.get() == 40.0


def test_pieces(script: Any, clock: Any) -> None:
    server = script(
        (b"stat?\r", [b"st", b"at?\r1", b"0 ", b"> "]),
        (b"tact?\r", [b"tact?", b"\r30.", b"5 C\r", b"> "]),
    )
    with oven(server.serial, clock) as device:
        assert device.measured_temperature.get() == 30.5


def test_half_an_answer_and_the_next_command(script: Any, clock: Any) -> None:
    server = script(STATUS_OFF, (b"tact?\r", b"tact?\r30"))
    with oven(server.serial, clock) as device:
        with pytest.raises(InstrumentTimeout, match=r"tact\?.*30"):
            device.measured_temperature.get()
        server.push(b" C\r> ")  # late, and thrown away
        server.extend((b"tset?\r", b"tset?\r40 C\r> "))
        with _arrived(device):
            assert device.temperature.get() == 40.0


def _arrived(device: ThorlabsTC200) -> Any:
    """Wait until the late bytes are there, so that the test is about discarding them."""
    import contextlib
    import select

    @contextlib.contextmanager
    def wait() -> Any:
        port: Any = device._port._port
        select.select([port._socket], [], [], 5.0)
        yield

    return wait()


def test_no_echo_is_another_box(script: Any, clock: Any) -> None:
    server = script((b"stat?\r", b"ERROR > "))
    with pytest.raises(InstrumentError, match="echo differs"):
        oven(server.serial, clock).open()


def test_refused_connection(nobody: int, clock: Any) -> None:
    with pytest.raises(InstrumentError, match="cannot open the port"):
        oven(f"socket://127.0.0.1:{nobody}", clock).open()
    with pytest.raises(InstrumentError, match="not open"):
        oven("COM77", clock).temperature.get()


def test_safe_after_a_broken_connection(script: Any, clock: Any) -> None:
    server = script(STATUS_OFF)
    with oven(server.serial, clock) as device:
        server.finish()
        server.drop()
        with pytest.raises(InstrumentError, match="connection broke"):
            device.temperature.get()
        server.extend(STATUS_ON, STATUS_ON, (b"ens\r", b"ens\r> "), STATUS_OFF)
        device.safe()


def test_two_threads_get_their_own_replies(lines: Any, clock: Any, together: Any) -> None:
    answers = {"tact?": "tact?\r30 C\r> ", "tset?": "tset?\r40 C\r> ", "stat?": "stat?\r10 > "}
    server = lines(answers.__getitem__, b"\r", b"")
    with oven(server.serial, clock) as device:

        def ask(read: Any, wanted: float) -> None:
            assert all(read() == wanted for _ in range(150))

        together(
            lambda: ask(device.temperature.get, 40.0),
            lambda: ask(device.measured_temperature.get, 30.0),
            lambda: ask(device.heating.get, False),
        )


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 10.0}, {"temperature": 70.0, "max_temperature": 60.0}, {"p_gain": 0}],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        TC200Settings(**wrong)
