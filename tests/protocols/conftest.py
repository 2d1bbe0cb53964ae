"""A bench of roles over a world, with no wires between: what calibrations are tested on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import (
    Identity,
    InstrumentError,
    Limits,
    TagBatch,
    TaggerInfo,
    concatenate,
)
from bellbench.sims.elements import (
    Oven,
    Paddles,
    PumpLaser,
    SnspdArray,
    Squeezers,
    TaggerInputs,
)
from bellbench.sims.world import BLOCK_PS, World, WorldModel

SIDES = ("alice", "bob")
ANYTHING = Limits(float("-inf"), float("inf"))


class Knob:
    """A signal that reads and writes a knob of the world."""

    def __init__(
        self,
        name: str,
        unit: str,
        read: Callable[[], Any],
        write: Callable[[Any], None],
        limits: Limits = ANYTHING,
    ) -> None:
        self.name, self.unit, self.get, self._write, self.limits = name, unit, read, write, limits

    def set(self, value: Any) -> None:
        if not isinstance(value, bool) and value not in self.limits:
            raise InstrumentError(f"{self.name} cannot be {value}")
        self._write(value)


class WorldClock:
    """Sleeping runs the world's blocks."""

    def __init__(self, bench: Any) -> None:
        self._bench = bench
        self._asked_s = 0.0

    def now(self) -> float:
        return self._asked_s

    def sleep(self, seconds: float) -> None:
        self._asked_s += seconds
        while (self._bench.world.now_ps + BLOCK_PS) * 1e-12 <= self._asked_s + 1e-9:
            self._bench.run_block()


class Tagger:
    info = TaggerInfo((1, 2, 3, 4), 1, 1e8, 0.02)

    def __init__(self, inputs: TaggerInputs) -> None:
        self.inputs = inputs
        self.parts: list[TagBatch] = []

    def start(self) -> None:
        assert not self.inputs.recording
        self.inputs.recording = True
        self.parts = []

    def stop(self) -> None:
        self.inputs.recording = False

    def collect(self, begin: int) -> None:
        if self.inputs.recording:
            times, channels = self.inputs.times_ps, self.inputs.inputs
            self.parts.append(TagBatch(times, channels, begin, begin + BLOCK_PS))

    def read(self) -> TagBatch:
        batch = concatenate(self.parts)
        end = batch.end_ps
        none = np.zeros(0, np.int64)
        self.parts = [TagBatch(none, none.astype(np.int16), end, end)]
        return batch


class Detectors:
    """Counts over 0.1 s, as the electronics do."""

    def __init__(self, array: SnspdArray, bench: Any) -> None:
        def turn(i: int, amps: float) -> None:
            array.bias_a[i] = amps
            array.normal()  # wires follow at once, not at the next block

        def bias(i: int) -> Knob:
            return Knob(
                f"bias_current_{i + 1}",
                "A",
                lambda: array.bias_a[i],
                lambda amps: turn(i, amps),
            )

        self.array, self.bench = array, bench
        self.detectors = len(array.bias_a)
        self.bias_currents = [bias(i) for i in range(self.detectors)]
        self.count_rates: Sequence[Any] = ()
        self.enabled = Knob("enabled", "", lambda: array.enabled, lambda on: None)

    def measure_rates(self) -> tuple[float, ...]:
        self.array.counting = True
        self.bench.run_block()
        total = np.zeros(self.detectors)
        for _ in range(10):
            self.bench.run_block()
            total += self.array.counts
        self.array.counting = False
        return tuple(total / 0.1)


class Controller:
    def __init__(self, paddles: Paddles) -> None:
        def angle(i: int) -> Knob:
            return Knob(
                f"paddle_{i + 1}",
                "deg",
                lambda: paddles.angles_deg[i],
                lambda degrees: paddles.angles_deg.__setitem__(i, degrees),
                Limits(0.0, 170.0),
            )

        self.actuators = [angle(i) for i in range(len(paddles.angles_deg))]

    def ready(self) -> bool:
        return True


class Voltages:
    """A controller of squeezers."""

    def __init__(self, squeezers: Squeezers) -> None:
        def volts(i: int) -> Knob:
            return Knob(
                f"squeezer_{i + 1}",
                "V",
                lambda: squeezers.volts[i],
                lambda v: squeezers.drive(i, v),
                Limits(-5.0, 5.0),
            )

        self.actuators = [volts(i) for i in range(len(squeezers.volts))]

    def ready(self) -> bool:
        return True


class Source:
    name = "source"
    signals = ()

    def __init__(self, pump: PumpLaser, oven: Oven) -> None:
        self.oven = oven
        self.pump_current = Knob(
            "pump_current", "A", lambda: pump.current_a, lambda a: setattr(pump, "current_a", a)
        )
        self.emission = Knob(
            "emission", "", lambda: pump.emitting, lambda on: setattr(pump, "emitting", on)
        )
        self.crystal_temperature = Knob(
            "crystal_temperature",
            "degC",
            lambda: oven.setpoint_c,
            lambda celsius: setattr(oven, "setpoint_c", celsius),
            Limits(22.0, 200.0),
        )
        self.measured_crystal_temperature = Knob(
            "measured", "degC", lambda: oven.temperature_c, lambda _: None
        )

    def ready(self) -> bool:
        return abs(self.oven.temperature_c - self.oven.setpoint_c) < 0.05

    def open(self) -> None: ...
    def close(self) -> None: ...
    def off(self) -> None: ...
    def safe(self) -> None: ...
    def identify(self) -> Identity:
        return Identity("world", "source")


class WorldBench:
    """Everything of a metropolitan link, at its operating point unless changed."""

    def __init__(self, seed: int, *, brightness: float = 1.0, **changes: Any) -> None:
        self.world = World(WorldModel.model_validate(_layout(brightness, changes)), seed)
        get = self.world.elements
        self.pump, self.oven = get["pump"], get["oven"]
        assert isinstance(self.pump, PumpLaser)
        assert isinstance(self.oven, Oven)
        self.pump.current_a, self.pump.emitting = 0.1, True
        self.oven.setpoint_c, self.oven.heating = 40.0, True
        self.clock = WorldClock(self)
        self.source = Source(self.pump, self.oven)
        self.taggers: dict[str, Tagger] = {}
        self.detectors: dict[str, Detectors] = {}
        self.controllers: dict[str, Controller | Voltages] = {}
        for side in SIDES:
            array, inputs = get[f"{side}_snspd"], get[f"{side}_tagger"]
            paddles = get[f"{side}_paddles"]
            assert isinstance(array, SnspdArray)
            assert isinstance(inputs, TaggerInputs)
            assert isinstance(paddles, (Paddles, Squeezers))
            array.enabled, array.bias_a = True, [18e-6] * 4
            self.taggers[side] = Tagger(inputs)
            self.detectors[side] = Detectors(array, self)
            self.controllers[side] = (
                Controller(paddles) if isinstance(paddles, Paddles) else Voltages(paddles)
            )

    def run_block(self) -> None:
        begin = self.world.now_ps
        self.world.run_block()
        for tagger in self.taggers.values():
            tagger.collect(begin)

    def true_qber(self) -> float:
        """Mean QBER of both bases as the knobs stand, without accidentals."""
        both = self.world.mean_rates("crystal").both
        z = (both[0, 1] + both[1, 0]) / both[:2, :2].sum()
        x = (both[2, 3] + both[3, 2]) / both[2:, 2:].sum()
        return float(z + x) / 2


def _layout(brightness: float, changes: dict[str, Any]) -> dict[str, Any]:
    detector = {"efficiency": 0.8, "dark_rate": 75.0, "jitter": 60e-12, "dead_time": 30e-9}
    elements: dict[str, Any] = {
        "pump": {"kind": "pump_laser", "threshold": 0.04, "slope": 0.5},
        "oven": {"kind": "oven", "start": 40.0, "time_constant": 0.1},
        "crystal": {
            "kind": "spdc",
            "pump": "pump",
            "oven": "oven",
            "pair_rate": brightness * 4e6 / 0.03,
            "phase_matching": 40.0,
            "phase_per_kelvin": 20.0,
            "visibility": 0.98,
        },
    }
    for side, loss in zip(SIDES, (6.0, 6.0), strict=True):
        elements |= {
            f"{side}_fibre": {"kind": "fibre", "length": 1e3, "attenuation": 0.0, "loss": loss},
            f"{side}_paddles": {"kind": "paddles", "retardance": [90.0, 180.0, 90.0]},
            f"{side}_analyzer": {"kind": "analyzer"},
            f"{side}_snspd": {"kind": "snspd", "detectors": [detector] * 4},
            f"{side}_tagger": {"kind": "tagger", "jitter": 60e-12},
        }
    for name, change in changes.items():
        elements[name] = change if "kind" in change else elements[name] | change
    stages = ("fibre", "paddles", "analyzer", "snspd", "tagger")
    return {
        "elements": elements,
        "paths": [
            [f"crystal.{arm}", *(f"{side}_{stage}" for stage in stages)]
            for arm, side in zip(("signal", "idler"), SIDES, strict=True)
        ],
    }


@pytest.fixture(scope="session")
def make_bench() -> type[WorldBench]:
    return WorldBench
