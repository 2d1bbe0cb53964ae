"""Concrete signals: what a driver offers for each quantity it reads or sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from ..instruments import Limits
from .transports import Endpoint

__all__ = ["LimitedSignal", "ReadOnlySignal", "Signal", "Switch"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class ReadOnlySignal(Generic[T_co]):
    """A quantity that can be read.

    Args:
        name: Short name, unique within the instrument.
        unit: SI unit of the value, ``""`` for none.
        read: Asks the instrument.
        label: What it is, in words.
        slow: Reading it takes bench time; snapshots had better leave it out.
    """

    def __init__(
        self, name: str, unit: str, read: Callable[[], T_co], *, label: str, slow: bool = False
    ) -> None:
        self._name = name
        self._unit = unit
        self._read = read
        self._label = label
        self._slow = slow

    @property
    def name(self) -> str:
        """Short name, unique within the instrument."""
        return self._name

    @property
    def unit(self) -> str:
        """Unit of the value, ``""`` for none."""
        return self._unit

    @property
    def label(self) -> str:
        """What it is, in words."""
        return self._label

    @property
    def slow(self) -> bool:
        """Whether reading it takes bench time."""
        return self._slow

    def get(self) -> T_co:
        """Read the value from the instrument."""
        return self._read()

    def __repr__(self) -> str:
        unit = f" [{self._unit}]" if self._unit else ""
        return f"<{type(self).__name__} {self._name}{unit}: {self._label}>"


class Signal(ReadOnlySignal[T]):
    """A quantity that can be read and set."""

    def __init__(
        self,
        name: str,
        unit: str,
        read: Callable[[], T],
        write: Callable[[T], None],
        *,
        label: str,
    ) -> None:
        super().__init__(name, unit, read, label=label)
        self._write = write

    def set(self, value: T) -> None:
        """Write the value; return when the instrument has taken it.

        Raises:
            InstrumentError: where the value is refused.
        """
        self._write(value)


class LimitedSignal(Signal[float]):
    """A number that is refused outside its limits before anything is sent.

    ``limits`` may be a function where they depend on another setting; it must not do I/O.
    """

    def __init__(
        self,
        name: str,
        unit: str,
        read: Callable[[], float],
        write: Callable[[float], None],
        *,
        label: str,
        limits: Limits | Callable[[], Limits],
        endpoint: Endpoint,
    ) -> None:
        super().__init__(name, unit, read, write, label=label)
        self._limits = limits
        self._endpoint = endpoint

    @property
    def limits(self) -> Limits:
        """What :meth:`set` accepts, in the signal's unit."""
        return self._limits if isinstance(self._limits, Limits) else self._limits()

    def set(self, value: float) -> None:
        """Write the value; return when the instrument has taken it.

        Raises:
            InstrumentError: where the value lies outside the limits, or the instrument refuses.
        """
        limits = self.limits
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if number not in limits:  # nan lies in no interval
            unit = f" {self.unit}" if self.unit else ""
            raise self._endpoint.error(
                f"{self.name} cannot be set to {value!r}{unit}: it accepts"
                f" {limits.low:g} to {limits.high:g}{unit}"
            )
        self._write(number)


class Switch(Signal[bool]):
    """On or off. Anything but a boolean is refused: ``"off"`` is truthy."""

    def __init__(
        self,
        name: str,
        read: Callable[[], bool],
        write: Callable[[bool], None],
        *,
        label: str,
        endpoint: Endpoint,
    ) -> None:
        super().__init__(name, "", read, write, label=label)
        self._endpoint = endpoint

    def set(self, value: bool) -> None:
        """Switch; return when the instrument has taken it.

        Raises:
            InstrumentError: for anything but True or False, or where the instrument refuses.
        """
        if not isinstance(value, (bool, np.bool_)):
            raise self._endpoint.error(f"{self.name} takes True or False, not {value!r}")
        self._write(bool(value))
