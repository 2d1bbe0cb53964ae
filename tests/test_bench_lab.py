"""How an open bench begins and ends, with instruments that only take notes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from bellbench.instruments import (
    BellbenchError,
    Identity,
    InstrumentError,
    InstrumentTimeout,
    Readable,
    TwinError,
)
from bellbench.lab import Device, Lab


@dataclass
class Signal:
    name: str
    unit: str
    read: Callable[[], float]

    def get(self) -> float:
        return self.read()


@dataclass
class Clock:
    """Bench time that jumps; ``at`` calls a function when its time has come."""

    time: float = 0.0
    at: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    sleeps: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += seconds
        for when, act in self.at:
            if self.time - seconds < when <= self.time:
                act()


class Fake:
    """Writes down each call; ``fails`` maps a verb to what it raises."""

    def __init__(self, name: str, log: list[str], **fails: BaseException) -> None:
        self.name = name
        self.log = log
        self.fails = fails
        self.is_ready = True
        self.signals: Sequence[Readable[object]] = ()

    def _do(self, verb: str) -> None:
        self.log.append(f"{self.name} {verb}")
        if verb in self.fails:
            raise self.fails[verb]

    def open(self) -> None:
        self._do("open")

    def close(self) -> None:
        self._do("close")

    def configure(self) -> None:
        self._do("configure")

    def off(self) -> None:
        self._do("off")

    def safe(self) -> None:
        self._do("safe")

    def identify(self) -> Identity:
        if "identify" in self.fails:
            raise self.fails["identify"]
        return Identity("Maker", "M1", "7", "1.0")

    def ready(self) -> bool:
        if "ready" in self.fails:
            raise self.fails["ready"]
        return self.is_ready


@dataclass
class World:
    log: list[str]
    failure: BaseException | None = None
    ended: str = ""

    def close(self) -> None:
        self.log.append("world close")
        if self.failure is not None:
            raise self.failure


@dataclass
class Bench:
    """Three instruments, one of them made of the other two, in a world."""

    log: list[str]
    pump: Fake
    oven: Fake
    source: Fake
    clock: Clock
    world: World

    def lab(
        self, on_exit: Mapping[str, str] | None = None, settle_timeout: float = 60.0, **more: Any
    ) -> Lab:
        exits = {"pump": "off", "oven": "leave", **(on_exit or {})}
        return Lab(
            [
                Device("pump", self.pump, "fake.laser", "tcp://pump", exits["pump"]),
                Device("oven", self.oven, "fake.oven", "tcp://oven", exits["oven"]),
                Device(
                    "source",
                    self.source,
                    "fake.source",
                    "",
                    "off",
                    {"laser": "pump", "oven": "oven"},
                ),
            ],
            {},
            self.clock,
            world=self.world,
            settle_timeout=settle_timeout,
            **more,
        )

    def opened(self, **arguments: Any) -> Lab:
        lab = self.lab(**arguments)
        lab.open()
        self.log.clear()
        return lab


@pytest.fixture
def bench() -> Bench:
    log: list[str] = []
    return Bench(
        log, Fake("pump", log), Fake("oven", log), Fake("source", log), Clock(), World(log)
    )


def test_a_run_without_error_opens_configures_and_ends_in_order(bench: Bench) -> None:
    lab = bench.lab()
    lab.open()
    lab.bring_up()
    with lab:
        bench.log.append("run")
    assert bench.log == [
        "pump open",
        "oven open",
        "source open",
        "pump configure",
        "oven configure",
        "source configure",
        "run",
        "pump off",  # the oven is left warm; the source is its parts
        "source close",
        "oven close",
        "pump close",
        "world close",
    ]


def test_safe_on_exit_is_done_where_the_file_says_so(bench: Bench) -> None:
    with bench.opened(on_exit={"oven": "safe", "pump": "leave"}):
        pass
    assert bench.log == ["oven safe", "source close", "oven close", "pump close", "world close"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_any_error_brings_every_instrument_to_its_safe_state(
    bench: Bench, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught, bench.opened():
        raise error
    assert caught.value is error
    assert not getattr(error, "__notes__", [])
    assert bench.log == [
        "source safe",
        "oven safe",
        "pump safe",
        "source close",
        "oven close",
        "pump close",
        "world close",
    ]


def test_one_that_fails_on_the_way_to_safety_stops_no_other(bench: Bench) -> None:
    bench.oven.fails = {"safe": KeyboardInterrupt(), "close": OSError("gone")}
    bench.source.fails = {"safe": InstrumentError("no answer", device="source")}
    bench.world.failure = BellbenchError("the world hangs")
    error = ValueError("the run failed")
    with pytest.raises(ValueError, match="the run failed"), bench.opened():
        raise error
    assert bench.log == [
        "source safe",
        "oven safe",
        "pump safe",
        "source close",
        "oven close",
        "pump close",
        "world close",
    ]
    assert error.__notes__ == [
        "and while ending the bench, source safe: source: no answer",
        "and while ending the bench, oven safe: KeyboardInterrupt",
        "and while ending the bench, oven close: OSError: gone",
        "and while ending the bench, world close: the world hangs",
    ]


def test_failures_of_a_normal_end_are_raised_after_all_were_tried(bench: Bench) -> None:
    bench.pump.fails = {"off": InstrumentError("refused", device="pump")}
    bench.oven.fails = {"close": OSError("gone")}
    with pytest.raises(InstrumentError) as caught, bench.opened():
        pass
    assert str(caught.value) == (
        "the bench did not end cleanly:\n  pump off: pump: refused\n  oven close: OSError: gone"
    )
    assert bench.log[-1] == "world close"


def test_a_single_failure_at_the_end_is_raised_as_it_is(bench: Bench) -> None:
    failure = InstrumentError("refused", device="pump")
    bench.pump.fails = {"off": failure}
    with pytest.raises(InstrumentError) as caught, bench.opened():
        pass
    assert caught.value is failure


def test_ctrl_c_at_the_end_is_not_lost(bench: Bench) -> None:
    bench.pump.fails = {"off": KeyboardInterrupt(), "close": OSError("gone")}
    with pytest.raises(KeyboardInterrupt) as caught, bench.opened():
        pass
    assert bench.log[-1] == "world close"
    assert caught.value.__notes__ == ["and while ending the bench, pump close: OSError: gone"]


def test_closing_twice_does_nothing_more(bench: Bench) -> None:
    lab = bench.opened()
    lab.close()
    bench.log.clear()
    lab.close()
    lab.close(error=True)
    assert bench.log == []


def test_closing_after_an_error_by_hand_is_safe_too(bench: Bench) -> None:
    bench.opened().close(error=True)
    assert bench.log[:3] == ["source safe", "oven safe", "pump safe"]


def test_every_instrument_that_does_not_answer_is_in_the_one_error(bench: Bench) -> None:
    bench.log.clear()
    bench.pump.fails = {"open": InstrumentError("nobody answers", device="pump (M1)")}
    bench.oven.fails = {"open": InstrumentTimeout("too late", device="oven (M2)")}
    with pytest.raises(InstrumentError) as caught:
        bench.lab().open()
    assert str(caught.value) == (
        "cannot connect to\n  pump: pump (M1): nobody answers\n  oven: oven (M2): too late"
    )
    assert bench.log == ["pump open", "oven open", "world close"]


def test_what_was_opened_is_closed_as_it_was_found(bench: Bench) -> None:
    failure = InstrumentError("nobody answers", device="oven")
    bench.oven.fails = {"open": failure}
    bench.pump.fails = {"close": OSError("gone")}
    with pytest.raises(InstrumentError) as caught:
        bench.lab().open()
    assert caught.value is failure
    assert failure.__notes__ == ["and while ending the bench, pump close: OSError: gone"]
    assert bench.log == ["pump open", "oven open", "pump close", "world close"]


def test_ctrl_c_while_opening_closes_what_was_opened(bench: Bench) -> None:
    bench.oven.fails = {"open": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        bench.lab().open()
    assert bench.log == ["pump open", "oven open", "pump close", "world close"]


def test_bring_up_waits_on_the_benchs_clock_until_all_are_ready(bench: Bench) -> None:
    lab = bench.opened()
    bench.oven.is_ready = False
    bench.clock.at = [(20.0, lambda: setattr(bench.oven, "is_ready", True))]
    lab.bring_up()
    assert bench.clock.time == pytest.approx(20.0, abs=0.5)


def test_bring_up_goes_on_waiting_for_one_that_left_its_set_point_again(bench: Bench) -> None:
    lab = bench.opened()
    bench.oven.is_ready = False

    def disturb() -> None:
        bench.oven.is_ready = True
        bench.pump.is_ready = False

    bench.clock.at = [(5.0, disturb), (9.0, lambda: setattr(bench.pump, "is_ready", True))]
    lab.bring_up()
    assert bench.clock.time == pytest.approx(9.0, abs=0.5)


def test_bring_up_names_who_is_not_ready_and_its_readings(bench: Bench) -> None:
    def broken() -> float:
        raise InstrumentError("no sensor")

    lab = bench.opened(settle_timeout=30.0)
    bench.oven.is_ready = False
    bench.oven.signals = (
        Signal("measured_temperature", "degC", lambda: 38.5),
        Signal("power", "", lambda: 1.0),
        Signal("current", "A", broken),
    )
    with pytest.raises(InstrumentTimeout) as caught:
        lab.bring_up()
    assert str(caught.value) == (
        "not ready after 30 s:\n  oven (fake.oven): measured_temperature=38.5 degC, power=1.0;"
        " try: correct the settings, or raise settle_timeout in the bench file"
    )
    assert bench.clock.time == pytest.approx(30.0, abs=0.5)


def test_a_snapshot_records_what_cannot_be_read(bench: Bench) -> None:
    def broken() -> float:
        raise InstrumentError("no sensor", device="oven")

    def odd() -> float:
        raise ZeroDivisionError

    lab = bench.opened()
    bench.pump.signals = (Signal("current", "A", lambda: 0.09),)
    bench.oven.signals = (Signal("a", "K", broken), Signal("b", "", odd), Signal("c", "", float))
    assert lab.snapshot() == {
        "pump": {
            "driver": "fake.laser",
            "address": "tcp://pump",
            "identity": {"vendor": "Maker", "model": "M1", "serial": "7", "firmware": "1.0"},
            "signals": {"current": {"unit": "A", "value": 0.09}},
        },
        "oven": {
            "driver": "fake.oven",
            "address": "tcp://oven",
            "identity": {"vendor": "Maker", "model": "M1", "serial": "7", "firmware": "1.0"},
            "signals": {
                "a": {"unit": "K", "error": "oven: no sensor"},
                "b": {"unit": "", "error": "ZeroDivisionError"},
                "c": {"unit": "", "value": 0.0},
            },
        },
        "source": {"driver": "fake.source", "signals": {}},
    }


def test_a_snapshot_does_not_stall_on_a_dead_instrument(bench: Bench) -> None:
    asked: list[str] = []

    def late() -> float:
        asked.append("late")
        raise InstrumentTimeout("no answer within 3 s")

    lab = bench.opened()
    bench.pump.signals = (Signal("a", "", late), Signal("b", "", late))
    bench.oven.fails = {"identify": InstrumentTimeout("no answer within 3 s")}
    bench.oven.signals = (Signal("a", "", late),)
    snapshot = lab.snapshot()
    assert asked == ["late"]
    assert snapshot["pump"]["signals"] == {
        "a": {"unit": "", "error": "no answer within 3 s"},
        "b": {"unit": "", "error": "not read after a timeout"},
    }
    assert snapshot["oven"]["identity"] == {"error": "no answer within 3 s"}
    assert snapshot["oven"]["signals"] == {}


def test_instruments_are_attributes(bench: Bench) -> None:
    lab = bench.opened(seed=7, seeded=True, all_twins=True)
    assert lab.pump is bench.pump
    assert lab.instruments == {"pump": bench.pump, "oven": bench.oven, "source": bench.source}
    assert {"pump", "oven", "source", "snapshot", "clock"} <= set(dir(lab))
    assert lab.clock is bench.clock
    assert (lab.seed, lab.seeded, lab.all_twins) == (7, True, True)
    with pytest.raises(AttributeError, match="no instrument 'pumb' on this bench; did you mean"):
        _ = lab.pumb
    assert repr(lab) == "<Lab, open: pump, oven, source>"
    lab.close()
    assert repr(lab) == "<Lab, closed: pump, oven, source>"


def test_an_instrument_that_fails_because_its_world_ended_is_told_as_that(bench: Bench) -> None:
    bench.world.ended = "the world has ended (killed by signal 9)"
    with pytest.raises(TwinError, match=r"^the world has ended") as caught, bench.opened():
        raise InstrumentError("no answer", device="pump")
    assert isinstance(caught.value.__cause__, InstrumentError)


def test_an_instrument_that_fails_in_a_living_world_is_told_itself(bench: Bench) -> None:
    with pytest.raises(InstrumentError, match="no answer"), bench.opened():
        raise InstrumentError("no answer", device="pump")
