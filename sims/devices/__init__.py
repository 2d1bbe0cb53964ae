"""Emulators: one per driver, each on its own device's wire."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from ...instruments import ConfigError

__all__ = ["EMULATORS", "load_emulator"]

#: Driver key -> ``module:Class``, the module relative to this package.
EMULATORS: dict[str, str] = {
    "agiltron.switch": "agiltron_switch:AgiltronSwitchEmulator",
    "id_quantique.id900": "id900:ID900Emulator",
    "oz_optics.dd100mc": "dd100mc:DD100MCEmulator",
    "oz_optics.epc04": "epc04:EPC04Emulator",
    "s_fifteen.lcr": "lcr:LCREmulator",
    "s_fifteen.tdc1": "tdc1:TDC1Emulator",
    "single_quantum.websq": "websq:WebSQEmulator",
    "stanford.dg645": "dg645:DG645Emulator",
    "swabian.pulse_streamer": "pulse_streamer:PulseStreamerEmulator",
    "thorlabs.cld1015": "cld1015:CLD1015Emulator",
    "thorlabs.mpc320": "mpc320:MPC320Emulator",
    "thorlabs.pm100d": "pm100d:PM100DEmulator",
    "thorlabs.tc200": "tc200:TC200Emulator",
}


def load_emulator(key: str) -> type[Any]:
    """Return the emulator class for a driver key; nothing is imported before it is asked for.

    The class is an :class:`~.base.Emulator` with the attributes ``ELEMENT`` (the element class it
    attaches to), ``MODEL`` and ``Settings``, built as ``cls(setting, element, cls.Settings(...))``.

    Raises:
        ConfigError: for a driver that has no twin, naming the nearest that has.
    """
    if key not in EMULATORS:
        near = difflib.get_close_matches(key, EMULATORS, n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"no twin for driver {key!r}{meant} (twins: {', '.join(EMULATORS)})")
    module, name = EMULATORS[key].split(":")
    found: type[Any] = getattr(importlib.import_module(f".{module}", __name__), name)
    return found
