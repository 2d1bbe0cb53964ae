"""BBM92 on drifting fibres, without and with the polarization lock: QBER over time."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..bench import BenchConfig
from ..instruments import (
    ConfigError,
    Limited,
    Limits,
    PolarizationController,
    PolarizationStabilizer,
    Readable,
    Settable,
    Unit,
)
from ..live import Progress
from . import bbm92
from .contract import Experiment, Mistake, Model, Result, Run

if TYPE_CHECKING:
    from ..lab import Lab
    from ..protocols.lock import PolarizationLock, RetarderStation, Station

__all__ = ["EXPERIMENT", "BBM92DriftFile", "LinkStabilizer", "LockTerms"]

_PARTIES = ("alice", "bob")
_STEP_S = 0.5
_MOVING_STEP_S = 0.1
#: Bits of a stretch are all revealed when the recording is this far beyond its end.
_GUARD_S = 0.01
_STRETCH_S = 0.1
_RANGE = Limits(0.0, 170.0)  # where a controller does not tell its own

Degrees = Annotated[float, Unit("deg"), Field(gt=0, lt=360)]
Fraction = Annotated[float, Unit("1"), Field(gt=0, lt=0.5)]


class LockTerms(Model):
    """What the lock is told; see :class:`bellbench.protocols.lock.LockSettings`."""

    optimum: Fraction
    """QBER that the source and the detectors allow: drawn and compared with, not used."""
    retardances: tuple[Degrees, ...] = (90.0, 180.0, 90.0)
    """Nominal retardance of each paddle, in the order in which light passes them."""
    axes: tuple[Annotated[float, Unit("deg")], ...] = (0.0, 45.0, 0.0, 45.0)
    """Axis of each retarder that follows a voltage: squeezers, liquid crystals."""
    curve: tuple[tuple[Annotated[float, Unit("V")], Annotated[float, Unit("deg")]], ...] = ()
    """Their nominal [voltage, retardance], joined by straight lines; two points make a squeezer."""
    dither: Fraction = 0.002
    """QBER that dithering may add; the smaller, the slower the lock."""
    lost: Fraction = 0.15
    """QBER above which it searches widely."""


class BBM92DriftFile(bbm92.ExchangeFile):
    """What an experiment file of this protocol says."""

    protocol: Literal["bbm92_drift"]
    lock: LockTerms


def _check(file: BBM92DriftFile, bench: BenchConfig) -> list[Mistake]:
    mistakes = bbm92.check(file, bench)
    if mistakes:
        return mistakes
    if file.key.monitor_fraction == 0:
        message = "must be above 0: the lock steers by the bits revealed while the exchange goes on"
        mistakes.append((("key", "monitor_fraction"), message))
    if file.key.qber_tolerance > file.lock.lost:
        mistakes.append((("lock", "lost"), "is below the qber_tolerance of the key"))
    if all(bench.parties[name].controller is None for name in _PARTIES):
        message = f"{file.protocol} needs a controller at alice or bob; {bench.path} names none"
        mistakes.append((("bench",), message))
    return mistakes


def _run(file: BBM92DriftFile, run: Run) -> Result:
    exchanges: dict[str, bbm92.Exchange] = {}
    secrets: dict[str, bytes] = {}
    for label in ("off", "on"):
        lab = run.open(f"lock_{label}")
        follower = _Follower(file, lab)  # in the first run it only finds out whether it could

        def show(progress: Progress, label: str = label, follower: _Follower = follower) -> None:
            figures = dict(progress.figures)
            if figures and label == "on":
                figures |= follower.figures()
            stage = f"lock {label}: {progress.stage}"
            run.show(dataclasses.replace(progress, stage=stage, figures=figures))

        exchange = bbm92.Exchange(file, run.name, lab, show)
        if label == "off":
            exchange.run(lambda recorded_s: _STEP_S)
        else:
            follower.begin(exchange)
            exchange.run(follower.step)
        exchanges[label] = exchange
        secrets |= {f"lock_{label}_{name}": key for name, key in exchange.files().items()}
    metrics = _metrics(file, exchanges, follower)

    def draw(folder: Path) -> None:
        from .. import plots

        times = metrics["times_s"]
        width = metrics["bin_s"]
        plots.plot_drift(
            folder / "drift.png",
            np.array(times),
            {
                f"lock {label}": (
                    np.array(metrics["qber_over_time"][label], dtype=float),
                    np.array(metrics["bits_over_time"][label]),
                )
                for label in exchanges
            },
            tolerance=file.key.qber_tolerance,
            optimum=file.lock.optimum,
            states=metrics["lock"]["states"],
            end_s=len(times) * width,
            title=f"{run.name}: BBM92 on drifting fibres",
        )

    return Result(metrics, draw, secrets)


@dataclass(frozen=True)
class _Error:
    """The link's QBER as a signal."""

    lock: PolarizationLock
    name: str = "qber"
    unit: str = ""

    def get(self) -> float:
        return self.lock.qber


class LinkStabilizer:
    """The paddles at both ends of a link with the QBER between them: a PolarizationStabilizer.

    Args:
        controllers: Those of the parties.
        lock: What knows the QBER.
    """

    def __init__(
        self, controllers: Sequence[PolarizationController], lock: PolarizationLock
    ) -> None:
        self._controllers = controllers
        self._error = _Error(lock)

    @property
    def actuators(self) -> Sequence[Settable[float]]:
        """Alice's paddles, then Bob's."""
        return [actuator for each in self._controllers for actuator in each.actuators]

    @property
    def error(self) -> Readable[float]:
        """Mean QBER of both bases in the last turn of the lock."""
        return self._error

    def ready(self) -> bool:
        """Whether all paddles rest."""
        return all(each.ready() for each in self._controllers)


class _Follower:
    """Moves what the lock asks for, while an exchange goes on."""

    def __init__(self, file: BBM92DriftFile, lab: Lab) -> None:
        from ..protocols import lock as locks

        self._clock = lab.clock
        controllers = [lab.parties[name].controller for name in _PARTIES]
        alice, bob = (_station(file.lock, each) for each in controllers)
        settings = locks.LockSettings(
            good=file.key.qber_tolerance, lost=file.lock.lost, dither=file.lock.dither
        )
        self.lock = locks.PolarizationLock((alice, bob), settings)
        self._stabilizer: PolarizationStabilizer = LinkStabilizer(
            [each for each in controllers if each is not None], self.lock
        )
        self._exchange: bbm92.Exchange | None = None
        self._begun_s = 0.0
        self._told_s = 0.0
        self._moving = False
        #: When the lock came into which state, in s of the recording.
        self.states: list[tuple[float, str]] = []

    def begin(self, exchange: bbm92.Exchange) -> None:
        """Follow this exchange."""
        self._exchange = exchange

    def step(self, recorded_s: float) -> float:
        """Tell the lock what was revealed, do what it wants; returns the next step, s."""
        assert self._exchange is not None
        if recorded_s == 0.0 and not self._told_s:
            self._begun_s = self._clock.now()  # no tag of the recording is older
        now_s = self._clock.now() - self._begun_s
        known_s = math.floor((recorded_s - _GUARD_S) / _STRETCH_S) * _STRETCH_S
        if known_s > self._told_s:
            for k in range(round(self._told_s / _STRETCH_S), round(known_s / _STRETCH_S)):
                begin, end = k * _STRETCH_S, (k + 1) * _STRETCH_S
                seen = self._exchange.alice.history.between(begin, end)
                self.lock.add(begin, end, seen.compared, seen.wrong)
            self._told_s = known_s
        # Asked only after a move: it costs some messages.
        self._moving = self._moving and not self._stabilizer.ready()
        points = self.lock.advance(now_s, not self._moving)
        if points is not None:
            wanted = [angle for station in points for angle in station]
            for actuator, angle in zip(self._stabilizer.actuators, wanted, strict=True):
                actuator.set(angle)
            self._moving = True
        if not self.states or self.states[-1][1] != self.lock.state:
            self.states.append((now_s, str(self.lock.state)))
        return _MOVING_STEP_S if self._moving else _STEP_S

    def figures(self) -> dict[str, str]:
        """What a person sees of it."""
        qber = self._stabilizer.error.get()
        shown = "-" if math.isnan(qber) else f"{100 * qber:.2f} %"
        state = f"{self.lock.state}: {self.lock.reason}" if self.lock.reason else self.lock.state
        return {"lock": str(state), "QBER of its last turn": shown, "moves": f"{self.lock.moves}"}


def _station(
    terms: LockTerms, controller: PolarizationController | None
) -> Station | RetarderStation:
    from ..protocols.lock import RetarderStation, Station

    if controller is None:
        return Station((), (), ())
    actuators = controller.actuators
    by_voltage = {actuator.unit for actuator in actuators} == {"V"}
    key, told = ("axes", terms.axes) if by_voltage else ("retardances", terms.retardances)
    if len(actuators) != len(told) or len(told) < 3:
        kind = "retarders" if by_voltage else "paddles"
        raise ConfigError(
            f"{len(told)} {key} for a controller of {len(actuators)} {kind}; the lock"
            " needs one for each, and three or more",
            place=f"lock.{key}",
        )
    limits = tuple(a.limits if isinstance(a, Limited) else _RANGE for a in actuators)
    now = tuple(a.get() for a in actuators)
    if not by_voltage:
        return Station(terms.retardances, limits, now)
    try:
        return RetarderStation(terms.axes, terms.curve, limits, now)
    except ValueError as error:
        raise ConfigError(
            f"{error}; write for squeezers that turn by 180 deg per 1.4 V"
            " 'curve: [[0 V, 0 deg], [1.4 V, 180 deg]]'",
            place="lock.curve",
        ) from error


def _metrics(
    file: BBM92DriftFile, exchanges: Mapping[str, bbm92.Exchange], follower: _Follower
) -> dict[str, Any]:
    bin_s = max(file.duration / 60, min(10.0, file.duration / 10))
    count = round(file.duration / bin_s)
    edges = [file.calibration + k * bin_s for k in range(count + 1)]
    qber: dict[str, list[float | None]] = {}
    bits: dict[str, list[int]] = {}
    for label, exchange in exchanges.items():
        seen = _binned(exchange, edges)
        bits[label] = [n for n, _ in seen]
        qber[label] = [rate for _, rate in seen]
    known = [rate for rate in qber["on"] if rate is not None]
    optimum = file.lock.optimum
    runs = {label: exchange.metrics() for label, exchange in exchanges.items()}
    return {
        "duration_s": file.duration,
        "optimum": optimum,
        "bin_s": bin_s,
        "times_s": [(k + 0.5) * bin_s for k in range(count)],
        "qber_over_time": qber,
        "bits_over_time": bits,
        "excess_mean": sum(known) / len(known) - optimum if known else None,
        "excess_worst": max(known) - optimum if known else None,
        "lock": {
            "moves": follower.lock.moves,
            "state": str(follower.lock.state),
            "reason": follower.lock.reason,
            "states": [
                [max(0.0, time - file.calibration), state] for time, state in follower.states
            ],
        },
        "lock_off": runs["off"],
        "lock_on": runs["on"],
        "aborted": runs["on"]["aborted"],
        "reason": runs["on"]["reason"],
    }


def _binned(exchange: bbm92.Exchange, edges: Sequence[float]) -> list[tuple[int, float | None]]:
    """Return bits revealed in each interval, and their error rate."""
    found = []
    for begin, end in itertools.pairwise(edges):
        errors = exchange.alice.history.between(begin, end)
        found.append((sum(errors.compared), errors.qber()))
    return found


def _rows(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    from rich.markup import escape

    rows = []
    for label in ("off", "on"):
        one = m[f"lock_{label}"]
        if one["aborted"]:
            end = f"[bold red]aborted[/]: {escape(one['reason'])}"
        else:
            end = f"[bold green]{one['secret_key_bits']:,} bits of secret key[/]"
        rows.append((f"lock {label}", f"QBER {_percent(one['qber'])}, {end}"))
    ends = [
        next((q for q in reversed(m["qber_over_time"][k]) if q is not None), None)
        for k in ("off", "on")
    ]
    rows += [
        ("QBER at the end, off, on", f"{_percent(ends[0])}, {_percent(ends[1])}"),
        ("optimum", _percent(m["optimum"])),
        (
            "above it with the lock",
            f"{_points(m['excess_mean'])} on average,"
            f" {_points(m['excess_worst'])} in the worst {m['bin_s']:g} s",
        ),
        ("paddle settings", f"{m['lock']['moves']:,}, lock {m['lock']['state']} at the end"),
    ]
    if m["lock"]["reason"]:
        rows.append(("lock", escape(m["lock"]["reason"])))
    if m["lock_on"]["randomness"] == "seeded":
        rows.append(("note", "seeded run on twins: the keys are reproducible, hence no secret"))
    elif m["all_twins"]:
        rows.append(("note", "clicks of twins follow from the world's seed: keys are no secret"))
    return rows


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.2f} %"


def _points(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.2f} points"


EXPERIMENT = Experiment(BBM92DriftFile, _check, _run, _rows)
