"""The TDC1 driver: ASCII, then a stream of words that turns over every 2^28 ns."""

import struct
import threading
from typing import Any

import numpy as np
import pytest
from bellbench.drivers.s_fifteen.tdc1 import SFifteenTDC1, TDC1Settings
from bellbench.instruments import InstrumentError, InstrumentTimeout, TimeTagger

PS = 10**12
TURN_NS = 1 << 28
ABORT = (b"abort\r\n", b"")
OPEN = (ABORT, (b"*IDN?\r\n", b"TDC1 s/n 007\r\n"))
START = ((b"timestamp;mode?\r\n", b"3\r\n"), (b"INPKT;time 0;counts?;\r\n", b""))


def word(ns: int, pattern: int) -> bytes:
    """A word by the layout of its manual; pattern 0 is a dummy."""
    return struct.pack("<I", (ns // 2 % (1 << 27)) << 5 | (pattern or 0x10))


def words(until_ns: int, clicks: dict[int, int]) -> bytes:
    """Clicks and the dummy words of every turn up to ``until_ns``."""
    turns = dict.fromkeys(range(TURN_NS, until_ns, TURN_NS), 0)
    return b"".join(word(ns, p) for ns, p in sorted((turns | clicks).items()))


def tagger(address: str, clock: Any, timeout: float = 5.0, **chosen: Any) -> SFifteenTDC1:
    """One whose clock is taken to be the bench's unless said otherwise."""
    chosen.setdefault("clock_tolerance", 0)
    return SFifteenTDC1("tdc", address, TDC1Settings(timeout=timeout, **chosen), clock)


def test_the_golden_word() -> None:
    assert word(2469134, 0b0101) == bytes.fromhex("e5 d0 5a 02")


def test_signals_and_settings(script: Any, clock: Any) -> None:
    server = script(
        *OPEN,
        (b"level?\r\n", b"0.5 V\r\n"),
        (b"REFCLK?\r\n", b"2\r\n"),
        (b"REFCLK 1;mode?\r\n", b"0\r\n"),
        (b"NEG -0.5;mode?\r\n", b"0\r\n"),
        (b"POS 1;mode?\r\n", b"0\r\n"),
    )
    with tagger(server.serial, clock, clock_source="external", threshold="-500 mV") as device:
        assert device.threshold.get() == 0.5
        assert device.clock_source.get() == "internal"
        device.configure()
        device.threshold.set(1.0)
        with pytest.raises(InstrumentError, match="auto, external, internal"):
            device.clock_source.set("quartz")


def test_pulses(script: Any, clock: Any) -> None:
    server = script(*OPEN, (b"NIM;mode?\r\n", b"0\r\n"))
    with tagger(server.serial, clock, pulses="NIM") as device:
        device.configure()


def test_another_box(script: Any, clock: Any) -> None:
    server = script(ABORT, (b"*IDN?\r\n", b"SPD\r\n"))
    with pytest.raises(InstrumentError, match=r"is no TDC1.*SPD"):
        tagger(server.serial, clock).open()


def test_what_the_box_says_after_a_setting_is_a_refusal(script: Any, clock: Any) -> None:
    server = script(*OPEN, (b"POS 1;mode?\r\n", b"value out of range\r\n0\r\n"))
    with (
        tagger(server.serial, clock) as device,
        pytest.raises(InstrumentError, match="value out of range"),
    ):
        device.threshold.set(1.0)


def test_clicks_up_to_the_watermark(script: Any, clock: Any) -> None:
    server = script(*OPEN, *START, ABORT)
    with tagger(server.serial, clock) as device:
        device.start()
        with pytest.raises(InstrumentError, match="stop\\(\\) first"):
            device.threshold.get()
        sent = words(10**9, {100: 1, 250_000_000: 0b1010, 699_999_998: 4, 700_000_000: 8})
        for i in range(0, len(sent), 3):  # words in pieces
            server.push(sent[i : i + 3])
        clock.sleep(1.0)
        batch = device.read().checked()
        assert (batch.begin_ps, batch.end_ps) == (0, 700 * PS // 1000)
        assert (batch.times_ps // 1000).tolist() == [100, 250_000_000, 250_000_000, 699_999_998]
        assert batch.channels.tolist() == [1, 2, 4, 3]
        assert batch.clock_id == "tdc"
        server.push(words(10**9 + TURN_NS, {})[-4:])
        clock.sleep(0.1)
        second = device.read()
        assert (second.begin_ps, second.end_ps) == (batch.end_ps, 800 * PS // 1000)
        assert second.channels.tolist() == [4]


def test_silent_inputs_pass_by_their_dummies(script: Any, clock: Any) -> None:
    server = script(*OPEN, *START, ABORT)
    with tagger(server.serial, clock) as device:
        device.start()
        server.push(words(60 * 10**9, {59 * 10**9: 2}))
        clock.sleep(60.0)
        batch = device.read()
        assert batch.end_ps == round(59.7 * PS)
        assert batch.times_ps.tolist() == [59 * PS]


def hours(
    script: Any, clock: Any, off: float, cut: int, steps: int, step_s: float
) -> list[tuple[int, int, list[int]]]:
    """Read a box whose clock is off, its words coming in pieces: begin, end, clicks each time."""
    server = script(*OPEN, *START, ABORT)
    every_ns = 7_300_000_000
    read = []
    with tagger(server.serial, clock, clock_tolerance=1e-4) as device:
        device.start()
        began, sent_ns = clock.now(), 0
        for _ in range(steps):
            clock.sleep(step_s)
            shown_ns = round((clock.now() - began) * (1 + off) * 1e9)
            clicks = dict.fromkeys(range(every_ns, shown_ns, every_ns), 2)
            turns = dict.fromkeys(range(TURN_NS, shown_ns, TURN_NS), 0)
            new = sorted(item for item in (turns | clicks).items() if item[0] >= sent_ns)
            sent_ns = shown_ns
            data = b"".join(word(ns, pattern) for ns, pattern in new)
            for i in range(0, len(data), cut):
                server.push(data[i : i + cut])
            batch = device.read().checked()
            assert batch.losses == ()
            read.append((batch.begin_ps, batch.end_ps, (batch.times_ps // 1000).tolist()))
            assert batch.end_ps <= (shown_ns * 1e-9 - 0.3) * PS + 1000
            # behind by the latency, a turn of the counter, and what the sounding leaves open
            assert batch.end_ps >= (shown_ns * 1e-9 - 0.3 - 0.269 - 0.016) * PS
    assert [times for _, _, part in read for times in part] == list(
        range(every_ns, read[-1][1] // 1000, every_ns)
    )
    return read


@pytest.mark.parametrize("off", [1e-4, -1e-4])
def test_hours_with_a_clock_of_its_own(
    script: Any, clock: Any, off: float, monkeypatch: Any
) -> None:
    monkeypatch.setattr("bellbench.drivers.s_fifteen.tdc1._POLL_S", 0.02)
    read = hours(script, clock, off, 1 << 20, steps=30, step_s=240.0)
    # two hours: 0.72 s ahead of the bench's clock, or behind it
    assert (read[-1][1] > 7200 * PS) == (off > 0)


def test_batches_do_not_depend_on_how_the_words_come(
    script: Any, clock: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("bellbench.drivers.s_fifteen.tdc1._POLL_S", 0.02)
    read = [hours(script, clock, 9e-5, cut, steps=9, step_s=40.0) for cut in (1 << 20, 7)]
    assert read[0] == read[1]


def test_the_stream_stands_still(script: Any, clock: Any) -> None:
    server = script(*OPEN, *START, ABORT)
    with tagger(server.serial, clock, timeout=0.2) as device:
        device.start()
        server.push(words(300_000_000, {5000: 1}))
        clock.sleep(1.0)
        with pytest.raises(InstrumentTimeout, match=r"stays at 0\.\d+ s, by the bench"):
            device.read()
        server.push(words(10**9, {700_000_000: 1})[-12:])
        assert device.read().times_ps.tolist() == [5_000_000]  # nothing was dropped


def test_a_lost_byte_is_a_loss(script: Any, clock: Any) -> None:
    server = script(*OPEN, *START, ABORT)
    clicks = {i * 1_000_000: 1 + i % 4 for i in range(1, 999)}
    whole = words(10**9, clicks)
    with tagger(server.serial, clock) as device:
        device.start()
        server.push(whole[:1202] + whole[1204:])
        clock.sleep(1.0)
        batch = device.read().checked()
        assert [loss.kind for loss in batch.losses] == ["corrupt"]
        loss = batch.losses[0]
        assert loss.begin_ps <= 301 * PS // 1000 <= loss.end_ps
        assert loss.end_ps - loss.begin_ps < 30 * PS // 1000
        kept = {int(t) // 1000 for t in batch.times_ps}
        outside = {
            ns for ns in clicks if ns < 700_000_000 and not loss.begin_ps <= ns * 1000 < loss.end_ps
        }
        assert outside <= kept <= set(clicks)
        server.push(words(2 * 10**9, {}))
        clock.sleep(0.5)
        assert device.read().losses == ()


def test_a_second_recording(script: Any, clock: Any) -> None:
    server = script(*OPEN, *START, ABORT, *START, ABORT)
    with tagger(server.serial, clock) as device:
        device.start()
        with pytest.raises(InstrumentError, match="is recording"):
            device.start()
        server.push(words(10**9, {7000: 1}))
        device.stop()
        device.stop()
        with pytest.raises(InstrumentError, match="not recording"):
            device.read()
        device.start()
        server.push(words(10**9, {9000: 2, 999_000_000: 2}))
        clock.sleep(1.0)
        assert device.read().times_ps.tolist() == [9_000_000]


def test_a_box_left_streaming_is_stopped(lines: Any, clock: Any) -> None:
    streaming = threading.Event()

    def answer(line: str) -> str | None:
        if line == "abort":
            streaming.set()
            return "leftover words"
        return "TDC1" if line == "*IDN?" else None

    server = lines(answer, b"\r\n", b"\r\n")
    with tagger(server.serial, clock) as device:
        assert device.identify().firmware == "TDC1"
    assert streaming.is_set()


def test_a_lost_connection(script: Any, clock: Any) -> None:
    server = script(*OPEN, *START)
    device = tagger(server.serial, clock)
    device.open()
    device.start()
    clock.sleep(1.0)
    server.finish()
    server.drop()
    with pytest.raises(InstrumentError, match="connection broke"):
        device.read()
    device.stop()
    with pytest.raises(InstrumentError, match="not open"):
        device.identify()
    server.extend(*OPEN)
    with device:  # open() connects again
        assert device.ready()


def test_more_than_is_held(script: Any, clock: Any, monkeypatch: Any, together: Any) -> None:
    monkeypatch.setattr("bellbench.drivers.s_fifteen.tdc1._MAX_BYTES", 4096)
    server = script(*OPEN, *START, ABORT)
    times = np.arange(1, 200_001) * 5000  # ns
    stream = ((times // 2 % (1 << 27)) << 5 | 1).astype("<u4").tobytes()
    with tagger(server.serial, clock) as device:
        device.start()
        clock.sleep(1.0)
        batches: list[Any] = []
        together(lambda: server.push(stream), lambda: batches.append(device.read()))
        assert np.array_equal(batches[0].times_ps, times[times < 700_000_000] * 1000)


def test_refused_connection(nobody: int, clock: Any) -> None:
    device = tagger(f"socket://127.0.0.1:{nobody}", clock)
    assert isinstance(device, TimeTagger)
    with pytest.raises(InstrumentError, match="cannot open the port"):
        device.open()


@pytest.mark.parametrize("wrong", [{"latency": 0.2}, {"pulses": "NIM", "threshold": -0.5}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        TDC1Settings(**wrong)
