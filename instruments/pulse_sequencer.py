"""The role of a pulse sequencer: a pattern generator with digital and analog outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from .signals import Limits, Readable, Settable

__all__ = ["Levels", "PulseSequence", "PulseSequencer", "PulseSequencerInfo"]


@dataclass(frozen=True, slots=True)
class Levels:
    """What every output shows at one time.

    Attributes:
        digital: Bit ``n`` is whether digital output ``n`` is high.
        analog_v: Level of each analog output, V.
    """

    digital: int = 0
    analog_v: tuple[float, ...] = (0.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class PulseSequence:
    """A pattern of all outputs, run-length encoded: one step after the other.

    Attributes:
        durations_ps: Length of each step, int64 (steps,), above 0.
        digital: Bit ``n`` is whether digital output ``n`` is high, uint32 (steps,).
        analog_v: Level of each analog output, V, float64 (steps, analog outputs).

    Raises:
        ValueError: where the arrays do not fit together, or a step takes no time.
    """

    durations_ps: npt.NDArray[np.int64]
    digital: npt.NDArray[np.uint32]
    analog_v: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        kinds = [str(each.dtype) for each in (self.durations_ps, self.digital, self.analog_v)]
        if kinds != ["int64", "uint32", "float64"]:
            raise ValueError(
                "a PulseSequence holds int64 durations, uint32 digital and float64 analog levels,"
                f" not {', '.join(kinds)}"
            )
        steps = self.durations_ps.shape
        if len(steps) != 1 or self.digital.shape != steps or self.analog_v.shape[:1] != steps:
            raise ValueError(
                f"durations {steps}, digital {self.digital.shape} and analog levels"
                f" {self.analog_v.shape} differ in steps"
            )
        if self.analog_v.ndim != 2:
            raise ValueError(f"analog levels are (steps, outputs), not {self.analog_v.shape}")
        if not steps[0]:
            raise ValueError("a sequence has at least one step")
        if int(self.durations_ps.min()) <= 0:
            raise ValueError("every step of a sequence takes time")
        if not np.isfinite(self.analog_v).all():
            raise ValueError("an analog level is not a finite number")

    @property
    def duration_ps(self) -> int:
        """Length of one run."""
        return int(self.durations_ps.sum())


@dataclass(frozen=True, slots=True)
class PulseSequencerInfo:
    """Capability of a pulse sequencer.

    Attributes:
        digital_outputs: How many; they are counted from 0.
        analog_outputs: How many; they are counted from 0.
        analog_limits_v: Levels that analog outputs can show, V.
        resolution_ps: Grid of the steps.
        analog_resolution_ps: Grid of the times at which analog levels can change.
        run_resolution_ps: The length of one run is a multiple of this.
        max_steps: Most steps of a sequence.
        trigger_sources: What :attr:`PulseSequencer.trigger_source` takes.
        clock_sources: What :attr:`PulseSequencer.clock_source` takes.
    """

    digital_outputs: int
    analog_outputs: int
    analog_limits_v: Limits
    resolution_ps: int
    analog_resolution_ps: int
    run_resolution_ps: int
    max_steps: int
    trigger_sources: tuple[str, ...]
    clock_sources: tuple[str, ...]


@runtime_checkable
class PulseSequencer(Protocol):
    """Plays a sequence of levels on its outputs, once, several times, or until it is stopped."""

    @property
    def info(self) -> PulseSequencerInfo:
        """Capabilities; known before opening."""
        ...

    @property
    def trigger_source(self) -> Settable[str]:
        """What starts a sequence that was handed over: one of ``info.trigger_sources``.

        ``immediate`` starts it at once, ``software`` waits for :meth:`start`; the others are
        edges at the trigger input. Setting it while a sequence plays does not stop that.
        """
        ...

    @property
    def clock_source(self) -> Settable[str]:
        """The time base: one of ``info.clock_sources``; ``internal`` is its own."""
        ...

    @property
    def streaming(self) -> Readable[bool]:
        """Whether a sequence is playing now; one that waits for its trigger is not."""
        ...

    @property
    def finished(self) -> Readable[bool]:
        """Whether the sequence handed over last has played to its end."""
        ...

    def stream(
        self, sequence: PulseSequence, *, runs: int | None = None, final: Levels | None = None
    ) -> None:
        """Hand over a sequence, which starts as ``trigger_source`` says; one playing ends.

        Args:
            sequence: What to play.
            runs: How often; until it is stopped where None.
            final: What the outputs show after the last run; all low and 0 V where None.

        Raises:
            InstrumentError: for what the instrument cannot play; nothing has changed then.
        """
        ...

    def start(self) -> None:
        """Start the sequence handed over.

        Raises:
            InstrumentError: where the trigger source is not ``software``, or none waits.
        """
        ...

    def hold(self, levels: Levels) -> None:
        """Show these levels from now on; a sequence that plays ends, and is forgotten."""
        ...
