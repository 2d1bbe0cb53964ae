"""The ID900 driver: its messages byte for byte, and clicks that depend on the clock alone."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bellbench.drivers.id_quantique.id900 import ID900Settings, IDQuantiqueID900, _merge
from bellbench.instruments import (
    Identity,
    InstrumentError,
    InstrumentTimeout,
    Loss,
    TimeTagger,
)
from hypothesis import given, settings
from hypothesis import strategies as st

PS = 10**12

START = [
    "REC:TRIG:ARM:MODE MANU",
    "REC:ENAB ON",
    "REC:STOP",
    "REC:NUM INF",
    *(
        f"RAW{n}:{command}"
        for n in (1, 2, 3, 4)
        for command in ("REF:LINK NONE", f"STOP:LINK INPU{n}", "ERRORS:CLEAR", "SEND ON")
    ),
    "REC:PLAY",
]


class Box:
    """An ID900 and its DataLink service, as the driver sees them."""

    def __init__(self, replier: Callable[..., Any], pairs: Any) -> None:
        self.replies = {
            "*IDN?": "IDQ,ID900,1234,2.7.0",
            "DEVI:RES:BWID?": "1TB",
            "REC:STAG?": "PLAYING",
            "INPU1:THRE?": "0.15V",
            "INPU2:THRE?": "-150mV",
            "INPU1:ENAB?": "ON",
            "INPU2:ENAB?": "OFF",
        }
        self.errors = [0, 0, 0, 0]
        self.announced = [0, 0, 0, 0]
        self.dlt_replies: dict[str, Any] = {}
        self.pairs = pairs
        self.scpi, self.dlt = replier(self.answer), replier(self.answer_dlt)

    @property
    def address(self) -> str:
        ports = f"dlt=127.0.0.1:{self.dlt.port}&stream={self.pairs.port}"
        return f"tcp://127.0.0.1:{self.scpi.port}?{ports}"

    def answer(self, text: str) -> str:
        if text.endswith(":ERRORS?"):
            return str(self.errors[int(text[3]) - 1])
        return self.replies.get(text, "")

    def answer_dlt(self, text: str) -> str:
        word, *options = text.split(" ")
        if text in self.dlt_replies:
            return json.dumps(self.dlt_replies[text])
        if word == "list":
            return "[]"
        if word == "start-stream":
            return json.dumps({"id": f"id{options[3]}"})
        if word == "status":
            count = self.announced[int(options[1][2]) - 1]
            return json.dumps(
                {"timestamps_count": count, "acquisitions_count": 1, "inactivity": 0, "errors": []}
            )
        return json.dumps({"status": "stopped"})

    def send(self, stream: int, times: Any, announce: bool = True) -> None:
        words = np.asarray(times, dtype="<i8")
        self.pairs.send(stream, words.tobytes())
        self.announced[stream - 1] += words.size if announce else 0


@pytest.fixture
def box(replier: Any, pairs: Any) -> Box:
    return Box(replier, pairs)


def tagger(address: str, clock: Any, timeout: float = 5.0, **chosen: Any) -> IDQuantiqueID900:
    """One whose clock is taken to be the bench's unless said otherwise."""
    chosen.setdefault("clock_tolerance", 0)
    return IDQuantiqueID900("tagger", address, ID900Settings(timeout=timeout, **chosen), clock)


def test_start_and_stop_message_by_message(box: Box, clock: Any) -> None:
    device = tagger(box.address, clock)
    with device:
        assert (box.scpi.log, box.dlt.log) == (["DEVI:RES:BWID?"], ["list"])
        box.scpi.log.clear()
        box.dlt.log.clear()
        device.start()
        assert box.scpi.log == START
        assert box.dlt.log == [
            f"start-stream --address 127.0.0.1 --channel {n} --stream-port {box.pairs.port + n - 1}"
            for n in (1, 2, 3, 4)
        ]
        box.scpi.log.clear()
        box.dlt.log.clear()
        device.stop()
        device.stop()
        assert box.scpi.log == ["REC:STOP", *(f"RAW{n}:SEND OFF" for n in (1, 2, 3, 4))]
        assert box.dlt.log == [f"stop --id id{n}" for n in (1, 2, 3, 4)]


def test_what_a_crashed_program_left_is_stopped_where_asked_for(box: Box, clock: Any) -> None:
    box.dlt_replies["list"] = ["3", "8"]
    with tagger(box.address, clock, takeover=True) as device:
        device.start()
    assert box.dlt.log[:4] == ["list", "list", "stop --id 3", "stop --id 8"]
    box.dlt_replies["list"] = {"ids": 3}
    expected = pytest.raises(InstrumentError, match=r"ids expected; sent 'list'")
    with tagger(box.address, clock, takeover=True) as device, expected:
        device.start()


def test_signals_and_settings(box: Box, clock: Any) -> None:
    chosen: dict[str, Any] = {
        "thresholds": ("150 mV", 0.2, 0.2, 0.2),
        "edge": "RISING",
        "enabled": (True,) * 4,
    }
    with tagger(box.address, clock, **chosen) as device:
        assert device.identify() == Identity("IDQ", "ID900", "1234", "2.7.0")
        assert device.info.resolution_ps == 1
        assert device.thresholds[0].get() == pytest.approx(0.15)
        assert device.thresholds[1].get() == pytest.approx(-0.15)
        assert device.enabled[0].get() is True
        assert device.enabled[1].get() is False
        assert device.stage.get() == "PLAYING"
        assert device.ready()
        box.scpi.log.clear()
        device.configure()
        assert box.scpi.log[:3] == ["INPU1:THRE 0.15V", "INPU1:EDGE RISING", "INPU1:ENAB ON"]
        assert len(box.scpi.log) == 12


def test_clicks_up_to_the_watermark(box: Box, clock: Any) -> None:
    with tagger(box.address, clock) as device:
        device.start()
        before = clock.now()
        box.send(2, [5, 100 * PS // 1000, 951 * PS // 1000])
        box.send(1, [100 * PS // 1000, 949 * PS // 1000])
        clock.sleep(1.0)
        batch = device.read().checked()
        assert (batch.begin_ps, batch.end_ps) == (0, 950 * PS // 1000)
        assert batch.times_ps.tolist() == [5, PS // 10, PS // 10, 949 * PS // 1000]
        assert batch.channels.tolist() == [2, 1, 2, 1]
        assert batch.clock_id == "tagger"
        assert batch.start_unix_ns > 1.7e18
        assert batch.losses == ()
        box.send(3, [PS])
        clock.sleep(0.1)
        second = device.read()
        assert (second.begin_ps, second.end_ps) == (batch.end_ps, 1050 * PS // 1000)
        assert second.times_ps.tolist() == [951 * PS // 1000, PS]
        assert second.channels.tolist() == [2, 3]
        again = device.read()  # no time has passed
        assert (again.begin_ps, again.end_ps, len(again)) == (second.end_ps, second.end_ps, 0)
        assert before == 100.0


def test_the_first_read_within_the_latency_is_empty(box: Box, clock: Any) -> None:
    with tagger(box.address, clock, latency="50 ms") as device:
        device.start()
        clock.sleep(0.03)
        batch = device.read()
        assert (batch.begin_ps, batch.end_ps) == (0, 0)


def test_reading_waits_for_what_was_announced(box: Box, clock: Any, together: Any) -> None:
    with tagger(box.address, clock) as device:
        device.start()
        clock.sleep(1.0)
        box.announced = [3, 0, 0, 0]
        got: list[int] = []

        def send() -> None:
            for t in (1, 2, 3):
                box.send(1, [t], announce=False)

        together(lambda: got.extend(device.read().times_ps.tolist()), send)
        assert got == [1, 2, 3]


def test_a_stream_that_stays_behind(box: Box, clock: Any) -> None:
    with tagger(box.address, clock, timeout=0.3) as device:
        device.start()
        clock.sleep(1.0)
        box.send(2, [7])
        box.announced[2] = 5
        with pytest.raises(InstrumentTimeout, match=r"\[0, 1, 0, 0\] words of \[0, 1, 5, 0\]"):
            device.read()
        box.send(3, [1, 2, 3, 4, 5], announce=False)
        assert device.read().times_ps.tolist() == [1, 2, 3, 4, 5, 7]  # nothing was dropped


def test_overflow_is_a_loss(box: Box, clock: Any) -> None:
    with tagger(box.address, clock) as device:
        device.start()
        clock.sleep(1.0)
        assert device.read().losses == ()
        box.errors[2] = 17
        clock.sleep(1.0)
        batch = device.read()
        lost = Loss("overflow", 950 * PS // 1000, 2 * PS, 17)
        assert batch.losses == (lost,)
        assert batch.live_s == 0.0
        clock.sleep(1.0)
        assert device.read().losses == (lost,)  # it reaches into this batch
        clock.sleep(1.0)
        assert device.read().losses == ()


def test_late_clicks_are_counted_and_dropped(box: Box, clock: Any) -> None:
    with tagger(box.address, clock) as device:
        device.start()
        box.send(1, [10, PS])
        clock.sleep(1.0)
        end = device.read().end_ps
        box.send(2, [20, 30, end, end + 1])
        clock.sleep(1.0)
        batch = device.read()
        assert batch.times_ps.tolist() == [end, end + 1, PS]
        assert batch.losses == (Loss("late", 20, end + 1, 2),)
        clock.sleep(1.0)
        assert device.read().losses == ()


@pytest.mark.parametrize("off", [1e-4, 0.0, -1e-4])
@pytest.mark.parametrize("tolerance", [1e-4, 2e-4])
def test_hours_with_a_clock_of_its_own(box: Box, clock: Any, off: float, tolerance: float) -> None:
    hours, step_s, every_s, message_s = 3, 60.0, 7.3, 0.012
    clicks = np.rint(np.arange(every_s, hours * 3600, every_s) * (1 + off) * PS).astype(np.int64)
    with tagger(box.address, clock, clock_tolerance=tolerance) as device:
        device.start()
        began, sent, got, end_ps = clock.now(), 0, [], 0
        for _ in range(round(hours * 3600 / step_s)):
            clock.sleep(step_s)
            elapsed = clock.now() - began
            by_now = int(np.searchsorted(clicks, (elapsed - message_s) * (1 + off) * PS))
            box.send(3, clicks[sent:by_now])  # inputs 1, 2 and 4 are dead
            sent = by_now
            batch = device.read().checked()
            assert batch.losses == ()
            assert batch.begin_ps == end_ps
            end_ps, shown = batch.end_ps, elapsed * (1 + off)
            assert end_ps <= (shown - 0.05) * PS + 1000
            # behind by the latency, and by no more than the tagger could have been off since the
            # last click, however long it has recorded
            behind = min(every_s, (tolerance + off) * elapsed) + message_s + 5e-3
            assert end_ps >= (shown - 0.05 - behind) * PS - 1000
            got += batch.times_ps.tolist()
        assert got == clicks[: len(got)].tolist()
        assert len(clicks) - len(got) <= 2


def test_a_click_of_the_far_future_does_not_carry_the_watermark_away(box: Box, clock: Any) -> None:
    with tagger(box.address, clock, clock_tolerance=1e-4) as device:
        device.start()
        clock.sleep(1.0)
        box.send(1, [10, 1 << 60])
        assert device.read().end_ps <= round(0.9502 * PS)
        box.send(2, [PS])
        clock.sleep(1.0)
        batch = device.read()
        assert (batch.times_ps.tolist(), batch.losses) == ([PS], ())


def test_a_clock_beyond_its_tolerance_is_told_by_late_clicks(box: Box, clock: Any) -> None:
    with tagger(box.address, clock, clock_tolerance=1e-5) as device:
        device.start()
        clock.sleep(3600.0)
        end_ps = device.read().end_ps
        assert end_ps == round((3600 * (1 - 1e-5) - 0.05) * PS)
        box.send(1, [round(3600 * (1 - 1e-4) * PS)])
        assert [loss.kind for loss in device.read().losses] == ["late"]


def test_a_disordered_stream_is_sorted(box: Box, clock: Any) -> None:
    with tagger(box.address, clock) as device:
        device.start()
        box.send(1, [30, 10, 20])
        clock.sleep(1.0)
        assert device.read().times_ps.tolist() == [10, 20, 30]


def test_a_stream_that_ends(box: Box, clock: Any) -> None:
    with tagger(box.address, clock) as device:
        device.start()
        box.pairs.send(3, b"")
        streams = device._streams
        with streams._news:
            assert streams._news.wait_for(lambda: 2 in streams._ended, 5.0)
        with pytest.raises(InstrumentError, match="stream of input 3 has ended"):
            device.read()


def test_words_with_a_reference_index_are_not_mistaken(box: Box, clock: Any) -> None:
    with tagger(box.address, clock) as device:
        device.start()
        box.pairs.send(1, bytes(12))
        box.announced[0] = 1
        clock.sleep(1.0)
        with pytest.raises(InstrumentError, match="with-ref-index"):
            device.read()


def test_the_golden_word(box: Box, clock: Any) -> None:
    with tagger(box.address, clock) as device:
        device.start()
        box.pairs.send(1, bytes.fromhex("40 e2 01 00 00 00 00 00"))
        box.announced[0] = 1
        clock.sleep(1.0)
        assert device.read().times_ps.tolist() == [123456]


def test_a_second_recording_begins_at_zero(box: Box, clock: Any) -> None:
    with tagger(box.address, clock) as device:
        device.start()
        with pytest.raises(InstrumentError, match="recording already"):
            device.start()
        clock.sleep(5.0)
        device.read()
        device.stop()
        with pytest.raises(InstrumentError, match="not recording"):
            device.read()
        device.start()
        clock.sleep(0.25)
        batch = device.read()
        assert (batch.begin_ps, batch.end_ps) == (0, 200 * PS // 1000)


def test_more_words_than_are_held(box: Box, clock: Any, together: Any, monkeypatch: Any) -> None:
    # the reader stops at its bound; reading takes them all, none is lost
    monkeypatch.setattr("bellbench.drivers.id_quantique.streams._MAX_WORDS", 1000)
    n, size = 300, 500
    with tagger(box.address, clock) as device:
        device.start()
        box.announced = [n * size, 0, 0, 0]

        def send() -> None:
            for i in range(n):
                box.send(1, np.arange(i * size, (i + 1) * size), announce=False)

        clock.sleep(1.0)
        batches: list[Any] = []
        together(send, lambda: batches.append(device.read()))
        assert np.array_equal(batches[0].times_ps, np.arange(n * size))


def test_silence_then_a_new_socket(box: Box, clock: Any) -> None:
    with tagger(box.address, clock, timeout=0.2) as device:
        answer = box.scpi.answer
        box.scpi.answer = lambda text: None
        with pytest.raises(InstrumentTimeout, match=r"no answer from tcp://.*\*IDN\?"):
            device.identify()
        box.scpi.answer = answer
        assert device.identify().model == "ID900"


def test_stopping_a_dead_box_costs_one_timeout(box: Box, clock: Any) -> None:
    device = tagger(box.address, clock, timeout=0.2)
    device.open()
    device.start()
    box.scpi.answer = lambda text: None
    box.scpi.log.clear()
    with pytest.raises(InstrumentTimeout, match="REC:STOP"):
        device.close()
    assert box.scpi.log == ["REC:STOP"]
    assert box.dlt.log[-1] == "stop --id id4"
    with pytest.raises(InstrumentError, match="not open"):
        device.identify()


def test_refused_connections(box: Box, clock: Any, nobody: int) -> None:
    with pytest.raises(InstrumentError, match="refuses the connection"):
        tagger(f"tcp://127.0.0.1:{nobody}", clock).open()
    device = tagger(f"tcp://127.0.0.1:{box.scpi.port}?dlt=127.0.0.1:{nobody}", clock)
    with pytest.raises(InstrumentError, match="DataLinkTargetService"):
        device.open()
    with pytest.raises(InstrumentError, match="not open"):
        device.identify()


def test_refusals(box: Box, clock: Any) -> None:
    with tagger(box.address, clock) as device:
        box.replies["INPU1:THRE 0.2V"] = "error: out of range"
        with pytest.raises(InstrumentError, match=r"INPU1:THRE 0\.2V.*out of range"):
            device.thresholds[0].set(0.2)
        with pytest.raises(InstrumentError, match="empty answer"):
            device.thresholds[3].get()
        box.replies["INPU4:THRE?"] = "high"
        with pytest.raises(InstrumentError, match="a voltage expected"):
            device.thresholds[3].get()


def test_a_port_in_use_undoes_the_start(box: Box, clock: Any) -> None:
    with tagger(box.address, clock) as device:
        third = f"start-stream --address 127.0.0.1 --channel 3 --stream-port {box.pairs.port + 2}"
        box.dlt_replies[third] = {"error": {"description": "Address already in use"}}
        with pytest.raises(InstrumentError, match=r"start-stream.*already in use.*another program"):
            device.start()
        assert box.dlt.log[-2:] == ["stop --id id1", "stop --id id2"]
        del box.dlt_replies[third]
        device.start()


def test_errors_of_a_stream(box: Box, clock: Any) -> None:
    with tagger(box.address, clock) as device:
        device.start()
        box.dlt_replies["status --id id2"] = {"errors": [{"description": "device lost"}]}
        with pytest.raises(InstrumentError, match="device lost"):
            device.read()


def test_two_threads_get_their_own_replies(box: Box, clock: Any, together: Any) -> None:
    with tagger(box.address, clock) as device:

        def ask(read: Any, wanted: object) -> None:
            assert all(read() == wanted for _ in range(200))

        together(
            lambda: ask(device.stage.get, "PLAYING"),
            lambda: ask(lambda: device.identify().serial, "1234"),
            lambda: ask(device.enabled[1].get, False),
        )


@pytest.mark.parametrize("address", ["tcp://h?dlt=x", "tcp://h?stream=y", "usb://h", "tcp://h?a=1"])
def test_wrong_addresses(address: str, clock: Any) -> None:
    with pytest.raises(InstrumentError, match=r"address"):
        tagger(address, clock).open()


def test_it_is_a_tagger_without_being_open(clock: Any) -> None:
    device = tagger("tcp://127.0.0.1:1", clock)
    assert isinstance(device, TimeTagger)
    assert device.info.channels == (1, 2, 3, 4)
    device.stop()
    device.close()


@given(st.lists(st.lists(st.integers(0, 10**17)), min_size=4, max_size=4), st.integers(0, 10**17))
@settings(max_examples=50, deadline=None)
def test_merging_keeps_every_click_in_order(parts: list[list[int]], begin: int) -> None:
    arrays = [np.array(sorted(begin + t for t in part), dtype=np.int64) for part in parts]
    times, channels = _merge(arrays, begin)
    wanted = sorted((t, i + 1) for i, part in enumerate(arrays) for t in part.tolist())
    assert list(zip(times.tolist(), channels.tolist(), strict=True)) == wanted
