"""Ensemble memories: what its sequencer is sent, when it refuses, and what it says of its state."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
from bellbench.drivers.quantum_memory import EnsembleMemory, EnsembleMemorySettings
from bellbench.drivers.stanford.dg645 import DG645Settings, StanfordDG645
from bellbench.instruments import (
    ConfigError,
    DelayGeneratorInfo,
    Identity,
    Instrument,
    InstrumentError,
    MemoryInfo,
    QuantumMemory,
    Retrieval,
)
from bellbench.testing import check_instrument, check_quantum_memory
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

NONE = (b"LERR?\n", b"0\r\n")
CHANNELS = "ABCDEFGH"


def sets(*commands: str) -> list[tuple[bytes, bytes]]:
    return [step for each in commands for step in ((each.encode() + b"\n", b""), NONE)]


def delays(**microseconds: float) -> list[str]:
    """DLAY of all channels, in order; those not named are at the trigger."""
    return [
        f"DLAY {i + 2},0,{microseconds.get(channel, 0.0) * 1e-6:.12f}"
        for i, channel in enumerate(CHANNELS)
    ]


def readback(source: int, rate: str = "+12500.000000", **microseconds: Any) -> list[Any]:
    """What reading the state asks, with the answers of a sequencer so programmed."""
    asked: list[Any] = [(b"TSRC?\n", b"%d\r\n" % source)]
    if source == 5:
        return asked
    asked += [
        (f"DLAY?{i + 2}\n".encode(), f"0,{microseconds.get(c, 0.0) * 1e-6:+.12f}\r\n".encode())
        for i, c in enumerate(CHANNELS)
    ]
    if source == 0:
        asked += [(b"BURM?\n", b"0\r\n"), (b"TRAT?\n", f"{rate}\r\n".encode())]
    return asked


def memory(address: str, clock: Any, **wanted: Any) -> EnsembleMemory:
    generator = StanfordDG645("sequencer", address, DG645Settings(timeout=0.5), clock)
    return EnsembleMemory(
        "memory", {"sequencer": generator}, EnsembleMemorySettings(**wanted), clock
    )


COMB: dict[str, Any] = {"A": 1.0, "B": 11.0}
KEPT = COMB | {"C": 20.0, "D": 20.5}


def test_what_the_sequencer_is_sent(script: Any, clock: Any) -> None:
    stop, start = ["TSRC 5", "BURM 0"], ["TRAT 12500.000000", "TSRC 0"]
    server = script(
        NONE,
        # bypass: the pit's output is high when the burn begins
        *sets(*stop, *delays(**COMB, H=11.0), *start),
        *sets(*stop, *delays(**COMB), *start),
        *readback(0, **COMB),
        *sets(*stop, *delays(**KEPT), *start),
        *readback(0, **KEPT),
        # 30 us: 10 us of echo, 20 us between transfer and recall
        *sets(*stop, *delays(**KEPT, E=40.0, F=40.5), *start),
        *readback(0, **KEPT, E=40.0, F=40.5),
        *sets("TSRC 5"),
        *readback(5),
    )
    with memory(server.visa, clock) as kept:
        assert isinstance(kept, QuantumMemory)
        kept.bypass()
        kept.prepare()
        kept.store()
        kept.retrieve(30e-6)
        assert kept.storage_time.get() == 30e-6
        found = kept.herald(13.3e-6)
        assert (found.mode, found.storage_s) == (6, 30e-6)
        assert found.out_s == pytest.approx(43.3e-6)
        kept.off()
        assert kept.state.get() == "idle"
        server.finish()


def test_stopped_light_is_written_and_read_by_control_light(script: Any, clock: Any) -> None:
    """13 to 17 us: the window. Group delay 5 us, slots of 200 ns."""
    stop, start = ["TSRC 5", "BURM 0"], ["TRAT 12500.000000", "TSRC 0"]
    server = script(
        NONE,
        *sets(*stop, *delays(**COMB, C=12.0, D=21.2), *start),  # slow light: on until all is out
        *readback(0, **COMB, C=12.0, D=21.2),
        *sets(*stop, *delays(**COMB, C=12.0, D=16.0), *start),  # stopped at the window's end
        *readback(0, **COMB, C=12.0, D=16.0),
        # 25 us: 5 us under control light, 20 us in the dark
        *sets(*stop, *delays(**COMB, C=12.0, D=16.0, E=36.0, F=41.2), *start),
        *readback(0, **COMB, C=12.0, D=16.0, E=36.0, F=41.2),
    )
    wanted = {"protocol": "eit", "window": 4e-6, "echo_time": 5e-6, "control_pulse": 1e-6}
    with memory(server.visa, clock, **wanted) as kept:
        kept.prepare()
        kept.store()
        kept.retrieve(25e-6)
        assert kept.storage_time.get() == 25e-6
        assert kept.herald(12.3e-6).out_s == pytest.approx(37.3e-6)
        assert kept.info.kind == "EIT"
        # the read control ends, 200 ns after the last photon, when the rest begins
        assert kept.info.max_storage_s == pytest.approx(80e-6 - 1e-6 - 0.2e-6 - 16e-6)
        with pytest.raises(InstrumentError, match=r"group delay is 5 us, the dark between write"):
            kept.retrieve(5.5e-6)
        server.finish()


def test_a_comb_without_control_pulses_has_a_fixed_delay(script: Any, clock: Any) -> None:
    server = script(
        NONE,
        *sets("TSRC 5", "BURM 0", *delays(**COMB), "TRAT 12500.000000", "TSRC 0"),
        *readback(0, **COMB),
        *readback(0, **KEPT),  # somebody else's transfer
    )
    with memory(server.visa, clock, protocol="afc", spectral_modes=15) as kept:
        info = kept.info
        assert (info.on_demand, info.min_storage_s, info.max_storage_s) == (False, 10e-6, 10e-6)
        assert (info.modes, info.spectral_modes) == (40, 15)
        kept.prepare()
        for verb in (kept.store, lambda: kept.retrieve(10e-6)):
            with pytest.raises(InstrumentError, match=r"fixed delay: .* come out 10 us after"):
                verb()
        assert kept.herald(13.3e-6).out_s == pytest.approx(23.3e-6)
        assert kept.efficiency(10e-6) == 0.4
        with pytest.raises(InstrumentError, match="its delay is fixed"):
            kept.efficiency(11e-6)
        assert kept.state.get() == "preparing"
        assert kept.state.get() == "fault"
        server.finish()


def test_refusals_send_nothing(script: Any, clock: Any) -> None:
    server = script(
        NONE,
        *readback(5),
        *readback(0, **COMB),
        *readback(0, **COMB, H=11.0),
    )
    with memory(server.visa, clock) as kept:
        for storage_s, why in (
            (60e-6, r"60 us, only for 10\.5 us to 59 us: the cycle of 80 us ends.*raise"),
            (10e-6, r"10 us, only for.*must not overlap.*prepare\(\) alone"),
            (math.nan, "that is no time"),
            (-1e-6, "must not overlap"),
        ):
            with pytest.raises(InstrumentError, match=why):
                kept.retrieve(storage_s)
        with pytest.raises(InstrumentError, match=r"store\(\) while.*'idle'.*prepare\(\) first"):
            kept.store()
        with pytest.raises(InstrumentError, match=r"retrieve\(\) while.*'ready'.*store\(\) first"):
            kept.retrieve(30e-6)
        with pytest.raises(InstrumentError, match="'bypassed'"):
            kept.retrieve(30e-6)
        with pytest.raises(InstrumentError, match="will not come out"):
            kept.herald(13e-6)


def test_a_refused_delay_leaves_it_stopped(script: Any, clock: Any) -> None:
    wrong = (b"LERR?\n", b"12\r\n")
    server = script(
        NONE,
        *sets("TSRC 5", "BURM 0"),
        *[(b"DLAY 2,0,0.000001000000\n", b""), wrong, NONE],
        *readback(5),
    )
    with memory(server.visa, clock) as kept:
        with pytest.raises(InstrumentError, match="illegal delay"):
            kept.prepare()
        with pytest.raises(InstrumentError, match="will not come out"):
            kept.herald(13e-6)
        assert kept.state.get() == "idle"


@pytest.mark.parametrize(
    "found",
    [
        readback(1, **COMB),  # waits for an external trigger
        readback(0, "+12500.100000", **COMB),
        readback(0, A=1.0, B=11.001),
        readback(0, **KEPT, E=20.2, F=20.7),  # recalled before the transfer is over
        readback(0, **KEPT, E=70.0, F=70.5),  # comes out in the next cycle
        readback(0, **COMB, G=2.0, H=11.0),  # the pit comes late
    ],
)
def test_what_no_verb_leaves_behind_is_a_fault(script: Any, clock: Any, found: Any) -> None:
    server = script(NONE, *found)
    with memory(server.visa, clock) as kept:
        assert kept.state.get() == "fault"


class Number:
    def __init__(self, name: str, value: Any = 0.0) -> None:
        self.name, self.unit, self.value = name, "", value

    def get(self) -> Any:
        return self.value

    def set(self, value: Any) -> None:
        self.value = value


class Generator:
    """A delay generator in memory."""

    def __init__(self, **info: Any) -> None:
        given: dict[str, Any] = {
            "channels": tuple(CHANNELS),
            "outputs": {a + b: (a, b) for a, b in ("AB", "CD", "EF", "GH")},
            "trigger_sources": ("internal", "single"),
            "resolution_s": 5e-12,
            "max_delay_s": 2000.0,
            "dead_time_s": 100e-9,
        } | info
        self.info = DelayGeneratorInfo(**given)
        self.name = "generator"
        self.delays = {c: Number(c) for c in CHANNELS}
        self.amplitudes = self.positive = {o: Number(o) for o in given["outputs"]}
        self.trigger_source = Number("trigger_source", "single")
        self.trigger_rate = Number("trigger_rate", 1000.0)
        self.burst = Number("burst", False)
        self.burst_count, self.burst_period = Number("burst_count"), Number("burst_period")
        self.signals: tuple[Any, ...] = (self.trigger_rate,)
        self.connected = False

    def open(self) -> None:
        self.connected = True

    def close(self) -> None:
        self.connected = False

    def identify(self) -> Identity:
        if not self.connected:
            raise InstrumentError("not open")
        return Identity("us", "generator")

    def ready(self) -> bool:
        return True

    def trigger(self) -> None: ...

    def off(self) -> None:
        self.trigger_source.set("single")

    safe = off


def in_memory(
    clock: Any, kind: type[EnsembleMemory] = EnsembleMemory, **wanted: Any
) -> EnsembleMemory:
    parts: dict[str, Instrument] = {"sequencer": Generator()}
    return kind("memory", parts, EnsembleMemorySettings(**wanted), clock)


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"window": 7.7e-6, "decay": "exponential"},
        {"cycle": 1e-3, "echo_time": 25e-6, "window": 20e-6, "mode_duration": 333e-9},
        {"cycle": 31.5e-6},  # one storage time
        {"protocol": "afc"},
        {"protocol": "afc", "window": 10e-6, "cycle": 33e-6},
        {"protocol": "eit"},
        {"protocol": "eit", "cycle": 31.7e-6},
        {"protocol": "eit", "window": 2e-6, "echo_time": 2.5e-6, "mode_duration": 500e-9},
    ],
)
def test_it_keeps_the_promise_of_its_role(clock: Any, wanted: Any) -> None:
    check_instrument(lambda: in_memory(clock, **wanted))
    check_quantum_memory(in_memory(clock, **wanted), clock)


class Forgetful(EnsembleMemory):
    def retrieve(self, storage_s: float) -> None:
        super().store()
        super().retrieve(storage_s)


class Generous(EnsembleMemory):
    def _check_storage(self, storage_s: float) -> None: ...


class Overconfident(EnsembleMemory):
    def herald(self, arrival_s: float) -> Retrieval:
        return Retrieval(0, self._info.min_storage_s, arrival_s + self._info.min_storage_s)


class Late(EnsembleMemory):
    def herald(self, arrival_s: float) -> Retrieval:
        found = super().herald(arrival_s)
        return dataclasses.replace(found, out_s=found.out_s + 1e-6)


class Improving(EnsembleMemory):
    def efficiency(self, storage_s: float) -> float:
        self._check_storage(storage_s)
        return storage_s


class Restless(EnsembleMemory):
    def off(self) -> None: ...


class Lazy(EnsembleMemory):
    def ready(self) -> bool:
        return False


class Crowded(EnsembleMemory):
    @property
    def info(self) -> MemoryInfo:
        return dataclasses.replace(super().info, modes=41)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Forgetful, r"retrieve\(\) before store\(\) must raise"),
        (Generous, "beyond the longest storage must raise"),
        (Overconfident, r"herald\(\) to an idle memory must raise"),
        (Late, "out 1e-06 s later"),
        (Improving, "the efficiency grows"),
        (Restless, "the state is 'ready', not 'idle'"),
        (Lazy, "it is not bypassed after 10 s"),
        (Crowded, "41 modes take"),
    ],
)
def test_the_check_catches(clock: Any, kind: type[EnsembleMemory], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_quantum_memory(in_memory(clock, kind), clock)


def test_preparing_takes_its_time(clock: Any) -> None:
    kept = in_memory(clock, preparation=0.5)
    assert kept.ready()
    kept.prepare()
    assert kept.state.get() == "preparing"
    assert not kept.ready()
    kept.store()  # the verbs may follow at once
    clock.sleep(0.4)
    assert kept.state.get() == "preparing"
    clock.sleep(0.11)
    assert kept.state.get() == "storing"
    assert kept.ready()


def test_efficiency_is_the_makers_model(clock: Any) -> None:
    gauss = in_memory(clock, efficiency=0.5, coherence_time=20e-6)
    assert gauss.efficiency(10e-6) == 0.5
    # a time that has been through picoseconds is the same time
    assert gauss.efficiency(math.nextafter(10e-6, 1.0)) == pytest.approx(0.5)
    assert gauss.efficiency(30e-6) == pytest.approx(0.5 * math.exp(-1))
    assert gauss.efficiency(50e-6) == pytest.approx(0.5 * math.exp(-4))
    plain = in_memory(clock, efficiency=0.5, coherence_time=20e-6, decay="exponential")
    assert plain.efficiency(50e-6) == pytest.approx(0.5 * math.exp(-2))
    with pytest.raises(InstrumentError, match=r"only for 10\.5 us to 59 us"):
        plain.efficiency(10.2e-6)


times = st.floats(1e-7, 1e-3)


@given(
    st.builds(
        dict,
        protocol=st.sampled_from(["afc_spin_wave", "afc", "eit"]),
        cleaning=times,
        burn=times,
        wait=times,
        window=times,
        control_pulse=times,
        rest=times,
        cycle=st.floats(1e-5, 1e-2),
        echo_time=times,
        mode_duration=times,
    )
)
def test_settings_that_are_taken_make_a_cycle(wanted: dict[str, Any]) -> None:
    try:
        settings = EnsembleMemorySettings(**wanted)
    except ValidationError as refused:
        words = str(refused)
        settings = None
    if settings is None:
        assert any(word in words for word in ("too short", "first echo", "no mode fits"))
        return
    info = settings.info
    begin, end = info.window_s
    near = 1e-12
    assert begin >= settings.cleaning + settings.burn
    control = 0.0 if settings.protocol == "afc" else settings.control_pulse
    assert end + control <= begin + settings.echo_time + 3 * near
    assert info.min_storage_s <= info.max_storage_s + 3 * near
    # the last photon in is out before the rest begins, and so is the end of its recall
    assert end + info.max_storage_s <= settings.cycle - settings.rest + 3 * near
    assert 1 <= info.modes <= (end - begin + near) / settings.mode_duration * (1 + 2e-9)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"window": 9.8e-6}, r"take 10\.3 us.*first echo comes after 10 us.*shorten the window"),
        ({"cycle": 30e-6}, r"cycle of 30 us is too short: .* takes 31\.5 us"),
        ({"mode_duration": 9e-6}, "no mode fits"),
        ({"protocol": "afc", "window": 10.1e-6}, r"the window takes 10\.1 us.*shorten"),
        ({"protocol": "eit", "cycle": 31.6e-6}, r"it takes 31\.7 us"),
        ({"protocol": "gem"}, "'afc_spin_wave', 'afc' or 'eit'"),
    ],
)
def test_cycles_that_cannot_be(wanted: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        EnsembleMemorySettings(**wanted)


def test_sequencers_that_cannot(clock: Any) -> None:
    settings = EnsembleMemorySettings()
    with pytest.raises(ConfigError, match="a memory needs a part 'sequencer'"):
        EnsembleMemory("memory", {}, settings, clock)
    two = Generator(outputs={"AB": ("A", "B"), "CD": ("C", "D")})
    with pytest.raises(ConfigError, match="generator has no output EF"):
        EnsembleMemory("memory", {"sequencer": two}, settings, clock)
    with pytest.raises(ConfigError, match="no internal trigger"):
        EnsembleMemory(
            "memory", {"sequencer": Generator(trigger_sources=("line",))}, settings, clock
        )
    with pytest.raises(ConfigError, match=r"needs 2 us after.*a rest of 1 us is too short"):
        EnsembleMemory("memory", {"sequencer": Generator(dead_time_s=2e-6)}, settings, clock)


def test_ends(clock: Any) -> None:
    for end in ("off", "safe"):
        kept = in_memory(clock)
        kept.prepare()
        finish: Callable[[], None] = getattr(kept, end)
        finish()
        assert kept.state.get() == "idle"
