"""What experiments with a Bell-state station between two pulsed sources share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..bench import BenchConfig
from ..instruments import (
    Deadline,
    InstrumentTimeout,
    MemoryInfo,
    PolarizationController,
    ProtocolError,
    TagBatch,
    Unit,
    concatenate,
)
from ..live import Progress
from .contract import ExperimentFile, Mistake, Model, Run, lacks

if TYPE_CHECKING:
    from ..lab import Party
    from ..protocols import swapping

__all__ = [
    "HomScan",
    "Midpoint",
    "MidpointFile",
    "check_midpoint",
    "counts_told",
    "empty_told",
    "figure",
    "hom_told",
    "parts_rows",
    "prediction_told",
    "sources_told",
    "told",
    "visibility_rows",
    "worth",
]

_STEP_S = 0.1
_ENDS = ("alice", "bob")
_PARTIES = ("station", *_ENDS)

Seconds = Annotated[float, Unit("s"), Field(gt=0, le=1e5)]
Angle = Annotated[float, Unit("deg"), Field(ge=0, le=180)]
Batches = tuple[TagBatch, TagBatch, TagBatch]
SettingName = Literal["ZX", "CHSH", "Y"]


class HomScan(Model):
    """Scan of the pump delay, around the delay at which the photons arrive together."""

    points: Annotated[int, Field(ge=5, le=200)] = 13
    span: Annotated[float, Unit("s"), Field(gt=0, le=1e-6)] = 1.6e-9
    time: Seconds = 1.0
    """At each delay."""


class MidpointFile(ExperimentFile):
    """What a file of an experiment with a station in the middle says."""

    calibration: Seconds = 1.0
    """Recording for the delays, and again for the efficiencies."""
    coincidence_window: Annotated[float, Unit("s"), Field(ge=1e-12, le=1e-6)] = 4e-9
    """Full width: for the station's two clicks, and for those of the ends."""
    late_channel: Literal["A", "B", "C", "D", "E", "F", "G", "H"] = "C"
    """Channel of the station's delay generator that triggers bob's source; it is scanned."""
    hom: HomScan = HomScan()
    retardances: tuple[Annotated[float, Unit("deg"), Field(gt=0, lt=360)], ...] = (90, 180, 90)
    """Nominal retardance of each paddle, from which the angles of a setting follow."""
    angles: dict[SettingName, dict[Literal["alice", "bob"], tuple[Angle, ...]]] = Field(
        default_factory=dict
    )
    """Measured angles of a setting's paddles, which overrule those."""


def check_midpoint(file: MidpointFile, bench: BenchConfig) -> list[Mistake]:
    """Return what is wrong with the file on its bench."""
    from ..protocols import swapping

    mistakes: list[Mistake] = []
    mistakes += lacks(
        file,
        bench,
        "station",
        labels=swapping.DETECTORS,
        roles=("source", "delay_generator"),
    )
    for end in _ENDS:
        mistakes += lacks(file, bench, end, labels=swapping.OUTCOMES, roles=("controller",))
    if file.hom.span > file.coincidence_window:
        mistakes.append((("hom", "span"), "is wider than the coincidence_window: no photons there"))
    if len(file.retardances) < 3:
        mistakes.append((("retardances",), "three paddles or more make every turn"))
    for name, by_end in file.angles.items():
        for end, angles in by_end.items():
            if len(angles) != len(file.retardances):
                here = ("angles", name, end)
                mistakes.append((here, f"{len(file.retardances)} angles needed, as retardances"))
    return mistakes


class Midpoint:
    """An open bench with a station: moves clicks, settings and time.

    Recordings go on from the beginning to the end, so that delays found once hold.

    Args:
        file: What is wanted.
        run: The run; its bench is opened.
    """

    def __init__(self, file: MidpointFile, run: Run) -> None:
        lab = run.open()
        self.file = file
        self.clock = lab.clock
        self.parties: dict[str, Party] = {name: lab.parties[name] for name in _PARTIES}
        self.window_ps = round(file.coincidence_window * 1e12)
        self._settle_s = run.bench.settle_timeout
        self._show = run.show
        self._taggers = [party.tagger for party in self.parties.values()]
        self._recording = False
        self._figures: dict[str, str] = {}
        station = self.parties["station"]
        assert station.delay_generator is not None
        assert station.source is not None
        self.source = station.source
        generator = station.delay_generator
        rate_hz = generator.trigger_rate.get()
        if generator.burst.get():
            self.period_ps = generator.burst_period.get() * 1e12
            self.pulses_hz = rate_hz * generator.burst_count.get()
        else:
            self.period_ps, self.pulses_hz = 1e12 / rate_hz, rate_hz
        if file.late_channel not in generator.delays:
            raise ProtocolError(
                f"the station's delay generator has no channel {file.late_channel!r}"
                f" ({', '.join(generator.delays)})"
            )
        self.pump_delay = generator.delays[file.late_channel]
        for end in _ENDS:
            if any(actuator.unit != "deg" for actuator in self._controller(end).actuators):
                raise ProtocolError(
                    f"{end}'s controller is set in volts; the settings of this experiment are"
                    " angles of paddles, so give it paddles"
                )
        self._home = self._angles()
        #: Angles of both ends' paddles at each setting, as read back.
        self.paddles_deg: dict[SettingName, dict[str, list[float]]] = {"ZX": self._home}
        self.delays: tuple[dict[int, int], dict[int, int], dict[int, int]] = ({}, {}, {})
        #: Storage time at alice's and bob's end.
        self.storage_ps = [0, 0]
        #: Windows of the memories, seen from the station, and the share of light that meets both.
        self.gates: list[swapping.Gate] = []
        self.open_share = 1.0
        self.singles_hz: dict[str, dict[str, float]] = {}
        # what :meth:`align` finds, as far as it comes
        self.late_ps: float | None = None
        self.sources: tuple[swapping.Klyshko, swapping.Klyshko] | None = None
        self.dip: swapping.HomDip | None = None

    def attempt(self, steps: Callable[[], None]) -> dict[str, Any]:
        """Do the steps, and stop; return whether and why they ended early, as JSON has it."""
        reason = ""
        try:
            steps()
        except ProtocolError as error:
            reason = str(error)
        self.stop()
        return {"aborted": bool(reason), "reason": reason}

    # -- time and clicks

    def start(self) -> None:
        """Start all recordings."""
        for tagger in self._taggers:
            tagger.start()
        self._recording = True
        self.wait(_STEP_S)

    def stop(self) -> None:
        """Stop them, and turn the analyzers home."""
        for tagger in self._taggers:
            tagger.stop()
        self._recording = False
        self.turn("ZX")

    def wait(self, seconds: float) -> None:
        """Let bench time pass; the clicks of it are dropped."""
        deadline = Deadline(self.clock, seconds)
        while deadline.left > 1e-9:
            self.clock.sleep(min(_STEP_S, deadline.left))
            for tagger in self._taggers if self._recording else ():
                tagger.read()

    def until(self, ready: Callable[[], bool], what: str) -> None:
        """Wait, dropping clicks, until something is ready.

        Raises:
            InstrumentTimeout: after the bench's ``settle_timeout``.
        """
        deadline = Deadline(self.clock, self._settle_s)
        while not ready():
            if deadline.passed:
                raise InstrumentTimeout(f"{what} is not ready after {self._settle_s:g} s")
            self.wait(_STEP_S)

    def record(self, seconds: float, stage: str, take: Callable[[Batches], None]) -> None:
        """Hand over clicks made from now on, piece by piece, of station, alice and bob."""
        # What is read next was made up to a latency ago, under the settings before.
        self.wait(max(tagger.info.latency_s for tagger in self._taggers) + 0.02)
        deadline = Deadline(self.clock, seconds)
        counts = {name: np.zeros(64, np.int64) for name in _PARTIES}
        live = dict.fromkeys(_PARTIES, 0.0)
        while deadline.left > 1e-9:
            self.clock.sleep(min(_STEP_S, deadline.left))
            station, alice, bob = (tagger.read() for tagger in self._taggers)
            for name, batch in zip(_PARTIES, (station, alice, bob), strict=True):
                counts[name] += np.bincount(np.clip(batch.channels, 0, 63), minlength=64)
                live[name] += batch.live_s
            self.singles_hz = {
                name: {
                    label: float(counts[name][channel]) / live[name] if live[name] else 0.0
                    for channel, label in self.parties[name].channels.items()
                }
                for name in _PARTIES
            }
            take((station, alice, bob))
            elapsed = seconds - deadline.left
            self._show(Progress(stage, elapsed, seconds, self.singles_hz, self._figures))

    def collect(self, seconds: float, stage: str) -> Batches:
        """Record, and return everything at once."""
        parts: list[Batches] = []
        self.record(seconds, stage, parts.append)
        station, alice, bob = (concatenate(part) for part in zip(*parts, strict=True))
        return station, alice, bob

    def count(self, seconds: float, stage: str) -> swapping.SwapCounts:
        """Count heralds and four-folds with the delays, storage time and gates as they stand."""
        from ..protocols import swapping

        counter = swapping.SwapCounter(
            self.parties["station"].channels,
            self.parties["alice"].channels,
            self.parties["bob"].channels,
            self.window_ps,
            (self.delays[0], self._stored(0), self._stored(1)),
            gates=self.gates,
        )

        def take(batches: Batches) -> None:
            counter.add(*batches)
            self._figures = {"four-folds": f"{counter.fourfolds:,}"}

        self.record(seconds, stage, take)
        self._figures = {}
        return counter.finish()

    # -- settings

    def turn(self, name: SettingName) -> None:
        """Turn the paddles of both ends to a setting."""
        from ..protocols import swapping

        setting = swapping.SETTINGS[name]
        self._show(Progress(f"turning the analyzers to {name}"))
        for end, analyzer in zip(_ENDS, (setting.alice, setting.bob), strict=True):
            try:
                wanted = self._overruled(name, end) or swapping.paddle_angles(
                    analyzer, self._home[end], retardances_deg=self.file.retardances
                )
            except ValueError as error:
                raise ProtocolError(
                    f"{end}'s analyzer cannot be turned to {name}: {error}"
                ) from error
            for actuator, angle in zip(self._controller(end).actuators, wanted, strict=True):
                if abs(actuator.get() - angle) > 1e-6:
                    actuator.set(angle)
        self.until(
            lambda: all(self._controller(end).ready() for end in _ENDS), "a polarization controller"
        )
        self.paddles_deg[name] = self._angles()

    def _angles(self) -> dict[str, list[float]]:
        return {end: [angle.get() for angle in self._controller(end).actuators] for end in _ENDS}

    def _overruled(self, name: SettingName, end: str) -> tuple[float, ...] | None:
        found = self.file.angles.get(name, {}).items()
        return next((angles for at, angles in found if at == end), None)

    def set_pump(self, current_a: float) -> None:
        """Set the pump's current and wait until the source is ready."""
        self._show(Progress(f"setting the pump to {current_a * 1e3:g} mA"))
        self.source.pump_current.set(current_a)
        ready = getattr(self.source, "ready", None)
        if ready is not None:
            self.until(ready, "the source")

    def set_delay(self, seconds: float) -> None:
        """Set the pump delay of bob's source."""
        if seconds < 0:
            raise ProtocolError(
                f"bob's source would have to be triggered {-seconds * 1e9:.2f} ns before the"
                " cycle begins: delay alice's by more"
            )
        self.pump_delay.set(seconds)

    # -- calibration

    def align(self) -> None:
        """Start, find all delays, measure both sources, and let their photons meet.

        Raises:
            ProtocolError: where a step finds nothing to go on with.
        """
        self.start()
        arrivals = self.find_delays()
        self.late_ps = arrivals.late_ps
        self.set_delay(self.pump_delay.get() - arrivals.late_ps * 1e-12)
        self.sources = self.measure_sources()
        self.dip = self.scan_hom(arrivals)
        if not self.dip.ok:
            raise ProtocolError(self.dip.reason)

    def find_delays(self) -> swapping.Arrivals:
        """Find the delays of all channels; return when both sources' photons arrive."""
        from ..protocols import swapping

        station, alice, bob = self.collect(self.file.calibration, "recording clicks for the delays")
        self._show(Progress("finding the delays"))
        found = []
        for end, batch in (("alice", alice), ("bob", bob)):
            try:
                found.append(
                    swapping.find_end_delays(
                        station,
                        batch,
                        self.parties["station"].channels,
                        self.parties[end].channels,
                    )
                )
            except ProtocolError as error:
                raise ProtocolError(f"pairs between the station and {end}: {error}") from error
        self.delays = (found[0][0], found[0][1], found[1][1])
        return swapping.find_arrivals(
            station,
            alice,
            bob,
            self.delays,
            period_ps=self.period_ps,
            window_ps=self.window_ps // 2,
        )

    def measure_sources(
        self, memories: Sequence[MemoryInfo] = ()
    ) -> tuple[swapping.Klyshko, swapping.Klyshko]:
        """Measure both sources, the photons of one coming to the station apart from the other's.

        Args:
            memories: That of alice's and of bob's end; their gates are found first, and only what
                comes to the station while both are open counts.
        """
        from ..protocols import swapping

        together = self.pump_delay.get()
        self.set_delay(together + 1.6 * self.file.coincidence_window)
        stage = "measuring efficiencies, photons apart"
        station, *ends = self.collect(self.file.calibration, stage)
        self.set_delay(together)
        centre = swapping.find_arrivals(
            station,
            ends[0],
            ends[1],
            (self.delays[0], self._stored(0), self._stored(1)),
            period_ps=self.period_ps,
            window_ps=self.window_ps // 2,
        )
        phases = (centre.west_ps, centre.east_ps)
        self.gates = [
            swapping.find_gate(
                station,
                ends[i],
                (self.delays[0], self._stored(i)),
                period_ps=info.cycle_s * 1e12,
                length_ps=(info.window_s[1] - info.window_s[0]) * 1e12,
                window_ps=self.window_ps,
            )
            for i, info in enumerate(memories)
        ]
        clicks = len(station)
        station = swapping.gated(station, self.delays[0], self.gates)
        self.open_share = len(station) / clicks
        found = [
            swapping.klyshko(
                station,
                ends[i],
                self.parties["station"].channels,
                self.parties[end].channels,
                (self.delays[0], self._stored(i)),
                phase_ps=phases[i],
                other_ps=phases[1 - i],
                period_ps=self.period_ps,
                pulses_hz=self.pulses_hz,
                window_ps=self.window_ps,
            )
            for i, end in enumerate(_ENDS)
        ]
        return found[0], found[1]

    def _stored(self, end: int) -> dict[int, int]:
        """Delays of an end's inputs with the storage time in them."""
        return {c: delay + self.storage_ps[end] for c, delay in self.delays[1 + end].items()}

    def scan_hom(self, arrivals: swapping.Arrivals) -> swapping.HomDip:
        """Scan the pump delay around the one at which both photons were seen to arrive together.

        It is left at the mean of that and the dip's centre, weighted by their errors; at the dip's
        alone where they differ by more than three sigma.
        """
        from ..protocols import swapping

        scan = self.file.hom
        centre_s = self.pump_delay.get()
        delays = centre_s + np.linspace(-scan.span / 2, scan.span / 2, scan.points)
        counts = []
        for i, delay in enumerate(delays.tolist()):
            self.set_delay(delay)
            delays[i] = self.pump_delay.get()  # on the instrument's grid
            stage = f"HOM scan, delay {i + 1} of {scan.points}"
            counts.append(self.count(scan.time, stage).hom)
        found = swapping.fit_dip(delays, np.array(counts, np.int64))
        best_s, sigma_s = centre_s, math.sqrt(2) * arrivals.sigma_ps * 1e-12
        if found.ok:
            dip = found.centre_s
            if abs(dip.value - centre_s) > 3 * math.hypot(dip.sigma, sigma_s):
                best_s = dip.value
            else:
                best_s += (dip.value - centre_s) * sigma_s**2 / (sigma_s**2 + dip.sigma**2)
        self.set_delay(best_s)
        return found

    def _controller(self, end: str) -> PolarizationController:
        controller = self.parties[end].controller
        assert controller is not None
        return controller


def told(estimate: swapping.Estimate) -> dict[str, float | int] | None:
    """An estimate as JSON has it; None where there was nothing to estimate."""
    if not (math.isfinite(estimate.value) and math.isfinite(estimate.sigma)):
        return None
    return {"value": estimate.value, "sigma": estimate.sigma, "n": estimate.n}


def figure(
    estimate: Mapping[str, Any] | None, *, scale: float = 1.0, digits: int = 1, unit: str = ""
) -> str:
    """An estimate of the metrics as a person reads it."""
    if estimate is None:
        return "-"
    value, sigma = scale * estimate["value"], scale * estimate["sigma"]
    return f"{value:.{digits}f} ± {sigma:.{digits}f}{unit}"


def sources_told(
    found: tuple[swapping.Klyshko, swapping.Klyshko] | None,
) -> dict[str, Any] | None:
    """Both sources and their arms as JSON has them."""
    if found is None:
        return None
    return {
        name: {
            "pairs_per_pulse": told(one.pairs_per_pulse),
            "visibility": told(one.visibility),
            "end_efficiency": told(one.end),
            "station_efficiency": told(one.station),
        }
        for name, one in zip(("west", "east"), found, strict=True)
    }


def hom_told(dip: swapping.HomDip | None) -> dict[str, Any] | None:
    """A HOM scan as JSON has it."""
    if dip is None:
        return None
    return {
        "visibility": told(dip.visibility),
        "centre_s": told(dip.centre_s),
        "fwhm_s": told(dip.fwhm_s),
        "delays_s": dip.delays_s.tolist(),
        "counts": dip.counts.tolist(),
    }


def empty_told(empty: swapping.EmptyShares) -> dict[str, Any]:
    """Shares of empty heralds as JSON has them."""
    return {name: told(getattr(empty, name)) for name in ("any", "alice", "bob")}


def prediction_told(said: swapping.Prediction) -> dict[str, Any]:
    """What was to be expected of the swapped pairs as JSON has it."""
    return {
        name: told(getattr(said, name)) for name in ("visibility_z", "visibility_x", "fidelity")
    }


def counts_told(
    counts: swapping.SwapCounts, paddles_deg: Mapping[str, list[float]]
) -> dict[str, Any]:
    """Counts of a setting, and where its paddles stood, as JSON has them."""
    from ..protocols import swapping

    return {
        "paddles_deg": dict(paddles_deg),
        "live_s": counts.live_s,
        "heralds": dict(zip(swapping.BELL_LABELS, counts.heralds.tolist(), strict=True)),
        "fourfolds": {
            label: table.tolist()
            for label, table in zip(swapping.BELL_LABELS, counts.fourfolds, strict=True)
        },
        "fourfold_rate_hz": int(counts.fourfolds.sum()) / counts.live_s if counts.live_s else 0.0,
        "hom_coincidences": counts.hom,
        "lone_clicks": counts.lone,
        "unclear": counts.unclear,
        "lost": counts.lost,
        "outside": counts.outside,
    }


def worth(counts: Mapping[SettingName, swapping.SwapCounts]) -> dict[str, Any]:
    """Visibilities and fidelity, by Bell label and of all together, as JSON has them."""
    from ..protocols import swapping

    found = swapping.visibilities(
        [(swapping.SETTINGS[name], one.fourfolds) for name, one in counts.items()]
    )
    labels = (*swapping.BELL_LABELS, "all")
    return {
        "visibility": {
            axis: {label: told(found[axis][label]) for label in labels} for axis in "ZXY"
        },
        "fidelity": {
            label: told(swapping.fidelity({axis: found[axis][label] for axis in "ZXY"}))
            for label in labels
        },
    }


def parts_rows(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Sources, HOM dip and four-folds for a person."""
    rows: list[tuple[str, str]] = []
    if (sources := m["sources"]) is not None:
        for name, one in sources.items():
            text = (
                f"{figure(one['pairs_per_pulse'], digits=4)} pairs/pulse,"
                f" V {figure(one['visibility'], scale=100, unit=' %')},"
                f" end {figure(one['end_efficiency'], scale=100, unit=' %')},"
                f" station {figure(one['station_efficiency'], scale=100, unit=' %')}"
            )
            rows.append((f"source {name}", text))
    if (hom := m["hom"]) is not None:
        text = (
            f"visibility {figure(hom['visibility'], scale=100, unit=' %')} at"
            f" {figure(hom['centre_s'], scale=1e12, digits=0, unit=' ps')},"
            f" FWHM {figure(hom['fwhm_s'], scale=1e12, digits=0, unit=' ps')}"
        )
        rows.append(("HOM dip", text))
    for name, counts in m["settings"].items():
        heralds = ", ".join(f"{label} {n:,}" for label, n in counts["heralds"].items())
        text = f"{counts['fourfold_rate_hz']:.1f} /s in {counts['live_s']:.1f} s; heralds {heralds}"
        rows.append((f"four-folds {name}", text))
    return rows


def visibility_rows(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Visibilities for a person."""
    rows: list[tuple[str, str]] = []
    for axis in "ZXY" if m["settings"] else "":
        by_label = m["visibility"][axis]
        text = "  ".join(
            f"{label} {figure(v, scale=100, unit=' %')}" for label, v in by_label.items()
        )
        rows.append((f"visibility {axis}", text))
    return rows
