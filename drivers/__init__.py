"""How real instruments are spoken to: one module per device, loaded when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..instruments import ConfigError

__all__ = ["DRIVERS", "ENTRY_POINTS", "driver_keys", "load_driver"]

#: Driver key of a bench file -> module and class, relative to this package.
DRIVERS: dict[str, str] = {
    "agiltron.switch": ".agiltron.switch:AgiltronSwitch",
    "id_quantique.id900": ".id_quantique.id900:IDQuantiqueID900",
    "oz_optics.dd100mc": ".oz_optics.dd100mc:OzOpticsDD100MC",
    "oz_optics.epc04": ".oz_optics.epc04:OzOpticsEPC04",
    "quantum_memory": ".quantum_memory:EnsembleMemory",
    "s_fifteen.lcr": ".s_fifteen.lcr:SFifteenLCR",
    "s_fifteen.tdc1": ".s_fifteen.tdc1:SFifteenTDC1",
    "single_quantum.websq": ".single_quantum.websq:SingleQuantumWebSQ",
    "spdc_source": ".spdc_source:SPDCSource",
    "stanford.dg645": ".stanford.dg645:StanfordDG645",
    "swabian.pulse_streamer": ".swabian.pulse_streamer:SwabianPulseStreamer82",
    "thorlabs.cld1015": ".thorlabs.cld1015:ThorlabsCLD1015",
    "thorlabs.mpc320": ".thorlabs.mpc320:ThorlabsMPC320",
    "thorlabs.pm100d": ".thorlabs.pm100d:ThorlabsPM100D",
    "thorlabs.tc200": ".thorlabs.tc200:ThorlabsTC200",
    "weak_coherent_source": ".weak_coherent_source:WeakCoherentSource",
}

#: Entry-point group under which other packages offer drivers (key = driver key).
ENTRY_POINTS = "bellbench.drivers"


def driver_keys() -> list[str]:
    """Every driver key that :func:`load_driver` takes, sorted."""
    return sorted({*DRIVERS, *_foreign()})


def load_driver(key: str) -> type[Any]:
    """Import the driver class of ``key``.

    The class takes ``(name, address, settings, clock)``; a composite, which has ``PARTS``,
    takes ``(name, parts, settings, clock)``.

    Raises:
        ConfigError: for an unknown key, with the nearest valid one, or for a driver of another
            package that cannot be imported.
    """
    if key in DRIVERS:
        module, _, name = DRIVERS[key].partition(":")
        found: type[Any] = getattr(importlib.import_module(module, __package__), name)
        return found
    foreign = _foreign()
    if key in foreign:
        try:
            found = foreign[key].load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"driver '{key}' ({foreign[key].value}) fails: {error}") from error
        return found
    keys = driver_keys()
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.4)
    nearest = f"; did you mean '{near[0]}'?" if near else ""
    raise ConfigError(f"no driver '{key}'{nearest} (known: {', '.join(keys)})")


def _foreign() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}
