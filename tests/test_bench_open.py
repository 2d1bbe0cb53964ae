"""Opening a bench file: its world, the address each driver gets, what it waits for."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import bellbench
import pytest
from bellbench import twins
from bellbench.bench import load_bench, open_bench
from bellbench.drivers import DRIVERS
from bellbench.instruments import (
    ConfigError,
    Identity,
    InstrumentError,
    InstrumentTimeout,
    SystemClock,
    TwinError,
    Unit,
)
from bellbench.sims.devices import EMULATORS
from bellbench.sims.elements import Oven, PumpLaser
from pydantic import BaseModel, ConfigDict

BENCH = """\
bellbench: bench/1
world: world.yaml
twin: true
settle_timeout: 40 s
instruments:
  source: {driver: fake.source, parts: {laser: pump, oven: oven}}
  pump: {driver: fake.laser, address: "tcp://pump", settings: {level: 90 mA}}
  oven: {driver: fake.oven, address: "tcp://oven", on_exit: leave}
"""

WORLD = """\
bellbench: world/1
elements:
  pump: {kind: pump_laser}
  oven: {kind: oven}
  crystal: {kind: spdc, pump: pump, oven: oven, pair_rate: 1 MHz/mW}
  a: {kind: analyzer}
  b: {kind: analyzer}
  da: {kind: snspd, detectors: [{}, {}, {}, {}]}
  db: {kind: snspd, detectors: [{}, {}, {}, {}]}
paths:
  - [crystal.signal, a, da]
  - [crystal.idler, b, db]
"""


class FakeSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    level: Annotated[float, Unit("A")] | None = None


class Recorder:
    """Everything that happened, in order; and who refuses what."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.refuses: dict[str, BaseException] = {}
        self.settles_at: dict[str, float] = {}
        self.made: dict[str, Any] = {}

    def note(self, text: str) -> None:
        self.log.append(text)
        if text in self.refuses:
            raise self.refuses[text]


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class World:
    """What start_world and join_world give back."""

    def __init__(self, recorder: Recorder, addresses: Mapping[str, str], *, seed: int = 0) -> None:
        self.recorder = recorder
        self.addresses = dict(addresses)
        self.seed = seed
        self.stepped = True
        self.ended = ""
        self.clock = Clock()

    def close(self) -> None:
        self.recorder.note("world close")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Register three drivers and two twins that only take notes."""
    recorder = Recorder()

    class Driver:
        Settings: ClassVar[type[BaseModel]] = FakeSettings
        signals = ()

        def __init__(self, name: str, address: Any, settings: Any, clock: Any) -> None:
            self.name, self.address, self.settings, self.clock = name, address, settings, clock
            if address == "nonsense":
                raise ValueError("an address begins with tcp://")
            recorder.made[name] = self

        def open(self) -> None:
            recorder.note(f"{self.name} open")

        def close(self) -> None:
            recorder.note(f"{self.name} close")

        def configure(self) -> None:
            recorder.note(f"{self.name} configure")

        def off(self) -> None:
            recorder.note(f"{self.name} off")

        def safe(self) -> None:
            recorder.note(f"{self.name} safe")

        def identify(self) -> Identity:
            return Identity("Maker", type(self).__name__)

        def ready(self) -> bool:
            return bool(self.clock.now() >= recorder.settles_at.get(self.name, 0.0))

    class Laser(Driver):
        level = 1

    class Heater(Driver):
        heat = 1

    class Source(Driver):
        PARTS: ClassVar[dict[str, type]] = {"laser": Laser, "oven": Heater}

    class LaserTwin:
        ELEMENT = PumpLaser
        Settings = FakeSettings

    class HeaterTwin:
        ELEMENT = Oven
        Settings = FakeSettings

    fakes: Any = types.ModuleType("fakes")
    fakes.Laser, fakes.Heater, fakes.Source = Laser, Heater, Source
    fakes.LaserTwin, fakes.HeaterTwin = LaserTwin, HeaterTwin
    monkeypatch.setitem(sys.modules, "bellbench.drivers.fakes", fakes)
    monkeypatch.setitem(sys.modules, "bellbench.sims.devices.fakes", fakes)
    monkeypatch.setitem(DRIVERS, "fake.laser", ".fakes:Laser")
    monkeypatch.setitem(DRIVERS, "fake.oven", ".fakes:Heater")
    monkeypatch.setitem(DRIVERS, "fake.source", ".fakes:Source")
    monkeypatch.setitem(EMULATORS, "fake.laser", "fakes:LaserTwin")
    monkeypatch.setitem(EMULATORS, "fake.oven", "fakes:HeaterTwin")
    return recorder


@pytest.fixture
def started(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Replace the starting and joining of worlds; returns the list of calls."""
    calls: list[tuple[Any, ...]] = []
    addresses = {"pump": "tcp://127.0.0.1:1", "oven": "tcp://127.0.0.1:2"}

    def start_world(
        bench: Path,
        *,
        seed: int,
        only: Sequence[str] = (),
        paced: bool = False,
        state: Path | None = None,
    ) -> World:
        calls.append(("start", bench.name, seed, tuple(only), "paced" if paced else "stepped"))
        recorder.note("world start")
        return World(recorder, addresses, seed=seed)

    def join_world(host: str, port: int) -> World:
        calls.append(("join", host, port))
        recorder.note("world join")
        return World(recorder, {"p": "tcp://127.0.0.1:1", "o": "tcp://127.0.0.1:2"}, seed=5)

    monkeypatch.setattr(twins, "start_world", start_world)
    monkeypatch.setattr(twins, "join_world", join_world)
    return calls


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "world.yaml").write_text(WORLD)
    path = tmp_path / "bench.yaml"
    path.write_text(BENCH)
    return path


def test_twins_live_in_a_world_that_is_left_last(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path
) -> None:
    with bellbench.open_bench(path, seed=7) as lab:
        assert started == [("start", "bench.yaml", 7, ("pump", "oven"), "stepped")]
        assert (lab.seed, lab.seeded, lab.all_twins) == (7, True, True)
        assert lab.pump.address == "tcp://127.0.0.1:1"
        assert lab.pump.clock is lab.clock
        assert lab.pump.settings.level == 0.09
        assert lab.source.address == {"laser": lab.pump, "oven": lab.oven}
        recorder.note("run")
    assert recorder.log == [
        "world start",
        "pump open",
        "oven open",
        "source open",
        "pump configure",
        "oven configure",
        "source configure",
        "run",
        "pump off",
        "source close",
        "oven close",
        "pump close",
        "world close",
    ]


def test_a_seed_that_nobody_gave_is_drawn_and_told(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path
) -> None:
    seeds = set()
    for _ in range(3):
        with open_bench(path) as lab:
            assert not lab.seeded
            assert lab.seed is not None
            seeds.add(lab.seed)
    assert len(seeds) == 3
    assert seeds == {call[2] for call in started}


def test_without_twins_the_clock_is_the_systems(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path
) -> None:
    with open_bench(path, twin=False, seed=7) as lab:
        assert isinstance(lab.clock, SystemClock)
        assert (lab.seed, lab.seeded, lab.all_twins) == (None, False, False)
        assert lab.pump.address == "tcp://pump"
    assert started == []


def test_without_bring_up_nothing_is_set(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path
) -> None:
    with open_bench(path, bring_up=False):
        pass
    assert not [line for line in recorder.log if "configure" in line]


def test_a_loaded_bench_can_be_opened(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path
) -> None:
    config = load_bench(path, twin=False)
    with open_bench(config) as lab:
        assert lab.oven.address == "tcp://oven"


def test_served_twins_are_joined_by_their_address(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path
) -> None:
    text = BENCH.replace("tcp://pump", "twin://lab:9000/p").replace(
        "tcp://oven", "twin://lab:9000/o"
    )
    path.write_text(text)
    with open_bench(path) as lab:
        assert lab.pump.address == "tcp://127.0.0.1:1"
        assert lab.oven.address == "tcp://127.0.0.1:2"
        assert lab.all_twins
        assert (lab.seed, lab.seeded) == (5, False)
    assert started == [("join", "lab", 9000)]
    assert recorder.log[-1] == "world close"


def test_a_world_without_the_twin_asked_for_is_refused_and_left(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path
) -> None:
    path.write_text(
        BENCH.replace("tcp://pump", "twin://lab:9000/px").replace("tcp://oven", "twin://lab:9000/o")
    )
    with pytest.raises(ConfigError) as caught:
        open_bench(path)
    assert str(caught.value) == (
        f"{path}: instruments.pump: the world serves no twin 'px'; did you mean 'p'?"
    )
    assert recorder.log == ["world join", "world close"]


def test_twins_of_two_worlds_in_one_bench_are_refused(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path
) -> None:
    path.write_text(BENCH.replace("tcp://pump", "twin://lab:9000/p"))
    with pytest.raises(ConfigError, match="the twins of one bench live in one world"):
        open_bench(path)
    assert started == []


def test_beside_a_real_instrument_the_world_keeps_wall_time(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path
) -> None:
    text = BENCH.replace("twin: true", "twin: false").replace("tcp://oven", "twin")
    path.write_text(text)
    with open_bench(path, seed=7) as lab:
        assert lab.pump.address == "tcp://pump"
        assert lab.oven.address == "tcp://127.0.0.1:2"
        assert not lab.all_twins
    assert started == [("start", "bench.yaml", 7, ("oven",), "paced")]


def test_addresses_given_by_hand_replace_the_files(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path
) -> None:
    given = {"pump": "tcp://127.0.0.1:77", "oven": "tcp://127.0.0.1:78"}
    with open_bench(path, addresses=given) as lab:
        assert lab.pump.address == "tcp://127.0.0.1:77"
        assert not lab.all_twins
    assert started == []
    with pytest.raises(ConfigError, match="no instrument 'pumb'; did you mean 'pump'"):
        open_bench(path, addresses={"pumb": "x"})


def test_bring_up_waits_on_the_worlds_clock(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path
) -> None:
    recorder.settles_at["oven"] = 25.0
    with open_bench(path) as lab:
        assert lab.clock.now() == pytest.approx(25.0, abs=0.5)


def test_a_bring_up_that_fails_makes_everything_safe(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path
) -> None:
    recorder.settles_at["oven"] = 1e9
    recorder.refuses["source safe"] = InstrumentError("no answer")
    with pytest.raises(InstrumentTimeout, match="not ready after 40 s") as caught:
        open_bench(path)
    assert caught.value.__notes__ == ["and while ending the bench, source safe: no answer"]
    assert recorder.log[-7:] == [
        "source safe",
        "oven safe",
        "pump safe",
        "source close",
        "oven close",
        "pump close",
        "world close",
    ]


@pytest.mark.parametrize("error", [InstrumentError("refused"), KeyboardInterrupt()])
def test_an_error_while_configuring_makes_everything_safe(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path, error: BaseException
) -> None:
    recorder.refuses["oven configure"] = error
    with pytest.raises(type(error)):
        open_bench(path)
    assert "pump safe" in recorder.log
    assert recorder.log[-1] == "world close"


def test_one_that_does_not_answer_closes_the_world_again(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path
) -> None:
    recorder.refuses["oven open"] = InstrumentError("nobody answers", device="oven")
    with pytest.raises(InstrumentError, match="oven: nobody answers"):
        open_bench(path)
    assert recorder.log == ["world start", "pump open", "oven open", "pump close", "world close"]


def test_a_world_that_does_not_start_is_told(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path
) -> None:
    recorder.refuses["world start"] = TwinError("the world did not start")
    with pytest.raises(TwinError, match="the world did not start"):
        open_bench(path)
    assert recorder.log == ["world start"]


def test_an_address_that_its_driver_cannot_read_is_located(recorder: Recorder, path: Path) -> None:
    path.write_text(BENCH.replace("twin: true", "twin: false").replace('"tcp://pump"', "nonsense"))
    with pytest.raises(ConfigError) as caught:
        open_bench(path)
    assert str(caught.value) == (
        f"{path}:7:39: instruments.pump.address: an address begins with tcp://"
    )


def test_a_wrong_file_opens_nothing(
    recorder: Recorder, started: list[tuple[Any, ...]], path: Path
) -> None:
    path.write_text(BENCH.replace("90 mA", "90 mW"))
    with pytest.raises(ConfigError, match="unit 'mW' does not fit here"):
        open_bench(path)
    assert started == []
    assert recorder.log == []
