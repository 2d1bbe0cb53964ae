"""The DG645 driver, byte for byte."""

import threading
from typing import Any

import pytest
from bellbench.drivers.stanford.dg645 import DG645Settings, StanfordDG645
from bellbench.instruments import DelayGenerator, Identity, InstrumentError, InstrumentTimeout
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NONE = (b"LERR?\n", b"0\r\n")


def generator(address: str, clock: Any, **wanted: Any) -> StanfordDG645:
    return StanfordDG645("delays", address, DG645Settings(timeout=0.5, **wanted), clock)


def setting(command: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return (command + b"\n", b""), NONE


class Box:
    """A DG645 that keeps what it is told; ``refuse`` maps a command to codes."""

    def __init__(self) -> None:
        self.state: dict[str, str] = {"TSRC": "5"}
        self.refuse: dict[str, list[int]] = {}
        self.queue: list[int] = []

    def answer(self, line: str) -> str | None:
        if line == "LERR?":
            return str(self.queue.pop(0)) if self.queue else "0"
        header, query, index = line.partition("?")
        if query:
            if header + index not in self.state:
                self.queue.append(112)
                return None
            return self.state[header + index]
        if line in self.refuse:
            self.queue += self.refuse[line]
            return None
        header, _, rest = line.partition(" ")
        if "," in rest:
            index, _, rest = rest.partition(",")
            header += index
        self.state[header] = f"{float(rest):+.12f}" if header == "TRAT" else rest
        return None


def test_conversation(script: Any, clock: Any) -> None:
    server = script(
        NONE,
        (b"*IDN?\n", b"Stanford Research Systems,DG645,s/n001013,ver1.00.00E\r\n"),
        *setting(b"DLAY 2,0,0.000010000000"),
        (b"DLAY?2\n", b"0,+0.000010000000\r\n"),
        *setting(b"LAMP 1,2.50"),
        (b"LAMP?1\n", b"+2.50\r\n"),
        *setting(b"LOFF 0,-0.10"),
        *setting(b"LPOL 4,0"),
        (b"LPOL?4\n", b"1\r\n"),
        *setting(b"TSRC 0"),
        (b"TSRC?\n", b"3\r\n"),
        *setting(b"TRAT 1000.500000"),
        (b"TRAT?\n", b"+1.0005e3\r\n"),
        *setting(b"TLVL -1.25"),
        *setting(b"BURM 1"),
        *setting(b"BURC 12"),
        (b"BURC?\n", b"12\r\n"),
        *setting(b"BURP 0.00000200"),
        *setting(b"BURD 0.000000500000"),
        *setting(b"BURT 1"),
        *setting(b"ADVT 1"),
        *setting(b"HOLD 0.000100000000"),
        *setting(b"PRES 0,4"),
        *setting(b"PHAS 2,3"),
        *setting(b"INHB 2"),
        (b"INSR?\n", b"7\r\n"),
    )
    with generator(server.visa, clock) as box:
        assert isinstance(box, DelayGenerator)
        assert box.identify() == Identity(
            "Stanford Research Systems", "DG645", "s/n001013", "ver1.00.00E"
        )
        box.delays["A"].set(9.999999999999999e-06)
        assert box.delays["A"].get() == 1e-5
        box.amplitudes["AB"].set(2.5)
        assert box.amplitudes["AB"].get() == 2.5
        box.offsets["T0"].set(-0.1)
        box.positive["GH"].set(False)
        assert box.positive["GH"].get() is True
        box.trigger_source.set("internal")
        assert box.trigger_source.get() == "single_external_rising"
        box.trigger_rate.set(1000.5)
        assert box.trigger_rate.get() == 1000.5
        box.trigger_level.set(-1.25)
        box.burst.set(True)
        box.burst_count.set(12)
        assert box.burst_count.get() == 12
        box.burst_period.set(2e-6)
        box.burst_delay.set(500e-9)
        box.burst_t0_once.set(True)
        box.advanced.set(True)
        box.holdoff.set(1e-4)
        box.prescales["trigger"].set(4)
        box.phases["CD"].set(3)
        box.inhibit.set("AB")
        assert box.events() == (
            "triggered",
            "trigger ignored: a cycle was running",
            "cycle ended",
        )


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.integers(0, 2000 * 200_000_000_000))
def test_delays_stand_on_the_5_ps_grid_exactly(clock: Any, steps: int) -> None:
    sent: list[str] = []
    box = generator("TCPIP::127.0.0.1::1::SOCKET", clock)
    box._wire.set = sent.append  # type: ignore[method-assign,assignment]
    ps = 5 * steps
    box.delays["H"].set(ps * 1e-12)
    head, _, text = sent[0].rpartition(",")
    assert head == "DLAY 9,0"
    whole, _, rest = text.partition(".")
    assert len(rest) == 12
    found = int(whole) * 10**12 + int(rest)
    assert found % 5 == 0
    # a float of seconds holds 5 ps only up to some 10^4 s / 2^53
    assert abs(found - ps) <= (0 if ps < 10**15 else 5)


@pytest.mark.parametrize("form", [b"0,9.999999999999999e-06", b"0,+0.000010000000", b"0, 1e-5"])
def test_number_forms(script: Any, clock: Any, form: bytes) -> None:
    server = script(NONE, (b"DLAY?2\n", form + b"\r\n"))
    with generator(server.visa, clock) as box:
        assert box.delays["A"].get() == 1e-5


def test_links_add_up(script: Any, clock: Any) -> None:
    a, b = (b"DLAY?2\n", b"0,+0.000001000000\r\n"), (b"DLAY?3\n", b"2,+0.000000250005\r\n")
    c = (b"DLAY?4\n", b"0,+0.000001000000\r\n")
    server = script(NONE, b, a, c, b, a, *setting(b"DLAY 4,3,-0.000000250005"), b)
    with generator(server.visa, clock) as box:
        assert box.delays["B"].get() == 1.250005e-6
        box.link("C", "B")
        reference, distance = box.reference("B")
        assert (reference, distance) == ("A", 250.005e-9)


def test_a_link_at_a_given_distance(script: Any, clock: Any) -> None:
    server = script(NONE, *setting(b"DLAY 5,4,0.000000100000"))
    with generator(server.visa, clock) as box:
        box.link("D", "C", 1e-7)
        for channel, reference in (("T0", "A"), ("A", "T1"), ("Z", "A")):
            with pytest.raises(InstrumentError, match="no channel"):
                box.link(channel, reference)
        with pytest.raises(InstrumentError, match="not within 2000 s"):
            box.link("D", "C", float("nan"))


def test_links_in_a_circle(lines: Any, clock: Any) -> None:
    box = Box()
    box.state |= {"DLAY2": "3,+0.0", "DLAY3": "2,+0.0"}
    with (
        generator(lines(box.answer).visa, clock) as delays,
        pytest.raises(InstrumentError, match="circle"),
    ):
        delays.delays["A"].get()


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ([12], r"illegal delay \(12\).*'DLAY 2,0,0\.000001000000'.*try: delays from T0"),
        ([13], r"illegal link \(13\).*circle"),
        ([10, 254], r"illegal value \(10\), too many errors \(254\)"),
        ([55], "self-test failed"),
        ([85], "calibration failed"),
        ([99], "error 99"),
    ],
)
def test_silent_refusals_are_found_and_explained(
    lines: Any, clock: Any, codes: list[int], words: str
) -> None:
    box = Box()
    box.refuse["DLAY 2,0,0.000001000000"] = codes
    with generator(lines(box.answer).visa, clock) as delays:
        with pytest.raises(InstrumentError, match=words):
            delays.delays["A"].set(1e-6)
        delays.delays["B"].set(1e-6)  # the queue was emptied


def test_a_queue_that_does_not_empty(lines: Any, clock: Any) -> None:
    server = lines(lambda line: "111" if line == "LERR?" else None)
    with pytest.raises(InstrumentError, match="does not empty"):
        generator(server.visa, clock).open()


def test_opening_empties_the_queue(script: Any, clock: Any, caplog: Any) -> None:
    server = script((b"LERR?\n", b"111\r\n"), NONE)
    with generator(server.visa, clock) as box:
        box.open()
    assert "undefined command (111)" in caplog.text


def test_a_query_without_reply_is_explained_by_the_queue(lines: Any, clock: Any) -> None:
    with (
        generator(lines(Box().answer).visa, clock) as box,
        pytest.raises(InstrumentError, match="illegal query"),
    ):
        box.burst_period.get()


def test_silence_is_a_timeout(script: Any, clock: Any) -> None:
    server = script(NONE, (b"TRAT?\n", b""), NONE)
    with (
        generator(server.visa, clock) as box,
        pytest.raises(InstrumentTimeout, match=r"TRAT\?"),
    ):
        box.trigger_rate.get()


@pytest.mark.parametrize(
    ("query", "reply", "read"),
    [
        (b"DLAY?2\n", b"11,+0.0", lambda box: box.delays["A"].get()),
        (b"DLAY?2\n", b"0", lambda box: box.delays["A"].get()),
        (b"TSRC?\n", b"7", lambda box: box.trigger_source.get()),
        (b"TSRC?\n", b"-1", lambda box: box.trigger_source.get()),
        (b"BURC?\n", b"many", lambda box: box.burst_count.get()),
        (b"TRAT?\n", b"fast", lambda box: box.trigger_rate.get()),
        (b"*IDN?\n", b"SRS", lambda box: box.identify()),
    ],
)
def test_nonsense_is_an_error(
    script: Any, clock: Any, query: bytes, reply: bytes, read: Any
) -> None:
    server = script(NONE, (query, reply + b"\r\n"))
    with generator(server.visa, clock) as box, pytest.raises(InstrumentError, match="expected"):
        read(box)


def test_values_refused_before_anything_is_sent(script: Any, clock: Any) -> None:
    with generator(script(NONE).visa, clock) as box:
        for signal, bad in (
            (box.delays["A"], -1e-9),
            (box.delays["A"], 2000.1),
            (box.amplitudes["AB"], 5.1),
            (box.trigger_rate, 1.1e7),
            (box.burst_period, 9e-8),
            (box.burst_count, 0),
            (box.burst_count, 1.5),
            (box.burst_count, True),
            (box.trigger_source, "manual"),
            (box.inhibit, "everything"),
            (box.burst, 1),
        ):
            with pytest.raises(InstrumentError):
                signal.set(bad)  # type: ignore[arg-type]


def test_configure_starts_the_triggers_last(lines: Any, clock: Any) -> None:
    server = lines(Box().answer)
    wanted = {
        "delays": {"A": "1 us", "B": "1.5 us"},
        "amplitudes": {"AB": "2.5 V"},
        "offsets": {"AB": "0 V"},
        "positive": {"AB": False},
        "trigger_source": "internal",
        "trigger_rate": "10 kHz",
        "burst": True,
        "burst_count": 3,
        "burst_period": "10 us",
        "burst_delay": "0 s",
        "burst_t0_once": True,
        "trigger_level": "1 V",
        "inhibit": "triggers",
    }
    with generator(server.visa, clock, **wanted) as box:
        box.configure()
        assert box.ready()
    commands = [line for line in server.log if "?" not in line]
    assert commands == [
        "LPOL 1,0",
        "DLAY 2,0,0.000001000000",
        "DLAY 3,0,0.000001500000",
        "LOFF 1,0.00",
        "LAMP 1,2.50",
        "TLVL 1.00",
        "BURP 0.00001000",
        "BURD 0.000000000000",
        "TRAT 10000.000000",
        "BURC 3",
        "BURT 1",
        "BURM 1",
        "INHB 1",
        "TSRC 0",
    ]
    server.log.clear()
    with generator(server.visa, clock) as box:
        box.configure()
    assert server.log == ["LERR?"]


def test_trigger_and_arm_need_their_source(script: Any, clock: Any) -> None:
    server = script(
        NONE,
        (b"TSRC?\n", b"5\r\n"),
        *setting(b"*TRG"),
        (b"TSRC?\n", b"0\r\n"),
        (b"TSRC?\n", b"4\r\n"),
        *setting(b"*TRG"),
        (b"TSRC?\n", b"5\r\n"),
    )
    with generator(server.visa, clock) as box:
        box.trigger()
        with pytest.raises(InstrumentError, match=r"'internal'.*set trigger_source to 'single'"):
            box.trigger()
        box.arm()
        with pytest.raises(InstrumentError, match="single_external_rising"):
            box.arm()


def test_off_and_safe(script: Any, clock: Any) -> None:
    server = script(
        NONE,
        *setting(b"TSRC 5"),
        (b"TSRC 5\n", b""),
        (b"LERR?\n", b"15\r\n"),
        NONE,
        *setting(b"BURM 0"),
    )
    with generator(server.visa, clock) as box:
        box.off()
        with pytest.raises(InstrumentError, match="not allowed"):
            box.safe()


def test_two_threads_get_their_own_replies(lines: Any, clock: Any, together: Any) -> None:
    box = Box()
    box.state |= {"TRAT": "1000", "BURC": "7"}
    seen = threading.Event()
    with generator(lines(box.answer).visa, clock) as delays:

        def ask(read: Any, wanted: float) -> None:
            assert all(read() == wanted for _ in range(100))
            seen.set()

        def write() -> None:
            for _ in range(50):
                delays.delays["A"].set(1e-6)

        together(
            lambda: ask(delays.trigger_rate.get, 1000.0),
            lambda: ask(delays.burst_count.get, 7),
            write,
        )
    assert seen.is_set()


@pytest.mark.parametrize(
    "wrong",
    [
        {"delays": {"I": 1e-6}},
        {"delays": {"A": 2001.0}},
        {"amplitudes": {"AB": 0.1}},
        {"trigger_source": "sometimes"},
        {"burst_count": 0},
        {"dealys": {}},
    ],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        DG645Settings(**wrong)
