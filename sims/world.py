"""One optical layout, one clock, one seed.

World time moves in blocks of 10 ms. The clicks of a block depend on the seed and on the knobs
during the block, not on who reads: every random draw comes from a counter-based generator keyed
by (seed, element, block).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ..instruments import ConfigError
from . import elements as el
from .arms import Arm, Outlet, cable_delays_s
from .continuous import ContinuousPair, Rates
from .layout import STATION_OUTPUTS, Detection, Layout, LightPath, Wire, WorldModel, check_layout
from .pulsed import PulsedNetwork, PulsedSource, Station

__all__ = ["BLOCK_PS", "World", "WorldModel", "check_layout"]

BLOCK_PS = 10_000_000_000
# Every path is at least this long, so that jitter never carries a click before its own block.
_PATCH_PS = 20_000

_Element = TypeVar("_Element")


class _Wired:
    """Edges of a delay generator on their way to a tagger's input."""

    def __init__(self, wire: Wire, generator: el.DelayGenerator, tagger: el.TaggerInputs) -> None:
        self._wire, self._generator, self._tagger = wire, generator, tagger
        self._cable_s = cable_delays_s(tagger.model, wire.input, 1)[0]
        self.delay_ps = 0
        self._held: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def set_patch(self, patch_ps: int) -> None:
        self.delay_ps = round(self._cable_s * 1e12) + patch_ps

    def run(self, begin_ps: int, end_ps: int) -> None:
        edges = self._generator.edges(begin_ps, end_ps).channel(self._wire.channel)
        times = np.append(self._held, edges + self.delay_ps)
        cut = int(np.searchsorted(times, end_ps))
        self._held = times[cut:].copy()
        if self._tagger.recording:
            self._tagger.add(times[:cut], np.full(cut, self._wire.input, np.int16))


@dataclass
class _Running:
    """A source, or several that meet, with what it needs from block to block."""

    key: npt.NDArray[np.uint64]
    engine: ContinuousPair | PulsedNetwork
    generated_to: int = -1
    """End of the last block whose clicks were made."""
    before: Any = None
    """What the engine knew of the block before this one, for its warm-up."""


class World:
    """The elements, their knobs, and the clicks of one block after another.

    Args:
        model: What the world file says; must have passed :func:`check_layout`.
        seed: Seed of every random draw.
    """

    def __init__(self, model: WorldModel, seed: int) -> None:
        self.model = model
        self.seed = seed
        self.now_ps = 0
        issues = check_layout(model)
        if issues:
            raise ConfigError("; ".join(message for _, message in issues))
        self.elements: dict[str, object] = {}
        for name, m in model.elements.items():
            make = el.MAKERS.get(type(m))
            if make is not None:
                self.elements[name] = make(m)
        for name, m in model.elements.items():
            if isinstance(m, el.PowerMeterModel):
                self.elements[name] = el.PowerMeterHead(m, self._get(m.at, el.PumpLaser))
        self._warm = self._all(el.PumpLaser) + self._all(el.Oven)
        self._generators = self._all(el.DelayGenerator)
        self._taggers = self._all(el.TaggerInputs)
        layout = Layout.of(model)
        self._wires = [
            _Wired(
                w, self._get(w.generator, el.DelayGenerator), self._get(w.tagger, el.TaggerInputs)
            )
            for w in layout.wires
        ]
        self._running = {
            "+".join(sources): _Running(
                _philox_key(seed, "+".join(sources)), self._engine(layout, sources)
            )
            for sources in layout.networks
        }
        self._fibres = {
            _philox_key(seed, name).tobytes(): element
            for name, element in self.elements.items()
            if isinstance(element, el.Fibre) and element.model.drift_time is not None
        }
        self._set_patch()

    def run_block(self) -> None:
        """Advance one block: temperatures and triggers, then the clicks of those who listen."""
        begin, end = self.now_ps, self.now_ps + BLOCK_PS
        self._step(begin, end)
        for running in self._running.values():
            engine = running.engine
            now = engine.rates() if isinstance(engine, ContinuousPair) else engine.take(begin, end)
            if any(outlet.listening for outlet in engine.outlets):
                first = running.before is None and isinstance(engine, PulsedNetwork)
                if running.generated_to < begin and not first:
                    # Clicks on their way and dead detectors come from the block before.
                    self._generate(running, running.before or now, begin - BLOCK_PS, muted=True)
                self._generate(running, now, begin)
                running.generated_to = end
            else:
                for outlet in engine.outlets:
                    outlet.silence()
            running.before = now
        for wire in self._wires:
            wire.run(begin, end)
        for tagger in self._taggers:
            tagger.end_block()
        self.now_ps = end

    def mean_rates(self, crystal: str) -> Rates:
        """Return the rates before dead time that the knobs stand for now (tests, rehearsal)."""
        engine = self._running[crystal].engine
        assert isinstance(engine, ContinuousPair)
        return engine.rates()

    def _generate(self, running: _Running, what: Any, begin: int, muted: bool = False) -> None:
        block = begin // BLOCK_PS + 1  # the warm-up of the first block is block 0
        rng = np.random.Generator(np.random.Philox(key=running.key, counter=[0, 0, 0, block]))
        for outlet in running.engine.outlets:
            outlet.muted = muted
        running.engine.generate(what, rng, begin, begin + BLOCK_PS)

    def _step(self, begin: int, end: int) -> None:
        for warm in self._warm:
            warm.step(BLOCK_PS * 1e-12)
        for generator in self._generators:
            generator.edges(begin, end)
        step_ps = round(el.Fibre.STEP_S * 1e12)
        if begin % step_ps == 0:
            for key, fibre in self._fibres.items():
                counter = [0, 0, 0, begin // step_ps]
                philox = np.random.Philox(key=np.frombuffer(key, np.uint64), counter=counter)
                fibre.step(np.random.Generator(philox))

    def _get(self, name: str, kind: type[_Element]) -> _Element:
        element = self.elements[name]
        assert isinstance(element, kind)
        return element

    def _all(self, kind: type[_Element]) -> list[_Element]:
        return [element for element in self.elements.values() if isinstance(element, kind)]

    def _engine(self, layout: Layout, sources: tuple[str, ...]) -> ContinuousPair | PulsedNetwork:
        crystals = [cast(el.CrystalModel, self.model.elements[source]) for source in sources]
        paths = [
            [next(p for p in layout.light if (p.source, p.arm) == (s, arm)) for arm in (0, 1)]
            for s in sources
        ]
        arms = [[Arm(self.model, self.elements, p.optics) for p in both] for both in paths]
        if crystals[0].trigger is None:
            # The pair's own correlation time widens the peak once; it is put on the signal arm.
            outlets = [
                self._outlet(path, arm, crystals[0].coherence_time ** 2 * (path.arm == 0))
                for path, arm in zip(paths[0], arms[0], strict=True)
            ]
            pump, oven = self._pump(crystals[0])
            return ContinuousPair(
                crystals[0], pump, oven, (arms[0][0], arms[0][1]), (outlets[0], outlets[1])
            )
        members: list[PulsedSource] = []
        stations: dict[str, Station] = {}
        for s, (crystal, both, optics) in enumerate(zip(crystals, paths, arms, strict=True)):
            pump, oven = self._pump(crystal)
            generator, _, channel = cast(str, crystal.trigger).partition(".")
            ends: list[Outlet | None] = []
            for path, arm in zip(both, optics, strict=True):
                if isinstance(path.end, Detection):
                    ends.append(self._outlet(path, arm, 0.0))
                    continue
                name, side = path.end
                station = stations.setdefault(name, self._station(name, layout.stations[name]))
                station.inputs[side] = (s, path.arm)
                ends.append(None)
            memories = [
                None if arm.memory is None else self._get(arm.memory.sequencer, el.DelayGenerator)
                for arm in optics
            ]
            members.append(
                PulsedSource(
                    crystal,
                    pump,
                    oven,
                    self._get(generator, el.DelayGenerator),
                    channel,
                    (optics[0], optics[1]),
                    (ends[0], ends[1]),
                    (memories[0], memories[1]),
                )
            )
        return PulsedNetwork(members, list(stations.values()))

    def _pump(self, crystal: el.CrystalModel) -> tuple[el.PumpLaser, el.Oven | None]:
        oven = None if crystal.oven is None else self._get(crystal.oven, el.Oven)
        return self._get(crystal.pump, el.PumpLaser), oven

    def _outlet(self, path: LightPath, arm: Arm, spread: float) -> Outlet:
        assert isinstance(path.end, Detection)
        count = len(arm.operators)
        return Outlet(path.end, self.elements, count, arm.flight_s, arm.spread + spread)

    def _station(self, name: str, detection: Detection) -> Station:
        model = cast(el.BellStationModel, self.model.elements[name])
        outlet = Outlet(detection, self.elements, len(STATION_OUTPUTS), 0.0, 0.0)
        return Station(model, outlet)

    def _set_patch(self) -> None:
        """Let every click and every wired edge take the same detour, long enough for all."""
        engines = [running.engine for running in self._running.values()]
        outlets = [outlet for engine in engines for outlet in engine.outlets]
        sigma = max((float(outlet.sigma_ps.max()) for outlet in outlets), default=0.0)
        pulsed = [engine for engine in engines if isinstance(engine, PulsedNetwork)]
        early = max((engine.spread_ps for engine in pulsed), default=0)
        patch = max(_PATCH_PS, 8 * sigma) + 2 * early
        ahead = max((engine.ahead_ps for engine in pulsed), default=0)
        for engine in pulsed:
            engine.lag_ps = ahead
        for outlet in outlets:
            outlet.set_patch(round(patch + ahead))
        for wire in self._wires:
            wire.set_patch(round(patch + ahead))


def _philox_key(seed: int, name: str) -> npt.NDArray[np.uint64]:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    return np.frombuffer(digest, np.uint64)
