"""E91 and the six-state protocol: BBM92 with analyzers that are turned while the pairs come in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ..bench import BenchConfig
from ..instruments import ConfigError, PolarizationController, Unit
from ..live import Progress
from . import bbm92
from .contract import Experiment, Mistake, Result, Run, lacks

if TYPE_CHECKING:
    from ..lab import Lab
    from ..protocols.qkd import Randomness

__all__ = ["EXPERIMENT", "SIX_STATE", "E91File", "SixStateFile", "TurningFile"]

_PARTIES = ("alice", "bob")
_STEP_S = 0.1
_MOVING_STEP_S = 0.02
#: Clicks recorded this long after the paddles had arrived are of the new setting; and no tagger's
#: clock is off by more than this part of the time since it began.
_GUARD_S = 0.01
_CLOCK = 2e-4

_HALF = math.sqrt(0.5)
#: Directions on the Poincare sphere that the outputs H and D stand for at each setting.
_SETTINGS: dict[str, tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]] = {
    "e91": (((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), ((_HALF, _HALF, 0.0), (-_HALF, _HALF, 0.0))),
    "six_state": (
        ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
        ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
        ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0)),
    ),
}

Degrees = Annotated[float, Unit("deg"), Field(gt=0, lt=360)]
Angle = Annotated[float, Unit("deg"), Field(ge=0, le=180)]


class TurningFile(bbm92.ExchangeFile):
    """What an experiment file of an exchange with analyzers that turn says."""

    dwell: Annotated[float, Unit("s"), Field(ge=0.05, le=1000)] = 1.0
    """Time at each setting; then both parties draw the next one."""
    retardances: tuple[Degrees, ...] = (90.0, 180.0, 90.0)
    """Nominal retardance of each paddle, from which the angles of a setting follow."""
    angles: dict[Literal["alice", "bob"], tuple[tuple[Angle, ...], ...]] = Field(
        default_factory=dict
    )
    """Measured angles of the paddles at the settings after the first, which overrule those."""


class E91File(TurningFile):
    """What an experiment file of this protocol says."""

    protocol: Literal["e91"]
    least_chsh: Annotated[float, Unit("1"), Field(ge=0, lt=2.8)] = 2.0
    """No key from a block whose S is below."""

    @property
    def scheme_terms(self) -> dict[str, Any]:
        """See :class:`.bbm92.ExchangeFile`."""
        return {"scheme": "e91", "least_chsh": self.least_chsh}


class SixStateFile(TurningFile):
    """What an experiment file of this protocol says."""

    protocol: Literal["six_state"]

    @property
    def scheme_terms(self) -> dict[str, Any]:
        """See :class:`.bbm92.ExchangeFile`."""
        return {"scheme": "six_state"}


def _check(file: TurningFile, bench: BenchConfig) -> list[Mistake]:
    mistakes = bbm92.check(file, bench)
    if mistakes:
        return mistakes
    for party in _PARTIES:
        mistakes += lacks(file, bench, party, roles=("controller",))
    if len(file.retardances) < 3:
        mistakes.append((("retardances",), "three paddles or more make every turn"))
    others = len(_SETTINGS[file.protocol]) - 1
    for party, angles in file.angles.items():
        if [len(each) for each in angles] != others * [len(file.retardances)]:
            here = ("angles", party)
            text = f"{others} settings of {len(file.retardances)} angles needed, as retardances"
            mistakes.append((here, text))
    return mistakes


def _run(file: TurningFile, run: Run) -> Result:
    lab = run.open()
    turner: _Turner | None = None

    def show(progress: Progress) -> None:
        if turner is not None and progress.figures:
            progress = dataclasses.replace(
                progress, figures=dict(progress.figures) | turner.figures()
            )
        run.show(progress)

    exchange = bbm92.Exchange(file, run.name, lab, show)
    turner = _Turner(file, lab, exchange)
    exchange.run(turner.step)
    turner.home()
    metrics = exchange.metrics() | turner.metrics()

    def draw(folder: Path) -> None:
        from .. import plots

        exchange.draw(folder)
        if file.protocol == "e91" and metrics["chsh"] is not None:
            plots.plot_chsh(
                folder / "chsh.png",
                metrics["correlations"],
                metrics["chsh"],
                title=f"{run.name}: outcomes at different settings",
            )

    return Result(metrics, draw, exchange.files())


class _Turner:
    """Turns both analyzers while an exchange goes on, each by its party's own choice."""

    def __init__(self, file: TurningFile, lab: Lab, exchange: bbm92.Exchange) -> None:
        self._file = file
        self._clock = lab.clock
        self._exchange = exchange
        self._controllers = [_controller(lab, name, file) for name in _PARTIES]
        self._angles = [
            _angles(file, name, controller)
            for name, controller in zip(_PARTIES, self._controllers, strict=True)
        ]
        self._begun_s: float | None = None
        self._until_s = 0.0
        self._chosen: list[int] | None = None  # turning there
        self._arrived_s: float | None = None
        self.segments = 0

    def step(self, recorded_s: float) -> float:
        """Turn where it is time to; returns the next step, s. See :meth:`.bbm92.Exchange.run`."""
        if self._begun_s is None:
            self._begun_s = self._clock.now()  # no tag of the recording is older
            # What was recorded when both taggers are beyond it is the calibration's.
            self._until_s = self._file.calibration + _GUARD_S
        if self._chosen is None:
            if recorded_s < self._until_s:
                return min(_STEP_S, max(_MOVING_STEP_S, self._until_s - recorded_s))
            self._turn()
            return _MOVING_STEP_S
        if not all(controller.ready() for controller in self._controllers):
            return _MOVING_STEP_S
        if self._arrived_s is None:
            self._arrived_s = (self._clock.now() - self._begun_s) * (1 + _CLOCK) + _GUARD_S
        if recorded_s < self._arrived_s:
            return _MOVING_STEP_S
        self._exchange.settings = list(self._chosen)
        self._chosen = self._arrived_s = None
        self._until_s = recorded_s + self._file.dwell
        self.segments += 1
        return min(_STEP_S, self._file.dwell)

    def _turn(self) -> None:
        """Draw settings, and start the moves to them."""
        self._exchange.settings = [None, None]
        self._chosen = [self._draw(self._exchange.randomness(name)) for name in _PARTIES]
        for controller, angles, setting in zip(
            self._controllers, self._angles, self._chosen, strict=True
        ):
            _move(controller, angles[setting])

    def _draw(self, randomness: Randomness) -> int:
        """A setting, each with the same chance but for 1e-19."""
        (word,) = randomness.words("settings", self.segments, 1).tolist()
        return int(word) * len(_SETTINGS[self._file.protocol]) >> 64

    def home(self) -> None:
        """Turn back to where the paddles were found."""
        for controller, angles in zip(self._controllers, self._angles, strict=True):
            _move(controller, angles[0])

    def figures(self) -> dict[str, str]:
        """What a person sees of it."""
        found = _chsh(self._exchange.alice.pairing.tests) if self._file.protocol == "e91" else None
        shown = "-" if found is None else f"{found['value']:.3f} +- {found['sigma']:.3f}"
        return {"settings": f"{self.segments}"} | (
            {"CHSH S": shown} if self._file.protocol == "e91" else {}
        )

    def metrics(self) -> dict[str, Any]:
        """Figures of the settings, fit for JSON."""
        from ..protocols.qkd.schemes import SCHEMES

        pairing = self._exchange.alice.pairing
        names = SCHEMES[self._file.scheme_terms["scheme"]].names
        found: dict[str, Any] = {
            "segments": self.segments,
            "dwell_s": self._file.dwell,
            "paddles_deg": dict(zip(_PARTIES, self._angles, strict=True)),
            "test_pairs": int(pairing.tests.sum()),
            "unset_events": {
                session.role: session.pairing.clicks.unset_events
                for session in (self._exchange.alice, self._exchange.bob)
            },
            "correlations": [
                {"alice": names[a], "bob": names[b]} | told
                for a in range(len(names))
                for b in range(len(names))
                if (told := _correlation(pairing.tests[a, b])) is not None
            ],
        }
        if self._file.protocol == "e91":
            found |= {
                "chsh": _chsh(pairing.tests),
                "chsh_ekert": _chsh(pairing.tests, ekert=True),
            }
        return found


def _controller(lab: Lab, name: str, file: TurningFile) -> PolarizationController:
    controller = lab.parties[name].controller
    assert controller is not None
    actuators = controller.actuators
    if {actuator.unit for actuator in actuators} != {"deg"}:
        raise ConfigError(
            f"{name}'s controller is set in volts; the settings of this experiment are angles of"
            " paddles, so give it paddles",
            place="bench",
        )
    if len(actuators) != len(file.retardances):
        raise ConfigError(
            f"{len(file.retardances)} retardances for {name}'s {len(actuators)} paddles",
            place="retardances",
        )
    return controller


def _angles(
    file: TurningFile, name: str, controller: PolarizationController
) -> list[tuple[float, ...]]:
    """Angles of the paddles at each setting; the first are those at which they stand."""
    from ..protocols.swapping.settings import Analyzer, paddle_angles

    home = tuple(actuator.get() for actuator in controller.actuators)
    measured = file.angles.get("alice" if name == "alice" else "bob")
    if measured is not None:
        return [home, *measured]
    turned = [Analyzer(*directions) for directions in _SETTINGS[file.protocol][1:]]
    return [home, *(paddle_angles(a, home, retardances_deg=file.retardances) for a in turned)]


def _move(controller: PolarizationController, angles: Sequence[float]) -> None:
    for actuator, angle in zip(controller.actuators, angles, strict=True):
        actuator.set(angle)


def _correlation(counts: Any) -> dict[str, Any] | None:
    """E of a table of outcomes, with its standard error; None without any."""
    n, equal = int(counts.sum()), int(counts[0, 0] + counts[1, 1])
    if not n:
        return None
    value = (2 * equal - n) / n
    padded = (2 * equal - n) / (n + 4)  # a table without errors is not known without error
    return {"value": value, "sigma": math.sqrt((1 - padded**2) / n), "n": n}


def _chsh(tests: Any, *, ekert: bool = False) -> dict[str, float] | None:
    """S of revealed outcomes; None before each setting was seen."""
    from ..protocols.qkd.schemes import e91_chsh

    found = e91_chsh(tests, ekert=ekert)
    if found is None:
        return None
    return {"value": found.value, "sigma": found.standard_error, "n": sum(found.counts)}


def _rows(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = bbm92.EXPERIMENT.rows(m)
    told = list(rows)
    if m["protocol"] == "e91":
        shown = "-"
        if (s := m["chsh"]) is not None:
            above = (s["value"] - 2) / s["sigma"]
            shown = (
                f"[bold]{s['value']:.3f} +- {s['sigma']:.3f}[/] of {s['n']:,} pairs,"
                f" {above:.0f} sigma above 2"
            )
        told.insert(-1, ("[bold green]CHSH S[/]", shown))
        if (s := m["chsh_ekert"]) is not None:
            told.insert(-1, ("  Ekert's settings", f"{s['value']:.3f} +- {s['sigma']:.3f}"))
    else:
        for one in m["correlations"]:
            error = 100 * (1 - abs(one["value"])) / 2
            told.insert(-1, (f"errors {one['alice']} (test)", f"{error:.2f} % of {one['n']:,}"))
    return told


EXPERIMENT = Experiment(E91File, _check, _run, _rows)
SIX_STATE = Experiment(SixStateFile, _check, _run, _rows)
