"""The role of a weak coherent source: attenuated laser pulses with a chosen intensity and state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from .signals import Readable, Settable

__all__ = ["WeakCoherentSource", "WeakCoherentSourceInfo"]


@dataclass(frozen=True, slots=True)
class WeakCoherentSourceInfo:
    """Capability of a weak coherent source; known before opening.

    Attributes:
        intensities: Mean photon number of each intensity that can be chosen, by name,
            such as ``{"signal": 0.5, "decoy": 0.1, "vacuum": 0}``: its calibration.
        states: Names of the states that can be chosen, such as ``("H", "V", "D", "A")``.
        max_rate_hz: Most pulses per second.
        max_pulses: Longest pattern.
        period_resolution_ps: Grid of the time between two pulses.
        phase_randomized: Whether the phase of each pulse is random.
    """

    intensities: dict[str, float]
    states: tuple[str, ...]
    max_rate_hz: float
    max_pulses: int
    period_resolution_ps: int
    phase_randomized: bool


@runtime_checkable
class WeakCoherentSource(Protocol):
    """Emits phase-randomised weak coherent pulses, each with an intensity and a state of choice."""

    @property
    def info(self) -> WeakCoherentSourceInfo:
        """Capabilities; known before opening."""
        ...

    @property
    def emission(self) -> Settable[bool]:
        """Whether the laser emits; what passes the modulators is another matter."""
        ...

    @property
    def playing(self) -> Readable[bool]:
        """Whether a pattern is being played."""
        ...

    def play(
        self,
        intensities: npt.ArrayLike,
        states: npt.ArrayLike,
        rate_hz: float,
        *,
        runs: int | None = None,
    ) -> npt.NDArray[np.int64]:
        """Play a pattern of pulses; the one playing ends. Emission is not touched.

        Args:
            intensities: Index into ``info.intensities`` of each pulse, int (pulses,).
            states: Index into ``info.states`` of each pulse, int (pulses,).
            rate_hz: Pulses per second.
            runs: How often the pattern is played; until :meth:`stop` where None.

        Returns:
            When each pulse leaves, after the beginning of a run, ps, int64 (pulses,). The next
            run begins ``pulses / rate_hz`` later.

        Raises:
            InstrumentError: for what cannot be played; nothing has changed then.
        """
        ...

    def stop(self) -> None:
        """End the pattern: no pulse comes any more."""
        ...
