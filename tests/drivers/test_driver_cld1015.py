"""The CLD1015 driver, byte for byte."""

from typing import Any

import pytest
from bellbench.drivers.thorlabs.cld1015 import CLD1015Settings, ThorlabsCLD1015
from bellbench.instruments import Identity, InstrumentError, InstrumentTimeout, Limits

NONE = (b"SYST:ERR?\n", b'+0,"No error"\n')
OPEN = (NONE, (b"UNIT:TEMP?\n", b"CEL\n"))


def laser(address: str, clock: Any, **settings: Any) -> ThorlabsCLD1015:
    return ThorlabsCLD1015("pump", address, CLD1015Settings(timeout=0.5, **settings), clock)


def setting(command: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return (command + b"\n", b""), NONE


class Box:
    """A laser that behaves: heats, cools, emits."""

    def __init__(self) -> None:
        self.state = {"OUTP1:STAT": "0", "OUTP2:STAT": "0", "SOUR:CURR:LIM": "0.2"}
        self.state |= {"SOUR:CURR": "0.0", "SOUR2:TEMP": "25.0", "UNIT:TEMP": "CEL"}
        self.temperature, self.condition, self.errors = 21.0, 0, list[str]()
        self.refuse: dict[str, str] = {}

    def answer(self, line: str) -> str | None:
        if line == "SYST:ERR?":
            return self.errors.pop(0) if self.errors else '+0,"No error"'
        if line == "MEAS:TEMP?":
            return f"{self.temperature:.3f}"
        if line == "MEAS:CURR?":
            return self.state["SOUR:CURR"] if self.state["OUTP1:STAT"] == "1" else "2e-5"
        if line == "STAT:MEAS:COND?":
            return str(self.condition)
        if line.endswith("?"):
            if line[:-1] not in self.state:
                self.errors.append('-113,"Undefined header"')
                return None
            return self.state[line[:-1]]
        header, value = line.split(" ")
        if header in self.refuse:
            self.errors.append(self.refuse[header])
            return None
        self.state[header] = {"ON": "1", "OFF": "0"}.get(value, value)
        return None

    def step(self, now: float) -> None:
        if self.state["OUTP2:STAT"] == "1":
            self.temperature += 0.3 * (float(self.state["SOUR2:TEMP"]) - self.temperature)


def test_conversation(script: Any, clock: Any) -> None:
    server = script(
        *OPEN,
        (b"*IDN?\n", b"THORLABS,CLD1015,M01234567,1.4.0/2.0.3/1.6.0\n"),
        *setting(b"SOUR:CURR 0.12"),
        (b"SOUR:CURR?\n", b"1.200000000E-01\n"),
        *setting(b"SOUR:CURR:LIM 0.2"),
        *setting(b"SOUR2:TEMP 25.5"),
        (b"SOUR2:TEMP?\n", b"+2.55E+01\n"),
        (b"MEAS:TEMP?\n", b"25.4\n"),
        (b"MEAS:CURR?\n", b"0.119\n"),
        (b"MEAS:VOLT?\n", b"2.1\n"),
        (b"MEAS:POW2?\n", b"3e-3\n"),
        (b"OUTP1:STAT?\n", b"0\n"),
        (b"OUTP2:STAT?\n", b"1\n"),
        (b"OUTP:PROT:KEYL:TRIP?\n", b"1\n"),
        (b"STAT:MEAS:COND?\n", b"5\n"),
    )
    with laser(server.visa, clock) as pump:
        assert pump.identify() == Identity("THORLABS", "CLD1015", "M01234567", "1.4.0/2.0.3/1.6.0")
        pump.current.set(0.12)
        assert pump.current.get() == 0.12
        pump.current_limit.set(0.2)
        assert pump.current.limits == Limits(0.0, 0.2)
        pump.temperature.set(25.5)
        assert pump.temperature.get() == 25.5
        assert pump.measured_temperature.get() == 25.4
        assert pump.measured_current.get() == 0.119
        assert pump.voltage.get() == 2.1
        assert pump.monitor_power.get() == 3e-3
        assert pump.emission.get() is False
        assert pump.tec.get() is True
        assert pump.key_locked.get() is True
        assert "key" in pump.conditions.get()


def test_opening_reads_in_celsius(script: Any, clock: Any) -> None:
    server = script(NONE, (b"UNIT:TEMP?\n", b"FAR\n"), *setting(b"UNIT:TEMP C"))
    laser(server.visa, clock).__enter__().close()


def test_opening_empties_the_error_queue(script: Any, clock: Any, caplog: Any) -> None:
    server = script((b"SYST:ERR?\n", b'-113,"Undefined header"\n'), *OPEN)
    with laser(server.visa, clock) as pump:
        pump.open()  # opening an open one sends nothing
    assert "Undefined header" in caplog.text
    pump.close()


def test_every_entry_of_the_error_queue_is_told(script: Any, clock: Any) -> None:
    server = script(
        *OPEN,
        (b"SOUR:CURR 0.5\n", b""),
        (b"SYST:ERR?\n", b'-222,"Data out of range"\n'),
        (b"SYST:ERR?\n", b'-350,"Error queue overflow"\n'),
        NONE,
        (b"SOUR:CURR?\n", b"0.1\n"),
    )
    with laser(server.visa, clock) as pump:
        with pytest.raises(InstrumentError) as caught:
            pump.current.set(0.5)
        error = caught.value
        assert error.command == "SOUR:CURR 0.5"
        assert "Data out of range" in str(error)
        assert "queue overflow" in str(error)
        assert error.device == "pump (Thorlabs CLD1015)"
        assert error.address == server.visa
        assert pump.current.get() == 0.1  # still in step


def test_limits_are_kept_before_anything_is_sent(script: Any, clock: Any) -> None:
    server = script(*OPEN)
    with laser(server.visa, clock, current_limit="150 mA") as pump:
        for bad in (0.151, -0.001, float("nan"), float("inf")):
            with pytest.raises(InstrumentError, match=r"accepts 0 to 0\.15 A"):
                pump.current.set(bad)
        with pytest.raises(InstrumentError, match="True or False"):
            pump.emission.set("off")  # type: ignore[arg-type]


def test_a_reply_in_pieces(script: Any, clock: Any) -> None:
    server = script(*OPEN, (b"MEAS:TEMP?\n", [b"2", b"5.", b"25\n"]))
    with laser(server.visa, clock) as pump:
        assert pump.measured_temperature.get() == 25.25


def test_nonsense_is_an_error(script: Any, clock: Any) -> None:
    server = script(*OPEN, (b"MEAS:TEMP?\n", b"warm\n"), (b"OUTP1:STAT?\n", b"2\n"))
    with laser(server.visa, clock) as pump:
        with pytest.raises(InstrumentError, match="'warm'"):
            pump.measured_temperature.get()
        with pytest.raises(InstrumentError, match="0 or 1"):
            pump.emission.get()


def test_silence_is_a_timeout_and_the_late_reply_is_nobodys(script: Any, clock: Any) -> None:
    # the connection is renewed after a timeout, so the queue is read on a new one
    server = script(*OPEN, (b"MEAS:VOLT?\n", b"9."), NONE, (b"MEAS:TEMP?\n", b"25\n"))
    with laser(server.visa, clock) as pump:
        with pytest.raises(InstrumentTimeout, match="MEAS:VOLT"):
            pump.voltage.get()
        assert pump.measured_temperature.get() == 25.0


def test_an_unknown_query_is_explained_by_the_queue(lines: Any, clock: Any) -> None:
    box = Box()
    server = lines(box.answer)
    with laser(server.visa, clock) as pump, pytest.raises(InstrumentError, match="Undefined"):
        pump.voltage.get()


def test_refused_connection_says_what_to_check(nobody: int, clock: Any) -> None:
    pump = laser(f"TCPIP::127.0.0.1::{nobody}::SOCKET", clock)
    with pytest.raises(InstrumentError, match=r"refuses.*try: is it switched on"):
        pump.open()
    with pytest.raises(InstrumentError, match="not open"):
        pump.current.get()
    pump.close()


def test_an_address_visa_cannot_read(clock: Any) -> None:
    with pytest.raises(InstrumentError, match="VISA cannot open"):
        laser("COFFEE::1", clock).open()


def test_emission_waits_for_the_temperature_on_the_clock(lines: Any, clock: Any) -> None:
    box = Box()
    server, clock.on_sleep = lines(box.answer), box.step
    with laser(server.visa, clock, current=0.1, emission=True, temperature=25.0) as pump:
        pump.configure()
        log = server.log
        tec, ld = log.index("OUTP2:STAT ON"), log.index("OUTP1:STAT ON")
        assert log.index("SOUR:CURR 0.1") < tec < ld
        assert abs(box.temperature - 25.0) < 0.1
        assert 3.0 < sum(clock.slept) < 10.0
        assert pump.emission.get()
        assert pump.ready()
        clock.slept.clear()
        pump.emission.set(True)  # on already
        assert clock.slept == []
        pump.off()
        assert box.state["OUTP1:STAT"] == "0"
        assert box.state["OUTP2:STAT"] == "1"


def test_a_diode_that_does_not_settle(lines: Any, clock: Any) -> None:
    box = Box()
    server = lines(box.answer)
    with laser(server.visa, clock, settle_timeout="5 s") as pump:
        box.condition = 1 << 12
        with pytest.raises(InstrumentTimeout, match=r"21 degC, not at 25 degC.*TEC not connected"):
            pump.emission.set(True)
        assert box.state["OUTP1:STAT"] == "0"


@pytest.mark.parametrize(("bit", "words"), [(0, "turn the key"), (2, "close the interlock")])
def test_key_and_interlock_are_explained(lines: Any, clock: Any, bit: int, words: str) -> None:
    box = Box()
    server = lines(box.answer)
    with laser(server.visa, clock) as pump:
        box.condition = 1 << bit
        with pytest.raises(InstrumentError, match=words):
            pump.emission.set(True)
        assert "OUTP1:STAT ON" not in server.log


def test_refused_emission_names_the_conditions(lines: Any, clock: Any) -> None:
    box = Box()
    server, clock.on_sleep = lines(box.answer), box.step
    with laser(server.visa, clock) as pump:
        box.condition = 1 << 4
        box.refuse["OUTP1:STAT"] = '-221,"Settings conflict"'
        with pytest.raises(InstrumentError, match=r"inhibited.*Settings conflict"):
            pump.emission.set(True)


def test_lowering_and_raising_keep_the_current_below_its_limit(lines: Any, clock: Any) -> None:
    box = Box()
    server = lines(box.answer)
    with laser(server.visa, clock, current=0.1, current_limit=0.15) as pump:
        pump.configure()
    assert server.log.index("SOUR:CURR 0.1") < server.log.index("SOUR:CURR:LIM 0.15")
    server.log.clear()
    with laser(server.visa, clock, current=0.3, current_limit=0.4) as pump:
        pump.configure()
    assert server.log.index("SOUR:CURR:LIM 0.4") < server.log.index("SOUR:CURR 0.3")


def test_the_cooler_cannot_stop_under_a_burning_laser(lines: Any, clock: Any) -> None:
    box = Box()
    server = lines(box.answer)
    with laser(server.visa, clock) as pump:
        box.state |= {"OUTP1:STAT": "1", "OUTP2:STAT": "1"}
        with pytest.raises(InstrumentError, match="switch emission off first"):
            pump.tec.set(False)
        pump.safe()
        assert box.state["OUTP1:STAT"] == box.state["OUTP2:STAT"] == "0"
        assert server.log.index("OUTP1:STAT OFF") < server.log.index("OUTP2:STAT OFF")


def test_safe_keeps_cooling_where_the_laser_stays_on(lines: Any, clock: Any) -> None:
    box = Box()
    server = lines(box.answer)
    with laser(server.visa, clock) as pump:
        box.state |= {"OUTP1:STAT": "1", "OUTP2:STAT": "1", "SOUR:CURR": "0.1"}
        box.refuse["OUTP1:STAT"] = '-221,"Settings conflict"'
        with pytest.raises(InstrumentError, match="making it safe failed"):
            pump.safe()
        assert box.state["OUTP2:STAT"] == "1"
        assert server.log.count("OUTP1:STAT OFF") == 2


def test_safe_after_a_broken_connection(lines: Any, clock: Any) -> None:
    box = Box()
    server = lines(box.answer)
    with laser(server.visa, clock) as pump:
        server.drop()
        with pytest.raises(InstrumentError):
            pump.current.get()
        pump.safe()
        assert "OUTP1:STAT OFF" in server.log


def test_two_threads_get_their_own_replies(lines: Any, clock: Any, together: Any) -> None:
    box = Box()
    server = lines(box.answer)
    box.state |= {"MEAS:VOLT": "2.0", "MEAS:POW2": "0.001"}
    with laser(server.visa, clock) as pump:

        def ask(read: Any, wanted: float) -> None:
            assert all(read() == wanted for _ in range(200))

        def write() -> None:
            for _ in range(50):
                pump.current.set(0.1)

        together(
            lambda: ask(pump.voltage.get, 2.0), lambda: ask(pump.monitor_power.get, 0.001), write
        )


def test_reopen_after_close(lines: Any, clock: Any) -> None:
    server = lines(Box().answer)
    pump = laser(server.visa, clock)
    for _ in range(2):
        with pump:
            assert pump.temperature.get() == 25.0
        with pytest.raises(InstrumentError, match="not open"):
            pump.temperature.get()


@pytest.mark.parametrize(
    "wrong",
    [
        {"current": 2.0},
        {"current": 0.3, "current_limit": 0.2},
        {"temperature": 200.0},
        {"emission": True, "tec": False},
        {"curent": 0.1},
    ],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        CLD1015Settings(**wrong)


def test_settings_read_units() -> None:
    assert CLD1015Settings.model_validate({"current": "120 mA"}).current == pytest.approx(0.12)
