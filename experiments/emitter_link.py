"""Two matter qubits entangled by heralds: how often, and how well by their read-outs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..bench import BenchConfig
from ..instruments import DelayGenerator, ProtocolError, TagBatch, Unit, concatenate
from ..live import Progress
from .contract import Duration, Experiment, ExperimentFile, Mistake, Result, Run, lacks
from .midpoint import figure, told

if TYPE_CHECKING:
    from ..protocols import spin_heralds
    from ..protocols.estimates import Estimate

__all__ = ["EXPERIMENT", "EmitterLinkFile"]

_STATION = ("cH", "cV", "dH", "dV")
_ENDS = ("alice", "bob")
_STEP_S = 0.1

_Volts = Annotated[float, Unit("V"), Field(gt=0, le=10)]


class EmitterLinkFile(ExperimentFile):
    """What an experiment file of this protocol says.

    Nodes are run by delay generators: output AB excites, CD turns X, EF turns Y onto Z, GH reads.
    """

    protocol: Literal["emitter_link"]
    duration: Duration
    """Recording along each of Z, X and Y."""
    amplitude: _Volts
    """Of the output AB, which sets the bright population alpha."""
    pi_amplitude: _Volts
    """Of the same: the spin is then bright, to see what the read-out misses."""
    calibration: Annotated[float, Unit("s"), Field(ge=0.1, le=1000)] = 0.3
    """Recording with all spins bright, and again with none excited."""
    clicks: Literal[1, 2] = 1
    """Clicks that make a herald: 1 for photons that are there or not, 2 for two polarizations."""
    window: Annotated[float, Unit("s"), Field(ge=1e-9, le=1e-4)] = 60e-9
    """In which the station's clicks count."""
    turn: Annotated[float, Unit("s"), Field(ge=1e-9, le=1e-4)] = 50e-9
    """Length of the pulse that turns a spin, which ends as long before the read-out begins."""


def _check(file: EmitterLinkFile, bench: BenchConfig) -> list[Mistake]:
    mistakes = lacks(file, bench, "station", labels=_STATION)
    for end in _ENDS:
        labels = ("bright", "trigger")
        mistakes += lacks(file, bench, end, labels=labels, roles=("delay_generator",))
    return mistakes


def _run(file: EmitterLinkFile, run: Run) -> Result:
    link = _Link(file, run)
    reason = ""
    try:
        link.measure()
    except ProtocolError as error:
        reason = str(error)
    link.stop()
    return Result(link.metrics(reason), link.draw)


class _Link:
    """An open bench: moves clicks, time and settings."""

    def __init__(self, file: EmitterLinkFile, run: Run) -> None:
        lab = run.open()
        self.file = file
        self.name = run.name
        self.clock = lab.clock
        self.show = run.show
        self.parties = {name: lab.parties[name] for name in ("station", *_ENDS)}
        self.inputs = {
            name: {label: channel for channel, label in party.channels.items()}
            for name, party in self.parties.items()
        }
        self.generators: dict[str, DelayGenerator] = {}
        for name in _ENDS:
            generator = self.parties[name].delay_generator
            assert generator is not None
            self.generators[name] = generator
        timing = self.generators["alice"]
        self.attempts = timing.burst_count.get()
        self.period_ps = round(timing.burst_period.get() * 1e12)
        self.train_ps = round(1e12 / timing.trigger_rate.get())
        self.read_at_s = timing.delays["G"].get()
        self.read_ps = round((timing.delays["H"].get() - self.read_at_s) * 1e12)
        self.starts: dict[str, int] = {}
        self.errors: dict[str, spin_heralds.Readout] = {}
        #: Read-outs by axis and herald, (2, 2) each.
        self.counts: dict[str, dict[str, Any]] = {}
        self.heralded = self.tried = 0

    def measure(self) -> None:
        """Read-out errors with spins bright and dark, then heralds along Z, X and Y."""
        from ..protocols import spin_heralds as spins
        from ..protocols.estimates import Estimate

        missed: dict[str, Estimate] = {}
        # Recordings go on from the beginning to the end, so that what is found once holds.
        for party in self.parties.values():
            party.tagger.start()
        for bright in (True, False):
            self._set(self.file.pi_amplitude, "Z", excite=bright)
            seen = self._record(self.file.calibration, f"spins {'bright' if bright else 'dark'}")
            for name in _ENDS:
                wrong = ~seen[name] if bright else seen[name]
                share, n = float(wrong.mean()), wrong.size
                error = Estimate(share, math.sqrt(max(share * (1 - share), 1 / n) / n), n)
                if bright:
                    missed[name] = error
                else:
                    self.errors[name] = spins.Readout(error, missed[name])
        for axis in spins.AXES:
            self._set(self.file.amplitude, axis)
            seen = self._record(self.file.duration, f"heralds, read along {axis}")
            found = spins.heralds(seen, self.file.clicks)
            self.tried += seen["cH"].size
            self.heralded += sum(int(which.sum()) for which in found.values())
            self.counts[axis] = {
                label: spins.shown(seen["alice"], seen["bob"], which)
                for label, which in found.items()
            }

    def stop(self) -> None:
        """Stop the recordings; excite as the file says, and read along Z."""
        for party in self.parties.values():
            party.tagger.stop()
        self._set(self.file.amplitude, "Z")

    def _set(self, volts: float, axis: str, excite: bool = True) -> None:
        end = self.read_at_s - self.file.turn
        for generator in self.generators.values():
            generator.amplitudes["AB"].set(volts)
            begin = generator.delays["A"].get()
            generator.delays["B"].set(begin + (100e-9 if excite else 0.0))
            for name, (rise, fall) in (("X", "CD"), ("Y", "EF")):
                pulse = (end - self.file.turn, end) if axis == name else (0.0, 0.0)
                generator.delays[fall].set(pulse[1])
                generator.delays[rise].set(pulse[0])

    def _record(self, seconds: float, stage: str) -> dict[str, Any]:
        """Clicks by attempt: of the station's detectors, and of ``alice`` and ``bob`` read."""
        from ..protocols import spin_heralds as spins

        latest = max(party.tagger.info.latency_s for party in self.parties.values())
        # What is read next was made up to a latency ago, under the settings before.
        self.clock.sleep(max(_STEP_S, latest + 0.02))
        for party in self.parties.values():
            party.tagger.read()
        parts: dict[str, list[TagBatch]] = {name: [] for name in self.parties}
        elapsed = 0.0
        # Whole trains only count.
        while elapsed < seconds + 2 * self.train_ps * 1e-12 + latest:
            self.clock.sleep(_STEP_S)
            elapsed += _STEP_S
            for name, party in self.parties.items():
                parts[name].append(party.tagger.read())
            self.show(Progress(stage, elapsed, seconds))
        batches = {name: concatenate(part) for name, part in parts.items()}
        times = {
            (name, label): batch.times_ps[batch.channels == channel]
            for name, batch in batches.items()
            for label, channel in self.inputs[name].items()
        }
        marks = {name: times[name, "trigger"] for name in _ENDS}
        if min(map(len, marks.values())) < 2:
            raise ProtocolError("no trains of attempts are seen: do the delay generators run?")
        begin = max(int(mark[0]) for mark in marks.values())
        last = min(int(batch.end_ps) for batch in batches.values())
        trains = max(0, (last - begin) // self.train_ps)
        train = spins.Train(begin, self.train_ps, self.period_ps, self.attempts)
        if not self.starts:  # the first recording, with every spin bright
            light = np.concatenate([times["station", label] for label in _STATION])
            # Cables differ by some ns: the window covers them.
            self.starts["station"] = spins.find_start(train, light, self.window_ps)
            for name in _ENDS:
                clicks = times[name, "bright"]
                self.starts[name] = spins.find_start(train, clicks, self.read_ps)
        found: dict[str, Any] = {
            label: train.clicked(
                times["station", label], self.starts["station"], self.window_ps, trains
            )
            for label in _STATION
        }
        for name in _ENDS:
            # its own train begins when its own mark says
            own = int(marks[name][np.argmin(np.abs(marks[name] - begin))])
            clicks = times[name, "bright"] - (own - begin)
            found[name] = train.clicked(clicks, self.starts[name], self.read_ps, trains)
        return found

    @property
    def window_ps(self) -> int:
        """Of the station's clicks."""
        return round(self.file.window * 1e12)

    def metrics(self, reason: str) -> dict[str, Any]:
        """Return the figures of the run, fit for JSON."""
        from ..protocols import spin_heralds as spins
        from ..protocols.estimates import Estimate

        result: dict[str, Any] = {
            "duration_s": self.file.duration,
            "aborted": bool(reason),
            "reason": reason,
        }
        if reason:
            return result
        share = Estimate(self.heralded / self.tried, math.sqrt(self.heralded) / self.tried)
        errors = self.errors["alice"], self.errors["bob"]
        by_label: dict[str, Any] = {}
        both: list[Estimate] = []
        raw: list[Estimate] = []
        for label in spins.LABELS:
            counts = {axis: self.counts[axis][label] for axis in spins.AXES}
            correlations = {a: spins.correlation(c, errors) for a, c in counts.items()}
            plain = {a: spins.correlation(c) for a, c in counts.items()}
            both.append(spins.fidelity(label, correlations))
            raw.append(spins.fidelity(label, plain))
            by_label[label] = {
                "heralds": int(sum(int(c.sum()) for c in counts.values())),
                "correlations": {a: told(c) for a, c in correlations.items()},
                "fidelity": told(both[-1]),
                "fidelity_raw": told(raw[-1]),
            }
        duty = self.attempts / (self.train_ps * 1e-12)
        return result | {
            "attempts": self.tried,
            "attempts_hz": duty,
            "heralds": self.heralded,
            "herald_probability": told(share),
            "herald_rate_hz": told(share * duty),
            "herald_rate_in_trains_hz": told(share * (1e12 / self.period_ps)),
            "readout": {
                name: {"false": told(e.false), "missed": told(e.missed)}
                for name, e in self.errors.items()
            },
            "states": by_label,
            "fidelity": told(_mean(both)),
            "fidelity_raw": told(_mean(raw)),
        }

    def draw(self, folder: Path) -> None:
        """Draw the correlations."""
        from .. import plots
        from ..protocols import spin_heralds as spins

        if len(self.counts) < len(spins.AXES):
            return
        errors = self.errors["alice"], self.errors["bob"]
        found = {
            label: {
                axis: spins.correlation(self.counts[axis][label], errors) for axis in spins.AXES
            }
            for label in spins.LABELS
        }
        plots.plot_spin_correlations(
            folder / "correlations.png", found, title=f"{self.name}: read-outs of heralded spins"
        )


def _mean(found: list[Estimate]) -> Estimate:
    """Mean of both states' figures."""
    from ..protocols.estimates import Estimate

    value = sum(e.value for e in found) / len(found)
    sigma = math.sqrt(sum(e.sigma**2 for e in found)) / len(found)
    return Estimate(value, sigma, sum(e.n for e in found))


def _rows(m: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from rich.markup import escape

    if m["aborted"]:
        yield "[bold red]aborted[/]", f"[bold]{escape(m['reason'])}[/]"
        return
    yield "attempts", f"{m['attempts']:,}, {m['attempts_hz'] * 1e-3:.4g} kHz"
    yield "heralds", figure(m["herald_rate_hz"], digits=2, unit=" /s")
    for name, errors in m["readout"].items():
        words = ", ".join(
            f"{word} {figure(errors[key], scale=100, digits=2, unit=' %')}"
            for word, key in (("|0> seen bright", "false"), ("|1> missed", "missed"))
        )
        yield f"read-out {name}", words
    for label, state in m["states"].items():
        shown = ", ".join(f"{a}{a} {figure(c, digits=2)}" for a, c in state["correlations"].items())
        yield f"{label}, {state['heralds']} heralds", shown
        yield f"fidelity {label}", figure(state["fidelity"], scale=100, unit=" %")
    raw = figure(m["fidelity_raw"], scale=100, unit=" %")
    best = figure(m["fidelity"], scale=100, unit=" %")
    yield "[bold green]fidelity[/]", f"[bold]{best}[/], {raw} with the read-outs' errors"


EXPERIMENT = Experiment(EmitterLinkFile, _check, _run, _rows)
