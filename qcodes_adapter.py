"""Bellbench instruments as QCoDeS instruments, and a bench as a Station.

The one module that imports QCoDeS (extra ``[qcodes]``). One adapter serves every driver, by
composition: its Parameters forward to the driver's signals, and the driver stays in charge of its
wire, its lock and its limits::

    with bellbench.open_bench("metro", twin=True) as lab:
        station = bellbench.qcodes_adapter.station(lab)
        do1d(station.pump.current, 0.06, 0.12, 13, 0.1, station.alice_snspd.count_rate_1)

Closing a QCoDeS instrument closes nothing on the bench: the bench opened it and closes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

try:
    from qcodes.instrument import Instrument as _QcodesInstrument
    from qcodes.parameters import Parameter
    from qcodes.station import Station
    from qcodes.validators import Validator
except ImportError as error:  # pragma: no cover - the core install has no QCoDeS
    raise ImportError(
        'the QCoDeS adapter needs its extra: pip install "bellbench[qcodes]"'
    ) from error

from .instruments import Instrument, Limited, Settable

__all__ = ["BellbenchInstrument", "station"]


class _Bench(Protocol):
    @property
    def instruments(self) -> Mapping[str, Instrument]: ...


class _WithinLimits(Validator[float]):
    """Asks the signal for its limits at each set, since they may follow another setting."""

    is_numeric = True  # QCoDeS: allows step and sweeps

    def __init__(self, signal: Limited) -> None:
        self._signal = signal
        limits = signal.limits
        self._valid_values = ((limits.low + limits.high) / 2,)

    def validate(self, value: float, context: str = "") -> None:
        limits = self._signal.limits
        if value not in limits:
            raise ValueError(f"{value!r} is not in {limits.low:g} to {limits.high:g}; {context}")

    def __repr__(self) -> str:
        return f"<{self._signal.limits.low:g} to {self._signal.limits.high:g}>"


class BellbenchInstrument(_QcodesInstrument):
    """A Bellbench instrument as QCoDeS sees it: one Parameter per signal.

    Args:
        driver: An open instrument of a bench.
        name: QCoDeS name; the instrument's own name unless given. QCoDeS names are unique in a
            process: give a name where two benches are open.
    """

    def __init__(self, driver: Instrument, name: str | None = None) -> None:
        super().__init__(name or driver.name)
        self.driver = driver
        for signal in driver.signals:
            self.add_parameter(
                signal.name,
                parameter_class=Parameter,
                unit=signal.unit,
                label=getattr(signal, "label", None),
                get_cmd=signal.get,
                set_cmd=signal.set if isinstance(signal, Settable) else False,
                vals=_WithinLimits(signal) if isinstance(signal, Limited) else None,
                snapshot_value=not getattr(signal, "slow", False),
            )

    def get_idn(self) -> dict[str, str | None]:
        """Identity in QCoDeS' terms, from the driver (not every device knows ``*IDN?``)."""
        who = self.driver.identify()
        return {
            "vendor": who.vendor,
            "model": who.model,
            "serial": who.serial,
            "firmware": who.firmware,
        }


def station(lab: _Bench, *, prefix: str = "") -> Station:
    """Return a QCoDeS Station with every instrument of an open bench.

    Args:
        lab: The bench, as :func:`bellbench.open_bench` returns it.
        prefix: Put before each QCoDeS name, so that two benches do not collide.
    """
    result = Station()
    for name, driver in lab.instruments.items():
        result.add_component(BellbenchInstrument(driver, prefix + name), prefix + name)
    return result
