"""A source of weak coherent pulses as an instrument: its laser and the sequencer of its modulators.

No vendor sells one with a wire of its own: it is a laser, modulators and an attenuator, driven by
a pulse sequencer. A digital output carves pulses out of the laser's light; one analog output sets
the intensity modulator, the other the polarization modulator. For each pulse the levels change
first, the pulse follows ``settling`` later:

====================  ========================================================
time                  outputs
====================  ========================================================
k T, on analog grid   both levels of pulse k; the pulse output is low
k T + settling        the pulse output rises: the pulse leaves
+ pulse_width         it falls
====================  ========================================================

The attenuator stays as it is: mean photon numbers are calibrated, and told by the settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..instruments import (
    Clock,
    ConfigError,
    Identity,
    Instrument,
    Levels,
    PulseSequence,
    PulseSequencer,
    Unit,
    WeakCoherentSourceInfo,
)
from .base import Driver, DriverSettings, attempt_all, check_parts
from .signal import ReadOnlySignal, Switch
from .spdc_source import PumpLaser

__all__ = ["Intensity", "PatternGenerator", "WeakCoherentSettings", "WeakCoherentSource"]

_Volts = Annotated[float, Unit("V")]
_Short = Annotated[float, Field(ge=1e-9, le=1e-3), Unit("s")]


@runtime_checkable
class PatternGenerator(Instrument, PulseSequencer, Protocol):
    """What the source needs of its sequencer."""


class Intensity(BaseModel):
    """One level of the intensity modulator.

    Attributes:
        level: Voltage.
        photons: Mean photon number of a pulse at that level, as calibrated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    level: _Volts
    photons: Annotated[float, Field(ge=0, le=1e6), Unit("1")]


class WeakCoherentSettings(DriverSettings):
    """Wiring and calibration of the modulators.

    Defaults are those of modulators with a half-wave voltage of 1 V and a signal of 0.5 photons.
    """

    intensities: Annotated[dict[str, Intensity], Field(min_length=1)] = Field(
        default_factory=lambda: {
            "signal": Intensity(level=1.0, photons=0.5),
            "decoy": Intensity(level=0.2952, photons=0.1),
            "vacuum": Intensity(level=0.0, photons=0.0),
        }
    )
    """Levels of the intensity modulator that pulses choose from, by name."""
    states: Annotated[dict[str, _Volts], Field(min_length=1)] = Field(
        default_factory=lambda: {"H": 0.0, "V": 1.0, "D": 0.5, "A": -0.5}
    )
    """Levels of the polarization modulator that pulses choose from, by name of the state, V."""
    pulse_output: Annotated[int, Field(ge=0)] = 0
    """Digital output that carves pulses: each rise lets one out."""
    sync_output: Annotated[int, Field(ge=0)] | None = None
    """Digital output that rises with the first pulse of the pattern: for the tagger."""
    intensity_output: Annotated[int, Field(ge=0)] = 0
    """Analog output of the intensity modulator."""
    state_output: Annotated[int, Field(ge=0)] = 1
    """Analog output of the polarization modulator."""
    settling: _Short = 16e-9
    """From the change of the levels to the pulse."""
    pulse_width: _Short = 8e-9
    """How long the pulse output stays high; the light's own width is the carver's business."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.intensity_output == self.state_output:
            raise ValueError("intensity_output and state_output are the same analog output")
        if self.pulse_output == self.sync_output:
            raise ValueError("pulse_output and sync_output are the same digital output")
        return self


class WeakCoherentSource(Driver):
    """Phase-randomised weak coherent pulses, each with an intensity and a state of choice.

    A pattern starts as the sequencer's ``trigger_source`` says. Phases are random where the laser
    is pulsed below threshold in between, or a phase modulator sees to it: not this driver's doing.

    Args:
        name: Name on the bench.
        parts: The instruments named in :attr:`PARTS`.
        settings: Wiring and calibration.
        clock: The bench's clock.

    Raises:
        ConfigError: where a part is missing or cannot do what the settings need.
    """

    MODEL = "weak coherent source"
    Settings: ClassVar[type[WeakCoherentSettings]] = WeakCoherentSettings
    #: Parts it needs -> what they must provide.
    PARTS: ClassVar[dict[str, type[Any]]] = {
        "laser": PumpLaser,
        "pulse_sequencer": PatternGenerator,
    }

    def __init__(
        self,
        name: str,
        parts: Mapping[str, Instrument],
        settings: WeakCoherentSettings,
        clock: Clock,
    ) -> None:
        super().__init__(name, ", ".join(part.name for part in parts.values()), clock)
        self._settings = settings
        check_parts(name, "a weak coherent source", self.PARTS, parts)
        laser, sequencer = parts["laser"], parts["pulse_sequencer"]
        assert isinstance(laser, PumpLaser)  # check_parts has said it better
        assert isinstance(sequencer, PatternGenerator)
        self._laser, self._sequencer = laser, sequencer
        self._check_sequencer()
        of = sequencer.info
        self._settling_ps = _up(settings.settling, of.resolution_ps)
        self._width_ps = _up(settings.pulse_width, of.resolution_ps)
        # A pulse ends before the levels of the next change, which may be a grid's step early.
        self._least_ps = self._settling_ps + self._width_ps + of.analog_resolution_ps
        self._info = WeakCoherentSourceInfo(
            intensities={name: each.photons for name, each in settings.intensities.items()},
            states=tuple(settings.states),
            max_rate_hz=1e12 / self._least_ps,
            max_pulses=of.max_steps // 3,
            period_resolution_ps=of.resolution_ps,
            phase_randomized=True,
        )
        self.emission = Switch(
            "emission",
            laser.emission.get,
            laser.emission.set,
            label="Whether the laser emits",
            endpoint=self._endpoint,
        )
        self.playing = ReadOnlySignal(
            "playing", "", sequencer.streaming.get, label="Whether a pattern is being played"
        )

    @property
    def info(self) -> WeakCoherentSourceInfo:
        """Capabilities; known before opening."""
        return self._info

    @property
    def signals(self) -> tuple[ReadOnlySignal[object], ...]:
        """Every signal of the source."""
        return (self.emission, self.playing)

    def open(self) -> None:
        """Open the parts that are not open yet."""
        self._sequencer.open()
        self._laser.open()

    def close(self) -> None:
        """Close the parts, leaving them as they are: a pattern goes on."""
        attempt_all(self._endpoint, "closing", self._laser.close, self._sequencer.close)

    def identify(self) -> Identity:
        """What it is made of."""
        laser, of = self._laser.identify(), self._sequencer.identify()
        return Identity(
            "Bellbench", f"weak coherent source ({laser.model}, {of.model})", of.serial, of.firmware
        )

    def configure(self) -> None:
        """Nothing: :meth:`play` hands over levels and timing with the pattern."""

    def ready(self) -> bool:
        """Whether laser and sequencer have reached their set points."""
        return self._sequencer.ready() and self._laser.ready()

    def off(self) -> None:
        """Stop the laser and the pattern."""
        attempt_all(self._endpoint, "switching off", self._laser.off, self.stop)

    def safe(self) -> None:
        """Bring laser and sequencer to their safe states."""
        attempt_all(self._endpoint, "making it safe", self._laser.safe, self._sequencer.safe)

    def stop(self) -> None:
        """End the pattern: no pulse comes any more."""
        self._sequencer.hold(self._rest())

    def play(
        self,
        intensities: npt.ArrayLike,
        states: npt.ArrayLike,
        rate_hz: float,
        *,
        runs: int | None = None,
    ) -> npt.NDArray[np.int64]:
        """Play a pattern of pulses; the one playing ends. Emission is not touched.

        See :meth:`bellbench.instruments.WeakCoherentSource.play`. The period is a whole number of
        the sequencer's steps; the sync output rises with the first pulse.
        """
        wanted, of = self._settings, self._sequencer.info
        which = self._indices("intensities", intensities, len(wanted.intensities))
        turned = self._indices("states", states, len(wanted.states))
        if which.size != turned.size:
            raise self._endpoint.error(f"{which.size} intensities for {turned.size} states")
        if runs is not None and (isinstance(runs, bool) or runs != int(runs) or runs < 1):
            raise self._endpoint.error(f"it plays 1 run and more, or None for ever, not {runs!r}")
        period_ps = self._period_ps(rate_hz)
        pattern_ps = period_ps * which.size
        # A run of the sequencer has a length on its grid: so many patterns.
        patterns = of.run_resolution_ps // math.gcd(of.run_resolution_ps, pattern_ps)
        if runs is not None and runs % patterns:
            patterns = int(runs)
        if 3 * which.size * patterns > of.max_steps:
            raise self._endpoint.error(
                f"{which.size} pulses make {3 * which.size * patterns} steps of the sequencer,"
                f" which takes {of.max_steps}",
                hint="play fewer pulses, or a number of them whose length is a multiple of"
                f" {of.run_resolution_ps / 1000:g} ns",
            )
        start = np.arange(which.size * patterns, dtype=np.int64) * period_ps
        settled = start + self._settling_ps
        end_ps = -(-(pattern_ps * patterns) // of.run_resolution_ps) * of.run_resolution_ps
        marks = np.stack(
            [start - start % of.analog_resolution_ps, settled, settled + self._width_ps], 1
        ).ravel()
        digital = np.zeros((which.size * patterns, 3), np.uint32)
        digital[:, 1] = 1 << wanted.pulse_output
        if wanted.sync_output is not None:
            digital[:: which.size, 1] |= np.uint32(1 << wanted.sync_output)
        levels = np.tile(self._rest().analog_v, (which.size, 1))
        volts = np.array([each.level for each in wanted.intensities.values()])
        levels[:, wanted.intensity_output] = volts[which]
        levels[:, wanted.state_output] = np.array([*wanted.states.values()])[turned]
        sequence = PulseSequence(
            np.diff(marks, append=end_ps),
            digital.ravel(),
            np.repeat(np.tile(levels, (patterns, 1)), 3, axis=0),
        )
        count = None if runs is None else runs // patterns
        self._sequencer.stream(sequence, runs=count, final=self._rest())
        return settled[: which.size]

    def _rest(self) -> Levels:
        return Levels(0, (0.0,) * self._sequencer.info.analog_outputs)

    def _indices(self, what: str, given: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
        found = np.asarray(given)
        if found.ndim != 1 or not found.size or found.dtype.kind not in "iu":
            raise self._endpoint.error(f"{what} are whole numbers, one for each pulse")
        if int(found.min()) < 0 or int(found.max()) >= count:
            raise self._endpoint.error(
                f"{what} go from 0 to {count - 1}, not {int(found.min())} to {int(found.max())}"
            )
        return found.astype(np.int64)

    def _period_ps(self, rate_hz: float) -> int:
        step = self._sequencer.info.resolution_ps
        if not 0 < rate_hz <= self._info.max_rate_hz:
            raise self._endpoint.error(
                f"a rate of {rate_hz:g} Hz is not above 0 and at most"
                f" {self._info.max_rate_hz:g} Hz: a pulse takes {self._least_ps / 1000:g} ns",
                hint="ask for less, or shorten settling and pulse_width in the settings",
            )
        exact = 1e12 / rate_hz
        period_ps = step * round(exact / step)
        if abs(period_ps - exact) > 1e-6 * exact:
            raise self._endpoint.error(
                f"a period of {exact / 1000:.6g} ns is off the sequencer's grid of"
                f" {step / 1000:g} ns",
                hint=f"ask for {1e12 / period_ps!r} Hz",
            )
        return period_ps

    def _check_sequencer(self) -> None:
        of, wanted, name = self._sequencer.info, self._settings, self._sequencer.name
        limits = of.analog_limits_v
        for key in ("pulse_output", "sync_output"):
            output = getattr(wanted, key)
            if output is not None and output >= of.digital_outputs:
                raise ConfigError(f"{self.name}: {key}: {name} has no digital output {output}")
        for key in ("intensity_output", "state_output"):
            if getattr(wanted, key) >= of.analog_outputs:
                raise ConfigError(
                    f"{self.name}: {key}: {name} has no analog output {getattr(wanted, key)}"
                )
        levels = {f"states.{state}": level for state, level in wanted.states.items()}
        levels |= {f"intensities.{i}": each.level for i, each in wanted.intensities.items()}
        for key, level in levels.items():
            if level not in limits:
                raise ConfigError(
                    f"{self.name}: {key}: {name} goes from {limits.low:g} V to {limits.high:g} V,"
                    f" not to {level:g} V"
                )


def _up(seconds: float, grid_ps: int) -> int:
    """Seconds as picoseconds, up to the grid."""
    return grid_ps * math.ceil(round(seconds * 1e12, 3) / grid_ps)
