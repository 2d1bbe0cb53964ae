"""One optical layout, one clock, one seed.

World time moves in blocks of 10 ms. The clicks of a block depend on the seed and on the knobs
during the block, not on who reads: every random draw comes from a counter-based generator keyed
by (seed, element, block).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ..instruments import ConfigError
from . import elements as el
from .arms import Arm
from .coherent import CoherentLight, CoherentMeeting, CoherentSource
from .continuous import ContinuousLight, ContinuousPair, Rates
from .emitting import EmitterNetwork, EmitterNode
from .ensembles import EnsembleLight
from .events import Calendar
from .layout import (
    SIDES,
    STATION_OUTPUTS,
    Detection,
    Layout,
    LightPath,
    Wire,
    WorldModel,
    check_layout,
)
from .outlets import Outlet, cable_delays_s
from .pulsed import PulsedNetwork, PulsedSource, Station
from .saved import read_state, recall, remember, write_state
from .ways import Way

__all__ = ["BLOCK_PS", "World", "WorldModel", "check_layout"]

BLOCK_PS = 10_000_000_000
# Every path is at least this long, so that jitter never carries a click before its own block.
_PATCH_PS = 20_000

_Element = TypeVar("_Element")


class _Wired:
    """Edges of a delay generator or a reference on their way to a tagger's input."""

    def __init__(
        self,
        wire: Wire,
        edges: Callable[[int, int], npt.NDArray[np.int64]],
        tagger: el.TaggerInputs,
    ) -> None:
        self._wire, self._edges, self._tagger = wire, edges, tagger
        self._cable_s = cable_delays_s(tagger.model, wire.input, 1)[0]
        self.delay_ps = 0
        self._held: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def set_patch(self, patch_ps: int) -> None:
        self.delay_ps = round(self._cable_s * 1e12) + patch_ps

    def run(self, begin_ps: int, end_ps: int) -> None:
        times = np.append(self._held, self._edges(begin_ps, end_ps) + self.delay_ps)
        cut = int(np.searchsorted(times, end_ps))
        self._held = times[cut:].copy()
        take = self._tagger.add if self._tagger.recording else self._tagger.warm_up
        take(times[:cut], np.full(cut, self._wire.input, np.int16))


class _Engine(Protocol):
    """What makes the photons of a source, or of several that meet."""

    outlets: list[Outlet]

    def take(self, begin_ps: int, end_ps: int) -> Any:
        """Note what the knobs stand for in the block that begins, and return it."""
        ...

    def generate(self, what: Any, rng: np.random.Generator, begin_ps: int, end_ps: int) -> None:
        """Hand the outlets what is detected of a block's photons."""
        ...


@dataclass
class _Group:
    """Engines whose light ends on common detectors, with what they need from block to block."""

    engines: list[_Engine]
    outlets: list[Outlet]
    keys: list[npt.NDArray[np.uint64]]
    """Of the random draws of each engine, then of each outlet."""
    generated_to: int = -1
    """End of the last block whose clicks were made."""
    before: deque[tuple[list[Any], list[Any]]] = field(default_factory=deque)
    """What engines and outlets knew of the blocks before this one whose light still comes."""


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
        self._drifting = [
            (_philox_key(seed, name), round(element.step_s * 1e12), element)
            for name, element in self.elements.items()
            if isinstance(element, el.Drifting) and element.drifts
        ]
        self._calendar = Calendar(model.events, self.elements)
        layout = Layout.of(model)
        self._wires = [
            _Wired(w, self._edges(w.generator, w.channel), self._get(w.tagger, el.TaggerInputs))
            for w in layout.wires
        ]
        self._outlets: dict[Detection, Outlet] = {}
        self._engines = dict(self._make_engines(layout))
        self._groups = self._group()
        self._set_patch()
        for group in self._groups:
            # Half as many again: a way may become longer.
            blocks = 1 + int(1.5 * self._flight_ps(group)) // BLOCK_PS
            group.before = deque(maxlen=blocks)

    def run_block(self) -> None:
        """Advance one block: temperatures and triggers, then the clicks of those who listen."""
        begin, end = self.now_ps, self.now_ps + BLOCK_PS
        self._calendar.turn(begin)
        self._step(begin, end)
        for group in self._groups:
            now = (
                [engine.take(begin, end) for engine in group.engines],
                [outlet.take() for outlet in group.outlets],
            )
            if any(outlet.listening for outlet in group.outlets):
                if group.generated_to < begin:
                    # Clicks on their way and dead detectors come from the blocks before.
                    for back in range(group.before.maxlen or 1, 0, -1):
                        known = group.before[-back] if back <= len(group.before) else now
                        self._generate(group, known, begin - back * BLOCK_PS, muted=True)
                self._generate(group, now, begin)
                group.generated_to = end
            else:
                for outlet in group.outlets:
                    outlet.silence()
            group.before.append(now)
        for wire in self._wires:
            wire.run(begin, end)
        for tagger in self._taggers:
            tagger.end_block()
        self.now_ps = end

    def unpowered(self, begin_ps: int) -> frozenset[str]:
        """Elements whose instruments have no power in the block from ``begin_ps``."""
        return self._calendar.unpowered(begin_ps)

    def save(self, path: Path) -> None:
        """Write what lasts to a file (:mod:`bellbench.sims.saved`)."""
        write_state(
            path,
            {"seed": self.seed, "now_ps": self.now_ps, "elements": remember(self.elements)},
        )

    def resume(self, path: Path) -> None:
        """Go on from a file that :meth:`save` wrote; call it before the first block.

        Raises:
            ConfigError: where the file is no state, or that of another world or seed.
        """
        state = read_state(path)
        if state["seed"] != self.seed:
            raise ConfigError(
                f"{path}: the state of seed {state['seed']}, not {self.seed}; use that seed, or"
                " another file"
            )
        try:
            recall(self.elements, state["elements"])
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        self.now_ps = state["now_ps"]
        self._calendar = Calendar(self.model.events, self.elements, self.now_ps - BLOCK_PS)

    @property
    def outlets(self) -> tuple[Outlet, ...]:
        """Every group of detectors that a path ends at."""
        return tuple(self._outlets.values())

    def mean_rates(self, crystal: str, channel: int = 1) -> Rates:
        """Return the rates before dead time that the knobs stand for now (tests, rehearsal).

        Args:
            crystal: A continuously pumped crystal.
            channel: Which pair of its wavelength channels, from 1.
        """
        engine = self._engines[crystal if channel == 1 else f"{crystal}.{channel}"]
        assert isinstance(engine, ContinuousPair)
        return engine.rates()

    def _generate(
        self, group: _Group, what: tuple[list[Any], list[Any]], begin: int, muted: bool = False
    ) -> None:
        block = begin // BLOCK_PS + 1  # the warm-up of the first block ends with block 0
        counter = np.array([0, 0, 0, block % (1 << 64)], np.uint64)
        rngs = [
            np.random.Generator(np.random.Philox(key=key, counter=counter)) for key in group.keys
        ]
        end = begin + BLOCK_PS
        engines = len(group.engines)
        for outlet in group.outlets:
            outlet.begin(begin)
        for engine, known, rng in zip(group.engines, what[0], rngs[:engines], strict=True):
            if begin >= 0 or not isinstance(engine, PulsedNetwork):
                engine.generate(known, rng, begin, end)
        for outlet, knobs, rng in zip(group.outlets, what[1], rngs[engines:], strict=True):
            outlet.muted = muted
            outlet.finish(knobs, rng, begin, end)

    def _step(self, begin: int, end: int) -> None:
        for warm in self._warm:
            warm.settle(BLOCK_PS * 1e-12)
        for generator in self._generators:
            generator.edges(begin, end)
        for key, step_ps, element in self._drifting:
            if begin % step_ps == 0:
                philox = np.random.Philox(key=key, counter=[0, 0, 0, begin // step_ps])
                element.step(np.random.Generator(philox), begin * 1e-12)

    def _get(self, name: str, kind: type[_Element]) -> _Element:
        element = self.elements[name]
        assert isinstance(element, kind)
        return element

    def _edges(self, name: str, channel: str) -> Callable[[int, int], npt.NDArray[np.int64]]:
        """What gives the edges in a block of a channel of a generator, sequencer or reference."""
        element = self.elements[name]
        if isinstance(element, el.Reference):
            return element.edges
        if isinstance(element, el.PulseSequencer):
            sequencer, output = element, int(channel)
            return lambda begin_ps, end_ps: sequencer.edges(output, begin_ps, end_ps)[0]
        generator = self._get(name, el.DelayGenerator)
        return lambda begin_ps, end_ps: generator.edges(begin_ps, end_ps).channel(channel)

    def _all(self, kind: type[_Element]) -> list[_Element]:
        return [element for element in self.elements.values() if isinstance(element, kind)]

    def _make_engines(self, layout: Layout) -> Iterator[tuple[str, _Engine]]:
        for sources in layout.networks:
            models = [self.model.elements[source] for source in sources]
            if isinstance(models[0], el.CrystalModel) and models[0].trigger is not None:
                yield "+".join(sources), self._pulsed(layout, sources)
                continue
            if isinstance(models[0], el.WeakCoherentModel):
                yield "+".join(sources), self._coherent(layout, sources)
                continue
            if isinstance(models[0], el.EmitterModel):
                yield "+".join(sources), self._emitters(layout, sources)
                continue
            [name], [model] = sources, models
            paths = [path for path in layout.light if path.source == name]
            if isinstance(model, el.LightModel):
                ways = [self._way(path) for path in paths]
                yield name, ContinuousLight(self._get(name, el.Light), ways)
            elif isinstance(model, el.CrystalModel):
                for channel, share in enumerate(model.channels or (1.0,)):
                    here = [path for path in paths if path.channel == channel]
                    signal, idler = (
                        [self._way(path) for path in here if path.arm == arm] for arm in (0, 1)
                    )
                    if here:
                        label = name if channel == 0 else f"{name}.{channel + 1}"
                        pump, oven = self._pump(model)
                        yield label, ContinuousPair(model, share, pump, oven, (signal, idler))
            elif isinstance(model, el.DLCZModel):
                for mode in range(model.spatial_modes):
                    here = [path for path in paths if path.channel == mode]
                    write, read = (
                        [self._way(path) for path in here if path.arm == arm] for arm in (0, 1)
                    )
                    if here:
                        label = name if mode == 0 else f"{name}.{mode + 1}"
                        tokens = (model.prepare, model.write, model.read)
                        edges = [self._edges(*token.split(".")) for token in tokens]
                        yield label, EnsembleLight(model, edges, (write, read))

    def _group(self) -> list[_Group]:
        """Put engines with common outlets together, and what no engine reaches alone."""
        members: list[tuple[dict[str, _Engine], list[Outlet]]] = []
        for name, engine in self._engines.items():
            touched = [m for m in members if any(o in m[1] for o in engine.outlets)]
            together: tuple[dict[str, _Engine], list[Outlet]] = {}, []
            for engines, outlets in (*touched, ({name: engine}, engine.outlets)):
                together[0].update(engines)
                together[1].extend(o for o in outlets if o not in together[1])
            members = [m for m in members if m not in touched] + [together]
        return [
            _Group(
                list(engines.values()),
                outlets,
                [_philox_key(self.seed, name) for name in engines]
                + [_philox_key(self.seed, outlet.name) for outlet in outlets],
            )
            for engines, outlets in members
        ]

    def _pulsed(self, layout: Layout, sources: tuple[str, ...]) -> PulsedNetwork:
        crystals = [cast(el.CrystalModel, self.model.elements[source]) for source in sources]
        paths = [
            [next(p for p in layout.light if (p.source, p.arm) == (s, arm)) for arm in (0, 1)]
            for s in sources
        ]
        members: list[PulsedSource] = []
        stations: dict[str, Station] = {}
        for s, (crystal, both) in enumerate(zip(crystals, paths, strict=True)):
            optics = [Arm(self.model, self.elements, p.optics) for p in both]
            pump, oven = self._pump(crystal)
            generator, _, channel = cast(str, crystal.trigger).partition(".")
            ends: list[Outlet | None] = []
            for path, arm in zip(both, optics, strict=True):
                if isinstance(path.end, Detection):
                    outlet = self._outlet(path.end, len(arm.operators))
                    arm.operators = outlet.polarized(arm.operators)
                    ends.append(outlet)
                    continue
                name, side = path.end
                if name not in stations:
                    model = cast(el.BellStationModel, self.model.elements[name])
                    outlet = self._outlet(layout.stations[name], len(STATION_OUTPUTS))
                    stations[name] = Station(model, outlet)
                stations[name].inputs[side] = (s, path.arm)
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
                    (both[0].first, both[1].first),
                )
            )
        return PulsedNetwork(members, list(stations.values()))

    def _coherent(
        self, layout: Layout, sources: tuple[str, ...]
    ) -> CoherentLight | CoherentMeeting:
        made: dict[str, CoherentSource] = {}
        for name in sources:
            model = cast(el.WeakCoherentModel, self.model.elements[name])
            sequencer = self._get(model.trigger.partition(".")[0], el.PulseSequencer)
            laser = None if model.laser is None else self._get(model.laser, el.PumpLaser)
            made[name] = CoherentSource(model, sequencer, laser)
        paths = [path for path in layout.light if path.source in made]
        if isinstance(paths[0].end, Detection):
            return CoherentLight(made[sources[0]], [self._way(path) for path in paths])
        station = cast(el.BellStationModel, self.model.elements[paths[0].end[0]])
        outlet = self._outlet(layout.stations[paths[0].end[0]], len(STATION_OUTPUTS))
        by_side = {cast(tuple[str, str], path.end)[1]: path for path in paths}
        left, right = by_side["left"], by_side["right"]
        return CoherentMeeting(
            (made[left.source], made[right.source]),
            (
                Arm(self.model, self.elements, left.optics),
                Arm(self.model, self.elements, right.optics),
            ),
            station,
            outlet,
        )

    def _emitters(self, layout: Layout, sources: tuple[str, ...]) -> EmitterNetwork:
        made: dict[str, EmitterNode] = {}
        station: tuple[el.BellStationModel, Outlet] | None = None
        sides: dict[str, str] = {}
        for name in sources:
            model = cast(el.EmitterModel, self.model.elements[name])
            ways: list[Arm | Way | None] = [None, None]
            for path in layout.light:
                if path.source != name:
                    continue
                if isinstance(path.end, Detection):
                    ways[path.arm] = self._way(path)
                    continue
                at, sides[path.end[1]] = path.end[0], name
                ways[path.arm] = Arm(self.model, self.elements, path.optics)
                if station is None:
                    outlet = self._outlet(layout.stations[at], len(STATION_OUTPUTS))
                    station = cast(el.BellStationModel, self.model.elements[at]), outlet
            sequencer = self._get(model.sequencer, el.DelayGenerator)
            made[name] = EmitterNode(model, sequencer, ways[0], cast(Way | None, ways[1]))
        if station is None:
            return EmitterNetwork(list(made.values()))
        return EmitterNetwork([made[sides[side]] for side in SIDES], *station)

    def _pump(self, crystal: el.CrystalModel) -> tuple[el.PumpLaser, el.Oven | None]:
        oven = None if crystal.oven is None else self._get(crystal.oven, el.Oven)
        return self._get(crystal.pump, el.PumpLaser), oven

    def _way(self, path: LightPath) -> Way:
        assert isinstance(path.end, Detection)
        arm = Arm(self.model, self.elements, path.optics)
        outlet = self._outlet(path.end, len(arm.operators))
        arm.operators = outlet.polarized(arm.operators)
        return Way(arm, outlet, path.first)

    def _outlet(self, end: Detection, count: int) -> Outlet:
        if end not in self._outlets:
            self._outlets[end] = Outlet(end, self.elements, count)
        return self._outlets[end]

    def _flight_ps(self, group: _Group) -> int:
        """Longest time from an emission to a click of a group."""
        cables = max((outlet.longest_ps for outlet in group.outlets), default=0)
        always_on = (
            ContinuousPair,
            ContinuousLight,
            CoherentLight,
            CoherentMeeting,
            EnsembleLight,
            EmitterNetwork,
        )
        ways = [e.flight_ps for e in group.engines if isinstance(e, always_on)]
        return max(ways, default=0) + cables

    def _set_patch(self) -> None:
        """Let every click and every wired edge take the same detour, long enough for all."""
        outlets = list(self._outlets.values())
        sigma = max((float(outlet.sigma_ps.max()) for outlet in outlets), default=0.0)
        pulsed = [engine for engine in self._engines.values() if isinstance(engine, PulsedNetwork)]
        early = max((engine.spread_ps for engine in pulsed), default=0)
        spread_out = (
            ContinuousPair,
            CoherentLight,
            CoherentMeeting,
            EnsembleLight,
            EmitterNetwork,
        )
        pairs = [engine for engine in self._engines.values() if isinstance(engine, spread_out)]
        spread = max((engine.early_ps for engine in pairs), default=0.0)
        patch = max(_PATCH_PS, 8 * sigma + spread) + 2 * early
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
