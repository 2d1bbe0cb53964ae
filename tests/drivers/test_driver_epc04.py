"""The EPC-DRIVER-04 driver, byte for byte: a content line and Done."""

from typing import Any

import pytest
from bellbench.drivers.oz_optics.epc04 import EPC04Settings, OzOpticsEPC04
from bellbench.instruments import Identity, InstrumentError, InstrumentTimeout

VOLTAGES = (b"V?\r\n", b"Voltage(mV): CH1 +2200 CH2 +5000 CH3 -1000 CH4 -4000\r\nDone\r\n")
DC = (b"M?\r\n", b"Work Mode: DC\r\nDone\r\n")
AC = (b"M?\r\n", b"Work Mode: AC(Sine)\r\nDone\r\n")


def told(channel: int, millivolts: int) -> tuple[bytes, bytes]:
    answer = f"Set CH{channel} DC Voltage at: {millivolts}mV\r\nDone\r\n"
    return f"V{channel},{millivolts}\r\n".encode(), answer.encode()


def squeezers(address: str, clock: Any, **settings: Any) -> OzOpticsEPC04:
    return OzOpticsEPC04("squeezers", address, EPC04Settings(timeout=0.4, **settings), clock)


def test_golden_conversation(script: Any, clock: Any) -> None:
    server = script(
        VOLTAGES,
        (b"V1,1500\r\n", b"Set CH1 DC Voltage at: 1500mV\r\nDone\r\n"),
        (b"V3,-2500\r\n", b"Set CH3 DC Voltage at: -2500mV\r\nDone\r\n"),
        *[VOLTAGES, VOLTAGES],
        *[DC, AC],
        (b"SAVE\r\n", b"Write Setting to Flash memory\r\nDone\r\n"),
        VOLTAGES,
    )
    with squeezers(server.serial, clock) as device:
        device.actuators[0].set(1.5)
        device.actuators[2].set(-2.5)
        assert device.actuators[0].get() == 2.2
        assert device.actuators[3].get() == -4.0
        assert device.ready()
        assert not device.ready()  # it scrambles
        device.save()
        assert device.identify() == Identity("OZ Optics", "EPC-DRIVER-04")


def test_settings_are_written_the_voltages_last(script: Any, clock: Any) -> None:
    server = script(
        VOLTAGES,
        (b"WF2\r\n", b"Set AC Waveform at: Triangle\r\nDone\r\n"),
        *[
            (f"F{n},{hz}\r\n".encode(), f"Set CH{n} AC Frequency at: {hz}Hz\r\nDone\r\n".encode())
            for n, hz in ((1, 7), (2, 17), (3, 0), (4, 100))
        ],
        (b"MDC\r\n", b"Set To DC Mode\r\nDone\r\n"),
        *[told(1, 0), told(2, 1), told(3, -5000), told(4, 1234)],
    )
    settings = {
        "waveform": "triangle",
        "frequencies": ("7 Hz", "17 Hz", 0, "0.1 kHz"),
        "scrambling": False,
        "voltages": (0, "1 mV", "-5 V", 1.2341),
    }
    with squeezers(server.serial, clock, **settings) as device:
        device.configure()


def test_nothing_said_nothing_written(script: Any, clock: Any) -> None:
    with squeezers(script(VOLTAGES).serial, clock) as device:
        device.configure()
        device.off()
        device.safe()


def test_scrambling_frequencies_and_form(script: Any, clock: Any) -> None:
    frequencies = (b"F?\r\n", b"Frequency(Hz): CH1 007  CH2 017  CH3 037  CH4 071\r\nDone\r\n")
    server = script(
        VOLTAGES,
        *[frequencies, frequencies],
        (b"WF?\r\n", b"AC Waveform: Sine\r\nDone\r\n"),
        (b"MAC\r\n", b"Set To AC Mode\r\nDone\r\n"),
        AC,
    )
    with squeezers(server.serial, clock) as device:
        assert [device.frequencies[i].get() for i in (0, 3)] == [7.0, 71.0]
        assert device.waveform.get() == "sine"
        device.scrambling.set(True)
        assert device.scrambling.get() is True
        with pytest.raises(InstrumentError, match="sine or triangle, not 'square'"):
            device.waveform.set("square")


def test_limits(script: Any, clock: Any) -> None:
    with squeezers(script(VOLTAGES).serial, clock) as device:
        for bad in (-5.001, 5.001, float("nan")):
            with pytest.raises(InstrumentError, match="accepts -5 to 5 V"):
                device.actuators[1].set(bad)
        with pytest.raises(InstrumentError, match="accepts 0 to 100 Hz"):
            device.frequencies[0].set(101)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"Error!\r\n", "refused.*'V1,1500'"),
        (b"Set CH1 DC Voltage at: 1500mV\r\nError!\r\n", "refused.*1500mV; Error!"),
        (b"Set CH2 DC Voltage at: 1500mV\r\nDone\r\n", "set something else.*CH2"),
        (b"Set CH1 DC Voltage at: 1499mV\r\nDone\r\n", "set something else.*1499"),
        (b"hello\r\nDone\r\n", "no answer to it.*EPC-DRIVER-04"),
        (b"Set CH1 DC Voltage at: 1500mV\r\nV?\r\n", "does not end with Done"),
    ],
)
def test_refusals_and_nonsense_and_it_goes_on(
    script: Any, clock: Any, answer: bytes, words: str
) -> None:
    server = script(VOLTAGES, (b"V1,1500\r\n", answer), VOLTAGES)
    with squeezers(server.serial, clock) as device:
        with pytest.raises(InstrumentError, match=words):
            device.actuators[0].set(1.5)
        assert device.actuators[2].get() == -1.0


def test_pieces_half_an_answer_and_silence(script: Any, clock: Any) -> None:
    request, answer = VOLTAGES
    server = script(
        VOLTAGES,
        (request, [answer[:1], answer[1:20], answer[20:-7], answer[-7:]]),
        (request, answer[:-2]),
        (request, b""),
        VOLTAGES,
    )
    with squeezers(server.serial, clock) as device:
        assert device.actuators[0].get() == 2.2
        for _ in range(2):
            with pytest.raises(InstrumentTimeout, match=r"V\?"):
                device.actuators[0].get()
        assert device.actuators[0].get() == 2.2


def test_two_threads_get_their_own_replies(lines: Any, clock: Any, together: Any) -> None:
    def answer(command: str) -> str:
        if command == "V?":
            return "Voltage(mV): CH1 +1 CH2 +2 CH3 +3 CH4 +4\r\nDone"
        return "Frequency(Hz): CH1 011  CH2 012  CH3 013  CH4 014\r\nDone"

    server = lines(answer, b"\r\n", b"\r\n")
    with squeezers(server.serial, clock) as device:

        def ask(i: int) -> None:
            for _ in range(100):
                assert device.actuators[i].get() == (i + 1) / 1000
                assert device.frequencies[i].get() == 11 + i

        together(lambda: ask(0), lambda: ask(1), lambda: ask(3))


def test_refused_connection(nobody: int, clock: Any) -> None:
    with pytest.raises(InstrumentError, match="cannot open the port"):
        squeezers(f"socket://127.0.0.1:{nobody}", clock).open()


@pytest.mark.parametrize(
    "wrong",
    [{"voltages": (0, 0, 0)}, {"voltages": (0, 0, 0, 5.1)}, {"waveform": "square"}, {"speed": 1}],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        EPC04Settings(**wrong)
