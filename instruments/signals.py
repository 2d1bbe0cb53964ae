"""A signal: one named quantity of an instrument, with a unit.

These are structural types: a ``qcodes.Parameter`` satisfies them without knowing of us. ``unit``
and ``name`` are read-only properties on purpose (a mutable attribute would not match both).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

__all__ = ["Limited", "Limits", "Readable", "Settable"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@runtime_checkable
class Readable(Protocol[T_co]):
    """A quantity that can be read."""

    @property
    def name(self) -> str:
        """Short name, unique within the instrument."""
        ...

    @property
    def unit(self) -> str:
        """Unit of the value, ``""`` for none."""
        ...

    def get(self) -> T_co:
        """Read the value from the instrument."""
        ...


@runtime_checkable
class Settable(Protocol[T]):
    """A quantity that can be read and set."""

    @property
    def name(self) -> str:
        """Short name, unique within the instrument."""
        ...

    @property
    def unit(self) -> str:
        """Unit of the value, ``""`` for none."""
        ...

    def get(self) -> T:
        """Read the value from the instrument."""
        ...

    def set(self, value: T) -> None:
        """Write the value; return when the instrument has taken it.

        Raises:
            InstrumentError: where the value is refused, by the limits or by the instrument.
        """
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """The closed interval a signal accepts, in the signal's unit."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@runtime_checkable
class Limited(Protocol):
    """Capability: a signal that tells its limits, so that callers discover them."""

    @property
    def limits(self) -> Limits:
        """What :meth:`Settable.set` accepts."""
        ...
